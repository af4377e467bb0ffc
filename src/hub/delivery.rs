//! What the fan-out hands to a session: one finished frame, and what is needed to tell where it belongs.

use std::sync::Arc;

use tokio::time::Instant;

use crate::{
    protocol::{server_frame::EventsFrame, snapshot::Snapshot},
    types::BatchNumber,
};

/// One frame of one batch for one person, shared by all sessions of that person.
#[derive(Debug)]
pub struct Delivery {
    /// The batch that the events belong to.
    pub batch: BatchNumber,
    /// What the feed sees after this batch.
    pub snapshot: Arc<Snapshot>,
    /// The events, encoded.
    pub frame: EventsFrame,
    /// When the oldest of the events was committed, by this machine's clock.
    pub committed: Instant,
}

impl Delivery {
    /// What it counts against an outbox's bound: the text and this structure around it.
    pub fn cost_bytes(&self) -> usize {
        self.frame.len() + size_of::<Self>()
    }
}
