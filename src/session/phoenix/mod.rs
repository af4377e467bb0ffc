//! Phoenix channels, as Supabase's clients speak them: joins are subscriptions within one session.
//!
//! A session may have no person, or several one after the other: whose token a channel has decides what it hears. It is in
//! the hub under the user of each of its channels, with one outbox, and each channel takes what its user is delivered.
//!
//! Invariants:
//! - A channel hears only messages of the person whose token it has now, from the moment the token is taken over.
//! - A channel is in the hub before the feed's position is read for it; what comes before its place is found is held for it.
//!   So, as with every session, nothing is lost and nothing comes twice.
//! - What is parked of a channel that goes is never more than its client has surely received (see `acknowledgement`).
//! - Events of a channel come after the answer to its join, which tells the client how they will be marked.

mod acknowledgement;
mod alarm;
mod channel;
mod dialogue;
mod finding;
mod incoming;
mod joining;
mod leaving;
mod outgoing;
mod placing;
mod telling;
mod tokens;
mod topics;

use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher,
    sync::{Arc, LazyLock},
};

use bytes::Bytes;
use tokio::time::Instant;

use super::{End, Sessions, Transport, dialogue::EXPIRY_MAX, live::Live, rhythm::Rhythm};
use crate::{
    auth::{Identity, Token},
    hub::Outbox,
    log_context::LogContext,
    protocol::phoenix::message::Serializer,
    types::SessionId,
};

/// What a connection has brought before its session begins.
#[derive(Debug)]
pub struct Opening {
    /// Names the session, and what it says in the log.
    pub log: LogContext,
    /// How messages are written.
    pub serializer: Serializer,
    /// The key that the connection came with.
    pub key: ApiKey,
    /// What tells this client's device from others of its user, if it said so.
    pub device: Option<Box<str>>,
}

impl Opening {
    /// Names the session: by its connection.
    pub(super) const fn session(&self) -> SessionId {
        self.log.connection
    }
}

/// The key that a connection came with. It may be the application's own, or a person's token.
#[derive(Debug)]
pub struct ApiKey {
    print: TokenPrint,
    holder: KeyHolder,
}

/// Whom a key speaks for.
#[derive(Debug)]
pub enum KeyHolder {
    /// The application.
    Nobody,
    /// A person.
    Person(Identity),
    /// It did once, and has expired.
    Expired,
}

impl ApiKey {
    /// A key that has been judged.
    pub fn new(key: &Token, holder: KeyHolder) -> Self {
        Self {
            print: TokenPrint::of(key.expose()),
            holder,
        }
    }
}

/// Tells whether two tokens are the same without keeping them. It is as good as the random keys of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TokenPrint(u64);

static PRINTS: LazyLock<RandomState> = LazyLock::new(RandomState::new);

impl TokenPrint {
    fn of(token: &str) -> Self {
        Self(PRINTS.hash_one(token))
    }
}

/// What a session wants its client to see.
#[derive(Clone, Debug)]
pub enum Frame {
    /// A message.
    Text(String),
    /// A message with bytes in it.
    Binary(Bytes),
    /// A sign of life that asks for one in return, which proves that everything before it has arrived.
    Ping(u64),
}

/// The number that an answer to a ping brings back.
fn answered_ping(bytes: &Bytes) -> Option<u64> {
    Some(u64::from_be_bytes(bytes[..].try_into().ok()?))
}

impl Sessions {
    /// Runs a session of Phoenix channels until it ends, and parks what it knows of its channels.
    ///
    /// # Cancel safety
    /// Safe: a session that is dropped leaves the hub and parks its channels where its client surely was.
    pub async fn run_phoenix(&self, opening: Opening, mut transport: impl Transport<Frame = Frame>) -> End {
        opening.log.debug("the session begins");
        let outbox = Arc::new(Outbox::new(self.outbox_bytes));
        let now = Instant::now();
        // Tokens end channels and not the session.
        let rhythm = Rhythm::new(self.rhythm.of_phoenix(), now, now + EXPIRY_MAX);
        let mut dialogue = dialogue::Phoenix::new(self, &opening, Arc::clone(&outbox));
        let end = {
            let _counted = self.metrics.count_session(transport.protocol());
            let end = Live::new(&self.metrics, &outbox, &mut dialogue, &mut transport, rhythm).await;
            dialogue.leave_hub();
            end
        };
        let farewell = self.finish(end, &opening.log, &mut transport).await;
        // The session parks its channels when it is dropped, after what this found out. It is lent and not given away, because
        // a future keeps room for what it is given beside the room where that was before.
        dialogue.note_farewell(farewell).await;
        end
    }
}
