//! Changes of messages: what a client is told, and what it is not.

use herald::types::UserId;
use serde_json::json;
use uuid::Uuid;

use super::{
    Package, Scene, binding, changes, client_of, inbox, messages_of, stage, with_every_package,
    with_every_version,
};
use crate::support::supabase::{NEWEST, OLDEST};

with_every_package! { an_insert_an_update_and_a_delete_are_told_with_what_is_joined }
with_every_version! {
    a_filter_on_somebody_else_is_silent
    a_filter_that_is_not_understood_is_refused_with_a_reason
    bindings_hear_what_they_name
}

/// A product, as the application has it.
async fn product(scene: &Scene<2>, seller: UserId) -> Uuid {
    let statement = "insert into products (seller_id, title, price) values ($1, 'a lamp', 9.5) returning id";
    let row = scene.application.query_one(statement, &[&seller.0]).await;
    row.unwrap().get(0)
}

async fn an_insert_an_update_and_a_delete_are_told_with_what_is_joined(package: Package) {
    let (scene, driver) = stage::<2>().await;
    let [alice, bob] = scene.people;
    let client = client_of(&driver, package, scene.gateway.address(), bob).await;
    let mut channel = inbox(&client, bob).await;

    let lamp = product(&scene, bob).await;
    let id: Uuid = scene
        .application
        .query_one(
            "insert into messages (sender_id, receiver_id, product_id, content)
             values ($1, $2, $3, 'is it still there? ☂') returning id",
            &[&alice.0, &bob.0, &lamp],
        )
        .await
        .unwrap()
        .get(0);
    let insert = channel.change().await;
    assert_eq!(insert["eventType"], "INSERT", "{insert}");
    assert_eq!(
        (&insert["schema"], &insert["table"]),
        (&json!("public"), &json!("messages"))
    );
    assert!(
        insert["commit_timestamp"].as_str().unwrap().ends_with('Z'),
        "{insert}"
    );
    assert!(insert["errors"].is_null(), "{insert}");
    assert_eq!(insert["old"], json!({}));
    let message = &insert["new"];
    assert_eq!(message["id"], id.to_string());
    assert_eq!(message["sender_id"], alice.to_string());
    assert_eq!(message["receiver_id"], bob.to_string());
    assert_eq!(message["content"], "is it still there? ☂");
    assert_eq!(message["is_read"], false);
    assert_eq!(message["sender_username"], "person 0");
    assert_eq!(message["receiver_username"], "person 1");
    assert_eq!(message["product_id"], lamp.to_string());
    assert_eq!(message["product_title"], "a lamp");
    assert_eq!(message["product_price"], 9.5);
    assert!(
        message["delivered_at"].is_null() && message["sender_avatar"].is_null(),
        "{message}"
    );

    scene
        .execute(&format!("update messages set is_read = true where id = '{id}'"))
        .await;
    let update = channel.change().await;
    assert_eq!(update["eventType"], "UPDATE", "{update}");
    assert_eq!(
        (&update["new"]["id"], &update["new"]["is_read"]),
        (&json!(id), &json!(true))
    );
    assert_eq!(update["new"]["sender_username"], "person 0");

    scene
        .execute(&format!("delete from messages where id = '{id}'"))
        .await;
    let delete = channel.change().await;
    assert_eq!(delete["eventType"], "DELETE", "{delete}");
    assert_eq!((&delete["old"]["id"], &delete["new"]), (&json!(id), &json!({})));

    // What comes after shows that nothing was told twice.
    scene.write(alice, bob, "the last").await;
    assert_eq!(channel.contents(1).await, ["the last"]);
    assert_eq!((channel.count("change"), channel.count("status")), (4, 1));
    client.close().await;
    driver.nothing_uncaught().await;
}

async fn a_filter_on_somebody_else_is_silent(package: Package) {
    let (scene, driver) = stage::<3>().await;
    let [alice, bob, carol] = scene.people;
    let client = client_of(&driver, package, scene.gateway.address(), carol).await;
    let bobs = changes(&[messages_of("receiver_id", bob)]);
    let mut channel = client.subscribe("what Bob receives", &bobs).await;
    channel.subscribed().await;
    channel.live().await;

    scene.write(alice, bob, "not Carol's business").await;
    scene.write(alice, carol, "not of the filter").await;
    scene.write(carol, bob, "from Carol herself").await;
    assert_eq!(channel.contents(1).await, ["from Carol herself"]);
    assert_eq!(channel.count("change"), 1);
    driver.nothing_uncaught().await;
}

async fn a_filter_that_is_not_understood_is_refused_with_a_reason(package: Package) {
    let (scene, driver) = stage::<2>().await;
    let [alice, bob] = scene.people;
    let client = client_of(&driver, package, scene.gateway.address(), bob).await;
    let filter = binding("INSERT", "receiver_id=resembles.somebody");
    let mut refused = client.subscribe("refused", &changes(&[filter])).await;
    let reason = refused.error().await;
    assert!(reason.contains("resembles"), "{reason}");

    // The connection goes on, for channels that are understood.
    let mut channel = inbox(&client, bob).await;
    scene.write(alice, bob, "hello").await;
    assert_eq!(channel.contents(1).await, ["hello"]);
    assert_eq!(refused.count("change"), 0);
    refused.remove().await;
    driver.nothing_uncaught().await;
}

async fn bindings_hear_what_they_name(package: Package) {
    let (scene, driver) = stage::<2>().await;
    let [alice, bob] = scene.people;
    let client = client_of(&driver, package, scene.gateway.address(), bob).await;
    let subscription = changes(&[
        binding("INSERT", &format!("receiver_id=eq.{bob}")),
        binding("UPDATE", &format!("receiver_id=eq.{bob}")),
        binding("*", &format!("receiver_id=eq.{bob}")),
        binding("INSERT", &format!("sender_id=eq.{bob}")),
        json!({"event": "DELETE", "schema": "public", "table": "messages"}),
        json!({"event": "INSERT", "schema": "public"}),
    ]);
    let mut channel = client.subscribe("all kinds", &subscription).await;
    channel.subscribed().await;
    channel.live().await;

    let mut heard = Vec::new();
    let mut hear = async |bindings| {
        for _ in 0..bindings {
            let event = channel.next("change").await;
            let kind = event["payload"]["eventType"].as_str().unwrap().to_owned();
            heard.push((kind, event["binding"].as_u64().unwrap()));
        }
    };
    // A message is read when its change is told, so that each change is waited for before the next one is made.
    let id = scene.write(alice, bob, "hello").await;
    hear(3).await;
    scene
        .execute(&format!("update messages set is_read = true where id = '{id}'"))
        .await;
    hear(2).await;
    scene
        .execute(&format!("delete from messages where id = '{id}'"))
        .await;
    hear(2).await;
    scene.write(bob, alice, "goodbye").await;
    hear(2).await;
    // One change comes to all bindings that it concerns before the next one comes to any.
    for of_one_change in heard.chunk_by_mut(|one, other| one.0 == other.0) {
        of_one_change.sort();
    }
    let expected = [
        ("INSERT", 0),
        ("INSERT", 2),
        ("INSERT", 5),
        ("UPDATE", 1),
        ("UPDATE", 2),
        ("DELETE", 2),
        ("DELETE", 4),
        ("INSERT", 3),
        ("INSERT", 5),
    ];
    assert_eq!(heard, expected.map(|(kind, binding)| (kind.to_owned(), binding)));
    driver.nothing_uncaught().await;
}

/// Both serialisations at once get the same message, each in its own form.
#[tokio::test]
async fn clients_of_different_versions_hear_the_same() {
    let (scene, driver) = stage::<2>().await;
    let [alice, bob] = scene.people;
    let address = scene.gateway.address();
    let old = client_of(&driver, Package::realtime(OLDEST), address, bob).await;
    let new = client_of(&driver, Package::supabase(NEWEST), address, bob).await;
    let (mut old, mut new) = (inbox(&old, bob).await, inbox(&new, bob).await);
    scene.write(alice, bob, "to both").await;
    assert_eq!(old.change().await, new.change().await);
    driver.nothing_uncaught().await;
}
