//! The real clients of Supabase Realtime against the gateway, in three versions, unmodified.

mod changes;
mod channels;
mod returning;
mod tokens;
mod topics;

use std::net::SocketAddr;

use herald::types::UserId;
use serde_json::{Value, json};

use crate::support::{
    gateway::token,
    scene::Scene,
    supabase::{Channel, Client, Driver, Library, Package, Settings},
};

/// Runs each of these tests with both packages in all versions.
macro_rules! with_every_package {
    ($($test:ident)*) => {
        $crate::supabase::with_packages! {
            realtime_newest: realtime(NEWEST), realtime_middle: realtime(MIDDLE), realtime_oldest: realtime(OLDEST),
            supabase_newest: supabase(NEWEST), supabase_middle: supabase(MIDDLE), supabase_oldest: supabase(OLDEST);
            [$($test)*]
        }
    };
}
use with_every_package;

/// Runs each of these tests with `realtime-js` in all versions; `supabase-js` has it inside.
macro_rules! with_every_version {
    ($($test:ident)*) => {
        $crate::supabase::with_packages! {
            newest: realtime(NEWEST), middle: realtime(MIDDLE), oldest: realtime(OLDEST);
            [$($test)*]
        }
    };
}
use with_every_version;

macro_rules! with_packages {
    ($($name:ident: $library:ident($version:ident)),+; $tests:tt) => {
        $($crate::supabase::with_packages! { @ $name $library $version $tests })+
    };
    (@ $name:ident $library:ident $version:ident [$($test:ident)*]) => {
        mod $name {
            use $crate::support::supabase::{$version, Package};

            $(#[tokio::test]
            async fn $test() {
                super::$test(Package::$library($version)).await;
            })*
        }
    };
}
use with_packages;

/// Whoever is told of messages: the changes of all messages that have this person on one side.
fn messages_of(column: &str, user: UserId) -> Value {
    binding("*", &format!("{column}=eq.{user}"))
}

/// Changes of one kind, with a filter.
fn binding(event: &str, filter: &str) -> Value {
    json!({"event": event, "schema": "public", "table": "messages", "filter": filter})
}

/// A subscription to changes only.
fn changes(bindings: &[Value]) -> Value {
    json!({"changes": bindings})
}

/// A client whose token is there before its first channel, by the means that its package has for that.
async fn client_of(driver: &Driver, package: Package, gateway: SocketAddr, user: UserId) -> Client {
    client_by(driver, package, Settings::new(package, gateway), user).await
}

/// As [`client_of`], with settings of one's own.
async fn client_by(driver: &Driver, package: Package, settings: Settings, user: UserId) -> Client {
    let token = token(user);
    match package.library {
        Library::Realtime => {
            let client = driver.client(settings).await;
            client.set_auth(Some(&token)).await;
            client
        }
        Library::Supabase => driver.client(settings.callback(&token, None)).await,
    }
}

/// A channel of what a user receives, which is live.
async fn inbox(client: &Client, user: UserId) -> Channel {
    let subscription = changes(&[messages_of("receiver_id", user)]);
    let mut channel = client.subscribe("inbox", &subscription).await;
    channel.subscribed().await;
    channel.live().await;
    channel
}

/// A scene, and who drives the clients.
async fn stage<const PEOPLE: usize>() -> (Scene<PEOPLE>, Driver) {
    (Scene::new().await, Driver::start())
}
