//! A gateway in this process, on a port that the kernel chose.

use std::{net::SocketAddr, time::Duration};

use herald::{
    app::{App, AppConfig},
    auth::{AuthConfig, Secret, issue},
    dev::cluster::SUPERUSER,
    edge::acceptor,
    hub::FeedState,
    migrate::{self, GatewayRole},
    postgres::Settings,
    types::UserId,
};
use tokio_postgres::{Client, NoTls};

use super::wait_until;

/// The shared secret of every gateway in the tests.
pub(crate) const SECRET: &str = "a secret for tests, long enough for HS256";

/// How long a drain may take in a test.
const GRACE: Duration = Duration::from_secs(10);

/// A token for a user that ends in an hour.
pub(crate) fn token(user: UserId) -> String {
    token_for(user, Duration::from_secs(3600))
}

/// A token for a user that ends after this time.
pub(crate) fn token_for(user: UserId, lifetime: Duration) -> String {
    let secret = Secret::new(SECRET).unwrap();
    issue(&secret, user, None, None, lifetime)
        .unwrap()
        .expose()
        .to_owned()
}

/// The same database, for the gateway's role in place of its owner.
pub(crate) fn as_gateway(url: &str) -> String {
    url.replacen(&format!("//{SUPERUSER}@"), &format!("//{ROLE}@"), 1)
}

/// The settings of a gateway on this database.
pub(crate) fn config(url: &str) -> AppConfig {
    let auth = AuthConfig {
        secrets: Some(Secret::new(SECRET).unwrap().into()),
        ..AuthConfig::default()
    };
    AppConfig::with_defaults(Settings::parse(&as_gateway(url)).unwrap(), auth)
}

/// A running gateway.
pub(crate) struct Gateway {
    pub(crate) app: App,
}

impl Gateway {
    /// Starts with the default settings, and waits until the feed listens. The database has been migrated.
    pub(crate) async fn start(url: &str) -> Self {
        Self::start_with(config(url)).await
    }

    /// Starts, and waits until the feed listens.
    pub(crate) async fn start_with(config: AppConfig) -> Self {
        let gateway = Self::start_on("127.0.0.1:0".parse().unwrap(), config).await;
        wait_until("the feed listens", || {
            *gateway.app.feed().current() == FeedState::Listening
        })
        .await;
        gateway
    }

    /// Starts on a given address, and does not wait for the feed.
    pub(crate) async fn start_on(address: SocketAddr, config: AppConfig) -> Self {
        let listener = acceptor::bind(address).unwrap();
        Self {
            app: App::start(config, listener).await.unwrap(),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.app.address()
    }

    /// Waits until the feed needs a ring to read.
    pub(crate) async fn asleep(&self) {
        wait_until("the feed sleeps", || self.metric("feed_asleep") > 0.0).await;
    }

    /// Drains it; everything has to have ended within the grace.
    pub(crate) async fn stop(self) {
        self.app.drain(GRACE).await.unwrap();
    }

    /// The value of one line of `/metrics`, without its prefix `herald_`; zero if there is no such line.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        metric_in(&self.app.metrics().render().unwrap(), name)
    }
}

/// The value of one line of a metrics page.
pub(crate) fn metric_in(page: &str, name: &str) -> f64 {
    let prefix = format!("herald_{name} ");
    let line = page.lines().find_map(|line| line.strip_prefix(&prefix));
    line.map_or(0.0, |value| value.parse().unwrap())
}

/// The role that gateways of the tests work as: the least one.
pub(crate) const ROLE: &str = "herald_gateway";

/// Installs Herald into a database, with a role for the gateway.
pub(crate) async fn migrate(url: &str) {
    let (mut client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    let work = async move {
        migrate::install(&mut client, Duration::from_secs(30))
            .await
            .unwrap();
        install_role(&mut client, "authenticated").await;
    };
    let ((), closed) = tokio::join!(work, connection);
    closed.unwrap();
}

/// Gives the gateway's role what it needs where users have this role, or none of their own if it is empty.
pub(crate) async fn install_role(client: &mut Client, of_users: &str) {
    let role = GatewayRole {
        name: ROLE.to_owned(),
        of_users: of_users.to_owned(),
    };
    migrate::install_gateway_role(client, &role, Duration::from_secs(30))
        .await
        .unwrap();
}
