//! The HTTP API: every call and every error, with row-level security on; directly, and through PgBouncer in transaction mode.

mod description;
mod door;
mod lists;
mod sends;

use std::fmt::Write as _;

use herald::{app::AppConfig, postgres::Settings, types::UserId};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    database::{Database, people},
    gateway::{Gateway, config, migrate, token},
    http::{Answer, ask, ask_with_body},
};

/// How the gateway's pool reaches Postgres.
#[derive(Clone, Copy, Debug)]
enum Route {
    Direct,
    ThroughPgBouncer,
}

/// Runs each of these tests on both routes.
macro_rules! on_both_routes {
    ($($test:ident)*) => {
        mod direct {
            $(#[tokio::test]
            async fn $test() {
                super::$test(super::super::Route::Direct).await;
            })*
        }
        mod through_pgbouncer {
            $(#[tokio::test]
            async fn $test() {
                super::$test(super::super::Route::ThroughPgBouncer).await;
            })*
        }
    };
}
use on_both_routes;

/// A gateway, and people who call it.
struct Stage {
    application: tokio_postgres::Client,
    gateway: Gateway,
    alice: UserId,
    bob: UserId,
    carol: UserId,
}

impl Stage {
    async fn new(route: Route) -> Self {
        Self::with(route, |_| {}).await
    }

    async fn with(route: Route, change: impl FnOnce(&mut AppConfig)) -> Self {
        let database = Database::with_application().await;
        migrate(&database.url()).await;
        let application = database.connect().await;
        let [alice, bob, carol] = people::<3>(&application).await.map(UserId);
        let mut config = config(&database.url());
        if let Route::ThroughPgBouncer = route {
            config.pool_settings = Settings::parse(&database.pooled_url().await).unwrap();
        }
        change(&mut config);
        Self {
            gateway: Gateway::start_with(config).await,
            application,
            alice,
            bob,
            carol,
        }
    }

    /// A product of Bob's.
    async fn product(&self, title: &str) -> Uuid {
        self.application
            .query_one(
                "insert into products (seller_id, title, price) values ($1, $2, 9.5) returning id",
                &[&self.bob.0, &title],
            )
            .await
            .unwrap()
            .get(0)
    }

    /// `GET` as a person.
    async fn fetch(&self, user: UserId, target: &str) -> Answer {
        let bearer = format!("Bearer {}", token(user));
        ask(
            self.gateway.address(),
            "GET",
            target,
            &[("Authorization", &bearer)],
        )
        .await
    }

    /// `POST` of JSON as a person.
    async fn post(&self, user: UserId, target: &str, body: &Value) -> Answer {
        self.post_bytes(user, target, "application/json", body.to_string().as_bytes())
            .await
    }

    /// `POST` of anything as a person.
    async fn post_bytes(&self, user: UserId, target: &str, kind: &str, body: &[u8]) -> Answer {
        let bearer = format!("Bearer {}", token(user));
        let headers = [("Authorization", bearer.as_str()), ("Content-Type", kind)];
        ask_with_body(self.gateway.address(), "POST", target, &headers, body).await
    }

    /// Sends a message over HTTP, which has to succeed, and answers with its row.
    async fn send(&self, from: UserId, to: UserId, product: Option<Uuid>, content: &str) -> Value {
        let answer = self
            .post(from, &messages(to, product), &json!({"content": content}))
            .await;
        answer.json(201)["message"].clone()
    }

    /// Writes a message at a given time, as the application does, and answers with its id.
    async fn write_at(
        &self,
        from: UserId,
        to: UserId,
        product: Option<Uuid>,
        content: &str,
        time: &str,
    ) -> Uuid {
        self.application
            .query_one(
                "insert into messages (sender_id, receiver_id, product_id, content, created_at)
                 values ($1, $2, $3, $4, $5::text::timestamptz) returning id",
                &[&from.0, &to.0, &product, &content, &time],
            )
            .await
            .unwrap()
            .get(0)
    }
}

/// The name of a conversation.
fn conversation(other: UserId, product: Option<Uuid>) -> String {
    let mut name = format!("{other}__");
    match product {
        Some(product) => write!(name, "{product}").unwrap(),
        None => name.push_str("general"),
    }
    name
}

/// The path of a conversation's messages.
fn messages(other: UserId, product: Option<Uuid>) -> String {
    format!("/v1/conversations/{}/messages", conversation(other, product))
}

/// The path that marks a conversation as read.
fn read(other: UserId, product: Option<Uuid>) -> String {
    format!("/v1/conversations/{}/read", conversation(other, product))
}

/// One column of all rows.
fn column<'a>(rows: &'a Value, name: &str) -> Vec<&'a str> {
    let rows = rows.as_array().unwrap();
    rows.iter().map(|row| row[name].as_str().unwrap()).collect()
}
