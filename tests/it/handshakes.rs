//! Peers that connect and do not say what they want, or say it a byte at a time.

use std::{net::SocketAddr, time::Duration};

use futures::future::join_all;
use herald::edge::HandshakeLimits;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};

use crate::support::{
    database::AT_MOST,
    http,
    scene::{Scene, content},
    wait_until,
};

/// Longer than any test.
const EVER: Duration = Duration::from_secs(3600);

/// A connection whose request does not come to its end.
async fn stalled(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: herald.test\r\nX-")
        .await
        .unwrap();
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

fn given_up(scene: &Scene<1>, reason: &str) -> f64 {
    scene
        .gateway
        .metric(&format!("handshakes_given_up_total{{reason=\"{reason}\"}}"))
}

#[tokio::test]
async fn requests_that_do_not_come_to_their_end_make_room_for_others() {
    let limits = HandshakeLimits {
        deadline: EVER,
        fair_time: Duration::from_millis(200),
        at_once: 4,
    };
    let scene = Scene::<1>::with(|config| config.handshakes = limits).await;
    let [alice] = scene.people;
    let address = scene.gateway.address();
    let (mut socket, _) = scene.connect(alice).await;
    let slow = join_all((0..4).map(|_| stalled(address))).await;
    // Who has said nothing takes no place.
    let silent = join_all((0..20).map(|_| TcpStream::connect(address))).await;
    wait_until("all have begun", || scene.gateway.metric("handshakes") == 4.0).await;
    let answers = join_all((0..20).map(|_| http::fetch(address, "/healthz"))).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    let crowded = given_up(&scene, "crowded");
    assert!((1.0..=4.0).contains(&crowded), "{crowded}");
    assert_eq!(given_up(&scene, "deadline"), 0.0);
    // Where nobody waits, nobody has to go.
    wait_until("only the slow are left", || {
        scene.gateway.metric("handshakes") == 4.0 - crowded
    })
    .await;
    scene.write(alice, alice, "undisturbed").await;
    assert_eq!(content(&socket.events(1).await.0[0]), "undisturbed");
    drop((slow, silent));
    wait_until("they have left", || scene.gateway.metric("handshakes") == 0.0).await;
    scene.gateway.stop().await;
}

#[tokio::test]
async fn who_does_not_say_in_time_what_it_wants_is_given_up_and_who_has_said_it_is_not() {
    let limits = HandshakeLimits {
        deadline: Duration::from_millis(300),
        ..HandshakeLimits::default()
    };
    let scene = Scene::<1>::with(|config| config.handshakes = limits).await;
    let [alice] = scene.people;
    let address = scene.gateway.address();
    let (mut socket, _) = scene.connect(alice).await;
    let began = Instant::now();
    let slow = stalled(address).await;
    let silent = TcpStream::connect(address).await.unwrap();
    // A byte now and then is no progress.
    let mut dripping = stalled(address).await;
    let drip = async {
        while dripping.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(AT_MOST, drip).await.expect("the connection stays open");
    closed(slow).await;
    closed(silent).await;
    assert!(began.elapsed() >= limits.deadline);
    assert_eq!(given_up(&scene, "deadline"), 3.0);
    scene.write(alice, alice, "still here").await;
    assert_eq!(content(&socket.events(1).await.0[0]), "still here");
    scene.gateway.stop().await;
}
