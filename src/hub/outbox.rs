//! The queue between those who hand over and one session: bounded in items and in bytes, and never waited for.
//!
//! A push into a full outbox closes it as slow and drops what is in it: the client resumes from its cursor, which
//! covers nothing of what was dropped. No single delivery is ever taken out of the middle of a stream.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    task::Context,
};

use futures::task::AtomicWaker;

use super::delivery::Parcel;
use crate::{protocol::close::CloseCode, types::BatchNumber};

/// The most deliveries that wait for one session. The bound in bytes is usually met first; this one keeps tiny
/// deliveries from costing more in bookkeeping than in text.
pub const OUTBOX_ITEMS_MAX: usize = 4096;

/// An emptied queue gives back its memory if it has room for more than this many deliveries.
const IDLE_CAPACITY: usize = 8;

/// What became of a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Push {
    /// It waits for the session.
    Queued,
    /// There was no room: the outbox is closed as slow now.
    Overflowed,
    /// The outbox was closed already.
    Closed,
    /// Its session takes it from the log, or has no need of it.
    Passed,
}

/// What a session finds in its outbox.
#[derive(Debug)]
pub enum Next {
    /// The oldest parcel.
    Parcel(Parcel),
    /// Nothing is left and nothing will come: the session ends with this code.
    Closed(CloseCode),
}

/// One session's queue. The fan-out pushes; the session alone polls.
#[derive(Debug)]
pub struct Outbox {
    bytes_max: usize,
    state: Mutex<State>,
    session: AtomicWaker,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Parcel>,
    bytes: usize,
    closed: Option<CloseCode>,
    /// Deliveries up to this batch are not the live stream's.
    begins_after: Option<BatchNumber>,
}

impl Outbox {
    /// An empty outbox with room for `bytes_max` bytes.
    pub fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            state: Mutex::default(),
            session: AtomicWaker::new(),
        }
    }

    /// Appends a parcel, or closes the outbox as slow if there is no room.
    ///
    /// An empty outbox takes a parcel of any size: otherwise a message above the bound could never be delivered.
    pub fn push(&self, parcel: impl Into<Parcel>) -> Push {
        let parcel = parcel.into();
        let cost = parcel.cost_bytes();
        let outcome = {
            let mut state = self.lock();
            if state.closed.is_some() {
                return Push::Closed;
            }
            if let Parcel::Events(delivery) = &parcel
                && state
                    .begins_after
                    .is_some_and(|last| delivery.position.batch <= last)
            {
                return Push::Passed;
            }
            let fits = state.bytes + cost <= self.bytes_max && state.queue.len() < OUTBOX_ITEMS_MAX;
            if fits || state.queue.is_empty() {
                state.bytes += cost;
                state.queue.push_back(parcel);
                Push::Queued
            } else {
                *state = State {
                    closed: Some(CloseCode::Slow),
                    ..State::default()
                };
                Push::Overflowed
            }
        };
        self.session.wake();
        outcome
    }

    /// Says where the session's live stream begins. What waits from batches up to this one is dropped, and the rest of
    /// them is not taken: a session that comes back in the middle of a large batch must not overflow with what it takes
    /// from the log.
    pub fn begin_after(&self, batch: BatchNumber) {
        let mut state = self.lock();
        state.begins_after = Some(batch);
        state.queue.retain(|parcel| match parcel {
            Parcel::Events(delivery) => delivery.position.batch > batch,
            Parcel::Topic { .. } => true,
        });
        state.bytes = state.queue.iter().map(Parcel::cost_bytes).sum();
    }

    /// Ends the session with this code once it has taken what waits. The first code given stays.
    pub fn close(&self, code: CloseCode) {
        self.lock().closed.get_or_insert(code);
        self.session.wake();
    }

    /// The code it was closed with, if it was. It may still hold deliveries.
    pub fn closed(&self) -> Option<CloseCode> {
        self.lock().closed
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.lock().queue.is_empty()
    }

    /// Registers the session's task to be woken by the next push or close. Call before [`Self::take`].
    pub fn register(&self, context: &Context<'_>) {
        self.session.register(context.waker());
    }

    /// Takes the oldest parcel, or the close code once none is left.
    pub fn take(&self) -> Option<Next> {
        let mut state = self.lock();
        let Some(parcel) = state.queue.pop_front() else {
            return state.closed.map(Next::Closed);
        };
        state.bytes -= parcel.cost_bytes();
        if state.queue.is_empty() && state.queue.capacity() > IDLE_CAPACITY {
            state.queue = VecDeque::new();
        }
        Some(Next::Parcel(parcel))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that can panic runs under the lock, so that a poisoned state is still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use tokio::time::Instant;
    use uuid::Uuid;

    use super::{
        super::{delivery::Delivery, position::Position},
        *,
    };
    use crate::{
        protocol::{
            cursor::Epoch, phoenix::change::Changes, server_frame::EventsFrameBuilder, snapshot::Snapshot,
        },
        types::{BatchNumber, UserId},
    };

    pub(crate) fn delivery(batch: u64) -> Arc<Delivery> {
        Arc::new(Delivery {
            user: UserId(Uuid::nil()),
            position: Arc::new(Position {
                epoch: Epoch::new("e").unwrap(),
                batch: BatchNumber(batch),
                snapshot: Arc::new(Snapshot::new(1, batch + 1, batch + 1, Vec::new()).unwrap()),
            }),
            frame: EventsFrameBuilder::new().finish(None),
            committed: Instant::now(),
            changes: Changes::default(),
        })
    }

    fn batch_of(parcel: &Parcel) -> u64 {
        match parcel {
            Parcel::Events(delivery) => delivery.position.batch.0,
            Parcel::Topic { .. } => panic!("nobody said anything"),
        }
    }

    fn drain(outbox: &Outbox) -> (Vec<u64>, Option<CloseCode>) {
        let mut batches = Vec::new();
        loop {
            match outbox.take() {
                Some(Next::Parcel(parcel)) => batches.push(batch_of(&parcel)),
                Some(Next::Closed(code)) => return (batches, Some(code)),
                None => return (batches, None),
            }
        }
    }

    #[test]
    fn a_full_outbox_closes_as_slow_and_keeps_nothing() {
        let outbox = Outbox::new(delivery(0).cost_bytes() * 3);
        for batch in 0..3 {
            assert_eq!(outbox.push(delivery(batch)), Push::Queued);
        }
        assert_eq!(outbox.push(delivery(3)), Push::Overflowed);
        assert_eq!(outbox.push(delivery(4)), Push::Closed);
        assert_eq!(drain(&outbox), (vec![], Some(CloseCode::Slow)));
    }

    #[test]
    fn a_batch_that_the_session_takes_from_the_log_takes_no_room() {
        let outbox = Outbox::new(delivery(0).cost_bytes() * 2);
        outbox.push(delivery(6));
        outbox.push(delivery(7));
        outbox.begin_after(BatchNumber(6));
        assert_eq!(outbox.push(delivery(6)), Push::Passed);
        assert_eq!(outbox.push(delivery(8)), Push::Queued);
        assert_eq!(outbox.push(delivery(6)), Push::Passed);
        assert_eq!(drain(&outbox), (vec![7, 8], None));
    }

    #[test]
    fn a_delivery_above_the_bound_passes_through_an_empty_outbox() {
        let outbox = Outbox::new(1);
        assert_eq!(outbox.push(delivery(0)), Push::Queued);
        assert_eq!(outbox.push(delivery(1)), Push::Overflowed);
    }

    #[test]
    fn what_waits_is_delivered_before_a_close_and_the_first_code_stays() {
        let outbox = Outbox::new(1 << 20);
        outbox.push(delivery(7));
        outbox.close(CloseCode::GoingAway);
        outbox.close(CloseCode::Replaced);
        assert_eq!(drain(&outbox), (vec![7], Some(CloseCode::GoingAway)));
    }

    #[test]
    fn the_number_of_deliveries_is_bounded_too() {
        let outbox = Outbox::new(usize::MAX);
        let one = delivery(0);
        for _ in 0..OUTBOX_ITEMS_MAX {
            assert_eq!(outbox.push(Arc::clone(&one)), Push::Queued);
        }
        assert_eq!(outbox.push(one), Push::Overflowed);
    }

    proptest! {
        #[test]
        fn deliveries_come_out_in_order_and_bytes_return_to_zero(pushes in proptest::collection::vec(any::<bool>(), 0..200)) {
            let outbox = Outbox::new(1 << 20);
            let (mut pushed, mut taken) = (0, 0);
            for push in pushes {
                if push {
                    outbox.push(delivery(pushed));
                    pushed += 1;
                } else if let Some(Next::Parcel(parcel)) = outbox.take() {
                    prop_assert_eq!(batch_of(&parcel), taken);
                    taken += 1;
                }
            }
            let (rest, closed) = drain(&outbox);
            prop_assert_eq!(rest, (taken..pushed).collect::<Vec<_>>());
            prop_assert_eq!((closed, outbox.lock().bytes), (None, 0));
        }
    }
}
