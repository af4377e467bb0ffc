//! Channels that come and go at the wrong moments: while another is being given its place, and while the database refuses.

use std::time::Duration;

use futures::{SinkExt, StreamExt};
use herald::types::UserId;
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite::Message};

use crate::support::{database::AT_MOST, gateway::token, scene::Scene, wait_until};

/// A client that says exactly what it is told to.
struct Raw {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    user: UserId,
}

impl Raw {
    async fn connect(scene: &Scene<2>, user: UserId) -> Self {
        let address = scene.gateway.address();
        let url = format!("ws://{address}/realtime/v1/websocket?apikey=sb_publishable_test&vsn=2.0.0");
        let (socket, _response) = connect_async(url).await.unwrap();
        Self { socket, user }
    }

    /// Asks to hear new messages on a topic.
    async fn join(&mut self, reference: u32, topic: &str) {
        let binding = json!({"event": "INSERT", "schema": "public", "table": "messages"});
        self.join_with(reference, topic, &[binding]).await;
    }

    async fn join_with(&mut self, reference: u32, topic: &str, bindings: &[Value]) {
        let reference = reference.to_string();
        let payload = json!({
            "config": {"postgres_changes": bindings},
            "access_token": token(self.user),
        });
        let message = json!([reference, reference, topic, "phx_join", payload]);
        self.socket
            .send(Message::text(message.to_string()))
            .await
            .unwrap();
    }

    async fn next(&mut self) -> Value {
        loop {
            let message = timeout(AT_MOST, self.socket.next())
                .await
                .unwrap()
                .unwrap()
                .unwrap();
            if let Message::Text(text) = message {
                return serde_json::from_str(&text).unwrap();
            }
        }
    }

    /// Reads up to a message of this topic and event.
    async fn until(&mut self, topic: &str, event: &str) -> Value {
        loop {
            let message = self.next().await;
            if message[2] == topic && message[3] == event {
                return message[4].clone();
            }
        }
    }

    /// Reads up to the moment from which on a topic's changes are told.
    async fn live(&mut self, topic: &str) {
        while self.until(topic, "system").await["message"] != "Subscribed to PostgreSQL" {}
    }

    /// What the next change on a topic says.
    async fn change(&mut self, topic: &str) -> Value {
        self.until(topic, "postgres_changes").await["data"]["record"]["content"].clone()
    }
}

const ONE: &str = "realtime:one";
const OTHER: &str = "realtime:other";

/// Nothing can be asked about where channels stood until the transaction has ended.
const LOCK: &str = "begin; lock table herald.channel in access exclusive mode";

#[tokio::test]
async fn a_channel_that_has_to_wait_for_its_place_misses_nothing_meanwhile() {
    let scene = Scene::<2>::new().await;
    let [alice, bob] = scene.people;
    let lock = scene.database.connect().await;
    lock.batch_execute(LOCK).await.unwrap();
    let mut client = Raw::connect(&scene, bob).await;
    client.join(1, ONE).await;
    assert_eq!(client.until(ONE, "phx_reply").await["status"], "ok");
    // The place of the first one is being looked for.
    client.join(2, OTHER).await;
    assert_eq!(client.until(OTHER, "phx_reply").await["status"], "ok");
    scene.write(alice, bob, "meanwhile").await;
    scene.caught_up().await;
    lock.batch_execute("rollback").await.unwrap();
    for topic in [ONE, OTHER] {
        assert_eq!(client.change(topic).await, "meanwhile");
    }
    scene.write(alice, bob, "after").await;
    for topic in [ONE, OTHER] {
        assert_eq!(client.change(topic).await, "after");
    }
}

#[tokio::test]
async fn a_channel_whose_connection_breaks_while_it_waits_for_its_place_is_told_what_came_meanwhile() {
    let scene = Scene::<2>::new().await;
    let [alice, bob] = scene.people;
    let lock = scene.database.connect().await;
    lock.batch_execute(LOCK).await.unwrap();
    let mut client = Raw::connect(&scene, bob).await;
    for (reference, topic) in [(1, ONE), (2, OTHER)] {
        client.join(reference, topic).await;
        assert_eq!(client.until(topic, "phx_reply").await["status"], "ok");
    }
    drop(client);
    wait_until("the session has left", || scene.gateway.metric("users") == 0.0).await;
    scene.write(alice, bob, "meanwhile").await;
    scene.caught_up().await;
    lock.batch_execute("rollback").await.unwrap();
    wait_until("both channels are parked", || {
        scene.gateway.metric("parked_total") == 2.0
    })
    .await;
    let mut client = Raw::connect(&scene, bob).await;
    for (reference, topic) in [(3, ONE), (4, OTHER)] {
        client.join(reference, topic).await;
        assert_eq!(client.change(topic).await, "meanwhile");
    }
}

#[tokio::test]
async fn what_could_not_be_replayed_is_replayed_to_the_next_join_of_the_same_connection() {
    let scene = Scene::<2>::new().await;
    let [alice, bob] = scene.people;
    let mut client = Raw::connect(&scene, bob).await;
    client.join(1, ONE).await;
    client.live(ONE).await;
    scene.write(alice, bob, "before").await;
    assert_eq!(client.change(ONE).await, "before");
    drop(client);
    wait_until("the channel is parked", || {
        scene.gateway.metric("parked_total") == 1.0
    })
    .await;
    scene.write(alice, bob, "meanwhile").await;
    scene.caught_up().await;

    // Where the channel stood can be asked, and what it missed cannot.
    scene
        .execute("alter function herald.epoch() rename to epoch_away")
        .await;
    let mut client = Raw::connect(&scene, bob).await;
    client.join(2, ONE).await;
    client.until(ONE, "phx_error").await;
    scene
        .execute("alter function herald.epoch_away() rename to epoch")
        .await;
    client.join(3, ONE).await;
    let mut told = client.change(ONE).await;
    if told == "before" {
        // The first connection broke before it was known that this had arrived.
        told = client.change(ONE).await;
    }
    assert_eq!(told, "meanwhile");
    let silent = timeout(Duration::from_millis(50), client.change(ONE)).await;
    assert!(silent.is_err(), "{silent:?}");
}

#[tokio::test]
async fn what_many_channels_wait_for_is_held_once() {
    const TOPICS: u32 = 40;

    // Room for what is written below, and not for it forty times.
    let scene = Scene::<2>::with(|config| config.outbox_bytes = 64 * 1024).await;
    let [alice, bob] = scene.people;
    let lock = scene.database.connect().await;
    lock.batch_execute(LOCK).await.unwrap();
    let mut client = Raw::connect(&scene, bob).await;
    let topic = |number: u32| format!("realtime:{number}");
    for number in 1..=TOPICS {
        client.join(number, &topic(number)).await;
        assert_eq!(client.until(&topic(number), "phx_reply").await["status"], "ok");
    }
    let long = "x".repeat(1000);
    for _ in 0..10 {
        scene.write(alice, bob, &long).await;
    }
    scene.caught_up().await;
    lock.batch_execute("rollback").await.unwrap();
    let mut told = 0;
    while told < 10 * TOPICS {
        told += u32::from(client.next().await[3] == "postgres_changes");
    }
    assert_eq!(scene.gateway.metric("outbox_overflows_total"), 0.0);
}

#[tokio::test]
async fn what_the_channels_of_a_connection_ask_for_is_bounded_together() {
    let scene = Scene::<2>::new().await;
    let [_, bob] = scene.people;
    let mut client = Raw::connect(&scene, bob).await;
    let with =
        |filter: &str| json!({"event": "*", "schema": "public", "table": "messages", "filter": filter});
    for (number, (filter, count, allowed)) in (1..).zip([
        ("content=match.a", 4, 2),
        ("content=like.%a%", 28, 2),
        ("content=eq.a", 100, 9),
    ]) {
        let bindings = vec![with(filter); count];
        let mut references = (number * 100..).zip(0..=allowed);
        let mut refused = 0;
        for (reference, channel) in &mut references {
            let topic = format!("realtime:{number}-{channel}");
            client.join_with(reference, &topic, &bindings).await;
            let reply = client.until(&topic, "phx_reply").await;
            if reply["status"] == "error" {
                assert_eq!(channel, allowed, "{reply}");
                let reason = reply["response"]["reason"].as_str().unwrap();
                assert!(reason.starts_with("ChannelRateLimitReached"), "{reason}");
                refused += 1;
            }
        }
        assert_eq!(refused, 1, "{filter}");
    }
}
