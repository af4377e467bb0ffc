//! Which messages have arrived where, exactly: a bit for each delivery that there has to be.

use super::plan::Plan;

/// What is noted of a message that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// For the first time.
    First,
    /// It had been there before.
    Again,
    /// It is somebody else's.
    Foreign,
}

/// A set of small numbers.
#[derive(Clone, Debug, Default)]
struct Bits(Vec<u64>);

impl Bits {
    /// An empty set with room for numbers below this.
    fn below(count: u32) -> Self {
        Self(vec![0; count.div_ceil(u64::BITS) as usize])
    }

    /// Adds a number, and answers whether it was new. One for which there is no room is not.
    fn insert(&mut self, number: u32) -> bool {
        let Some(word) = self.0.get_mut((number / u64::BITS) as usize) else {
            return false;
        };
        let bit = 1 << (number % u64::BITS);
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }

    /// Whether it holds this number.
    fn contains(&self, number: u32) -> bool {
        let word = self.0.get((number / u64::BITS) as usize);
        word.is_some_and(|word| word & (1 << (number % u64::BITS)) != 0)
    }
}

/// What one session has heard.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    person: u32,
    heard: Bits,
}

impl Tally {
    /// Nothing so far.
    pub(super) fn of(person: u32, plan: &Plan) -> Self {
        Self {
            person,
            heard: Bits::below(plan.messages_of_one()),
        }
    }

    /// Notes a message.
    pub(super) fn note(&mut self, message: u32, plan: &Plan) -> Arrival {
        if message >= plan.messages {
            return Arrival::Foreign;
        }
        match plan.ordinal(self.person, message) {
            Some(ordinal) if self.heard.insert(ordinal) => Arrival::First,
            Some(_) => Arrival::Again,
            None => Arrival::Foreign,
        }
    }

    /// How many of the messages that were written, and concern this person, have not arrived.
    pub(super) fn missing(&self, is_written: impl Fn(u32) -> bool, plan: &Plan) -> u64 {
        let is_missing = |message: &u32| {
            is_written(*message)
                && plan
                    .ordinal(self.person, *message)
                    .is_some_and(|ordinal| !self.heard.contains(ordinal))
        };
        // Of each round of all people at most two messages concern this one: as its sender, and as its receiver.
        let own = (self.person..plan.messages).step_by(plan.people as usize);
        let before = (self.person + plan.people - 1) % plan.people;
        let received = (before..plan.messages).step_by(plan.people as usize);
        let is_own = |message: &u32| plan.sender(*message) == self.person;
        let all = own.chain(received.filter(|message| !is_own(message)));
        all.filter(is_missing).count() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::plan::{Receiver, tests::plan},
        *,
    };

    #[test]
    fn what_arrives_twice_or_at_the_wrong_place_or_not_at_all_is_told() {
        for (receiver, people) in [(Receiver::Other, 3), (Receiver::Oneself, 3), (Receiver::Other, 1)] {
            let plan = plan(people, 1, receiver, 20);
            let is_written = |message| message != 7;
            for person in 0..people {
                let mut tally = Tally::of(person, &plan);
                let concerning: Vec<u32> = (0..20)
                    .filter(|message| plan.ordinal(person, *message).is_some())
                    .collect();
                let not_written = concerning.iter().filter(|message| **message == 7).count() as u64;
                assert_eq!(
                    tally.missing(is_written, &plan),
                    concerning.len() as u64 - not_written
                );
                for message in 0..20 {
                    let expected = if concerning.contains(&message) {
                        Arrival::First
                    } else {
                        Arrival::Foreign
                    };
                    assert_eq!(tally.note(message, &plan), expected);
                    if expected == Arrival::First {
                        assert_eq!(tally.note(message, &plan), Arrival::Again);
                    }
                }
                assert_eq!(tally.missing(is_written, &plan), 0);
                assert_eq!(tally.note(20, &plan), Arrival::Foreign);
                assert_eq!(tally.note(u32::MAX, &plan), Arrival::Foreign);
            }
        }
    }
}
