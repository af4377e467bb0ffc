//! Who may call at all, and how the door answers: tokens, quotas, CORS, entity tags, compression, outages.

use std::time::Duration;

use herald::edge::AllowedOrigins;
use serde_json::json;

use super::{Route, Stage, messages, on_both_routes};
use crate::support::{
    gateway::{token, token_for},
    http::{ask, ask_with_body, fetch},
};

on_both_routes! {
    callers_without_a_good_token_are_refused_before_anything_else
    a_user_who_calls_too_often_is_told_to_wait
    a_role_that_cannot_be_taken_is_the_operators_matter
    without_a_role_the_pools_own_is_used_and_calls_stay_private
}

async fn callers_without_a_good_token_are_refused_before_anything_else(route: Route) {
    let stage = Stage::new(route).await;
    let address = stage.gateway.address();
    let expired = format!("Bearer {}", token_for(stage.alice, Duration::ZERO));
    let big = vec![b'x'; 3 << 20];
    for target in ["/v1/conversations", &messages(stage.bob, None)] {
        ask(address, "GET", target, &[]).await.problem(401);
        ask(address, "GET", target, &[("Authorization", &expired)])
            .await
            .problem(401);
        ask(address, "GET", target, &[("Authorization", "Bearer x")])
            .await
            .problem(401);
    }
    let refused = ask_with_body(
        address,
        "POST",
        &messages(stage.bob, None),
        &[("Authorization", &expired)],
        &big,
    )
    .await;
    refused.problem(401);
    // The other places where a token may be.
    let target = format!("/v1/conversations?access_token={}", token(stage.alice));
    fetch(address, &target).await.json(200);
}

async fn a_user_who_calls_too_often_is_told_to_wait(route: Route) {
    let stage = Stage::with(route, |config| config.user_requests_per_second = 1).await;
    for _ in 0..2 {
        stage.fetch(stage.alice, "/v1/conversations").await.json(200);
    }
    let refused = stage.fetch(stage.alice, "/v1/conversations").await;
    refused.problem(429);
    assert_eq!(refused.header("retry-after"), Some("1"));
    stage.fetch(stage.bob, "/v1/conversations").await.json(200);
}

async fn a_role_that_cannot_be_taken_is_the_operators_matter(route: Route) {
    let stage = Stage::with(route, |config| config.role = Some("nobody \"there\"".to_owned())).await;
    let detail = stage.fetch(stage.alice, "/v1/conversations").await.problem(503);
    assert!(!detail.contains("nobody"), "{detail}");
}

async fn without_a_role_the_pools_own_is_used_and_calls_stay_private(route: Route) {
    let mut stage = Stage::with(route, |config| config.role = None).await;
    crate::support::gateway::install_role(&mut stage.application, "").await;
    stage.send(stage.bob, stage.carol, None, "between us").await;
    let listed = stage.fetch(stage.alice, "/v1/conversations").await.json(200);
    assert_eq!(listed["conversations"], json!([]));
    let listed = stage
        .fetch(stage.alice, &messages(stage.bob, None))
        .await
        .json(200);
    assert_eq!(listed["messages"], json!([]));
}

#[tokio::test]
async fn while_postgres_is_away_callers_are_asked_to_come_back() {
    let cluster = herald::dev::cluster::Cluster::temporary().await.unwrap();
    let url = cluster.url("postgres");
    crate::support::database::execute(&url, crate::support::APPLICATION).await;
    crate::support::gateway::migrate(&url).await;
    let gateway = crate::support::gateway::Gateway::start(&url).await;
    let user = herald::types::UserId(uuid::Uuid::new_v4());
    let bearer = format!("Bearer {}", token(user));
    let list = async || {
        ask(
            gateway.address(),
            "GET",
            "/v1/conversations",
            &[("Authorization", &bearer)],
        )
        .await
    };
    list().await.json(200);
    cluster.stop(herald::dev::cluster::Stop::Fast).await.unwrap();
    let refused = list().await;
    refused.problem(503);
    assert!(refused.header("retry-after").is_some());
}

#[tokio::test]
async fn pages_of_allowed_origins_may_read_answers_and_others_may_not() {
    let origins = AllowedOrigins::parse("https://app.example").unwrap();
    let stage = Stage::with(Route::Direct, |config| config.origins = origins).await;
    let address = stage.gateway.address();
    let preflight = async |origin| {
        let headers = [
            ("Origin", origin),
            ("Access-Control-Request-Method", "POST"),
            ("Access-Control-Request-Headers", "authorization,content-type"),
        ];
        ask(address, "OPTIONS", &messages(stage.bob, None), &headers).await
    };
    let answer = preflight("https://app.example").await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.header("access-control-allow-origin"),
        Some("https://app.example")
    );
    assert_eq!(answer.header("access-control-allow-methods"), Some("GET,POST"));
    assert!(
        answer
            .header("access-control-allow-headers")
            .unwrap()
            .contains("authorization")
    );
    assert!(answer.header("access-control-allow-credentials").is_none());
    let stranger = preflight("https://evil.example").await;
    assert_eq!(stranger.header("access-control-allow-origin"), None);
    // Errors can be read by the page, too.
    let refused = ask(
        address,
        "GET",
        "/v1/conversations",
        &[("Origin", "https://app.example")],
    )
    .await;
    refused.problem(401);
    assert_eq!(
        refused.header("access-control-allow-origin"),
        Some("https://app.example")
    );
    assert!(
        refused
            .header("access-control-expose-headers")
            .unwrap()
            .contains("retry-after")
    );
}

#[tokio::test]
async fn paths_and_methods_that_are_not_there_are_problems() {
    let stage = Stage::new(Route::Direct).await;
    let address = stage.gateway.address();
    fetch(address, "/v1/nothing").await.problem(404);
    fetch(address, "/v1/conversations/").await.problem(404);
    for (method, target) in [
        ("DELETE", "/v1/conversations"),
        ("PUT", &*messages(stage.bob, None)),
    ] {
        let refused = ask(address, method, target, &[]).await;
        refused.problem(405);
        assert!(refused.header("allow").unwrap().contains("GET"), "{refused:?}");
    }
    for query in [
        "limit=0",
        "limit=201",
        "limit=x",
        "limit=",
        "before=x",
        "before=",
        "limit=1&limit=2",
    ] {
        let target = format!("/v1/conversations?{query}");
        stage.fetch(stage.alice, &target).await.problem(400);
    }
}

#[tokio::test]
async fn a_proxys_request_id_is_kept_and_others_get_one_of_their_own() {
    let stage = Stage::new(Route::Direct).await;
    let address = stage.gateway.address();
    let answer = ask(address, "GET", "/v1/conversations", &[("X-Request-Id", "abc-1")]).await;
    assert_eq!(answer.header("x-request-id"), Some("abc-1"));
    let [first, second] = [fetch(address, "/healthz").await, fetch(address, "/healthz").await];
    assert_ne!(first.header("x-request-id"), second.header("x-request-id"));
}

#[tokio::test]
async fn a_large_answer_is_compressed_for_those_who_ask_for_it() {
    let stage = Stage::new(Route::Direct).await;
    stage
        .send(stage.alice, stage.bob, None, &"word ".repeat(1000))
        .await;
    let bearer = format!("Bearer {}", token(stage.alice));
    let answer = asked_raw(&stage, &bearer).await;
    assert!(answer.contains("content-encoding: gzip"), "{answer}");
    assert!(answer.contains("vary: ") && answer.len() < 2000, "{answer}");
}

/// The answer as far as it is text, to a request that takes gzip.
async fn asked_raw(stage: &Stage, bearer: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let headers = [
        ("Authorization", bearer),
        ("Accept-Encoding", "gzip"),
        ("Connection", "close"),
    ];
    let request = crate::support::http::request("GET", &messages(stage.bob, None), &headers);
    let mut stream = tokio::net::TcpStream::connect(stage.gateway.address())
        .await
        .unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    String::from_utf8_lossy(&bytes).to_lowercase()
}
