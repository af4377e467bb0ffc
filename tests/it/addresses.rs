//! How much one address may have open, and who is believed about addresses.

use std::{net::SocketAddr, time::Duration};

use futures::future::join_all;
use herald::{
    edge::{AddressConfig, ForwardedHeader},
    types::UserId,
};
use tokio::{net::TcpStream, time::Instant};

use crate::{
    processes::until,
    support::{
        event_source::EventSource,
        gateway::token,
        http,
        phoenix::Door,
        scene::{Scene, content},
        socket::{Socket, request},
    },
};

/// Documentation addresses (RFC 5737).
const HERS: &str = "203.0.113.9";
const HIS: &str = "198.51.100.7";

fn each_may_have(count: usize) -> AddressConfig {
    AddressConfig {
        connections_max: count,
        ..AddressConfig::within(100)
    }
}

/// A session whose request came through a proxy that tells this.
async fn through_proxy(
    address: SocketAddr,
    user: UserId,
    header: &'static str,
    told: &str,
) -> Option<Socket> {
    let mut request = request(address, &token(user), None);
    request.headers_mut().insert(header, told.parse().unwrap());
    let mut socket = Socket::open_by(request).await.ok()?;
    assert_eq!(socket.frame().await["type"], "ready");
    Some(socket)
}

fn refused(scene: &Scene<1>) -> f64 {
    scene
        .gateway
        .metric("sessions_refused_total{reason=\"too_many_connections_of_address\"}")
}

#[tokio::test]
async fn an_address_has_so_many_connections_and_another_when_one_has_left() {
    let scene = Scene::<1>::with(|config| {
        config.addresses = each_may_have(2);
        config.addresses.trusted_proxies = "none".parse().unwrap();
    })
    .await;
    let [alice] = scene.people;
    let address = scene.gateway.address();
    let (first, _) = scene.connect(alice).await;
    let (mut second, _) = scene.connect(alice).await;
    // What an unknown peer says about addresses is not asked.
    let elsewhere = [("X-Forwarded-For", HIS)];
    for headers in [&[][..], &elsewhere] {
        let answer = http::ask_for_socket(address, "", headers).await;
        assert!(answer.problem(429).contains("from this address"), "{answer:?}");
        assert_eq!(answer.header("retry-after"), Some("1"), "{answer:?}");
        assert_eq!(answer.header("connection"), Some("close"), "{answer:?}");
    }
    assert_eq!(refused(&scene), 2.0);
    scene.write(alice, alice, "undisturbed").await;
    assert_eq!(content(&second.events(1).await.0[0]), "undisturbed");
    first.close().await;
    until("a place to be free", async || {
        http::fetch(address, "/healthz").await.status == 200
    })
    .await;
    scene.gateway.stop().await;
}

#[tokio::test]
async fn behind_a_proxy_each_client_has_its_places_and_keeps_them_with_its_sessions() {
    const HEADER: &str = "x-forwarded-for";
    let scene = Scene::<1>::with(|config| config.addresses = each_may_have(3)).await;
    let [alice] = scene.people;
    let address = scene.gateway.address();
    let socket = through_proxy(address, alice, HEADER, HERS).await.unwrap();
    let phoenix = Door::new(address).header("X-Forwarded-For", HERS).open().await;
    let bearer = format!("Bearer {}", token(alice));
    let headers = [("Authorization", bearer.as_str()), ("X-Forwarded-For", HERS)];
    let stream = TcpStream::connect(address).await.unwrap();
    let events = EventSource::open_on(stream, "/v1/events", &headers)
        .await
        .unwrap();

    // Whatever the client writes before what the proxy adds, and whatever is asked for.
    for told in [HERS, "198.51.100.7, 203.0.113.9", "127.0.0.1,203.0.113.9:4711"] {
        let answer = http::ask_for_socket(address, "", &[("X-Forwarded-For", told)]).await;
        assert!(answer.problem(429).contains("from this address"), "{answer:?}");
        let answer = http::ask(address, "GET", "/healthz", &[("X-Forwarded-For", told)]).await;
        answer.problem(429);
    }
    assert_eq!(refused(&scene), 6.0);

    // Somebody else, and the proxy itself, more often than one address may.
    let mut others = Vec::new();
    for told in [
        HIS,
        HIS,
        HIS,
        "127.0.0.1",
        "127.0.0.1",
        "127.0.0.1",
        "unknown",
        "unknown",
    ] {
        others.push(through_proxy(address, alice, HEADER, told).await.unwrap());
    }
    assert!(through_proxy(address, alice, HEADER, HIS).await.is_none());
    assert_eq!(refused(&scene), 7.0);

    // Each kind of session gives its place back.
    socket.close().await;
    phoenix.close().await;
    drop(events);
    let mut again = Vec::new();
    until("all places to be taken again", async || {
        again.extend(through_proxy(address, alice, HEADER, HERS).await);
        again.len() == 3
    })
    .await;
    assert!(through_proxy(address, alice, HEADER, HERS).await.is_none());
    scene.gateway.stop().await;
}

#[tokio::test]
async fn only_the_header_that_the_proxy_writes_is_believed() {
    let scene = Scene::<1>::with(|config| {
        config.addresses = each_may_have(1);
        config.addresses.header = ForwardedHeader::Forwarded;
    })
    .await;
    let [alice] = scene.people;
    let address = scene.gateway.address();
    let told = "for=198.51.100.7, for=\"203.0.113.9:4711\";proto=https";
    let _first = through_proxy(address, alice, "forwarded", told).await.unwrap();
    assert!(
        through_proxy(address, alice, "forwarded", "for=203.0.113.9")
            .await
            .is_none()
    );
    let _other = through_proxy(address, alice, "x-forwarded-for", HERS)
        .await
        .unwrap();
    scene.gateway.stop().await;
}

/// Asks without a token, and is refused.
async fn be_refused(address: SocketAddr, from: &str) {
    let answer = http::ask(address, "GET", "/v1/conversations", &[("X-Forwarded-For", from)]).await;
    answer.problem(401);
}

#[tokio::test]
async fn an_address_that_is_refused_all_the_time_waits_and_its_good_requests_do_not() {
    let scene = Scene::<1>::with(|config| config.addresses.refusals_per_second = 1).await;
    let [alice] = scene.people;
    let address = scene.gateway.address();
    let delayed = || scene.gateway.metric("refusals_delayed_total");
    let began = Instant::now();
    // Two come at once, and the others one a second.
    let refused = join_all((0..6).map(|_| be_refused(address, HERS)));
    let meanwhile = async {
        until("a refusal to be held back", async || delayed() > 0.0).await;
        // Whoever shares the address is served, and so is somebody else who is refused.
        let bearer = format!("Bearer {}", token(alice));
        let headers = [("Authorization", bearer.as_str()), ("X-Forwarded-For", HERS)];
        let answer = http::ask(address, "GET", "/v1/conversations", &headers).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        through_proxy(address, alice, "x-forwarded-for", HERS)
            .await
            .unwrap();
        let before = delayed();
        be_refused(address, HIS).await;
        assert_eq!(delayed(), before);
    };
    tokio::join!(refused, meanwhile);
    assert!(
        began.elapsed() > Duration::from_millis(3_900),
        "{:?}",
        began.elapsed()
    );
    scene.gateway.stop().await;
}
