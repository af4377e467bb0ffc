//! How far the feed has come, as sessions read it while they attach.

use std::sync::Arc;

use arc_swap::ArcSwapOption;

use crate::{
    protocol::{
        cursor::{Cursor, Epoch},
        snapshot::Snapshot,
    },
    types::BatchNumber,
};

/// The feed has read everything that `snapshot` sees; the last of it was this batch.
#[derive(Clone, Debug)]
pub struct Position {
    /// The life of the log.
    pub epoch: Epoch,
    /// The newest batch.
    pub batch: BatchNumber,
    /// What it left nothing unseen of.
    pub snapshot: Arc<Snapshot>,
}

impl Position {
    /// The cursor of a client that has everything up to here.
    pub fn cursor(&self) -> Cursor {
        Cursor {
            epoch: self.epoch.clone(),
            snapshot: Arc::clone(&self.snapshot),
        }
    }
}

/// The feed's newest position, or none before its first read.
#[derive(Debug, Default)]
pub struct Published {
    newest: ArcSwapOption<Position>,
    settled: ArcSwapOption<Position>,
}

impl Published {
    /// The fan-out calls this before it hands over the batch of the position.
    pub fn publish(&self, position: Arc<Position>) {
        self.newest.store(Some(position));
    }

    /// The fan-out calls this after it has handed over the whole batch of the position.
    pub fn settle(&self, position: Arc<Position>) {
        self.settled.store(Some(position));
    }

    /// The newest position. A session calls this after it has entered the registry.
    pub fn newest(&self) -> Option<Arc<Position>> {
        self.newest.load_full()
    }

    /// The newest position of which everything has reached the outboxes. A session that reads it and then finds its
    /// outbox empty has taken all there is up to here.
    pub fn settled(&self) -> Option<Arc<Position>> {
        self.settled.load_full()
    }
}
