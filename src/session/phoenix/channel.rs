//! One channel: what its client asked for, whose token it has, and how far its client has come.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    TokenPrint,
    acknowledgement::{Acknowledgements, Ping},
};
use crate::{
    protocol::{
        cursor::Cursor,
        phoenix::{
            join::{Binding, BroadcastOptions},
            message::Reference,
        },
        snapshot::Snapshot,
        topic::TopicKey,
    },
    store::parking::Key,
    types::{BatchNumber, UserId},
};

/// A joined topic.
#[derive(Debug)]
pub(super) struct Channel {
    /// The topic as the client calls it.
    pub(super) topic: Box<str>,
    /// The reference of its join.
    pub(super) join_reference: Option<Reference>,
    /// The reference of the message that made it its person's: the join, or a token that came later.
    pub(super) asked_by: Option<u64>,
    /// What changes it hears, each with the identifier that the client knows it by.
    pub(super) bindings: Box<[(u64, Binding)]>,
    pub(super) broadcast: BroadcastOptions,
    pub(super) is_private: bool,
    /// Under which key the client is present.
    pub(super) presence_key: Box<str>,
    pub(super) presence: Presence,
    /// The token it was given last.
    pub(super) token: TokenPrint,
    pub(super) person: Option<Person>,
    /// When its client is asked to join again, in case it has a token by then.
    pub(super) asked_again_at: Option<Instant>,
    pub(super) subscription: Subscription,
    /// What is said where, if it may say and hear anything beside changes.
    pub(super) key: Option<TopicKey>,
    /// The answer to its join, if that waits until changes are heard.
    pub(super) deferred: Option<String>,
}

/// What a client wants to know of who is present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    /// Nothing, until it is present itself.
    Unheard,
    /// Who comes and goes.
    Heard,
}

/// Whose channel it is.
#[derive(Debug)]
pub(super) struct Person {
    pub(super) user: UserId,
    pub(super) expires: Instant,
    /// By what the channel is found again when it comes back.
    pub(super) key: Arc<Key>,
}

/// How far a channel is with its changes.
#[derive(Debug)]
pub(super) enum Subscription {
    /// It hears none: it asked for none, or has no person yet.
    Silent,
    /// It waits to be given a place.
    Fresh,
    /// Its place is being looked for.
    Finding {
        /// The last batch that is not the live stream's.
        begins_after: BatchNumber,
    },
    /// It hears what is live.
    Live(Place),
}

/// The place of a channel that hears what is live.
#[derive(Debug)]
pub(super) struct Place {
    /// The last batch that is not the live stream's.
    pub(super) begins_after: BatchNumber,
    /// What the client has seen already and the feed has not.
    pub(super) ahead: Option<Arc<Snapshot>>,
    /// What the client surely had before.
    pub(super) from: Cursor,
    /// What it has once `proof` is answered.
    pub(super) until: Cursor,
    /// The ping that follows the last of what was missed; none before that was written.
    pub(super) proof: Option<Ping>,
    /// Whether the proof has been seen.
    pub(super) is_proved: bool,
}

impl Channel {
    /// The user, if there is one.
    pub(super) fn user(&self) -> Option<UserId> {
        self.person.as_ref().map(|person| person.user)
    }

    /// Whether it hears changes, or will.
    pub(super) const fn is_subscribed(&self) -> bool {
        !matches!(self.subscription, Subscription::Silent)
    }

    /// What its client surely has. Nothing can be said of a channel whose place is not known.
    pub(super) fn position(&self, acknowledgements: &Acknowledgements) -> Option<Cursor> {
        let (Subscription::Live(place), Some(user)) = (&self.subscription, self.user()) else {
            return None;
        };
        if !place
            .proof
            .is_some_and(|proof| acknowledgements.is_answered(proof))
        {
            return Some(place.from.clone());
        }
        // Of two channels of one user the younger may have begun beyond what the older was sent last.
        let newer = acknowledgements
            .acknowledged(user)
            .filter(|known| known.epoch == place.until.epoch && known.snapshot.covers(&place.until.snapshot));
        Some(newer.unwrap_or(&place.until).clone())
    }
}
