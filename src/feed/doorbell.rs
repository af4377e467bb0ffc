//! When the feed waits for the doorbell, and when it reads without being rung for.
//!
//! A ring is dear for the writer, so writers ring only while a gateway is asleep; `sql/doorbell.sql` is their side, and says which
//! two locks tell and why no change can be missed. At rest a gateway sleeps, and a message costs one ring and one read. Once rings
//! come faster than it reads, it would read all the time anyway: it gives `asleep` back, reads again and again, and the writers
//! are spared. It sleeps again after a few reads that found nothing. A network driver does the same, which polls while packets pour
//! in (J. C. Mogul and K. K. Ramakrishnan, "Eliminating Receive Livelock in an Interrupt-Driven Kernel", 1996).
//!
//! This is the pure part: it is told what happened, and says what to do next. `model` explores every order in which gateways and
//! writers can take their steps.

use std::time::Duration;

use tokio::time::Instant;

#[cfg(test)]
mod model;

/// So many reads in a row that found a ring waiting already show that rings come faster than reads. Few, because each costs the writers
/// one by one; more than the two that a pair of messages makes.
const BUSY_READS: u32 = 4;

/// So many reads in a row that found nothing show that the rush is over. With the pause between them that is a few milliseconds: longer
/// than a commit takes on a good disk, so that few writers do not put it to sleep and wake it with each of their messages.
const EMPTY_READS: u32 = 5;

/// Between two reads of a gateway that is awake. It lets a few commits come together, which cost one read then; it is
/// the least that the runtime's timer knows.
const PAUSE: Duration = Duration::from_millis(1);

/// A transaction that did not ring, and is still open while the gateway lies down, is looked for again after this share of the time
/// that has passed: so its change is late by this share of its own duration.
const LATE_SHARE: u32 = 20;

/// The longest time between two looks for such a transaction. Ten reads a second cost nothing, and go on for as long as it is open.
const LATE_MAX: Duration = Duration::from_millis(100);

/// Where the gateway stands between the doorbell and the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum State {
    /// Holds no lock, and reads again and again; the last `empty` reads found nothing.
    Awake { empty: u32 },
    /// Holds `asleep`, so that whoever writes from now on rings. Who wrote before may not have ended. It lay down at that
    /// time, and the last `busy` reads found a ring waiting.
    LyingDown { since: Instant, busy: u32 },
    /// Holds `asleep`, and all who did not ring have ended; what they wrote may not have been read.
    LastRead,
    /// Holds `asleep`, and has read all that nobody rang for. The last `busy` reads found a ring waiting.
    Asleep { busy: u32 },
}

/// What the database is asked to do or to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// Take the lock `asleep`.
    LieDown,
    /// Tell whether all transactions that did not ring have ended.
    AllEnded,
    /// Give the lock `asleep` back.
    GetUp,
}

impl Question {
    /// The statement, which answers with one boolean.
    pub(super) const fn statement(self) -> &'static str {
        match self {
            Self::LieDown => "select pg_catalog.pg_try_advisory_lock_shared(5216701506134474756)",
            // Alone for a moment: a writer who comes just then rings.
            Self::AllEnded => {
                "select pg_catalog.pg_try_advisory_lock(5216701506134474757) \
                 and pg_catalog.pg_advisory_unlock(5216701506134474757)"
            }
            Self::GetUp => "select pg_catalog.pg_advisory_unlock_shared(5216701506134474756)",
        }
    }
}

/// What to do before the next read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Ask, and tell the answer by [`Doorbell::answered`].
    Ask(Question),
    /// Wait for a ring, but not longer than this, and tell whether one had come already by [`Doorbell::waited`]. Then read.
    Wait(Duration),
}

/// The gateway's side of the doorbell, for one connection of the feed: the locks end with the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Doorbell {
    state: State,
    /// How long to sleep without a ring. Nothing depends on it but how soon a dead connection is found.
    idle_tick: Duration,
    /// So many reads in a row that found a ring waiting make it get up.
    busy_reads: u32,
    /// So many reads in a row that found nothing make it lie down.
    empty_reads: u32,
}

impl Doorbell {
    /// For a new connection, which holds no lock.
    pub(super) const fn new(idle_tick: Duration) -> Self {
        Self {
            state: State::Awake { empty: 0 },
            idle_tick,
            busy_reads: BUSY_READS,
            empty_reads: EMPTY_READS,
        }
    }

    /// Whether only a ring or the idle tick leads to the next read.
    pub(super) const fn is_asleep(self) -> bool {
        matches!(self.state, State::Asleep { .. })
    }

    /// After a read that found changes or none.
    pub(super) fn after_read(&mut self, found: bool) -> Step {
        match &mut self.state {
            State::Awake { empty } => {
                *empty = if found {
                    0
                } else {
                    (*empty + 1).min(self.empty_reads)
                };
                if *empty < self.empty_reads {
                    Step::Wait(PAUSE)
                } else {
                    Step::Ask(Question::LieDown)
                }
            }
            State::LyingDown { busy, .. } | State::Asleep { busy } if *busy >= self.busy_reads => {
                Step::Ask(Question::GetUp)
            }
            State::LyingDown { .. } => Step::Ask(Question::AllEnded),
            State::LastRead => {
                self.state = State::Asleep { busy: 0 };
                Step::Wait(self.idle_tick)
            }
            State::Asleep { .. } => Step::Wait(self.idle_tick),
        }
    }

    /// After the answer to a question.
    pub(super) fn answered(&mut self, question: Question, answer: bool, now: Instant) -> Step {
        match (question, self.state) {
            (Question::LieDown, _) if answer => {
                self.state = State::LyingDown { since: now, busy: 0 };
                Step::Ask(Question::AllEnded)
            }
            (Question::AllEnded, _) if answer => {
                self.state = State::LastRead;
                Step::Wait(Duration::ZERO)
            }
            (Question::AllEnded, State::LyingDown { since, .. }) => {
                let late = (now - since) / LATE_SHARE;
                Step::Wait(late.clamp(PAUSE, LATE_MAX))
            }
            (Question::LieDown | Question::AllEnded, _) => Step::Wait(PAUSE),
            (Question::GetUp, _) => {
                self.state = State::Awake { empty: 0 };
                Step::Wait(Duration::ZERO)
            }
        }
    }

    /// After a wait, which a ring may have ended that had come before it began.
    pub(super) fn waited(&mut self, had_rung: bool) {
        if let State::LyingDown { busy, .. } | State::Asleep { busy } = &mut self.state {
            *busy = if had_rung {
                (*busy + 1).min(self.busy_reads)
            } else {
                0
            };
        }
    }
}
