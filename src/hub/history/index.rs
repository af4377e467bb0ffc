//! Which of the kept events concern whom.
//!
//! It is brought up to date when somebody comes back, and not when events come: the way of a message is spared, and of ten thousand who
//! come back at once the first pays for all.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    sync::Arc,
};

use uuid::Uuid;

use super::Batch;
use crate::{
    protocol::event::{Event, Operation},
    types::UserId,
};

/// Where an event is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    /// How many batches were kept before this one, since the history began.
    batch: u64,
    chunk: u32,
    event: u32,
}

/// What a chunk holds that concerns a person.
pub(super) type Kept = (Arc<[Event]>, usize);

/// Events by person, and the last delete of each message, over the batches that have been looked at.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Index {
    /// The first batch that has not been looked at.
    next: u64,
    people: HashMap<UserId, VecDeque<Place>>,
    /// The serial number of the last delete of each message that has one.
    gone: HashMap<Uuid, i64>,
}

impl Index {
    /// Looks at what has come since the last time. `first` is the number of the oldest batch that is kept.
    pub(super) fn update(&mut self, first: u64, batches: &VecDeque<Batch>) {
        self.next = self.next.max(first);
        let seen = usize::try_from(self.next - first).unwrap_or(usize::MAX);
        for batch in batches.iter().skip(seen) {
            for (chunk, events) in (0..).zip(&batch.chunks) {
                for (event, change) in (0..).zip(events.iter()) {
                    let place = Place {
                        batch: self.next,
                        chunk,
                        event,
                    };
                    for user in change.users() {
                        self.people.entry(user).or_default().push_back(place);
                    }
                    if change.operation == Operation::Delete {
                        let last = self.gone.entry(change.message).or_insert(change.seq);
                        *last = change.seq.max(*last);
                    }
                }
            }
            self.next += 1;
        }
    }

    /// The oldest batch, with this number, is no longer kept.
    pub(super) fn forget(&mut self, number: u64, batch: &Batch) {
        if number >= self.next {
            return;
        }
        for change in batch.chunks.iter().flat_map(|events| events.iter()) {
            for user in change.users() {
                if let Entry::Occupied(mut places) = self.people.entry(user) {
                    while places.get().front().is_some_and(|place| place.batch <= number) {
                        places.get_mut().pop_front();
                    }
                    if places.get().is_empty() {
                        places.remove();
                    }
                }
            }
            if self.gone.get(&change.message) == Some(&change.seq) {
                self.gone.remove(&change.message);
            }
        }
    }

    /// What concerns `user` in the batch with the number `from` and later ones, but for what a message was that is gone: the database would not tell it
    /// either. `first` is the number of the oldest batch that is kept.
    pub(super) fn concerning(
        &self,
        user: UserId,
        from: u64,
        first: u64,
        batches: &VecDeque<Batch>,
    ) -> Vec<Kept> {
        let Some(places) = self.people.get(&user) else {
            return Vec::new();
        };
        let seen = places.partition_point(|place| place.batch < from);
        places
            .range(seen..)
            .filter_map(|place| {
                let batch = batches.get(usize::try_from(place.batch - first).ok()?)?;
                let chunk = batch.chunks.get(place.chunk as usize)?;
                let event = place.event as usize;
                let is_gone = |change: &Event| {
                    change.operation != Operation::Delete
                        && self
                            .gone
                            .get(&change.message)
                            .is_some_and(|last| *last > change.seq)
                };
                (!is_gone(&chunk[event])).then(|| (Arc::clone(chunk), event))
            })
            .collect()
    }

    /// How much room an event takes in the index, in bytes, at most.
    pub(super) const fn room() -> usize {
        2 * size_of::<Place>()
    }
}
