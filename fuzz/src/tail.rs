//! How a client of the native protocol reads what the gateway sends: the pure files of `src/tail`, with a way in for the fuzz targets.

use uuid::Uuid;

#[allow(dead_code, reason = "the client uses what the fuzz targets do not")]
#[path = "../../src/tail/event_stream.rs"]
mod event_stream;
#[path = "../../src/tail/frame.rs"]
mod frame;

pub use self::frame::{Event, EventKey, FrameError};
use self::{event_stream::EventStreamParser, frame::ServerFrame};

/// A frame as a client understands it.
#[derive(Debug)]
pub enum Frame {
    /// The first one: user, session, cursor, what became of the cursor that was brought and why, and the heartbeat in seconds.
    Ready(Uuid, Uuid, String, Option<bool>, Option<String>, u64),
    /// The cursor, if there is one, and the events.
    Events(Option<String>, Vec<Event>),
    /// A token was accepted.
    Auth,
    /// A frame was not understood.
    Error(String),
    /// The code and the reason.
    Close(u16, String),
    /// Something for others.
    Other,
}

/// Reads one frame.
///
/// # Errors
/// It is not of the protocol.
pub fn read_frame(text: &str) -> Result<Frame, FrameError> {
    Ok(match ServerFrame::read(text)? {
        ServerFrame::Ready(ready) => Frame::Ready(
            ready.user,
            ready.session,
            ready.cursor,
            ready.resumed,
            ready.reason,
            ready.heartbeat_s,
        ),
        ServerFrame::Events(events) => Frame::Events(events.cursor, events.events),
        ServerFrame::Auth => Frame::Auth,
        ServerFrame::Error(message) => Frame::Error(message),
        ServerFrame::Close(close) => Frame::Close(close.code, close.reason),
        ServerFrame::Other => Frame::Other,
    })
}

/// Reads one event of a frame.
///
/// # Errors
/// It is not of the protocol.
pub fn read_event(json: &str) -> Result<Event, FrameError> {
    Event::read(json)
}

/// The names and the data of the events in a stream that comes in pieces, up to the first that is longer than allowed, and whether
/// there was none.
pub fn read_stream<'a>(
    pieces: impl IntoIterator<Item = &'a [u8]>,
    bytes_max: usize,
) -> (Vec<(String, String)>, bool) {
    let mut parser = EventStreamParser::new(bytes_max);
    let is_whole = pieces.into_iter().all(|piece| parser.read(piece).is_ok());
    let events = std::iter::from_fn(|| parser.take()).map(|event| (event.name, event.data));
    (events.collect(), is_whole)
}
