//! WebSockets, whatever is said on them: tungstenite reads, and answers pings and close frames; what a session says is written past it.
//!
//! After the upgrade the plain connection is taken back out of the HTTP server, so that an idle session costs a socket, a small buffer and its
//! task.

mod frames;
mod handshake;
mod readiness;
mod transport;

use bytes::Bytes;
use tokio_tungstenite::tungstenite::Message;

pub(super) use self::{
    handshake::{handshake, upgrade},
    transport::Socket,
};

/// What is said on a socket.
#[derive(Debug)]
pub(super) struct Dialect<F> {
    /// Its name in metrics.
    pub(super) name: &'static str,
    /// The largest frame that a client may send, in bytes.
    pub(super) client_frame_bytes_max: usize,
    /// How a frame is written.
    pub(super) encode: fn(F) -> Encoded,
}

/// A frame for a client, as it is written.
#[derive(Debug)]
pub(super) enum Encoded {
    /// A message that is made for this client.
    Message(Message),
    /// A whole frame with its header, which others are sent, too.
    Frame(Bytes),
}
