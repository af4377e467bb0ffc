//! The log: lines for people or JSON for machines, on standard error.
//!
//! What must never be in it is kept out where it is known: tokens and secrets do not show themselves, query strings are
//! not logged, and the content of a message is never an argument of a log line. Libraries that log whatever passes
//! through them, as some do at the levels `debug` and `trace`, are kept to what they have to warn of.

use std::io::IsTerminal;

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
    let _started = match config.format {
        LogFormat::Text => registry.with(lines.with_target(false)).try_init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    };
}

/// Whether a line holds nothing of what passes through a library.
fn keeps_secrets(line: &Metadata<'_>) -> bool {
    let name = line.target().split("::").next().unwrap_or_default();
    *line.level() <= Level::INFO || !TALKATIVE.contains(&name)
}
