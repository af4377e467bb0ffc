//! How much a client may ask for, and what it costs.

use serde_json::Value;

use super::{Door, INBOX, NO_PLACES, binding, handed_over, hears_nothing, inbox, inbox_of, join_of};
use crate::support::{gateway::token, scene::Scene, wait_until};

/// As many channels as Supabase allows on a connection.
const CHANNELS_MAX: usize = 100;

#[tokio::test]
async fn a_hundred_channels_are_joined_and_one_more_when_one_was_left() {
    let scene = Scene::<2>::new().await;
    let [alice, bob] = scene.people;
    let mut client = Door::new(scene.gateway.address()).open().await;
    let topic = |number: usize| format!("realtime:{number}");
    for number in 0..CHANNELS_MAX {
        client.push_join(&topic(number), &inbox_of(bob)).await;
    }
    for number in 0..CHANNELS_MAX {
        client.live(&topic(number)).await;
    }
    let refused = client.join(&topic(CHANNELS_MAX), &inbox_of(bob)).await;
    assert!(
        refused.reason().starts_with("ChannelRateLimitReached"),
        "{}",
        refused.text
    );
    // One of them can be joined again, and one can make room.
    client.join_live(&topic(7), &inbox_of(bob)).await;
    client
        .push(None, &topic(8), "phx_leave", &serde_json::json!({}))
        .await;
    client.join_live(&topic(CHANNELS_MAX), &inbox_of(bob)).await;
    scene.write(alice, bob, "to all").await;
    for number in (0..=CHANNELS_MAX).filter(|number| *number != 8) {
        assert_eq!(client.contents(&topic(number), 1).await, ["to all"]);
    }
    hears_nothing(&scene, &mut client).await;
}

#[tokio::test]
async fn what_the_channels_of_a_connection_ask_for_is_bounded_together() {
    let scene = Scene::<1>::new().await;
    let [bob] = scene.people;
    let mut client = Door::new(scene.gateway.address()).open().await;
    for (filter, count, allowed) in [
        ("content=match.a", 4, 2),
        ("content=like.%a%", 28, 2),
        ("content=eq.a", 100, 9),
    ] {
        let bindings: Vec<Value> = vec![binding("*", filter); count];
        let payload = join_of(&bindings, Some(&token(bob)));
        for number in 0..=allowed {
            let reply = client
                .join(&format!("realtime:{filter} {number}"), &payload)
                .await;
            if number < allowed {
                reply.response("ok");
            } else {
                assert!(
                    reply.reason().starts_with("ChannelRateLimitReached"),
                    "{}",
                    reply.text
                );
            }
        }
    }
}

#[tokio::test]
async fn what_many_channels_wait_for_is_held_once() {
    const TOPICS: usize = 40;

    // Room for what is written below, and not for it forty times.
    let scene = Scene::<2>::with(|config| config.outbox_bytes = 64 * 1024).await;
    let [alice, bob] = scene.people;
    let lock = scene.database.connect().await;
    lock.batch_execute(NO_PLACES).await.unwrap();
    let mut client = Door::new(scene.gateway.address()).open().await;
    let topics: Vec<String> = (0..TOPICS).map(|number| format!("{INBOX} {number}")).collect();
    for topic in &topics {
        client.join(topic, &inbox_of(bob)).await.response("ok");
    }
    let long = "x".repeat(1000);
    for _ in 0..10 {
        scene.write(alice, bob, &long).await;
    }
    handed_over(&scene.application, &scene.gateway).await;
    lock.batch_execute("rollback").await.unwrap();
    for topic in &topics {
        assert_eq!(client.contents(topic, 10).await.len(), 10);
    }
    hears_nothing(&scene, &mut client).await;
    assert_eq!(scene.gateway.metric("outbox_overflows_total"), 0.0);
}

/// Clients come back whatever they are told, so that the newest is refused where a native session would push the oldest out.
#[tokio::test]
async fn a_join_for_which_its_person_has_no_room_is_refused_and_taken_once_there_is() {
    let scene = Scene::<1>::with(|config| config.sessions_per_user = 2).await;
    let [bob] = scene.people;
    let door = Door::new(scene.gateway.address());
    let first = inbox(&door, bob).await;
    let mut second = inbox(&door, bob).await;
    let mut third = door.open().await;
    let refused = third.join(INBOX, &inbox_of(bob)).await;
    let reason = refused.reason();
    assert!(reason.starts_with("ConnectionRateLimitReached: "), "{reason}");
    // Another channel of a session that is there needs no more room.
    second.join_live("realtime:other", &inbox_of(bob)).await;
    first.close().await;
    wait_until("there is room", || {
        scene.gateway.app.hub().registry.sessions() == 1
    })
    .await;
    third.join_live(INBOX, &inbox_of(bob)).await;
}
