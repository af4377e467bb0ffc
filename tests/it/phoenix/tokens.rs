//! Whose channel it is, from one token to the next.

use std::time::Duration;

use herald::types::UserId;
use serde_json::{Value, json};

use super::{Door, INBOX, handed_over, hears_nothing, inbox_of, join_of, nobody_is_left, received_by};
use crate::support::{
    gateway::{token, token_for},
    phoenix::{Phoenix, Version},
    scene::Scene,
    supabase::{PUBLISHABLE_KEY, anon_key, signed},
};

/// Long enough to join and to hear something, and short enough to wait for its end.
const SHORT: Duration = Duration::from_secs(2);

async fn stage() -> (Scene<3>, Door) {
    let scene = Scene::new().await;
    let door = Door::new(scene.gateway.address());
    (scene, door)
}

/// Tells a channel another token.
async fn set_token(client: &mut Phoenix, joined: &str, token: &str) {
    client
        .push(
            Some(joined),
            INBOX,
            "access_token",
            &json!({"access_token": token}),
        )
        .await;
}

/// Every change, whoever it concerns.
fn everything() -> Value {
    json!({"event": "*", "schema": "public", "table": "messages"})
}

#[tokio::test]
async fn a_token_that_ends_ends_its_channel_and_the_next_join_is_told_what_was_written_meanwhile() {
    let (scene, door) = stage().await;
    let [alice, bob, _] = scene.people;
    for version in Version::BOTH {
        let mut client = door.clone().version(version).open().await;
        let short = token_for(bob, SHORT);
        let joined = client
            .join_live(INBOX, &join_of(&[received_by(bob)], Some(&short)))
            .await;
        // Another channel, whose token lasts, is not concerned.
        client.join_live("realtime:lasting", &inbox_of(bob)).await;
        scene.write(alice, bob, "before").await;
        assert_eq!(client.contents(INBOX, 1).await, ["before"]);
        let system = client.next(INBOX, "system").await;
        assert_eq!(system.payload["status"], "error", "{}", system.text);
        assert_eq!(system.payload["extension"], "system");
        assert_eq!(system.payload["channel"], "inbox");
        assert!(
            system.payload["message"].as_str().unwrap().contains("expired"),
            "{}",
            system.text
        );
        let end = client.next(INBOX, "phx_error").await;
        assert_eq!(end.join_reference.as_deref(), Some(joined.as_str()));
        for content in ["one", "two"] {
            scene.write(alice, bob, content).await;
        }
        let refused = client
            .join(INBOX, &join_of(&[received_by(bob)], Some(&short)))
            .await;
        assert!(refused.reason().contains("expired"), "{}", refused.text);
        scene.write(alice, bob, "three").await;
        client.join_live(INBOX, &inbox_of(bob)).await;
        scene.write(alice, bob, "four").await;
        assert_eq!(client.contents(INBOX, 4).await, ["one", "two", "three", "four"]);
        assert_eq!(client.contents("realtime:lasting", 5).await.len(), 5);
        hears_nothing(&scene, &mut client).await;
    }
}

#[tokio::test]
async fn a_token_that_is_renewed_before_its_end_leaves_no_gap() {
    let (scene, door) = stage().await;
    let [alice, bob, _] = scene.people;
    let mut client = door.open().await;
    let short = token_for(bob, SHORT);
    let joined = client
        .join_live(INBOX, &join_of(&[received_by(bob)], Some(&short)))
        .await;
    let mut other = door.open().await;
    other
        .join_live(INBOX, &join_of(&[received_by(bob)], Some(&short)))
        .await;
    scene.write(alice, bob, "before").await;
    set_token(&mut client, &joined, &token(bob)).await;
    // The same one again, the application's, and none at all change nothing.
    set_token(&mut client, &joined, &token(bob)).await;
    set_token(&mut client, &joined, PUBLISHABLE_KEY).await;
    client
        .push(
            Some(&joined),
            INBOX,
            "access_token",
            &json!({"access_token": null}),
        )
        .await;
    client
        .push(Some(&joined), INBOX, "access_token", &json!({}))
        .await;
    scene.write(alice, bob, "after").await;
    // The first token's end is seen by the client that did not renew it.
    other.next(INBOX, "phx_error").await;
    scene.write(alice, bob, "later").await;
    assert_eq!(client.contents(INBOX, 3).await, ["before", "after", "later"]);
    hears_nothing(&scene, &mut client).await;
    for event in ["system", "phx_error", "phx_close"] {
        assert!(client.rest(event).await.is_empty(), "{event}");
    }
}

#[tokio::test]
async fn a_token_that_is_not_accepted_ends_the_channel_and_the_next_one_misses_nothing() {
    let (scene, door) = stage().await;
    let [alice, bob, _] = scene.people;
    let mut client = door.open().await;
    for bad in [
        token(bob) + "x",
        "nonsense".to_owned(),
        signed(&json!({"sub": bob.to_string(), "role": "authenticated", "exp": 1_000_000_000})),
    ] {
        let joined = client.join_live(INBOX, &inbox_of(bob)).await;
        set_token(&mut client, &joined, &bad).await;
        let system = client.next(INBOX, "system").await;
        assert_eq!(system.payload["status"], "error", "{}", system.text);
        client.next(INBOX, "phx_error").await;
        scene.write(alice, bob, &bad).await;
        client.join_live(INBOX, &inbox_of(bob)).await;
        assert_eq!(client.contents(INBOX, 1).await, [bad]);
        hears_nothing(&scene, &mut client).await;
    }
}

/// The page subscribes before it knows who its user is. `system` says that changes are heard, and so comes only then.
#[tokio::test]
async fn a_token_that_comes_late_brings_everything_since_the_join() {
    let (scene, door) = stage().await;
    let [alice, bob, carol] = scene.people;
    for (device, key) in [("first", anon_key()), ("second", PUBLISHABLE_KEY.to_owned())] {
        for without in [None, Some(key.as_str())] {
            // A device of its own, to which nothing is owed that an earlier one left.
            let device = format!("{device}-{}", without.is_some());
            let mut client = door.clone().key(&key).device(&device).open().await;
            scene.write(alice, bob, "before the join").await;
            handed_over(&scene.application, &scene.gateway).await;
            let payload = join_of(&[everything()], without);
            let joined = client.push_join(INBOX, &payload).await;
            client.reply(&joined).await.response("ok");
            for content in ["one", "two"] {
                scene.write(alice, bob, content).await;
                scene.write(alice, carol, "not Bob's").await;
            }
            hears_nothing(&scene, &mut client).await;
            assert!(client.rest("system").await.is_empty());
            set_token(&mut client, &joined, &token(bob)).await;
            scene.write(alice, bob, "three").await;
            assert_eq!(client.contents(INBOX, 3).await, ["one", "two", "three"]);
            client.live(INBOX).await;
            hears_nothing(&scene, &mut client).await;
            // The same by a join with the token, as a client does it that is asked to join again.
            client.push(Some(&joined), INBOX, "phx_leave", &json!({})).await;
            let joined = client.push_join(INBOX, &payload).await;
            client.reply(&joined).await.response("ok");
            scene.write(alice, bob, "four").await;
            if without.is_none() {
                client.next(INBOX, "phx_error").await;
            }
            client
                .join_live(INBOX, &join_of(&[everything()], Some(&token(bob))))
                .await;
            assert_eq!(client.contents(INBOX, 1).await, ["four"]);
            hears_nothing(&scene, &mut client).await;
            client.close().await;
        }
    }
}

#[tokio::test]
async fn a_persons_token_as_the_key_stands_for_the_one_that_a_join_lacks() {
    let (scene, door) = stage().await;
    let [alice, bob, carol] = scene.people;
    let mut client = door.key(&token(bob)).open().await;
    client.join_live(INBOX, &join_of(&[everything()], None)).await;
    // The token in a join comes first.
    client
        .join_live("realtime:hers", &join_of(&[everything()], Some(&token(carol))))
        .await;
    scene.write(alice, bob, "to Bob").await;
    scene.write(alice, carol, "to Carol").await;
    assert_eq!(client.contents(INBOX, 1).await, ["to Bob"]);
    assert_eq!(client.contents("realtime:hers", 1).await, ["to Carol"]);
    hears_nothing(&scene, &mut client).await;
}

/// Writes a message to each, and expects those of `heard` and no other one.
async fn hears_of(scene: &Scene<3>, client: &mut Phoenix, heard: Option<UserId>, round: &str) {
    let [alice, bob, carol] = scene.people;
    scene.write(alice, bob, &format!("{round} to {bob}")).await;
    scene.write(alice, carol, &format!("{round} to {carol}")).await;
    if let Some(user) = heard {
        assert_eq!(client.contents(INBOX, 1).await, [format!("{round} to {user}")]);
    }
    hears_nothing(scene, client).await;
}

#[tokio::test]
async fn whoever_signs_in_on_a_live_channel_hears_only_what_is_his_or_hers() {
    let (scene, door) = stage().await;
    let [alice, bob, carol] = scene.people;
    for (device, version) in ["one", "other"].into_iter().zip(Version::BOTH) {
        let door = door.clone().version(version).device(device);
        let mut client = door.open().await;
        let joined = client
            .join_live(INBOX, &join_of(&[everything()], Some(&token(bob))))
            .await;
        hears_of(&scene, &mut client, Some(bob), "first").await;
        set_token(&mut client, &joined, &token(carol)).await;
        client.live(INBOX).await;
        hears_of(&scene, &mut client, Some(carol), "second").await;
        // Signed out: the clients fall back to their key.
        set_token(&mut client, &joined, &anon_key()).await;
        client.settled().await;
        hears_of(&scene, &mut client, None, "third").await;
        assert!(client.rest("system").await.is_empty());
        // Whoever signs in again is told what came meanwhile; Bob since he went, Carol since she did.
        set_token(&mut client, &joined, &token(bob)).await;
        let second_and_third = ["second", "third"].map(|round| format!("{round} to {bob}"));
        assert_eq!(client.contents(INBOX, 2).await, second_and_third);
        client.live(INBOX).await;
        hears_of(&scene, &mut client, Some(bob), "fourth").await;
        set_token(&mut client, &joined, &token(carol)).await;
        let third_and_fourth = ["third", "fourth"].map(|round| format!("{round} to {carol}"));
        assert_eq!(client.contents(INBOX, 2).await, third_and_fourth);
        client.live(INBOX).await;
        set_token(&mut client, &joined, &token(bob)).await;
        client.live(INBOX).await;
        hears_of(&scene, &mut client, Some(bob), "fifth").await;

        // And once more on another connection, to which nothing is told twice.
        let reference = client.reference;
        client.close().await;
        nobody_is_left(&scene.gateway).await;
        scene.write(alice, bob, "sixth").await;
        let payload = join_of(&[everything()], Some(&token(bob)));
        let mut client = door.open().await.counting_from(reference);
        client.join_live(INBOX, &payload).await;
        assert_eq!(client.contents(INBOX, 1).await, ["sixth"]);
        hears_nothing(&scene, &mut client).await;
        client.close().await;
    }
}

/// With the tokens changing while messages are written, no message is told to the wrong one, whatever else.
#[tokio::test]
async fn tokens_that_change_in_the_middle_of_messages_let_nothing_through() {
    const ROUNDS: usize = 30;
    let (scene, door) = stage().await;
    let [alice, bob, carol] = scene.people;
    let mut client = door.open().await;
    let joined = client
        .join_live(INBOX, &join_of(&[everything()], Some(&token(bob))))
        .await;
    let mut expected = [Vec::new(), Vec::new()];
    let mut heard = Vec::new();
    for round in 0..ROUNDS {
        for (user, expected) in [bob, carol].into_iter().zip(&mut expected) {
            let content = format!("{round:02}");
            scene.write(alice, user, &content).await;
            expected.push(content);
        }
        let next = if round % 2 == 0 { carol } else { bob };
        set_token(&mut client, &joined, &token(next)).await;
        client.live(INBOX).await;
        // Whoever had the channel may have been told until this moment, and only the other one from now on.
        let before = client.rest("postgres_changes").await;
        scene.write(alice, bob, &format!("{round:02} later")).await;
        scene.write(alice, carol, &format!("{round:02} later")).await;
        for expected in &mut expected {
            expected.push(format!("{round:02} later"));
        }
        handed_over(&scene.application, &scene.gateway).await;
        let after = client.rest("postgres_changes").await;
        assert!(!after.is_empty());
        for said in &after {
            assert_eq!(
                said.payload["data"]["record"]["receiver_id"],
                next.to_string(),
                "{}",
                said.text
            );
        }
        heard.extend(before.into_iter().chain(after));
    }
    for (user, expected) in [bob, carol].into_iter().zip(expected) {
        let mut told: Vec<String> = heard
            .iter()
            .filter(|said| said.payload["data"]["record"]["receiver_id"] == user.to_string())
            .map(super::Said::content)
            .collect();
        told.sort();
        told.dedup();
        // What came before Carol was there for the first time was not for the channel, and she did not return for the last.
        let missed = expected.iter().filter(|content| !told.contains(content));
        let missed: Vec<_> = missed.map(String::as_str).collect();
        let is_excused =
            |content: &&str| user == carol && (content.starts_with("00") || content.starts_with("29"));
        assert!(missed.iter().all(is_excused), "{user}: {missed:?}");
    }
}
