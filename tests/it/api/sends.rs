//! Sending, and everything that keeps a message from being sent.

use herald::types::UserId;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Route, Stage, messages, on_both_routes};

on_both_routes! {
    a_message_is_sent_once_under_the_id_that_its_sender_chose
    attempts_at_the_same_moment_write_one_row_also_without_a_unique_index
    an_id_that_belongs_to_anything_else_is_a_conflict
    what_cannot_be_sent_is_refused_with_its_reason
    the_applications_rules_hold
    a_message_that_is_hidden_from_its_sender_is_sent_once_all_the_same
    what_is_sent_comes_back_to_both_people
}

async fn count(stage: &Stage) -> i64 {
    let count = "select count(*) from messages";
    stage.application.query_one(count, &[]).await.unwrap().get(0)
}

async fn a_message_is_sent_once_under_the_id_that_its_sender_chose(route: Route) {
    let stage = Stage::new(route).await;
    let (id, target) = (Uuid::new_v4(), messages(stage.bob, None));
    let body = json!({"id": id, "content": "hello", "unknown": 1});
    let first = stage.post(stage.alice, &target, &body).await.json(201);
    assert_eq!(first["message"]["id"], id.to_string());
    assert_eq!(first["message"]["sender_id"], stage.alice.to_string());
    assert_eq!(first["message"]["receiver_id"], stage.bob.to_string());
    assert_eq!(first["message"]["product_id"], Value::Null);
    let again = stage.post(stage.alice, &target, &body).await.json(200);
    assert_eq!(again, first);
    let other_words = json!({"id": id, "content": "something else"});
    let again = stage.post(stage.alice, &target, &other_words).await.json(200);
    assert_eq!(
        again["message"]["content"], "hello",
        "the stored row is the answer"
    );
    assert_eq!(count(&stage).await, 1);
    // Without an id the gateway chooses one.
    let body = json!({"content": "😀 ".repeat(5000)});
    let sent = stage.post(stage.alice, &target, &body).await.json(201);
    assert!(sent["message"]["id"].as_str().unwrap().parse::<Uuid>().is_ok());
}

async fn attempts_at_the_same_moment_write_one_row_also_without_a_unique_index(route: Route) {
    let stage = Stage::new(route).await;
    stage
        .application
        .batch_execute("alter table messages drop constraint messages_pkey")
        .await
        .unwrap();
    for _ in 0..10 {
        let body = json!({"id": Uuid::new_v4(), "content": "hello"});
        let target = messages(stage.bob, None);
        let attempts = (0..6).map(|_| stage.post(stage.alice, &target, &body));
        let answers = futures::future::join_all(attempts).await;
        let written = answers.iter().filter(|answer| answer.status == 201).count();
        let found = answers.iter().filter(|answer| answer.status == 200).count();
        assert_eq!((written, found), (1, 5), "{answers:?}");
    }
    assert_eq!(count(&stage).await, 10);
}

async fn an_id_that_belongs_to_anything_else_is_a_conflict(route: Route) {
    let stage = Stage::new(route).await;
    let (alice, bob, carol) = (stage.alice, stage.bob, stage.carol);
    let chair = stage.product("Chair").await;
    let sent = stage.send(alice, bob, None, "mine").await;
    let body = json!({"id": sent["id"], "content": "x"});
    stage.post(bob, &messages(alice, None), &body).await.problem(409);
    stage
        .post(carol, &messages(alice, None), &body)
        .await
        .problem(409);
    stage
        .post(alice, &messages(carol, None), &body)
        .await
        .problem(409);
    stage
        .post(alice, &messages(bob, Some(chair)), &body)
        .await
        .problem(409);
    assert_eq!(count(&stage).await, 1);
}

async fn what_cannot_be_sent_is_refused_with_its_reason(route: Route) {
    let stage = Stage::new(route).await;
    let (alice, bob) = (stage.alice, stage.bob);
    let target = messages(bob, None);
    let nobody = UserId(Uuid::new_v4());
    let hello = json!({"content": "hello"});
    for (status, target, body) in [
        (404, messages(nobody, None), hello.clone()),
        (404, messages(bob, Some(Uuid::new_v4())), hello.clone()),
        (422, target.clone(), json!({"content": ""})),
        (422, target.clone(), json!({"content": " \n\u{3000}"})),
        (413, target.clone(), json!({"content": "x".repeat(10_001)})),
        (413, target.clone(), json!({"content": "x".repeat(3 << 20)})),
        (400, target.clone(), json!({"content": "a\0b"})),
        (400, target.clone(), json!({"content": 5})),
        (400, target.clone(), json!({})),
        (400, target.clone(), json!(["hello"])),
        (400, target.clone(), json!(["hello", null])),
        (400, target.clone(), json!({"content": "x", "id": "5"})),
        (
            400,
            target.clone(),
            json!({"content": "x", "id": Uuid::from_u128(0xabc).to_string().to_uppercase()}),
        ),
        (400, format!("/v1/conversations/{bob}/messages"), hello.clone()),
        (
            400,
            format!("/v1/conversations/{bob}__null/messages"),
            hello.clone(),
        ),
        (400, "/v1/conversations/%FF%FE/messages".to_owned(), hello.clone()),
    ] {
        let detail = stage.post(alice, &target, &body).await.problem(status);
        assert!(detail.len() > 20, "{detail}");
    }
    for (status, kind, body) in [
        (400, "application/json", &b"{\"content\": \"\xff\xfe\"}"[..]),
        (400, "application/json", b"{\"content\": \"\\ud800\"}"),
        (400, "application/json", b"{\"content\""),
        (400, "application/json", b""),
        (415, "text/plain", b"{\"content\": \"x\"}"),
        (415, "", b"{\"content\": \"x\"}"),
    ] {
        stage.post_bytes(alice, &target, kind, body).await.problem(status);
    }
    let exact = json!({"content": "ä".repeat(10_000)});
    stage.post(alice, &target, &exact).await.json(201);
    assert_eq!(count(&stage).await, 1);
}

async fn the_applications_rules_hold(route: Route) {
    let stage = Stage::new(route).await;
    let (alice, bob, carol) = (stage.alice, stage.bob, stage.carol);
    stage
        .application
        .batch_execute(&format!(
            "create policy nobody_writes_to_carol on messages as restrictive for insert to authenticated
               with check (receiver_id <> '{carol}');
             alter table messages add constraint no_shouting check (content <> upper(content));
             create function object() returns trigger language plpgsql as
               $$ begin raise 'secret words'; end $$;
             create trigger object before insert on messages for each row
               when (new.content = 'object') execute function object()"
        ))
        .await
        .unwrap();
    let say = async |to, words: &str| {
        stage
            .post(alice, &messages(to, None), &json!({"content": words}))
            .await
    };
    say(carol, "hello").await.problem(403);
    say(bob, "HELLO").await.problem(422);
    let detail = say(bob, "object").await.problem(403);
    assert!(!detail.contains("secret"), "{detail}");
    say(bob, "hello").await.json(201);
    // A right that the role does not have.
    stage
        .application
        .batch_execute("revoke update on messages from authenticated")
        .await
        .unwrap();
    stage
        .post(bob, &super::read(alice, None), &json!({}))
        .await
        .problem(403);
    assert_eq!(count(&stage).await, 1);
}

async fn what_is_sent_comes_back_to_both_people(route: Route) {
    let stage = Stage::new(route).await;
    let connect = async |user| {
        let token = crate::support::gateway::token(user);
        crate::support::socket::Socket::connect(stage.gateway.address(), &token, None)
            .await
            .0
    };
    let (mut alice, mut bob) = (connect(stage.alice).await, connect(stage.bob).await);
    let sent = stage.send(stage.alice, stage.bob, None, "hello").await;
    for socket in [&mut alice, &mut bob] {
        let (events, _) = socket.events(1).await;
        assert_eq!(events[0]["message"], sent);
    }
}

async fn a_message_that_is_hidden_from_its_sender_is_sent_once_all_the_same(route: Route) {
    let stage = Stage::new(route).await;
    stage
        .application
        .batch_execute(
            "create policy moderated on messages as restrictive for select to authenticated
               using (delivered_at is not null);
             create function swallow() returns trigger language plpgsql as $$ begin return null; end $$;
             create trigger swallow before insert on messages for each row
               when (new.content = 'swallow') execute function swallow()",
        )
        .await
        .unwrap();
    let (id, target) = (Uuid::new_v4(), messages(stage.bob, None));
    let body = json!({"id": id, "content": "hello"});
    for status in [201, 200, 200] {
        let sent = stage.post(stage.alice, &target, &body).await.json(status);
        assert_eq!(sent["message"]["id"], id.to_string());
        assert_eq!(sent["message"]["content"], "hello");
    }
    let swallowed = json!({"content": "swallow"});
    stage.post(stage.alice, &target, &swallowed).await.problem(422);
    assert_eq!(count(&stage).await, 1);
}
