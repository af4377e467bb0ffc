//! Broadcast and presence, on a topic that is named after the two people who may use it.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use super::{Client, Package, Scene, client_of, stage, with_every_version};
use crate::support::supabase::{Channel, Driver, NEWEST, OLDEST};

with_every_version! {
    a_broadcast_reaches_the_other_one
    a_broadcast_is_acknowledged_and_comes_back_if_asked_for
    presence_is_tracked_and_untracked
    presence_ends_with_the_connection
    a_broadcast_over_http_reaches_who_has_joined
}

/// Two clients of the first two people, and the topic of both.
async fn pair(scene: &Scene<2>, driver: &Driver, packages: [Package; 2]) -> ([Client; 2], String) {
    let [alice, bob] = scene.people;
    let address = scene.gateway.address();
    let clients = [
        client_of(driver, packages[0], address, alice).await,
        client_of(driver, packages[1], address, bob).await,
    ];
    (clients, format!("typing:{alice}:{bob}"))
}

/// Joins both to their topic.
async fn joined(clients: &[Client; 2], topic: &str, subscriptions: [&Value; 2]) -> [Channel; 2] {
    let mut alices = clients[0].subscribe(topic, subscriptions[0]).await;
    let mut bobs = clients[1].subscribe(topic, subscriptions[1]).await;
    alices.subscribed().await;
    bobs.subscribed().await;
    [alices, bobs]
}

async fn a_broadcast_reaches_the_other_one(package: Package) {
    let (scene, driver) = stage::<2>().await;
    let (clients, topic) = pair(&scene, &driver, [package; 2]).await;
    let subscription = json!({"broadcasts": ["*"]});
    let [alices, mut bobs] = joined(&clients, &topic, [&subscription; 2]).await;

    let payload = json!({"is_typing": true, "words": ["é", null, 1.5]});
    assert_eq!(alices.send("typing", &payload).await, "ok");
    let heard = bobs.next("broadcast").await;
    assert_eq!((&heard["of"], &heard["payload"]), (&json!("typing"), &payload));
    if package.sends_bytes() {
        let bytes = [0, 1, 2, 255, 254, 10, 0];
        assert_eq!(alices.send_bytes("drawing", &bytes).await, "ok");
        let heard = bobs.next("broadcast").await;
        assert_eq!(heard["of"], "drawing");
        assert_eq!(heard["bytes"], BASE64_STANDARD.encode(bytes));
    }
    bobs.send("done", &json!({})).await;
    let mut alices = alices;
    assert_eq!(alices.next("broadcast").await["of"], "done");
    // Nobody hears what it said itself unless it asked for that.
    assert_eq!(alices.count("broadcast"), 1);
    driver.nothing_uncaught().await;
}

async fn a_broadcast_is_acknowledged_and_comes_back_if_asked_for(package: Package) {
    let (scene, driver) = stage::<2>().await;
    let (clients, topic) = pair(&scene, &driver, [package; 2]).await;
    let alices = json!({"config": {"broadcast": {"ack": true, "self": true}}, "broadcasts": ["*"]});
    let bobs = json!({"config": {"broadcast": {"ack": true}}, "broadcasts": ["typing"]});
    let [mut alices, mut bobs] = joined(&clients, &topic, [&alices, &bobs]).await;
    for number in 0..3 {
        assert_eq!(alices.send("typing", &json!({"number": number})).await, "ok");
    }
    // Bob does not listen for this one.
    assert_eq!(alices.send("other", &json!({})).await, "ok");
    for number in 0..3 {
        assert_eq!(alices.next("broadcast").await["payload"]["number"], number);
        assert_eq!(bobs.next("broadcast").await["payload"]["number"], number);
    }
    assert_eq!(alices.next("broadcast").await["of"], "other");
    assert_eq!(bobs.send("typing", &json!({})).await, "ok");
    alices.next("broadcast").await;
    assert_eq!(bobs.count("broadcast"), 3);
    driver.nothing_uncaught().await;
}

/// The two serialisations meet on one topic.
#[tokio::test]
async fn a_broadcast_goes_from_one_version_to_another() {
    let (scene, driver) = stage::<2>().await;
    let packages = [Package::realtime(NEWEST), Package::supabase(OLDEST)];
    let (clients, topic) = pair(&scene, &driver, packages).await;
    let subscription = json!({"broadcasts": ["*"], "presence": true});
    let [mut newer, mut older] = joined(&clients, &topic, [&subscription; 2]).await;
    newer.send("hello", &json!({"from": "the new one"})).await;
    let heard = older.next("broadcast").await;
    assert_eq!(
        (&heard["of"], &heard["payload"]["from"]),
        (&json!("hello"), &json!("the new one"))
    );
    older.send("hello", &json!({"from": "the old one"})).await;
    let heard = newer.next("broadcast").await;
    assert_eq!(
        (&heard["of"], &heard["payload"]["from"]),
        (&json!("hello"), &json!("the old one"))
    );
    driver.nothing_uncaught().await;
}

/// A subscription that hears of presence, under a key of one's own.
fn present(key: &str) -> Value {
    json!({"config": {"presence": {"key": key}}, "presence": true})
}

/// Waits until a channel hears that somebody came or went.
async fn heard_of(channel: &mut Channel, kind: &str, key: &str) -> Value {
    channel
        .next_where("presence", |event| {
            event["kind"] == kind && event["payload"]["key"] == key
        })
        .await["payload"]
        .take()
}

async fn presence_is_tracked_and_untracked(package: Package) {
    let (scene, driver) = stage::<2>().await;
    let (clients, topic) = pair(&scene, &driver, [package; 2]).await;
    let [mut alices, mut bobs] = joined(&clients, &topic, [&present("alice"), &present("bob")]).await;
    // The state is told with the join even if nobody is here.
    alices
        .next_where("presence", |event| event["kind"] == "sync")
        .await;

    assert_eq!(alices.track(&json!({"status": "online"})).await, "ok");
    let join = heard_of(&mut bobs, "join", "alice").await;
    assert_eq!(join["newPresences"][0]["status"], "online", "{join}");
    assert_eq!(bobs.presence_state().await["alice"][0]["status"], "online");
    // Whoever tracks is told as well.
    heard_of(&mut alices, "join", "alice").await;

    assert_eq!(bobs.track(&json!({"status": "away"})).await, "ok");
    heard_of(&mut alices, "join", "bob").await;
    let state = alices.presence_state().await;
    assert_eq!(state["alice"][0]["status"], "online", "{state}");
    assert_eq!(state["bob"][0]["status"], "away", "{state}");

    assert_eq!(alices.untrack().await, "ok");
    let leave = heard_of(&mut bobs, "leave", "alice").await;
    assert_eq!(leave["leftPresences"][0]["status"], "online", "{leave}");
    let state = bobs.presence_state().await;
    assert!(
        state.get("alice").is_none() && state["bob"][0]["status"] == "away",
        "{state}"
    );
    driver.nothing_uncaught().await;
}

async fn presence_ends_with_the_connection(package: Package) {
    let (scene, driver) = stage::<2>().await;
    let ([alice, bob], topic) = pair(&scene, &driver, [package; 2]).await;
    let mut bobs = bob.subscribe(&topic, &present("bob")).await;
    bobs.subscribed().await;
    let mut alices = alice.subscribe(&topic, &present("alice")).await;
    alices.subscribed().await;
    alices.track(&json!({"device": 1})).await;
    heard_of(&mut bobs, "join", "alice").await;
    alice.close().await;
    heard_of(&mut bobs, "leave", "alice").await;
    assert_eq!(bobs.presence_state().await, json!({}));

    // Who joins later is told who is here.
    bobs.track(&json!({"device": 2})).await;
    heard_of(&mut bobs, "join", "bob").await;
    let alice = client_of(&driver, package, scene.gateway.address(), scene.people[0]).await;
    let mut alices = alice.subscribe(&topic, &present("alice")).await;
    alices.subscribed().await;
    alices
        .next_where("presence", |event| {
            event["kind"] == "sync" && event["state"]["bob"][0]["device"] == 2
        })
        .await;
    driver.nothing_uncaught().await;
}

async fn a_broadcast_over_http_reaches_who_has_joined(package: Package) {
    let (scene, driver) = stage::<2>().await;
    let (clients, topic) = pair(&scene, &driver, [package; 2]).await;
    let subscription = json!({"broadcasts": ["*"]});
    let mut bobs = clients[1].subscribe(&topic, &subscription).await;
    bobs.subscribed().await;
    // Alice's channel is never joined.
    let alices = clients[0].channel(&topic);
    let sent = alices.http_send("typing", &json!({"by": "http"})).await;
    assert_eq!(sent, Ok(json!({"success": true})));
    let heard = bobs.next("broadcast").await;
    assert_eq!(
        (&heard["of"], &heard["payload"]),
        (&json!("typing"), &json!({"by": "http"}))
    );
    driver.nothing_uncaught().await;
}
