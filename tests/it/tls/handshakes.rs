//! Handshakes that do not go on, are too many, or fail.

use std::time::Duration;

use futures::future::join_all;
use herald::edge::HandshakeLimits;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};

use super::{Client, EVER, NO_DATABASE, Stage};
use crate::support::{
    authority::Authority,
    database::AT_MOST,
    gateway::{self, Gateway},
    wait_until,
};

/// The beginning of a record that never comes to its end.
const BEGINNING: [u8; 6] = [22, 3, 1, 2, 0, 1];

async fn gateway(stage: &Stage, limits: HandshakeLimits) -> Gateway {
    let mut config = gateway::config(NO_DATABASE);
    config.tls = Some(stage.settings());
    config.handshakes = limits;
    Gateway::start_on("127.0.0.1:0".parse().unwrap(), config).await
}

fn failures(gateway: &Gateway, reason: &str) -> f64 {
    gateway.metric(&format!("tls_handshake_failures_total{{reason=\"{reason}\"}}"))
}

fn given_up(gateway: &Gateway, reason: &str) -> f64 {
    gateway.metric(&format!("handshakes_given_up_total{{reason=\"{reason}\"}}"))
}

async fn stalled(gateway: &Gateway) -> TcpStream {
    let mut stream = TcpStream::connect(gateway.address()).await.unwrap();
    stream.write_all(&BEGINNING).await.unwrap();
    stream
}

/// Waits until the gateway has closed.
async fn closed(mut stream: TcpStream) {
    let mut rest = Vec::new();
    // A reset is an end, too.
    let _ended = timeout(AT_MOST, stream.read_to_end(&mut rest))
        .await
        .expect("the connection stays open");
}

#[tokio::test]
async fn slow_handshakes_delay_nobody() {
    let stage = Stage::new();
    let limits = HandshakeLimits {
        deadline: EVER,
        ..HandshakeLimits::default()
    };
    let gateway = gateway(&stage, limits).await;
    let slow = join_all((0..200).map(|_| stalled(&gateway))).await;
    let silent = join_all((0..200).map(|_| TcpStream::connect(gateway.address()))).await;
    wait_until("all are there", || gateway.metric("connections") == 400.0).await;
    let client = stage.client();
    for _ in 0..20 {
        assert_eq!(client.fetch(gateway.address(), "/healthz").await.status, 200);
    }
    wait_until("only the slow are left", || {
        gateway.metric("connections") == 400.0
    })
    .await;
    // A shutdown does not wait for them.
    gateway.stop().await;
    for stream in slow.into_iter().chain(silent.into_iter().map(Result::unwrap)) {
        closed(stream).await;
    }
}

#[tokio::test]
async fn a_handshake_that_is_not_done_in_time_is_given_up() {
    let stage = Stage::new();
    let limits = HandshakeLimits {
        deadline: Duration::from_millis(300),
        ..HandshakeLimits::default()
    };
    let gateway = gateway(&stage, limits).await;
    let began = Instant::now();
    let slow = stalled(&gateway).await;
    let silent = TcpStream::connect(gateway.address()).await.unwrap();
    closed(slow).await;
    closed(silent).await;
    assert!(began.elapsed() >= limits.deadline);
    assert_eq!(given_up(&gateway, "deadline"), 2.0);
    // It bounds the handshake alone.
    let mut lasting = stage.client().connect(gateway.address()).await;
    let began = Instant::now();
    while began.elapsed() < 2 * limits.deadline {
        assert_eq!(super::fetch_on(&mut lasting, "/healthz").await.status, 200);
    }
    gateway.stop().await;
}

#[tokio::test]
async fn handshakes_that_do_not_go_on_make_room_when_there_are_too_many() {
    let stage = Stage::new();
    let limits = HandshakeLimits {
        deadline: EVER,
        fair_time: Duration::from_millis(200),
        at_once: 4,
    };
    let gateway = gateway(&stage, limits).await;
    let mut slow = Vec::new();
    for _ in 0..4 {
        slow.push(stalled(&gateway).await);
    }
    wait_until("all are there", || gateway.metric("connections") == 4.0).await;
    // Each of those who come now needs a place, and all get one although none becomes free by itself.
    let client = stage.client();
    let answers = join_all((0..20).map(|_| client.fetch(gateway.address(), "/healthz"))).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    let crowded = given_up(&gateway, "crowded");
    assert!((1.0..=4.0).contains(&crowded), "{crowded}");
    // Where nobody waits, nobody has to go: the deadline is far away.
    let left = || gateway.metric("connections");
    wait_until("only the slow are left", || left() == 4.0 - crowded).await;
    gateway.stop().await;
}

#[tokio::test]
async fn what_goes_wrong_is_counted_by_its_reason_and_silence_is_not() {
    let stage = Stage::new();
    let gateway = gateway(&stage, HandshakeLimits::default()).await;
    drop(TcpStream::connect(gateway.address()).await.unwrap());
    drop(stalled(&gateway).await);
    let mut noise = TcpStream::connect(gateway.address()).await.unwrap();
    noise.write_all(&[0; 64]).await.unwrap();
    closed(noise).await;
    let stranger = Client::new(&Authority::new("a foreign authority"), rustls::ALL_VERSIONS);
    let refused = stranger
        .try_connect(gateway.address())
        .await
        .map(drop)
        .unwrap_err();
    assert!(refused.to_string().contains("UnknownIssuer"), "{refused}");
    for reason in ["left", "malformed", "certificate_refused"] {
        wait_until(reason, || failures(&gateway, reason) == 1.0).await;
    }
    wait_until("all are gone", || gateway.metric("connections") == 0.0).await;
    let page = gateway.app.metrics().render().unwrap();
    let counted: Vec<_> = page
        .lines()
        .filter(|line| line.starts_with("herald_tls_handshake_failures_total"))
        .collect();
    assert_eq!(counted.len(), 3, "{counted:?}");
    gateway.stop().await;
}
