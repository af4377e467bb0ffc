//! WebSockets on top of tokio-tungstenite, whatever is said on them.
//!
//! The handshake's answer is made here and not by tungstenite, because the request has been read by the HTTP server
//! already. After the upgrade the plain connection is taken back out of it, so that an idle session costs a socket,
//! a small buffer and its task, and nothing of the HTTP server.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures::{FutureExt, Sink, SinkExt, Stream, StreamExt};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error as SocketError, Message, Utf8Bytes,
        error::ProtocolError,
        handshake::derive_accept_key,
        protocol::{CloseFrame, Role, WebSocketConfig},
    },
};

use super::{
    Problem,
    connection::{Connection, ServedConnection},
};
use crate::{
    protocol::close::CloseCode,
    session::{End, Farewell, Inbound, Transport, TransportGone},
};

/// Each connection keeps a buffer of this many bytes for reading, allocated at once; tungstenite's own default is
/// 128 KiB. A client's frames are short, and a longer one makes the buffer grow for as long as it takes.
const READ_BUFFER_BYTES: usize = 1024;

/// Frames are collected up to this many bytes before they are written to the socket. The buffer grows when it is
/// used; a common message fits many times.
const WRITE_BUFFER_BYTES: usize = 16 * 1024;

/// How long the HTTP server may take to hand the connection over.
const UPGRADE_DEADLINE: Duration = Duration::from_secs(10);

/// How long a peer may take to end its side after it was sent a close frame.
const LINGER: Duration = Duration::from_secs(3);

/// How long a peer that was too much waits for its close frame, unread: what it still sends comes to a halt, and it does not come back at
/// once.
const FLOOD_HOLD: Duration = Duration::from_secs(3);

/// How often is read what a peer still sends after it was sent a close frame. One that was thrown out for its floods must not be read as fast as
/// it sends: what it sends meanwhile fills the kernel's buffers, and then it waits.
const LINGER_PACE: Duration = Duration::from_millis(50);

/// Frames that are read at once of those.
const FRAMES_PER_PACE: usize = 16;

/// How much is read at once of what a peer still sends when nothing of it is a frame any more: little of most, and more of one that is in the
/// middle of something long, which must come to its end before it sees the close frame.
const SCRAP_BYTES: [usize; 2] = [1024, 16 * 1024];

/// How often such scraps are read. Four mebibytes, the longest that a well-meant client may have begun, take a second and a half.
const SCRAP_PACE: Duration = Duration::from_millis(5);

/// The answer that switches protocols (RFC 6455 §4.2.2), if the request asks for it properly.
///
/// # Errors
/// `426` or `400`.
pub(super) fn handshake(headers: &HeaderMap) -> Result<Response, Problem> {
    let has = |name: header::HeaderName, token: &str| {
        headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .any(|value| {
                value
                    .split(',')
                    .any(|part| part.trim().eq_ignore_ascii_case(token))
            })
    };
    let upgrades = has(header::CONNECTION, "upgrade") && has(header::UPGRADE, "websocket");
    if !upgrades || !has(header::SEC_WEBSOCKET_VERSION, "13") {
        return Err(Problem::upgrade_required());
    }
    let key = headers
        .get(header::SEC_WEBSOCKET_KEY)
        .ok_or(Problem::bad_handshake())?;
    let accept =
        HeaderValue::from_str(&derive_accept_key(key.as_bytes())).map_err(|_| Problem::bad_handshake())?;
    let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
    let answer = response.headers_mut();
    answer.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    answer.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    Ok(response)
}

/// Takes the connection's upgrade out of a request.
///
/// # Errors
/// `426` if the connection cannot be upgraded.
pub(super) fn upgrade(request: &mut Request) -> Result<OnUpgrade, Problem> {
    request
        .extensions_mut()
        .remove::<OnUpgrade>()
        .ok_or(Problem::upgrade_required())
}

/// What is said on a socket.
#[derive(Debug)]
pub(super) struct Dialect<F> {
    /// Its name in metrics.
    pub(super) name: &'static str,
    /// The largest frame that a client may send, in bytes.
    pub(super) client_frame_bytes_max: usize,
    /// How a frame is written.
    pub(super) encode: fn(F) -> Message,
}

/// A WebSocket that carries a session.
pub(super) struct Socket<S, F: 'static> {
    socket: WebSocketStream<S>,
    dialect: &'static Dialect<F>,
}

impl<S, F> fmt::Debug for Socket<S, F> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Socket({})", self.dialect.name)
    }
}

impl<F> Socket<Connection, F> {
    /// Waits for the HTTP server to let the connection go, and takes it, and whatever was read ahead, out of it. `None` if the
    /// client has left meanwhile.
    ///
    /// # Cancel safety
    /// Safe: the connection is closed.
    pub(super) async fn take_over(upgrade: OnUpgrade, dialect: &'static Dialect<F>) -> Option<Self> {
        let Ok(Ok(upgraded)) = tokio::time::timeout(UPGRADE_DEADLINE, upgrade).await else {
            tracing::debug!("the client left before the upgrade");
            return None;
        };
        let taken = Self::take(upgraded, dialect).await;
        if taken.is_none() {
            tracing::error!("the upgraded connection is not one of the acceptor's");
        }
        taken
    }

    async fn take(upgraded: Upgraded, dialect: &'static Dialect<F>) -> Option<Self> {
        let parts = upgraded.downcast::<TokioIo<ServedConnection>>().ok()?;
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(WRITE_BUFFER_BYTES)
            .max_message_size(Some(dialect.client_frame_bytes_max))
            .max_frame_size(Some(dialect.client_frame_bytes_max));
        let stream = parts.io.into_inner().into_connection();
        let read = parts.read_buf.to_vec();
        let socket = WebSocketStream::from_partially_read(stream, read, Role::Server, Some(config)).await;
        Some(Self { socket, dialect })
    }
}

impl<S, F> Socket<S, F> {
    /// A socket whose handshake has been made.
    #[cfg(test)]
    pub(super) const fn new(socket: WebSocketStream<S>, dialect: &'static Dialect<F>) -> Self {
        Self { socket, dialect }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin, F> Stream for Socket<S, F> {
    type Item = Inbound;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Inbound>> {
        loop {
            return Poll::Ready(match ready!(self.socket.poll_next_unpin(context)) {
                Some(Ok(Message::Text(text))) => Some(Inbound::Text(text)),
                Some(Ok(Message::Binary(bytes))) => Some(Inbound::Binary(bytes)),
                Some(Ok(Message::Ping(_))) => Some(Inbound::Alive),
                Some(Ok(Message::Pong(bytes))) => Some(Inbound::Pong(bytes)),
                // The answer to a close is queued by now; the next poll writes it and ends the stream.
                Some(Ok(Message::Close(_) | Message::Frame(_))) => continue,
                Some(Err(SocketError::Capacity(_))) => Some(Inbound::Unreadable(CloseCode::MessageTooBig)),
                // A peer that goes without a word is everyday life and no mistake of its protocol.
                Some(Err(SocketError::Protocol(ProtocolError::ResetWithoutClosingHandshake))) => None,
                Some(Err(SocketError::Protocol(_))) => Some(Inbound::Unreadable(CloseCode::InvalidFrame)),
                Some(Err(SocketError::Utf8(_))) => Some(Inbound::Unreadable(CloseCode::InvalidText)),
                Some(Err(_)) | None => None,
            });
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin, F> Sink<F> for Socket<S, F> {
    type Error = TransportGone;

    fn poll_ready(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), TransportGone>> {
        self.socket.poll_ready_unpin(context).map_err(|_| TransportGone)
    }

    fn start_send(mut self: Pin<&mut Self>, frame: F) -> Result<(), TransportGone> {
        let message = (self.dialect.encode)(frame);
        self.socket.start_send_unpin(message).map_err(|_| TransportGone)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), TransportGone>> {
        self.socket.poll_flush_unpin(context).map_err(|_| TransportGone)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), TransportGone>> {
        self.socket.poll_close_unpin(context).map_err(|_| TransportGone)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin, F> Socket<S, F> {
    /// Reads until the peer confirms the close, and answers whether it did. A peer that says something else first is read at a pace.
    async fn farewell(&mut self) -> Farewell {
        let mut said = Some(self.socket.next().await);
        loop {
            for _ in 0..FRAMES_PER_PACE {
                match said {
                    Some(Some(Ok(Message::Close(_)))) => return Farewell::Confirmed,
                    Some(Some(Err(_)) | None) => return Farewell::Unknown,
                    Some(Some(Ok(_))) => said = self.socket.next().now_or_never(),
                    None => break,
                }
            }
            tokio::time::sleep(LINGER_PACE).await;
            said = self.socket.next().now_or_never();
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send, F> Transport for Socket<S, F> {
    type Frame = F;

    fn protocol(&self) -> &'static str {
        self.dialect.name
    }

    async fn finish(&mut self, end: End) -> Farewell {
        let End::Closed(code) = end else {
            return Farewell::Unknown;
        };
        if code == CloseCode::TooManyFrames {
            tokio::time::sleep(FLOOD_HOLD).await;
        }
        let frame = CloseFrame {
            code: code.number().into(),
            reason: Utf8Bytes::from_static(code.reason()),
        };
        if self.socket.send(Message::Close(Some(frame))).await.is_err() {
            return Farewell::Unknown;
        }
        // What the peer still sends is read and thrown away, because a socket that is closed with unread bytes resets the
        // connection, and the close frame would be lost. It is read as frames up to the peer's own close frame, which says
        // that it has everything, and as bytes after it. Ending our side tells the peer that nothing follows.
        let mut farewell = Farewell::Unknown;
        let drained = async {
            farewell = self.farewell().await;
            let stream = self.socket.get_mut();
            stream.shutdown().await?;
            // Not in the future itself, where every session would keep room for it as long as it lives.
            let [little, more] = SCRAP_BYTES;
            let mut scrap = vec![0; little];
            loop {
                match stream.read(&mut scrap).await? {
                    0 => break,
                    read if read == scrap.len() => scrap.resize(more, 0),
                    _ => {}
                }
                tokio::time::sleep(SCRAP_PACE).await;
            }
            std::io::Result::Ok(())
        };
        let _lingered = tokio::time::timeout(LINGER, drained).await;
        farewell
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    static TEXTS: Dialect<()> = Dialect {
        name: "texts",
        client_frame_bytes_max: 1024,
        encode: |()| Message::text("nothing"),
    };

    #[tokio::test(start_paused = true)]
    async fn whoever_was_too_much_waits_for_its_close_frame_and_is_not_read_as_fast_as_it_goes_on() {
        const MANY: u32 = 100_000;
        let (near, far) = tokio::io::duplex(4096);
        let near = WebSocketStream::from_raw_socket(near, Role::Server, None).await;
        // A peer that obeys nothing, and would not answer a close frame.
        let (mut reader, mut writer) = tokio::io::split(far);
        let mut socket = Socket::new(near, &TEXTS);
        let began = Instant::now();
        let mut sent = 0;
        let flood = async {
            // A text frame, masked with zeros (RFC 6455, section 5.2).
            while sent < MANY && writer.write_all(b"\x81\x84\0\0\0\0more").await.is_ok() {
                sent += 1;
            }
        };
        let told = async {
            let mut head = [0; 4];
            reader.read_exact(&mut head).await.unwrap();
            assert_eq!(head[0], 0x88, "a close frame");
            assert_eq!(head[2..], CloseCode::TooManyFrames.number().to_be_bytes());
            began.elapsed()
        };
        let finishing = async {
            let farewell = socket.finish(End::Closed(CloseCode::TooManyFrames)).await;
            drop(socket);
            farewell
        };
        let ((), told, farewell) = tokio::join!(flood, told, finishing);
        assert_eq!(told, FLOOD_HOLD);
        assert_eq!(farewell, Farewell::Unknown);
        assert_eq!(began.elapsed(), FLOOD_HOLD + LINGER);
        // What found room in the buffers, and what was read at the pace.
        assert!(sent < 3_000, "{sent}");
    }
}
