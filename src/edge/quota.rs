//! How many requests one user may make: a token bucket for each, in the form of GCRA (ITU-T I.371, "generic cell rate
//! algorithm"), which needs one moment a user instead of a count and a time.
//!
//! A bucket that has filled up again is forgotten, so that the map holds those users only who called within the last
//! moments.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use dashmap::DashMap;
use tokio::time::Instant;

use crate::types::UserId;

/// How many seconds' worth of requests may come at once.
const BURST_SECONDS: u32 = 2;

/// Full buckets are looked for when the map has this many entries, and then whenever it has doubled.
const LOOK_FROM: usize = 1024;

/// Counts the requests of all users.
#[derive(Debug)]
pub struct Quota {
    /// The time that one request costs.
    interval: Duration,
    burst: Duration,
    /// When each user's bucket is full again.
    full_at: DashMap<UserId, Instant>,
    look_at: AtomicUsize,
}

impl Quota {
    /// So many requests a second, and bursts of two seconds' worth.
    pub fn new(requests_per_second: u32) -> Self {
        Self {
            interval: Duration::from_secs(1) / requests_per_second.max(1),
            burst: Duration::from_secs(BURST_SECONDS.into()),
            full_at: DashMap::new(),
            look_at: AtomicUsize::new(LOOK_FROM),
        }
    }

    /// Whether this user may make another request now.
    pub fn take(&self, user: UserId, now: Instant) -> bool {
        if self.full_at.len() >= self.look_at.load(Ordering::Relaxed) {
            self.full_at.retain(|_, full_at| *full_at > now);
            let next = (self.full_at.len() * 2).max(LOOK_FROM);
            self.look_at.store(next, Ordering::Relaxed);
        }
        let mut full_at = self.full_at.entry(user).or_insert(now);
        let after = (*full_at).max(now) + self.interval;
        let is_allowed = after <= now + self.burst;
        if is_allowed {
            *full_at = after;
        }
        is_allowed
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn user(number: u128) -> UserId {
        UserId(Uuid::from_u128(number))
    }

    #[test]
    fn a_burst_is_allowed_and_then_the_rate() {
        let (quota, now) = (Quota::new(10), Instant::now());
        assert!((0..20).all(|_| quota.take(user(1), now)));
        assert!(!quota.take(user(1), now));
        assert!(quota.take(user(2), now), "another user has a bucket of his own");
        let later = now + Duration::from_millis(100);
        assert!(quota.take(user(1), later));
        assert!(!quota.take(user(1), later));
        let much_later = later + Duration::from_secs(60);
        assert!((0..20).all(|_| quota.take(user(1), much_later)));
        assert!(!quota.take(user(1), much_later));
    }

    #[test]
    fn users_who_are_gone_are_forgotten() {
        let quota = Quota::new(10);
        let mut now = Instant::now();
        for number in 0..100_000 {
            assert!(quota.take(user(number), now));
            now += Duration::from_millis(1);
        }
        assert!(quota.full_at.len() <= LOOK_FROM, "{}", quota.full_at.len());
    }
}
