//! Who is let in, and how it is told who is not.

use std::time::Duration;

use herald::{app::AppConfig, edge::AllowedOrigins};
use serde_json::json;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::{Door, INBOX, inbox, inbox_of};
use crate::support::{
    gateway::token,
    phoenix::Version,
    scene::Scene,
    supabase::{PUBLISHABLE_KEY, anon_key, signed},
    wait_until,
};

const PATHS: [&str; 2] = ["/realtime/v1/websocket", "/socket/websocket"];

#[tokio::test]
async fn every_kind_of_key_opens_both_paths_and_a_token_in_a_join_says_who_it_is() {
    let scene = Scene::<2>::new().await;
    let [alice, bob] = scene.people;
    let keys = [
        anon_key(),
        signed(&json!({"role": "anon"})),
        PUBLISHABLE_KEY.to_owned(),
        token(bob),
        // A page keeps its key for ever, and brings a newer token with its joins.
        signed(&json!({"sub": bob.to_string(), "role": "authenticated", "exp": 1_000_000_000})),
    ];
    let mut clients = Vec::new();
    for path in PATHS {
        for version in Version::BOTH {
            let door = Door::new(scene.gateway.address()).path(path).version(version);
            for key in &keys {
                clients.push(inbox(&door.clone().key(key), bob).await);
            }
            let in_a_header = door.parameter("apikey", None).header("x-api-key", &keys[0]);
            clients.push(inbox(&in_a_header, bob).await);
        }
    }
    scene.write(alice, bob, "hello").await;
    for client in &mut clients {
        assert_eq!(client.contents(INBOX, 1).await, ["hello"]);
    }
}

#[tokio::test]
async fn without_a_version_objects_are_spoken() {
    let scene = Scene::<2>::new().await;
    let [_, bob] = scene.people;
    let door = Door::new(scene.gateway.address());
    let mut client = inbox(&door.version(Version::Objects).parameter("vsn", None), bob).await;
    client.settled().await;
}

/// As pages have them in their settings, without any meaning here.
#[tokio::test]
async fn parameters_that_nobody_knows_are_passed_over() {
    let scene = Scene::<1>::new().await;
    let [bob] = scene.people;
    let door = Door::new(scene.gateway.address())
        .parameter("eventsPerSecond", Some("10"))
        .parameter("log_level", Some("info"));
    inbox(&door, bob).await.settled().await;
}

#[tokio::test]
async fn whoever_is_not_let_in_is_told_why_as_json() {
    let scene = Scene::<1>::with(|config: &mut AppConfig| {
        config.origins = AllowedOrigins::parse("https://app.example").unwrap();
    })
    .await;
    let door = Door::new(scene.gateway.address());
    let long = "d".repeat(129);
    for (refused, status) in [
        (door.clone().key("a.b.c"), 401),
        (door.clone().key(&(token(scene.people[0]) + "x")), 401),
        (door.clone().parameter("apikey", None), 401),
        (door.clone().key(""), 401),
        (door.clone().parameter("vsn", Some("3.0.0")), 400),
        (door.clone().parameter("vsn", Some("")), 400),
        (door.clone().device(&long), 400),
    ] {
        let error = refused.refused().await.json(status);
        assert!(
            error["error"].as_str().is_some_and(|error| error.len() > 10),
            "{error}"
        );
    }
    let from = |origin| door.clone().header("Origin", origin);
    assert_eq!(from("https://other.example").refused().await.status, 403);
    assert!(from("https://app.example").try_open().await.is_some());
    for name in ["Upgrade", "Sec-WebSocket-Key"] {
        let request = door.request();
        let without: Vec<&str> = request
            .split("\r\n")
            .filter(|line| !line.starts_with(name))
            .collect();
        let mut stream = TcpStream::connect(door.address).await.unwrap();
        stream.write_all(without.join("\r\n").as_bytes()).await.unwrap();
        let status = crate::support::http::read(&mut stream).await.unwrap().status;
        assert!(status == 426 || status == 400, "{status} without {name}");
    }
}

/// Both a session that has a person and one that has none end when the gateway does, and nobody is let in any more.
#[tokio::test]
async fn a_gateway_that_ends_lets_nobody_in_and_closes_sessions_without_a_person_too() {
    let scene = Scene::<1>::new().await;
    let [bob] = scene.people;
    let door = Door::new(scene.gateway.address());
    let mut person = inbox(&door, bob).await;
    let mut silent = door.open().await;
    let mut payload = inbox_of(bob);
    payload.as_object_mut().unwrap().remove("access_token");
    silent.join(INBOX, &payload).await.response("ok");
    let mut nobody = door.open().await;
    nobody.settled().await;
    // It is under way when the shutdown begins.
    let request = door.request();
    let (begin, end) = request.split_at(request.len() - 2);
    let mut late = TcpStream::connect(door.address).await.unwrap();
    late.write_all(begin.as_bytes()).await.unwrap();
    wait_until("the gateway knows all connections", || {
        scene.gateway.metric("connections") >= 4.0
    })
    .await;
    let address = door.address;
    let outside = async {
        crate::processes::until("new connections to be refused", async || {
            TcpStream::connect(address).await.is_err()
        })
        .await;
        late.write_all(end.as_bytes()).await.unwrap();
        let answer = crate::support::http::read(&mut late).await.unwrap();
        assert_eq!(answer.status, 503, "{answer:?}");
        for client in [&mut person, &mut silent, &mut nobody] {
            assert_eq!(client.closed().await.0, 1001);
        }
    };
    let (drained, ()) = tokio::join!(scene.gateway.app.drain(Duration::from_secs(10)), outside);
    drained.unwrap();
}
