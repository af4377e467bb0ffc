//! Connections that are dead without anybody having said so.

use std::time::Duration;

use super::{Door, INBOX, again, contents, handed_over, hears_nothing, inbox, inbox_of, nobody_is_left};
use crate::support::{network::Network, phoenix::Version, scene::Scene, wait_until};

/// A heartbeat that makes a test of silence short.
const QUICK_HEARTBEAT: Duration = Duration::from_millis(200);

/// How many sessions the gateway has, those that say goodbye not counted.
fn sessions<const PEOPLE: usize>(scene: &Scene<PEOPLE>) -> f64 {
    scene.gateway.metric("sessions{protocol=\"phoenix\"}")
}

/// A phone leaves the network, and is back on another one long before its old connection is given up.
#[tokio::test]
async fn who_comes_back_while_the_old_connection_is_not_known_to_be_dead_misses_nothing() {
    let scene = Scene::<2>::new().await;
    let [alice, bob] = scene.people;
    let door = Door::new(scene.gateway.address());
    let mut dead = inbox(&door, bob).await;
    scene.write(alice, bob, "before").await;
    assert_eq!(dead.contents(INBOX, 1).await, ["before"]);
    dead.settled().await;
    dead.leave_pings_unanswered();
    dead.stop_reading();
    for content in ["one", "two"] {
        scene.write(alice, bob, content).await;
    }
    handed_over(&scene.application, &scene.gateway).await;
    let mut client = again(&door, bob, dead.reference).await;
    scene.write(alice, bob, "three").await;
    assert_eq!(client.contents(INBOX, 3).await, ["one", "two", "three"]);
    hears_nothing(&scene, &mut client).await;
    // It goes and comes while the old connection is still there, and once that is found dead.
    for round in 0..4 {
        client.settled().await;
        let reference = client.reference;
        client.close().await;
        wait_until("one session is left", || sessions(&scene) <= 1.0).await;
        if round == 1 {
            dead.reset().await;
            dead = inbox(&door.clone().device("another"), bob).await;
            dead.leave_pings_unanswered();
            wait_until("the dead one has gone, and another is there", || {
                sessions(&scene) <= 1.0
            })
            .await;
        }
        let content = format!("missed {round}");
        scene.write(alice, bob, &content).await;
        handed_over(&scene.application, &scene.gateway).await;
        client = again(&door, bob, reference).await;
        assert_eq!(client.contents(INBOX, 1).await, [content]);
        hears_nothing(&scene, &mut client).await;
    }
}

/// The network takes everything and carries nothing, and tells neither side. Until the gateway notices, which takes about a minute,
/// the old connection counts as live, and its client comes back by a new one.
#[tokio::test]
async fn who_vanishes_without_a_word_and_comes_back_on_another_connection_misses_nothing() {
    let scene = Scene::<2>::new().await;
    let [alice, bob] = scene.people;
    let network = Network::before(scene.gateway.address()).await;
    for (version, device) in Version::BOTH.into_iter().zip(["one", "other"]) {
        let door = Door::new(network.address).version(version).device(device);
        let mut client = inbox(&door, bob).await;
        for round in 0..3 {
            scene.write(alice, bob, "before").await;
            assert_eq!(client.contents(INBOX, 1).await, ["before"]);
            client.settled().await;
            network.lose();
            for content in ["one", "two"] {
                scene.write(alice, bob, content).await;
            }
            // Into the dark.
            handed_over(&scene.application, &scene.gateway).await;
            let reference = client.reference;
            drop(client);
            client = again(&door, bob, reference).await;
            scene.write(alice, bob, "after").await;
            assert_eq!(
                client.contents(INBOX, 3).await,
                ["one", "two", "after"],
                "{round}"
            );
            hears_nothing(&scene, &mut client).await;
        }
        client.close().await;
    }
    // The dead ones are still there, and nobody has ended them.
    assert!(sessions(&scene) >= 6.0);
}

/// As before, but the connection is lost before it is known that the client knows its channel to be live. What comes in the moment
/// between the two may arrive on either connection.
#[tokio::test]
async fn who_vanishes_during_a_join_misses_nothing_from_the_answer_on() {
    let scene = Scene::<2>::new().await;
    let [alice, bob] = scene.people;
    let network = Network::before(scene.gateway.address()).await;
    let door = Door::new(network.address);
    let mut reference = 0;
    let mut heard = Vec::new();
    for round in 0..5 {
        let mut client = door.open().await.counting_from(reference);
        let joined = client.push_join(INBOX, &inbox_of(bob)).await;
        client.reply(&joined).await.response("ok");
        network.lose();
        scene.write(alice, bob, &round.to_string()).await;
        handed_over(&scene.application, &scene.gateway).await;
        reference = client.reference;
        heard.extend(contents(&client.reset().await));
    }
    let mut client = again(&door, bob, reference).await;
    handed_over(&scene.application, &scene.gateway).await;
    heard.extend(contents(&client.rest("postgres_changes").await));
    heard.sort();
    heard.dedup();
    assert_eq!(heard, ["0", "1", "2", "3", "4"]);
}

/// The gateway finds a connection dead, and is still waiting for the answer to its goodbye.
#[tokio::test]
async fn who_comes_back_during_the_goodbye_of_the_old_connection_misses_nothing() {
    let scene = Scene::<2>::with(|config| config.rhythm.heartbeat = QUICK_HEARTBEAT).await;
    let [alice, bob] = scene.people;
    let door = Door::new(scene.gateway.address());
    let mut dead = inbox(&door, bob).await;
    scene.write(alice, bob, "before").await;
    assert_eq!(dead.contents(INBOX, 1).await, ["before"]);
    dead.settled().await;
    // It is known to the gateway as live, and to have everything.
    let live = "select count(*) from herald.channel where parked_at is null and cursor is null";
    crate::processes::until("the channel to be known", async || {
        scene
            .application
            .query_one(live, &[])
            .await
            .unwrap()
            .get::<_, i64>(0)
            == 1
    })
    .await;
    dead.leave_pings_unanswered();
    dead.stop_reading();
    wait_until("the gateway has given it up", || sessions(&scene) == 0.0).await;
    scene.write(alice, bob, "during the goodbye").await;
    handed_over(&scene.application, &scene.gateway).await;
    let mut client = again(&door, bob, dead.reference).await;
    scene.write(alice, bob, "after").await;
    assert_eq!(client.contents(INBOX, 2).await, ["during the goodbye", "after"]);
    hears_nothing(&scene, &mut client).await;
    // The goodbye is over, and the client comes and goes once more.
    drop(dead);
    client.settled().await;
    let reference = client.reference;
    client.close().await;
    nobody_is_left(&scene.gateway).await;
    scene.write(alice, bob, "the last").await;
    let mut client = again(&door, bob, reference).await;
    assert_eq!(client.contents(INBOX, 1).await, ["the last"]);
    hears_nothing(&scene, &mut client).await;
}

/// Pings that nobody answers end a session, also one that has no person; who sends anything lives.
#[tokio::test]
async fn a_connection_that_says_nothing_is_closed_and_one_that_does_is_not() {
    let scene = Scene::<1>::with(|config| config.rhythm.heartbeat = QUICK_HEARTBEAT).await;
    let [bob] = scene.people;
    let door = Door::new(scene.gateway.address());
    let mut silent = inbox(&door, bob).await;
    let mut nobody = door.open().await;
    let mut talks = inbox(&door, bob).await;
    for client in [&silent, &nobody, &talks] {
        client.leave_pings_unanswered();
    }
    let talking = async {
        loop {
            talks.settled().await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let closed = async {
        assert_eq!(silent.closed().await.0, 1001);
        assert_eq!(nobody.closed().await.0, 1001);
    };
    tokio::select! {
        () = talking => {}
        () = closed => {}
    }
    talks.settled().await;
    talks.join_live("realtime:other", &inbox_of(bob)).await;
}
