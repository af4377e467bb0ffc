//! The end of a gateway: no new connections, sessions closed in batches, then everything else.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use rand::{RngExt, seq::SliceRandom};
use tokio::time::{Instant, sleep, sleep_until};

use super::App;
use crate::{hub::Outbox, protocol::close::CloseCode};

/// Sessions that are closed at once. Those of one batch come back to other gateways in the same moment, each delayed
/// by its own jitter.
const BATCH_SESSIONS: usize = 200;

/// The share of the grace over which the batches are spread; the rest is for sessions to say goodbye.
const SPREAD: f64 = 0.5;

/// The longest pause between two batches: a few sessions need not wait for the whole grace.
const PAUSE_MAX: Duration = Duration::from_millis(250);

/// How often it is looked whether sessions are left, among them those that attached while the others were closed.
const LOOK: Duration = Duration::from_millis(20);

impl App {
    /// Ends the gateway within the grace: not ready, no new connections, sessions closed with 1001 in jittered batches,
    /// then the feed and the rest.
    ///
    /// # Errors
    /// The names and counts of tasks that had not ended when the grace was over.
    ///
    /// # Cancel safety
    /// Safe, and then the gateway is left as far drained as it was.
    pub async fn drain(self, grace: Duration) -> Result<(), BTreeMap<&'static str, usize>> {
        let deadline = Instant::now() + grace;
        self.draining.cancel();
        let mut outboxes = self.hub.registry.outboxes();
        tracing::info!(sessions = outboxes.len(), ?grace, "draining");
        close_in_batches(&mut outboxes, grace.mul_f64(SPREAD)).await;
        while self.hub.registry.sessions() > 0 && Instant::now() < deadline {
            for outbox in self.hub.registry.outboxes() {
                outbox.close(CloseCode::GoingAway);
            }
            sleep_until((Instant::now() + LOOK).min(deadline)).await;
        }
        // The feed goes on until here, so that sessions that wait for their batch miss nothing meanwhile.
        self.tasks.stop();
        self.tasks
            .finish(deadline.saturating_duration_since(Instant::now()))
            .await
    }
}

async fn close_in_batches(outboxes: &mut [Arc<Outbox>], spread: Duration) {
    // Sessions of one user lie side by side; mixed, they do not all end in one batch.
    outboxes.shuffle(&mut rand::rng());
    let batches = u32::try_from(outboxes.len().div_ceil(BATCH_SESSIONS)).unwrap_or(u32::MAX);
    let pause = (spread / batches.max(1)).min(PAUSE_MAX);
    for (index, batch) in outboxes.chunks(BATCH_SESSIONS).enumerate() {
        if index > 0 {
            let jitter = rand::rng().random_range(0.5..1.5);
            sleep(pause.mul_f64(jitter)).await;
        }
        for outbox in batch {
            outbox.close(CloseCode::GoingAway);
        }
    }
}
