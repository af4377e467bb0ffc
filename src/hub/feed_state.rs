//! What the feed is doing, for `/readyz`, the log and the metrics.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::metrics::Metrics;

/// The feed's state, with words for an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FeedState {
    /// No connection yet, or a new one is being opened.
    Connecting,
    /// Everything committed so far has been read, and the doorbell is heard.
    Listening,
    /// The connection was lost or refused for a reason that may pass; the text says which.
    Waiting(String),
    /// The database refuses for a reason that a person must change; it is tried again all the same.
    Refused(String),
}

impl FeedState {
    const fn label(&self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Listening => "listening",
            Self::Waiting(_) => "waiting",
            Self::Refused(_) => "refused",
        }
    }
}

/// The feed's state as others read it. Clones share it.
#[derive(Clone, Debug)]
pub struct FeedStatus {
    state: Arc<ArcSwap<FeedState>>,
    metrics: Arc<Metrics>,
}

impl FeedStatus {
    /// Not connected yet.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            state: Arc::new(ArcSwap::from_pointee(FeedState::Connecting)),
            metrics,
        }
    }

    /// The state at this moment.
    pub fn current(&self) -> Arc<FeedState> {
        self.state.load_full()
    }

    /// The feed calls this whenever its state changes.
    pub fn enter(&self, state: FeedState) {
        self.metrics.enter_feed_state(state.label());
        self.state.store(Arc::new(state));
    }
}
