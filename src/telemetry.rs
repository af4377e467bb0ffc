//! The log: lines for people or JSON for machines, on standard error.
//!
//! What must never be in it is kept out where it is known: tokens and secrets do not show themselves, query strings are
//! not logged, and the content of a message is never an argument of a log line. Libraries that log whatever passes
//! through them, as some do at the levels `debug` and `trace`, are kept to what they have to warn of. Of a panic the place is logged,
//! and its words only if they stand so in the program: those that are made up at run time may quote what is being worked on, as the
//! standard library's do of a text that is cut in the wrong place.

use std::{
    any::Any,
    backtrace::{Backtrace, BacktraceStatus},
    io::IsTerminal,
    panic::{PanicHookInfo, set_hook},
};

use tracing::{Level, Metadata};
use tracing_subscriber::{EnvFilter, filter::filter_fn, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// Crates that log frames (tungstenite), or statements with their parameters (tokio-postgres).
const TALKATIVE: [&str; 3] = ["tungstenite", "tokio_tungstenite", "tokio_postgres"];

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What is logged, and how.
#[derive(Debug)]
pub struct LogConfig {
    /// Levels by module, in the syntax of `tracing_subscriber`'s `EnvFilter`.
    pub filter: EnvFilter,
    /// How a line looks.
    pub format: LogFormat,
}

/// Starts the log of this process. Only the first call in a process has an effect.
pub fn start(config: LogConfig) {
    let registry = tracing_subscriber::registry()
        .with(config.filter)
        .with(filter_fn(keeps_secrets));
    let lines = fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // A second start is refused, and the first one stays, which is what tests with several gateways need.
    let started = match config.format {
        LogFormat::Text => registry.with(lines.with_target(false)).try_init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    };
    if started.is_ok() {
        set_hook(Box::new(log_panic));
    }
}

/// In place of the standard library's hook, which prints whatever a panic says.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    let words = words(panic.payload());
    // It names functions and places, and is there if RUST_BACKTRACE asks for it.
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        tracing::error!(%location, words, %backtrace, "a panic");
    } else {
        tracing::error!(%location, words, "a panic; RUST_BACKTRACE=1 shows the way to it");
    }
}

/// What a panic says, if it says it in the program's own words.
fn words(payload: &(dyn Any + Send)) -> &'static str {
    payload
        .downcast_ref::<&'static str>()
        .copied()
        .unwrap_or("not shown, since they may quote a message")
}

/// Whether a line holds nothing of what passes through a library.
fn keeps_secrets(line: &Metadata<'_>) -> bool {
    let name = line.target().split("::").next().unwrap_or_default();
    *line.level() <= Level::INFO || !TALKATIVE.contains(&name)
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

    use super::*;

    #[test]
    fn a_panic_is_told_in_the_programs_words_and_never_in_those_of_a_message() {
        let content = "grüße".to_owned();
        let quoting = catch_unwind(|| content[..3].len()).unwrap_err();
        let said = quoting.downcast_ref::<String>().unwrap();
        assert!(
            said.contains("grüße"),
            "the standard library quotes no more: {said}"
        );
        assert_eq!(words(&*quoting), "not shown, since they may quote a message");
        let own = catch_unwind(|| panic!("the queue is gone")).unwrap_err();
        assert_eq!(words(&*own), "the queue is gone");
    }
}
