//! What it costs to bring a client up to date that comes back with a cursor.
//!
//! Measured: the time from the question to finished frames, over one connection to a real Postgres whose log holds
//! 1,000,000 rows of 200,000 transactions and 10,000 users. The cursors are half a log old; the users have missed 0, 10
//! and 1,000 messages, half of which they wrote and half of which they received, and have 1,000 older ones. Before the
//! clock starts, the statistics of Postgres are asked which indexes a replay of each kind went through, and the run
//! fails if the log was scanned or more of it was looked at than the user has missed.
//!
//! Peer: asking the view for the same messages by their identifiers, on a connection of the same kind; for a user who
//! missed nothing, `select 1`.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark reports to whoever started it, and one that cannot be set up has nothing to tell"
)]

mod support;

use std::{sync::Arc, time::Duration};

use criterion::{Criterion, criterion_group, criterion_main};
use deadpool_postgres::Pool;
use herald::{
    hub::Position,
    metrics::Metrics,
    postgres::{Settings, pool},
    protocol::{cursor::Cursor, server_frame::EventsFrame},
    store::replay::{Replay, Replayer},
};
use tokio_postgres::{Client, types::Type};
use uuid::Uuid;

use support::{
    database::Database,
    people::{NUMBERED, numbered, settle, user},
    samples::{cursor_before, position_of},
};

/// Rows of the log that are not of the users below.
const ROWS: u64 = 1_000_000;

/// Rows of one transaction.
const ROWS_A_TRANSACTION: u64 = 5;

/// The users who come back, and how many messages they have missed.
const MISSED: [(u32, u32); 3] = [(0, 0), (1, 10), (2, 1_000)];

/// Messages that each of them had seen before.
const SEEN: u32 = 1_000;

/// Longer than any answer should take.
const DEADLINE: Duration = Duration::from_secs(10);

/// A log, and the two ends of what is missed.
struct Log {
    database: Database,
    client: Client,
    from: Cursor,
    until: Position,
}

/// With a history that keeps nothing and each question by itself, since it is the database that is measured.
fn replayer(pool: &Pool) -> Replayer {
    Replayer::new(
        pool.clone(),
        Arc::default(),
        Arc::new(Metrics::new()),
        SEEN,
        DEADLINE,
    )
    .0
}

fn replay(criterion: &mut Criterion) {
    if !support::is_asked_for() {
        return;
    }
    let runtime = support::runtime();
    let log = runtime.block_on(Log::write());
    for (who, missed) in MISSED {
        runtime.block_on(log.prove_indexes(who, missed));
    }
    let pool = log.pool();
    let replayer = replayer(&pool);
    let mut group = criterion.benchmark_group("replay out of 1,000,000 rows");
    for (who, missed) in MISSED {
        group.bench_function(format!("{missed} missed/herald"), |bencher| {
            bencher
                .to_async(&runtime)
                .iter(|| replayed(&replayer, &log, who, missed));
        });
        let ids: Vec<Uuid> = (0..missed).map(|message| missed_message(who, message)).collect();
        group.bench_function(format!("{missed} missed/by identifier"), |bencher| {
            bencher.to_async(&runtime).iter(|| by_identifier(&pool, &ids));
        });
    }
    group.finish();
}

async fn replayed(replayer: &Replayer, log: &Log, who: u32, missed: u32) {
    let replay = replayer.replay(user(who), &log.from, &log.until).await;
    let Replay::Resumed(frames) = replay.unwrap() else {
        panic!("the cursor was not continued");
    };
    let events: usize = frames.iter().map(EventsFrame::events).sum();
    assert_eq!(events, missed as usize);
}

/// The peer.
async fn by_identifier(pool: &Pool, ids: &[Uuid]) {
    let client = pool.get().await.unwrap();
    if ids.is_empty() {
        client.query_typed("select 1", &[]).await.unwrap();
        return;
    }
    let statement = "select row_to_json(view)::text from messages_realtime_view as view where id = any($1)";
    let rows = client
        .query_typed(statement, &[(&ids, Type::UUID_ARRAY)])
        .await
        .unwrap();
    assert_eq!(rows.len(), ids.len());
}

/// The message that this user has missed as this number.
fn missed_message(who: u32, message: u32) -> Uuid {
    numbered(first_message(who) + SEEN + message)
}

const fn first_message(who: u32) -> u32 {
    10_000_000 + who * 100_000
}

impl Log {
    async fn write() -> Self {
        let database = Database::hasty().await;
        let client = database.connect().await;
        settle(&client, 10_000).await;
        // The rows name transactions that have passed, so that many have to pass. They are written as they would have
        // been over a day, which takes more than an INSERT a message; so the triggers are off.
        let first = position_of(&client).await.snapshot.xmax();
        let transactions = ROWS / ROWS_A_TRANSACTION;
        client
            .batch_execute(&format!(
                "do $$begin for n in 1..{transactions} loop perform pg_current_xact_id(); commit; end loop; end$$"
            ))
            .await
            .unwrap();
        client
            .batch_execute("set session_replication_role = replica")
            .await
            .unwrap();
        client.batch_execute(&others(first)).await.unwrap();
        for (who, missed) in MISSED {
            let middle = first + transactions / 2;
            let of_user = own(who, missed, first, middle, transactions / 2);
            client.batch_execute(&of_user).await.unwrap();
        }
        for table in ["herald.log", "messages"] {
            let vacuum = format!("vacuum analyze {table}");
            client.batch_execute(&vacuum).await.unwrap();
        }
        let until = position_of(&client).await;
        Self {
            database,
            from: cursor_before(first + transactions / 2, &until),
            client,
            until,
        }
    }

    fn pool(&self) -> Pool {
        pool(&Settings::parse(&self.database.url()).unwrap(), 1, DEADLINE).unwrap()
    }

    /// Replays once, and asks Postgres how much of which index that has read.
    async fn prove_indexes(&self, who: u32, missed: u32) {
        let before = self.usage().await;
        let pool = self.pool();
        replayed(&replayer(&pool), self, who, missed).await;
        // A session tells what it has read when it ends, if not before.
        pool.close();
        let mut after = self.usage().await;
        while after.index_scans == before.index_scans {
            tokio::time::sleep(Duration::from_millis(10)).await;
            after = self.usage().await;
        }
        let entries = after.entries - before.entries;
        println!(
            "{missed} missed: {} index scans, {entries} index entries, {} scans of the whole log",
            after.index_scans - before.index_scans,
            after.whole_scans - before.whole_scans,
        );
        assert_eq!(
            after.whole_scans, before.whole_scans,
            "the log was scanned as a whole"
        );
        assert!(
            entries <= i64::from(missed),
            "more of the log was looked at than was missed"
        );
    }

    async fn usage(&self) -> Usage {
        let statement = "select seq_scan, idx_scan::bigint, \
               (select sum(idx_tup_read)::bigint from pg_stat_user_indexes where relid = 'herald.log'::regclass) \
             from pg_stat_user_tables where relid = 'herald.log'::regclass";
        let row = self.client.query_one(statement, &[]).await.unwrap();
        Usage {
            whole_scans: row.get(0),
            index_scans: row.get(1),
            entries: row.get(2),
        }
    }
}

/// How the log has been read so far.
struct Usage {
    whole_scans: i64,
    index_scans: i64,
    entries: i64,
}

/// Writes what other users have said to each other, from this transaction on. Their messages are never looked at.
fn others(first: u64) -> String {
    format!(
        "insert into herald.log (life, xid, op, message_id, sender_id, receiver_id) \
         select herald.current_life(), ({first} + row / {ROWS_A_TRANSACTION})::text::xid8, 'i', gen_random_uuid(), \
             (select {NUMBERED} from (values (10 + row % 9990)) as one (n)), \
             (select {NUMBERED} from (values (10 + (row * 7 + 1) % 9990)) as one (n)) \
           from generate_series(0, {ROWS} - 1) as row"
    )
}

/// Writes what one user has seen before the middle and missed after it, evenly spread over as many transactions.
fn own(who: u32, missed: u32, first: u64, middle: u64, transactions: u64) -> String {
    let (user, message) = (user(who), first_message(who));
    format!(
        "create temporary table own as \
           select (select {NUMBERED} from (values ({message} + number)) as one (n)) as id, \
               case when number < {SEEN} then {first} + number * {transactions} / {SEEN} \
                 else {middle} + (number - {SEEN}) * {transactions} / {divisor} end as xid, \
               case when number % 2 = 0 then '{user}' else other end::uuid as sender_id, \
               case when number % 2 = 0 then other else '{user}' end::uuid as receiver_id \
             from (select number::bigint, (select {NUMBERED} from (values (10 + number % 9990)) as one (n)) as other \
                     from generate_series(0, {SEEN} + {missed} - 1) as number) as numbers; \
         insert into messages (id, sender_id, receiver_id, content) \
           select id, sender_id, receiver_id, 'A message of about the length that people write to each other.' from own; \
         insert into herald.log (life, xid, op, message_id, sender_id, receiver_id) \
           select herald.current_life(), xid::text::xid8, 'i', id, sender_id, receiver_id from own order by xid; \
         drop table own",
        divisor = missed.max(1),
    )
}

criterion_group! {
    name = benches;
    config = support::brisk();
    targets = replay
}
criterion_main!(benches);
