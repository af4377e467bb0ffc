//! What a run does: how many people listen on how many sessions, who writes to whom, how often, and when it ends.
//!
//! Messages are numbered, and who writes which of them follows from its number. So it is known of every session which messages it has to hear,
//! and how many bits it takes to note which it has heard.

use std::{num::NonZeroU32, time::Duration};

/// The most deliveries of a run. Each takes a bit, and each message some bytes.
pub const DELIVERIES_MAX: u64 = 100_000_000;

/// The most messages of a run.
pub const MESSAGES_MAX: u32 = 5_000_000;

/// To whom people write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receiver {
    /// Each to the next one, so that a message concerns two people.
    Other,
    /// Each a note to self, so that a message concerns one person.
    Oneself,
}

/// By which path messages are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// By INSERT, so many rows in one statement.
    Sql {
        /// Rows in one statement.
        rows: NonZeroU32,
    },
    /// By the gateway's HTTP API, one message in a call.
    Http,
}

/// What a run does.
#[derive(Clone, Debug)]
pub struct Plan {
    /// People. At least one.
    pub people: u32,
    /// Sessions of each of them.
    pub sessions: u32,
    /// To whom they write.
    pub receiver: Receiver,
    /// The most messages.
    pub messages: u32,
    /// The longest time that is written.
    pub duration: Duration,
    /// Messages a second; none for as many as are taken.
    pub rate: Option<NonZeroU32>,
    /// By which path.
    pub path: Path,
    /// Connections that write.
    pub writers: NonZeroU32,
    /// The length of a message's content, in bytes.
    pub content_bytes: usize,
    /// How long what was written may take to arrive after the last of it was written.
    pub patience: Duration,
}

impl Plan {
    /// The number of the person who writes a message.
    pub(super) const fn sender(&self, message: u32) -> u32 {
        message % self.people
    }

    /// The number of the person to whom it is written.
    pub(super) const fn receiver(&self, message: u32) -> u32 {
        match self.receiver {
            Receiver::Other => (message + 1) % self.people,
            Receiver::Oneself => self.sender(message),
        }
    }

    /// How many sessions have to hear a message.
    pub const fn audience(&self, message: u32) -> u32 {
        if self.sender(message) == self.receiver(message) {
            self.sessions
        } else {
            2 * self.sessions
        }
    }

    /// The how manieth message of a person this is, if it concerns that person at all.
    pub(super) const fn ordinal(&self, person: u32, message: u32) -> Option<u32> {
        let (round, is_sent) = (message / self.people, self.sender(message) == person);
        let is_received = self.receiver(message) == person;
        match (is_sent, is_received) {
            (true, true) => Some(round),
            (true, false) => Some(2 * round),
            (false, true) => Some(2 * round + 1),
            (false, false) => None,
        }
    }

    /// How many messages there are at most for one person.
    pub(super) const fn messages_of_one(&self) -> u32 {
        let rounds = self.messages.div_ceil(self.people);
        match self.receiver {
            Receiver::Other if self.people > 1 => 2 * rounds,
            Receiver::Other | Receiver::Oneself => rounds,
        }
    }

    /// How many messages are written at once.
    pub(super) const fn rows(&self) -> u32 {
        match self.path {
            Path::Sql { rows } => rows.get(),
            Path::Http => 1,
        }
    }

    /// How long after the beginning a message is due, if they are written at a rate.
    pub(super) fn due_after(&self, message: u32) -> Option<Duration> {
        let rate = self.rate?;
        Some(Duration::from_secs(1) * message / rate.get())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(in crate::load) fn plan(people: u32, sessions: u32, receiver: Receiver, messages: u32) -> Plan {
        Plan {
            people,
            sessions,
            receiver,
            messages,
            duration: Duration::from_secs(1),
            rate: None,
            path: Path::Http,
            writers: NonZeroU32::MIN,
            content_bytes: 80,
            patience: Duration::from_secs(1),
        }
    }

    proptest! {
        /// Each person's messages are counted without gap and without the same number twice, and their audiences are those who are concerned.
        #[test]
        fn ordinals_count_what_concerns_a_person(
            people in 1_u32..8,
            sessions in 1_u32..4,
            is_to_oneself in any::<bool>(),
            messages in 1_u32..60,
        ) {
            let receiver = if is_to_oneself { Receiver::Oneself } else { Receiver::Other };
            let plan = plan(people, sessions, receiver, messages);
            let mut deliveries = 0;
            for person in 0..people {
                let of_person = |message: &u32| [plan.sender(*message), plan.receiver(*message)].contains(&person);
                let mut ordinals: Vec<u32> = (0..messages).filter_map(|message| plan.ordinal(person, message)).collect();
                prop_assert_eq!(ordinals.len(), (0..messages).filter(of_person).count());
                deliveries += ordinals.len() as u64 * u64::from(sessions);
                ordinals.sort_unstable();
                ordinals.dedup();
                prop_assert_eq!(ordinals.len(), (0..messages).filter(of_person).count());
                prop_assert!(ordinals.iter().all(|ordinal| *ordinal < plan.messages_of_one()));
            }
            let audiences: u64 = (0..messages).map(|message| u64::from(plan.audience(message))).sum();
            prop_assert_eq!(audiences, deliveries);
        }
    }
}
