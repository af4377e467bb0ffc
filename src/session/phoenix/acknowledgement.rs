//! What a client has surely received, learned from the answers to pings.
//!
//! Supabase's protocol acknowledges nothing, and that the kernel has taken bytes does not mean that a client has them. But every
//! WebSocket answers pings (RFC 6455 §5.5.2), in order: an answer to a ping that was written behind some events proves that these
//! have arrived, through any proxy. So each flush that brought events ends with a numbered ping, and what a client is replayed
//! from, should it go, is what was answered.
//!
//! Pure: no clock, no socket.

use std::collections::VecDeque;

use crate::{protocol::cursor::Cursor, types::UserId};

/// Pings that may wait for their answers. A client that answers none gets no more, and is then replayed from the last answer.
const UNANSWERED_MAX: usize = 1024;

/// The number of a ping, counted from one.
pub(super) type Ping = u64;

/// Counts pings and answers of one session.
#[derive(Debug, Default)]
pub(super) struct Acknowledgements {
    sent: Ping,
    answered: Ping,
    /// What was written and no ping has followed yet.
    written: Written,
    /// The same, with the ping that followed.
    unanswered: VecDeque<(Ping, Written)>,
    acknowledged: Vec<(UserId, Cursor)>,
    is_due: bool,
}

/// What was written between two pings.
#[derive(Debug, Default)]
struct Written {
    events: u64,
    /// How far each user's events go.
    until: Vec<(UserId, Cursor)>,
}

impl Acknowledgements {
    /// Events have been handed to the transport.
    pub(super) const fn count(&mut self, events: u64) {
        self.written.events += events;
        self.is_due |= events > 0;
    }

    /// All events of a user up to here have been handed to the transport.
    pub(super) fn reach(&mut self, user: UserId, cursor: Cursor) {
        note(&mut self.written.until, user, cursor);
        self.is_due = true;
    }

    /// As [`Self::reach`], unless as much has been reached already.
    pub(super) fn reach_at_least(&mut self, user: UserId, cursor: Cursor) {
        let known = |list: &[(UserId, Cursor)]| {
            let found = list.iter().find(|(one, _)| *one == user);
            found.map(|(_, known)| known.epoch == cursor.epoch && known.snapshot.covers(&cursor.snapshot))
        };
        let is_reached = known(&self.written.until)
            .or_else(|| {
                let unanswered = self.unanswered.iter().rev();
                unanswered
                    .map(|(_, written)| &written.until)
                    .find_map(|until| known(until))
            })
            .or_else(|| known(&self.acknowledged));
        if is_reached != Some(true) {
            self.reach(user, cursor);
        }
    }

    /// Asks for a ping although nothing was reached, and answers with the number that it will have.
    pub(super) const fn call(&mut self) -> Ping {
        self.is_due = true;
        self.sent + 1
    }

    /// The ping to be written now, if one is due.
    pub(super) fn ping(&mut self) -> Option<Ping> {
        (self.is_due && self.unanswered.len() < UNANSWERED_MAX).then(|| self.beat())
    }

    /// A ping in any case: a heartbeat.
    pub(super) fn beat(&mut self) -> Ping {
        self.sent += 1;
        let written = std::mem::take(&mut self.written);
        if self.is_due && self.unanswered.len() < UNANSWERED_MAX {
            self.is_due = false;
            self.unanswered.push_back((self.sent, written));
        } else {
            self.written = written;
        }
        self.sent
    }

    /// The client has answered a ping. Answers how many events that proves to have arrived, or `None` if it is no answer.
    pub(super) fn answer(&mut self, ping: Ping) -> Option<u64> {
        if ping > self.sent || ping <= self.answered {
            return None;
        }
        self.answered = ping;
        let mut events = 0;
        while self.unanswered.front().is_some_and(|(sent, _)| *sent <= ping)
            && let Some((_, written)) = self.unanswered.pop_front()
        {
            events += self.acknowledge(written);
        }
        Some(events)
    }

    /// The client has confirmed the end of the connection, and so everything that was written. Answers how many events that
    /// proves to have arrived.
    pub(super) fn answer_all(&mut self) -> u64 {
        self.beat();
        let events = self.answer(self.sent).unwrap_or_default();
        let rest = std::mem::take(&mut self.written);
        events + self.acknowledge(rest)
    }

    fn acknowledge(&mut self, written: Written) -> u64 {
        for (user, cursor) in written.until {
            note(&mut self.acknowledged, user, cursor);
        }
        written.events
    }

    /// Whether this ping has been answered.
    pub(super) const fn is_answered(&self, ping: Ping) -> bool {
        ping <= self.answered
    }

    /// Whether everything that was written has been acknowledged.
    pub(super) fn is_clear(&self) -> bool {
        !self.is_due && self.unanswered.is_empty()
    }

    /// Gives back the room that pings have taken, if none is unanswered.
    pub(super) fn give_back(&mut self) {
        if self.unanswered.is_empty() {
            self.unanswered = VecDeque::new();
        }
    }

    /// How far the client surely has everything of a user.
    pub(super) fn acknowledged(&self, user: UserId) -> Option<&Cursor> {
        let found = self.acknowledged.iter().find(|(known, _)| *known == user);
        found.map(|(_, cursor)| cursor)
    }

    /// How far everything of each user has surely arrived.
    pub(super) fn all_acknowledged(&self) -> &[(UserId, Cursor)] {
        &self.acknowledged
    }

    /// Nothing of this user is told here any more.
    pub(super) fn forget(&mut self, user: UserId) {
        for known in self
            .unanswered
            .iter_mut()
            .map(|(_, written)| &mut written.until)
            .chain([&mut self.written.until, &mut self.acknowledged])
        {
            known.retain(|(one, _)| *one != user);
        }
    }
}

fn note(known: &mut Vec<(UserId, Cursor)>, user: UserId, cursor: Cursor) {
    match known.iter_mut().find(|(one, _)| *one == user) {
        Some((_, old)) => *old = cursor,
        None => known.push((user, cursor)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::protocol::{cursor::Epoch, snapshot::Snapshot};

    fn user() -> UserId {
        UserId(Uuid::from_u128(1))
    }

    fn cursor(place: u64) -> Cursor {
        Cursor {
            epoch: Epoch::new("e").unwrap(),
            snapshot: Arc::new(Snapshot::new(1, place, place, Vec::new()).unwrap()),
        }
    }

    fn place(acknowledgements: &Acknowledgements) -> u64 {
        acknowledgements
            .acknowledged(user())
            .map_or(0, |cursor| cursor.snapshot.xmin())
    }

    #[test]
    fn only_what_stood_before_an_answered_ping_has_arrived() {
        let mut acknowledgements = Acknowledgements::default();
        acknowledgements.count(2);
        acknowledgements.reach(user(), cursor(5));
        let first = acknowledgements.ping().unwrap();
        acknowledgements.reach(user(), cursor(6));
        assert_eq!(acknowledgements.answer(first), Some(2));
        assert_eq!(place(&acknowledgements), 5);
        assert!(!acknowledgements.is_clear());
        let second = acknowledgements.ping().unwrap();
        assert_eq!(acknowledgements.ping(), None);
        acknowledgements.answer(second);
        assert_eq!(place(&acknowledgements), 6);
        assert!(acknowledgements.is_clear());
    }

    #[test]
    fn nothing_that_was_reached_is_taken_back() {
        let mut acknowledgements = Acknowledgements::default();
        acknowledgements.reach(user(), cursor(6));
        acknowledgements.reach_at_least(user(), cursor(5));
        let ping = acknowledgements.ping().unwrap();
        acknowledgements.reach_at_least(user(), cursor(5));
        assert_eq!(acknowledgements.ping(), None);
        acknowledgements.answer(ping);
        acknowledgements.reach_at_least(user(), cursor(5));
        assert_eq!((acknowledgements.ping(), place(&acknowledgements)), (None, 6));
        acknowledgements.reach_at_least(user(), cursor(7));
        acknowledgements.answer_all();
        assert_eq!(place(&acknowledgements), 7);
    }

    #[test]
    fn answers_that_were_not_asked_for_prove_nothing() {
        let mut acknowledgements = Acknowledgements::default();
        acknowledgements.reach(user(), cursor(5));
        assert_eq!(acknowledgements.answer(1), None);
        let ping = acknowledgements.ping().unwrap();
        assert_eq!(acknowledgements.answer(ping + 1), None);
        assert_eq!(place(&acknowledgements), 0);
    }

    #[test]
    fn a_client_that_answers_nothing_is_not_pinged_for_ever() {
        let mut acknowledgements = Acknowledgements::default();
        let mut pings = 0;
        for number in 1..5_000 {
            acknowledgements.reach(user(), cursor(number));
            pings += usize::from(acknowledgements.ping().is_some());
        }
        assert_eq!(pings, UNANSWERED_MAX);
        let heartbeat = acknowledgements.beat();
        acknowledgements.answer(heartbeat);
        assert_eq!(
            place(&acknowledgements),
            1024,
            "the rest was written after the last ping that counts"
        );
        let ping = acknowledgements.ping().unwrap();
        acknowledgements.answer(ping);
        assert_eq!(place(&acknowledgements), 4_999);
    }

    #[test]
    fn an_end_that_was_confirmed_acknowledges_everything() {
        let mut acknowledgements = Acknowledgements::default();
        acknowledgements.reach(user(), cursor(5));
        acknowledgements.ping();
        acknowledgements.reach(user(), cursor(6));
        acknowledgements.answer_all();
        assert_eq!(place(&acknowledgements), 6);
    }

    proptest! {
        #[test]
        fn nothing_is_acknowledged_before_its_answer(steps in proptest::collection::vec((0u8..3, 0u64..40), 0..200)) {
            let mut acknowledgements = Acknowledgements::default();
            // What was written when each ping went out, in order.
            let (mut written, mut proofs) = (0, vec![0]);
            for (step, number) in steps {
                match step {
                    0 => {
                        written += 1;
                        acknowledgements.reach(user(), cursor(written));
                    }
                    1 => if let Some(ping) = acknowledgements.ping() {
                        prop_assert_eq!(ping, proofs.len() as u64);
                        proofs.push(written);
                    },
                    _ => {
                        acknowledgements.answer(number);
                    }
                }
                let proved = proofs[usize::try_from(acknowledgements.answered).unwrap()];
                prop_assert!(place(&acknowledgements) <= proved);
            }
            acknowledgements.answer_all();
            prop_assert_eq!(place(&acknowledgements), written);
        }
    }
}
