//! Frames that wait to be written to a stream.
//!
//! What is told to many is one allocation that the queues of all of them share: it goes from there into the sockets, and no connection has a
//! copy of it.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use tokio::io::AsyncWrite;
use tokio_tungstenite::tungstenite::{
    Error as SocketError, Message,
    protocol::frame::{
        Frame,
        coding::{Data, OpCode},
    },
};

use super::Encoded;

/// Slices that a stream is handed at once. Behind so many another system call does not matter.
const SLICES_MAX: usize = 64;

/// Payloads up to this many bytes are copied behind their header, since a stream takes one slice sooner than two.
const COPIED_BYTES_MAX: usize = 4 * 1024;

/// Memory of an emptied queue is given back if there is room for more than this many slices.
const IDLE_CAPACITY: usize = 8;

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

/// What is written next. Whoever fills it looks at [`Self::bytes`], which bounds it.
#[derive(Debug, Default)]
pub(super) struct FrameQueue {
    /// Empty if nothing waits. Apart from the others, because mostly there is no other, and then it costs no memory of its own.
    first: Bytes,
    others: VecDeque<Bytes>,
    bytes: usize,
}

impl FrameQueue {
    /// Appends a frame.
    ///
    /// # Errors
    /// None: writing a header into memory cannot fail.
    pub(super) fn push(&mut self, encoded: Encoded) -> Result<(), SocketError> {
        let frame = match encoded {
            Encoded::Frame(bytes) => {
                self.push_bytes(bytes);
                return Ok(());
            }
            Encoded::Message(message) => frame(message),
        };
        let mut bytes = Vec::new();
        if frame.payload().len() <= COPIED_BYTES_MAX {
            bytes.reserve_exact(frame.len());
            frame.format(&mut bytes)?;
            self.push_bytes(bytes.into());
        } else {
            frame.header().format(frame.payload().len() as u64, &mut bytes)?;
            self.push_bytes(bytes.into());
            self.push_bytes(frame.into_payload());
        }
        Ok(())
    }

    fn push_bytes(&mut self, bytes: Bytes) {
        self.bytes += bytes.len();
        if self.first.is_empty() {
            self.first = bytes;
        } else {
            self.others.push_back(bytes);
        }
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
        while !self.first.is_empty() {
            let stream = Pin::new(&mut *stream);
            let written = if self.others.is_empty() {
                ready!(stream.poll_write(context, &self.first))?
            } else {
                let mut slices = [IoSlice::new(&[]); SLICES_MAX];
                let waiting = std::iter::once(&self.first).chain(&self.others);
                for (slice, bytes) in slices.iter_mut().zip(waiting) {
                    *slice = IoSlice::new(bytes);
                }
                let filled = SLICES_MAX.min(1 + self.others.len());
                ready!(stream.poll_write_vectored(context, &slices[..filled]))?
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
        while written >= self.first.len() {
            written -= self.first.len();
            let Some(next) = self.others.pop_front() else {
                self.first = Bytes::new();
                break;
            };
            self.first = next;
        }
        self.first.advance(written);
        if self.others.is_empty() && self.others.capacity() > IDLE_CAPACITY {
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
            lengths in proptest::collection::vec(
                prop_oneof![8 => 0usize..40, 2 => 120usize..135, 1 => 4090usize..4100, 1 => 65_530usize..65_540], 0..60),
            takes in proptest::collection::vec(prop_oneof![3 => 0usize..4, 2 => 0usize..200, 1 => 0usize..70_000], 0..80),
            flushes in proptest::collection::vec(any::<bool>(), 60),
        ) {
            let messages: Vec<_> = lengths.into_iter().map(|length| Message::text("a".repeat(length))).collect();
            let mut queue = FrameQueue::default();
            let mut stream = Reluctant { takes: takes.into(), ..Reluctant::default() };
            let waker = noop_waker();
            let mut context = Context::from_waker(&waker);
            let mut pushed = 0;
            for (message, flush) in messages.iter().zip(flushes) {
                queue.push(Encoded::Message(message.clone())).unwrap();
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
            queue.push(Encoded::Message(Message::text(payload))).unwrap();
        }
        queue
            .push(Encoded::Message(Message::Ping("are you there".into())))
            .unwrap();
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
        queue
            .push(Encoded::Message(Message::text("nobody reads this")))
            .unwrap();
        let written = std::future::poll_fn(|context| queue.poll_write(&mut near, context)).await;
        assert!(written.is_err());
        assert_eq!(near.read(&mut [0]).await.unwrap(), 0);
    }
}
