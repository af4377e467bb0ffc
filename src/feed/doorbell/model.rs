//! Every order in which gateways and writers can take their steps, explored whole.
//!
//! The gateways are the real [`Doorbell`]; locks, commits and notifications are modelled after Postgres: a transaction's rows become
//! visible, then it gives its locks back, then its ring goes to each listener (`CommitTransaction` in `xact.c`). Writers may roll
//! back, and connections of gateways may break, at any step. A gateway that sleeps is woken by rings only: there is no idle tick here.

use std::collections::HashSet;

use super::*;

/// What the model leaves out, to show that it would be missed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Rules {
    AsWritten,
    /// Writers look for sleepers before they have `silent`.
    LookFirst,
    /// Gateways sleep although somebody has `silent`.
    WithoutAllEnded,
    /// Gateways sleep without the last read.
    WithoutLastRead,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Writer {
    Begun,
    /// Has written to the log, and takes `silent`.
    Logged,
    /// Has found nobody, and takes `silent` too late.
    FoundNobody,
    /// Has `silent`, and looks for sleepers.
    Silent,
    /// Is going to commit, with a ring or without.
    Decided {
        rings: bool,
        silent: bool,
    },
    /// Its row is visible.
    Visible {
        rings: bool,
        silent: bool,
    },
    /// It has no lock any more; whom it has not signalled yet is in the set of bits.
    Signals {
        left: u8,
    },
    RolledBack,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Doing {
    Read,
    Take(StepTaken),
}

/// A [`Step`], without times.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum StepTaken {
    LieDown,
    AllEnded,
    GetUp,
    Wait,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Gateway {
    doorbell: Doorbell,
    doing: Doing,
    holds_asleep: bool,
    rang: bool,
    /// Writers whose rows it has read, as bits.
    seen: u8,
    breaks_left: u8,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct World {
    gateways: Vec<Gateway>,
    writers: Vec<Writer>,
}

impl World {
    fn new(
        Scope {
            gateways,
            writers,
            breaks,
        }: Scope,
    ) -> Self {
        Self {
            gateways: vec![Gateway::connected(0, breaks); gateways],
            writers: vec![Writer::Begun; writers],
        }
    }

    fn visible(&self) -> u8 {
        let bits = self.writers.iter().enumerate().map(|(index, writer)| {
            let is_visible = matches!(writer, Writer::Visible { .. } | Writer::Signals { .. });
            u8::from(is_visible) << index
        });
        bits.sum()
    }

    fn somebody_sleeps(&self) -> bool {
        self.gateways.iter().any(|gateway| gateway.holds_asleep)
    }

    fn somebody_is_silent(&self) -> bool {
        self.writers.iter().any(|writer| {
            matches!(
                writer,
                Writer::Silent | Writer::Decided { silent: true, .. } | Writer::Visible { silent: true, .. }
            )
        })
    }

    /// A gateway that sleeps, nothing will wake, and that has not read what is there.
    fn misses_something(&self) -> bool {
        let visible = self.visible();
        self.gateways.iter().enumerate().any(|(index, gateway)| {
            let is_told = self.writers.iter().any(|writer| match writer {
                Writer::Visible { rings, .. } => *rings,
                Writer::Signals { left } => left & (1 << index) != 0,
                _ => false,
            });
            gateway.doing == Doing::Take(StepTaken::Wait)
                && matches!(gateway.doorbell.state, State::Asleep { .. })
                && !gateway.rang
                && !is_told
                && gateway.seen != visible
        })
    }

    fn next(&self, rules: Rules, now: Instant) -> Vec<Self> {
        let mut worlds = Vec::new();
        for index in 0..self.writers.len() {
            self.writer_steps(index, rules, &mut worlds);
        }
        for index in 0..self.gateways.len() {
            self.gateway_steps(index, rules, now, &mut worlds);
        }
        worlds
    }

    /// What can become of a writer's next step. Signals to gateways are told apart from what only the writer notices.
    fn writer_steps(&self, index: usize, rules: Rules, worlds: &mut Vec<Self>) {
        let rings = |silent| Writer::Decided { rings: true, silent };
        let writer = self.writers[index];
        // Another writer that looks in the same moment is taken for a sleeper, and a gateway that looks whether all have ended
        // keeps a writer from taking `silent`. So a writer may ring although nobody sleeps.
        let mut becomes = match writer {
            Writer::Begun => vec![Writer::Logged],
            Writer::Logged if rules == Rules::LookFirst && self.somebody_sleeps() => vec![rings(false)],
            Writer::Logged if rules == Rules::LookFirst => vec![Writer::FoundNobody],
            Writer::FoundNobody => vec![Writer::Decided {
                rings: false,
                silent: true,
            }],
            Writer::Logged => vec![rings(false), Writer::Silent],
            Writer::Silent if self.somebody_sleeps() => vec![rings(true)],
            Writer::Silent => {
                let silent = Writer::Decided {
                    rings: false,
                    silent: true,
                };
                vec![rings(true), silent]
            }
            Writer::Decided { rings, silent } => vec![Writer::Visible { rings, silent }],
            Writer::Visible { rings, .. } => {
                let everybody = (1 << self.gateways.len()) - 1;
                let left = if rings { everybody } else { 0 };
                vec![Writer::Signals { left }]
            }
            Writer::Signals { .. } | Writer::RolledBack => Vec::new(),
        };
        if let Writer::Signals { left } = writer {
            for gateway in 0..self.gateways.len() {
                let bit = 1 << gateway;
                if left & bit != 0 {
                    let mut world = self.clone();
                    world.gateways[gateway].rang = true;
                    world.writers[index] = Writer::Signals { left: left & !bit };
                    worlds.push(world);
                }
            }
        } else if !matches!(writer, Writer::Visible { .. } | Writer::RolledBack) {
            becomes.push(Writer::RolledBack);
        }
        for become_now in becomes {
            let mut world = self.clone();
            world.writers[index] = become_now;
            worlds.push(world);
        }
    }

    fn gateway_steps(&self, index: usize, rules: Rules, now: Instant, worlds: &mut Vec<Self>) {
        let gateway = self.gateways[index];
        let mut become_ = |gateway: Gateway| {
            let mut world = self.clone();
            world.gateways[index] = gateway;
            worlds.push(world);
        };
        if gateway.breaks_left > 0 {
            become_(Gateway::connected(gateway.seen, gateway.breaks_left - 1));
        }
        let mut next = gateway;
        let answer = |next: &mut Gateway, question, answer| {
            let step = next.doorbell.answered(question, answer, now);
            next.doing = Doing::take(step);
        };
        match gateway.doing {
            Doing::Read => {
                next.seen = self.visible();
                let step = next.doorbell.after_read(next.seen != gateway.seen);
                next.doing = Doing::take(step);
                become_(next);
            }
            Doing::Take(StepTaken::LieDown) => {
                // A writer that looks in this moment keeps it from lying down.
                let mut refused = next;
                answer(&mut refused, Question::LieDown, false);
                become_(refused);
                next.holds_asleep = true;
                answer(&mut next, Question::LieDown, true);
                become_(next);
            }
            Doing::Take(StepTaken::AllEnded) => {
                let all_ended = rules == Rules::WithoutAllEnded || !self.somebody_is_silent();
                answer(&mut next, Question::AllEnded, all_ended);
                if rules == Rules::WithoutLastRead && all_ended {
                    next.doing = Doing::take(next.doorbell.after_read(false));
                }
                become_(next);
            }
            Doing::Take(StepTaken::GetUp) => {
                next.holds_asleep = false;
                answer(&mut next, Question::GetUp, true);
                become_(next);
            }
            Doing::Take(StepTaken::Wait) => {
                next.doing = Doing::Read;
                if next.rang {
                    let mut busy = next;
                    busy.rang = false;
                    busy.doorbell.waited(true);
                    become_(busy);
                }
                if next.rang || !matches!(next.doorbell.state, State::Asleep { .. }) {
                    next.rang = false;
                    next.doorbell.waited(false);
                    become_(next);
                }
            }
        }
    }
}

impl Gateway {
    /// With a new connection. It changes its mind after one read, which has the same states as after several, but fewer of each.
    fn connected(seen: u8, breaks_left: u8) -> Self {
        let doorbell = Doorbell {
            busy_reads: 1,
            empty_reads: 1,
            ..Doorbell::new(Duration::ZERO)
        };
        Self {
            doorbell,
            doing: Doing::Read,
            holds_asleep: false,
            rang: false,
            seen,
            breaks_left,
        }
    }
}

impl Doing {
    fn take(step: Step) -> Self {
        Self::Take(match step {
            Step::Ask(Question::LieDown) => StepTaken::LieDown,
            Step::Ask(Question::AllEnded) => StepTaken::AllEnded,
            Step::Ask(Question::GetUp) => StepTaken::GetUp,
            Step::Wait(_) => StepTaken::Wait,
        })
    }
}

/// How much of everything there is.
#[derive(Clone, Copy, Debug)]
struct Scope {
    gateways: usize,
    writers: usize,
    /// How often the connection of each gateway may break.
    breaks: u8,
}

/// More worlds than that would take the memory of the machine; a scope has to be smaller then.
const WORLDS_MAX: usize = 2_000_000;

/// How many worlds can be reached, if in none of them a gateway misses something; or the first in which one does.
fn explore(scope: Scope, rules: Rules) -> Result<usize, World> {
    let now = Instant::now();
    let first = World::new(scope);
    let mut known = HashSet::from([first.clone()]);
    let mut open = vec![first];
    while let Some(world) = open.pop() {
        if world.misses_something() {
            return Err(world);
        }
        for next in world.next(rules, now) {
            if known.insert(next.clone()) {
                open.push(next);
            }
        }
        assert!(known.len() < WORLDS_MAX, "{scope:?} is too much");
    }
    Ok(known.len())
}

#[test]
fn no_order_of_steps_lets_a_gateway_sleep_over_a_change() {
    for (gateways, writers, breaks) in [(1, 2, 2), (1, 3, 0), (2, 1, 1), (2, 2, 0)] {
        let scope = Scope {
            gateways,
            writers,
            breaks,
        };
        let worlds = explore(scope, Rules::AsWritten).unwrap_or_else(|world| panic!("{world:#?}"));
        assert!(worlds > 1_000, "only {worlds} worlds in {scope:?}");
    }
}

#[test]
fn every_rule_is_needed() {
    let scope = Scope {
        gateways: 1,
        writers: 1,
        breaks: 0,
    };
    assert!(explore(scope, Rules::AsWritten).is_ok());
    for rules in [Rules::LookFirst, Rules::WithoutAllEnded, Rules::WithoutLastRead] {
        assert!(explore(scope, rules).is_err(), "{rules:?}");
    }
}
