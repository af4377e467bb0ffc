//! Refuses new connections before the process has more memory than it may have, so that those that are there do not suffer.
//!
//! What connections that leave give back, the allocator may keep for the next ones: the process then seems to have as much as before,
//! and could take nobody in for ever. So the measure is both: above the limit there may be a little fewer connections than there
//! were when it was reached, whatever the process has, and below it as many as there may be in all.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::{MissedTickBehavior, interval};

use crate::{memory, metrics::Metrics};

/// The time between two looks. In it some thousand connections may come, of some kilobytes each.
const LOOK: Duration = Duration::from_millis(250);

/// A limit that was reached counts as left again at this share of it, in percent, so that it is not told again and again.
const LEFT_PERCENT: u64 = 95;

/// Of the connections that there were when more memory was taken than ever before, so many may be again, in percent.
const KEPT_PERCENT: usize = 95;

/// Whether there is memory for another connection. Clones share the answer.
#[derive(Clone, Debug)]
pub struct Ceiling(Arc<AtomicUsize>);

/// Measures the memory, and decides.
#[derive(Clone, Debug)]
pub struct MemoryWatch {
    ceiling: Ceiling,
    limit: u64,
    metrics: Arc<Metrics>,
}

/// What is decided from one look to the next.
#[derive(Debug, Default)]
struct Shortage {
    /// The most memory since the limit was reached, in bytes, and how many connections there may be; nothing below the limit.
    reached: Option<(u64, usize)>,
}

impl Ceiling {
    /// No bound.
    fn none() -> Self {
        Self(Arc::new(AtomicUsize::new(usize::MAX)))
    }

    /// Whether there may be another connection beside so many.
    pub(super) fn has_room(&self, connections: usize) -> bool {
        connections < self.0.load(Ordering::Relaxed)
    }
}

/// The ceiling of a process that may have so many bytes, and what keeps it up to date. Without a limit there is none.
pub fn ceiling(limit: Option<u64>, metrics: &Arc<Metrics>) -> (Ceiling, Option<MemoryWatch>) {
    let ceiling = Ceiling::none();
    let watch = limit.map(|limit| MemoryWatch {
        ceiling: ceiling.clone(),
        limit,
        metrics: Arc::clone(metrics),
    });
    (ceiling, watch)
}

impl MemoryWatch {
    /// Measures again and again. It does not end, unless nothing can be measured on this system.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn run(self) {
        self.metrics.set_memory_limit(self.limit);
        let mut shortage = Shortage::default();
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let Some(resident) = memory::resident() else {
                return;
            };
            self.metrics.set_resident_memory(resident);
            let was_short = shortage.reached.is_some();
            let connections = self.metrics.open_connections();
            let allowed = shortage.look(resident, self.limit, connections);
            self.ceiling
                .0
                .store(allowed.unwrap_or(usize::MAX), Ordering::Relaxed);
            match (was_short, allowed) {
                (false, Some(allowed)) => tracing::warn!(
                    resident,
                    limit = self.limit,
                    connections,
                    allowed,
                    "the process has as much memory as it may have; connections beyond those allowed are refused"
                ),
                (true, None) => tracing::info!(resident, "there is memory for connections again"),
                _ => {}
            }
        }
    }
}

impl Shortage {
    /// Looks once: how many connections there may be, if that is bounded.
    fn look(&mut self, resident: u64, limit: u64, connections: usize) -> Option<usize> {
        let is_above = resident > limit;
        self.reached = match self.reached {
            None if is_above => Some((resident, kept(connections))),
            Some((most, allowed)) if is_above && resident > most => {
                Some((resident, allowed.min(kept(connections))))
            }
            Some(_) if resident <= limit / 100 * LEFT_PERCENT => None,
            same => same,
        };
        self.reached.map(|(_, allowed)| allowed)
    }
}

const fn kept(connections: usize) -> usize {
    connections * KEPT_PERCENT / 100
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u64 = 1_000_000;

    #[test]
    fn below_the_limit_there_is_no_bound() {
        let mut shortage = Shortage::default();
        assert_eq!(shortage.look(LIMIT, LIMIT, 10_000), None);
    }

    #[test]
    fn at_the_limit_no_more_come_and_those_who_leave_make_room_although_no_memory_is_given_back() {
        let mut shortage = Shortage::default();
        assert_eq!(shortage.look(LIMIT + 1, LIMIT, 10_000), Some(9_500));
        assert_eq!(shortage.look(LIMIT + 1, LIMIT, 9_000), Some(9_500));
        assert_eq!(shortage.look(LIMIT + 1, LIMIT, 9_500), Some(9_500));
    }

    #[test]
    fn where_memory_grows_all_the_same_there_may_be_fewer_and_never_more_again() {
        let mut shortage = Shortage::default();
        shortage.look(LIMIT + 1, LIMIT, 10_000);
        assert_eq!(shortage.look(LIMIT + 2, LIMIT, 9_500), Some(9_025));
        assert_eq!(shortage.look(LIMIT + 3, LIMIT, 10_000), Some(9_025));
    }

    #[test]
    fn the_bound_is_lifted_well_below_the_limit() {
        let mut shortage = Shortage::default();
        shortage.look(LIMIT + 1, LIMIT, 10_000);
        assert_eq!(shortage.look(LIMIT - 1, LIMIT, 5_000), Some(9_500));
        assert_eq!(shortage.look(LIMIT / 100 * 95, LIMIT, 5_000), None);
        assert_eq!(shortage.look(LIMIT - 1, LIMIT, 20_000), None);
    }

    #[test]
    fn a_ceiling_is_shared() {
        let ceiling = Ceiling::none();
        assert!(ceiling.has_room(usize::MAX - 1));
        ceiling.clone().0.store(2, Ordering::Relaxed);
        assert!(ceiling.has_room(1) && !ceiling.has_room(2));
    }
}
