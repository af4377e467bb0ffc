//! Channels: many of them, the same one twice, and again after it was left.

use serde_json::{Value, json};

use super::{Package, changes, client_of, inbox, messages_of, stage, with_every_version};
use crate::support::supabase::NEWEST;

/// As many channels as Supabase allows on a connection.
const CHANNELS: usize = 100;

with_every_version! {
    a_channel_that_was_removed_is_joined_again
    channels_with_overlapping_filters_all_hear
    a_hundred_channels_share_a_connection
}

async fn a_channel_that_was_removed_is_joined_again(package: Package) {
    let (scene, driver) = stage::<2>().await;
    let [alice, bob] = scene.people;
    let client = client_of(&driver, package, scene.gateway.address(), bob).await;
    // It keeps the connection open.
    let mut other = client
        .subscribe("other", &changes(&[messages_of("sender_id", alice)]))
        .await;
    other.subscribed().await;
    other.live().await;
    for round in 0..3 {
        let mut channel = inbox(&client, bob).await;
        let content = format!("round {round}");
        scene.write(alice, bob, &content).await;
        assert_eq!(channel.contents(1).await, [content]);
        assert_eq!(channel.remove().await, "ok");
    }
    let mut left = inbox(&client, bob).await;
    assert_eq!(left.unsubscribe().await, "ok");
    assert_eq!(left.next("status").await["status"], "CLOSED");
    scene.write(alice, bob, "for another channel").await;
    assert_eq!(
        other.contents(4).await,
        ["round 0", "round 1", "round 2", "for another channel"]
    );
    assert_eq!(other.count("status"), 1);
    // Each channel was told what was written while it was there, and nothing of before or after.
    assert_eq!(left.count("change"), 3);
    // All of it on one connection.
    assert_eq!(client.all("socket").len(), 2);
    driver.nothing_uncaught().await;
}

async fn channels_with_overlapping_filters_all_hear(package: Package) {
    let (scene, driver) = stage::<2>().await;
    let [alice, bob] = scene.people;
    let client = client_of(&driver, package, scene.gateway.address(), bob).await;
    let subscriptions: [Value; 4] = [
        changes(&[messages_of("receiver_id", bob)]),
        changes(&[messages_of("receiver_id", bob)]),
        changes(&[messages_of("sender_id", alice)]),
        changes(&[json!({"event": "INSERT", "schema": "public", "table": "messages"})]),
    ];
    let mut channels = Vec::new();
    for (number, subscription) in subscriptions.iter().enumerate() {
        let mut channel = client.subscribe(&format!("channel {number}"), subscription).await;
        channel.subscribed().await;
        channel.live().await;
        channels.push(channel);
    }
    for content in ["one", "two"] {
        scene.write(alice, bob, content).await;
    }
    for channel in &mut channels {
        assert_eq!(channel.contents(2).await, ["one", "two"]);
    }
    // What is told after both shows that neither was told twice.
    scene.write(alice, bob, "three").await;
    for channel in &mut channels {
        assert_eq!(channel.contents(1).await, ["three"]);
        assert_eq!(channel.count("change"), 3);
    }
    driver.nothing_uncaught().await;
}

async fn a_hundred_channels_share_a_connection(package: Package) {
    let (scene, driver) = stage::<2>().await;
    let [alice, bob] = scene.people;
    let client = client_of(&driver, package, scene.gateway.address(), bob).await;
    let subscription = changes(&[messages_of("receiver_id", bob)]);
    let mut channels = Vec::new();
    for number in 0..CHANNELS {
        channels.push(
            client
                .subscribe(&format!("channel {number}"), &subscription)
                .await,
        );
    }
    for channel in &mut channels {
        channel.subscribed().await;
        channel.live().await;
    }
    scene.write(alice, bob, "to all of them").await;
    for channel in &mut channels {
        assert_eq!(channel.contents(1).await, ["to all of them"]);
        assert_eq!(channel.count("change"), 1);
    }
    client.opened(1).await;
    assert_eq!(client.all("socket").len(), 2);
    driver.nothing_uncaught().await;
}

#[tokio::test]
async fn clients_that_join_the_same_topic_hear_what_their_own_filter_names() {
    let (scene, driver) = stage::<3>().await;
    let [alice, bob, carol] = scene.people;
    let address = scene.gateway.address();
    let package = Package::realtime(NEWEST);
    let mut inboxes = Vec::new();
    for user in [bob, bob, carol] {
        let client = client_of(&driver, package, address, user).await;
        inboxes.push(inbox(&client, user).await);
    }
    scene.write(alice, bob, "for Bob").await;
    scene.write(alice, carol, "for Carol").await;
    scene.write(alice, bob, "for Bob again").await;
    for bobs in &mut inboxes[..2] {
        assert_eq!(bobs.contents(2).await, ["for Bob", "for Bob again"]);
    }
    assert_eq!(inboxes[2].contents(1).await, ["for Carol"]);
    assert_eq!(inboxes[2].count("change"), 1);
    driver.nothing_uncaught().await;
}
