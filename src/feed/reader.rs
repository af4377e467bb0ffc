//! Reads one batch: the rows of the log that became visible since a snapshot, joined with the view, in chunks.
//!
//! The statement that returns the rows returns its own snapshot too, and that snapshot is where the next batch
//! begins. A batch of which a part was handed over already, when the connection broke, is continued under the same
//! snapshot behind the last row that was handed over.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures::TryStreamExt;
use tokio_postgres::{Client, Row, RowStream, Statement, types::ToSql};

use super::link::{LinkError, Wire};
use crate::{
    protocol::{
        event::Event,
        snapshot::{Life, Snapshot},
    },
    store::log::{
        Logged, Pruned, RowError, SEEN, UNSEEN, UNSEEN_SINCE_A_CRASH, ViewAccess, event_columns,
        life_parameter, read_event,
    },
};

/// A chunk is handed over once it holds this many rows of the log.
const CHUNK_ROWS: usize = 512;

/// A chunk is handed over once its JSON is this long, in bytes: half the default outbox, so that a session that reads
/// quickly survives a batch that concerns nobody else.
const CHUNK_BYTES: usize = 512 * 1024;

/// Why a batch could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// The connection failed or refused.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// A row was not understood.
    #[error(transparent)]
    Row(#[from] RowError),
    /// The log is another table than when the connection began: Herald was removed and installed again.
    #[error("the log was replaced by another one")]
    LogReplaced,
    /// Rows that this gateway had not read are gone: it was suspended for longer than the retention.
    #[error("the log was pruned past the last read")]
    Pruned,
    /// The snapshot was not understood.
    #[error("the database answered without a snapshot")]
    NoSnapshot,
}

/// Where a batch begins and, if a part of it was handed over already, where it ends and how far it went.
#[derive(Clone, Debug)]
pub(super) struct Span {
    /// Everything visible here was handed over in earlier batches.
    pub(super) since: Arc<Snapshot>,
    /// The part of this batch that was handed over before the connection broke.
    pub(super) handed: Option<Handed>,
}

/// How far a batch went.
#[derive(Clone, Debug)]
pub(super) struct Handed {
    /// Where the batch ends.
    pub(super) until: Arc<Snapshot>,
    /// The serial number of the last row that was handed over.
    pub(super) seq: i64,
}

/// Some rows of a batch, in the order of the log.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    /// The events, in the order of the log.
    pub(super) events: Vec<Event>,
    /// The serial number of the last row, whether it became an event or not.
    pub(super) last_seq: Option<i64>,
    /// Rows whose message was gone.
    pub(super) vanished: u64,
    /// Time between the commit of the oldest row and its reading, by the database's clock.
    pub(super) oldest_age: Duration,
    /// Whether the batch ends with this chunk.
    pub(super) is_last: bool,
}

/// The statement, prepared on one connection. A connection does not outlive a crash, so that it has one life.
#[derive(Debug)]
pub(super) struct Reader {
    statement: Statement,
    statement_since_a_crash: Statement,
    life: Life,
    /// The log's object identifier when the connection began.
    log: u32,
    deadline: Duration,
}

impl Reader {
    /// Prepares the statement on a connection of this life to this log. `commit_times` says whether the database keeps the
    /// times of commits.
    ///
    /// # Cancel safety
    /// Safe.
    pub(super) async fn prepare(
        client: &Client,
        wire: &mut Wire,
        life: Life,
        log: u32,
        commit_times: bool,
        access: ViewAccess,
        deadline: Duration,
    ) -> Result<Self, LinkError> {
        let normal = statement(UNSEEN, commit_times, access);
        let since_a_crash = statement(UNSEEN_SINCE_A_CRASH, commit_times, access);
        let statement = wire.drive(deadline, client.prepare(&normal)).await?;
        let statement_since_a_crash = wire.drive(deadline, client.prepare(&since_a_crash)).await?;
        Ok(Self {
            statement,
            statement_since_a_crash,
            life,
            log,
            deadline,
        })
    }

    /// Asks for a batch; answers with its snapshot once the first row is there, which may take `patience`: Postgres sorts
    /// a backlog before it gives the first row away.
    ///
    /// # Cancel safety
    /// Not safe: the connection has to be given up, because the rest of the answer would follow.
    pub(super) async fn begin<'a>(
        &self,
        client: &Client,
        wire: &'a mut Wire,
        span: &Span,
        patience: Duration,
    ) -> Result<Batch<'a>, ReadError> {
        let same_life = span.since.life() == self.life;
        let statement = if same_life {
            &self.statement
        } else {
            &self.statement_since_a_crash
        };
        let (since, since_life) = (span.since.to_string(), life_parameter(&span.since));
        let until = span.handed.as_ref().map(|handed| handed.until.to_string());
        let until_life = span.handed.as_ref().map(|handed| life_parameter(&handed.until));
        let after = span.handed.as_ref().map(|handed| handed.seq);
        let parameters: [&(dyn ToSql + Sync); 5] = [&since, &since_life, &until, &until_life, &after];
        let rows = wire
            .drive(self.deadline, client.query_raw(statement, parameters))
            .await?;
        let mut rows = Box::pin(rows);
        let first = wire
            .drive(patience, rows.try_next())
            .await?
            .ok_or(ReadError::NoSnapshot)?;
        // Postgres plans a prepared statement anew when its table was replaced, so that nothing fails by itself.
        if first.try_get::<_, u32>("log").map_err(RowError::from)? != self.log {
            return Err(ReadError::LogReplaced);
        }
        // The bookkeeping is of the same snapshot as the rows, so that what it does not tell of is there.
        if Pruned::read(&first)?.reaches(&span.since) {
            return Err(ReadError::Pruned);
        }
        let snapshot = match &span.handed {
            Some(handed) => Arc::clone(&handed.until),
            None => Arc::new(snapshot(self.life, &first)?),
        };
        // A batch without rows is one line that holds the snapshot and nothing else.
        let next = seq(&first)?.map(|_| first);
        Ok(Batch {
            snapshot,
            rows,
            wire,
            deadline: self.deadline,
            next,
        })
    }
}

/// A batch that is being read.
pub(super) struct Batch<'a> {
    /// What this batch leaves nothing unseen of.
    pub(super) snapshot: Arc<Snapshot>,
    rows: Pin<Box<RowStream>>,
    wire: &'a mut Wire,
    deadline: Duration,
    /// The next row, read ahead to know whether a chunk is the last.
    next: Option<Row>,
}

impl Batch<'_> {
    /// Reads the next chunk. After the last one, every further chunk is empty and the last.
    ///
    /// # Cancel safety
    /// Not safe: rows that were read for the chunk are lost, and the batch has to be begun again.
    pub(super) async fn next_chunk(&mut self) -> Result<Chunk, ReadError> {
        let mut chunk = Chunk::default();
        let (mut rows, mut bytes) = (0, 0);
        while rows < CHUNK_ROWS && bytes < CHUNK_BYTES {
            let Some(row) = self.next.take() else { break };
            bytes += chunk.take(&row)?;
            rows += 1;
            self.next = self.wire.drive(self.deadline, self.rows.try_next()).await?;
        }
        chunk.is_last = self.next.is_none();
        // The statement numbers the rows in this order already; sorting what is sorted costs nothing, and makes the
        // order independent of how Postgres joins.
        chunk.events.sort_by_key(|event| event.seq);
        Ok(chunk)
    }
}

impl Chunk {
    /// Adds a row, and answers how many bytes of JSON it brought.
    fn take(&mut self, row: &Row) -> Result<usize, ReadError> {
        let age: f64 = row.try_get("age").map_err(RowError::from)?;
        // A clock that was set back gives a negative age.
        let age = Duration::try_from_secs_f64(age.max(0.0)).unwrap_or_default();
        self.oldest_age = self.oldest_age.max(age);
        self.last_seq = self.last_seq.max(seq(row)?);
        match read_event(row)? {
            Logged::Event(event) => {
                let bytes = event.row.as_deref().map_or(0, str::len);
                self.events.push(event);
                Ok(bytes)
            }
            Logged::Vanished => {
                self.vanished += 1;
                Ok(0)
            }
        }
    }
}

fn seq(row: &Row) -> Result<Option<i64>, ReadError> {
    Ok(row.try_get("seq").map_err(RowError::from)?)
}

fn snapshot(life: Life, row: &Row) -> Result<Snapshot, ReadError> {
    let text: Option<&str> = row.try_get("snapshot").map_err(RowError::from)?;
    text.and_then(|text| Snapshot::read(life, text).ok())
        .ok_or(ReadError::NoSnapshot)
}

/// `$1` the snapshot since when and `$2` its life, `$3` the snapshot until when or null for now, and `$4` its life, `$5`
/// the serial number after which to continue or null for the beginning.
///
/// `pg_current_snapshot()` is the snapshot of this very statement (one statement has one under READ COMMITTED), so
/// that rows and snapshot agree. It stands in the first line only; with many transactions running it is long.
fn statement(unseen: &str, commit_times: bool, access: ViewAccess) -> String {
    let event_columns = event_columns(access);
    let committed = if commit_times {
        "coalesce(pg_catalog.pg_xact_commit_timestamp(fresh.xid::xid), fresh.logged_at)"
    } else {
        "fresh.logged_at"
    };
    format!(
        "select case when coalesce(events.ordinal, 1) = 1 \
             then pg_catalog.pg_current_snapshot()::text end as snapshot, \
             'herald.log'::pg_catalog.regclass::oid as log, head.pruned_before::text, head.pruned_life, \
             $2::int8 as since_life, events.* \
         from herald.state as head left join ( \
           select fresh.ordinal, {event_columns}, \
             extract(epoch from pg_catalog.clock_timestamp() - {committed})::float8 as age \
           from ( \
             select pg_catalog.row_number() over (order by log.seq) as ordinal, log.* from herald.log \
             where {unseen} and ($3::text is null or {SEEN}) and ($5::int8 is null or log.seq > $5) \
           ) as fresh \
         ) as events on true"
    )
}
