//! Migrating while the application is at work.

use std::time::Duration;

use herald::{
    migrate::{self, MigrateError},
    tasks::Tasks,
};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use uuid::Uuid;

use super::{PATIENCE, install, is_valid, send, take_operations};
use crate::support::database::{AT_MOST, Database, people};

/// Enough rows for the index builds to take a while, and few enough for the test not to.
const ROWS: i32 = 200_000;

/// What a writer may have to wait: the 250 ms of one attempt at the lock, and the rest for a machine that is busy with
/// other tests. Waiting in line instead would take as long as the other transaction stays open, or the index build.
const LONGEST_WRITE: Duration = Duration::from_secs(1);

/// A writer that inserts one message after another, each in its own transaction, until it is told to stop.
struct Writer {
    tasks: Tasks,
    outcome: watch::Receiver<Outcome>,
}

#[derive(Clone, Copy, Default)]
struct Outcome {
    written: u64,
    longest: Duration,
}

impl Writer {
    async fn start(database: &Database, sender: Uuid, receiver: Uuid) -> Self {
        let tasks = Tasks::new();
        let client = database.connect().await;
        let (report, outcome) = watch::channel(Outcome::default());
        let stopping = tasks.stopping();
        tasks.spawn("writer", async move {
            while !stopping.is_cancelled() {
                let started = Instant::now();
                send(&client, sender, receiver, "still writing").await;
                report.send_modify(|outcome| {
                    outcome.written += 1;
                    outcome.longest = outcome.longest.max(started.elapsed());
                });
            }
        });
        Self { tasks, outcome }
    }

    async fn until_written(&mut self, count: u64) {
        timeout(AT_MOST, self.outcome.wait_for(|outcome| outcome.written >= count))
            .await
            .unwrap()
            .unwrap();
    }

    async fn stop(self) -> Outcome {
        self.tasks.stop();
        self.tasks.finish(AT_MOST).await.unwrap();
        *self.outcome.borrow()
    }
}

async fn fill(client: &tokio_postgres::Client, sender: Uuid, receiver: Uuid) {
    client
        .execute(
            "insert into messages (sender_id, receiver_id, content)
             select $1, $2, 'number ' || number from generate_series(1, $3) as number",
            &[&sender, &receiver, &ROWS],
        )
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_is_never_held_up_for_long() {
    let database = Database::with_application().await;
    let client = database.connect().await;
    let [alice, bob] = people(&client).await;
    fill(&client, alice, bob).await;
    let mut writer = Writer::start(&database, alice, bob).await;
    writer.until_written(10).await;
    install(&database).await;
    migrate::uninstall(&mut database.connect().await, PATIENCE)
        .await
        .unwrap();
    install(&database).await;
    let after = writer.outcome.borrow().written;
    writer.until_written(after + 10).await;
    let outcome = writer.stop().await;
    assert!(outcome.longest < LONGEST_WRITE, "{:?}", outcome.longest);
    assert!(is_valid(&client, "public.idx_messages_conversation_lookup").await);
    // What was written after the last installation is in the log.
    assert!(take_operations(&client).await.len() >= 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_stays_open_is_named_and_meanwhile_writers_go_on() {
    let database = Database::with_application().await;
    let client = database.connect().await;
    let [alice, bob] = people(&client).await;
    let before = database.dump_with(&["--schema-only"]);
    let sleeper = database.connect().await;
    sleeper
        .batch_execute("set application_name = 'nightly report'; begin")
        .await
        .unwrap();
    send(&sleeper, alice, bob, "and then nothing").await;
    let process: i32 = sleeper
        .query_one("select pg_backend_pid()", &[])
        .await
        .unwrap()
        .get(0);

    let mut writer = Writer::start(&database, alice, bob).await;
    writer.until_written(1).await;
    let patience = Duration::from_secs(4);
    let started = Instant::now();
    let result = migrate::install(&mut database.connect().await, patience).await;
    let took = started.elapsed();
    let outcome = writer.stop().await;

    let Err(MigrateError::Locked { blockers, .. }) = result else {
        panic!("{result:?}")
    };
    assert!(
        blockers
            .iter()
            .any(|blocker| blocker.process == process && blocker.application == "nightly report"),
        "{blockers:?}"
    );
    assert!(outcome.longest < LONGEST_WRITE, "{:?}", outcome.longest);
    assert!(took < patience + Duration::from_secs(2), "{took:?}");
    assert_eq!(database.dump_with(&["--schema-only"]), before);

    // With that transaction gone the next run succeeds.
    sleeper.batch_execute("rollback").await.unwrap();
    assert!(install(&database).await.changed());
}

#[tokio::test]
async fn an_index_build_that_waits_for_an_old_transaction_says_so_and_is_finished_later() {
    let database = Database::with_application().await;
    let client = database.connect().await;
    let sleeper = database.connect().await;
    // It has a snapshot and reads another table, so it is in the way of the index build alone.
    sleeper
        .batch_execute("begin isolation level repeatable read; select * from profiles")
        .await
        .unwrap();
    let process: i32 = sleeper
        .query_one("select pg_backend_pid()", &[])
        .await
        .unwrap()
        .get(0);
    let result = migrate::install(&mut database.connect().await, Duration::from_millis(500)).await;
    let Err(MigrateError::IndexLocked { blockers, .. }) = result else {
        panic!("{result:?}")
    };
    assert!(
        blockers.iter().any(|blocker| blocker.process == process),
        "{blockers:?}"
    );
    assert!(!is_valid(&client, "public.idx_messages_conversation_lookup").await);

    sleeper.batch_execute("rollback").await.unwrap();
    install(&database).await;
    for index in ["conversation_lookup", "user_product_time", "unread"] {
        assert!(
            is_valid(&client, &format!("public.idx_messages_{index}")).await,
            "{index}"
        );
    }
}

#[tokio::test]
async fn of_two_migrations_at_once_one_does_the_work_and_the_other_finds_it_done() {
    let database = Database::with_application().await;
    let (mut first, mut second) = (database.connect().await, database.connect().await);
    let (first, second) = tokio::join!(
        movable(migrate::install(&mut first, PATIENCE)),
        movable(migrate::install(&mut second, PATIENCE))
    );
    let changed = [first.unwrap().changed(), second.unwrap().changed()];
    assert_eq!(
        changed.iter().filter(|changed| **changed).count(),
        1,
        "{changed:?}"
    );
}

#[tokio::test]
async fn a_migration_that_does_not_end_is_named() {
    let database = Database::with_application().await;
    let other = database.connect().await;
    let process: i32 = other
        .query_one("select pg_backend_pid()", &[])
        .await
        .unwrap()
        .get(0);
    // The key that `herald migrate` takes: `herald` in ASCII, then 1.
    other
        .batch_execute("select pg_advisory_lock((x'6865' || x'7261' || x'6c64' || x'0001')::bit(64)::bigint)")
        .await
        .unwrap();
    let result = migrate::install(&mut database.connect().await, Duration::from_millis(300)).await;
    let Err(MigrateError::Busy { process: named, .. }) = result else {
        panic!("{result:?}")
    };
    assert_eq!(named, process.to_string());
}

/// Holds a migration to being `Send`, so that a task may run it.
fn movable<F: Future + Send>(migration: F) -> F {
    migration
}
