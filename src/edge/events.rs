//! `GET /v1/events`: the session as Server-Sent Events (WHATWG HTML, "Server-sent events"), where WebSockets do not pass.
//!
//! The answer's body is the session's transport. A client of it says nothing after its request: that it still takes
//! heartbeats is its sign of life. Since there are no close codes, the last event says why the gateway ends the session.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::{Sink, Stream};

use super::{
    Edge, Problem, address, door,
    stream::{StreamHandle, StreamWriter},
};
use crate::{
    protocol::{
        event_stream::{self, HEARTBEAT, Name, RETRY},
        server_frame::{EventsFrame, EventsFrameBuilder},
    },
    session::{End, Farewell, Inbound, Opening, Outbound, Transport, TransportGone},
};

/// What a browser brings when it connects again: the last `id` it saw, which is a cursor.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Tells nginx, and others that follow it, to hold nothing of the answer back.
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Checks what is checked at every door, and starts the session whose frames are the answer.
pub(super) async fn open(State(edge): State<Edge>, request: Request) -> Result<Response, Problem> {
    let (parts, _) = request.into_parts();
    let identity = door::identify(&edge, &parts.headers, parts.uri.query()).await?;
    door::check_open(&edge)?;
    let cursor = last_event_id(&parts.headers).or(door::cursor_parameter(&parts.uri)?);
    if parts.method == Method::HEAD {
        // Whether it would be let in, and nothing more: there is no body that could carry a session.
        return Ok((headers(), Body::empty()).into_response());
    }
    let Some((writer, body)) = parts.extensions.get().and_then(StreamHandle::begin) else {
        return Err(door::foreign_connection());
    };
    let opening = Opening {
        log: door::log_context(&parts.extensions)?,
        identity,
        cursor: cursor.map(|text| text.parse()),
    };
    let (sessions, place) = (edge.sessions, address::place(&parts.extensions));
    let session = async move {
        let _place = place;
        sessions.run(opening, EventStream::new(writer)).await;
    };
    edge.tasks.spawn("session", session);
    Ok((headers(), Body::new(body)).into_response())
}

/// The header, if it holds anything: browsers bring an empty one, or none, before the first `id`.
fn last_event_id(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(LAST_EVENT_ID)?.as_bytes();
    // What is no text is no cursor either, and is told so in the first frame.
    (!value.is_empty()).then(|| String::from_utf8_lossy(value).into_owned())
}

/// Nothing between here and the client may keep, change or hold back anything. The connection ends with the session.
fn headers() -> [(HeaderName, HeaderValue); 4] {
    [
        (header::CONTENT_TYPE, event_stream::CONTENT_TYPE),
        (header::CACHE_CONTROL, "no-store, no-transform"),
        (ACCEL_BUFFERING, "no"),
        (header::CONNECTION, "close"),
    ]
    .map(|(name, value)| (name, HeaderValue::from_static(value)))
}

/// A session's transport that writes Server-Sent Events.
#[derive(Debug)]
struct EventStream {
    writer: StreamWriter,
    heartbeat: Heartbeat,
}

/// What became of the last heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heartbeat {
    /// The session has been told of it.
    Heard,
    /// It was handed over.
    UnderWay,
    /// The client's side of the connection has taken it, and the session has yet to be told.
    Taken,
}

impl EventStream {
    const fn new(writer: StreamWriter) -> Self {
        Self {
            writer,
            heartbeat: Heartbeat::Heard,
        }
    }
}

impl Stream for EventStream {
    type Item = Inbound;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Inbound>> {
        if self.writer.poll_gone(context).is_ready() {
            return Poll::Ready(None);
        }
        if self.heartbeat == Heartbeat::Taken {
            self.heartbeat = Heartbeat::Heard;
            return Poll::Ready(Some(Inbound::Alive));
        }
        Poll::Pending
    }
}

impl Sink<Outbound> for EventStream {
    type Error = TransportGone;

    fn poll_ready(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), TransportGone>> {
        self.writer.poll_ready(context).map_err(|_| TransportGone)
    }

    fn start_send(mut self: Pin<&mut Self>, outbound: Outbound) -> Result<(), TransportGone> {
        if matches!(outbound, Outbound::Heartbeat) {
            self.heartbeat = Heartbeat::UnderWay;
        }
        let chunk = encode(outbound);
        self.writer.send(chunk).map_err(|_| TransportGone)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), TransportGone>> {
        ready!(self.writer.poll_flush(context)).map_err(|_| TransportGone)?;
        if self.heartbeat == Heartbeat::UnderWay {
            self.heartbeat = Heartbeat::Taken;
            // The session has looked for signs of life before it flushed.
            context.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), TransportGone>> {
        self.poll_flush(context)
    }
}

fn encode(outbound: Outbound) -> Bytes {
    match outbound {
        Outbound::Ready(ready) => {
            let cursor = ready.cursor.to_string();
            event_stream::encode(Name::Ready, Some(&cursor), Some(RETRY), &ready.encode())
        }
        Outbound::Replayed(frame) => encode_events(&frame),
        Outbound::Live(delivery) => encode_events(&delivery.frame),
        Outbound::Standing(cursor) => {
            encode_events(&EventsFrameBuilder::new().finish(Some(&cursor.to_string())))
        }
        // Answers to what a client sends do not arise, since nothing is heard of it but that it is alive.
        Outbound::Heartbeat
        | Outbound::Authenticated { .. }
        | Outbound::Pong { .. }
        | Outbound::Error { .. } => HEARTBEAT,
    }
}

fn encode_events(frame: &EventsFrame) -> Bytes {
    event_stream::encode(Name::Events, frame.cursor(), None, &frame.text())
}

impl Transport for EventStream {
    type Frame = Outbound;

    fn protocol(&self) -> &'static str {
        "sse"
    }

    async fn finish(&mut self, end: End) -> Farewell {
        if let End::Closed(code) = end {
            let last = event_stream::encode_close(code, &mut rand::rng());
            if self.writer.send(last).is_ok() {
                self.writer.finish().await;
            }
        }
        Farewell::Unknown
    }
}
