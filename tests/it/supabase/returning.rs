//! Clients that lose their connection and come back by themselves: nothing is lost, nothing comes twice.

use herald::types::UserId;
use serde_json::json;

use super::{Package, changes, client_by, inbox, messages_of, stage, with_every_package, with_every_version};
use crate::support::{
    gateway::{Gateway, config, token},
    scene::{Scene, write},
    supabase::{Client, Driver, MIDDLE, NEWEST, OLDEST, Settings},
    wait_until,
    wire::Wire,
};

with_every_package! {
    what_is_written_while_the_socket_is_cut_comes_once_and_in_order
    what_is_written_while_the_gateway_restarts_comes_once_and_in_order
}
with_every_version! {
    heartbeats_are_answered
    a_connection_that_carries_nothing_is_given_up_and_nothing_is_lost
}

/// A client by way of a wire.
async fn client_on(driver: &Driver, package: Package, wire: &Wire, user: UserId) -> Client {
    client_by(driver, package, Settings::new(package, wire.address), user).await
}

/// Waits until the gateway knows that so many events have arrived. A client that is cut off with the proof still on its way is told
/// again what the proof was of: nobody can know whether it has it.
async fn acknowledged(scene: &Scene<2>, events: u32) {
    wait_until("the gateway knows that everything has arrived", || {
        scene.gateway.metric("events_acknowledged_total") == f64::from(events)
    })
    .await;
}

async fn what_is_written_while_the_socket_is_cut_comes_once_and_in_order(package: Package) {
    let (scene, driver) = stage::<2>().await;
    let [alice, bob] = scene.people;
    let wire = Wire::before(scene.gateway.address()).await;
    let client = client_on(&driver, package, &wire, bob).await;
    let mut channel = inbox(&client, bob).await;
    scene.write(alice, bob, "before").await;
    assert_eq!(channel.contents(1).await, ["before"]);
    acknowledged(&scene, 1).await;

    assert_eq!(wire.open(), 1);
    wire.refuse();
    wire.cut();
    client.closed(1).await;
    for content in ["one", "two", "three"] {
        scene.write(alice, bob, content).await;
    }
    wire.allow();
    channel.subscribed_again().await;
    scene.write(alice, bob, "after").await;
    assert_eq!(channel.contents(4).await, ["one", "two", "three", "after"]);
    acknowledged(&scene, 5).await;

    // Again, and this time a message was on its way while nobody knew.
    scene.write(alice, bob, "four").await;
    wire.cut();
    scene.write(alice, bob, "five").await;
    channel.subscribed_again().await;
    scene.write(alice, bob, "six").await;
    let mut told = channel.contents(3).await;
    let mut changes = 8;
    if told[..2] == ["four", "four"] {
        // It had arrived, and the proof of that was cut off.
        told.remove(0);
        told.extend(channel.contents(1).await);
        changes += 1;
    }
    assert_eq!(told, ["four", "five", "six"]);
    assert_eq!(channel.count("change"), changes);
    driver.nothing_uncaught().await;
    drop(driver);
    wire.stop().await;
}

async fn what_is_written_while_the_gateway_restarts_comes_once_and_in_order(package: Package) {
    let (mut scene, driver) = stage::<2>().await;
    let [alice, bob] = scene.people;
    let address = scene.gateway.address();
    let settings = Settings::new(package, address);
    let client = client_by(&driver, package, settings, bob).await;
    let mut channel = inbox(&client, bob).await;
    write(&scene.application, alice, bob, "before").await;
    assert_eq!(channel.contents(1).await, ["before"]);

    scene.gateway.stop().await;
    for content in ["one", "two", "three"] {
        write(&scene.application, alice, bob, content).await;
    }
    scene.gateway = Gateway::start_on(address, config(&scene.database.url())).await;
    write(&scene.application, alice, bob, "four").await;
    channel.subscribed_again().await;
    write(&scene.application, alice, bob, "five").await;
    assert_eq!(channel.contents(5).await, ["one", "two", "three", "four", "five"]);
    assert_eq!(channel.count("change"), 6);
    driver.nothing_uncaught().await;
}

async fn heartbeats_are_answered(package: Package) {
    let (scene, driver) = stage::<2>().await;
    let [alice, bob] = scene.people;
    let settings = Settings::new(package, scene.gateway.address()).option("heartbeatIntervalMs", 50);
    let client = client_by(&driver, package, settings, bob).await;
    let mut channel = inbox(&client, bob).await;
    client.until("heartbeat", 5, |beat| beat["status"] == "ok").await;
    scene.write(alice, bob, "hello").await;
    assert_eq!(channel.contents(1).await, ["hello"]);
    let beats = client.all("heartbeat");
    assert!(
        beats
            .iter()
            .all(|beat| beat["status"] == "ok" || beat["status"] == "sent"),
        "{beats:?}"
    );
    assert_eq!(channel.count("status"), 1);
    driver.nothing_uncaught().await;
}

async fn a_connection_that_carries_nothing_is_given_up_and_nothing_is_lost(package: Package) {
    let (scene, driver) = stage::<2>().await;
    let [alice, bob] = scene.people;
    let wire = Wire::before(scene.gateway.address()).await;
    let settings = Settings::new(package, wire.address).option("heartbeatIntervalMs", 500);
    let client = client_by(&driver, package, settings, bob).await;
    let mut channel = inbox(&client, bob).await;
    wire.stall();
    // As far as the gateway knows it has sent these.
    for content in ["one", "two"] {
        scene.write(alice, bob, content).await;
    }
    client
        .until("heartbeat", 1, |beat| beat["status"] == "timeout")
        .await;
    // A browser gives up waiting for an answer to its close frame, after a longer time than a test has.
    wire.cut();
    channel.subscribed_again().await;
    scene.write(alice, bob, "three").await;
    assert_eq!(channel.contents(3).await, ["one", "two", "three"]);
    assert_eq!(channel.count("change"), 3);
    driver.nothing_uncaught().await;
    drop(driver);
    wire.stop().await;
}

/// A tab in the background whose connection breaks does not connect again before it is looked at, and one that is kept for the back
/// button closes its connection itself. Of the newest version, which is the one that looks at its page.
#[tokio::test]
async fn a_page_that_was_in_the_background_hears_what_it_missed() {
    let scene = Scene::<2>::new().await;
    let driver = Driver::start_with_page();
    let [alice, bob] = scene.people;
    let wire = Wire::before(scene.gateway.address()).await;
    let client = client_on(&driver, Package::supabase(NEWEST), &wire, bob).await;
    let mut channel = inbox(&client, bob).await;

    driver.page("hide").await;
    wire.cut();
    client.closed(1).await;
    scene.write(alice, bob, "in the background").await;
    assert_eq!(
        client
            .all("socket")
            .iter()
            .filter(|event| event["state"] == "connecting")
            .count(),
        1
    );
    driver.page("show").await;
    channel.subscribed_again().await;
    assert_eq!(channel.contents(1).await, ["in the background"]);
    acknowledged(&scene, 1).await;

    driver.page("putAway").await;
    client.closed(2).await;
    scene.write(alice, bob, "put away").await;
    driver.page("takeOut").await;
    channel.subscribed_again().await;
    scene.write(alice, bob, "after").await;
    assert_eq!(channel.contents(2).await, ["put away", "after"]);
    assert_eq!(channel.count("change"), 3);
    driver.nothing_uncaught().await;
    drop(driver);
    wire.stop().await;
}

/// Of the newest version only: the others do not connect again after their last channel was removed.
#[tokio::test]
async fn who_disconnected_itself_hears_again_after_connecting() {
    let package = Package::realtime(NEWEST);
    let (scene, driver) = stage::<2>().await;
    let [alice, bob] = scene.people;
    let settings = Settings::new(package, scene.gateway.address());
    let client = client_by(&driver, package, settings, bob).await;
    let mut channel = inbox(&client, bob).await;
    client.disconnect().await;
    client.closed(1).await;
    channel
        .next_where("status", |event| event["status"] != "SUBSCRIBED")
        .await;
    channel.remove().await;
    client.connect().await;
    let mut channel = inbox(&client, bob).await;
    scene.write(alice, bob, "hello").await;
    channel
        .next_where("change", |event| event["payload"]["new"]["content"] == "hello")
        .await;
    driver.nothing_uncaught().await;
}

/// All clients wait for the same second before they come back: they know no jitter. Each hears everything once, and the database
/// is asked no more than once for what each has missed, and a few dozen times for where all of them were.
#[tokio::test]
async fn many_that_come_back_in_the_same_second_hear_everything_once() {
    const CLIENTS: usize = 2_000;
    let scene = Scene::<2>::with(|config| config.sessions_per_user = CLIENTS).await;
    let driver = Driver::start();
    let [alice, bob] = scene.people;
    let wire = Wire::before(scene.gateway.address()).await;
    let package = Package::realtime(NEWEST);
    let tokens = [alice, bob].map(token);
    let device = |number: usize| {
        let params = json!({"device": format!("device {number}")});
        json!({"setAuth": tokens[number % 2], "options": {"params": params}})
    };
    let channel = json!({
        "channel": "inbox",
        "changes": [messages_of("receiver_id", bob)],
        "variants": (0..CLIENTS).map(device).collect::<Vec<_>>(),
    });
    let settings = Settings::new(package, wire.address);
    let group = driver.many("all", CLIENTS, &settings, &channel).await;
    let all = json!(CLIENTS);
    group.until("all are live", |sums| sums["live"] == all).await;
    let mut ids = vec![scene.write(alice, bob, "before").await.to_string()];
    group
        .until("all have heard of one", |sums| sums["fewest"] == 1)
        .await;
    acknowledged(&scene, 2_000).await;

    wire.refuse();
    wire.cut();
    group.until("all are cut off", |sums| sums["open"] == 0).await;
    for content in ["one", "two", "three"] {
        ids.push(scene.write(alice, bob, content).await.to_string());
    }
    let asked = |name| scene.gateway.metric(name);
    let names = ["parking_queries_total", "replay_queries_total"];
    let before = names.map(asked);
    wire.allow();
    group
        .until("all are back", |sums| sums["subscribed"] == all)
        .await;
    ids.push(scene.write(alice, bob, "after").await.to_string());
    group
        .until("all have heard everything", |sums| sums["fewest"] == 5)
        .await;
    let heard = group.heard(&ids).await;
    assert_eq!(
        (&heard["wrong"], &heard["doubled"]),
        (&json!(0), &json!(0)),
        "{heard}"
    );
    let queries = [asked(names[0]) - before[0], asked(names[1]) - before[1]];
    // Whatever was missed so recently is remembered.
    assert!(queries[0] < 500.0 && queries[1] < 100.0, "{queries:?}");
    driver.nothing_uncaught().await;
    group.close().await;
    wire.stop().await;
}

/// Some of each version at once: a restart of the gateway is for all of them.
#[tokio::test]
async fn a_restart_under_clients_of_all_versions() {
    let (mut scene, driver) = stage::<2>().await;
    let [alice, bob] = scene.people;
    let address = scene.gateway.address();
    let subscription = changes(&[messages_of("receiver_id", bob)]);
    let mut channels = Vec::new();
    for version in [NEWEST, MIDDLE, OLDEST] {
        let package = Package::realtime(version);
        let client = client_by(&driver, package, Settings::new(package, address), bob).await;
        for name in ["first", "second"] {
            let mut channel = client.subscribe(name, &subscription).await;
            channel.subscribed().await;
            channel.live().await;
            channels.push(channel);
        }
    }
    scene.gateway.stop().await;
    write(&scene.application, alice, bob, "meanwhile").await;
    scene.gateway = Gateway::start_on(address, config(&scene.database.url())).await;
    for channel in &mut channels {
        assert_eq!(channel.contents(1).await, ["meanwhile"]);
    }
    write(&scene.application, alice, bob, "after").await;
    for channel in &mut channels {
        assert_eq!(channel.contents(1).await, ["after"]);
        assert_eq!(channel.count("change"), 2);
    }
    driver.nothing_uncaught().await;
}
