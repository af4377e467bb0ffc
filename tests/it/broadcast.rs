//! Broadcasts over HTTP, as Supabase's clients send them while a channel is not joined. No call needs the database, so that
//! the gateways here have none.

use std::sync::Arc;

use herald::{
    app::AppConfig,
    edge::AllowedOrigins,
    hub::{
        Outbox, Parcel,
        outbox::Next,
        topics::{Member, TopicMessage},
    },
    protocol::{
        phoenix::message::Content,
        topic::{TOPIC_NAME_BYTES_MAX, TopicKey, TopicRule},
    },
    types::{ChannelId, ChannelNumber, SessionId, UserId},
};
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    gateway::{Gateway, SECRET, config, token},
    http::{Answer, ask, ask_with_body},
};

const BATCH: &str = "/realtime/v1/api/broadcast";

const JSON: (&str, &str) = ("Content-Type", "application/json");

/// A gateway, and three people.
struct Stage {
    gateway: Gateway,
    rule: TopicRule,
    alice: UserId,
    bob: UserId,
    carol: UserId,
}

impl Stage {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut AppConfig)) -> Self {
        let mut config = config("postgres://nobody@127.0.0.1:1/nothing");
        config.topics = TopicRule::parse("*{user}*,*{conversation}*,lobby:*").unwrap();
        change(&mut config);
        let [alice, bob, carol] = [1, 2, 3].map(|number| UserId(Uuid::from_u128(number)));
        Self {
            rule: config.topics.clone(),
            gateway: Gateway::start_on("127.0.0.1:0".parse().unwrap(), config).await,
            alice,
            bob,
            carol,
        }
    }

    fn key(&self, user: UserId, name: &str, private: bool) -> TopicKey {
        self.rule.resolve(name, private, user).unwrap()
    }

    /// Joins a topic as a session of this person would.
    fn join(&self, user: UserId, name: &str, private: bool) -> Arc<Outbox> {
        let outbox = Arc::new(Outbox::new(1 << 20));
        let channel = ChannelId {
            session: SessionId::random(),
            number: ChannelNumber(1),
        };
        let member = Member {
            channel,
            outbox: Arc::clone(&outbox),
            hears_presence: false,
        };
        let topics = &self.gateway.app.hub().topics;
        topics.join(&self.key(user, name, private), member).unwrap();
        outbox
    }

    async fn post(&self, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        ask_with_body(self.gateway.address(), "POST", target, headers, body).await
    }

    /// `POST` as a person.
    async fn post_as(&self, user: UserId, target: &str, kind: &str, body: &[u8]) -> Answer {
        let bearer = format!("Bearer {}", token(user));
        let headers = [("Authorization", bearer.as_str()), ("Content-Type", kind)];
        self.post(target, &headers, body).await
    }

    async fn post_batch(&self, user: UserId, messages: &Value) -> Answer {
        let body = json!({ "messages": messages }).to_string();
        self.post_as(user, BATCH, "application/json", body.as_bytes())
            .await
    }
}

/// A batch of one message on the lobby.
fn lobby() -> Value {
    json!([{"topic": "lobby:1", "event": "e", "payload": {"n": 1}}])
}

/// What waits in an outbox: each event with its payload, bytes as the list of their numbers.
fn said(outbox: &Outbox) -> Vec<(String, Value)> {
    let mut said = Vec::new();
    while let Some(Next::Parcel(parcel)) = outbox.take() {
        let Parcel::Topic { message, .. } = parcel else {
            panic!("an event of the log")
        };
        let TopicMessage::Broadcast { event, content } = &*message else {
            panic!("presence")
        };
        let payload = match content {
            Content::Json(json) => serde_json::from_str(json.get()).unwrap(),
            Content::Binary(bytes) => json!(bytes.to_vec()),
        };
        said.push((event.to_string(), payload));
    }
    said
}

fn accepted(answer: &Answer) {
    assert_eq!((answer.status, answer.body.as_str()), (202, ""), "{answer:?}");
}

/// The detail of a problem, which Supabase's client finds under `error`.
fn refused(answer: &Answer, status: u16) -> String {
    let detail = answer.problem(status);
    let body: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(body["error"], detail.as_str(), "{answer:?}");
    detail
}

#[tokio::test]
async fn a_batch_reaches_the_members_of_each_topic_in_order() {
    let stage = Stage::new().await;
    let public = stage.join(stage.bob, "lobby:1", false);
    let private = stage.join(stage.bob, "lobby:1", true);
    for target in [BATCH, "/api/broadcast"] {
        let body = json!({"messages": [
            {"topic": "lobby:1", "event": "first", "payload": {"n": 1}},
            {"topic": "lobby:1", "event": "second", "payload": "text", "private": false, "id": "ignored"},
            {"topic": "lobby:1", "event": "third", "payload": [3], "private": true},
            {"topic": "lobby:2", "event": "elsewhere", "payload": {}, "private": null},
        ]});
        let target = format!("{target}?vsn=2.0.0");
        let body = body.to_string();
        accepted(
            &stage
                .post_as(
                    stage.alice,
                    &target,
                    "application/json; charset=utf-8",
                    body.as_bytes(),
                )
                .await,
        );
        assert_eq!(
            said(&public),
            [
                ("first".to_owned(), json!({"n": 1})),
                ("second".to_owned(), json!("text"))
            ]
        );
        assert_eq!(said(&private), [("third".to_owned(), json!([3]))]);
    }
    assert_eq!(stage.gateway.metric("broadcasts_total"), 8.0);
    stage.gateway.stop().await;
}

#[tokio::test]
async fn a_single_message_may_be_json_or_bytes() {
    let stage = Stage::new().await;
    let public = stage.join(stage.bob, "lobby:a/é", false);
    let private = stage.join(stage.bob, "lobby:a/é", true);
    for path in [BATCH, "/api/broadcast"] {
        let target = format!("{path}/lobby%3Aa%2F%C3%A9/events/cursor%20moved");
        let post = async |query, kind, body| {
            let target = format!("{target}{query}");
            accepted(&stage.post_as(stage.alice, &target, kind, body).await);
        };
        post("", "application/json", br#"{"x": 1}"#).await;
        post("?private=false", "application/octet-stream", &[0, 255]).await;
        post("?private=true&persist=true", "application/json", b"null").await;
        let bearer = format!("Bearer {}", token(stage.alice));
        accepted(&stage.post(&target, &[("Authorization", &bearer)], b"2").await);
        let event = || "cursor moved".to_owned();
        assert_eq!(
            said(&public),
            [
                (event(), json!({"x": 1})),
                (event(), json!([0, 255])),
                (event(), json!(2))
            ]
        );
        assert_eq!(said(&private), [(event(), Value::Null)]);
    }
    stage.gateway.stop().await;
}

#[tokio::test]
async fn both_people_of_a_conversation_hear_each_other_and_a_third_does_not() {
    let stage = Stage::new().await;
    let name = |other: UserId| format!("typing:{other}__general");
    let hers = stage.join(stage.alice, &name(stage.bob), false);
    let others = [
        stage.join(stage.carol, &name(stage.bob), false),
        stage.join(stage.carol, &name(stage.alice), false),
        stage.join(stage.alice, &name(stage.alice), false),
    ];
    let message = json!([{"topic": name(stage.alice), "event": "typing", "payload": {}}]);
    accepted(&stage.post_batch(stage.bob, &message).await);
    assert_eq!(said(&hers), [("typing".to_owned(), json!({}))]);
    for other in &others {
        assert!(said(other).is_empty());
    }
    stage.gateway.stop().await;
}

#[tokio::test]
async fn the_token_is_looked_for_where_the_client_puts_it_and_has_to_name_a_person() {
    let stage = Stage::new().await;
    let body = json!({ "messages": lobby() }).to_string();
    let post = async |target: &str, headers: &[(&str, &str)]| {
        let headers: Vec<_> = headers.iter().chain([&JSON]).copied().collect();
        stage.post(target, &headers, body.as_bytes()).await
    };
    let key = token(stage.alice);
    let (bearer, query) = (format!("Bearer {key}"), format!("{BATCH}?apikey={key}"));
    let anonymous = encode(
        &Header::default(),
        &json!({"role": "anon", "exp": 4_000_000_000_u64}),
        &EncodingKey::from_secret(SECRET.as_bytes()),
    )
    .unwrap();
    accepted(&post(BATCH, &[("apikey", &anonymous), ("Authorization", &bearer)]).await);
    accepted(&post(BATCH, &[("apikey", &key)]).await);
    accepted(&post(&query, &[]).await);
    refused(&post(BATCH, &[]).await, 401);
    refused(&post(&query, &[("Authorization", "Bearer wrong")]).await, 401);
    refused(&post(BATCH, &[("apikey", "sb_publishable_key")]).await, 401);
    assert!(refused(&post(BATCH, &[("apikey", &anonymous)]).await, 401).contains("`sub`"));
    stage.gateway.stop().await;
}

#[tokio::test]
async fn a_topic_that_the_rule_does_not_allow_is_refused_and_the_whole_batch_with_it() {
    let stage = Stage::new().await;
    let lobby = stage.join(stage.bob, "lobby:1", false);
    let bobs = stage.join(stage.bob, &format!("user:{}", stage.bob), false);
    for name in [
        "secret".to_owned(),
        format!("user:{}", stage.bob),
        "realtime:lobby:1".to_owned(),
    ] {
        let batch = json!([
            {"topic": "lobby:1", "event": "e", "payload": {}},
            {"topic": name, "event": "e", "payload": {}},
        ]);
        refused(&stage.post_batch(stage.alice, &batch).await, 403);
        let target = format!("{BATCH}/{name}/events/e");
        refused(
            &stage
                .post_as(stage.alice, &target, "application/json", b"{}")
                .await,
            403,
        );
    }
    assert!(said(&lobby).is_empty() && said(&bobs).is_empty());
    assert_eq!(stage.gateway.metric("topic_refusals_total{reason=\"rule\"}"), 6.0);
    let own = json!([{"topic": format!("user:{}", stage.alice), "event": "e", "payload": {}}]);
    accepted(&stage.post_batch(stage.alice, &own).await);
    stage.gateway.stop().await;
}

#[tokio::test]
async fn what_cannot_be_understood_is_refused_with_what_to_send() {
    let stage = Stage::new().await;
    let batch = async |body: &str| {
        stage
            .post_as(stage.alice, BATCH, "application/json", body.as_bytes())
            .await
    };
    let long = "x".repeat(256);
    for wrong in [
        json!({}),
        json!([lobby()]),
        json!({"messages": []}),
        json!({"messages": {}}),
        json!({"messages": [{"topic": "lobby:1", "event": "e"}]}),
        json!({"messages": [{"topic": "lobby:1", "payload": {}}]}),
        json!({"messages": [{"topic": 1, "event": "e", "payload": {}}]}),
        json!({"messages": [{"topic": "lobby:1", "event": "e", "payload": {}, "private": "maybe"}]}),
        json!({"messages": vec![lobby()[0].clone(); 101]}),
    ] {
        assert!(refused(&batch(&wrong.to_string()).await, 400).contains("100 messages"));
    }
    for wrong in ["", "{", "\u{feff}{}"] {
        refused(&batch(wrong).await, 400);
    }
    for (topic, event) in [
        ("", "e"),
        ("lobby:1", ""),
        (&long[..=TOPIC_NAME_BYTES_MAX], "e"),
        ("lobby:1", long.as_str()),
    ] {
        let wrong = json!({"messages": [{"topic": topic, "event": event, "payload": {}}]});
        assert!(refused(&batch(&wrong.to_string()).await, 400).contains("246"));
    }
    accepted(&batch(&json!({"messages": vec![lobby()[0].clone(); 100]}).to_string()).await);
    let single = format!("{BATCH}/lobby:1/events/e");
    let json = "application/json";
    let large = vec![b' '; 256 * 1024 + 1];
    for (target, kind, body, status) in [
        (single.as_str(), json, &b"{"[..], 400),
        (single.as_str(), json, b"", 400),
        (single.as_str(), json, b"\"\xff\"", 400),
        (&format!("{BATCH}/lobby:%ff/events/e"), json, b"{}", 400),
        (single.as_str(), "text/plain", b"{}", 415),
        (BATCH, "text/plain", b"{}", 415),
        (BATCH, "application/octet-stream", b"{}", 415),
        (single.as_str(), json, &large, 413),
        (BATCH, json, &large, 413),
    ] {
        refused(&stage.post_as(stage.alice, target, kind, body).await, status);
    }
    let fetched = ask(stage.gateway.address(), "GET", BATCH, &[]).await;
    fetched.problem(405);
    stage.gateway.stop().await;
}

#[tokio::test]
async fn who_says_too_much_is_stopped_and_the_others_are_not() {
    let stage = Stage::with(|config| config.user_requests_per_second = 10).await;
    let hundred = json!(vec![lobby()[0].clone(); 100]);
    let twenty = json!(vec![lobby()[0].clone(); 20]);
    let lobby_outbox = stage.join(stage.bob, "lobby:1", false);
    let answer = stage.post_batch(stage.bob, &hundred).await;
    refused(&answer, 429);
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert!(said(&lobby_outbox).is_empty());
    accepted(&stage.post_batch(stage.alice, &twenty).await);
    refused(&stage.post_batch(stage.alice, &twenty).await, 429);
    accepted(&stage.post_batch(stage.carol, &twenty).await);
    assert_eq!(said(&lobby_outbox).len(), 40);
    stage.gateway.stop().await;
}

#[tokio::test]
async fn a_topic_on_which_too_much_is_said_is_stopped_and_another_is_not() {
    let stage = Stage::with(|config| config.user_requests_per_second = 100_000).await;
    let _members = [
        stage.join(stage.bob, "lobby:1", false),
        stage.join(stage.bob, "lobby:2", false),
    ];
    let batch = |name| json!(vec![json!({"topic": name, "event": "e", "payload": {}}); 100]);
    let (one, two) = (batch("lobby:1"), batch("lobby:2"));
    // A thousand at once, and a thousand a second after that; a machine that is slower than that says no more in a burst.
    let answers = futures::future::join_all((0..50).map(|_| stage.post_batch(stage.alice, &one))).await;
    let stopped = answers.iter().find(|answer| answer.status != 202).unwrap();
    assert!(refused(stopped, 429).contains("topic"));
    assert_eq!(stopped.header("retry-after"), Some("1"));
    accepted(&stage.post_batch(stage.alice, &two).await);
    assert!(stage.gateway.metric("topic_refusals_total{reason=\"messages\"}") > 0.0);
    stage.gateway.stop().await;
}

#[tokio::test]
async fn pages_of_allowed_origins_may_send_what_the_client_sends() {
    let origins = AllowedOrigins::parse("https://app.example").unwrap();
    let stage = Stage::with(|config| config.origins = origins).await;
    let preflight = async |origin| {
        let headers = [
            ("Origin", origin),
            ("Access-Control-Request-Method", "POST"),
            (
                "Access-Control-Request-Headers",
                "apikey,authorization,content-type,x-client-info",
            ),
        ];
        ask(stage.gateway.address(), "OPTIONS", BATCH, &headers).await
    };
    let answer = preflight("https://app.example").await;
    assert_eq!(answer.status, 200);
    let allowed = answer.header("access-control-allow-headers").unwrap();
    for name in ["apikey", "authorization", "content-type", "x-client-info"] {
        assert!(allowed.split(',').any(|allowed| allowed == name), "{allowed}");
    }
    let origin = "access-control-allow-origin";
    assert_eq!(answer.header(origin), Some("https://app.example"));
    assert_eq!(preflight("https://evil.example").await.header(origin), None);
    let answer = stage
        .post(BATCH, &[("Origin", "https://app.example"), JSON], b"{}")
        .await;
    refused(&answer, 401);
    assert_eq!(answer.header(origin), Some("https://app.example"));
    stage.gateway.stop().await;
}
