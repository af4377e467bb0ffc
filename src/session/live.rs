//! A session from its first frame to its end: one hand-written poll that reads, writes and keeps time together.
//!
//! Reading goes on while a write is blocked, and a full outbox is noticed while a write is blocked. What waits is
//! written in one go and flushed once.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use futures::{FutureExt, future::BoxFuture};
use tokio::time::{Instant, Sleep};

use super::{
    End, Inbound, Opening, Outbound, Sessions, Transport, TransportGone,
    attach::Attached,
    rhythm::{Due, Rhythm},
};
use crate::{
    auth::{AuthError, Identity, Token},
    hub::{Delivery, Outbox, Parcel, outbox::Next},
    metrics::{ByReason, observe},
    protocol::{
        client_frame::ClientFrame,
        close::CloseCode,
        cursor::{Cursor, Epoch},
        server_frame::EventsFrame,
        snapshot::Snapshot,
    },
    types::BatchNumber,
};

/// Frames that are handed to the transport before it is flushed. It bounds the notes on deliveries that wait for the
/// flush.
const FRAMES_PER_FLUSH: usize = 64;

/// Answers that wait for a blocked transport. Nothing more is read from a client until they are written.
const ANSWERS_MAX: usize = 16;

/// A session ends after this time at the latest, as if its token had: the clock of a timer does not reach for ever.
const EXPIRY_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// Deliveries that the transport has taken and not yet flushed.
#[derive(Debug, Default)]
struct Unflushed {
    events: u64,
    committed: Vec<Instant>,
    /// Since when there is anything; a transport that takes nothing for long is as good as gone.
    since: Option<Instant>,
}

/// A live session. It is a future that ends with the session.
pub(super) struct Live<'a, T> {
    sessions: &'a Sessions,
    opening: &'a Opening,
    outbox: &'a Outbox,
    transport: &'a mut T,
    rhythm: Rhythm,
    alarm: Pin<Box<Sleep>>,
    ready: Option<Outbound>,
    replayed: VecDeque<EventsFrame>,
    answers: VecDeque<Outbound>,
    epoch: Epoch,
    /// The newest batch of which the client was sent anything.
    reached: BatchNumber,
    ahead: Option<Arc<Snapshot>>,
    refresh: Option<BoxFuture<'a, Result<Identity, AuthError>>>,
    unflushed: Unflushed,
    /// When the client was last sent a cursor.
    cursor_sent: Instant,
}

/// Why a pass over the session stopped it.
type Ended = Result<(), End>;

impl<'a, T: Transport> Live<'a, T> {
    pub(super) fn new(
        sessions: &'a Sessions,
        opening: &'a Opening,
        outbox: &'a Outbox,
        attached: Attached,
        transport: &'a mut T,
    ) -> Self {
        let now = Instant::now();
        let rhythm = Rhythm::new(sessions.rhythm, now, expiry(now, opening.identity.expires_at));
        Self {
            sessions,
            opening,
            outbox,
            transport,
            alarm: Box::pin(tokio::time::sleep_until(rhythm.deadline())),
            rhythm,
            ready: Some(Outbound::Ready(Box::new(attached.ready))),
            replayed: attached.replayed,
            answers: VecDeque::new(),
            epoch: attached.epoch,
            reached: attached.batch,
            ahead: attached.ahead,
            refresh: None,
            unflushed: Unflushed::default(),
            cursor_sent: now,
        }
    }

    fn poll_session(&mut self, context: &mut Context<'_>) -> Ended {
        loop {
            let heard = self.poll_inbound(context)?;
            self.poll_refresh(context)?;
            self.poll_alarm(context)?;
            self.poll_outbound(context)?;
            // Where reading stopped for want of room, nothing will wake the session for what is still unread.
            if heard == Heard::Everything || !self.has_room() {
                return Ok(());
            }
        }
    }

    fn has_room(&self) -> bool {
        self.answers.len() < ANSWERS_MAX && self.refresh.is_none()
    }

    /// Reads what has arrived, as long as there is room for the answers.
    fn poll_inbound(&mut self, context: &mut Context<'_>) -> Result<Heard, End> {
        while self.has_room() {
            match Pin::new(&mut *self.transport).poll_next(context) {
                Poll::Pending => return Ok(Heard::Everything),
                Poll::Ready(None) => return Err(End::Left),
                Poll::Ready(Some(inbound)) => self.hear(inbound).map_err(End::Closed)?,
            }
        }
        Ok(Heard::Some)
    }

    fn hear(&mut self, inbound: Inbound) -> Result<(), CloseCode> {
        self.rhythm.count_frame(Instant::now())?;
        match inbound {
            Inbound::Alive => Ok(()),
            Inbound::Binary => Err(CloseCode::UnsupportedData),
            Inbound::TooBig => Err(CloseCode::MessageTooBig),
            Inbound::Garbage => Err(CloseCode::ProtocolError),
            Inbound::Text(text) => match ClientFrame::read(&text) {
                Ok(ClientFrame::Ping { reference }) => {
                    self.answers.push_back(Outbound::Pong { reference });
                    Ok(())
                }
                Ok(ClientFrame::Auth { token }) => {
                    let verifier = &self.sessions.verifier;
                    self.refresh =
                        Some(async move { verifier.authenticate(&Token::new(token)).await }.boxed());
                    Ok(())
                }
                Err(error) => {
                    self.rhythm.count_mistake()?;
                    self.answers.push_back(Outbound::Error {
                        message: error.to_string(),
                    });
                    Ok(())
                }
            },
        }
    }

    /// Takes over a new token once it has been judged: the same user's only.
    fn poll_refresh(&mut self, context: &mut Context<'_>) -> Ended {
        let Some(refresh) = &mut self.refresh else {
            return Ok(());
        };
        let Poll::Ready(judged) = refresh.as_mut().poll(context) else {
            return Ok(());
        };
        self.refresh = None;
        match judged {
            Ok(identity) if identity.user == self.opening.identity.user => {
                self.rhythm.renew(expiry(Instant::now(), identity.expires_at));
                self.answers.push_back(Outbound::Authenticated {
                    expires_at: identity.expires_at,
                });
                Ok(())
            }
            Ok(_) => {
                tracing::info!("a refresh with the token of another user was refused");
                Err(End::Closed(CloseCode::Forbidden))
            }
            Err(error) => {
                self.sessions
                    .metrics
                    .auth_failures
                    .get_or_create(&ByReason {
                        reason: error.reason(),
                    })
                    .inc();
                tracing::info!(reason = error.reason(), "a refresh was refused");
                Err(End::Closed(match error {
                    AuthError::Expired => CloseCode::TokenExpired,
                    // The token may be good: the client comes back and has it judged at the door.
                    AuthError::KeysUnavailable => CloseCode::GoingAway,
                    _ => CloseCode::Forbidden,
                }))
            }
        }
    }

    fn poll_alarm(&mut self, context: &mut Context<'_>) -> Ended {
        loop {
            // A peer may send pings and read nothing: that it is alive does not make it a reader.
            let stalled = self
                .unflushed
                .since
                .is_some_and(|since| self.rhythm.is_too_long(since.elapsed()));
            if stalled {
                return Err(End::Closed(CloseCode::Slow));
            }
            match self.rhythm.due(Instant::now()) {
                Due::Nothing => {}
                Due::Close(code) => return Err(End::Closed(code)),
                Due::Heartbeat => {
                    self.answers.push_back(Outbound::Heartbeat);
                    self.renew_cursor();
                }
            }
            let deadline = self.rhythm.deadline();
            if self.alarm.deadline() != deadline {
                self.alarm.as_mut().reset(deadline);
            }
            if self.alarm.as_mut().poll(context).is_pending() {
                return Ok(());
            }
        }
    }

    /// Tells a client to which nothing happened for long how far nothing happened.
    fn renew_cursor(&mut self) {
        let now = Instant::now();
        let is_due = now.duration_since(self.cursor_sent) >= self.sessions.rhythm.cursor_age;
        // A client that is behind gets a cursor with its events.
        if !is_due || self.ready.is_some() || !self.replayed.is_empty() {
            return;
        }
        // The settled position is read before the outbox is looked at: then whatever it covers has been taken already. A
        // batch that is still being handed over is beyond it, and its own cursor is on its way.
        let Some(settled) = self.sessions.hub.position.settled() else {
            return;
        };
        let is_reached = settled.epoch == self.epoch && settled.batch >= self.reached;
        // A client that is ahead of the feed keeps its own cursor until the feed has caught up.
        let covers = self
            .ahead
            .as_ref()
            .is_none_or(|ahead| settled.snapshot.covers(ahead));
        if is_reached && covers && self.outbox.is_empty() && self.outbox.closed().is_none() {
            self.ahead = None;
            self.cursor_sent = now;
            self.answers.push_back(Outbound::Standing(settled.cursor()));
        }
    }

    /// Writes what waits, and flushes once.
    fn poll_outbound(&mut self, context: &mut Context<'_>) -> Ended {
        self.outbox.register(context);
        loop {
            let filled = self.fill(context)?;
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
    fn fill(&mut self, context: &mut Context<'_>) -> Result<Filled, End> {
        for _ in 0..FRAMES_PER_FLUSH {
            match Pin::new(&mut *self.transport).poll_ready(context) {
                // A session that was closed ends even though its peer takes nothing: what waits is in the log too.
                Poll::Pending => {
                    return self
                        .outbox
                        .closed()
                        .map_or(Ok(Filled::Emptied), |code| Err(End::Closed(code)));
                }
                Poll::Ready(Err(TransportGone)) => return Err(End::Left),
                Poll::Ready(Ok(())) => {}
            }
            let Some(outbound) = self.next_outbound()? else {
                return Ok(Filled::Emptied);
            };
            if let Outbound::Live(delivery) = &outbound {
                self.unflushed.committed.push(delivery.committed);
                self.unflushed.events += delivery.frame.events() as u64;
                if delivery.frame.carries_cursor() {
                    self.cursor_sent = Instant::now();
                }
            }
            self.unflushed.since.get_or_insert_with(Instant::now);
            Pin::new(&mut *self.transport)
                .start_send(outbound)
                .map_err(|TransportGone| End::Left)?;
        }
        Ok(Filled::Paused)
    }

    /// What is written next: the first frame, what was missed, answers, then what is live.
    fn next_outbound(&mut self) -> Result<Option<Outbound>, End> {
        if let Some(ready) = self.ready.take() {
            return Ok(Some(ready));
        }
        if let Some(frame) = self.replayed.pop_front() {
            return Ok(Some(Outbound::Replayed(frame)));
        }
        if let Some(answer) = self.answers.pop_front() {
            return Ok(Some(answer));
        }
        loop {
            match self.outbox.take() {
                None => return Ok(None),
                Some(Next::Closed(code)) => return Err(End::Closed(code)),
                // Nobody says anything on a topic to a session that has joined none.
                Some(Next::Parcel(Parcel::Topic { .. })) => {}
                Some(Next::Parcel(Parcel::Events(delivery))) => {
                    if let Some(outbound) = self.admit(delivery) {
                        return Ok(Some(outbound));
                    }
                }
            }
        }
    }

    /// A delivery as this client is to see it, or nothing if it has seen all of it.
    fn admit(&mut self, delivery: Arc<Delivery>) -> Option<Outbound> {
        self.reached = delivery.batch;
        let Some(seen) = &self.ahead else {
            return Some(Outbound::Live(delivery));
        };
        // No cursor is sent that does not cover what the client has: coming back with it would double events.
        let covered = delivery.snapshot.covers(seen);
        let cursor = (covered && delivery.frame.carries_cursor()).then(|| {
            let cursor = Cursor {
                epoch: self.epoch.clone(),
                snapshot: Arc::clone(&delivery.snapshot),
            };
            cursor.to_string()
        });
        let frame = delivery.frame.unseen_by(seen, cursor.as_deref());
        if cursor.is_some() {
            self.ahead = None;
        }
        if frame.is_empty() && cursor.is_none() {
            return None;
        }
        Some(Outbound::Live(Arc::new(Delivery {
            frame,
            snapshot: Arc::clone(&delivery.snapshot),
            ..*delivery
        })))
    }

    fn note_flushed(&mut self) {
        let metrics = &self.sessions.metrics;
        for committed in self.unflushed.committed.drain(..) {
            observe(&metrics.delivery_latency, committed.elapsed());
        }
        metrics
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

impl<T: Transport> Future for Live<'_, T> {
    type Output = End;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<End> {
        match self.get_mut().poll_session(context) {
            Ok(()) => Poll::Pending,
            Err(end) => Poll::Ready(end),
        }
    }
}

/// When a token that ends at this moment ends by the runtime's clock.
fn expiry(now: Instant, expires_at: SystemTime) -> Instant {
    now + expires_at
        .duration_since(SystemTime::now())
        .unwrap_or_default()
        .min(EXPIRY_MAX)
}
