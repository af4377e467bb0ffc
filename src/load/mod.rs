//! Puts a server under load as its clients and writers do, and counts what comes of it.
//!
//! A run has three parts: sessions are opened; messages are written, at a rate or as fast as they are taken; and what is under way is waited
//! for. Messages are numbered and each session notes which it has heard, so that loss, duplicates and what reaches the wrong person are counted
//! and not estimated. Latencies count from the moment that a message was due, so that a server that stalls the writer does not look better for it
//! (what Gil Tene calls coordinated omission).

mod content;
mod latency;
mod listener;
mod outcome;
pub mod plan;
pub mod process;
mod progress;
pub mod report;
mod tally;
pub mod target;
mod writer;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures::{StreamExt, TryStreamExt, stream};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use self::{
    content::Mark,
    listener::{Opener, Socket, listen},
    plan::Plan,
    progress::Progress,
    tally::Tally,
    target::Target,
    writer::{Work, Writer},
};
pub use self::{
    latency::Percentiles,
    listener::OpenError,
    outcome::{Delivery, Opening, Outcome, ProcessCost, Sample, Writing},
    writer::WriteError,
};
use crate::{memory, tasks::Tasks};

/// Sessions that are being opened at the same time.
const OPENING_AT_ONCE: usize = 64;

/// How often it is looked at how things go.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);

/// How long the target is left alone before its memory is measured, so that what opening took is given back.
const SETTLING: Duration = Duration::from_secs(1);

/// How often it is looked whether everything has arrived.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// How long sessions and writers may take to end.
const END_WITHIN: Duration = Duration::from_secs(10);

/// Why there is no outcome.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A session did not open. Fewer than were asked for would be another load.
    #[error("session {number} of {all} at {target} did not open: {error}")]
    Open {
        /// Which.
        number: u32,
        /// How many there were to be.
        all: u32,
        /// Where.
        target: String,
        /// Why.
        error: OpenError,
    },
    /// The target is not there, or takes nobody.
    #[error("{target}: {error}")]
    Target {
        /// Where.
        target: String,
        /// Why.
        error: OpenError,
    },
    /// Nothing can be written.
    #[error("{target}: {error}")]
    Write {
        /// Where.
        target: String,
        /// Why.
        error: WriteError,
    },
    /// It was told to end before the first message.
    #[error("ended before the first message was written")]
    Ended,
}

/// What happens, for whoever watches.
#[derive(Debug)]
pub enum Notice<'a> {
    /// So many sessions are open.
    Opened(u64),
    /// A second has passed.
    Sampled(&'a Sample),
}

/// Runs the plan against a target, and tells of it once a second. Ends early, with what there is, when it is told to stop.
///
/// # Errors
/// [`LoadError`].
///
/// # Cancel safety
/// Not safe: writers and sessions go on until the runtime ends. Use `stopping`.
pub async fn run(
    plan: Plan,
    target: Target,
    stopping: &CancellationToken,
    mut tell: impl FnMut(Notice<'_>),
) -> Result<Outcome, LoadError> {
    let (plan, target, tasks) = (Arc::new(plan), Arc::new(target), Tasks::new());
    let empty = target.process.and_then(memory::resident_of);
    let (sockets, opened_in) = open_all(&plan, &target, stopping, &mut tell).await?;
    let writers = connect_writers(&plan, &target, &tasks).await?;
    if stopping.run_until_cancelled(sleep(SETTLING)).await.is_none() {
        return Err(LoadError::Ended);
    }
    let memory = Memory {
        empty,
        idle: target.process.and_then(memory::resident_of),
    };
    let sessions = sockets.len() as u64;
    let running = Running::begin(&plan, &target, sockets, writers, &tasks);
    let mut samples = Samples::new(&running, target.process);
    running.watch(&plan, stopping, &mut samples, &mut tell).await;
    let processor = samples.processor_time();
    let lost = running.end(&plan, tasks).await;
    let is_cut_short = stopping.is_cancelled();
    let mut outcome = running.outcome(&target.name, lost, samples.taken);
    outcome.is_cut_short = is_cut_short;
    outcome.opening.sessions = sessions;
    outcome.opening.per_second = rate(sessions, opened_in);
    outcome.process = memory.cost(&outcome, processor);
    Ok(outcome)
}

/// Opens all sessions, and answers how long that took.
async fn open_all(
    plan: &Plan,
    target: &Arc<Target>,
    stopping: &CancellationToken,
    tell: &mut impl FnMut(Notice<'_>),
) -> Result<(Vec<(u32, Socket)>, Duration), LoadError> {
    let found = async {
        let opener = Opener::new(Arc::clone(target)).await?;
        opener.wait().await?;
        Ok(opener)
    };
    let opener = &found.await.map_err(|error| LoadError::Target {
        target: target.name.clone(),
        error,
    })?;
    let all = plan.people * plan.sessions;
    let began = Instant::now();
    let opened = AtomicU64::new(0);
    let open = async |number: u32| {
        let person = number % plan.people;
        let socket = opener.open(number, person).await;
        let socket = socket.map_err(|error| LoadError::Open {
            number: number + 1,
            all,
            target: target.name.clone(),
            error,
        })?;
        opened.fetch_add(1, Relaxed);
        Ok((person, socket))
    };
    let opening = stream::iter(0..all)
        .map(open)
        .buffer_unordered(OPENING_AT_ONCE)
        .try_collect::<Vec<_>>();
    let mut opening = Box::pin(stopping.run_until_cancelled(opening));
    let mut ticks = ticks();
    loop {
        tokio::select! {
            biased;
            sockets = &mut opening => {
                let sockets = sockets.ok_or(LoadError::Ended)??;
                return Ok((sockets, began.elapsed()));
            }
            _ = ticks.tick() => tell(Notice::Opened(opened.load(Relaxed))),
        }
    }
}

async fn connect_writers(plan: &Plan, target: &Target, tasks: &Tasks) -> Result<Vec<Writer>, LoadError> {
    let connecting = stream::iter(0..plan.writers.get()).then(|_| Writer::connect(plan, target, tasks));
    connecting.try_collect().await.map_err(|error| LoadError::Write {
        target: target.name.clone(),
        error,
    })
}

fn ticks() -> tokio::time::Interval {
    let mut ticks = interval(SAMPLE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first one comes at once.
    ticks.reset();
    ticks
}

/// Sessions and writers at work.
struct Running {
    progress: Arc<Progress>,
    writers: Tasks,
    listeners: CancellationToken,
    heard: Arc<Mutex<Vec<Tally>>>,
}

impl Running {
    fn begin(
        plan: &Arc<Plan>,
        target: &Arc<Target>,
        sockets: Vec<(u32, Socket)>,
        writers: Vec<Writer>,
        tasks: &Tasks,
    ) -> Self {
        let running = Self {
            progress: Arc::new(Progress::of(plan)),
            writers: Tasks::new(),
            listeners: CancellationToken::new(),
            heard: Arc::default(),
        };
        let mark = Mark::random();
        for (person, socket) in sockets {
            let (plan, mark, progress) = (Arc::clone(plan), mark.clone(), Arc::clone(&running.progress));
            let (stopping, heard) = (running.listeners.clone(), Arc::clone(&running.heard));
            let tally = Tally::of(person, &plan);
            tasks.spawn("session", async move {
                let tally = listen(socket, tally, &plan, &mark, &progress, &stopping).await;
                heard.lock().unwrap_or_else(PoisonError::into_inner).push(tally);
            });
        }
        let work = Arc::new(Work {
            plan: Arc::clone(plan),
            target: Arc::clone(target),
            mark,
            progress: Arc::clone(&running.progress),
            next: AtomicU32::new(0),
            stopping: running.writers.stopping(),
        });
        for writer in writers {
            running.writers.spawn("writer", writer.write(Arc::clone(&work)));
        }
        running
    }

    /// Waits until everything is written and has arrived, or has had its time.
    async fn watch(
        &self,
        plan: &Plan,
        stopping: &CancellationToken,
        samples: &mut Samples<'_>,
        tell: &mut impl FnMut(Notice<'_>),
    ) {
        let mut ticks = ticks();
        let arrived = async {
            let written = async {
                while !self.writers.running().is_empty() {
                    sleep(LOOK_EVERY).await;
                }
            };
            if stopping.run_until_cancelled(written).await.is_none() {
                self.writers.stop();
                let _stopped = self.writers.finish(END_WITHIN).await;
            }
            let until = Instant::now() + plan.patience;
            while !self.progress.is_complete() && Instant::now() < until {
                sleep(LOOK_EVERY).await;
            }
        };
        let mut arrived = std::pin::pin!(arrived);
        loop {
            tokio::select! {
                () = &mut arrived => break,
                _ = ticks.tick() => tell(Notice::Sampled(samples.take())),
            }
        }
        samples.take_rest();
    }

    /// Ends everything, and answers how many deliveries are missing.
    async fn end(&self, plan: &Plan, tasks: Tasks) -> u64 {
        self.writers.stop();
        let _stopped = self.writers.finish(END_WITHIN).await;
        self.listeners.cancel();
        let _stopped = tasks.finish(END_WITHIN).await;
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let is_written = |message| self.progress.is_written(message);
        heard.iter().map(|tally| tally.missing(is_written, plan)).sum()
    }

    fn outcome(&self, target: &str, lost: u64, samples: Vec<Sample>) -> Outcome {
        let progress = &self.progress;
        let count = |counter: &AtomicU64| counter.load(Relaxed);
        let (times, troubles) = (progress.times(), progress.troubles());
        let written_for = progress.written_for();
        Outcome {
            target: target.to_owned(),
            is_cut_short: false,
            opening: Opening {
                sessions: 0,
                per_second: 0.0,
                ended: troubles.ended.clone(),
            },
            writing: Writing {
                messages: count(&progress.written),
                failed: count(&progress.failed),
                first_failure: troubles.first_failure.clone(),
                seconds: written_for.as_secs_f64(),
                per_second: rate(count(&progress.written), written_for),
            },
            delivery: Delivery {
                expected: count(&progress.expected),
                delivered: count(&progress.delivered),
                lost,
                duplicates: count(&progress.again),
                foreign: count(&progress.foreign),
                from_due: times.from_due.curve(),
                from_commit: times.from_commit.curve(),
                lag: progress.lag().as_secs_f64() * 1000.0,
            },
            process: None,
            samples,
        }
    }
}

/// How things went, second by second.
struct Samples<'a> {
    progress: &'a Progress,
    process: Option<u32>,
    /// The processor time of the process at the beginning, and at the last sample.
    processor: Option<(Duration, Duration)>,
    before: (Instant, u64, u64),
    taken: Vec<Sample>,
}

impl<'a> Samples<'a> {
    fn new(running: &'a Running, process: Option<u32>) -> Self {
        let processor = process.and_then(process::processor_time);
        Self {
            progress: &running.progress,
            process,
            processor: processor.map(|now| (now, now)),
            before: (running.progress.began(), 0, 0),
            taken: Vec::new(),
        }
    }

    fn take(&mut self) -> &Sample {
        let progress = self.progress;
        let (now, written, delivered) = (
            Instant::now(),
            progress.written.load(Relaxed),
            progress.delivered.load(Relaxed),
        );
        let (then, written_then, delivered_then) =
            std::mem::replace(&mut self.before, (now, written, delivered));
        let took = now.saturating_duration_since(then);
        let lately = {
            let mut times = progress.times();
            let lately = times.lately.percentiles();
            times.lately.clear();
            lately
        };
        let processor = self.process.and_then(process::processor_time);
        let processor_percent = processor.zip(self.processor.as_mut()).map(|(now, (_, then))| {
            let used = now.saturating_sub(std::mem::replace(then, now));
            100.0 * used.as_secs_f64() / took.as_secs_f64().max(f64::EPSILON)
        });
        self.taken.push(Sample {
            at: now.saturating_duration_since(progress.began()).as_secs_f64(),
            sessions: progress.open.load(Relaxed),
            written: written - written_then,
            delivered: delivered - delivered_then,
            p50: lately.p50,
            p99: lately.p99,
            processor_percent,
            resident_mib: self.process.and_then(memory::resident_of).map(mib),
        });
        &self.taken[self.taken.len() - 1]
    }

    /// Adds what came after the last sample. By itself it would look like a second in which little happened.
    fn take_rest(&mut self) {
        let last = self.taken.len();
        self.take();
        if last > 0
            && let Some(rest) = self.taken.pop()
        {
            let whole = &mut self.taken[last - 1];
            whole.written += rest.written;
            whole.delivered += rest.delivered;
            whole.at = rest.at;
        }
    }

    /// The processor time from the beginning to the last sample.
    fn processor_time(&self) -> Option<Duration> {
        self.processor.map(|(first, last)| last.saturating_sub(first))
    }
}

/// The memory of the target's process before the first session, and with all of them idle.
struct Memory {
    empty: Option<u64>,
    idle: Option<u64>,
}

impl Memory {
    #[allow(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    fn cost(&self, outcome: &Outcome, processor: Option<Duration>) -> Option<ProcessCost> {
        let (empty, idle, processor) = (self.empty?, self.idle?, processor?);
        let deliveries = outcome.delivery.delivered.max(1) as f64;
        let time: f64 = outcome.samples.last().map_or(0.0, |sample| sample.at);
        let peak = outcome.samples.iter().filter_map(|sample| sample.resident_mib);
        Some(ProcessCost {
            microseconds_per_delivery: processor.as_secs_f64() * 1e6 / deliveries,
            processor_percent: 100.0 * processor.as_secs_f64() / time.max(f64::EPSILON),
            empty_mib: mib(empty),
            kib_per_session: idle.saturating_sub(empty) as f64
                / 1024.0
                / outcome.opening.sessions.max(1) as f64,
            peak_mib: peak.fold(mib(idle), f64::max),
        })
    }
}

#[allow(clippy::cast_precision_loss, reason = "memory is far below 2^52 bytes")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[allow(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn rate(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64().max(f64::EPSILON)
}
