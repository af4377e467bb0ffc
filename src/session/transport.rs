//! What a session needs of whatever carries it.

use std::{future::Future, sync::Arc, time::SystemTime};

use bytes::Bytes;
use futures::{Sink, Stream};
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::End;
use crate::{
    hub::Delivery,
    protocol::{
        close::CloseCode,
        cursor::Cursor,
        server_frame::{EventsFrame, Ready},
    },
};

/// What arrives from a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inbound {
    /// A text frame, not yet read.
    Text(Utf8Bytes),
    /// A binary frame, not yet read.
    Binary(Bytes),
    /// A sign of life without content, such as a ping.
    Alive,
    /// The answer to a ping, with what the ping held.
    Pong(Bytes),
    /// What is no frame, or one that is not taken, for the reason that the code gives. Nothing can be read after it.
    Unreadable(CloseCode),
}

impl Inbound {
    /// How many bytes the client has said. What was not taken, and a ping, count for nothing: neither can be large.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Binary(bytes) | Self::Pong(bytes) => bytes.len(),
            Self::Alive | Self::Unreadable(_) => 0,
        }
    }
}

/// What a session wants its client to see. How it is written is the transport's matter.
#[derive(Clone, Debug)]
pub enum Outbound {
    /// The first frame.
    Ready(Box<Ready>),
    /// Events made for this session alone: a replay.
    Replayed(EventsFrame),
    /// Events as all sessions of the user share them.
    Live(Arc<Delivery>),
    /// Nothing happened, and this is how far nothing happened: a frame of no events with a cursor.
    Standing(Cursor),
    /// The new token was accepted.
    Authenticated {
        /// When it ends.
        expires_at: SystemTime,
    },
    /// The answer to a client's ping.
    Pong {
        /// What the client sent along.
        reference: Option<String>,
    },
    /// A frame was not understood; the text says why.
    Error {
        /// For the developer of the client.
        message: String,
    },
    /// A sign of life that asks for one in return.
    Heartbeat,
}

/// The peer is gone. Nothing can be done about it, and it is no error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer is gone")]
pub struct TransportGone;

/// Whether the peer knows that the session has ended, and so has everything that was sent before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Farewell {
    /// It has answered.
    Confirmed,
    /// Nobody knows.
    Unknown,
}

/// Carries one session. The stream ends when the peer has left.
pub trait Transport:
    Stream<Item = Inbound> + Sink<Self::Frame, Error = TransportGone> + Unpin + Send
{
    /// What it carries.
    type Frame;

    /// The protocol's name in metrics.
    fn protocol(&self) -> &'static str;

    /// Tells the peer how the session ended, and waits until it knows or is gone.
    ///
    /// # Cancel safety
    /// Safe: the transport is of no further use either way.
    fn finish(&mut self, end: End) -> impl Future<Output = Farewell> + Send;
}
