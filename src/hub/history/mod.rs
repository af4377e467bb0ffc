//! The newest batches, kept in memory for sessions that come back after a short gap: when a network or a gateway is back, everybody
//! comes at once, and each would ask the database for the same rows.
//!
//! What is kept is complete from one snapshot on, so that it answers whoever has seen at least that much; all others ask the
//! database. It is what the live stream told, and is told again in the order of the log.

mod index;

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use self::index::Index;
use super::Position;
use crate::{
    protocol::{
        cursor::{Cursor, Epoch},
        event::Event,
        snapshot::Snapshot,
    },
    types::{BatchNumber, UserId},
};

/// Room for events, in bytes: some thousand messages, which is more than comes while a network changes, and little beside the
/// sessions of a gateway on which that matters.
const BYTES_MAX: usize = 8 << 20;

/// Batches at most, so that small ones do not take more room than what they hold.
const BATCHES_MAX: usize = 4096;

/// What the feed told last.
#[derive(Debug, Default)]
pub struct History {
    /// None before the feed has begun.
    kept: Mutex<Option<Kept>>,
}

#[derive(Debug)]
struct Kept {
    epoch: Epoch,
    /// Everything that this does not see, and the last batch does, is kept; none if nothing is before the next batch has ended.
    start: Option<Arc<Snapshot>>,
    /// The last batch that is kept, or that had no events.
    end: BatchNumber,
    batches: VecDeque<Batch>,
    /// How many batches were kept before the oldest of these.
    first: u64,
    index: Index,
    bytes: usize,
    unfinished: Unfinished,
}

#[derive(Debug)]
struct Batch {
    until: Arc<Snapshot>,
    chunks: Vec<Arc<[Event]>>,
    bytes: usize,
}

/// The chunks so far of a batch that has more of them.
#[derive(Debug, Default)]
struct Unfinished {
    chunks: Vec<Arc<[Event]>>,
    bytes: usize,
}

impl History {
    /// Begins anew: what comes after this position will be kept, and nothing from before it is.
    pub fn begin(&self, position: &Position) {
        *self.lock() = Some(Kept {
            epoch: position.epoch.clone(),
            start: Some(Arc::clone(&position.snapshot)),
            end: position.batch,
            batches: VecDeque::new(),
            first: 0,
            index: Index::default(),
            bytes: 0,
            unfinished: Unfinished::default(),
        });
    }

    /// Forgets everything, the chunks of a batch that is under way included.
    pub fn forget(&self) {
        if let Some(kept) = &mut *self.lock() {
            kept.forget_before(None);
            kept.unfinished.forget();
        }
    }

    /// Keeps a chunk of the next batch.
    pub fn add(&self, events: Arc<[Event]>) {
        if let Some(kept) = &mut *self.lock()
            && !events.is_empty()
        {
            kept.unfinished.add(events);
        }
    }

    /// The batch is complete, and ends at this position. Called before the position is published if the whole batch is known then, so that
    /// whoever reads the position finds the batch here.
    pub fn finish(&self, position: &Position) {
        if let Some(kept) = &mut *self.lock() {
            kept.finish(position);
        }
    }

    /// What concerns `user` after `from` and up to `until`, in the order of the log, as `make` turns it into an answer. None if not all of
    /// it is kept, or the cursor is ahead of the position or of another log: the database knows then.
    pub fn between<T>(
        &self,
        user: UserId,
        from: &Cursor,
        until: &Position,
        make: impl FnOnce(&[&Event]) -> T,
    ) -> Option<T> {
        // The lock is held only to see which events these are.
        let kept = self.lock().as_mut()?.concerning(user, from, until)?;
        let mut events: Vec<&Event> = kept
            .iter()
            .map(|(chunk, event)| &chunk[*event])
            .filter(|event| !from.snapshot.sees(event.transaction) && until.snapshot.sees(event.transaction))
            .collect();
        events.sort_unstable_by_key(|event| event.seq);
        Some(make(&events))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Kept>> {
        // Nothing that holds it can panic between two changes that belong together.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn finish(&mut self, position: &Position) {
        let Unfinished { chunks, bytes } = std::mem::take(&mut self.unfinished);
        self.end = position.batch;
        if bytes > BYTES_MAX {
            self.forget_before(Some(Arc::clone(&position.snapshot)));
            return;
        }
        if chunks.is_empty() {
            return;
        }
        self.bytes += bytes;
        self.batches.push_back(Batch {
            until: Arc::clone(&position.snapshot),
            chunks,
            bytes,
        });
        while self.bytes > BYTES_MAX || self.batches.len() > BATCHES_MAX {
            let Some(oldest) = self.batches.pop_front() else {
                break;
            };
            self.index.forget(self.first, &oldest);
            self.first += 1;
            self.bytes -= oldest.bytes;
            self.start = Some(oldest.until);
        }
    }

    fn forget_before(&mut self, start: Option<Arc<Snapshot>>) {
        self.start = start;
        self.first = 0;
        self.index = Index::default();
        self.batches.clear();
        self.bytes = 0;
    }

    /// What concerns `user` in all batches that hold anything between the two.
    fn concerning(&mut self, user: UserId, from: &Cursor, until: &Position) -> Option<Vec<index::Kept>> {
        let is_complete = self.epoch == from.epoch
            && self.epoch == until.epoch
            && self.end >= until.batch
            && until.snapshot.covers(&from.snapshot)
            && self
                .start
                .as_ref()
                .is_some_and(|start| from.snapshot.covers(start));
        if !is_complete {
            return None;
        }
        self.index.update(self.first, &self.batches);
        // Batches see more and more, so that those before the first unseen one have been seen, too.
        let seen = self
            .batches
            .partition_point(|batch| from.snapshot.covers(&batch.until));
        let unseen = self.first + seen as u64;
        Some(self.index.concerning(user, unseen, self.first, &self.batches))
    }
}

impl Unfinished {
    /// A batch that finds no room is forgotten while it comes; only its size is still counted.
    fn add(&mut self, events: Arc<[Event]>) {
        let size =
            |event: &Event| size_of::<Event>() + Index::room() + event.row.as_deref().map_or(0, str::len);
        self.bytes += events.iter().map(size).sum::<usize>();
        if self.bytes > BYTES_MAX {
            self.chunks.clear();
        } else {
            self.chunks.push(events);
        }
    }

    fn forget(&mut self) {
        self.chunks.clear();
        self.bytes = BYTES_MAX + 1;
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use proptest::{collection::vec, prelude::*};
    use uuid::Uuid;

    use super::*;
    use crate::protocol::{event::Operation, snapshot::Transaction};

    fn user(number: u8) -> UserId {
        UserId(Uuid::from_u128(number.into()))
    }

    fn event(seq: u64, xid: u64, people: (u8, u8), row: usize) -> Event {
        Event {
            seq: seq.try_into().unwrap(),
            transaction: of_life(xid),
            logged_at: SystemTime::UNIX_EPOCH,
            operation: Operation::Insert,
            message: Uuid::from_u128(xid.into()),
            sender: user(people.0),
            receiver: user(people.1),
            product: None,
            row: Some("x".repeat(row).into()),
        }
    }

    fn of_life(xid: u64) -> Transaction {
        Transaction { life: 1, xid }
    }

    fn position(batch: u64, snapshot: Snapshot) -> Position {
        Position {
            epoch: Epoch::new("e").unwrap(),
            batch: BatchNumber(batch),
            snapshot: Arc::new(snapshot),
        }
    }

    /// Everything below this number is seen.
    fn below(xid: u64) -> Snapshot {
        Snapshot::new(1, xid, xid, Vec::new()).unwrap()
    }

    fn sequence(events: &[&Event]) -> Vec<i64> {
        events.iter().map(|event| event.seq).collect()
    }

    /// A history that began at number 10 and was told these batches, each of one event with its number.
    fn told(sizes: &[usize]) -> (History, Vec<Position>) {
        let history = History::default();
        let mut positions = vec![position(0, below(10))];
        history.begin(&positions[0]);
        for (number, size) in (1..).zip(sizes) {
            let next = position(number, below(10 + number));
            history.add([event(number, 9 + number, (1, 2), *size)].into());
            history.finish(&next);
            positions.push(next);
        }
        (history, positions)
    }

    #[test]
    fn what_finds_no_room_is_forgotten_from_its_oldest_batch_on() {
        let (history, positions) = told(&[BYTES_MAX / 3, BYTES_MAX / 3, BYTES_MAX / 3, 1]);
        let between =
            |from: usize| history.between(user(1), &positions[from].cursor(), &positions[4], sequence);
        assert_eq!(between(0), None);
        assert_eq!(between(1), Some(vec![2, 3, 4]));
        assert_eq!(between(4), Some(Vec::new()));
        let (history, positions) = told(&[1, BYTES_MAX, 1]);
        let between =
            |from: usize| history.between(user(2), &positions[from].cursor(), &positions[3], sequence);
        assert_eq!(between(0), None);
        assert_eq!(between(1), None);
        assert_eq!(between(2), Some(vec![3]));
    }

    #[test]
    fn a_batch_that_is_published_before_it_is_complete_is_asked_of_the_database() {
        let (history, positions) = told(&[1]);
        let next = position(2, below(20));
        history.add([event(5, 15, (1, 2), 1)].into());
        let between = |until: &Position| history.between(user(1), &positions[0].cursor(), until, sequence);
        assert_eq!(between(&next), None);
        // Whoever stands before it is not told of it.
        assert_eq!(between(&positions[1]), Some(vec![1]));
        history.add([event(4, 16, (1, 2), 1)].into());
        history.finish(&next);
        assert_eq!(between(&next), Some(vec![1, 4, 5]));
    }

    #[test]
    fn what_was_forgotten_is_not_told_and_neither_is_the_rest_of_a_batch() {
        let (history, positions) = told(&[1]);
        history.add([event(5, 15, (1, 2), 1)].into());
        history.forget();
        history.add([event(6, 16, (1, 2), 1)].into());
        let (next, last) = (position(2, below(20)), position(3, below(30)));
        history.finish(&next);
        let between = |from: &Position, until| history.between(user(1), &from.cursor(), until, sequence);
        assert_eq!(between(&positions[0], &next), None);
        assert_eq!(between(&positions[1], &next), None);
        history.add([event(7, 25, (1, 2), 1)].into());
        history.finish(&last);
        assert_eq!(between(&next, &last), Some(vec![7]));
    }

    #[test]
    fn of_a_message_that_is_gone_only_that_is_told() {
        let (history, mut positions) = told(&[1, 1]);
        let first = event(1, 10, (1, 2), 1).message;
        let delete = Event {
            operation: Operation::Delete,
            message: first,
            row: None,
            ..event(3, 12, (1, 2), 0)
        };
        positions.push(position(3, below(13)));
        history.add([delete].into());
        history.finish(&positions[3]);
        let between =
            |until: usize| history.between(user(1), &positions[0].cursor(), &positions[until], sequence);
        assert_eq!(between(3), Some(vec![2, 3]));
        // Whoever has not got there yet is told live that it is gone.
        assert_eq!(between(2), Some(vec![2]));
    }

    #[test]
    fn a_message_that_is_written_again_after_it_was_deleted_is_told() {
        let (history, mut positions) = told(&[1, 1]);
        let first = event(1, 10, (1, 2), 1).message;
        for (seq, operation) in [(3, Operation::Delete), (4, Operation::Insert)] {
            let xid = 9 + seq;
            positions.push(position(seq, below(xid + 1)));
            let change = Event {
                operation,
                message: first,
                ..event(seq, xid, (1, 2), 0)
            };
            history.add([change].into());
            history.finish(positions.last().unwrap());
        }
        let all = history.between(user(2), &positions[0].cursor(), &positions[4], sequence);
        assert_eq!(all, Some(vec![2, 3, 4]));
    }

    #[test]
    fn what_was_asked_for_and_is_no_longer_kept_leaves_nothing_behind() {
        let (history, mut positions) = told(&[]);
        let operations = Operation::ALL.into_iter().cycle();
        for (number, operation) in (1..=20).zip(operations) {
            positions.push(position(number, below(10 + number)));
            let people = (1 + u8::try_from(number % 5).unwrap(), 9);
            let change = |seq| Event {
                operation,
                ..event(seq, 9 + number, people, BYTES_MAX / 8)
            };
            history.add([change(2 * number), change(2 * number + 1)].into());
            history.finish(positions.last().unwrap());
            // What was never looked at has nothing to forget.
            if number % 7 < 5 {
                let from = positions.iter().rev().nth(1).unwrap().cursor();
                let last = history.between(user(9), &from, positions.last().unwrap(), sequence);
                assert_eq!(
                    last.unwrap().last().copied(),
                    Some(2 * i64::try_from(number).unwrap() + 1)
                );
            }
        }
        let mut kept = history.lock();
        let kept = kept.as_mut().unwrap();
        assert!(kept.batches.len() < 5);
        // Looked at from the beginning it is the same.
        kept.index.update(kept.first, &kept.batches);
        let mut anew = Index::default();
        anew.update(kept.first, &kept.batches);
        assert_eq!(kept.index, anew);
    }

    #[test]
    fn cursors_of_another_log_or_ahead_of_the_feed_are_left_to_the_database() {
        let (history, positions) = told(&[1, 1]);
        let mut other = positions[1].cursor();
        other.epoch = Epoch::new("other").unwrap();
        assert_eq!(history.between(user(1), &other, &positions[2], sequence), None);
        let ahead = position(9, below(50)).cursor();
        assert_eq!(history.between(user(1), &ahead, &positions[2], sequence), None);
        let before_it_began = History::default();
        assert_eq!(
            before_it_began.between(user(1), &positions[1].cursor(), &positions[2], sequence),
            None
        );
    }

    /// A snapshot that sees everything below `xmax` but these.
    fn snapshot(xmax: u64, mut running: Vec<u64>) -> Snapshot {
        running.retain(|xid| (10..xmax).contains(xid));
        running.sort_unstable();
        running.dedup();
        let xmin = running.first().copied().unwrap_or(xmax);
        Snapshot::new(1, xmin, xmax, running).unwrap()
    }

    proptest! {
        /// Cursors of other gateways lie anywhere between the batches of this one: whoever asks is told exactly what it has not seen.
        #[test]
        fn everything_that_is_unseen_is_told_once(
            // The transactions that are still running at the end of each batch, as distances below its end.
            ends in vec(vec(1_u64..6, 0..3), 1..8),
            running in vec(10_u64..50, 0..4),
            xmax in 10_u64..60,
            people in vec((1_u8..4, 1_u8..4), 40),
        ) {
            let history = History::default();
            let mut positions = vec![position(0, below(10))];
            history.begin(&positions[0]);
            let mut all = Vec::new();
            for (number, distances) in (1..).zip(&ends) {
                let xmax = 10 + 5 * number;
                let before = Arc::clone(&positions[positions.len() - 1].snapshot);
                let mut running: Vec<u64> = distances.iter().map(|distance| xmax - distance).collect();
                // What has ended once does not run again.
                running.retain(|xid| !before.sees(of_life(*xid)));
                let next = position(number, snapshot(xmax, running));
                let batch: Vec<Event> = (10..xmax)
                    .zip(&people)
                    .filter(|(xid, _)| next.snapshot.sees(of_life(*xid)) && !before.sees(of_life(*xid)))
                    .map(|(xid, people)| event(xid, xid, *people, 1))
                    .collect();
                all.extend(batch.clone());
                history.add(batch.into());
                history.finish(&next);
                positions.push(next);
            }
            let until = &positions[positions.len() - 1];
            let from = Cursor {
                epoch: until.epoch.clone(),
                snapshot: Arc::new(snapshot(xmax, running)),
            };
            for person in 1..4 {
                let told = history.between(user(person), &from, until, sequence);
                if until.snapshot.covers(&from.snapshot) {
                    let concerns = |event: &&Event| event.users().any(|one| one == user(person));
                    let mut expected: Vec<i64> = all
                        .iter()
                        .filter(concerns)
                        .filter(|event| !from.snapshot.sees(event.transaction))
                        .map(|event| event.seq)
                        .collect();
                    expected.sort_unstable();
                    prop_assert_eq!(told, Some(expected));
                } else {
                    prop_assert_eq!(told, None);
                }
            }
        }
    }
}
