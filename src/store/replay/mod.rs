//! What one user missed: the log between the user's cursor and the place where the live stream begins. A short gap is told out of the
//! history that the hub keeps, and a longer one out of the database.
//!
//! Never a partial replay: either everything in between, or a reason why continuity cannot be proved. All that is
//! judged (epoch, pruning, what the database has seen) comes from the same statement as the rows.
//!
//! Those who come back at the same time are asked for together: after a restart of the gateway everybody does, and its
//! history is empty then.

mod together;

use std::{sync::Arc, time::Duration};

use deadpool_postgres::Pool;
use futures::future::try_join3;
use tokio::sync::{mpsc, oneshot};
use tokio_postgres::{
    Row,
    types::{ToSql, Type},
};

pub use self::together::Together;
use self::together::{ASKED_MAX, Answer, Asked};
use super::log::{
    Logged, PLAN_SETTINGS, Pruned, RowError, SEEN, UNSEEN, UNSEEN_SINCE_A_CRASH, ViewAccess, event_columns,
    life, life_parameter, read_event,
};
use crate::{
    hub::{History, Position},
    metrics::Metrics,
    postgres::{Lent, PooledError, is_of_data},
    protocol::{
        cursor::Cursor,
        event::Event,
        server_frame::{Discontinuity, EventsFrame, EventsFrameBuilder},
        snapshot::Snapshot,
    },
    types::UserId,
};

/// A replay is also bounded in bytes of JSON: a thousand messages of the largest size would not be a short gap.
const REPLAY_BYTES_MAX: usize = 16 << 20;

/// Why no answer could be had. The client is asked to come back; nothing was sent to it.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The database did not answer.
    #[error("the replay failed: {0}")]
    Pooled(#[from] PooledError),
    /// The answer was not understood.
    #[error(transparent)]
    Row(#[from] RowError),
    /// The question that was asked for several together failed.
    #[error("the replay failed: {0}")]
    Together(Arc<str>),
    /// The answer did not come in time.
    #[error("the replay took longer than {0:?}")]
    Deadline(Duration),
    /// The log's bookkeeping was not understood.
    #[error("the log's bookkeeping has an unexpected shape; run `herald migrate` with this version")]
    Bookkeeping,
}

/// What became of a cursor.
#[derive(Debug)]
pub enum Replay {
    /// Everything between the cursor and the position. The last frame carries the position's cursor, unless the
    /// client's own is ahead of it.
    Resumed(Vec<EventsFrame>),
    /// Continuity cannot be proved.
    Discontinued(Discontinuity),
}

/// Asks for replays, with bounds on rows and time. The pool bounds how many run at once.
#[derive(Clone, Debug)]
pub struct Replayer {
    pool: Pool,
    history: Arc<History>,
    metrics: Arc<Metrics>,
    rows_max: i64,
    deadline: Duration,
    /// Opens the transaction of each replay. The transaction carries the settings, because a session's would not survive
    /// a transaction pooler.
    begin: Arc<str>,
    statement: Arc<str>,
    statement_since_a_crash: Arc<str>,
    asked: mpsc::Sender<Asked>,
}

impl Replayer {
    /// At most `rows_max` events are replayed. What is no longer in the history is asked of the database, whose answer is waited for until
    /// `deadline`. Whoever asks at the same time is answered together, as long as the second half runs; else each by a question of its own.
    pub fn new(
        pool: Pool,
        history: Arc<History>,
        metrics: Arc<Metrics>,
        rows_max: u32,
        deadline: Duration,
    ) -> (Self, Together) {
        let begin = format!(
            "begin; set local {}; set local statement_timeout = {}; select herald.current_life()",
            PLAN_SETTINGS.join("; set local "),
            deadline.as_millis(),
        );
        let (asked, to_ask) = mpsc::channel(ASKED_MAX);
        let replayer = Self {
            pool,
            history,
            metrics,
            rows_max: rows_max.into(),
            deadline,
            begin: begin.into(),
            statement: statement(UNSEEN, ViewAccess::Direct).into(),
            statement_since_a_crash: statement(UNSEEN_SINCE_A_CRASH, ViewAccess::Direct).into(),
            asked,
        };
        // Without a sender of its own, it ends when nobody is left who could ask.
        let together = Together::new(&replayer, to_ask);
        (replayer, together)
    }

    /// Everything that concerns `user` after `from` and up to `until`.
    ///
    /// # Errors
    /// [`ReplayError`] if the database did not answer; the client may try again with the same cursor.
    ///
    /// # Cancel safety
    /// Safe: nothing is written.
    pub async fn replay(&self, user: UserId, from: &Cursor, until: &Position) -> Result<Replay, ReplayError> {
        if from.epoch != until.epoch {
            return Ok(Replay::Discontinued(Discontinuity::UnknownEpoch));
        }
        if from.snapshot == until.snapshot {
            return Ok(Replay::Resumed(Vec::new()));
        }
        let of_history = |events: &[&Event]| {
            let too_many = i64::try_from(events.len()).map_or(true, |count| count > self.rows_max);
            if too_many {
                Replay::Discontinued(Discontinuity::TooFar)
            } else {
                Replay::Resumed(frames(user, events.iter().copied(), from, until))
            }
        };
        if let Some(replay) = self.history.between(user, from, until, of_history) {
            return Ok(replay);
        }
        match self.together(user, from, until).await? {
            Answer::Replay(replay) => Ok(replay),
            Answer::Alone => self.alone(user, from, until).await,
        }
    }

    /// Waits for an answer that is found together with those of others.
    async fn together(&self, user: UserId, from: &Cursor, until: &Position) -> Result<Answer, ReplayError> {
        let (answer, answered) = oneshot::channel();
        let asked = Asked {
            user,
            from: from.clone(),
            until: until.clone(),
            answer,
        };
        let waited = tokio::time::timeout(self.deadline, async {
            match self.asked.send(asked).await {
                Ok(()) => answered.await.unwrap_or(Ok(Answer::Alone)),
                Err(_nobody_answers) => Ok(Answer::Alone),
            }
        });
        waited.await.map_err(|_| ReplayError::Deadline(self.deadline))?
    }

    async fn alone(&self, user: UserId, from: &Cursor, until: &Position) -> Result<Replay, ReplayError> {
        let same_life = from.snapshot.life() == until.snapshot.life();
        let direct = if same_life {
            &self.statement
        } else {
            &self.statement_since_a_crash
        };
        let rows = match self.ask(direct, user, from, until).await {
            // The view raises an error for one of the messages, which must not keep the others back.
            Err(ReplayError::Pooled(PooledError::Query(error))) if is_of_data(&error) => {
                let unseen = if same_life { UNSEEN } else { UNSEEN_SINCE_A_CRASH };
                self.ask(&statement(unseen, ViewAccess::Guarded), user, from, until)
                    .await?
            }
            asked => asked?,
        };
        judge(&rows, user, from, until, self.rows_max)
    }

    async fn ask(
        &self,
        statement: &str,
        user: UserId,
        from: &Cursor,
        until: &Position,
    ) -> Result<Vec<Row>, ReplayError> {
        let lives = (life_parameter(&from.snapshot), life_parameter(&until.snapshot));
        let (from, until) = (from.snapshot.to_string(), until.snapshot.to_string());
        let parameters: [(&(dyn ToSql + Sync), Type); 6] = [
            (&from, Type::TEXT),
            (&lives.0, Type::INT8),
            (&until, Type::TEXT),
            (&lives.1, Type::INT8),
            (&user.0, Type::UUID),
            (&(self.rows_max + 1), Type::INT8),
        ];
        self.metrics.replay_queries.inc();
        let lent = Lent::from(&self.pool).await?;
        let client = lent.client()?;
        // The three are sent in one go, so that the transaction costs no further round trip.
        let asked = try_join3(
            client.batch_execute(&self.begin),
            client.query_typed(statement, &parameters),
            client.batch_execute("commit"),
        );
        let answered = tokio::time::timeout(self.deadline, asked).await;
        let ((), rows, ()) = lent.settle(answered, self.deadline)?;
        Ok(rows)
    }
}

/// `$1` the cursor's snapshot and `$2` its life, `$3` the position's snapshot and `$4` its life, `$5` the user, `$6` the
/// most rows that are looked at.
///
/// A message to oneself is found by its receiver only, so that it is replayed once. Without a crash in between, `$2` has
/// no use but is given a type all the same.
fn statement(unseen: &str, access: ViewAccess) -> String {
    let event_columns = event_columns(access);
    let between = format!("{unseen} and {SEEN}");
    format!(
        "with head as materialized ( \
           select herald.epoch() as epoch, state.pruned_before::text, state.pruned_life, \
             pg_catalog.pg_current_snapshot()::text as now, herald.current_life() as life_now, $2::int8 as life \
           from herald.state) \
         select head.epoch, head.pruned_before, head.pruned_life, head.now, head.life_now, events.* from head left join ( \
           select {event_columns} from ( \
             select * from ( \
               select * from herald.log where log.receiver_id = $5 and {between} \
               union all \
               select * from herald.log where log.sender_id = $5 and log.receiver_id <> $5 and {between} \
             ) as both_sides order by both_sides.seq limit $6 \
           ) as fresh \
         ) as events on true"
    )
}

/// What the rows of one answer mean.
fn judge(
    rows: &[Row],
    user: UserId,
    from: &Cursor,
    until: &Position,
    rows_max: i64,
) -> Result<Replay, ReplayError> {
    let Some(first) = rows.first() else {
        return Err(ReplayError::Bookkeeping);
    };
    if let Some(reason) = discontinuity(first, from)? {
        return Ok(Replay::Discontinued(reason));
    }
    let Some(events) = events(rows, rows_max)? else {
        return Ok(Replay::Discontinued(Discontinuity::TooFar));
    };
    Ok(Replay::Resumed(frames(user, events.iter(), from, until)))
}

/// Judges the cursor by the bookkeeping that every row of the answer repeats.
fn discontinuity(row: &Row, from: &Cursor) -> Result<Option<Discontinuity>, ReplayError> {
    let text = |name| row.try_get::<_, &str>(name).map_err(|_| ReplayError::Bookkeeping);
    let life_now = life(row.try_get("life_now").map_err(|_| ReplayError::Bookkeeping)?)?;
    let now = Snapshot::read(life_now, text("now")?).map_err(|_| ReplayError::Bookkeeping)?;
    Ok(if text("epoch")? != from.epoch.to_string() {
        Some(Discontinuity::UnknownEpoch)
    } else if !now.covers(&from.snapshot) {
        Some(Discontinuity::Ahead)
    } else if Pruned::read(row)?.reaches(&from.snapshot) {
        Some(Discontinuity::Expired)
    } else {
        None
    })
}

/// The events of the answer in the order of the log, or `None` if they are too many or too large.
fn events(rows: &[Row], rows_max: i64) -> Result<Option<Vec<Event>>, ReplayError> {
    let logged = |row: &&Row| row.try_get::<_, Option<i64>>("seq").ok().flatten().is_some();
    let rows: Vec<&Row> = rows.iter().filter(logged).collect();
    if i64::try_from(rows.len()).map_or(true, |count| count > rows_max) {
        return Ok(None);
    }
    let mut bytes = 0;
    let mut events = Vec::with_capacity(rows.len());
    for row in rows {
        if let Logged::Event(event) = read_event(row)? {
            bytes += event.row.as_deref().map_or(0, str::len);
            events.push(event);
        }
        if bytes > REPLAY_BYTES_MAX {
            return Ok(None);
        }
    }
    events.sort_unstable_by_key(|event| event.seq);
    Ok(Some(events))
}

fn frames<'events>(
    user: UserId,
    events: impl ExactSizeIterator<Item = &'events Event>,
    from: &Cursor,
    until: &Position,
) -> Vec<EventsFrame> {
    // A client that is ahead of the feed keeps its own cursor: the position's would claim less than the client has.
    let cursor = until
        .snapshot
        .covers(&from.snapshot)
        .then(|| until.cursor().to_string());
    let is_empty = events.len() == 0;
    let mut frames = Vec::new();
    let mut builder = EventsFrameBuilder::new();
    for event in events {
        if builder.is_full() {
            frames.push(std::mem::take(&mut builder).finish(None));
        }
        builder.push(event, user);
    }
    if !is_empty {
        frames.push(builder.finish(cursor.as_deref()));
    }
    frames
}
