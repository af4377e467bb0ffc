//! Waiting for one's turn: one migration at a time, and short locks that are tried again instead of waited for.
//!
//! A lock on `messages` that is waited for holds up every writer that comes after. So each attempt asks for its locks
//! under a timeout of a fraction of a second, gives them all back if one is missing, and leaves the writers alone
//! until the next attempt.

use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Client;

use super::error::{Blocker, MigrateError};
use crate::backoff::Backoff;

/// The key of the session-level advisory lock: `herald` in ASCII, then 1.
const KEY: i64 = 0x6865_7261_6c64_0001;

/// Between two looks at another migration: quick for a person, nothing for a server.
const POLL: Duration = Duration::from_millis(200);

/// The first and the longest ceiling between two attempts at the locks. With a quarter of a second per attempt,
/// writers have the table to themselves most of the time.
const ATTEMPT_BASE: Duration = Duration::from_millis(200);
const ATTEMPT_CAP: Duration = Duration::from_secs(2);

/// Which locks others may hold without standing in the way.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wanted {
    /// Creating triggers: readers may stay, writers may not.
    NoWriters,
    /// Dropping triggers: nobody may stay.
    Alone,
}

/// Waits until no other migration is at work in this database, and keeps others away until [`leave`].
///
/// It asks again and again instead of waiting inside Postgres: a waiting statement has a snapshot, and the concurrent
/// index build of the other migration would wait for that snapshot in turn.
///
/// # Cancel safety
/// If it is dropped, the lock may have been taken; it ends with the session.
pub(super) async fn take(client: &Client, patience: Duration) -> Result<(), MigrateError> {
    let deadline = Instant::now() + patience;
    loop {
        if client
            .query_one("select pg_catalog.pg_try_advisory_lock($1)", &[&KEY])
            .await?
            .get(0)
        {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(MigrateError::Busy {
                process: holder(client).await?,
                patience,
            });
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Lets other migrations begin.
///
/// # Cancel safety
/// Safe: the lock also ends with the session.
pub(super) async fn leave(client: &Client) -> Result<(), MigrateError> {
    client
        .execute("select pg_catalog.pg_advisory_unlock($1)", &[&KEY])
        .await?;
    Ok(())
}

async fn holder(client: &Client) -> Result<String, MigrateError> {
    let row = client
        .query_opt(
            "select pid::text from pg_catalog.pg_locks
              where locktype = 'advisory' and granted and objsubid = 1
                and database = (select oid from pg_catalog.pg_database where datname = current_database())
                and (classid::bigint << 32) | objid::bigint = $1",
            &[&KEY],
        )
        .await?;
    Ok(row.map_or_else(|| "?".to_owned(), |row| row.get(0)))
}

/// Counts the attempts at a set of locks and says how long to wait before the next.
#[derive(Debug)]
pub(super) struct Attempts {
    deadline: Instant,
    backoff: Backoff,
}

impl Attempts {
    /// No attempt yet; the last one begins before `patience` has passed.
    pub(super) fn new(patience: Duration) -> Self {
        Self {
            deadline: Instant::now() + patience,
            backoff: Backoff::new(ATTEMPT_BASE, ATTEMPT_CAP),
        }
    }

    /// How long to leave the table alone before the next attempt; `None` if there is to be no other.
    pub(super) fn next_pause(&mut self) -> Option<Duration> {
        let pause = self.backoff.next_delay(&mut rand::rng());
        (Instant::now() + pause < self.deadline).then_some(pause)
    }
}

/// Who holds locks on the application's tables that do not go together with what is wanted.
pub(super) async fn blockers(client: &Client, wanted: Wanted) -> Result<Vec<Blocker>, MigrateError> {
    let harmless: &[&str] = match wanted {
        Wanted::NoWriters => &["AccessShareLock", "RowShareLock"],
        Wanted::Alone => &[],
    };
    let rows = client
        .query(
            "with recursive tables (relation) as (
               select pg_catalog.to_regclass(name)::oid
                 from unnest(array['public.messages', 'public.profiles', 'public.products',
                                   'public.messages_realtime_view', 'herald.log']) as name
               union
               select inhrelid from tables join pg_catalog.pg_inherits on inhparent = tables.relation
             )
             select activity.pid, coalesce(usename::text, '?'), coalesce(application_name, ''),
                    coalesce(extract(epoch from now() - xact_start), 0)::bigint
               from pg_catalog.pg_stat_activity as activity
              where activity.pid <> pg_backend_pid()
                and exists (
                  select from pg_catalog.pg_locks as lock join tables using (relation)
                   where lock.pid = activity.pid and lock.granted and lock.locktype = 'relation'
                     and lock.database = (select oid from pg_catalog.pg_database where datname = current_database())
                     and lock.mode <> all ($1))
              order by xact_start limit 10",
            &[&harmless],
        )
        .await?;
    Ok(rows.iter().map(blocker).collect())
}

/// The oldest open transactions in this database, which concurrent work on an index waits for.
pub(super) async fn oldest_transactions(client: &Client) -> Result<Vec<Blocker>, MigrateError> {
    let rows = client
        .query(
            "select pid, coalesce(usename::text, '?'), coalesce(application_name, ''),
                    coalesce(extract(epoch from now() - xact_start), 0)::bigint
               from pg_catalog.pg_stat_activity
              where datname = current_database() and pid <> pg_backend_pid()
                and xact_start is not null and backend_type = 'client backend'
              order by xact_start limit 10",
            &[],
        )
        .await?;
    Ok(rows.iter().map(blocker).collect())
}

fn blocker(row: &tokio_postgres::Row) -> Blocker {
    Blocker {
        process: row.get(0),
        role: row.get(1),
        application: row.get(2),
        open_for_seconds: row.get(3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_attempts_end_with_the_patience() {
        let patience = Duration::from_secs(30);
        let mut attempts = Attempts::new(patience);
        let started = Instant::now();
        let mut count = 0;
        while let Some(pause) = attempts.next_pause() {
            tokio::time::sleep(pause + Duration::from_millis(250)).await;
            count += 1;
        }
        assert!(count > 10, "{count}");
        assert!(started.elapsed() < patience + Duration::from_millis(250));
    }
}
