//! What dies dies alone and is told of, and a silent database is told from one in which nothing happens.

use std::time::Duration;

use axum::{Router, routing::get};
use tokio::{io::AsyncReadExt, io::AsyncWriteExt, net::TcpStream, time::timeout};

use crate::support::{
    database::AT_MOST,
    scene::{Scene, content},
    wait_until,
};

#[tokio::test]
async fn a_panic_ends_one_connection_and_nobody_elses() {
    let scene = Scene::<2>::with(|config| {
        async fn panics() {
            panic!("on purpose");
        }
        config.further_routes = Router::new().route("/panics", get(panics));
    })
    .await;
    let [alice, bob] = scene.people;
    let (mut session, _) = scene.connect(bob).await;
    for panics in 1..=3_u8 {
        let mut unlucky = TcpStream::connect(scene.gateway.address()).await.unwrap();
        unlucky
            .write_all(b"GET /panics HTTP/1.1\r\nhost: localhost\r\n\r\n")
            .await
            .unwrap();
        let mut answer = Vec::new();
        let read = timeout(AT_MOST, unlucky.read_to_end(&mut answer)).await;
        assert!(read.is_ok(), "the connection did not end");
        assert!(answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
        wait_until("the panic is counted", || {
            scene.gateway.metric("task_panics_total{task=\"connection\"}") >= f64::from(panics)
        })
        .await;
        scene.write(alice, bob, "still here").await;
        let (events, _) = session.events(1).await;
        assert_eq!(content(&events[0]), "still here");
    }
    // The places of those that panicked have been given back; the session's own is left.
    wait_until("one connection is left", || {
        (scene.gateway.metric("connections") - 1.0).abs() < f64::EPSILON
    })
    .await;
    scene.gateway.stop().await;
}

#[tokio::test]
async fn a_database_that_does_not_answer_is_told_from_one_in_which_nothing_happens() {
    let scene = Scene::<2>::with(|config| config.feed.idle_tick = Duration::from_millis(500)).await;
    let silence = || scene.gateway.metric("feed_silence_seconds");
    // Nothing is written, and the feed reads all the same.
    let reads = scene.gateway.metric("feed_reads_total");
    wait_until("the feed has read often", || {
        assert!(silence() < 3.0, "a feed that reads was called silent");
        scene.gateway.metric("feed_reads_total") >= reads + 8.0
    })
    .await;
    scene
        .execute("begin; lock table herald.log in access exclusive mode")
        .await;
    wait_until("the feed is silent", || silence() >= 3.0).await;
    scene.execute("rollback").await;
    wait_until("the silence has ended", || silence() < 1.0).await;
    scene.gateway.stop().await;
}
