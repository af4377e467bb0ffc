//! Tells a feed that stands still from one to which nothing happens.
//!
//! A feed that waits for a ring reads all the same when its idle tick is over, so that the time since its last read stays below
//! that, however quiet the application is. It grows when the database does not answer; of that the feed's own deadlines take care. It
//! also grows when the feed's task is stuck in the gateway, of which nobody else would take notice.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::{MissedTickBehavior, interval};

use crate::{
    hub::{FeedState, FeedStatus},
    metrics::Metrics,
};

/// The time between two looks.
const LOOK: Duration = Duration::from_secs(1);

/// What a feed may be late beyond its own deadlines before it counts as stuck: a machine may be busy.
const LATENESS_MAX: Duration = Duration::from_secs(60);

/// Counts what a feed does. Clones share the counts.
#[derive(Clone, Debug, Default)]
pub(super) struct Progressing(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// Reads that came to their end.
    reads: AtomicU64,
    /// Those, chunks of a read that were handed over, and connections that ended.
    steps: AtomicU64,
}

impl Progressing {
    /// The log was read to its end.
    pub(super) fn note_read(&self) {
        self.0.reads.fetch_add(1, Ordering::Relaxed);
        self.note_step();
    }

    /// The feed got on.
    pub(super) fn note_step(&self) {
        self.0.steps.fetch_add(1, Ordering::Relaxed);
    }
}

/// Watches one feed.
#[derive(Debug)]
pub struct Watchdog {
    progressing: Progressing,
    longest_wait: Duration,
    status: FeedStatus,
    metrics: Arc<Metrics>,
}

impl Watchdog {
    /// For a feed whose longest rightful wait is known.
    pub(super) const fn new(
        progressing: Progressing,
        longest_wait: Duration,
        status: FeedStatus,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            progressing,
            longest_wait,
            status,
            metrics,
        }
    }

    /// Sets `herald_feed_silence_seconds` once a second. Answers why the gateway cannot go on, if the feed says that it listens
    /// and has not made a step for longer than all its deadlines allow; it does not end otherwise.
    ///
    /// Looks are counted, and not the time between them: a process that was suspended makes one look when it wakes, and the feed
    /// has its chance before the next.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn run(self) -> String {
        let patience = self.longest_wait + LATENESS_MAX;
        let looks_max = patience.as_secs() / LOOK.as_secs();
        let (mut reads, mut steps) = (Stillness::default(), Stillness::default());
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let silence = reads.look(self.progressing.0.reads.load(Ordering::Relaxed));
            let seconds = silence.saturating_mul(LOOK.as_secs());
            self.metrics
                .feed_silence
                .set(i64::try_from(seconds).unwrap_or(i64::MAX));
            let stood = steps.look(self.progressing.0.steps.load(Ordering::Relaxed));
            if stood > looks_max && *self.status.current() == FeedState::Listening {
                return format!(
                    "the feed has been stuck for {patience:?}, longer than any answer of the database may take; \
                     a restart continues where it stopped"
                );
            }
        }
    }
}

/// How long a count has stayed the same.
#[derive(Debug, Default)]
struct Stillness {
    count: u64,
    looks: u64,
}

impl Stillness {
    /// Looks once, and answers for how many looks the count has been the same.
    fn look(&mut self, count: u64) -> u64 {
        self.looks = if count == self.count { self.looks + 1 } else { 0 };
        self.count = count;
        self.looks
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, sleep, timeout};

    use super::*;

    const WAIT: Duration = Duration::from_secs(40);

    fn watched() -> (Progressing, FeedStatus, Arc<Metrics>, Watchdog) {
        let (progressing, metrics) = (Progressing::default(), Arc::new(Metrics::new()));
        let status = FeedStatus::new(Arc::clone(&metrics));
        let watchdog = Watchdog::new(progressing.clone(), WAIT, status.clone(), Arc::clone(&metrics));
        (progressing, status, metrics, watchdog)
    }

    #[tokio::test(start_paused = true)]
    async fn a_feed_that_listens_and_stands_still_is_reported_after_all_its_deadlines() {
        let (_progressing, status, metrics, watchdog) = watched();
        status.enter(FeedState::Listening);
        let began = Instant::now();
        let reason = watchdog.run().await;
        assert!(reason.contains("stuck for 100s"), "{reason}");
        assert_eq!(began.elapsed().as_secs(), (WAIT + LATENESS_MAX).as_secs());
        assert_eq!(metrics.feed_silence.get(), 101);
    }

    #[tokio::test(start_paused = true)]
    async fn a_feed_without_a_database_is_silent_and_not_stuck() {
        let (_progressing, status, metrics, watchdog) = watched();
        status.enter(FeedState::Waiting("the database is away".to_owned()));
        timeout(WAIT * 10, watchdog.run()).await.unwrap_err();
        assert!(metrics.feed_silence.get() >= 399);
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_read_is_silent_and_not_stuck_and_a_read_ends_the_silence() {
        let (progressing, status, metrics, watchdog) = watched();
        status.enter(FeedState::Listening);
        let reading = async {
            for _ in 0..10 {
                sleep(WAIT).await;
                progressing.note_step();
            }
            assert!(metrics.feed_silence.get() >= 399);
            progressing.note_read();
            // Both sides wake at the same instants of the paused clock and in any order, so that only the second look is surely over.
            sleep(LOOK * 2).await;
            assert!(metrics.feed_silence.get() <= 2);
        };
        tokio::select! {
            reason = watchdog.run() => panic!("{reason}"),
            () = reading => {}
        }
    }
}
