//! How often something may happen: token buckets in the form of GCRA (ITU-T I.371, "generic cell rate algorithm"), which
//! needs one moment a bucket instead of a count and a time.

use std::{
    hash::Hash,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use dashmap::DashMap;
use tokio::time::Instant;

/// How many seconds' worth may come at once of one key's.
const BURST: Duration = Duration::from_secs(2);

/// Full buckets are looked for when the map has this many entries, and then whenever it has doubled.
const LOOK_FROM: usize = 1024;

/// How fast a bucket fills, and how much it holds. The bucket itself is the moment at which it is full again.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// The time that one costs.
    interval: Duration,
    burst: Duration,
}

impl Rate {
    /// So many a second, of which there is at least one; as many at once as come in `burst`.
    pub fn new(per_second: u32, burst: Duration) -> Self {
        Self {
            interval: Duration::from_secs(1) / per_second.max(1),
            burst,
        }
    }

    /// Whether the bucket has so many now, and takes them if it has: all or none.
    pub fn take(self, full_at: &mut Instant, count: u32, now: Instant) -> bool {
        let after = (*full_at).max(now) + self.interval.saturating_mul(count);
        let is_allowed = after <= now + self.burst;
        if is_allowed {
            *full_at = after;
        }
        is_allowed
    }

    /// Takes one that may not be there yet, and answers how long it is until it is; at most `longest`, beyond which nothing is taken ahead.
    pub fn take_ahead(self, full_at: &mut Instant, longest: Duration, now: Instant) -> Duration {
        let after = (*full_at).max(now) + self.interval;
        let wait = after.saturating_duration_since(now + self.burst);
        if wait > longest {
            return longest;
        }
        *full_at = after;
        wait
    }
}

/// A bucket for each key, a user for example. One that has filled up again is forgotten, so that the map holds those only that
/// were used within the last moments.
#[derive(Debug)]
pub struct Quota<K: Eq + Hash> {
    rate: Rate,
    full_at: DashMap<K, Instant>,
    look_at: AtomicUsize,
}

impl<K: Eq + Hash> Quota<K> {
    /// So many a second of each key's, and bursts of two seconds' worth.
    pub fn new(per_second: u32) -> Self {
        Self {
            rate: Rate::new(per_second, BURST),
            full_at: DashMap::new(),
            look_at: AtomicUsize::new(LOOK_FROM),
        }
    }

    /// Whether one more is allowed now.
    pub fn take(&self, key: K, now: Instant) -> bool {
        self.take_many(key, 1, now)
    }

    /// Whether so many more are allowed now: all or none.
    pub fn take_many(&self, key: K, count: u32, now: Instant) -> bool {
        self.forget_full(now);
        let mut full_at = self.full_at.entry(key).or_insert(now);
        self.rate.take(&mut full_at, count, now)
    }

    /// Takes one that may not be there yet, and answers how long it is until it is; at most `longest`, beyond which nothing is taken ahead.
    pub fn take_ahead(&self, key: K, longest: Duration, now: Instant) -> Duration {
        self.forget_full(now);
        let mut full_at = self.full_at.entry(key).or_insert(now);
        self.rate.take_ahead(&mut full_at, longest, now)
    }

    fn forget_full(&self, now: Instant) {
        if self.full_at.len() >= self.look_at.load(Ordering::Relaxed) {
            self.full_at.retain(|_, full_at| *full_at > now);
            let next = (self.full_at.len() * 2).max(LOOK_FROM);
            self.look_at.store(next, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_allowed_and_then_the_rate() {
        let (quota, now) = (Quota::new(10), Instant::now());
        assert!((0..20).all(|_| quota.take(1, now)));
        assert!(!quota.take(1, now));
        assert!(quota.take(2, now), "another key has a bucket of its own");
        let later = now + Duration::from_millis(100);
        assert!(quota.take(1, later));
        assert!(!quota.take(1, later));
        let much_later = later + Duration::from_secs(60);
        assert!((0..20).all(|_| quota.take(1, much_later)));
        assert!(!quota.take(1, much_later));
    }

    #[test]
    fn many_are_taken_whole_or_not_at_all() {
        let (quota, now) = (Quota::new(10), Instant::now());
        assert!(!quota.take_many(1, 21, now));
        assert!(quota.take_many(1, 15, now));
        assert!(!quota.take_many(1, 6, now));
        assert!(quota.take_many(1, 5, now));
        assert!(!quota.take_many(2, u32::MAX, now));
    }

    #[test]
    fn what_is_taken_ahead_comes_at_the_rate_and_not_later_than_allowed() {
        let (quota, now) = (Quota::new(10), Instant::now());
        let longest = Duration::from_secs(1);
        let take = |at| quota.take_ahead(1, longest, at);
        assert!((0..20).all(|_| take(now) == Duration::ZERO));
        let waits: Vec<Duration> = (0..12).map(|_| take(now)).collect();
        let expected = (1..=12).map(|tenth| (Duration::from_millis(100) * tenth).min(longest));
        assert_eq!(waits, expected.collect::<Vec<_>>());
        assert!(!quota.take(1, now), "what was taken ahead is owed");
        let later = now + longest;
        assert_eq!(take(later), Duration::from_millis(100));
        assert_eq!(take(later + Duration::from_secs(60)), Duration::ZERO);
    }

    #[test]
    fn keys_that_are_gone_are_forgotten() {
        let quota = Quota::new(10);
        let mut now = Instant::now();
        for number in 0..100_000 {
            assert!(quota.take(number, now));
            now += Duration::from_millis(1);
        }
        assert!(quota.full_at.len() <= LOOK_FROM, "{}", quota.full_at.len());
    }
}
