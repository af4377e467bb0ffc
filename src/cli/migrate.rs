//! `herald migrate`: connects, runs [`crate::migrate`], and prints what came of it.

use std::{
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use tokio_postgres::Client;

use super::{EXIT_USAGE, fail};
use crate::{
    config::migrate::{Direction, Migrate, MigrateFlags},
    migrate::{self, GatewayRole, MigrateError, Report, SCHEMA_VERSION},
    postgres::{ConnectError, Failure, Settings, connect},
    tasks::Tasks,
};

/// How long to wait for the server to accept the connection.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// Runs the command; the answer is the process's exit code.
pub(super) fn run(flags: MigrateFlags) -> ExitCode {
    let settings = match flags.check() {
        Ok(settings) => settings,
        Err(mistakes) => return fail("migrate", &mistakes, EXIT_USAGE),
    };
    match settings {
        Migrate::Print(direction, gateway_role) => print(&match direction {
            Direction::Install => {
                let role = gateway_role.as_ref().map(migrate::gateway_role_script);
                migrate::script() + &role.unwrap_or_default()
            }
            Direction::Uninstall => migrate::uninstall_script(),
        }),
        Migrate::Run {
            direction,
            setting,
            database_url,
            patience,
            gateway_role,
        } => {
            let settings = match Settings::parse(&database_url) {
                Ok(settings) => settings,
                Err(error) => return fail("migrate", &format!("{setting}: {error}"), EXIT_USAGE),
            };
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return fail("migrate", &format!("the runtime cannot start: {error}"), 1),
            };
            runtime.block_on(migrate_database(
                direction,
                &settings,
                gateway_role.as_ref(),
                patience,
            ))
        }
    }
}

async fn migrate_database(
    direction: Direction,
    settings: &Settings,
    gateway_role: Option<&GatewayRole>,
    patience: Duration,
) -> ExitCode {
    let tasks = Tasks::new();
    let mut client = match open(settings, &tasks).await {
        Ok(client) => client,
        Err(error) => {
            return fail("migrate", &Failure::of_connect(&error, settings).reason(), 1);
        }
    };
    let result = match direction {
        Direction::Install => install(&mut client, gateway_role, patience).await,
        Direction::Uninstall => migrate::uninstall(&mut client, patience).await,
    };
    match result {
        Ok(report) => print(&summary(&report, direction)),
        Err(error) => fail("migrate", &error, 1),
    }
}

async fn install(
    client: &mut Client,
    gateway_role: Option<&GatewayRole>,
    patience: Duration,
) -> Result<Report, MigrateError> {
    let mut report = migrate::install(client, patience).await?;
    if let Some(role) = gateway_role {
        report.append(migrate::install_gateway_role(client, role, patience).await?);
    }
    Ok(report)
}

async fn open(settings: &Settings, tasks: &Tasks) -> Result<Client, ConnectError> {
    let (client, connection) = connect(settings, "herald migrate", CONNECT_DEADLINE).await?;
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

/// Writes to standard output. A reader that has gone away (`herald migrate --print | head`) is no failure.
fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            fail("migrate", &format!("cannot write the output: {error}"), 1)
        }
        _ => ExitCode::SUCCESS,
    }
}
