//! What has happened so far, written by all sessions and writers at once.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{latency::Latencies, plan::Plan, tally::Arrival};

/// Counts and times of one run.
#[derive(Debug)]
pub(super) struct Progress {
    began: Instant,
    /// When each message was due, and when it was confirmed, in microseconds since the beginning; 0 for not yet.
    due: Vec<AtomicU64>,
    committed: Vec<AtomicU64>,
    /// Sessions that are open.
    pub(super) open: AtomicU64,
    /// Messages that were confirmed.
    pub(super) written: AtomicU64,
    /// Messages that were not, or not for certain.
    pub(super) failed: AtomicU64,
    /// Deliveries that there have to be for what was confirmed.
    pub(super) expected: AtomicU64,
    /// Deliveries that there were, each counted once.
    pub(super) delivered: AtomicU64,
    /// Deliveries that had been there before.
    pub(super) again: AtomicU64,
    /// Deliveries to somebody whom the message does not concern.
    pub(super) foreign: AtomicU64,
    last_commit: AtomicU64,
    last_delivery: AtomicU64,
    times: Mutex<Times>,
    troubles: Mutex<Troubles>,
}

/// How long deliveries took.
#[derive(Debug)]
pub(super) struct Times {
    /// From the moment that the message was due to be written.
    pub(super) from_due: Latencies,
    /// From the moment that its writer knew that it was committed. What arrived before counts as zero.
    pub(super) from_commit: Latencies,
    /// As the first, since the last sample.
    pub(super) lately: Latencies,
}

/// What went wrong, as far as it is told.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    /// Why the first message was not written.
    pub(super) first_failure: Option<String>,
    /// Why sessions ended that should not have, and how many.
    pub(super) ended: BTreeMap<String, u64>,
}

impl Progress {
    /// Nothing has happened.
    pub(super) fn of(plan: &Plan) -> Self {
        let times = || (0..plan.messages).map(|_| AtomicU64::new(0)).collect();
        Self {
            began: Instant::now(),
            due: times(),
            committed: times(),
            open: AtomicU64::new(0),
            written: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            expected: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            again: AtomicU64::new(0),
            foreign: AtomicU64::new(0),
            last_commit: AtomicU64::new(0),
            last_delivery: AtomicU64::new(0),
            times: Mutex::new(Times {
                from_due: Latencies::new(),
                from_commit: Latencies::new(),
                lately: Latencies::new(),
            }),
            troubles: Mutex::default(),
        }
    }

    /// A message is about to be written, and was due at this moment.
    pub(super) fn note_due(&self, message: u32, due: Instant) {
        self.due[message as usize].store(self.microseconds(due), Relaxed);
    }

    /// A message is committed.
    pub(super) fn note_committed(&self, message: u32, plan: &Plan, at: Instant) {
        let at = self.microseconds(at);
        self.committed[message as usize].store(at, Relaxed);
        self.last_commit.fetch_max(at, Relaxed);
        self.expected.fetch_add(plan.audience(message).into(), Relaxed);
        self.written.fetch_add(1, Relaxed);
    }

    /// So many messages were not written, or nobody knows.
    pub(super) fn note_failed(&self, messages: u32, why: &dyn std::fmt::Display) {
        self.failed.fetch_add(messages.into(), Relaxed);
        self.troubles()
            .first_failure
            .get_or_insert_with(|| why.to_string());
    }

    /// A session has ended that should not have.
    pub(super) fn note_ended(&self, why: String) {
        *self.troubles().ended.entry(why).or_default() += 1;
    }

    /// A session has heard a message.
    pub(super) fn note_arrival(&self, message: u32, arrival: Arrival, at: Instant) {
        match arrival {
            Arrival::Foreign => drop(self.foreign.fetch_add(1, Relaxed)),
            Arrival::Again => drop(self.again.fetch_add(1, Relaxed)),
            Arrival::First => {
                let at = self.microseconds(at);
                self.last_delivery.fetch_max(at, Relaxed);
                self.delivered.fetch_add(1, Relaxed);
                let since = |then: u64| Duration::from_micros(at.saturating_sub(then));
                let committed = match self.committed[message as usize].load(Relaxed) {
                    0 => at,
                    committed => committed,
                };
                let due = since(self.due[message as usize].load(Relaxed));
                let mut times = self.times();
                times.from_due.add(due);
                times.lately.add(due);
                times.from_commit.add(since(committed));
            }
        }
    }

    /// Whether a message was written for certain.
    pub(super) fn is_written(&self, message: u32) -> bool {
        self.committed[message as usize].load(Relaxed) != 0
    }

    /// Whether everything that was written has arrived.
    pub(super) fn is_complete(&self) -> bool {
        self.delivered.load(Relaxed) >= self.expected.load(Relaxed)
    }

    /// How long after the last commit the last delivery was.
    pub(super) fn lag(&self) -> Duration {
        let (committed, delivered) = (self.last_commit.load(Relaxed), self.last_delivery.load(Relaxed));
        Duration::from_micros(delivered.saturating_sub(committed))
    }

    /// The time from the beginning until the last commit.
    pub(super) fn written_for(&self) -> Duration {
        Duration::from_micros(self.last_commit.load(Relaxed))
    }

    /// Since when things are counted.
    pub(super) const fn began(&self) -> Instant {
        self.began
    }

    pub(super) fn times(&self) -> MutexGuard<'_, Times> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn troubles(&self) -> MutexGuard<'_, Troubles> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Never 0, which stands for not yet.
    fn microseconds(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.began);
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX).max(1)
    }
}
