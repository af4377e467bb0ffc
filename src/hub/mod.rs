//! The meeting point of the fan-out and the sessions: who is here, and how far the feed has come.
//!
//! Invariants:
//! - No guard of the map leaves [`registry`], and nothing here waits.
//! - The feed publishes its [`position`] before it hands over the batch of that position, and a session enters the
//!   registry before it reads the position. So whichever way the race falls, an event is in the session's replay or
//!   in its live stream, never in both and never in neither.

pub mod delivery;
pub mod feed_state;
pub mod history;
pub mod outbox;
pub mod position;
pub mod presence;
pub mod registry;
pub mod topics;

pub use self::{
    delivery::{Delivery, Parcel},
    feed_state::{FeedState, FeedStatus},
    history::History,
    outbox::Outbox,
    position::Position,
    presence::PresenceError,
    registry::Registry,
    topics::{TopicLimits, Topics},
};

use std::sync::Arc;

use arc_swap::ArcSwapOption;

use crate::{metrics::Metrics, protocol::phoenix::relation::Relation};

/// What the fan-out and the sessions share.
#[derive(Debug)]
pub struct Hub {
    /// Who is here.
    pub registry: Registry,
    /// How far the feed has come.
    pub position: position::Published,
    /// What it told last.
    pub history: Arc<History>,
    /// The table whose changes are told, with the columns that rows have; none before the feed has begun.
    pub relation: ArcSwapOption<Relation>,
    /// Who has joined which topic, and who is present there.
    pub topics: Arc<Topics>,
}

impl Hub {
    /// Nobody is here, and the feed has not begun. A user may have `sessions_per_user` sessions. What happens on its topics is
    /// counted in these metrics.
    pub fn new(sessions_per_user: usize, metrics: Arc<Metrics>) -> Self {
        Self {
            registry: Registry::new(sessions_per_user),
            position: position::Published::default(),
            history: Arc::default(),
            relation: ArcSwapOption::empty(),
            topics: Arc::new(Topics::new(TopicLimits::default(), metrics)),
        }
    }
}
