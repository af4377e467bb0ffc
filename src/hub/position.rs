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
pub struct Published(ArcSwapOption<Position>);

impl Published {
    /// The feed calls this before it hands over the batch of the position.
    pub fn publish(&self, position: Position) {
        self.0.store(Some(Arc::new(position)));
    }

    /// The newest position. A session calls this after it has entered the registry.
    pub fn newest(&self) -> Option<Arc<Position>> {
        self.0.load_full()
    }
}
