//! Transactions in which the gateway acts as one of its users: with the role of users and the claims of the token, so
//! that the application's row-level security holds.
//!
//! Invariants:
//! - Role and claims are set for one transaction only, and every question about a user's rows comes after them. Before
//!   them come only questions that the gateway asks on its own account.
//! - A transaction is sent in one go and costs one round trip. If a part of it fails, Postgres skips the rest and the
//!   `commit` at its end rolls back.
//! - Nothing relies on a session, so the pool may lead through a transaction pooler.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use deadpool_postgres::Pool;
use futures::{TryFutureExt, try_join};
use tokio_postgres::{
    Client, Error, Row,
    types::{ToSql, Type},
};

use super::{
    log::{PLAN_SETTINGS, life},
    refusal::{Doing, Refusal},
};
use crate::{
    auth::Identity,
    postgres::{Lent, PooledError},
    protocol::{
        cursor::{Cursor, Epoch},
        snapshot::Snapshot,
    },
};

/// Takes on the claims `$1` and the role `$2` until the transaction ends.
const ACT: &str =
    "select pg_catalog.set_config('request.jwt.claims', $1, true), pg_catalog.set_config('role', $2, true)";

/// What Postgres calls the role that one has connected as.
const NO_ROLE: &str = "none";

/// A statement with its parameters and their types.
#[derive(Clone, Copy)]
pub(super) struct Question<'a> {
    pub(super) statement: &'a str,
    pub(super) parameters: &'a [(&'a (dyn ToSql + Sync), Type)],
}

impl Question<'_> {
    async fn ask(self, client: &Client) -> Result<Vec<Row>, Error> {
        client.query_typed(self.statement, self.parameters).await
    }

    async fn execute(self, client: &Client) -> Result<u64, Error> {
        client.execute_typed(self.statement, self.parameters).await
    }
}

/// Opens transactions as users.
#[derive(Clone, Debug)]
pub(super) struct Acting {
    pool: Pool,
    role: Arc<str>,
    deadline: Duration,
    begin_reading: Arc<str>,
    begin_writing: Arc<str>,
}

impl Acting {
    /// Acts with this role, or with the pool's own; each transaction is given up after the deadline.
    pub(super) fn new(pool: Pool, role: Option<&str>, deadline: Duration) -> Self {
        let settings: Vec<String> = PLAN_SETTINGS
            .iter()
            .filter_map(|setting| setting.split_once(" = "))
            .map(|(name, value)| (name, value.trim_matches('\'').to_owned()))
            // Should the rest of a transaction get lost on the way, Postgres does not wait for it.
            .chain(
                ["statement_timeout", "idle_in_transaction_session_timeout"]
                    .map(|name| (name, deadline.as_millis().to_string())),
            )
            .map(|(name, value)| format!("pg_catalog.set_config('{name}', '{value}', true)"))
            .collect();
        // `begin` comes alone: if an option of it failed there would be no transaction, and what follows would run with the
        // gateway's own rights. The settings are one statement, because each of many would cost.
        let begin = |isolation| {
            format!(
                "begin; set transaction isolation level {isolation}, read write; select {}",
                settings.join(", ")
            )
        };
        Self {
            pool,
            role: role.unwrap_or(NO_ROLE).into(),
            deadline,
            // All statements see one snapshot, which the cursor tells. It is no read-only transaction, because whoever asks
            // first after a crash of Postgres notes the new life.
            begin_reading: begin("repeatable read").into(),
            // A repeated attempt has to see what the attempt that it waited for has written.
            begin_writing: begin("read committed").into(),
        }
    }

    /// Asks one question on the gateway's own account, which also brings the columns of [`POSITION`], and one as the user,
    /// in one snapshot.
    pub(super) async fn read(
        &self,
        caller: &Identity,
        own: Question<'_>,
        question: Question<'_>,
    ) -> Result<(Row, Vec<Row>), Refusal> {
        let lent = Lent::from(&self.pool).await.map_err(Refusal::Unavailable)?;
        let client = lent.client().map_err(Refusal::Unavailable)?;
        let act = Act::new(self, caller);
        let asked = async {
            try_join!(
                client.batch_execute(&self.begin_reading),
                own.ask(client),
                act.run(client),
                question.ask(client),
                client.batch_execute("commit"),
            )
        };
        let answered = tokio::time::timeout(self.deadline, asked).await;
        let ((), own, (), rows, ()) = lent
            .settle(answered, self.deadline)
            .map_err(|error| act.refusal(error, Doing::Reading))?;
        let own = own.into_iter().next().ok_or(Refusal::Bookkeeping)?;
        Ok((own, rows))
    }

    /// Asks one question on the gateway's own account; then, as the user, executes one statement and asks another question.
    /// Answers with the own rows, the number of rows that the statement wrote, and the rows of the last question.
    pub(super) async fn write(
        &self,
        caller: &Identity,
        own: Question<'_>,
        statement: Question<'_>,
        question: Question<'_>,
    ) -> Result<(Vec<Row>, u64, Vec<Row>), Refusal> {
        let lent = Lent::from(&self.pool).await.map_err(Refusal::Unavailable)?;
        let client = lent.client().map_err(Refusal::Unavailable)?;
        let act = Act::new(self, caller);
        let asked = async {
            try_join!(
                client.batch_execute(&self.begin_writing),
                own.ask(client),
                act.run(client),
                statement.execute(client),
                question.ask(client),
                client.batch_execute("commit"),
            )
        };
        let answered = tokio::time::timeout(self.deadline, asked).await;
        let ((), own, (), written, rows, ()) = lent
            .settle(answered, self.deadline)
            .map_err(|error| act.refusal(error, Doing::Writing))?;
        Ok((own, written, rows))
    }
}

impl Acting {
    /// The role of users, for a function in the database that takes it on by itself.
    pub(super) fn role(&self) -> &str {
        &self.role
    }

    /// Asks a question that writes and takes on role and claims by itself.
    pub(super) async fn write_by_function(&self, question: Question<'_>) -> Result<Vec<Row>, Refusal> {
        let lent = Lent::from(&self.pool).await.map_err(Refusal::Unavailable)?;
        let client = lent.client().map_err(Refusal::Unavailable)?;
        let asked = async {
            try_join!(
                client.batch_execute(&self.begin_writing),
                question.ask(client),
                client.batch_execute("commit"),
            )
        };
        let answered = tokio::time::timeout(self.deadline, asked).await;
        let ((), rows, ()) = lent
            .settle(answered, self.deadline)
            .map_err(|error| Refusal::of(error, Doing::Writing))?;
        Ok(rows)
    }
}

/// The step that takes on a user's role and claims, and whether it was the one that failed.
struct Act<'a> {
    role: &'a str,
    claims: &'a str,
    failed: AtomicBool,
}

impl<'a> Act<'a> {
    fn new(acting: &'a Acting, caller: &'a Identity) -> Self {
        Self {
            role: &acting.role,
            claims: &caller.claims,
            failed: AtomicBool::new(false),
        }
    }

    async fn run(&self, client: &Client) -> Result<(), Error> {
        let parameters: [(&(dyn ToSql + Sync), Type); 2] =
            [(&self.claims, Type::TEXT), (&self.role, Type::TEXT)];
        client
            .query_typed(ACT, &parameters)
            .inspect_err(|_| self.failed.store(true, Ordering::Relaxed))
            .await?;
        Ok(())
    }

    fn refusal(&self, error: PooledError, doing: Doing) -> Refusal {
        let is_the_servers = matches!(&error, PooledError::Query(error) if error.code().is_some());
        if is_the_servers && self.failed.load(Ordering::Relaxed) {
            Refusal::Role(error)
        } else {
            Refusal::of(error, doing)
        }
    }
}

/// Columns that tell how far the snapshot of a transaction sees; for [`position`].
pub(super) const POSITION: &str = "herald.epoch() as epoch, herald.current_life() as life, pg_catalog.pg_current_snapshot()::text as snapshot";

/// The cursor of the snapshot that a row with the columns of [`POSITION`] was read in.
pub(super) fn position(row: &Row) -> Result<Cursor, Refusal> {
    let read = || -> Option<Cursor> {
        let life = life(row.try_get("life").ok()?).ok()?;
        let snapshot = Snapshot::read(life, row.try_get("snapshot").ok()?).ok()?;
        Some(Cursor {
            epoch: Epoch::new(row.try_get("epoch").ok()?).ok()?,
            snapshot: Arc::new(snapshot),
        })
    };
    read().ok_or(Refusal::Bookkeeping)
}
