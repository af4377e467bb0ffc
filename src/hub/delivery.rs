//! What waits in an outbox: events that the fan-out hands to a session, and what is said on topics.

use std::sync::Arc;

use tokio::time::Instant;

use super::{position::Position, topics::TopicMessage};
use crate::{
    protocol::{phoenix::change::Changes, server_frame::EventsFrame},
    types::{ChannelNumber, UserId},
};

/// What an outbox holds.
#[derive(Clone, Debug)]
pub enum Parcel {
    /// Committed changes.
    Events(Arc<Delivery>),
    /// Something that was said on a topic which one of the session's channels has joined.
    Topic {
        /// The channel.
        channel: ChannelNumber,
        /// What was said, shared by all who hear it.
        message: Arc<TopicMessage>,
    },
}

impl From<Arc<Delivery>> for Parcel {
    fn from(delivery: Arc<Delivery>) -> Self {
        Self::Events(delivery)
    }
}

impl Parcel {
    /// What it counts against an outbox's bound.
    pub fn cost_bytes(&self) -> usize {
        match self {
            Self::Events(delivery) => delivery.cost_bytes(),
            Self::Topic { message, .. } => message.cost_bytes(),
        }
    }
}

/// One frame of one batch for one person, shared by all sessions of that person.
#[derive(Debug)]
pub struct Delivery {
    /// The person whose point of view it is.
    pub user: UserId,
    /// Where the feed is after the batch that the events belong to.
    pub position: Arc<Position>,
    /// The events, encoded.
    pub frame: EventsFrame,
    /// When the oldest of the events was committed, by this machine's clock.
    pub committed: Instant,
    /// The events as Supabase's clients hear them, once one of them asks.
    pub changes: Changes,
}

impl Delivery {
    /// What it counts against an outbox's bound: the text and this structure around it.
    pub fn cost_bytes(&self) -> usize {
        self.frame.len() + size_of::<Self>()
    }
}
