//! The description of the API, held against what the API answers.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use uuid::Uuid;

use super::{Route, Stage, messages, read};
use crate::support::http::{Answer, ask, fetch};

/// The description, and which operations were called.
struct Described {
    text: Value,
    called: BTreeSet<String>,
}

impl Described {
    /// Holds an answer against what is described for the operation and the status.
    fn check(&mut self, method: &str, path: &str, answer: &Answer) {
        let operation = &self.text["paths"][path][method];
        assert!(operation.is_object(), "{method} {path} is not described");
        self.called.insert(format!("{method} {path}"));
        let described = &operation["responses"][answer.status.to_string()];
        assert!(
            described.is_object(),
            "{} of {method} {path} is not described",
            answer.status
        );
        let kind = answer.header("content-type").unwrap();
        let mut schema = described["content"][kind]["schema"].clone();
        assert!(schema.is_object(), "{kind} of {method} {path} is not described");
        schema["components"] = self.text["components"].clone();
        let validator = jsonschema::validator_for(&schema).unwrap();
        let body: Value = serde_json::from_str(&answer.body).unwrap();
        let errors: Vec<String> = validator
            .iter_errors(&body)
            .map(|error| error.to_string())
            .collect();
        assert!(errors.is_empty(), "{method} {path}: {errors:?} in {body}");
    }
}

const LIST: &str = "/v1/conversations";
const MESSAGES: &str = "/v1/conversations/{conversation}/messages";
const READ: &str = "/v1/conversations/{conversation}/read";

#[tokio::test]
async fn every_operation_answers_as_it_is_described() {
    let stage = Stage::new(Route::Direct).await;
    let (alice, bob) = (stage.alice, stage.bob);
    let text = fetch(stage.gateway.address(), "/v1/openapi.json").await.json(200);
    assert_eq!(text["openapi"], "3.1.0");
    let mut described = Described {
        text,
        called: BTreeSet::new(),
    };
    let chair = stage.product("Chair").await;
    let nobody = messages(herald::types::UserId(Uuid::new_v4()), None);
    let target = messages(bob, Some(chair));
    let body = json!({"id": Uuid::new_v4(), "content": "hello"});
    described.check("post", MESSAGES, &stage.post(alice, &target, &body).await);
    described.check("post", MESSAGES, &stage.post(alice, &target, &body).await);
    described.check(
        "post",
        MESSAGES,
        &stage.post(bob, &messages(alice, None), &body).await,
    );
    described.check("post", MESSAGES, &stage.post(alice, &nobody, &body).await);
    described.check(
        "post",
        MESSAGES,
        &stage.post(alice, &target, &json!({"content": ""})).await,
    );
    described.check("post", MESSAGES, &stage.post(alice, &target, &json!({})).await);
    let long = json!({"content": "x".repeat(10_001)});
    described.check("post", MESSAGES, &stage.post(alice, &target, &long).await);
    described.check(
        "post",
        MESSAGES,
        &stage.post_bytes(alice, &target, "text/plain", b"x").await,
    );
    stage.send(bob, alice, None, "general").await;
    for target in [
        "/v1/conversations",
        "/v1/conversations?limit=1",
        "/v1/conversations?limit=x",
    ] {
        described.check("get", LIST, &stage.fetch(alice, target).await);
    }
    described.check("get", LIST, &ask(stage.gateway.address(), "GET", LIST, &[]).await);
    for target in [&target, &format!("{target}?before=x"), &nobody] {
        described.check("get", MESSAGES, &stage.fetch(alice, target).await);
    }
    described.check(
        "post",
        READ,
        &stage.post(alice, &read(bob, None), &json!({})).await,
    );
    let operations: BTreeSet<String> = described.text["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, item)| {
            let methods = item.as_object().unwrap().keys();
            methods.map(move |method| format!("{method} {path}"))
        })
        .collect();
    assert_eq!(described.called, operations);
}

#[tokio::test]
async fn the_description_is_not_sent_again_to_those_who_have_it() {
    let stage = Stage::new(Route::Direct).await;
    let address = stage.gateway.address();
    let first = fetch(address, "/v1/openapi.json").await;
    let tag = first.header("etag").unwrap().to_owned();
    let again = ask(address, "GET", "/v1/openapi.json", &[("If-None-Match", &tag)]).await;
    assert_eq!((again.status, again.body.as_str()), (304, ""));
    assert_eq!(again.header("etag"), Some(tag.as_str()));
}
