//! Where a channel that comes back is continued, if its client knows no cursor.
//!
//! The channels of a user that went are parked with what had reached them. One that joins the same topic is one of their
//! owners, or a new one. Nothing that such a client sends says which, but its message references tell much: they only
//! grow while an instance of the client lives, also across its connections, and a new instance starts anew.
//!
//! A candidate is *compatible* with a join if the join's reference is greater than the candidate's, or if one of the two
//! is unknown. The rules, of which the first that applies decides:
//!
//! 1. There are untaken compatible candidates: the replay begins at the oldest of them. The one with the greatest
//!    reference below the join's is taken, being the most plausible owner's; among equals it is the newest, which leaves
//!    the older ones to the others. Where references are unknown there is no plausible owner, and none is taken.
//! 2. There are untaken candidates, surely of other instances (a page that was loaded again, say), or compatible ones
//!    that another session has taken, who may have been another device than the owner: the replay begins at the oldest
//!    of all these, and none is taken.
//! 3. There is nothing to continue.
//!
//! # What can be promised
//!
//! A device's *own* candidate is the one that its last channel left. Within the window, and below the bound on parked
//! channels of one user:
//!
//! - Nobody is replayed from a newer cursor than his own, so that nothing is missed, while his own candidate is untaken; and
//!   also when it was taken by another, unless another untaken compatible candidate is left.
//! - A single device with references is replayed from its own cursor exactly, again and again: nothing comes twice.
//! - Several devices that go and come back, each with a reference that has not passed what another one has parked above it,
//!   take their own candidates and nobody else's, so that nothing is missed. The one with the lowest references is replayed
//!   exactly; the others may be told again what the devices below them have yet to be told.
//! - If no references are known at all, nothing is missed, however many devices come and go; all of them are told again
//!   what lies in the window.
//!
//! What is left: a device takes another one's candidate if its reference has passed what the other had parked, because it
//! sent that much before it came back, or because it is new and its first join carries a high reference. If the other then
//! comes back while a third, newer candidate is untaken and compatible (the first one's, say, or one that the first
//! one has parked since), it is replayed from there and misses what lies between. It takes two devices of one user
//! that nothing else tells apart, that both went within the window, and whose references cross. Devices that
//! are known by a name are spared, because only candidates of the same device are looked at.

use std::cmp::Ordering;

use super::cursor::Cursor;
use crate::types::SessionId;

/// A channel that may be the one that comes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// What had reached it.
    pub cursor: Cursor,
    /// The highest message reference that was seen from its client, if any was.
    pub reference: Option<u64>,
    /// The session that was replayed from here already.
    pub taken_by: Option<SessionId>,
}

/// Where a join is continued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Where its replay begins; nothing is replayed if there is none.
    pub from: Option<Cursor>,
    /// The index of the candidate that is thereby taken.
    pub takes: Option<usize>,
}

/// Chooses among the candidates of one user, topic and device for a join by this session with this message reference.
///
/// The candidates stand in the order in which they were parked. Cursors of one epoch are ordered by what they cover. Those
/// of different epochs cannot be compared, and the one that was parked first counts as the older: epochs follow each other
/// in time, and a replay from a past one says that continuity cannot be proved, instead of hiding it.
pub fn choose(candidates: &[Candidate], joining: SessionId, reference: Option<u64>) -> Choice {
    let owned = |candidate: &Candidate| is_compatible(candidate, reference);
    let untaken = |candidate: &Candidate| candidate.taken_by.is_none();
    if let Some(from) = oldest(candidates, |candidate| untaken(candidate) && owned(candidate)) {
        return Choice {
            from: Some(from.cursor.clone()),
            takes: most_plausible(candidates, reference),
        };
    }
    let left =
        |candidate: &Candidate| untaken(candidate) || candidate.taken_by != Some(joining) && owned(candidate);
    Choice {
        from: oldest(candidates, left).map(|candidate| candidate.cursor.clone()),
        takes: None,
    }
}

fn is_compatible(candidate: &Candidate, reference: Option<u64>) -> bool {
    match (candidate.reference, reference) {
        (Some(parked), Some(joining)) => joining > parked,
        _ => true,
    }
}

fn oldest(candidates: &[Candidate], wanted: impl Fn(&Candidate) -> bool) -> Option<&Candidate> {
    candidates
        .iter()
        .filter(|candidate| wanted(candidate))
        .reduce(|oldest, next| if is_older(next, oldest) { next } else { oldest })
}

/// Whether `next`, which stands behind `first`, is the older one all the same.
fn is_older(next: &Candidate, first: &Candidate) -> bool {
    let (next, first) = (&next.cursor, &first.cursor);
    next.epoch == first.epoch && next.snapshot != first.snapshot && first.snapshot.covers(&next.snapshot)
}

/// The index of the untaken candidate with the greatest reference below the join's, and of the newest one among equals.
fn most_plausible(candidates: &[Candidate], joining: Option<u64>) -> Option<usize> {
    let joining = joining?;
    let below = |candidate: &Candidate| candidate.reference.is_some_and(|parked| parked < joining);
    candidates
        .iter()
        .enumerate()
        .filter(|(_, candidate)| candidate.taken_by.is_none() && below(candidate))
        .reduce(|best, next| {
            let is_better = match next.1.reference.cmp(&best.1.reference) {
                Ordering::Greater => true,
                Ordering::Equal => !is_older(next.1, best.1),
                Ordering::Less => false,
            };
            if is_better { next } else { best }
        })
        .map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use uuid::Uuid;

    use super::{
        super::{cursor::Epoch, snapshot::Snapshot},
        *,
    };

    fn cursor_of(epoch: &str, position: u64) -> Cursor {
        Cursor {
            epoch: Epoch::new(epoch).unwrap(),
            snapshot: Arc::new(Snapshot::new(1, position, position, Vec::new()).unwrap()),
        }
    }

    fn cursor(position: u64) -> Cursor {
        cursor_of("e", position)
    }

    fn session(number: u128) -> SessionId {
        SessionId(Uuid::from_u128(number))
    }

    fn candidate(position: u64, reference: Option<u64>, taken_by: Option<u128>) -> Candidate {
        Candidate {
            cursor: cursor(position),
            reference,
            taken_by: taken_by.map(session),
        }
    }

    /// Where a join by session 100 begins, and what it takes.
    fn chosen(candidates: &[Candidate], reference: Option<u64>) -> (Option<u64>, Option<usize>) {
        let choice = choose(candidates, session(100), reference);
        (choice.from.map(|from| from.snapshot.xmin()), choice.takes)
    }

    #[test]
    fn there_is_nothing_to_continue_without_candidates() {
        assert_eq!(chosen(&[], Some(1)), (None, None));
        assert_eq!(chosen(&[], None), (None, None));
    }

    #[test]
    fn the_oldest_compatible_one_is_replayed_and_the_most_plausible_owner_is_taken() {
        let parked = [
            candidate(20, Some(3), None),
            candidate(10, Some(2), None),
            candidate(5, Some(9), None),
        ];
        assert_eq!(chosen(&parked, Some(4)), (Some(10), Some(0)));
        assert_eq!(chosen(&parked, Some(3)), (Some(10), Some(1)));
        assert_eq!(chosen(&parked, Some(10)), (Some(5), Some(2)));
    }

    #[test]
    fn among_equal_references_the_newest_is_taken() {
        let parked = [
            candidate(20, Some(3), None),
            candidate(10, Some(3), None),
            candidate(15, Some(3), None),
        ];
        assert_eq!(chosen(&parked, Some(4)), (Some(10), Some(0)));
    }

    #[test]
    fn a_page_that_was_loaded_again_is_told_what_the_last_one_missed_and_takes_nothing() {
        let parked = [candidate(20, Some(8), None), candidate(10, Some(9), None)];
        assert_eq!(chosen(&parked, Some(1)), (Some(10), None));
    }

    #[test]
    fn what_another_session_took_is_replayed_again_and_what_the_same_one_took_is_not() {
        assert_eq!(
            chosen(&[candidate(10, Some(2), Some(7))], Some(4)),
            (Some(10), None)
        );
        assert_eq!(
            chosen(&[candidate(10, Some(2), Some(100))], Some(4)),
            (None, None)
        );
        assert_eq!(chosen(&[candidate(10, Some(5), Some(7))], Some(4)), (None, None));
        // An untaken one of another instance does not hide that somebody else took this one's.
        let parked = [candidate(10, Some(2), Some(7)), candidate(20, Some(9), None)];
        assert_eq!(chosen(&parked, Some(4)), (Some(10), None));
    }

    #[test]
    fn where_references_are_unknown_nothing_is_taken() {
        let parked = [candidate(10, None, None), candidate(20, None, None)];
        assert_eq!(chosen(&parked, Some(4)), (Some(10), None));
        let parked = [candidate(10, Some(3), None)];
        assert_eq!(chosen(&parked, None), (Some(10), None));
        let parked = [candidate(10, None, None), candidate(20, Some(3), None)];
        assert_eq!(chosen(&parked, Some(4)), (Some(10), Some(1)));
    }

    #[test]
    fn of_different_epochs_the_one_that_was_parked_first_counts_as_the_older() {
        let in_epoch = |epoch: &str, position| Candidate {
            cursor: cursor_of(epoch, position),
            reference: None,
            taken_by: None,
        };
        let parked = [in_epoch("old", 50), in_epoch("new", 10), in_epoch("old", 40)];
        let choice = choose(&parked, session(100), None);
        assert_eq!(choice.from, Some(cursor_of("old", 40)));
    }

    /// A device of the user, as it knows itself.
    #[derive(Clone, Debug, Default)]
    struct Device {
        /// The last reference it has used.
        reference: u64,
        session: u128,
        /// The index of its own candidate, while its channel is gone.
        own: Option<usize>,
    }

    /// What a device does: it goes after so many messages, or comes back after so many.
    #[derive(Clone, Copy, Debug)]
    struct Step {
        device: usize,
        sent: u64,
    }

    fn any_steps(devices: usize, sent_max: u64) -> impl Strategy<Value = Vec<Step>> {
        let step = (0..devices, 1..=sent_max).prop_map(|(device, sent)| Step { device, sent });
        proptest::collection::vec(step, 1..40)
    }

    /// A join, and all that is needed to judge its choice.
    struct Join<'a> {
        candidates: &'a [Candidate],
        device: usize,
        own: usize,
        reference: Option<u64>,
        choice: &'a Choice,
    }

    impl Join<'_> {
        fn own(&self) -> &Candidate {
            &self.candidates[self.own]
        }

        /// Whether nothing is missed.
        fn is_whole(&self) -> bool {
            let from = self.choice.from.as_ref();
            from.is_some_and(|from| self.own().cursor.snapshot.covers(&from.snapshot))
        }

        fn is_exact(&self) -> bool {
            self.choice.from.as_ref() == Some(&self.own().cursor)
        }
    }

    /// Lets devices, which are all here at first, go and come back one step at a time.
    fn play(
        mut devices: Vec<Device>,
        steps: &[Step],
        with_references: bool,
        mut judge: impl FnMut(&Join<'_>) -> Result<(), TestCaseError>,
    ) -> Result<(), TestCaseError> {
        let mut candidates: Vec<Candidate> = Vec::new();
        for (moment, step) in (1..).zip(steps) {
            let device = &mut devices[step.device];
            device.reference += step.sent;
            let reference = with_references.then_some(device.reference);
            let Some(own) = device.own.take() else {
                device.own = Some(candidates.len());
                candidates.push(Candidate {
                    cursor: cursor(moment),
                    reference,
                    taken_by: None,
                });
                continue;
            };
            device.session = u128::from(moment);
            let choice = choose(&candidates, session(device.session), reference);
            judge(&Join {
                candidates: &candidates,
                device: step.device,
                own,
                reference,
                choice: &choice,
            })?;
            if let Some(taken) = choice.takes {
                candidates[taken].taken_by = Some(session(device.session));
            }
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn a_single_device_is_replayed_from_its_own_cursor_exactly(steps in any_steps(1, 5)) {
            play(vec![Device::default()], &steps, true, |join| {
                prop_assert!(join.is_exact());
                prop_assert_eq!(join.choice.takes, Some(join.own));
                Ok(())
            })?;
        }

        #[test]
        fn nothing_is_missed_unless_ones_own_was_taken_and_another_compatible_one_is_left(
            starts in proptest::array::uniform3(0u64..30), steps in any_steps(3, 12),
        ) {
            let devices = starts.map(|reference| Device { reference, ..Device::default() });
            play(devices.to_vec(), &steps, true, |join| {
                let others = join.candidates.iter().any(|other| {
                    other.taken_by.is_none() && other.reference < join.reference
                });
                if join.own().taken_by.is_none() || !others {
                    prop_assert!(join.is_whole());
                }
                Ok(())
            })?;
        }

        #[test]
        fn devices_whose_references_do_not_cross_take_their_own(steps in any_steps(3, 5)) {
            // Forty steps of five stay far below the distance.
            let devices = [0, 1000, 2000].map(|reference| Device { reference, ..Device::default() });
            play(devices.to_vec(), &steps, true, |join| {
                prop_assert!(join.is_whole());
                prop_assert_eq!(join.choice.takes, Some(join.own));
                prop_assert!(join.device > 0 || join.is_exact());
                Ok(())
            })?;
        }

        #[test]
        fn without_references_nothing_is_missed(steps in any_steps(3, 1)) {
            play(vec![Device::default(); 3], &steps, false, |join| {
                prop_assert!(join.is_whole());
                Ok(())
            })?;
        }

        #[test]
        fn a_choice_is_one_of_the_candidates_and_takes_only_what_is_free(
            parked in proptest::collection::vec((1u64..9, proptest::option::of(0u64..9), proptest::option::of(99u128..102)), 0..9),
            reference in proptest::option::of(0u64..9),
        ) {
            let candidates: Vec<Candidate> = parked
                .into_iter()
                .map(|(position, reference, taken_by)| candidate(position, reference, taken_by))
                .collect();
            let choice = choose(&candidates, session(100), reference);
            if let Some(from) = &choice.from {
                prop_assert!(candidates.iter().any(|candidate| candidate.cursor == *from));
            }
            if let Some(taken) = choice.takes {
                prop_assert_eq!(candidates[taken].taken_by, None);
                prop_assert!(candidates[taken].reference < reference);
                prop_assert!(choice.from.is_some());
            }
        }
    }
}
