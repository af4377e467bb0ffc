//! Delays between attempts: exponential, capped, with full jitter.
//!
//! Full jitter (a uniform draw between zero and the exponential ceiling) spreads a crowd of retries best; see
//! Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015. The random source is an argument,
//! so that a delay is a pure function of the attempt and the draw.

use std::time::Duration;

use rand::{Rng, RngExt};

/// How long to wait before the next attempt.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    attempt: u32,
}

impl Backoff {
    /// The first ceiling is `base`; it doubles with each attempt until `cap`.
    pub const fn new(base: Duration, cap: Duration) -> Self {
        Self {
            base,
            cap,
            attempt: 0,
        }
    }

    /// The longest delay the next attempt may draw.
    pub fn ceiling(&self) -> Duration {
        // Beyond 2^20 the cap has long been reached; the bound keeps the shift from overflowing.
        self.base.saturating_mul(1 << self.attempt.min(20)).min(self.cap)
    }

    /// Draws the delay before the next attempt, and counts that attempt.
    pub fn next_delay(&mut self, random: &mut impl Rng) -> Duration {
        let delay = self.ceiling().mul_f64(random.random::<f64>());
        self.attempt = self.attempt.saturating_add(1);
        delay
    }

    /// Forgets past failures. Call it only once an attempt has proved itself by real work, not when it merely began.
    pub const fn reset(&mut self) {
        self.attempt = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    proptest! {
        #[test]
        fn a_delay_never_exceeds_its_ceiling_and_the_ceiling_never_the_cap(
            base_ms in 1u64..1_000, cap_ms in 1u64..60_000, attempts in 1usize..64, seed: u64,
        ) {
            let mut random = StdRng::seed_from_u64(seed);
            let cap = Duration::from_millis(cap_ms);
            let mut backoff = Backoff::new(Duration::from_millis(base_ms), cap);
            let mut previous = Duration::ZERO;
            for _ in 0..attempts {
                let ceiling = backoff.ceiling();
                prop_assert!(ceiling <= cap);
                prop_assert!(ceiling >= previous);
                prop_assert!(backoff.next_delay(&mut random) <= ceiling);
                previous = ceiling;
            }
        }
    }

    #[test]
    fn the_ceiling_doubles_until_the_cap_and_starts_again_after_a_reset() {
        let mut random = StdRng::seed_from_u64(1);
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(450));
        let ceilings: Vec<u128> = (0..4)
            .map(|_| {
                let ceiling = backoff.ceiling().as_millis();
                backoff.next_delay(&mut random);
                ceiling
            })
            .collect();
        assert_eq!(ceilings, [100, 200, 400, 450]);
        backoff.reset();
        assert_eq!(backoff.ceiling().as_millis(), 100);
    }
}
