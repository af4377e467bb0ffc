//! An answer that goes on for as long as a session: what the session's task, the HTTP server and the acceptor agree on.
//!
//! The session hands chunks over, the HTTP server takes them as the answer's body when it has room, and the connection
//! notes when all that was taken has reached the kernel. The acceptor learns that the connection is a stream from now
//! on, and when to cut it.
//!
//! Invariants:
//! - What waits to be taken is bounded: [`StreamWriter::poll_ready`] is pending beyond [`WAITING_BYTES`]. So a client
//!   that does not read is felt by its session.
//! - A connection does not outlive its session by more than the session waits for it: dropping the [`StreamWriter`]
//!   cuts the connection, whatever the client has taken.

use std::{
    collections::VecDeque,
    convert::Infallible,
    fmt,
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use axum::body::HttpBody;
use bytes::Bytes;
use futures::task::AtomicWaker;
use hyper::body::Frame;

/// Beyond this many bytes that wait for the HTTP server, no further chunk is taken from the session; the last one may
/// reach beyond. The HTTP server holds as much again as its own buffer.
const WAITING_BYTES: usize = 16 * 1024;

/// The connection of a request, for a handler that wants to make a stream of it. Clones are the same connection.
#[derive(Clone, Default)]
pub(super) struct StreamHandle(Arc<Shared>);

/// The session's side. Dropped, it cuts the connection.
#[derive(Debug)]
pub(super) struct StreamWriter(StreamHandle);

/// The HTTP server's side: the body of the answer.
#[derive(Debug)]
pub(super) struct StreamBody(StreamHandle);

/// The connection's side: it tells when all that was taken was written, and, dropped, that the connection is no more.
#[derive(Debug)]
pub(super) struct StreamWatch(StreamHandle);

/// The peer takes nothing any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gone;

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    session: AtomicWaker,
    body: AtomicWaker,
    acceptor: AtomicWaker,
}

#[derive(Debug, Default)]
struct State {
    phase: Phase,
    peer: Peer,
    waiting: VecDeque<Bytes>,
    waiting_bytes: usize,
    /// Whether chunks were taken since everything was written last.
    is_unflushed: bool,
}

/// What the connection is used for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// One request after the other.
    #[default]
    Requests,
    /// A session's frames.
    Streams,
    /// The session has said its last.
    Ended,
    /// The session is no more.
    Cut,
}

/// How much of the other side is still there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Peer {
    /// The body is being sent.
    #[default]
    Listens,
    /// The HTTP server has let the body go: it was sent, or the client has left.
    LetGo,
    /// There is no connection any more.
    Closed,
}

impl fmt::Debug for StreamHandle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        write!(formatter, "StreamHandle({:?}, {:?})", state.phase, state.peer)
    }
}

impl StreamHandle {
    /// What the connection keeps of it.
    pub(super) fn watch(&self) -> StreamWatch {
        StreamWatch(self.clone())
    }

    /// The connection is a stream from now on. A second time there is nothing to begin.
    pub(super) fn begin(&self) -> Option<(StreamWriter, StreamBody)> {
        let mut state = self.state();
        if state.phase != Phase::Requests {
            return None;
        }
        state.phase = Phase::Streams;
        Some((StreamWriter(self.clone()), StreamBody(self.clone())))
    }

    /// Whether the connection carries a session, which bounds its life.
    pub(super) fn is_stream(&self) -> bool {
        self.state().phase != Phase::Requests
    }

    /// Resolves when the session is no more: whatever the client has not taken by now, it will not get.
    ///
    /// # Cancel safety
    /// Safe.
    pub(super) async fn cut(&self) {
        poll_fn(|context| {
            self.0.acceptor.register(context.waker());
            ready_if(self.state().phase == Phase::Cut)
        })
        .await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code that can panic runs under the lock, so that a poisoned state is still whole.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lose(&self, peer: Peer) {
        self.state().peer = peer;
        self.0.session.wake();
    }
}

const fn ready_if(condition: bool) -> Poll<()> {
    if condition { Poll::Ready(()) } else { Poll::Pending }
}

impl StreamWriter {
    /// Whether there is room for a chunk.
    pub(super) fn poll_ready(&self, context: &Context<'_>) -> Poll<Result<(), Gone>> {
        self.0.0.session.register(context.waker());
        let state = self.0.state();
        if state.peer != Peer::Listens {
            return Poll::Ready(Err(Gone));
        }
        ready_if(state.waiting_bytes < WAITING_BYTES).map(Ok)
    }

    /// Hands a chunk over. What is handed over without room is taken all the same: it is the last one.
    pub(super) fn send(&self, chunk: Bytes) -> Result<(), Gone> {
        let mut state = self.0.state();
        if state.peer != Peer::Listens {
            return Err(Gone);
        }
        state.waiting_bytes += chunk.len();
        state.waiting.push_back(chunk);
        drop(state);
        self.0.0.body.wake();
        Ok(())
    }

    /// Whether all that was handed over has reached the kernel.
    pub(super) fn poll_flush(&self, context: &Context<'_>) -> Poll<Result<(), Gone>> {
        self.0.0.session.register(context.waker());
        let state = self.0.state();
        if state.peer != Peer::Listens {
            return Poll::Ready(Err(Gone));
        }
        ready_if(state.waiting.is_empty() && !state.is_unflushed).map(Ok)
    }

    /// Ready once the client has left.
    pub(super) fn poll_gone(&self, context: &Context<'_>) -> Poll<()> {
        self.0.0.session.register(context.waker());
        ready_if(self.0.state().peer != Peer::Listens)
    }

    /// Ends the body behind what was handed over, and waits until the client has taken all of it and the connection has
    /// been closed. A client that does not read is waited for in vain; the caller bounds that.
    ///
    /// # Cancel safety
    /// Safe: the body ends all the same, unless the writer is dropped before.
    pub(super) async fn finish(&self) {
        self.0.state().phase = Phase::Ended;
        self.0.0.body.wake();
        poll_fn(|context| {
            self.0.0.session.register(context.waker());
            ready_if(self.0.state().peer == Peer::Closed)
        })
        .await;
    }
}

impl Drop for StreamWriter {
    fn drop(&mut self) {
        self.0.state().phase = Phase::Cut;
        self.0.0.acceptor.wake();
    }
}

impl HttpBody for StreamBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let shared = &self.0.0;
        shared.body.register(context.waker());
        let mut state = self.0.state();
        let Some(chunk) = state.waiting.pop_front() else {
            // A session that was cut off has no end that a client could take for one.
            return ready_if(state.phase == Phase::Ended).map(|()| None);
        };
        let was_full = state.waiting_bytes >= WAITING_BYTES;
        state.waiting_bytes -= chunk.len();
        state.is_unflushed = true;
        let has_room = was_full && state.waiting_bytes < WAITING_BYTES;
        drop(state);
        if has_room {
            shared.session.wake();
        }
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }
}

impl Drop for StreamBody {
    fn drop(&mut self) {
        if self.0.state().peer == Peer::Listens {
            self.0.lose(Peer::LetGo);
        }
    }
}

impl StreamWatch {
    /// All that the HTTP server has taken so far was written: it flushes a connection when its own buffer is empty.
    pub(super) fn note_flushed(&self) {
        let mut state = self.0.state();
        if std::mem::take(&mut state.is_unflushed) && state.waiting.is_empty() {
            drop(state);
            self.0.0.session.wake();
        }
    }
}

impl Drop for StreamWatch {
    fn drop(&mut self) {
        self.0.lose(Peer::Closed);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn context() -> Context<'static> {
        Context::from_waker(std::task::Waker::noop())
    }

    fn take(body: &mut StreamBody) -> Poll<Option<Bytes>> {
        let frame = Pin::new(body).poll_frame(&mut context());
        frame.map(|frame| frame.map(|frame| frame.unwrap().into_data().unwrap()))
    }

    #[test]
    fn a_chunk_is_flushed_once_it_was_taken_and_the_connection_flushed_behind_it() {
        let handle = StreamHandle::default();
        let watch = handle.watch();
        let (writer, mut body) = handle.begin().unwrap();
        let context = &context();
        assert_eq!(writer.poll_flush(context), Poll::Ready(Ok(())));
        assert!(take(&mut body).is_pending());
        writer.send("one".into()).unwrap();
        watch.note_flushed();
        assert!(writer.poll_flush(context).is_pending());
        assert_eq!(take(&mut body), Poll::Ready(Some("one".into())));
        assert!(writer.poll_flush(context).is_pending());
        writer.send("two".into()).unwrap();
        watch.note_flushed();
        assert!(writer.poll_flush(context).is_pending());
        assert_eq!(take(&mut body), Poll::Ready(Some("two".into())));
        watch.note_flushed();
        assert_eq!(writer.poll_flush(context), Poll::Ready(Ok(())));
    }

    #[test]
    fn what_waits_is_bounded_and_taking_makes_room() {
        let handle = StreamHandle::default();
        let (writer, mut body) = handle.begin().unwrap();
        let context = &context();
        let chunk = Bytes::from(vec![b'x'; 1000]);
        let mut sent = 0;
        while writer.poll_ready(context).is_ready() {
            writer.send(chunk.clone()).unwrap();
            sent += 1;
        }
        assert_eq!(sent, WAITING_BYTES.div_ceil(1000));
        assert!(take(&mut body).is_ready());
        assert_eq!(writer.poll_ready(context), Poll::Ready(Ok(())));
    }

    #[test]
    fn a_connection_is_a_stream_once_and_from_then_on() {
        let handle = StreamHandle::default();
        assert!(!handle.is_stream());
        let (writer, _body) = handle.begin().unwrap();
        assert!(handle.is_stream() && handle.begin().is_none());
        assert!(handle.cut().now_or_never().is_none());
        drop(writer);
        assert!(handle.is_stream() && handle.cut().now_or_never().is_some());
    }

    #[test]
    fn a_client_that_leaves_is_noticed_and_an_end_is_waited_for_until_the_connection_is_closed() {
        let handle = StreamHandle::default();
        let watch = handle.watch();
        let (writer, body) = handle.begin().unwrap();
        assert!(writer.poll_gone(&context()).is_pending());
        drop(body);
        assert!(writer.poll_gone(&context()).is_ready());
        assert_eq!(writer.send("late".into()), Err(Gone));
        assert!(writer.finish().now_or_never().is_none());
        drop(watch);
        assert!(writer.finish().now_or_never().is_some());
    }

    #[test]
    fn a_body_ends_behind_what_was_handed_over_and_not_when_the_session_was_cut_off() {
        let handle = StreamHandle::default();
        let (writer, mut body) = handle.begin().unwrap();
        writer.send("last".into()).unwrap();
        assert!(writer.finish().now_or_never().is_none());
        assert_eq!(take(&mut body), Poll::Ready(Some("last".into())));
        assert_eq!(take(&mut body), Poll::Ready(None));
        let handle = StreamHandle::default();
        let (writer, mut body) = handle.begin().unwrap();
        drop(writer);
        assert!(take(&mut body).is_pending());
    }
}
