//! The promise: every committed change reaches every session of its two users that is connected or comes back with its
//! cursor, once, whatever happens on the way.
//!
//! What should have arrived is read from the log when all is over, and the log is held against the messages themselves.

use std::time::Duration;

use herald::{dev::cluster::Stop, types::UserId};
use tokio_postgres::Client;

use crate::support::{
    gateway::{Gateway, config, token},
    socket::Socket,
    storm::{Storm, with_client},
    wait_until,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_come_and_go_miss_nothing_and_get_nothing_twice() {
    let mut storm = Storm::new().await;
    let gateway = Gateway::start(&storm.url).await;
    storm.connect_to([gateway.address()]);
    storm.follow().await;
    storm.write(60);
    storm.written().await;
    storm.everything_arrived_once().await;
    storm.end().await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_while_the_feed_loses_its_connection_again_and_again() {
    let mut storm = Storm::new().await;
    let gateway = Gateway::start(&storm.url).await;
    storm.connect_to([gateway.address()]);
    storm.follow().await;
    storm.write(120);
    let terminations = with_client(&storm.url, async |client| {
        let mut terminations = 0;
        let mut tick = tokio::time::interval(Duration::from_millis(250));
        loop {
            tokio::select! {
                () = storm.written() => return terminations,
                _ = tick.tick() => {
                    let killed = client
                        .query(
                            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'herald feed'",
                            &[],
                        )
                        .await
                        .unwrap();
                    terminations += killed.len();
                }
            }
        }
    })
    .await;
    assert!(
        terminations > 2,
        "the feed's backend was ended {terminations} times only"
    );
    storm.everything_arrived_once().await;
    storm.end().await;
    assert!(gateway.metric("feed_reconnects_total") >= 2.0);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_while_postgres_restarts_quickly_and_at_once() {
    let mut storm = Storm::new().await;
    let gateway = Gateway::start(&storm.url).await;
    storm.connect_to([gateway.address()]);
    storm.follow().await;
    storm.write(100);
    for how in [Stop::Fast, Stop::Immediate, Stop::Immediate] {
        wait_until("something more was read", {
            let before = gateway.metric("batches_total");
            let gateway = &gateway;
            move || gateway.metric("batches_total") > before + 5.0
        })
        .await;
        storm.cluster.stop(how).await.unwrap();
        storm.cluster.start_again().await.unwrap();
    }
    storm.written().await;
    storm.everything_arrived_once().await;
    storm.end().await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_stays_open_holds_nothing_up_and_arrives_at_its_end() {
    let mut storm = Storm::new().await;
    let gateway = Gateway::start(&storm.url).await;
    storm.connect_to([gateway.address()]);
    storm.follow().await;
    let [first, second, ..] = storm.people;
    let url = storm.url.clone();
    with_client(&url, async |client| {
        client
            .batch_execute(&format!(
                "begin; insert into public.messages (sender_id, receiver_id, content) values ('{first}', '{second}', 'early')"
            ))
            .await
            .unwrap();
        storm.write(40);
        storm.written().await;
        let seen = || storm.followers[0].notebook.lock().unwrap().seen.len();
        wait_until("others' messages arrive meanwhile", || seen() > 5).await;
        client.batch_execute("commit").await.unwrap();
    })
    .await;
    storm.everything_arrived_once().await;
    storm.end().await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_move_between_two_gateways_of_which_one_lags() {
    let mut storm = Storm::new().await;
    let (quick, slow) = (
        Gateway::start(&storm.url).await,
        Gateway::start_with(lagging(&storm.url)).await,
    );
    storm.connect_to([quick.address(), slow.address()]);
    storm.follow().await;
    storm.write(60);
    let terminations = with_client(&storm.url, async |client| {
        let mut tick = tokio::time::interval(Duration::from_millis(300));
        loop {
            tokio::select! {
                () = storm.written() => return,
                _ = tick.tick() => {
                    // The newest feed is the lagging one's, which takes its time to come back.
                    client
                        .query(
                            "select pg_terminate_backend(pid) from pg_stat_activity \
                             where application_name = 'herald feed' order by backend_start desc limit 1",
                            &[],
                        )
                        .await
                        .unwrap();
                }
            }
        }
    });
    terminations.await;
    storm.everything_arrived_once().await;
    storm.end().await;
    quick.stop().await;
    slow.stop().await;
}

/// A gateway that takes its time before it connects again, so that cursors from the other one are ahead of it.
fn lagging(url: &str) -> herald::app::AppConfig {
    let mut config = config(url);
    config.feed.backoff_base = Duration::from_millis(500);
    config.feed.backoff_cap = Duration::from_millis(500);
    config
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_number_that_is_given_out_again_after_a_crash_is_not_taken_for_seen() {
    let storm = Storm::new().await;
    let [first, second, ..] = storm.people;
    // The feed looks often by itself: a ring would be a commit, which takes everything before it to the disk.
    let mut settings = config(&storm.url);
    settings.feed.idle_tick = Duration::from_millis(50);
    let gateway = Gateway::start_with(settings).await;
    let user = token(UserId(second));
    let insert = |content: &str| {
        format!(
            "insert into public.messages (sender_id, receiver_id, content) values ('{first}', '{second}', '{content}')"
        )
    };
    // Rolled back transactions leave records that nobody waits for; the cursor has seen their numbers.
    let numbers_used = with_client(&storm.url, async |client| {
        client.batch_execute(&insert("before")).await.unwrap();
        for _ in 0..20 {
            client
                .batch_execute("begin; select pg_current_xact_id(); rollback")
                .await
                .unwrap();
        }
        next_number(client).await
    })
    .await;
    let seen_up_to = || gateway.app.hub().position.newest().unwrap().snapshot.xmax();
    wait_until("the feed has seen the numbers", || seen_up_to() >= numbers_used).await;
    let (socket, ready) = Socket::connect(gateway.address(), &user, None).await;
    let cursor = ready["cursor"].as_str().unwrap().to_owned();
    drop(socket);
    storm.cluster.stop(Stop::Immediate).await.unwrap();
    storm.cluster.start_again().await.unwrap();
    let number = with_client(&storm.url, async |client| {
        let number = next_number(client).await;
        for count in 0..20 {
            client
                .batch_execute(&insert(&format!("after {count}")))
                .await
                .unwrap();
        }
        number
    })
    .await;
    let (mut socket, ready) = Socket::connect_patiently(gateway.address(), &user, &cursor).await;
    assert_eq!(ready["resumed"], true, "{ready}");
    let (events, _) = socket.events(20).await;
    let contents: Vec<_> = events
        .iter()
        .map(|event| event["message"]["content"].as_str().unwrap())
        .collect();
    assert_eq!(
        contents,
        (0..20).map(|count| format!("after {count}")).collect::<Vec<_>>()
    );
    assert!(
        number < numbers_used,
        "no number was given out again ({number} after {numbers_used}), so nothing was tested"
    );
    gateway.stop().await;
}

/// The number of the next transaction.
async fn next_number(client: &Client) -> u64 {
    let row = client
        .query_one("select pg_snapshot_xmax(pg_current_snapshot())::text", &[])
        .await
        .unwrap();
    row.get::<_, &str>(0).parse().unwrap()
}
