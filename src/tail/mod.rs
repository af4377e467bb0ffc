//! A client of the native protocol that follows one user's messages through whatever happens to its connection, over a
//! WebSocket or over Server-Sent Events.
//!
//! Invariants:
//! - Every event of the user is shown once, in the order of the gateway, for as long as the gateway can prove it; where
//!   it cannot, the audience is told that messages may be missing.
//! - The cursor moves on only when everything before it has been shown.
//! - The token travels in a header, never in a URL.
//! - Whoever shows events slowly slows the connection down, and nothing piles up here.
//!
//! It deliberately keeps nothing on disk, and knows nothing of terminals: what it has to say goes to an [`Audience`].

mod connection;
mod event_source;
mod event_stream;
mod frame;
pub mod line;
mod place;
mod recovery;
mod session;

use std::{fmt, future::Future, io, time::Duration};

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use self::frame::{Event, EventKey, FrameError};
use self::{
    connection::{ConnectError, Connector, connect, connector},
    place::Place,
    recovery::{Delays, Loss, decide},
    session::Session,
};
use crate::{
    auth::IssueError,
    client::{Credentials, Escaped, GatewayUrl},
    protocol::close::CloseCode,
    types::UserId,
};

/// What carries a session's frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// A WebSocket.
    WebSocket,
    /// An answer that does not end, for places where WebSockets do not pass.
    ServerSentEvents,
}

/// What a client is told before it begins.
#[derive(Clone, Debug)]
pub struct TailConfig {
    /// Where the gateway is.
    pub url: GatewayUrl,
    /// How it is connected to.
    pub carrier: Carrier,
    /// Whose messages are expected. A token of somebody else ends the client.
    pub user: Option<UserId>,
    /// How it proves who it is.
    pub credentials: Credentials,
    /// Where to continue; `None` begins with what happens from now on.
    pub cursor: Option<String>,
}

/// Who is shown what happens.
pub trait Audience: Send {
    /// New events of this user, never empty. The client reads on when this has ended.
    ///
    /// # Cancel safety
    /// It is dropped on the way if the client is told to stop.
    fn show(&mut self, viewer: Uuid, events: &[&Event]) -> impl Future<Output = io::Result<()>> + Send;

    /// The session could not be continued, for this reason: what happened meanwhile is missing.
    ///
    /// # Cancel safety
    /// As [`Audience::show`].
    fn show_gap(&mut self, reason: &str) -> impl Future<Output = io::Result<()>> + Send;

    /// Something about the connection.
    fn note(&mut self, notice: &Notice);
}

/// Something about the connection that a person who watches may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A session has begun.
    Connected {
        /// Whose messages it brings.
        user: Uuid,
        /// Its name in the gateway's log.
        session: Uuid,
        /// Whether it continues where the last one ended.
        resumed: bool,
    },
    /// There is no connection, and the next attempt is made after this time.
    Lost {
        /// Why there is none.
        why: String,
        /// Until the next attempt.
        delay: Duration,
    },
    /// The gateway did not understand something.
    Misunderstood(String),
}

impl fmt::Display for Notice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connected {
                user,
                session,
                resumed,
            } => {
                let how = if *resumed { "connected again" } else { "connected" };
                write!(formatter, "{how} as {user}, session {session}")
            }
            Self::Lost { why, delay } if delay.is_zero() => write!(formatter, "{why}; reconnecting"),
            Self::Lost { why, delay } => {
                write!(formatter, "{why}; reconnecting in {:.1} s", delay.as_secs_f64())
            }
            Self::Misunderstood(message) => {
                write!(formatter, "the gateway did not understand: {}", Escaped(message))
            }
        }
    }
}

/// Why a client cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum TailError {
    /// The gateway, or what lies before it, does not want this client.
    #[error("{0}")]
    Unwanted(String),
    /// The one token there was has ended.
    #[error("the token has expired; give a new one by HERALD_TOKEN")]
    TokenEnded,
    /// The token cannot be sent.
    #[error("the token holds characters that no token has; give it whole, as the issuer gave it")]
    UnusableToken,
    /// The cursor cannot be sent.
    #[error("the cursor holds characters that no cursor has; give it as a former `herald tail` printed it")]
    UnusableCursor,
    /// No token could be signed.
    #[error(transparent)]
    Token(#[from] IssueError),
    /// The token speaks for another user.
    #[error("the token speaks for {found} and not for {expected}; leave --as away, or give the right token")]
    AnotherUser {
        /// Whose messages were asked for.
        expected: UserId,
        /// Whose the gateway would send.
        found: Uuid,
    },
    /// What is there speaks another protocol.
    #[error("{url} does not answer like a gateway: {why}; check the address, and http against https")]
    NotAGateway {
        /// What was connected to.
        url: GatewayUrl,
        /// What it did.
        why: String,
    },
    /// What the gateway says cannot be understood.
    #[error("{0}; is this client older than the gateway?")]
    Protocol(String),
    /// No trustworthy connection.
    #[error("TLS: {0}; check the gateway's certificate, or name its root by the variable SSL_CERT_FILE")]
    Tls(String),
    /// The events cannot be shown.
    #[error("the output cannot be written: {0}")]
    Output(#[from] io::Error),
}

/// A client that follows one user's messages.
#[derive(Debug)]
pub struct Tail {
    config: TailConfig,
    place: Place,
}

/// How a connection went.
enum Ended {
    /// The client was told to stop.
    Stopped,
    /// The token is about to end, and the next connection begins with a new one.
    Renewing,
    /// The connection is no more.
    Lost {
        loss: Loss,
        /// Whether it had brought events or lasted, so that its end is no sign of a loop.
        has_proved: bool,
    },
}

impl Tail {
    /// A client that is not connected yet.
    pub fn new(config: TailConfig) -> Self {
        let place = Place::new(config.cursor.clone());
        Self { config, place }
    }

    /// Where somebody could continue who has seen all that was shown.
    pub fn cursor(&self) -> Option<&str> {
        self.place.cursor()
    }

    /// Follows until it is told to stop.
    ///
    /// # Errors
    /// [`TailError`]: coming back would be of no use.
    ///
    /// # Cancel safety
    /// Safe, but cancelling `stopping` is the polite way: then the gateway is told.
    pub async fn run(
        &mut self,
        audience: &mut impl Audience,
        stopping: &CancellationToken,
    ) -> Result<(), TailError> {
        let connector = connector(&self.config.url, self.config.carrier)?;
        let mut delays = Delays::new();
        let mut is_renewal = false;
        loop {
            let ended = self
                .connect_once(&connector, is_renewal, audience, stopping)
                .await?;
            self.place.lose();
            is_renewal = matches!(ended, Ended::Renewing);
            let (loss, has_proved) = match ended {
                Ended::Stopped => return Ok(()),
                Ended::Renewing => continue,
                Ended::Lost { loss, has_proved } => (loss, has_proved),
            };
            let can_renew = self.config.credentials.renew_after().is_some();
            let coming_back = decide(&loss, can_renew).ok_or_else(|| hopeless(&loss))?;
            if has_proved {
                delays.proved();
            }
            let delay = delays.draw(coming_back, has_proved, &mut rand::rng());
            audience.note(&Notice::Lost {
                why: loss.to_string(),
                delay,
            });
            tokio::select! {
                () = stopping.cancelled() => return Ok(()),
                () = sleep(delay) => {}
            }
        }
    }

    async fn connect_once(
        &mut self,
        connector: &Connector,
        is_renewal: bool,
        audience: &mut impl Audience,
        stopping: &CancellationToken,
    ) -> Result<Ended, TailError> {
        let credentials = &self.config.credentials;
        let token = credentials.token()?;
        let renew_at = credentials.renew_after().map(|after| Instant::now() + after);
        let connecting = connect(&self.config.url, connector, &token, self.place.cursor());
        let connected = tokio::select! {
            () = stopping.cancelled() => return Ok(Ended::Stopped),
            connected = connecting => connected,
        };
        match connected {
            Ok(connection) => {
                let session = Session::new(&self.config, &mut self.place, connection, renew_at, is_renewal);
                session.run(audience, stopping).await
            }
            Err(ConnectError::Hopeless(error)) => Err(error),
            Err(ConnectError::Lost(loss)) => Ok(Ended::Lost {
                loss,
                has_proved: false,
            }),
        }
    }
}

fn hopeless(loss: &Loss) -> TailError {
    match loss {
        Loss::Closed { code, .. } if *code == CloseCode::TokenExpired.number() => TailError::TokenEnded,
        loss => TailError::Unwanted(loss.to_string()),
    }
}
