//! Frames that wait to be written to a stream.
//!
//! What is told to many is one text that all of their frames share: it goes from there into the socket, and no connection has a copy of it. A
//! server's frames are not masked (RFC 6455, section 5.1), so that their payload is the text itself.

use std::{
    collections::VecDeque,
    io::{self, Cursor, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use tokio_tungstenite::tungstenite::{
    Error as SocketError, Message,
    protocol::frame::{
        Frame,
        coding::{Data, OpCode},
    },
};

/// The longest header of a frame that is not masked, in bytes: two, and eight for a long payload's length (RFC 6455, section 5.2).
const HEADER_BYTES_MAX: usize = 10;

/// Slices that a stream is handed at once, two for each frame. Behind so many another system call does not matter.
const SLICES_MAX: usize = 64;

/// Memory of an emptied queue is given back if there is room for more than this many frames.
const IDLE_CAPACITY: usize = 8;

/// A frame, and how much of it is in the stream.
#[derive(Debug)]
struct Waiting {
    header: [u8; HEADER_BYTES_MAX],
    header_bytes: u8,
    payload: Bytes,
    written: usize,
}

impl Waiting {
    fn new(frame: Frame) -> Result<Self, SocketError> {
        let mut header = Cursor::new([0; HEADER_BYTES_MAX]);
        frame.header().format(frame.payload().len() as u64, &mut header)?;
        Ok(Self {
            header_bytes: u8::try_from(header.position()).unwrap_or(u8::MAX),
            header: header.into_inner(),
            payload: frame.into_payload(),
            written: 0,
        })
    }

    /// What is not yet written of the header and of the payload.
    fn rest(&self) -> [&[u8]; 2] {
        let header = &self.header[..usize::from(self.header_bytes)];
        let payload_written = self.written.saturating_sub(header.len());
        [
            header.get(self.written..).unwrap_or_default(),
            self.payload.get(payload_written..).unwrap_or_default(),
        ]
    }

    fn rest_bytes(&self) -> usize {
        usize::from(self.header_bytes) + self.payload.len() - self.written
    }
}

fn frame(message: Message) -> Frame {
    match message {
        Message::Text(text) => Frame::message(text, OpCode::Data(Data::Text), true),
        Message::Binary(bytes) => Frame::message(bytes, OpCode::Data(Data::Binary), true),
        Message::Ping(bytes) => Frame::ping(bytes),
        Message::Pong(bytes) => Frame::pong(bytes),
        Message::Close(reason) => Frame::close(reason),
        Message::Frame(frame) => frame,
    }
}

/// Frames in the order in which they are written. Whoever fills it looks at [`Self::bytes`], which bounds it.
#[derive(Debug, Default)]
pub(super) struct FrameQueue {
    /// Apart from the others: mostly there is one, which then costs no memory of its own.
    first: Option<Waiting>,
    others: VecDeque<Waiting>,
    bytes: usize,
}

impl FrameQueue {
    /// Appends a message in one frame.
    ///
    /// # Errors
    /// None but for a frame that is masked, which is no server's.
    pub(super) fn push(&mut self, message: Message) -> Result<(), SocketError> {
        let waiting = Waiting::new(frame(message))?;
        self.bytes += waiting.rest_bytes();
        if self.first.is_none() {
            self.first = Some(waiting);
        } else {
            self.others.push_back(waiting);
        }
        Ok(())
    }

    /// Bytes that are not in the stream yet.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Writes until nothing is left.
    ///
    /// # Errors
    /// Those of the stream.
    ///
    /// # Cancel safety
    /// Safe: how far it came is remembered.
    pub(super) fn poll_write<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while let Some(first) = &self.first {
            let stream = Pin::new(&mut *stream);
            let written = if self.others.is_empty() {
                let slices = first.rest().map(IoSlice::new);
                ready!(stream.poll_write_vectored(context, &slices))?
            } else {
                let mut slices = [IoSlice::new(&[]); SLICES_MAX];
                let rests = std::iter::once(first).chain(&self.others).flat_map(Waiting::rest);
                for (slice, rest) in slices.iter_mut().zip(rests) {
                    *slice = IoSlice::new(rest);
                }
                ready!(stream.poll_write_vectored(context, &slices))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut written: usize) {
        self.bytes -= written;
        while let Some(first) = &mut self.first {
            let rest = first.rest_bytes();
            if written < rest {
                first.written += written;
                return;
            }
            written -= rest;
            self.first = self.others.pop_front();
        }
        if self.others.capacity() > IDLE_CAPACITY {
            self.others = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::task::noop_waker;
    use proptest::prelude::*;
    use tokio::io::AsyncReadExt as _;
    use tokio_tungstenite::{
        WebSocketStream,
        tungstenite::protocol::{Role, WebSocket},
    };

    use super::*;

    /// A stream that takes of each call as many bytes as it is told, and whatever it is told is nothing blocks once.
    #[derive(Default)]
    struct Reluctant {
        takes: VecDeque<usize>,
        taken: Vec<u8>,
    }

    impl AsyncWrite for Reluctant {
        fn poll_write(
            self: Pin<&mut Self>,
            context: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.poll_write_vectored(context, &[IoSlice::new(bytes)])
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _context: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let mut room = self.takes.pop_front().unwrap_or(usize::MAX);
            if room == 0 {
                return Poll::Pending;
            }
            let before = self.taken.len();
            for slice in slices {
                let part = &slice[..slice.len().min(room)];
                room -= part.len();
                self.taken.extend_from_slice(part);
            }
            Poll::Ready(Ok(self.taken.len() - before))
        }

        fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// The same, as tungstenite writes it.
    fn expected(messages: &[Message]) -> Vec<u8> {
        let mut websocket = WebSocket::from_raw_socket(io::Cursor::new(Vec::new()), Role::Server, None);
        for message in messages {
            websocket.send(message.clone()).unwrap();
        }
        websocket.get_ref().get_ref().clone()
    }

    proptest! {
        #[test]
        fn a_stream_gets_what_tungstenite_would_write_however_little_it_takes(
            payloads in proptest::collection::vec(
                prop_oneof![8 => "[a-zü]{0,40}", 1 => "a{120,135}", 1 => "b{65530,65540}"], 0..60),
            takes in proptest::collection::vec(prop_oneof![3 => 0usize..4, 2 => 0usize..200, 1 => 0usize..70_000], 0..80),
            flushes in proptest::collection::vec(any::<bool>(), 60),
        ) {
            let messages: Vec<_> = payloads.into_iter().map(Message::text).collect();
            let mut queue = FrameQueue::default();
            let mut stream = Reluctant { takes: takes.into(), ..Reluctant::default() };
            let waker = noop_waker();
            let mut context = Context::from_waker(&waker);
            let mut pushed = 0;
            for (message, flush) in messages.iter().zip(flushes) {
                queue.push(message.clone()).unwrap();
                pushed += expected(std::slice::from_ref(message)).len();
                prop_assert_eq!(queue.bytes(), pushed - stream.taken.len());
                if flush {
                    let _blocked_or_not = queue.poll_write(&mut stream, &mut context);
                }
            }
            while queue.poll_write(&mut stream, &mut context).is_pending() {}
            prop_assert_eq!(queue.bytes(), 0);
            prop_assert_eq!(stream.taken, expected(&messages));
        }
    }

    #[tokio::test]
    async fn a_client_reads_them() {
        let (mut near, far) = tokio::io::duplex(1000);
        let mut queue = FrameQueue::default();
        let payloads = ["", "a", &"b".repeat(126), &"c".repeat(70_000)];
        for payload in payloads {
            queue.push(Message::text(payload)).unwrap();
        }
        queue.push(Message::Ping("are you there".into())).unwrap();
        let mut client = WebSocketStream::from_raw_socket(far, Role::Client, None).await;
        let writing = std::future::poll_fn(|context| queue.poll_write(&mut near, context));
        let reading = async {
            use futures::StreamExt as _;
            for payload in payloads {
                assert_eq!(client.next().await.unwrap().unwrap(), Message::text(payload));
            }
            assert_eq!(
                client.next().await.unwrap().unwrap(),
                Message::Ping("are you there".into())
            );
        };
        let (written, ()) = tokio::join!(writing, reading);
        written.unwrap();
    }

    #[tokio::test]
    async fn a_stream_that_takes_nothing_any_more_is_an_error() {
        let (mut near, far) = tokio::io::duplex(1);
        drop(far);
        let mut queue = FrameQueue::default();
        queue.push(Message::text("nobody reads this")).unwrap();
        let written = std::future::poll_fn(|context| queue.poll_write(&mut near, context)).await;
        assert!(written.is_err());
        assert_eq!(near.read(&mut [0]).await.unwrap(), 0);
    }
}
