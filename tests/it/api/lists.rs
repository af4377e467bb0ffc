//! Lists of conversations and of messages.

use serde_json::Value;
use uuid::Uuid;

use super::{Route, Stage, column, conversation, messages, on_both_routes, read};
use crate::support::{gateway::token, socket::Socket};

on_both_routes! {
    conversations_are_listed_newest_first_with_what_is_unread
    a_conversation_is_read_newest_page_first_and_oldest_message_first
    paging_is_exact_where_times_are_equal_and_while_messages_arrive
    conversations_keep_their_place_while_one_pages
    a_stranger_sees_nothing_of_others
    reading_marks_what_one_received_in_that_conversation_only
    the_cursor_of_a_list_continues_where_the_list_ends
    a_conversation_without_messages_is_empty_and_one_with_nobody_is_not_there
}

async fn conversations_are_listed_newest_first_with_what_is_unread(route: Route) {
    let stage = Stage::new(route).await;
    let (alice, bob, carol) = (stage.alice, stage.bob, stage.carol);
    let chair = stage.product("Chair").await;
    stage.send(bob, alice, None, "one").await;
    stage.send(bob, alice, None, "two").await;
    stage.send(bob, alice, Some(chair), "still for sale").await;
    stage.send(alice, carol, None, "hello Carol").await;
    stage.send(alice, alice, None, "a note").await;

    let answer = stage.fetch(alice, "/v1/conversations").await;
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let listed = answer.json(200);
    let rows = &listed["conversations"];
    assert_eq!(
        column(rows, "conversation_id"),
        [
            conversation(alice, None),
            conversation(carol, None),
            conversation(bob, Some(chair)),
            conversation(bob, None)
        ]
    );
    assert_eq!(
        column(rows, "last_message"),
        ["a note", "hello Carol", "still for sale", "two"]
    );
    let unread: Vec<i64> = rows
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["unread_count"].as_i64().unwrap())
        .collect();
    assert_eq!(unread, [1, 0, 1, 2]);
    assert_eq!(rows[2]["product_title"], "Chair");
    assert_eq!(rows[2]["other_user_id"], bob.to_string());
    assert_eq!(rows[2]["other_username"], "person 1");
    assert_eq!(rows[3]["product_id"], Value::Null);
    assert_eq!(listed["next"], Value::Null);
    assert!(listed["cursor"].is_string());
    let names: Vec<_> = rows[0].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(names.len(), 9, "{names:?}");
}

async fn a_conversation_is_read_newest_page_first_and_oldest_message_first(route: Route) {
    let stage = Stage::new(route).await;
    let (alice, bob) = (stage.alice, stage.bob);
    for number in 0..7 {
        let (from, to) = if number % 2 == 0 {
            (alice, bob)
        } else {
            (bob, alice)
        };
        stage.send(from, to, None, &format!("line {number}")).await;
    }
    let target = messages(bob, None);
    let newest = stage.fetch(alice, &format!("{target}?limit=3")).await.json(200);
    assert_eq!(
        column(&newest["messages"], "content"),
        ["line 4", "line 5", "line 6"]
    );
    let next = newest["next"].as_str().unwrap();
    let older = stage
        .fetch(alice, &format!("{target}?limit=3&before={next}"))
        .await
        .json(200);
    assert_eq!(
        column(&older["messages"], "content"),
        ["line 1", "line 2", "line 3"]
    );
    let next = older["next"].as_str().unwrap();
    let oldest = stage
        .fetch(alice, &format!("{target}?limit=3&before={next}"))
        .await
        .json(200);
    assert_eq!(column(&oldest["messages"], "content"), ["line 0"]);
    assert_eq!(oldest["next"], Value::Null);
    // Bob knows the same conversation under another name.
    let of_bob = stage.fetch(bob, &messages(alice, None)).await.json(200);
    assert_eq!(of_bob["messages"].as_array().unwrap().len(), 7);
    let row = &of_bob["messages"][0];
    assert_eq!(row["sender_username"], "person 0");
    assert_eq!(row["is_read"], false);
    // Exactly as many as fit leave no next page.
    let all = stage.fetch(alice, &format!("{target}?limit=7")).await.json(200);
    assert_eq!(all["next"], Value::Null);
}

async fn paging_is_exact_where_times_are_equal_and_while_messages_arrive(route: Route) {
    let stage = Stage::new(route).await;
    let (alice, bob) = (stage.alice, stage.bob);
    let mut expected: Vec<Uuid> = Vec::new();
    for number in 0..30 {
        let (from, to) = if number % 3 == 0 {
            (alice, bob)
        } else {
            (bob, alice)
        };
        let time = format!("2026-01-01 00:00:0{}+00", number / 10);
        expected.push(stage.write_at(from, to, None, "x", &time).await);
    }
    let mut listed: Vec<Uuid> = Vec::new();
    let mut target = format!("{}?limit=7", messages(bob, None));
    loop {
        let page = stage.fetch(alice, &target).await.json(200);
        let rows = page["messages"].as_array().unwrap();
        let ids = rows
            .iter()
            .map(|row| row["id"].as_str().unwrap().parse::<Uuid>().unwrap());
        listed.extend(ids.rev());
        stage.send(bob, alice, None, "meanwhile").await;
        let Some(next) = page["next"].as_str() else { break };
        target = format!("{}?limit=7&before={next}", messages(bob, None));
    }
    assert_eq!(listed.len(), 30);
    listed.sort();
    expected.sort();
    assert_eq!(listed, expected);
}

async fn conversations_keep_their_place_while_one_pages(route: Route) {
    let stage = Stage::new(route).await;
    let (alice, bob) = (stage.alice, stage.bob);
    let mut names = Vec::new();
    for number in 0..9 {
        let product = stage.product(&format!("product {number}")).await;
        // Three at each of three moments.
        let time = format!("2026-01-01 00:00:0{}+00", number / 3);
        stage.write_at(bob, alice, Some(product), "x", &time).await;
        names.push((conversation(bob, Some(product)), product));
    }
    let mut listed: Vec<String> = Vec::new();
    let mut target = "/v1/conversations?limit=2".to_owned();
    loop {
        let page = stage.fetch(alice, &target).await.json(200);
        listed.extend(
            column(&page["conversations"], "conversation_id")
                .into_iter()
                .map(str::to_owned),
        );
        // The conversation that would come last gets a new message, and a new conversation begins.
        stage.send(bob, alice, Some(names[0].1), "meanwhile").await;
        let new = stage.product("new").await;
        stage.send(bob, alice, Some(new), "new").await;
        let Some(next) = page["next"].as_str() else { break };
        target = format!("/v1/conversations?limit=2&before={next}");
    }
    let mut expected: Vec<String> = names.into_iter().map(|(name, _)| name).collect();
    listed.sort();
    expected.sort();
    assert_eq!(listed, expected);
}

async fn a_stranger_sees_nothing_of_others(route: Route) {
    let stage = Stage::new(route).await;
    let (alice, bob, carol) = (stage.alice, stage.bob, stage.carol);
    stage.send(alice, bob, None, "between us").await;
    let listed = stage.fetch(carol, "/v1/conversations").await.json(200);
    assert_eq!(listed["conversations"], serde_json::json!([]));
    let listed = stage.fetch(carol, &messages(bob, None)).await.json(200);
    assert_eq!(listed["messages"], serde_json::json!([]));
    // Bob's name of the conversation means, from Bob, his notes to himself.
    let listed = stage.fetch(bob, &messages(bob, None)).await.json(200);
    assert_eq!(listed["messages"], serde_json::json!([]));
    assert_eq!(
        stage
            .post(carol, &read(alice, None), &serde_json::json!({}))
            .await
            .json(200)["updated"],
        0
    );
}

async fn reading_marks_what_one_received_in_that_conversation_only(route: Route) {
    let stage = Stage::new(route).await;
    let (alice, bob, carol) = (stage.alice, stage.bob, stage.carol);
    let chair = stage.product("Chair").await;
    for (from, to, product) in [
        (bob, alice, None),
        (bob, alice, None),
        (bob, alice, Some(chair)),
        (alice, bob, None),
        (carol, alice, None),
    ] {
        stage.send(from, to, product, "x").await;
    }
    let mark = async |user, target: String| {
        stage.post(user, &target, &serde_json::json!({})).await.json(200)["updated"].clone()
    };
    assert_eq!(mark(alice, read(bob, None)).await, 2);
    assert_eq!(mark(alice, read(bob, None)).await, 0);
    assert_eq!(mark(alice, read(bob, Some(chair))).await, 1);
    assert_eq!(mark(bob, read(alice, None)).await, 1);
    let unread = "select count(*) from messages where not is_read";
    let unread: i64 = stage.application.query_one(unread, &[]).await.unwrap().get(0);
    assert_eq!(unread, 1, "Carol's message stays unread");
}

async fn the_cursor_of_a_list_continues_where_the_list_ends(route: Route) {
    let stage = Stage::new(route).await;
    let (alice, bob) = (stage.alice, stage.bob);
    stage.send(bob, alice, None, "before").await;
    let listed = stage.fetch(alice, &messages(bob, None)).await.json(200);
    assert_eq!(column(&listed["messages"], "content"), ["before"]);
    let sent = stage.send(bob, alice, None, "after").await;
    let cursor = listed["cursor"].as_str().unwrap();
    let (mut socket, ready) = Socket::connect(stage.gateway.address(), &token(alice), Some(cursor)).await;
    assert_eq!(ready["resumed"], true, "{ready}");
    let (events, _) = socket.events(1).await;
    assert_eq!(
        events[0]["message"], sent,
        "the row is the same whichever way it comes"
    );
    assert_eq!(events.len(), 1);
}

async fn a_conversation_without_messages_is_empty_and_one_with_nobody_is_not_there(route: Route) {
    let stage = Stage::new(route).await;
    let (alice, bob) = (stage.alice, stage.bob);
    let nobody = herald::types::UserId(Uuid::new_v4());
    let listed = stage.fetch(alice, &messages(bob, None)).await.json(200);
    assert_eq!(listed["messages"], serde_json::json!([]));
    stage.fetch(alice, &messages(nobody, None)).await.problem(404);
    stage
        .fetch(alice, &messages(bob, Some(Uuid::new_v4())))
        .await
        .problem(404);
    stage
        .post(alice, &read(nobody, None), &serde_json::json!({}))
        .await
        .problem(404);
}
