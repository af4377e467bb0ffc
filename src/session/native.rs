//! The native protocol: one subscription, which is there from the first frame on.

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll},
};

use futures::{FutureExt, future::BoxFuture};
use tokio::time::Instant;

use super::{
    End, Inbound, Opening, Outbound, Sessions,
    attach::Attached,
    dialogue::{Dialogue, Written, expiry},
    rhythm::Rhythm,
};
use crate::{
    auth::{AuthError, Identity, Token},
    hub::{Delivery, Outbox, Parcel, outbox::Next},
    metrics::ByReason,
    protocol::{
        client_frame::ClientFrame, close::CloseCode, cursor::Epoch, phoenix::change::Changes,
        server_frame::EventsFrame, snapshot::Snapshot,
    },
    types::BatchNumber,
};

/// Answers that wait for a blocked transport. Nothing more is read from a client until they are written.
const ANSWERS_MAX: usize = 16;

/// The gateway's side of the native protocol.
pub(super) struct Native<'a> {
    sessions: &'a Sessions,
    opening: &'a Opening,
    outbox: &'a Outbox,
    ready: Option<Outbound>,
    replayed: VecDeque<EventsFrame>,
    answers: VecDeque<Outbound>,
    epoch: Epoch,
    /// The newest batch of which the client was sent anything.
    reached: BatchNumber,
    ahead: Option<Arc<Snapshot>>,
    refresh: Option<BoxFuture<'a, Result<Identity, AuthError>>>,
    /// When the client was last sent a cursor.
    cursor_sent: Instant,
}

impl<'a> Native<'a> {
    pub(super) fn new(
        sessions: &'a Sessions,
        opening: &'a Opening,
        outbox: &'a Outbox,
        attached: Attached,
    ) -> Self {
        Self {
            sessions,
            opening,
            outbox,
            ready: Some(Outbound::Ready(Box::new(attached.ready))),
            replayed: attached.replayed,
            answers: VecDeque::new(),
            epoch: attached.epoch,
            reached: attached.batch,
            ahead: attached.ahead,
            refresh: None,
            cursor_sent: Instant::now(),
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

    /// Takes over a new token once it has been judged: the same user's only.
    fn poll_refresh(&mut self, rhythm: &mut Rhythm, context: &mut Context<'_>) -> Result<(), End> {
        let Some(refresh) = &mut self.refresh else {
            return Ok(());
        };
        let Poll::Ready(judged) = refresh.as_mut().poll(context) else {
            return Ok(());
        };
        self.refresh = None;
        match judged {
            Ok(identity) if identity.user == self.opening.identity.user => {
                rhythm.renew(expiry(Instant::now(), identity.expires_at));
                self.answers.push_back(Outbound::Authenticated {
                    expires_at: identity.expires_at,
                });
                Ok(())
            }
            Ok(_) => {
                self.opening
                    .log
                    .within(|| tracing::info!("a refresh with the token of another user was refused"));
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
                self.opening
                    .log
                    .within(|| tracing::info!(reason = error.reason(), "a refresh was refused"));
                Err(End::Closed(match error {
                    AuthError::Expired => CloseCode::TokenExpired,
                    // The token may be good: the client comes back and has it judged at the door.
                    AuthError::KeysUnavailable => CloseCode::GoingAway,
                    _ => CloseCode::Forbidden,
                }))
            }
        }
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
        self.reached = delivery.position.batch;
        let Some(seen) = &self.ahead else {
            return Some(Outbound::Live(delivery));
        };
        // No cursor is sent that does not cover what the client has: coming back with it would double events.
        let covered = delivery.position.snapshot.covers(seen);
        let cursor =
            (covered && delivery.frame.carries_cursor()).then(|| delivery.position.cursor().to_string());
        let frame = delivery.frame.unseen_by(seen, cursor.as_deref());
        if cursor.is_some() {
            self.ahead = None;
        }
        if frame.is_empty() && cursor.is_none() {
            return None;
        }
        Some(Outbound::Live(Arc::new(Delivery {
            user: delivery.user,
            position: Arc::clone(&delivery.position),
            frame,
            committed: delivery.committed,
            changes: Changes::default(),
        })))
    }
}

impl Dialogue for Native<'_> {
    type Frame = Outbound;

    fn has_room(&self) -> bool {
        self.answers.len() < ANSWERS_MAX && self.refresh.is_none()
    }

    fn hear(&mut self, inbound: Inbound, rhythm: &mut Rhythm) -> Result<(), CloseCode> {
        rhythm.count_frame(Instant::now(), inbound.bytes())?;
        match inbound {
            Inbound::Alive | Inbound::Pong(_) => Ok(()),
            Inbound::Binary(_) => Err(CloseCode::UnsupportedData),
            Inbound::Unreadable(code) => Err(code),
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
                    rhythm.count_mistake()?;
                    self.answers.push_back(Outbound::Error {
                        message: error.to_string(),
                    });
                    Ok(())
                }
            },
        }
    }

    fn poll_work(&mut self, rhythm: &mut Rhythm, context: &mut Context<'_>) -> Result<(), End> {
        self.poll_refresh(rhythm, context)
    }

    fn beat(&mut self) {
        self.answers.push_back(Outbound::Heartbeat);
        self.renew_cursor();
    }

    fn next_frame(&mut self, now: Instant) -> Result<Option<Written<Outbound>>, End> {
        let Some(frame) = self.next_outbound()? else {
            return Ok(None);
        };
        let (mut events, mut committed) = (0, None);
        if let Outbound::Live(delivery) = &frame {
            events = delivery.frame.events() as u64;
            committed = Some(delivery.committed);
            if delivery.frame.carries_cursor() {
                self.cursor_sent = now;
            }
        }
        Ok(Some(Written {
            frame,
            events,
            committed,
        }))
    }
}
