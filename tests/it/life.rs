//! The number of a new life of the database: one, whoever asks for it first.

use std::collections::BTreeSet;

use futures::future::join_all;
use herald::{dev::cluster::Cluster, tasks::Tasks};
use tokio_postgres::{Client, NoTls};

use crate::support::{APPLICATION, database::execute, gateway::migrate};

/// Connections that ask at the same time.
const CLIENTS: usize = 16;

/// How often they do.
const ROUNDS: usize = 200;

/// Asks in a transaction of its own that has a number, as a writer does.
async fn ask(client: &Client) -> i64 {
    client
        .batch_execute("begin; select pg_current_xact_id()")
        .await
        .unwrap();
    let life = client
        .query_one("select herald.current_life()", &[])
        .await
        .unwrap()
        .get(0);
    client.batch_execute("commit").await.unwrap();
    life
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_who_find_the_sequence_reset_agree_on_one_number_and_leave_no_lock() {
    // A cluster of its own: a transaction that another test keeps open would be the oldest one again and again, as no
    // transaction is that a crash has ended.
    let cluster = Cluster::temporary().await.unwrap();
    let url = cluster.url("postgres");
    execute(&url, APPLICATION).await;
    migrate(&url).await;
    let tasks = Tasks::new();
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
        tasks.spawn("postgres", async move {
            // An error ends the test's own statement too, which is where it shows.
            let _ended = connection.await;
        });
        clients.push(client);
    }
    let mut last = 0;
    for _ in 0..ROUNDS {
        // As recovery leaves it after a crash.
        clients[0]
            .batch_execute("select setval('herald.life', 1, false)")
            .await
            .unwrap();
        let lives: BTreeSet<i64> = join_all(clients.iter().map(ask)).await.into_iter().collect();
        assert_eq!(lives.len(), 1, "{lives:?}");
        let life = *lives.first().unwrap();
        assert!(
            life > last,
            "a later life has a greater number: {life} after {last}"
        );
        last = life;
    }
    let held = "select count(*) from pg_locks where locktype = 'advisory' and database = \
                (select oid from pg_database where datname = current_database())";
    let held: i64 = clients[0].query_one(held, &[]).await.unwrap().get(0);
    assert_eq!(held, 0);
}
