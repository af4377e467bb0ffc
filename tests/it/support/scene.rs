//! What most tests of sessions begin with: a database with Herald in it, some people, one who writes, and a gateway.

use herald::{app::AppConfig, protocol::snapshot::Snapshot, types::UserId};
use serde_json::Value;
use tokio_postgres::Client;
use uuid::Uuid;

use super::{
    database::{Database, people},
    gateway::{Gateway, config, migrate, token},
    socket::Socket,
    wait_until,
};

/// A database of its own, its people, and a gateway on it.
pub(crate) struct Scene<const PEOPLE: usize> {
    pub(crate) database: Database,
    /// The application: it writes by plain SQL.
    pub(crate) application: Client,
    pub(crate) people: [UserId; PEOPLE],
    pub(crate) gateway: Gateway,
}

impl<const PEOPLE: usize> Scene<PEOPLE> {
    /// With a gateway of default settings, whose feed listens.
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// With a gateway whose settings were changed.
    pub(crate) async fn with(change: impl FnOnce(&mut AppConfig)) -> Self {
        let database = Database::with_application().await;
        migrate(&database.url()).await;
        let application = database.connect().await;
        let people = people::<PEOPLE>(&application).await.map(UserId);
        let mut config = config(&database.url());
        change(&mut config);
        Self {
            gateway: Gateway::start_with(config).await,
            database,
            application,
            people,
        }
    }

    /// Opens a session, and answers with its first frame too.
    pub(crate) async fn connect(&self, user: UserId) -> (Socket, Value) {
        Socket::connect(self.gateway.address(), &token(user), None).await
    }

    /// Opens a session that comes back with a cursor.
    pub(crate) async fn come_back(&self, user: UserId, cursor: &str) -> (Socket, Value) {
        Socket::connect(self.gateway.address(), &token(user), Some(cursor)).await
    }

    /// Writes a message, as the application does.
    pub(crate) async fn write(&self, sender: UserId, receiver: UserId, content: &str) -> Uuid {
        write(&self.application, sender, receiver, content).await
    }

    /// Waits until the feed has everything that was committed before: a session that opens from now on is not told.
    pub(crate) async fn caught_up(&self) {
        let now = "select herald.current_life(), pg_current_snapshot()::text";
        let now = self.application.query_one(now, &[]).await.unwrap();
        let now = Snapshot::read(now.get::<_, i64>(0).try_into().unwrap(), now.get(1)).unwrap();
        wait_until("the feed has caught up", || {
            let position = self.gateway.app.hub().position.newest();
            position.is_some_and(|position| position.snapshot.covers(&now))
        })
        .await;
    }

    /// Runs statements of the application.
    pub(crate) async fn execute(&self, statements: &str) {
        self.application.batch_execute(statements).await.unwrap();
    }

    /// The serial numbers of everything in the log that concerns a user, ascending.
    pub(crate) async fn logged(&self, user: UserId) -> Vec<i64> {
        let rows = self
            .application
            .query(
                "select seq from herald.log where $1 in (sender_id, receiver_id) order by seq",
                &[&user.0],
            )
            .await
            .unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }
}

/// The serial number of an event.
pub(crate) fn seq(event: &Value) -> i64 {
    event["seq"].as_i64().unwrap()
}

/// What the message of an event says.
pub(crate) fn content(event: &Value) -> &str {
    event["message"]["content"].as_str().unwrap()
}

/// Writes a message as the application does, also where there is no scene, or its gateway is away.
pub(crate) async fn write(application: &Client, sender: UserId, receiver: UserId, content: &str) -> Uuid {
    application
        .query_one(
            "insert into public.messages (sender_id, receiver_id, content) values ($1, $2, $3) returning id",
            &[&sender.0, &receiver.0, &content],
        )
        .await
        .unwrap()
        .get(0)
}
