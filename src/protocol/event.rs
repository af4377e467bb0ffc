//! One committed change of one message, as the feed reads it.

use std::time::SystemTime;

use uuid::Uuid;

use super::{conversation::Conversation, snapshot::Transaction};
use crate::types::UserId;

/// What was done to the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// A new message.
    Insert,
    /// A visible column changed.
    Update,
    /// The message is gone.
    Delete,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Insert, Self::Update, Self::Delete];

    /// The name on the wire and in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Delete => "delete",
        }
    }

    /// Reads the letter that the log keeps.
    pub const fn from_letter(letter: u8) -> Option<Self> {
        match letter {
            b'i' => Some(Self::Insert),
            b'u' => Some(Self::Update),
            b'd' => Some(Self::Delete),
            _ => None,
        }
    }
}

/// One change, joined with the view's row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The log's serial number: orders the events of one batch, and no more.
    pub seq: i64,
    /// The transaction that made the change.
    pub transaction: Transaction,
    /// When it was logged, by the database's clock: while the statement ran, shortly before the commit.
    pub logged_at: SystemTime,
    /// What was done.
    pub operation: Operation,
    /// Which message.
    pub message: Uuid,
    /// Who wrote it.
    pub sender: UserId,
    /// Whom it was written to.
    pub receiver: UserId,
    /// What it is about, if anything.
    pub product: Option<Uuid>,
    /// The view's row as JSON, made by Postgres and never parsed here. Absent for a delete.
    pub row: Option<Box<str>>,
}

impl Event {
    /// The people it concerns, each once: a message to oneself has one.
    pub fn users(&self) -> impl Iterator<Item = UserId> + use<> {
        let receiver = (self.receiver != self.sender).then_some(self.receiver);
        [Some(self.sender), receiver].into_iter().flatten()
    }

    /// The conversation as `viewer`, one of the two people, sees it.
    pub fn conversation(&self, viewer: UserId) -> Conversation {
        let other = if viewer == self.sender {
            self.receiver
        } else {
            self.sender
        };
        Conversation {
            other,
            product: self.product,
        }
    }
}
