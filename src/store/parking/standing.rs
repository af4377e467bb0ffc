//! How far the client of a live session is known to have come, as the attendant reads it once a second.
//!
//! The attendant is to say of a whole gateway: every live channel has everything up to here, but for these. For each
//! session it reads, in this order: the hub's settled position; whether the outbox is empty; whether the session is busy.
//! If the outbox is empty and the session is idle, then the client has everything up to that position:
//!
//! - What the position covers had been pushed into the outbox before the position was settled, so before it was read.
//! - The outbox was found empty after that, so the session has taken all of it, and had called `busy` before it did.
//! - The session was found idle after that, so it has called `idle` since: nothing of what it took is unacknowledged.
//!
//! The other way round (first the flag, then the outbox) a session that takes its first delivery between the two looks
//! would pass for idle with an empty outbox. An outbox that was closed is empty without having been taken, and never
//! counts.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::Shared;
use crate::{
    hub::Outbox,
    protocol::cursor::Cursor,
    types::{SessionId, UserId},
};

/// How far one session has come.
#[derive(Debug)]
pub(super) struct Progress {
    outbox: Arc<Outbox>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    is_busy: bool,
    /// What had reached all channels of the session when it was last found up to date, or when it entered.
    reached: Option<Cursor>,
    /// The users of its channels, each with what the client has acknowledged since. There is one for each token that was
    /// brought to a join, and there are few.
    users: HashMap<UserId, Option<Cursor>>,
}

impl State {
    fn place(&self, user: UserId) -> Option<Cursor> {
        let acknowledged = self.users.get(&user).and_then(Option::as_ref);
        acknowledged.or(self.reached.as_ref()).cloned()
    }
}

impl Progress {
    pub(super) fn new(outbox: Arc<Outbox>, reached: Option<Cursor>) -> Self {
        Self {
            outbox,
            state: Mutex::new(State {
                is_busy: true,
                reached,
                users: HashMap::new(),
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks whether everything up to `settled`, which was read before, has reached the client. If so, what it has
    /// acknowledged by itself is of no use any more.
    fn look(&self, settled: &Cursor) -> (bool, MutexGuard<'_, State>) {
        let is_taken = self.outbox.is_empty() && self.outbox.closed().is_none();
        let mut state = self.state();
        let is_reached = is_taken && !state.is_busy;
        if is_reached {
            state.reached = Some(settled.clone());
            for acknowledged in state.users.values_mut() {
                *acknowledged = None;
            }
        }
        (is_reached, state)
    }

    /// What has reached the channels of each user; none if everything up to `settled` has.
    pub(super) fn behind(&self, settled: &Cursor) -> Option<Vec<(UserId, Cursor)>> {
        let (is_reached, state) = self.look(settled);
        let place = |user: &UserId| Some((*user, state.place(*user)?));
        (!is_reached).then(|| state.users.keys().filter_map(place).collect())
    }

    /// What has reached the channels of this user, if there is anything that may not have reached the client.
    pub(super) fn doubted(&self, user: UserId) -> Option<Cursor> {
        let is_taken = self.outbox.is_empty() && self.outbox.closed().is_none();
        let state = self.state();
        (!is_taken || state.is_busy).then(|| state.place(user)).flatten()
    }

    /// The cursor of its own that a new channel of this user needs; none if everything up to `settled` has reached the
    /// client.
    pub(super) fn place(&self, user: UserId, settled: Option<&Cursor>) -> Option<Cursor> {
        let (is_reached, mut state) = match settled {
            Some(settled) => self.look(settled),
            None => (false, self.state()),
        };
        state.users.entry(user).or_default();
        (!is_reached).then(|| state.place(user)).flatten()
    }
}

/// A session's side of the once-a-second look at how far its client has come. Clones share it; with the last one the
/// session is out, so that its channels have to be parked or left before.
///
/// All calls are cheap and never wait.
#[derive(Clone, Debug)]
pub struct Standing(Arc<Entered>);

#[derive(Debug)]
struct Entered {
    shared: Arc<Shared>,
    session: SessionId,
    progress: Arc<Progress>,
}

impl Standing {
    pub(super) fn new(shared: Arc<Shared>, session: SessionId, progress: Arc<Progress>) -> Self {
        Self(Arc::new(Entered {
            shared,
            session,
            progress,
        }))
    }

    /// The client is about to be sent something: to be called before a delivery is taken from the outbox, and before a
    /// replay begins.
    pub fn busy(&self) {
        self.0.progress.state().is_busy = true;
    }

    /// The client has everything that was taken from the outbox, and every replay has ended.
    pub fn idle(&self) {
        self.0.progress.state().is_busy = false;
    }

    /// All channels of this user have everything up to the cursor. To be called while busy.
    ///
    /// It may go back: when a channel is replayed to, its user stands where the replay begins until it is acknowledged.
    pub fn acknowledged(&self, user: UserId, cursor: Cursor) {
        self.0.progress.state().users.insert(user, Some(cursor));
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut standings = self.shared.standings();
        // A session that entered twice is still here by its second entrance.
        let is_own = standings
            .get(&self.session)
            .is_some_and(|progress| Arc::ptr_eq(progress, &self.progress));
        if is_own {
            standings.remove(&self.session);
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::{
        hub::{Delivery, Position},
        protocol::{
            close::CloseCode, cursor::Epoch, phoenix::change::Changes, server_frame::EventsFrameBuilder,
            snapshot::Snapshot,
        },
        types::BatchNumber,
    };

    const USER: UserId = UserId(Uuid::nil());

    fn snapshot(position: u64) -> Arc<Snapshot> {
        Arc::new(Snapshot::new(1, position, position, Vec::new()).unwrap())
    }

    fn cursor(position: u64) -> Cursor {
        Cursor {
            epoch: Epoch::new("e").unwrap(),
            snapshot: snapshot(position),
        }
    }

    fn delivery(position: u64) -> Arc<Delivery> {
        Arc::new(Delivery {
            position: Arc::new(Position {
                epoch: Epoch::new("e").unwrap(),
                batch: BatchNumber(position),
                snapshot: snapshot(position),
            }),
            user: USER,
            frame: EventsFrameBuilder::new().finish(None),
            committed: tokio::time::Instant::now(),
            changes: Changes::default(),
        })
    }

    /// A session that entered at position 1 and has a channel.
    fn entered() -> (Arc<Outbox>, Progress) {
        let outbox = Arc::new(Outbox::new(1 << 20));
        let progress = Progress::new(Arc::clone(&outbox), Some(cursor(1)));
        assert_eq!(progress.place(USER, Some(&cursor(2))), Some(cursor(1)));
        (outbox, progress)
    }

    fn set_busy(progress: &Progress, is_busy: bool) {
        progress.state().is_busy = is_busy;
    }

    #[test]
    fn a_session_is_behind_until_it_is_idle_for_the_first_time() {
        let (_outbox, progress) = entered();
        assert_eq!(progress.behind(&cursor(2)), Some(vec![(USER, cursor(1))]));
        set_busy(&progress, false);
        assert_eq!(progress.behind(&cursor(3)), None);
        assert_eq!(progress.place(USER, Some(&cursor(3))), None);
    }

    #[test]
    fn it_is_behind_while_something_waits_or_is_unacknowledged() {
        let (outbox, progress) = entered();
        set_busy(&progress, false);
        assert_eq!(progress.behind(&cursor(3)), None);
        outbox.push(delivery(4));
        assert_eq!(progress.behind(&cursor(4)), Some(vec![(USER, cursor(3))]));
        set_busy(&progress, true);
        assert!(outbox.take().is_some());
        assert_eq!(progress.behind(&cursor(5)), Some(vec![(USER, cursor(3))]));
        progress.state().users.insert(USER, Some(cursor(4)));
        assert_eq!(progress.behind(&cursor(5)), Some(vec![(USER, cursor(4))]));
        set_busy(&progress, false);
        assert_eq!(progress.behind(&cursor(6)), None);
        // What was acknowledged before counts no more.
        set_busy(&progress, true);
        assert_eq!(progress.behind(&cursor(7)), Some(vec![(USER, cursor(6))]));
    }

    #[test]
    fn a_replay_takes_its_user_back() {
        let (_outbox, progress) = entered();
        set_busy(&progress, false);
        assert_eq!(progress.behind(&cursor(9)), None);
        set_busy(&progress, true);
        progress.state().users.insert(USER, Some(cursor(5)));
        assert_eq!(progress.place(USER, Some(&cursor(10))), Some(cursor(5)));
        let other = UserId(Uuid::max());
        assert_eq!(progress.place(other, Some(&cursor(10))), Some(cursor(9)));
    }

    #[test]
    fn what_an_overflow_threw_away_was_not_taken() {
        let outbox = Arc::new(Outbox::new(1));
        let progress = Progress::new(Arc::clone(&outbox), Some(cursor(1)));
        set_busy(&progress, false);
        outbox.push(delivery(2));
        outbox.push(delivery(3));
        assert_eq!(outbox.closed(), Some(CloseCode::Slow));
        assert!(outbox.is_empty());
        assert_eq!(progress.behind(&cursor(3)), Some(Vec::new()));
        assert_eq!(progress.doubted(USER), Some(cursor(1)));
    }

    #[test]
    fn nothing_is_claimed_before_the_feed_has_begun() {
        let (_outbox, progress) = entered();
        set_busy(&progress, false);
        assert_eq!(progress.place(USER, None), Some(cursor(1)));
    }
}
