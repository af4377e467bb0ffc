//! A private Postgres with the application's tables and Herald's migration.

use std::time::Duration;

use herald::{
    dev::cluster::{Cluster, ClusterBuilder, Stop},
    migrate,
    tasks::Tasks,
};
use tokio_postgres::{Client, NoTls};

/// The tables of the application that Herald is put beside: the demo's.
const APPLICATION: &str = include_str!("../../sql/demo/schema.sql");

/// The name of the database.
const NAME: &str = "bench";

/// A database, and sessions in it.
pub(crate) struct Database {
    cluster: Cluster,
    tasks: Tasks,
}

impl Database {
    /// A database whose Postgres writes to disk at every commit, as in production, and counts statements if this
    /// installation can.
    pub(crate) async fn durable() -> Self {
        Self::durable_with("").await
    }

    /// The same, with rows that these statements write before Herald comes, so that its log does not know them.
    pub(crate) async fn durable_with(rows: &str) -> Self {
        let settings = ClusterBuilder::temporary().setting("fsync", "on");
        let cluster = settings.start().await.unwrap();
        let database = Self {
            cluster,
            tasks: Tasks::new(),
        };
        if database.can_count_statements().await {
            let client = database.open("postgres").await;
            client
                .batch_execute("alter system set shared_preload_libraries = 'pg_stat_statements'")
                .await
                .unwrap();
            database.cluster.stop(Stop::Fast).await.unwrap();
            database.cluster.start_again().await.unwrap();
        }
        database.with_tables(rows).await
    }

    /// A database for questions, whose Postgres does not wait for the disk.
    pub(crate) async fn hasty() -> Self {
        let database = Self {
            cluster: Cluster::temporary().await.unwrap(),
            tasks: Tasks::new(),
        };
        database.with_tables("").await
    }

    async fn with_tables(self, rows: &str) -> Self {
        self.cluster.create_database(NAME).await.unwrap();
        let mut client = self.connect().await;
        client.batch_execute(APPLICATION).await.unwrap();
        client.batch_execute(rows).await.unwrap();
        migrate::install(&mut client, Duration::from_secs(30))
            .await
            .unwrap();
        self
    }

    /// Whether `pg_stat_statements` is installed on this machine.
    pub(crate) async fn can_count_statements(&self) -> bool {
        let client = self.open("postgres").await;
        let found = "select from pg_available_extensions where name = 'pg_stat_statements'";
        !client.query(found, &[]).await.unwrap().is_empty()
    }

    /// The URL for the superuser.
    pub(crate) fn url(&self) -> String {
        self.cluster.url(NAME)
    }

    /// A session as superuser.
    pub(crate) async fn connect(&self) -> Client {
        self.open(NAME).await
    }

    async fn open(&self, name: &str) -> Client {
        let (client, connection) = tokio_postgres::connect(&self.cluster.url(name), NoTls)
            .await
            .unwrap();
        self.tasks.spawn("postgres", async move {
            // If it breaks, the statements of this session fail, which is where it shows.
            let _ended = connection.await;
        });
        client
    }

    /// Which Postgres it is.
    pub(crate) async fn version(&self) -> String {
        let client = self.connect().await;
        let row = client.query_one("show server_version", &[]).await.unwrap();
        row.get(0)
    }
}
