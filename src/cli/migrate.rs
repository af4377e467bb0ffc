//! `herald migrate`: connects, runs [`crate::migrate`], and prints what came of it.

use std::{
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use tokio_postgres::{Client, Config, NoTls};

use super::EXIT_USAGE;
use crate::{
    config::migrate::{Direction, Flags, Migrate},
    migrate::{self, Report, SCHEMA_VERSION},
    tasks::Tasks,
};

/// How long to wait for the server to accept the connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs the command; the answer is the process's exit code.
pub(super) fn run(flags: Flags) -> ExitCode {
    let settings = match flags.check() {
        Ok(settings) => settings,
        Err(mistakes) => return fail(&mistakes, EXIT_USAGE),
    };
    match settings {
        Migrate::Print(direction) => print(&match direction {
            Direction::Install => migrate::script(),
            Direction::Uninstall => migrate::uninstall_script(),
        }),
        Migrate::Run {
            direction,
            setting,
            database_url,
            patience,
        } => {
            // The text of such an error names the part that is wrong and does not repeat the URL.
            let config: Config = match database_url.parse() {
                Ok(config) => config,
                Err(error) => return fail(&format!("{setting}: {}", with_cause(&error)), EXIT_USAGE),
            };
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return fail(&format!("the runtime cannot start: {error}"), 1),
            };
            runtime.block_on(migrate_database(direction, config, patience))
        }
    }
}

async fn migrate_database(direction: Direction, config: Config, patience: Duration) -> ExitCode {
    let tasks = Tasks::new();
    let mut client = match connect(config, &tasks).await {
        Ok(client) => client,
        Err(error) => {
            return fail(
                &format!("cannot connect to the database: {}", with_cause(&error)),
                1,
            );
        }
    };
    let result = match direction {
        Direction::Install => migrate::install(&mut client, patience).await,
        Direction::Uninstall => migrate::uninstall(&mut client, patience).await,
    };
    match result {
        Ok(report) => print(&summary(&report, direction)),
        Err(error) => fail(&error, 1),
    }
}

async fn connect(mut config: Config, tasks: &Tasks) -> Result<Client, tokio_postgres::Error> {
    config
        .application_name("herald migrate")
        .connect_timeout(CONNECT_TIMEOUT);
    let (client, connection) = config.connect(NoTls).await?;
    tasks.spawn("postgres connection", async move {
        if let Err(error) = connection.await {
            // The statement that was running fails with the same news.
            tracing::debug!(%error, "the connection was lost");
        }
    });
    Ok(client)
}

fn summary(report: &Report, direction: Direction) -> String {
    let end = match (direction, report.changed()) {
        (Direction::Install, true) => format!("Herald's schema version {SCHEMA_VERSION} is installed.\n"),
        (Direction::Install, false) => {
            format!("Nothing to do: Herald's schema version {SCHEMA_VERSION} is installed.\n")
        }
        (Direction::Uninstall, _) => "Herald is removed.\n".to_owned(),
    };
    format!("{report}{end}")
}

fn with_cause(error: &dyn std::error::Error) -> String {
    error
        .source()
        .map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

/// Writes to standard output. A reader that has gone away (`herald migrate --print | head`) is no failure.
fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            fail(&format!("cannot write the output: {error}"), 1)
        }
        _ => ExitCode::SUCCESS,
    }
}

fn fail(problem: &dyn std::fmt::Display, code: u8) -> ExitCode {
    // If standard error is closed, the exit code still tells.
    let _written = writeln!(io::stderr(), "herald migrate: {problem}");
    ExitCode::from(code)
}
