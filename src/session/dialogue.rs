//! What a session needs of the protocol that is spoken in it.

use std::{
    task::Context,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use super::{End, Inbound, rhythm::Rhythm};
use crate::protocol::close::CloseCode;

/// A token ends after this time at the latest: the clock of a timer does not reach for ever.
pub(super) const EXPIRY_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// A frame for the client, and what it is counted as once it was flushed.
#[derive(Debug)]
pub(super) struct Written<F> {
    /// The frame.
    pub(super) frame: F,
    /// How many events are in it.
    pub(super) events: u64,
    /// When the oldest of them was committed, if it came from the live stream.
    pub(super) committed: Option<Instant>,
}

impl<F> Written<F> {
    /// A frame without events.
    pub(super) const fn plain(frame: F) -> Self {
        Self {
            frame,
            events: 0,
            committed: None,
        }
    }
}

/// One side of what is said in a session. It decides what is said, and never waits: what takes time is polled.
pub(super) trait Dialogue: Unpin {
    /// What it says.
    type Frame;

    /// Whether there is room for what the client's next frame may cause. Nothing is read from the client while there is none.
    fn has_room(&self) -> bool;

    /// Takes in what has arrived.
    ///
    /// # Errors
    /// The code to close with.
    fn hear(&mut self, inbound: Inbound, rhythm: &mut Rhythm) -> Result<(), CloseCode>;

    /// Goes on with what takes time, and looks at the clock.
    ///
    /// # Errors
    /// The session is over.
    fn poll_work(&mut self, rhythm: &mut Rhythm, context: &mut Context<'_>) -> Result<(), End>;

    /// It is time for a sign of life.
    fn beat(&mut self);

    /// What is said next, now, if anything.
    ///
    /// # Errors
    /// The session is over, and everything before was said.
    fn next_frame(&mut self, now: Instant) -> Result<Option<Written<Self::Frame>>, End>;
}

/// When a token that ends at this moment ends by the runtime's clock.
pub(super) fn expiry(now: Instant, expires_at: SystemTime) -> Instant {
    now + expires_at
        .duration_since(SystemTime::now())
        .unwrap_or_default()
        .min(EXPIRY_MAX)
}
