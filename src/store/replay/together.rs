//! Replays of several sessions by one question to the database.
//!
//! While one question is under way the next collects, so that a session that comes back alone waits for nothing, and ten thousand that
//! come back within a second cost some hundred questions. Whoever has gone meanwhile is left out.

use std::{sync::Arc, time::Duration};

use deadpool_postgres::Pool;
use futures::{StreamExt, TryStreamExt, future::try_join3, stream::FuturesUnordered};
use tokio::sync::{mpsc, oneshot};
use tokio_postgres::{
    Row,
    types::{ToSql, Type},
};
use uuid::Uuid;

use super::{
    super::log::{ViewAccess, event_columns, life_parameter},
    REPLAY_BYTES_MAX, Replay, ReplayError, Replayer, judge,
};
use crate::{
    hub::Position,
    metrics::Metrics,
    postgres::{Lent, PooledError, is_of_data},
    protocol::{cursor::Cursor, snapshot::Snapshot},
    types::UserId,
};

/// Sessions that may wait to be asked for. Each has its own deadline, after which its client is asked to come back.
pub(super) const ASKED_MAX: usize = 65_536;

/// Sessions that one question is for. It takes some ten milliseconds if each has missed a little.
const TOGETHER_MAX: usize = 128;

/// Questions under way at the same time. More would only take the database from others.
const QUESTIONS_MAX: usize = 2;

/// A session that waits for what it has missed.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) user: UserId,
    pub(super) from: Cursor,
    pub(super) until: Position,
    pub(super) answer: oneshot::Sender<Result<Answer, ReplayError>>,
}

/// What became of a question that was asked together with others.
#[derive(Debug)]
pub(super) enum Answer {
    Replay(Replay),
    /// The session has to ask by itself: together they have missed too much for one answer, or the view raises an error for a message.
    Alone,
}

/// Asks for those who come back at the same time.
#[derive(Debug)]
pub struct Together {
    question: Question,
    asked: mpsc::Receiver<Asked>,
}

impl Together {
    pub(super) fn new(replayer: &Replayer, asked: mpsc::Receiver<Asked>) -> Self {
        let question = Question {
            pool: replayer.pool.clone(),
            metrics: Arc::clone(&replayer.metrics),
            rows_max: replayer.rows_max,
            deadline: replayer.deadline,
            begin: Arc::clone(&replayer.begin),
            statement: statement(&UNSEEN),
            statement_since_a_crash: statement(&UNSEEN_SINCE_A_CRASH),
        };
        Self { question, asked }
    }

    /// Answers until every [`Replayer`] is gone.
    ///
    /// # Cancel safety
    /// Those who wait ask by themselves then.
    pub async fn run(self) {
        let Self { question, mut asked } = self;
        let mut under_way = FuturesUnordered::new();
        let mut collected = Vec::with_capacity(TOGETHER_MAX);
        loop {
            tokio::select! {
                count = asked.recv_many(&mut collected, TOGETHER_MAX), if under_way.len() < QUESTIONS_MAX => {
                    if count == 0 {
                        break;
                    }
                    let mut together = std::mem::take(&mut collected);
                    together.retain(|asked: &Asked| !asked.answer.is_closed());
                    if !together.is_empty() {
                        under_way.push(question.answer(together));
                    }
                }
                Some(()) = under_way.next() => {}
            }
        }
        while under_way.next().await.is_some() {}
    }
}

/// How a question is asked.
#[derive(Debug)]
struct Question {
    pool: Pool,
    metrics: Arc<Metrics>,
    rows_max: i64,
    deadline: Duration,
    begin: Arc<str>,
    statement: String,
    statement_since_a_crash: String,
}

impl Question {
    /// Answers each of them.
    async fn answer(&self, together: Vec<Asked>) {
        let (of_this_life, since_a_crash): (Vec<Asked>, Vec<Asked>) = together
            .into_iter()
            .partition(|asked| asked.from.snapshot.life() == asked.until.snapshot.life());
        self.answer_by(&self.statement, of_this_life).await;
        self.answer_by(&self.statement_since_a_crash, since_a_crash).await;
    }

    async fn answer_by(&self, statement: &str, together: Vec<Asked>) {
        if together.is_empty() {
            return;
        }
        match self.ask(statement, &together).await {
            Ok(Some(found)) => {
                for (asked, rows) in together.into_iter().zip(found) {
                    let judged = judge(&rows, asked.user, &asked.from, &asked.until, self.rows_max);
                    reply(asked, judged.map(Answer::Replay));
                }
            }
            Ok(None) => alone(together),
            Err(PooledError::Query(error)) if is_of_data(&error) => alone(together),
            Err(error) => fail(together, &error),
        }
    }

    /// The rows for each of them, in the same order; none if they are too many for one answer.
    async fn ask(&self, statement: &str, together: &[Asked]) -> Result<Option<Vec<Vec<Row>>>, PooledError> {
        let users: Vec<Uuid> = together.iter().map(|asked| asked.user.0).collect();
        let from: Vec<String> = together
            .iter()
            .map(|asked| asked.from.snapshot.to_string())
            .collect();
        let until: Vec<String> = together
            .iter()
            .map(|asked| asked.until.snapshot.to_string())
            .collect();
        let lives = |snapshot: fn(&Asked) -> &Snapshot| -> Vec<i64> {
            together
                .iter()
                .map(|asked| life_parameter(snapshot(asked)))
                .collect()
        };
        let from_lives = lives(|asked| &asked.from.snapshot);
        let until_lives = lives(|asked| &asked.until.snapshot);
        let limit = self.rows_max + 1;
        let parameters: [(&(dyn ToSql + Sync), Type); 6] = [
            (&users, Type::UUID_ARRAY),
            (&from, Type::TEXT_ARRAY),
            (&from_lives, Type::INT8_ARRAY),
            (&until, Type::TEXT_ARRAY),
            (&until_lives, Type::INT8_ARRAY),
            (&limit, Type::INT8),
        ];
        self.metrics.replay_queries.inc();
        let lent = Lent::from(&self.pool).await?;
        let client = lent.client()?;
        let asked = try_join3(
            client.batch_execute(&self.begin),
            async {
                let parameters = parameters.iter().map(|(value, kind)| (*value, kind.clone()));
                let rows = client.query_typed_raw(statement, parameters).await?;
                collect(rows, together.len()).await
            },
            client.batch_execute("commit"),
        );
        let answered = tokio::time::timeout(self.deadline, asked).await;
        let ((), rows, ()) = lent.settle(answered, self.deadline)?;
        Ok(rows)
    }
}

/// Sorts the rows by the session that they are for.
async fn collect(
    rows: tokio_postgres::RowStream,
    sessions: usize,
) -> Result<Option<Vec<Vec<Row>>>, tokio_postgres::Error> {
    let mut rows = std::pin::pin!(rows);
    let mut found: Vec<Vec<Row>> = (0..sessions).map(|_| Vec::new()).collect();
    let mut bytes = 0;
    while let Some(row) = rows.try_next().await? {
        bytes += row.raw_size_bytes();
        // All rows are read, or the connection could not be used again; what is too much is not kept.
        if bytes > REPLAY_BYTES_MAX {
            found.clear();
            continue;
        }
        let place = usize::try_from(row.try_get::<_, i64>("ordinal")? - 1).unwrap_or(usize::MAX);
        if let Some(found) = found.get_mut(place) {
            found.push(row);
        }
    }
    Ok((bytes <= REPLAY_BYTES_MAX).then_some(found))
}

fn reply(asked: Asked, answer: Result<Answer, ReplayError>) {
    // Whoever has gone meanwhile does not wait.
    let _told = asked.answer.send(answer);
}

fn alone(together: Vec<Asked>) {
    for asked in together {
        reply(asked, Ok(Answer::Alone));
    }
}

fn fail(together: Vec<Asked>, error: &PooledError) {
    let told: Arc<str> = error.to_string().into();
    for asked in together {
        reply(asked, Err(ReplayError::Together(Arc::clone(&told))));
    }
}

/// What a session has not seen, of one side of its conversations: rows of two kinds, each found by its index, which `offset 0` keeps the
/// planner from passing over; see [`super::super::log::UNSEEN`].
const UNSEEN: [&str; 2] = [
    "herald.log where {side} and log.xid >= asked.since",
    "pg_catalog.unnest(asked.running) as running (xid) cross join lateral ( \
       select * from herald.log where {side} and log.xid = running.xid offset 0) as log where true",
];

/// The same for a cursor of a life that a crash has ended; see [`super::super::log::UNSEEN_SINCE_A_CRASH`].
const UNSEEN_SINCE_A_CRASH: [&str; 1] = ["herald.log where {side} \
     and (log.life > asked.since_life or log.xid >= asked.since or log.xid = any (asked.running))"];

/// `$1` the users, `$2` the snapshots of their cursors and `$3` the lives of these, `$4` and `$5` those of their positions, `$6` the most
/// rows that are looked at for each. It asks as the question for one session does; see [`super::statement`].
fn statement(unseen: &[&str]) -> String {
    let event_columns = event_columns(ViewAccess::Direct);
    // A message to oneself is found by its receiver only.
    let sides = [
        "log.receiver_id = asked.person",
        "log.sender_id = asked.person and log.receiver_id <> asked.person",
    ];
    let parts = sides.iter().flat_map(|side| {
        unseen.iter().map(move |unseen| {
            format!(
                "select log.* from {} and (log.life < asked.until_life or log.life = asked.until_life \
                   and pg_catalog.pg_visible_in_snapshot(log.xid, asked.until))",
                unseen.replace("{side}", side)
            )
        })
    });
    let both_sides = parts.collect::<Vec<_>>().join(" union all ");
    format!(
        "with head as materialized ( \
           select herald.epoch() as epoch, state.pruned_before::text, state.pruned_life, \
             pg_catalog.pg_current_snapshot()::text as now, herald.current_life() as life_now \
           from herald.state), \
         asked as materialized ( \
           select given.ordinal, given.person, pg_catalog.pg_snapshot_xmax(given.since::pg_catalog.pg_snapshot) as since, \
             array(select pg_catalog.pg_snapshot_xip(given.since::pg_catalog.pg_snapshot)) as running, given.since_life, \
             given.until::pg_catalog.pg_snapshot as until, given.until_life \
           from rows from (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3), pg_catalog.unnest($4), \
             pg_catalog.unnest($5)) with ordinality as given (person, since, since_life, until, until_life, ordinal)) \
         select asked.ordinal, head.epoch, head.pruned_before, head.pruned_life, head.now, head.life_now, events.* \
         from head cross join asked left join lateral ( \
           select {event_columns} from ( \
             select * from ({both_sides}) as both_sides order by both_sides.seq limit $6 \
           ) as fresh \
         ) as events on true"
    )
}
