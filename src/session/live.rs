//! A session from its first frame to its end: one hand-written poll that reads, writes and keeps time together, whatever
//! protocol is spoken and whatever carries it.
//!
//! Reading goes on while a write is blocked, and a full outbox is noticed while a write is blocked. What waits is
//! written in one go and flushed once.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::time::{Instant, Sleep};

use super::{
    End, Transport, TransportGone,
    dialogue::{Dialogue, Written},
    rhythm::{Due, Rhythm},
};
use crate::{
    hub::Outbox,
    metrics::{Metrics, observe},
    protocol::close::CloseCode,
};

/// Frames that are handed to the transport before it is flushed. It bounds the notes on deliveries that wait for the
/// flush.
const FRAMES_PER_FLUSH: usize = 64;

/// Deliveries that the transport has taken and not yet flushed.
#[derive(Debug, Default)]
struct Unflushed {
    events: u64,
    committed: Vec<Instant>,
    /// Since when there is anything, or could not be; a transport that takes nothing for long is as good as gone.
    since: Option<Instant>,
}

/// A live session. It is a future that ends with the session.
pub(super) struct Live<'a, D, T> {
    metrics: &'a Metrics,
    outbox: &'a Outbox,
    dialogue: &'a mut D,
    transport: &'a mut T,
    rhythm: Rhythm,
    alarm: Pin<Box<Sleep>>,
    unflushed: Unflushed,
}

/// Why a pass over the session stopped it.
type Ended = Result<(), End>;

impl<'a, D: Dialogue, T: Transport<Frame = D::Frame>> Live<'a, D, T> {
    pub(super) fn new(
        metrics: &'a Metrics,
        outbox: &'a Outbox,
        dialogue: &'a mut D,
        transport: &'a mut T,
        rhythm: Rhythm,
    ) -> Self {
        Self {
            metrics,
            outbox,
            dialogue,
            transport,
            alarm: Box::pin(tokio::time::sleep_until(rhythm.deadline())),
            rhythm,
            unflushed: Unflushed::default(),
        }
    }

    fn poll_session(&mut self, context: &mut Context<'_>) -> Ended {
        loop {
            let heard = self.poll_inbound(context)?;
            self.dialogue.poll_work(&mut self.rhythm, context)?;
            let now = self.poll_alarm(context)?;
            self.poll_outbound(now, context)?;
            // Where reading stopped for want of room, nothing will wake the session for what is still unread.
            if heard == Heard::Everything || !self.dialogue.has_room() {
                return Ok(());
            }
        }
    }

    /// Reads what has arrived, as long as there is room for the answers.
    fn poll_inbound(&mut self, context: &mut Context<'_>) -> Result<Heard, End> {
        while self.dialogue.has_room() {
            match Pin::new(&mut *self.transport).poll_next(context) {
                Poll::Pending => return Ok(Heard::Everything),
                Poll::Ready(None) => return Err(End::Left),
                Poll::Ready(Some(inbound)) => self
                    .dialogue
                    .hear(inbound, &mut self.rhythm)
                    .map_err(End::Closed)?,
            }
        }
        Ok(Heard::Some)
    }

    /// Does what is due, and answers what time it is: to ask the clock is a part of what a delivery costs.
    fn poll_alarm(&mut self, context: &mut Context<'_>) -> Result<Instant, End> {
        loop {
            let now = Instant::now();
            // A peer may send pings and read nothing: that it is alive does not make it a reader.
            let stalled = self
                .unflushed
                .since
                .is_some_and(|since| self.rhythm.is_too_long(now.duration_since(since)));
            if stalled {
                return Err(End::Closed(CloseCode::Slow));
            }
            match self.rhythm.due(now) {
                Due::Nothing => {}
                Due::Close(code) => return Err(End::Closed(code)),
                Due::Heartbeat => self.dialogue.beat(),
            }
            let deadline = self.rhythm.deadline();
            if self.alarm.deadline() != deadline {
                self.alarm.as_mut().reset(deadline);
            }
            if self.alarm.as_mut().poll(context).is_pending() {
                return Ok(now);
            }
        }
    }

    /// Writes what waits, and flushes once.
    fn poll_outbound(&mut self, now: Instant, context: &mut Context<'_>) -> Ended {
        self.outbox.register(context);
        loop {
            let filled = self.fill(now, context)?;
            if self.unflushed.since.is_none() {
                return Ok(());
            }
            match Pin::new(&mut *self.transport).poll_flush(context) {
                Poll::Ready(Ok(())) => self.note_flushed(),
                Poll::Ready(Err(TransportGone)) => return Err(End::Left),
                Poll::Pending => return Ok(()),
            }
            if filled == Filled::Emptied {
                return Ok(());
            }
        }
    }

    /// Hands frames to the transport until there are none, it takes no more, or it is time to flush.
    fn fill(&mut self, now: Instant, context: &mut Context<'_>) -> Result<Filled, End> {
        for _ in 0..FRAMES_PER_FLUSH {
            match Pin::new(&mut *self.transport).poll_ready(context) {
                // A session that was closed ends even though its peer takes nothing: what waits is in the log too.
                Poll::Pending => {
                    self.unflushed.since.get_or_insert(now);
                    return self
                        .outbox
                        .closed()
                        .map_or(Ok(Filled::Emptied), |code| Err(End::Closed(code)));
                }
                Poll::Ready(Err(TransportGone)) => return Err(End::Left),
                Poll::Ready(Ok(())) => {}
            }
            let Some(Written {
                frame,
                events,
                committed,
            }) = self.dialogue.next_frame(now)?
            else {
                return Ok(Filled::Emptied);
            };
            self.unflushed.events += events;
            self.unflushed.committed.extend(committed);
            self.unflushed.since.get_or_insert(now);
            Pin::new(&mut *self.transport)
                .start_send(frame)
                .map_err(|TransportGone| End::Left)?;
        }
        Ok(Filled::Paused)
    }

    fn note_flushed(&mut self) {
        if !self.unflushed.committed.is_empty() {
            let now = Instant::now();
            for committed in self.unflushed.committed.drain(..) {
                observe(&self.metrics.delivery_latency, now.duration_since(committed));
            }
        }
        self.metrics
            .events_delivered
            .inc_by(std::mem::take(&mut self.unflushed.events));
        self.unflushed.since = None;
    }
}

/// How far reading went.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Heard {
    /// All that had arrived.
    Everything,
    /// As much as there was room for.
    Some,
}

/// How far filling the transport went.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Filled {
    /// Nothing is left to write, or the transport takes no more for now.
    Emptied,
    /// There may be more; it is time to flush.
    Paused,
}

impl<D: Dialogue, T: Transport<Frame = D::Frame>> Future for Live<'_, D, T> {
    type Output = End;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<End> {
        match self.get_mut().poll_session(context) {
            Ok(()) => Poll::Pending,
            Err(end) => Poll::Ready(end),
        }
    }
}
