//! One accepted TCP connection: its id, and what it holds of the gateway's limits for as long as it lives.
//!
//! The connection outlives the HTTP part: after an upgrade the same value carries the session. What the HTTP part needs
//! beside it is left behind then.

use std::{
    fmt,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::OwnedSemaphorePermit,
};
use tokio_rustls::server::TlsStream;

use super::{address::Place, stream::StreamWatch};
use crate::{metrics::GaugeGuard, types::SessionId};

/// Names a connection in the log and, if it becomes one, as a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionId(pub SessionId);

impl fmt::Display for ConnectionId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// What carries a connection's bytes.
#[derive(Debug)]
pub(super) enum Carrier {
    /// TCP alone.
    Plain(TcpStream),
    /// TLS over TCP. Boxed, so that a connection without TLS keeps no room for it.
    Tls(Box<TlsStream<TcpStream>>),
}

/// An accepted connection.
#[derive(Debug)]
pub(super) struct Connection {
    carrier: Carrier,
    _held: Held,
}

/// What a connection holds of the gateway's limits: that it counts in the gauge, its place among all that are allowed, and its place
/// among those of its address unless it is a proxy's.
pub(super) type Held = (GaugeGuard, OwnedSemaphorePermit, Option<Place>);

impl Connection {
    /// A connection, and what it holds for as long as it lives.
    pub(super) const fn new(carrier: Carrier, held: Held) -> Self {
        Self { carrier, _held: held }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.carrier {
            Carrier::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Carrier::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

/// What is written in one go becomes one record of TLS, as long as it fits into one: the WebSocket and the HTTP server
/// collect what they have before they write.
impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.carrier {
            Carrier::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Carrier::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.carrier {
            Carrier::Plain(stream) => Pin::new(stream).poll_flush(context),
            Carrier::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.carrier {
            Carrier::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            // It tells the peer by TLS, too, that nothing follows (`close_notify`).
            Carrier::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.carrier {
            Carrier::Plain(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Carrier::Tls(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.carrier {
            Carrier::Plain(stream) => stream.is_write_vectored(),
            Carrier::Tls(stream) => stream.is_write_vectored(),
        }
    }
}

/// A connection as the HTTP server uses it: whoever streams an answer learns when it was written.
#[derive(Debug)]
pub(super) struct ServedConnection {
    connection: Connection,
    watch: StreamWatch,
}

impl ServedConnection {
    /// A connection, and who is told when it was flushed and when it is no more.
    pub(super) const fn new(connection: Connection, watch: StreamWatch) -> Self {
        Self { connection, watch }
    }

    /// The connection alone, after an upgrade.
    pub(super) fn into_connection(self) -> Connection {
        self.connection
    }

    fn connection(self: Pin<&mut Self>) -> Pin<&mut Connection> {
        Pin::new(&mut self.get_mut().connection)
    }
}

impl AsyncRead for ServedConnection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.connection().poll_read(context, buffer)
    }
}

impl AsyncWrite for ServedConnection {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.connection().poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().connection().poll_flush(context))?;
        self.watch.note_flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.connection().poll_shutdown(context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.connection().poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.connection.is_write_vectored()
    }
}
