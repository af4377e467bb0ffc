//! The database side: installs, upgrades and removes what Herald needs beside the application's tables.
//!
//! All logic that depends on the database is SQL in `sql/`; this runs it. One transaction brings the schema `herald`,
//! the view, the two public functions and the triggers, whole or not at all. The indexes on `messages` follow, built
//! concurrently one by one.
//!
//! What holds:
//! - Repeating it changes nothing, and finishes what an interrupted run left.
//! - Writers of `messages` wait for a fraction of a second at most, also when the locks are not to be had.
//! - What the application had is left alone and noted as its own; [`uninstall`] removes the rest.
//!
//! It does not connect, prune the log or decide which role the gateway uses. The connection has to be a direct one:
//! a transaction pooler can neither keep a session's advisory lock nor build an index concurrently.

use std::time::Duration;

use tokio_postgres::{Client, GenericClient, IsolationLevel, Row, Transaction, error::SqlState};

mod error;
mod report;
mod script;
mod turn;

pub use error::{Blocker, MigrateError};
pub use report::{Item, Outcome, Report};
pub use script::{gateway_role_script, script, uninstall_script};

use turn::{Attempts, Wanted};

/// The version of the tables and functions that this build installs, kept in `herald.state.schema_version`.
pub const SCHEMA_VERSION: i32 = 3;

/// Rounds of asking what is left to do for the indexes. One suffices; another follows a deadlock with somebody else's
/// schema change.
const INDEX_ROUNDS: usize = 5;

/// Installs or upgrades what Herald needs. `patience` bounds each single wait: for another migration, for a lock on the
/// tables, and for the old transactions that a concurrent index build waits for. It does not bound the build's own work.
///
/// # Errors
/// See [`MigrateError`]; its texts say what was left in the database.
///
/// # Cancel safety
/// Dropped while it waits or within the transaction, it changes nothing. Dropped during an index build, it leaves an
/// invalid index, which the next run repairs. The session may keep the advisory lock, so close it.
pub async fn install(client: &mut Client, patience: Duration) -> Result<Report, MigrateError> {
    turn::take(client, patience).await?;
    let result = install_alone(client, patience).await;
    leave_after(client, result).await
}

/// The role that a gateway works as, and whose rights it takes on for its users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayRole {
    /// Made if it is not there.
    pub name: String,
    /// The role of the users who call; empty if the gateway takes none on (`HERALD_DB_ROLE`).
    pub of_users: String,
}

/// Makes the least role that a gateway needs, or grants one what it lacks. Herald has been installed. `patience` is as with [`install`].
///
/// # Errors
/// See [`MigrateError`]. [`MigrateError::Database`] also tells when whoever migrates may make no role, or owns too little.
///
/// # Cancel safety
/// Dropped, it changes nothing. The session may keep the advisory lock, so close it.
pub async fn install_gateway_role(
    client: &mut Client,
    role: &GatewayRole,
    patience: Duration,
) -> Result<Report, MigrateError> {
    turn::take(client, patience).await?;
    let result = in_brief(client, Step::GatewayRole(role), patience).await;
    leave_after(client, result).await
}

/// Removes Herald: the triggers, what Herald made of the view, the functions and the indexes, and the schema `herald` with
/// everything in it.
///
/// # Errors
/// See [`MigrateError`]. [`MigrateError::Database`] also tells when something of the application depends on the view;
/// nothing is changed then.
///
/// # Cancel safety
/// Dropped halfway, it leaves the rest installed but without effect; run it again.
pub async fn uninstall(client: &mut Client, patience: Duration) -> Result<Report, MigrateError> {
    turn::take(client, patience).await?;
    let result = uninstall_alone(client, patience).await;
    leave_after(client, result).await
}

/// Gives the turn back whatever came of it. A failure to do so counts only if nothing else failed.
async fn leave_after(client: &Client, result: Result<Report, MigrateError>) -> Result<Report, MigrateError> {
    let left = turn::leave(client).await;
    let report = result?;
    left.map(|()| report)
}

async fn install_alone(client: &mut Client, patience: Duration) -> Result<Report, MigrateError> {
    refuse_newer(client).await?;
    let mut report = in_brief(client, Step::Install, patience).await?;
    for source in [script::OUTDATED_INDEX_STATEMENTS, script::INDEX_STATEMENTS] {
        report.append(settle_indexes(client, source, patience).await?);
    }
    Ok(report)
}

async fn uninstall_alone(client: &mut Client, patience: Duration) -> Result<Report, MigrateError> {
    refuse_newer(client).await?.ok_or(MigrateError::NotInstalled)?;
    let mut report = in_brief(client, Step::Unlink, patience).await?;
    // The schema goes last: it knows which indexes are Herald's.
    report.append(settle_indexes(client, script::INDEX_REMOVAL_STATEMENTS, patience).await?);
    report.append(in_brief(client, Step::DropSchema, patience).await?);
    Ok(report)
}

/// The schema version in the database; `None` if Herald is not installed.
async fn installed_version(client: &impl GenericClient) -> Result<Option<i32>, tokio_postgres::Error> {
    let exists = client
        .query_one("select pg_catalog.to_regclass('herald.state') is not null", &[])
        .await?;
    if !exists.get::<_, bool>(0) {
        return Ok(None);
    }
    // An interrupted hand may have emptied the table; installing from the first version on puts its row back.
    let row = client
        .query_opt("select schema_version from herald.state", &[])
        .await?;
    Ok(Some(row.map_or(0, |row| row.get(0))))
}

/// What keeps an older build from harming what a newer one made.
async fn refuse_newer(client: &Client) -> Result<Option<i32>, MigrateError> {
    match installed_version(client).await? {
        Some(installed) if installed > SCHEMA_VERSION => Err(MigrateError::Newer {
            installed,
            known: SCHEMA_VERSION,
        }),
        version => Ok(version),
    }
}

/// What is done in one transaction under short locks.
#[derive(Clone, Copy, Debug)]
enum Step<'a> {
    Install,
    Unlink,
    DropSchema,
    Index(&'a str),
    GatewayRole(&'a GatewayRole),
}

impl Step<'_> {
    const fn wanted(self) -> Wanted {
        match self {
            Self::Install => Wanted::NoWriters,
            Self::Unlink | Self::DropSchema | Self::Index(_) | Self::GatewayRole(_) => Wanted::Alone,
        }
    }
}

/// Runs a step in a transaction, again and again until its locks are to be had at once or patience has run out.
async fn in_brief(client: &mut Client, step: Step<'_>, patience: Duration) -> Result<Report, MigrateError> {
    let mut attempts = Attempts::new(patience);
    loop {
        match attempt(client, step).await {
            Ok(report) => return Ok(report),
            Err(error) if error::is_lock_failure(&error) => {
                let Some(pause) = attempts.next_pause() else {
                    let blockers = turn::blockers(client, step.wanted()).await?;
                    return Err(MigrateError::Locked { blockers, patience });
                };
                tracing::debug!(?pause, "the locks were not to be had; trying again");
                tokio::time::sleep(pause).await;
            }
            Err(error) => return Err(MigrateError::from_database(error)),
        }
    }
}

async fn attempt(client: &mut Client, step: Step<'_>) -> Result<Report, tokio_postgres::Error> {
    let transaction = client
        .build_transaction()
        .isolation_level(IsolationLevel::ReadCommitted)
        .read_only(false)
        .start()
        .await?;
    transaction.batch_execute(script::TRANSACTION_SETTINGS).await?;
    let mut report = Report::default();
    match step {
        Step::Install => install_in(&transaction, &mut report).await?,
        Step::Unlink => {
            // An older version's functions do not know of everything that this version removes.
            transaction.batch_execute(script::UNCHECKED_SETTINGS).await?;
            for text in script::FUNCTIONS {
                transaction.batch_execute(text).await?;
            }
            lock(&transaction, script::UNLINK).await?;
            call(&transaction, &script::UNLINKED, &mut report).await?;
        }
        Step::DropSchema => {
            transaction.batch_execute(script::DROP_SCHEMA).await?;
            report.add(Outcome::Removed, "schema herald", None);
        }
        Step::Index(statement) => {
            transaction.batch_execute(statement).await?;
            report.add(outcome_of(statement), statement, None);
        }
        Step::GatewayRole(role) => {
            transaction.batch_execute(script::GATEWAY_ROLE).await?;
            transaction.batch_execute(script::PRIVATE).await?;
            let rows = transaction
                .query(
                    "select outcome, subject, note from herald.install_gateway_role($1::text, $2::text)",
                    &[&role.name, &role.of_users],
                )
                .await?;
            note(&rows, &mut report);
        }
    }
    transaction.commit().await?;
    Ok(report)
}

async fn install_in(transaction: &Transaction<'_>, report: &mut Report) -> Result<(), tokio_postgres::Error> {
    transaction.batch_execute(script::CHECK).await?;
    let installed = installed_version(transaction).await?.unwrap_or(0);
    if installed < SCHEMA_VERSION {
        let done = usize::try_from(installed).unwrap_or(0);
        for text in script::TABLES.iter().skip(done).chain(&script::FUNCTIONS) {
            transaction.batch_execute(text).await?;
        }
        transaction.batch_execute(&script::note_version()).await?;
        report.add(
            Outcome::Installed,
            "schema herald",
            Some(format!("version {SCHEMA_VERSION}")),
        );
    }
    call(transaction, &script::BEFORE_LOCK, report).await?;
    lock(transaction, script::LOCK).await?;
    call(transaction, &script::UNDER_LOCK, report).await
}

async fn lock(transaction: &Transaction<'_>, text: &str) -> Result<(), tokio_postgres::Error> {
    transaction.batch_execute(script::LOCK_SETTINGS).await?;
    transaction.batch_execute(text).await?;
    transaction.batch_execute(script::LOCKED_SETTINGS).await
}

/// Calls functions that answer with rows for the report.
async fn call(
    transaction: &Transaction<'_>,
    functions: &[&str],
    report: &mut Report,
) -> Result<(), tokio_postgres::Error> {
    for function in functions {
        let rows = transaction
            .query(&format!("select outcome, subject, note from {function}"), &[])
            .await?;
        note(&rows, report);
    }
    Ok(())
}

fn note(rows: &[Row], report: &mut Report) {
    for row in rows {
        report.add(Outcome::parse(row.get(0)), row.get::<_, String>(1), row.get(2));
    }
}

/// Asks what is left to do for the indexes and does it, until nothing is left.
async fn settle_indexes(
    client: &mut Client,
    source: &str,
    patience: Duration,
) -> Result<Report, MigrateError> {
    let mut report = Report::default();
    for _round in 0..INDEX_ROUNDS {
        let rows = client
            .query(&format!("select statement, brief from {source}"), &[])
            .await
            .map_err(MigrateError::from_database)?;
        if rows.is_empty() {
            return Ok(report);
        }
        for row in rows {
            let statement: String = row.get(0);
            tracing::info!(%statement, "running");
            let done = if row.get(1) {
                in_brief(client, Step::Index(&statement), patience).await?
            } else {
                match at_leisure(client, &statement, patience).await? {
                    Some(done) => done,
                    None => break,
                }
            };
            report.append(done);
        }
    }
    Err(MigrateError::Unsettled(format!(
        "after {INDEX_ROUNDS} rounds there is still something to do"
    )))
}

/// Runs a statement that must not be in a transaction and holds nobody up. `None` if it met a deadlock, which is
/// somebody else's schema change at the same time, so that what is left to do has to be asked for anew.
async fn at_leisure(
    client: &Client,
    statement: &str,
    patience: Duration,
) -> Result<Option<Report>, MigrateError> {
    // Of its waits only those for locks are bounded: the build itself may take long and hurts nobody.
    let wait = patience.as_millis().max(1);
    client
        .batch_execute(&format!("set lock_timeout = {wait}; set statement_timeout = 0"))
        .await?;
    let result = client.batch_execute(statement).await;
    client
        .batch_execute("reset lock_timeout; reset statement_timeout")
        .await?;
    match result {
        Ok(()) => {
            let mut report = Report::default();
            report.add(outcome_of(statement), statement, None);
            Ok(Some(report))
        }
        Err(error) if error.code() == Some(&SqlState::T_R_DEADLOCK_DETECTED) => Ok(None),
        Err(error) if error::is_lock_failure(&error) => {
            let blockers = turn::oldest_transactions(client).await?;
            Err(MigrateError::IndexLocked {
                statement: statement.to_owned(),
                blockers,
                patience,
            })
        }
        Err(error) => Err(error.into()),
    }
}

fn outcome_of(statement: &str) -> Outcome {
    if statement.starts_with("drop") {
        Outcome::Removed
    } else {
        Outcome::Installed
    }
}
