//! How a row of the log, joined with the view's row, is asked for and read.
//!
//! The feed and the replay share these expressions, so that an event is the same whichever way it comes.

use tokio_postgres::{Row, types::FromSql};
use uuid::Uuid;

use crate::{
    protocol::{
        event::{Event, Operation},
        snapshot::{Life, Snapshot, Transaction},
    },
    types::UserId,
};

/// The rows that became visible between the snapshot `$1` and now, as a condition on `log`: two index conditions.
///
/// It holds within one life of the database; see [`UNSEEN_SINCE_A_CRASH`].
pub const UNSEEN: &str = "(log.xid >= pg_catalog.pg_snapshot_xmax($1::text::pg_catalog.pg_snapshot) \
     or log.xid = any (array(select pg_catalog.pg_snapshot_xip($1::text::pg_catalog.pg_snapshot))))";

/// As [`UNSEEN`], for a snapshot of the life `$2` that a crash has ended: whatever a later life wrote is unseen, also
/// under a transaction number that the snapshot has seen. No index serves it, which is the price of a crash.
pub const UNSEEN_SINCE_A_CRASH: &str = "(log.life > $2::int8 \
     or log.xid >= pg_catalog.pg_snapshot_xmax($1::text::pg_catalog.pg_snapshot) \
     or log.xid = any (array(select pg_catalog.pg_snapshot_xip($1::text::pg_catalog.pg_snapshot))))";

/// The rows that the snapshot `$3` of the life `$4` sees, as a condition on `log`.
pub const SEEN: &str = "(log.life < $4::int8 or log.life = $4::int8 \
     and pg_catalog.pg_visible_in_snapshot(log.xid, $3::text::pg_catalog.pg_snapshot))";

/// How the view is asked for a message's row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ViewAccess {
    /// As it is.
    Direct,
    /// Row by row, so that one for which the view raises an error counts as vanished. It is slower, and is used once
    /// [`ViewAccess::Direct`] has failed with an error of data.
    Guarded,
}

/// The columns of an event, for a relation `fresh` that has the columns of the log. The view is asked once a row, by
/// primary key, and Postgres makes the JSON: a column added to the view reaches clients without a new build.
pub fn event_columns(access: ViewAccess) -> String {
    let row = match access {
        ViewAccess::Direct => {
            "(select pg_catalog.row_to_json(view)::text \
               from public.messages_realtime_view as view where view.id = fresh.message_id)"
        }
        ViewAccess::Guarded => "herald.guarded_row(fresh.message_id)",
    };
    format!(
        "fresh.seq, fresh.life, fresh.xid::text as xid, fresh.logged_at, fresh.op, fresh.message_id, fresh.sender_id, \
         fresh.receiver_id, fresh.product_id, case when fresh.op <> 'd' then {row} end as row"
    )
}

/// Settings that make Postgres answer alike and fast on every connection: times in UTC, and plans by index and without
/// parallel workers, whatever the statistics of a log that is empty now and large in a minute. A plan for any snapshot
/// takes a third of the log for unseen, and would start workers for a handful of rows. The view is asked for one row at a
/// time, by primary keys; a hash join would read all products for each. To be preceded by `set` or `set local`.
pub const PLAN_SETTINGS: [&str; 6] = [
    "timezone = 'UTC'",
    "jit = off",
    "enable_seqscan = off",
    "enable_hashjoin = off",
    "enable_mergejoin = off",
    "max_parallel_workers_per_gather = 0",
];

/// A row of the log could not be understood: the database holds something that this version does not know.
#[derive(Debug, thiserror::Error)]
pub enum RowError {
    /// A column is missing or has another type.
    #[error("a row of the log has an unexpected shape ({0}); run `herald migrate` with this version")]
    Shape(#[from] tokio_postgres::Error),
    /// The operation is none of `i`, `u`, `d`, or the transaction is no number.
    #[error(
        "a row of the log holds an unknown operation or transaction; run `herald migrate` with this version"
    )]
    Value,
}

/// What a row of the log turned out to be.
#[derive(Debug)]
pub enum Logged {
    /// An event to be delivered.
    Event(Event),
    /// An insert or update whose message is gone by now (or hidden by the view): its delete follows in the log, or
    /// nobody is meant to see it.
    Vanished,
}

/// Reads the columns of [`event_columns`].
///
/// # Errors
/// [`RowError`] if the row is not what the columns promise.
pub fn read_event(row: &Row) -> Result<Logged, RowError> {
    let letter: i8 = column(row, "op")?;
    let operation = u8::try_from(letter)
        .ok()
        .and_then(Operation::from_letter)
        .ok_or(RowError::Value)?;
    let json: Option<&str> = column(row, "row")?;
    if json.is_none() && operation != Operation::Delete {
        return Ok(Logged::Vanished);
    }
    Ok(Logged::Event(Event {
        seq: column(row, "seq")?,
        transaction: Transaction {
            life: life(column(row, "life")?)?,
            xid: xid(column(row, "xid")?)?,
        },
        logged_at: column(row, "logged_at")?,
        operation,
        message: column::<Uuid>(row, "message_id")?,
        sender: UserId(column(row, "sender_id")?),
        receiver: UserId(column(row, "receiver_id")?),
        product: column(row, "product_id")?,
        row: json.map(Into::into),
    }))
}

fn column<'row, T: FromSql<'row>>(row: &'row Row, name: &str) -> Result<T, RowError> {
    Ok(row.try_get(name)?)
}

/// How far the log has been pruned, as `herald.state` tells it.
#[derive(Clone, Copy, Debug)]
pub struct Pruned {
    before: u64,
    life: Life,
}

impl Pruned {
    /// Reads the columns `pruned_before` (as text) and `pruned_life`.
    ///
    /// # Errors
    /// [`RowError`] if they are missing or hold something else.
    pub fn read(row: &Row) -> Result<Self, RowError> {
        Ok(Self {
            before: xid(column(row, "pruned_before")?)?,
            life: life(column(row, "pruned_life")?)?,
        })
    }

    /// Whether rows may be gone that a reader with this snapshot has not seen.
    ///
    /// It may need rows from its xmin on, and those below `before` may be gone; after a crash it may need rows of lower
    /// numbers, too.
    pub fn reaches(self, snapshot: &Snapshot) -> bool {
        snapshot.xmin() < self.before || snapshot.life() < self.life
    }
}

/// Reads a transaction's number from its text.
fn xid(text: &str) -> Result<u64, RowError> {
    text.parse().map_err(|_| RowError::Value)
}

/// Reads a life from its column.
///
/// # Errors
/// [`RowError::Value`] if it is negative.
pub fn life(number: i64) -> Result<Life, RowError> {
    Life::try_from(number).map_err(|_| RowError::Value)
}

/// A life as a parameter. Transaction numbers stay far below the greatest 64-bit integer with a sign.
pub fn life_parameter(snapshot: &Snapshot) -> i64 {
    i64::try_from(snapshot.life()).unwrap_or(i64::MAX)
}
