//! `herald load`: puts a gateway under load, counts what is lost, and tells what it took.
//!
//! The outcome goes to standard output as a table, and to files as JSON and as a page with plots; how things go is told on standard error once a
//! second. The exit code is 0 only if everything arrived where it should, once.

mod stage;

use std::{
    fmt, fs, io,
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use self::stage::{OwnStage, StageError};
use super::{EXIT_USAGE, fail, signals::Signals};
use crate::{
    config::load::{LoadFlags, LoadSettings, Stage},
    load::{
        self, LoadError, Notice, Outcome,
        plan::{Path as WritePath, Plan, Receiver},
        report,
        target::Target,
    },
};

/// Files that a process has open beside its sessions.
const FURTHER_FILES: u64 = 500;

/// Why there is no outcome, or not all of it.
#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error(transparent)]
    Stage(#[from] StageError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error("{}: {error}", path.display())]
    File { path: PathBuf, error: io::Error },
    #[error(
        "{sessions} sessions need as many open files, and the system allows {allowed}; raise the hard limit with `ulimit -Hn`, or give fewer"
    )]
    Files { sessions: u64, allowed: u64 },
    #[error("the process cannot be set up: {0}")]
    Process(io::Error),
    #[error("ended at once by a second signal")]
    EndedAtOnce,
}

/// Runs the load. Answers 0 if nothing was lost, nothing came twice, and nobody was thrown out.
pub(super) fn run(flags: LoadFlags) -> ExitCode {
    let settings = match flags.check() {
        Ok(settings) => settings,
        Err(mistakes) => return fail("load", &mistakes, EXIT_USAGE),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail("load", &RunError::Process(error), 1),
    };
    let ended = runtime.block_on(until_signalled(settings));
    runtime.shutdown_background();
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => fail("load", &"not everything arrived as it should", 1),
        Err(error) => fail("load", &error, 1),
    }
}

/// The first signal ends the load with what there is, the second at once.
async fn until_signalled(settings: LoadSettings) -> Result<bool, RunError> {
    let mut signals = Signals::receive().map_err(RunError::Process)?;
    let stopping = CancellationToken::new();
    let mut running = Box::pin(load_all(settings, stopping.clone()));
    tokio::select! {
        ended = &mut running => return ended,
        () = signals.next() => {}
    }
    say(&"stopping; the same signal again ends it at once");
    stopping.cancel();
    tokio::select! {
        ended = running => ended,
        () = signals.next() => Err(RunError::EndedAtOnce),
    }
}

/// Loads all targets one after another, and answers whether all went well with the gateway.
async fn load_all(settings: LoadSettings, stopping: CancellationToken) -> Result<bool, RunError> {
    let LoadSettings {
        plan,
        stage,
        json,
        html,
    } = settings;
    allow_files(u64::from(plan.people) * u64::from(plan.sessions))?;
    let mut outcomes = Vec::new();
    match stage {
        Stage::Existing {
            url,
            database,
            trust,
            process,
        } => {
            let people = stage::people_of(&database, plan.people).await?;
            let target = Target {
                name: url.to_string(),
                url,
                database: *database,
                process,
                people,
                trust,
            };
            outcomes.push(load_one(&plan, target, &stopping).await?);
        }
        Stage::Own { peers } => {
            say(&"starting a private Postgres and a gateway");
            let own = OwnStage::start(plan.people).await?;
            let mut gateway = own.gateway(plan.sessions).await?;
            outcomes.push(load_one(&plan, gateway.target(), &stopping).await?);
            gateway.end().await?;
            for peer in peers {
                if stopping.is_cancelled() {
                    break;
                }
                say(&format_args!("starting {}", peer.display()));
                let mut peer = own.peer(&peer).await?;
                outcomes.push(load_one(&plan, peer.target(), &stopping).await?);
                peer.end().await?;
            }
            own.stop().await?;
        }
    }
    tell(&plan, &outcomes, json.as_deref(), html.as_deref())?;
    Ok(outcomes[0].is_flawless() && !stopping.is_cancelled())
}

async fn load_one(plan: &Plan, target: Target, stopping: &CancellationToken) -> Result<Outcome, RunError> {
    let name = target.name.clone();
    let told = |notice: Notice<'_>| match notice {
        Notice::Opened(sessions) => say(&format_args!("{name}: {sessions} sessions are open")),
        Notice::Sampled(sample) => {
            let process = match (sample.processor_percent, sample.resident_mib) {
                (Some(percent), Some(mib)) => format!(", {percent:.0} % of a processor, {mib:.1} MiB"),
                _ => String::new(),
            };
            say(&format_args!(
                "{name}: {:4.0} s, {} sessions, {} written, {} delivered, median {:.2} ms, p99 {:.2} ms{process}",
                sample.at, sample.sessions, sample.written, sample.delivered, sample.p50, sample.p99
            ));
        }
    };
    Ok(load::run(plan.clone(), target, stopping, told).await?)
}

/// Writes the outcomes where they were asked for.
fn tell(plan: &Plan, outcomes: &[Outcome], json: Option<&Path>, html: Option<&Path>) -> Result<(), RunError> {
    #[derive(Serialize)]
    struct Report<'a> {
        plan: &'a str,
        machine: &'a str,
        outcomes: &'a [Outcome],
    }
    let (words, machine) = (in_words(plan), machine());
    if let Some(path) = json {
        let report = Report {
            plan: &words,
            machine: &machine,
            outcomes,
        };
        // Numbers and texts can always be written as JSON.
        let mut text = serde_json::to_string_pretty(&report).unwrap_or_default();
        text.push('\n');
        write(path, &text)?;
    }
    if let Some(path) = html {
        write(path, &report::page(&words, &machine, outcomes))?;
    }
    // Where standard output is closed, the exit code and the files tell.
    let _told = write!(io::stdout(), "{words}\n{machine}\n\n{}", report::text(outcomes));
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<(), RunError> {
    fs::write(path, text).map_err(|error| RunError::File {
        path: path.to_path_buf(),
        error,
    })
}

fn in_words(plan: &Plan) -> String {
    let rate = plan.rate.map_or_else(
        || "as fast as they are taken".to_owned(),
        |rate| format!("{rate} a second"),
    );
    let path = match plan.path {
        WritePath::Sql { rows } => format!("by SQL, {rows} a statement"),
        WritePath::Http => "by HTTP".to_owned(),
    };
    let receiver = match plan.receiver {
        Receiver::Other => "to each other",
        Receiver::Oneself => "to themselves",
    };
    format!(
        "{} users with {} sessions each write {receiver}: up to {} messages of {} bytes in {:?}, {rate}, {path}, on {} connections",
        plan.people, plan.sessions, plan.messages, plan.content_bytes, plan.duration, plan.writers
    )
}

fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let system = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!(
        "herald {}, {cores} cores, {} {}",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::OS,
        system.trim()
    )
}

/// Raises the bound on open files as far as it goes, for this process and those that it starts.
fn allow_files(sessions: u64) -> Result<(), RunError> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Some(allowed) = maximum.filter(|allowed| *allowed < sessions + FURTHER_FILES) {
        return Err(RunError::Files { sessions, allowed });
    }
    let all = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, all).map_err(|error| RunError::Process(error.into()))
}

/// Notes something on standard error. Where nobody reads it any more, there is nobody to tell.
fn say(note: &dyn fmt::Display) {
    let _told = writeln!(io::stderr(), "herald load: {note}");
}
