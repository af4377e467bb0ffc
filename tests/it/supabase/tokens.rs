//! The moments at which a client says who it is, and the keys that it brings.

use std::time::Duration;

use serde_json::json;

use super::{
    Package, changes, client_by, client_of, inbox, messages_of, stage, with_every_package, with_every_version,
};
use crate::support::{
    gateway::{token, token_for},
    supabase::{Library, MIDDLE, NEWEST, OLDEST, PUBLISHABLE_KEY, Settings, anon_key, signed},
};

with_every_package! {
    a_token_comes_with_the_join
    a_token_comes_after_the_join
    a_token_is_too_late_for_the_join
    a_token_is_the_key
}
with_every_version! {
    a_token_that_is_not_accepted_is_told
    a_token_that_expires_ends_the_channel_and_a_new_one_misses_nothing
}

async fn a_token_comes_with_the_join(package: Package) {
    let (scene, driver) = stage::<2>().await;
    let [alice, bob] = scene.people;
    let settings = Settings::new(package, scene.gateway.address()).frames();
    let client = client_by(&driver, package, settings, bob).await;
    let mut channel = inbox(&client, bob).await;
    let joins = client.sent("phx_join");
    assert!(joins[0].contains("access_token"), "{joins:?}");
    scene.write(alice, bob, "hello").await;
    assert_eq!(channel.contents(1).await, ["hello"]);
    driver.nothing_uncaught().await;
}

async fn a_token_comes_after_the_join(package: Package) {
    let (scene, driver) = stage::<2>().await;
    let [alice, bob] = scene.people;
    let client = driver
        .client(Settings::new(package, scene.gateway.address()).frames())
        .await;
    let mut channel = client
        .subscribe("inbox", &changes(&[messages_of("receiver_id", bob)]))
        .await;
    // Nobody has said who it is, and the client must not give up.
    channel.subscribed().await;
    client.set_auth(Some(&token(bob))).await;
    channel.live().await;
    scene.write(alice, bob, "hello").await;
    assert_eq!(channel.contents(1).await, ["hello"]);
    assert_eq!(channel.count("change"), 1);
    driver.nothing_uncaught().await;
}

/// A page that subscribes at once, while its token is still being fetched: every version sends the join without it, and only the
/// newest sends it later by itself. The others bring it when they join again, which an error on the channel makes them do.
async fn a_token_is_too_late_for_the_join(package: Package) {
    let (scene, driver) = stage::<2>().await;
    let [alice, bob] = scene.people;
    let settings = Settings::new(package, scene.gateway.address())
        .frames()
        // It is fetched from the client's making on, and the wish to subscribe reaches a busy machine's driver late.
        .callback(&token(bob), Some(1000));
    let client = driver.client(settings).await;
    let mut channel = client
        .subscribe("inbox", &changes(&[messages_of("receiver_id", bob)]))
        .await;
    channel.live().await;
    let joins = client.sent("phx_join");
    assert!(!joins[0].contains("access_token"), "{joins:?}");
    scene.write(alice, bob, "hello").await;
    assert_eq!(channel.contents(1).await, ["hello"]);
    assert_eq!(channel.count("change"), 1);
    driver.nothing_uncaught().await;
}

async fn a_token_is_the_key(package: Package) {
    let (scene, driver) = stage::<2>().await;
    let [alice, bob] = scene.people;
    let settings = Settings::new(package, scene.gateway.address()).key(&token(bob));
    let client = driver.client(settings).await;
    let mut channel = inbox(&client, bob).await;
    scene.write(alice, bob, "hello").await;
    assert_eq!(channel.contents(1).await, ["hello"]);
    driver.nothing_uncaught().await;
}

async fn a_token_that_is_not_accepted_is_told(package: Package) {
    let (scene, driver) = stage::<2>().await;
    let [alice, bob] = scene.people;
    let client = driver
        .client(Settings::new(package, scene.gateway.address()))
        .await;
    client
        .set_auth(Some(&signed(
            &json!({"sub": bob.to_string(), "role": "authenticated", "exp": 1_000_000_000}),
        )))
        .await;
    let subscription = changes(&[messages_of("receiver_id", bob)]);
    let mut channel = client.subscribe("inbox", &subscription).await;
    let reason = channel.error().await;
    assert!(reason.contains("expired"), "{reason}");
    // It tries again by itself, and by then it has a better one.
    client.set_auth(Some(&token(bob))).await;
    channel.live().await;
    scene.write(alice, bob, "hello").await;
    assert_eq!(channel.contents(1).await, ["hello"]);
    driver.nothing_uncaught().await;
}

#[tokio::test]
async fn every_kind_of_key_opens_the_socket() {
    let (scene, driver) = stage::<2>().await;
    let [alice, bob] = scene.people;
    let keys = [
        anon_key(),
        signed(&json!({"role": "anon", "iss": "supabase"})),
        PUBLISHABLE_KEY.to_owned(),
    ];
    let mut channels = Vec::new();
    for version in [NEWEST, MIDDLE, OLDEST] {
        for key in &keys {
            for package in [Package::realtime(version), Package::supabase(version)] {
                let settings = Settings::new(package, scene.gateway.address()).key(key);
                let client = client_by(&driver, package, settings, bob).await;
                channels.push(inbox(&client, bob).await);
            }
        }
    }
    scene.write(alice, bob, "hello").await;
    for channel in &mut channels {
        assert_eq!(channel.contents(1).await, ["hello"]);
    }
    driver.nothing_uncaught().await;
}

/// `supabase-js` without a session sends its key where a token is expected.
#[tokio::test]
async fn a_key_in_the_place_of_a_token_is_nobody() {
    let (scene, driver) = stage::<2>().await;
    let [alice, bob] = scene.people;
    for version in [NEWEST, MIDDLE, OLDEST] {
        let package = Package::supabase(version);
        let settings = Settings::new(package, scene.gateway.address()).key(PUBLISHABLE_KEY);
        let client = driver.client(settings.frames()).await;
        client.set_auth(None).await;
        let subscription = changes(&[messages_of("receiver_id", bob)]);
        let mut channel = client.subscribe("inbox", &subscription).await;
        channel.subscribed().await;
        assert!(client.sent("phx_join")[0].contains(PUBLISHABLE_KEY));
        client.set_auth(Some(&token(bob))).await;
        channel.live().await;
        scene.write(alice, bob, version).await;
        assert_eq!(channel.contents(1).await, [version]);
        client.close().await;
    }
    driver.nothing_uncaught().await;
}

/// A client whose token changes goes on without a gap.
#[tokio::test]
async fn a_token_is_renewed() {
    let (scene, driver) = stage::<2>().await;
    let [alice, bob] = scene.people;
    for version in [NEWEST, MIDDLE, OLDEST] {
        for library in [Library::Realtime, Library::Supabase] {
            let package = Package { library, version };
            let client = client_of(&driver, package, scene.gateway.address(), bob).await;
            let mut channel = inbox(&client, bob).await;
            scene.write(alice, bob, "before").await;
            let claims = json!({"sub": bob.to_string(), "role": "authenticated", "exp": 4_000_000_000_u64});
            let renewed = signed(&claims);
            match library {
                Library::Realtime => client.set_auth(Some(&renewed)).await,
                Library::Supabase => {
                    client.callback_answers(&renewed).await;
                    client.set_auth(None).await;
                }
            }
            scene.write(alice, bob, "after").await;
            assert_eq!(channel.contents(2).await, ["before", "after"]);
            assert_eq!((channel.count("change"), channel.count("status")), (2, 1));
            client.close().await;
        }
    }
    driver.nothing_uncaught().await;
}

/// The client asks for its token with each heartbeat, and joins again by itself.
async fn a_token_that_expires_ends_the_channel_and_a_new_one_misses_nothing(package: Package) {
    let (scene, driver) = stage::<2>().await;
    let [alice, bob] = scene.people;
    let package = Package {
        library: Library::Supabase,
        ..package
    };
    let settings = Settings::new(package, scene.gateway.address())
        .option("heartbeatIntervalMs", 200)
        .callback(&token_for(bob, Duration::from_secs(3)), None);
    let client = driver.client(settings).await;
    client.set_auth(None).await;
    let mut channel = inbox(&client, bob).await;
    scene.write(alice, bob, "before").await;
    assert_eq!(channel.contents(1).await, ["before"]);

    channel
        .next_where("status", |status| status["status"] == "CHANNEL_ERROR")
        .await;
    let told = channel
        .next_where("system", |system| system["payload"]["status"] == "error")
        .await;
    assert!(
        told["payload"]["message"].as_str().unwrap().contains("expired"),
        "{told}"
    );
    scene.write(alice, bob, "while nobody listened").await;
    client.callback_answers(&token(bob)).await;
    channel
        .next_where("status", |status| status["status"] == "SUBSCRIBED")
        .await;
    scene.write(alice, bob, "after").await;
    assert_eq!(channel.contents(2).await, ["while nobody listened", "after"]);
    assert_eq!(channel.count("change"), 3);
    driver.nothing_uncaught().await;
}
