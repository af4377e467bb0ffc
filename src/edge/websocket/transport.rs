//! A WebSocket as the transport of a session.

use std::{
    fmt,
    future::poll_fn,
    io::{self, Read, Write},
    pin::Pin,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use futures::{FutureExt, Sink, Stream};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_tungstenite::tungstenite::{
    Error as SocketError, Message, Utf8Bytes,
    error::ProtocolError,
    protocol::{CloseFrame, Role, WebSocketConfig, WebSocketContext},
};

use super::{
    super::connection::{Connection, ServedConnection},
    Dialect,
    frames::FrameQueue,
    readiness::Readiness,
};
use crate::{
    log_context::LogContext,
    protocol::close::CloseCode,
    session::{End, Farewell, Inbound, Transport, TransportGone},
};

/// Each connection keeps a buffer of this many bytes for reading, allocated at once; tungstenite's own default is
/// 128 KiB. A client's frames are short, and a longer one makes the buffer grow for as long as it takes.
const READ_BUFFER_BYTES: usize = 1024;

/// Answers to pings, and to a close frame, that wait for a peer that does not read. Of further pings only the last is answered then (RFC 6455,
/// section 5.5.3).
const ANSWERS_BYTES_MAX: usize = 4 * 1024;

/// A session's frames are collected up to this many bytes before they are written to the socket; a common message fits many times.
const FRAMES_BYTES: usize = 16 * 1024;

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

/// A WebSocket that carries a session.
///
/// Two write to its stream: the queue of the session's frames, and tungstenite, which answers pings and close frames. At any moment at most one
/// of them is in the middle of a frame: tungstenite writes when the queue is empty, and the queue is filled when tungstenite has written all.
pub(in super::super) struct Socket<S, F: 'static> {
    stream: S,
    websocket: WebSocketContext,
    frames: FrameQueue,
    readiness: Readiness,
    /// Whether tungstenite may have an answer that is not written.
    has_answer: bool,
    /// Nothing is read any more: it came to its end, or what came is no WebSocket's.
    is_ended: bool,
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
    pub(in super::super) async fn take_over(
        upgrade: OnUpgrade,
        log: &LogContext,
        dialect: &'static Dialect<F>,
    ) -> Option<Self> {
        let Ok(Ok(upgraded)) = tokio::time::timeout(UPGRADE_DEADLINE, upgrade).await else {
            log.debug("the client left before the upgrade");
            return None;
        };
        let taken = Self::take(upgraded, dialect);
        if taken.is_none() {
            log.within(|| tracing::error!("the upgraded connection is not one of the acceptor's"));
        }
        taken
    }

    fn take(upgraded: Upgraded, dialect: &'static Dialect<F>) -> Option<Self> {
        let parts = upgraded.downcast::<TokioIo<ServedConnection>>().ok()?;
        let stream = parts.io.into_inner().into_connection();
        Some(Self::new(stream, parts.read_buf.to_vec(), dialect))
    }
}

impl<S, F> Socket<S, F> {
    /// A socket whose handshake has been made, and what was read behind it.
    pub(in super::super) fn new(stream: S, read_ahead: Vec<u8>, dialect: &'static Dialect<F>) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(0)
            .max_write_buffer_size(ANSWERS_BYTES_MAX)
            .max_message_size(Some(dialect.client_frame_bytes_max))
            .max_frame_size(Some(dialect.client_frame_bytes_max));
        Self {
            stream,
            websocket: WebSocketContext::from_partially_read(read_ahead, Role::Server, Some(config)),
            frames: FrameQueue::default(),
            readiness: Readiness::new(),
            has_answer: false,
            is_ended: false,
            dialect,
        }
    }
}

/// The stream as tungstenite uses it: what would have to wait is an error (`WouldBlock`), after which a waker is woken.
struct Polled<'a, S> {
    stream: &'a mut S,
    frames: &'a mut FrameQueue,
    reading: &'a Waker,
    writing: &'a Waker,
}

fn or_would_block<T>(polled: Poll<io::Result<T>>) -> io::Result<T> {
    match polled {
        Poll::Ready(result) => result,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

impl<S: AsyncRead + Unpin> Read for Polled<'_, S> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let mut buffer = ReadBuf::new(bytes);
        let polled =
            Pin::new(&mut *self.stream).poll_read(&mut Context::from_waker(self.reading), &mut buffer);
        or_would_block(polled).map(|()| buffer.filled().len())
    }
}

impl<S: AsyncWrite + Unpin> Write for Polled<'_, S> {
    /// Behind the session's frames, one of which may be in the stream in part.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let context = &mut Context::from_waker(self.writing);
        or_would_block(self.frames.poll_write(self.stream, context))?;
        or_would_block(Pin::new(&mut *self.stream).poll_write(context, bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        let context = &mut Context::from_waker(self.writing);
        or_would_block(self.frames.poll_write(self.stream, context))?;
        or_would_block(Pin::new(&mut *self.stream).poll_flush(context))
    }
}

/// What tungstenite answers, as a poll.
fn poll_of<T>(result: Result<T, SocketError>) -> Poll<Result<T, SocketError>> {
    match result {
        Err(SocketError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
        result => Poll::Ready(result),
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin, F> Socket<S, F> {
    /// What the peer says, pings and its close frame among it, which are answered as this is polled. `None` at the end.
    fn poll_message(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Message, SocketError>>> {
        if self.is_ended {
            return Poll::Ready(None);
        }
        if self.has_answer {
            // The answer is written before anything is read, and reading goes on if it cannot be written.
            self.readiness.look_again();
        }
        let Self {
            stream,
            websocket,
            frames,
            readiness,
            ..
        } = self;
        let writing = context.waker();
        let read = ready!(readiness.poll(context, |reading| {
            poll_of(websocket.read(&mut Polled {
                stream,
                frames,
                reading: reading.waker(),
                writing,
            }))
        }));
        self.has_answer |= matches!(read, Ok(Message::Ping(_) | Message::Close(_)));
        self.is_ended = read.is_err();
        Poll::Ready(match read {
            Err(SocketError::ConnectionClosed | SocketError::AlreadyClosed) => None,
            read => Some(read),
        })
    }

    /// Writes what tungstenite answers, if there is anything.
    fn poll_answer(&mut self, context: &mut Context<'_>) -> Poll<Result<(), SocketError>> {
        if self.has_answer {
            let (websocket, mut polled) = self.writing(context);
            ready!(poll_of(websocket.flush(&mut polled)))?;
            self.has_answer = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes a close frame behind everything else. After the first time it only goes on with it.
    fn poll_say_close(
        &mut self,
        frame: &CloseFrame,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), SocketError>> {
        let (websocket, mut polled) = self.writing(context);
        poll_of(websocket.close(&mut polled, Some(frame.clone())))
    }

    fn writing<'a>(&'a mut self, context: &'a Context<'_>) -> (&'a mut WebSocketContext, Polled<'a, S>) {
        let polled = Polled {
            stream: &mut self.stream,
            frames: &mut self.frames,
            // It does not read.
            reading: context.waker(),
            writing: context.waker(),
        };
        (&mut self.websocket, polled)
    }

    async fn next_message(&mut self) -> Option<Result<Message, SocketError>> {
        poll_fn(|context| self.poll_message(context)).await
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin, F> Stream for Socket<S, F> {
    type Item = Inbound;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Inbound>> {
        loop {
            return Poll::Ready(match ready!(self.poll_message(context)) {
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
        ready!(self.poll_answer(context)).map_err(|_| TransportGone)?;
        let Self { stream, frames, .. } = &mut *self;
        if frames.bytes() >= FRAMES_BYTES {
            ready!(frames.poll_write(stream, context)).map_err(|_| TransportGone)?;
        }
        Poll::Ready(Ok(()))
    }

    fn start_send(mut self: Pin<&mut Self>, frame: F) -> Result<(), TransportGone> {
        let encoded = (self.dialect.encode)(frame);
        self.frames.push(encoded).map_err(|_| TransportGone)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), TransportGone>> {
        ready!(self.poll_answer(context)).map_err(|_| TransportGone)?;
        let Self { stream, frames, .. } = &mut *self;
        ready!(frames.poll_write(stream, context)).map_err(|_| TransportGone)?;
        Pin::new(stream).poll_flush(context).map_err(|_| TransportGone)
    }

    fn poll_close(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), TransportGone>> {
        self.poll_flush(context)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin, F> Socket<S, F> {
    /// Reads until the peer confirms the close, and answers whether it did. A peer that says something else first is read at a pace.
    async fn farewell(&mut self) -> Farewell {
        let mut said = Some(self.next_message().await);
        loop {
            for _ in 0..FRAMES_PER_PACE {
                match said {
                    Some(Some(Ok(Message::Close(_)))) => return Farewell::Confirmed,
                    Some(Some(Err(_)) | None) => return Farewell::Unknown,
                    Some(Some(Ok(_))) => said = self.next_message().now_or_never(),
                    None => break,
                }
            }
            tokio::time::sleep(LINGER_PACE).await;
            said = self.next_message().now_or_never();
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
        let said = poll_fn(|context| self.poll_say_close(&frame, context));
        if said.await.is_err() {
            return Farewell::Unknown;
        }
        // What the peer still sends is read and thrown away, because a socket that is closed with unread bytes resets the
        // connection, and the close frame would be lost. It is read as frames up to the peer's own close frame, which says
        // that it has everything, and as bytes after it. Ending our side tells the peer that nothing follows.
        let mut farewell = Farewell::Unknown;
        let drained = async {
            farewell = self.farewell().await;
            let stream = &mut self.stream;
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
            io::Result::Ok(())
        };
        let _lingered = tokio::time::timeout(LINGER, drained).await;
        farewell
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::{super::Encoded, *};

    static TEXTS: Dialect<()> = Dialect {
        name: "texts",
        client_frame_bytes_max: 1024,
        encode: |()| Encoded::Message(Message::text("nothing")),
    };

    #[tokio::test(start_paused = true)]
    async fn whoever_was_too_much_waits_for_its_close_frame_and_is_not_read_as_fast_as_it_goes_on() {
        const MANY: u32 = 100_000;
        let (near, far) = tokio::io::duplex(4096);
        // A peer that obeys nothing, and would not answer a close frame.
        let (mut reader, mut writer) = tokio::io::split(far);
        let mut socket = Socket::new(near, Vec::new(), &TEXTS);
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
