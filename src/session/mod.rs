//! One authenticated connection, whatever carries it.
//!
//! A session is generic over its [`Transport`]: the native WebSocket, Server-Sent Events and Phoenix channels are
//! ways of writing the same [`Outbound`] values. One task owns the transport, reads and writes it, and is never
//! aborted; everything that ends a session is a value that this task acts on.

mod attach;
mod dialogue;
#[cfg(test)]
pub(crate) mod echo;
mod live;
mod native;
pub mod phoenix;
pub mod rhythm;
pub mod transport;

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use self::{dialogue::expiry, live::Live, native::Native, rhythm::Rhythm};
pub use self::{
    rhythm::RhythmConfig,
    transport::{Farewell, Inbound, Outbound, Transport, TransportGone},
};
use crate::{
    auth::{Identity, Verifier},
    hub::{Hub, Outbox},
    log_context::LogContext,
    metrics::{ByReason, Metrics},
    protocol::{
        close::CloseCode,
        cursor::{Cursor, CursorError},
        topic::TopicRule,
    },
    store::{parking::Parking, replay::Replayer},
    types::SessionId,
};

/// How long a closing transport may take until the peer has confirmed. The peer of a slow session first has to read
/// what stands before the close frame; ten seconds give it the chance, and bound what the session still holds.
const CLOSE_DEADLINE: Duration = Duration::from_secs(10);

/// How long a closing transport may still take once all sessions have been closed and the process waits for nothing
/// else. The close frame is on its way by then; a client that it never reaches comes back all the same.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What all sessions of a gateway share.
#[derive(Debug)]
pub struct Sessions {
    /// Where live events come from.
    pub hub: Arc<Hub>,
    /// Where missed events come from.
    pub replayer: Replayer,
    /// Where the positions of channels that went are kept.
    pub parking: Parking,
    /// Who may join which topics.
    pub topic_rule: Arc<TopicRule>,
    /// Judges the tokens of refreshes.
    pub verifier: Arc<Verifier>,
    /// What happened, in numbers.
    pub metrics: Arc<Metrics>,
    /// Heartbeats and limits on what a client sends.
    pub rhythm: RhythmConfig,
    /// The bound of each session's outbox.
    pub outbox_bytes: usize,
    /// Cancelled when a shutdown begins, before it looks for sessions to close.
    pub draining: CancellationToken,
    /// Cancelled when no session is left in the hub, and the process is about to end.
    pub stopping: CancellationToken,
}

/// What a connection has proved and brought before its session begins.
#[derive(Debug)]
pub struct Opening {
    /// Names the session, and what it says in the log.
    pub log: LogContext,
    /// Who it is.
    pub identity: Identity,
    /// Where the client wants to continue, if it brought a cursor.
    pub cursor: Option<Result<Cursor, CursorError>>,
}

impl Opening {
    /// Names the session: by its connection.
    pub const fn session(&self) -> SessionId {
        self.log.connection
    }
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The gateway closed it.
    Closed(CloseCode),
    /// The client closed it, or the connection broke.
    Left,
}

impl End {
    const fn label(self) -> &'static str {
        match self {
            Self::Closed(code) => code.label(),
            Self::Left => "left",
        }
    }
}

impl Sessions {
    /// Runs one session until it ends, and leaves nothing of it behind.
    ///
    /// # Cancel safety
    /// Safe for the hub: a session that is dropped leaves it. The client then sees the connection break.
    pub async fn run(&self, mut opening: Opening, mut transport: impl Transport<Frame = Outbound>) -> End {
        opening
            .log
            .debug(format_args!("the session of {} begins", opening.identity.user));
        let outbox = Arc::new(Outbox::new(self.outbox_bytes));
        // A cursor may be long, and is of no use once the session has found its place.
        let cursor = opening.cursor.take();
        let end = {
            let _membership = Membership::enter(self, &opening, &outbox);
            let _counted = self.metrics.count_session(transport.protocol());
            // Either the shutdown finds this session in the hub, or this session finds that it has begun.
            if self.draining.is_cancelled() {
                outbox.close(CloseCode::GoingAway);
            }
            self.attached(&opening, cursor, &outbox, &mut transport).await
        };
        self.finish(end, &opening.log, &mut transport).await;
        end
    }

    /// Tells the peer of a session that has left the hub how it ended. It takes as long as the peer takes, but not for ever.
    async fn finish(&self, end: End, log: &LogContext, transport: &mut impl Transport) -> Farewell {
        self.metrics
            .sessions_closed
            .get_or_create(&ByReason { reason: end.label() })
            .inc();
        log.debug(format_args!("the session ended: {}", end.label()));
        tokio::select! {
            farewell = timeout(CLOSE_DEADLINE, transport.finish(end)) => farewell.unwrap_or(Farewell::Unknown),
            () = self.last_words() => Farewell::Unknown,
        }
    }

    /// Resolves a moment after the process has begun to end.
    async fn last_words(&self) {
        self.stopping.cancelled().await;
        sleep(LAST_WORDS).await;
    }

    async fn attached(
        &self,
        opening: &Opening,
        cursor: Option<Result<Cursor, CursorError>>,
        outbox: &Arc<Outbox>,
        transport: &mut impl Transport<Frame = Outbound>,
    ) -> End {
        let attaching = attach::attach(self, opening, cursor, outbox);
        // An outbox may overflow, or be closed by a drain, while the database is asked for what was missed.
        let attached = tokio::select! {
            biased;
            code = closed(outbox) => return End::Closed(code),
            attached = attaching => attached,
        };
        match attached {
            Ok(attached) => {
                let now = Instant::now();
                let rhythm = Rhythm::new(self.rhythm, now, expiry(now, opening.identity.expires_at));
                let mut native = Native::new(self, opening, outbox, attached);
                Live::new(&self.metrics, outbox, &mut native, transport, rhythm).await
            }
            Err(error) => {
                opening.log.within(|| {
                    tracing::warn!(%error, "the session could not be attached; the client is asked to come back");
                });
                End::Closed(CloseCode::GoingAway)
            }
        }
    }
}

/// Resolves once the outbox has been closed.
async fn closed(outbox: &Outbox) -> CloseCode {
    futures::future::poll_fn(|context| {
        outbox.register(context);
        outbox
            .closed()
            .map_or(std::task::Poll::Pending, std::task::Poll::Ready)
    })
    .await
}

/// Keeps a session in the hub for as long as it lives, also when its task panics or is dropped.
struct Membership<'a> {
    sessions: &'a Sessions,
    opening: &'a Opening,
}

impl<'a> Membership<'a> {
    fn enter(sessions: &'a Sessions, opening: &'a Opening, outbox: &Arc<Outbox>) -> Self {
        let registry = &sessions.hub.registry;
        if registry.join(opening.identity.user, opening.session(), Arc::clone(outbox)) {
            sessions.metrics.users.inc();
        }
        Self { sessions, opening }
    }
}

impl Drop for Membership<'_> {
    fn drop(&mut self) {
        if self
            .sessions
            .hub
            .registry
            .leave(self.opening.identity.user, self.opening.session())
        {
            self.sessions.metrics.users.dec();
        }
    }
}
