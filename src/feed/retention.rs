//! Keeps the log as long as configured, and measures it.
//!
//! A row may go once it was visible in a snapshot that is older than the retention: so every gateway and every
//! client that came back within it has had the chance to read it, also the row of a transaction that stayed open for
//! hours. Marks (a snapshot and the time it was taken) make that question exact. One gateway prunes at a time; it
//! deletes in small batches, blocks no writer, and records how far it went in the same transaction.

use std::{sync::Arc, time::Duration};

use deadpool_postgres::Pool;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_postgres::types::{ToSql, Type};
use tokio_util::sync::CancellationToken;

use crate::{
    metrics::Metrics,
    postgres::{Lent, PooledError},
};

/// Rows that one statement deletes. A batch takes some ten milliseconds, so that no lock and no pause is noticed.
const PRUNE_ROWS: i64 = 5_000;

/// Batches of one round. A backlog beyond it goes on in the next round, after other users of the pool had a turn.
const PRUNE_BATCHES_MAX: usize = 200;

/// The longest wait for one statement.
const DEADLINE: Duration = Duration::from_secs(10);

/// Marks are taken this many times within the retention: a row stays at most a forty-eighth longer than configured.
const MARKS_PER_RETENTION: u32 = 48;

/// A round is never further away than this, so that the measured size of the log is fresh.
const ROUND_MAX: Duration = Duration::from_secs(60);

/// A round is never nearer than this, however short the retention.
const ROUND_MIN: Duration = Duration::from_millis(100);

/// The upkeep of the log by one gateway.
#[derive(Clone, Debug)]
pub struct Retention {
    pool: Pool,
    keep: Duration,
    metrics: Arc<Metrics>,
}

impl Retention {
    /// Keeps every row of the log for at least `keep`.
    pub const fn new(pool: Pool, keep: Duration, metrics: Arc<Metrics>) -> Self {
        Self { pool, keep, metrics }
    }

    /// Does its rounds until the process stops.
    ///
    /// # Cancel safety
    /// Safe: each statement is a transaction of its own.
    pub async fn run(self, stopping: CancellationToken) {
        let pause = (self.keep / MARKS_PER_RETENTION).clamp(ROUND_MIN, ROUND_MAX);
        let mut told = None;
        loop {
            let next = Instant::now() + pause;
            tokio::select! {
                () = stopping.cancelled() => return,
                finished = self.round() => {
                    let failed = finished.err().map(|error| error.to_string());
                    if failed.is_some() {
                        self.metrics.log_upkeep_failures.inc();
                    }
                    // A reason that stays is told once: a log that is never pruned grows without end.
                    if failed != told && let Some(reason) = &failed {
                        tracing::warn!(%reason, "the log cannot be pruned");
                    }
                    told = failed;
                }
            }
            tokio::select! {
                () = stopping.cancelled() => return,
                () = sleep_until(next) => {}
            }
        }
    }

    async fn round(&self) -> Result<(), PooledError> {
        self.mark().await?;
        for _ in 0..PRUNE_BATCHES_MAX {
            if self.prune_batch().await? < PRUNE_ROWS {
                break;
            }
        }
        self.measure().await
    }

    /// Takes a mark if the newest one is old enough, and forgets those that no question needs any more.
    async fn mark(&self) -> Result<(), PooledError> {
        let keep = self.keep.as_secs_f64();
        let step = keep / f64::from(MARKS_PER_RETENTION);
        self.ask(MARK, &[(&keep, Type::FLOAT8), (&step, Type::FLOAT8)])
            .await?;
        Ok(())
    }

    /// Deletes one batch and answers how many rows it held.
    async fn prune_batch(&self) -> Result<i64, PooledError> {
        let keep = self.keep.as_secs_f64();
        let rows = self
            .ask(PRUNE, &[(&keep, Type::FLOAT8), (&PRUNE_ROWS, Type::INT8)])
            .await?;
        let pruned: i64 = rows.first().map_or(Ok(0), |row| row.try_get(0))?;
        self.metrics.log_pruned.inc_by(u64::try_from(pruned).unwrap_or(0));
        Ok(pruned)
    }

    async fn measure(&self) -> Result<(), PooledError> {
        if let Some(row) = self.ask(MEASURE, &[]).await?.first() {
            self.metrics.log_bytes.set(row.try_get(0)?);
            self.metrics.log_rows.set(row.try_get(1)?);
            self.metrics.notification_queue_usage.set(row.try_get(2)?);
        }
        Ok(())
    }

    async fn ask(
        &self,
        statement: &str,
        parameters: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Vec<tokio_postgres::Row>, PooledError> {
        let lent = Lent::from(&self.pool).await?;
        let answered = timeout(DEADLINE, lent.client()?.query_typed(statement, parameters)).await;
        lent.settle(answered, DEADLINE)
    }
}

/// `$1` the retention, `$2` the least distance of two marks, both in seconds. The newest mark beyond the retention is
/// the one that pruning asks for; older ones are of no use.
const MARK: &str = "with taken as ( \
       insert into herald.mark (snapshot, life) \
       select pg_catalog.pg_current_snapshot(), herald.current_life() \
       where not exists (select from herald.mark \
         where taken_at > pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => $2))) \
     delete from herald.mark where taken_at < (select pg_catalog.max(taken_at) from herald.mark \
       where taken_at < pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => $1))";

/// `$1` the retention in seconds, `$2` the most rows. Answers with the number of rows deleted.
///
/// The lock is of the transaction, so that it works through a transaction pooler; its key is "Herald" in ASCII and
/// the number one. What is recorded is the horizon: rows
/// below it may be gone, whether this batch took them or the next one will.
const PRUNE: &str = "with turn as materialized (select pg_catalog.pg_try_advisory_xact_lock(5216701506134474753) as mine), \
     horizon as materialized ( \
       select pg_catalog.pg_snapshot_xmin(mark.snapshot) as xmin, mark.life from herald.mark, turn \
       where turn.mine \
         and mark.taken_at < pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => $1) \
       order by mark.taken_at desc limit 1), \
     pruned as ( \
       delete from herald.log where log.ctid = any (array( \
         select old.ctid from herald.log as old, horizon where old.xid < horizon.xmin \
         order by old.xid, old.seq limit $2)) \
       returning log.xid), \
     recorded as ( \
       update herald.state set pruned_before = horizon.xmin, pruned_life = horizon.life from horizon \
       where state.pruned_before < horizon.xmin and exists (select from pruned)) \
     select pg_catalog.count(*) from pruned";

/// Bytes of the log with its indexes, rows as estimated, share of the notification queue in use.
const MEASURE: &str = "select pg_catalog.pg_total_relation_size('herald.log'), \
       (select greatest(reltuples, 0)::int8 from pg_catalog.pg_class \
        where oid = 'herald.log'::pg_catalog.regclass), \
       pg_catalog.pg_notification_queue_usage()";
