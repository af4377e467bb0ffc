//! A database for one test, and sessions in it.

use std::{
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use herald::{
    dev::cluster::{Cluster, SUPERUSER},
    tasks::Tasks,
};
use tokio::sync::mpsc;
use tokio_postgres::{AsyncMessage, Client, NoTls};
use uuid::Uuid;

use super::{APPLICATION, cluster, pooler};

/// Longer than anything a test waits for should take, so that what hangs fails.
pub(crate) const AT_MOST: Duration = Duration::from_secs(30);

static COUNT: AtomicU32 = AtomicU32::new(0);

/// An empty database, or one with the application in it.
pub(crate) struct Database {
    cluster: &'static Cluster,
    name: String,
    tasks: Tasks,
}

impl Database {
    /// A database without any table.
    pub(crate) async fn empty() -> Self {
        Self::made(cluster::shared().await, "").await
    }

    /// A database with the application's tables.
    pub(crate) async fn with_application() -> Self {
        let database = Self::empty().await;
        database.connect().await.batch_execute(APPLICATION).await.unwrap();
        database
    }

    /// A copy, as `create database ... template` makes it. Nobody may be connected to the original.
    pub(crate) async fn copy(&self) -> Self {
        Self::made(self.cluster, &format!("template {}", self.name)).await
    }

    async fn made(cluster: &'static Cluster, options: &str) -> Self {
        let name = format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let database = Self {
            cluster,
            name,
            tasks: Tasks::new(),
        };
        let postgres = database.open(&database.cluster.url("postgres")).await;
        postgres
            .batch_execute(&format!("create database {} {options}", database.name))
            .await
            .unwrap();
        database
    }

    /// The URL for the superuser.
    pub(crate) fn url(&self) -> String {
        self.cluster.url(&self.name)
    }

    /// The URL for the superuser by way of PgBouncer.
    pub(crate) async fn pooled_url(&self) -> String {
        pooler::shared().await.url(&self.name)
    }

    /// The URL for a role.
    pub(crate) fn url_as(&self, role: &str) -> String {
        self.url()
            .replace(&format!("://{SUPERUSER}@"), &format!("://{role}@"))
    }

    /// A name for a role of this test alone, since roles belong to the whole cluster.
    pub(crate) fn role(&self, name: &str) -> String {
        format!("{name}_{}", self.name)
    }

    /// A session as superuser.
    pub(crate) async fn connect(&self) -> Client {
        self.open(&self.url()).await
    }

    /// A session as some role.
    pub(crate) async fn connect_as(&self, role: &str) -> Client {
        self.open(&self.url_as(role)).await
    }

    async fn open(&self, url: &str) -> Client {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
        self.tasks.spawn("postgres", async move {
            // An error ends the test's own statement too, which is where it shows.
            let _ended = connection.await;
        });
        client
    }

    /// A session that hears rings, and for which writers ring as for a gateway that sleeps.
    pub(crate) async fn sleep_and_listen(&self) -> Listener {
        let listener = self.listen().await;
        let sleep = "select pg_advisory_lock_shared(5216701506134474756)";
        listener.client.batch_execute(sleep).await.unwrap();
        listener
    }

    /// A session that hears rings, if there are any.
    pub(crate) async fn listen(&self) -> Listener {
        let (client, mut connection) = tokio_postgres::connect(&self.url(), NoTls).await.unwrap();
        let (sender, heard) = mpsc::channel(10_000);
        self.tasks.spawn("listener", async move {
            while let Some(Ok(message)) =
                std::future::poll_fn(|context| connection.poll_message(context)).await
            {
                if let AsyncMessage::Notification(notification) = message {
                    sender.send(notification.channel().to_owned()).await.unwrap();
                }
            }
        });
        client
            .batch_execute("listen herald; listen until_now")
            .await
            .unwrap();
        Listener { client, heard }
    }

    /// What `pg_dump` writes about this database: tables, rows, rights and all.
    pub(crate) fn dump(&self) -> String {
        self.dump_with(&[])
    }

    /// What `pg_dump` writes with more flags.
    pub(crate) fn dump_with(&self, flags: &[&str]) -> String {
        let output = Command::new(self.cluster.program("pg_dump"))
            .args(flags)
            .arg(self.url())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let text = String::from_utf8(output.stdout).unwrap();
        // Each dump carries a random word in these two lines.
        text.lines()
            .filter(|line| !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict"))
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// Runs a script by `psql`, which has to succeed.
    pub(crate) fn psql(&self, script: &str) {
        use std::io::Write as _;
        let mut psql = Command::new(self.cluster.program("psql"))
            .args([
                "--quiet",
                "--no-psqlrc",
                "--set=ON_ERROR_STOP=1",
                "--output=/dev/null",
            ])
            .arg(self.url())
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        psql.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        assert!(psql.wait().unwrap().success());
    }
}

/// A session that collects notifications.
pub(crate) struct Listener {
    client: Client,
    heard: mpsc::Receiver<String>,
}

impl Listener {
    /// How many notifications have come since the last call. Postgres delivers them in the order of commits, so one
    /// sent now marks the end.
    pub(crate) async fn heard_so_far(&mut self) -> usize {
        self.client.batch_execute("notify until_now").await.unwrap();
        let mut count = 0;
        while tokio::time::timeout(AT_MOST, self.heard.recv())
            .await
            .unwrap()
            .unwrap()
            != "until_now"
        {
            count += 1;
        }
        count
    }
}

/// Runs statements over a connection of their own.
pub(crate) async fn execute(url: &str, statements: &str) {
    herald::dev::with_client(url, async |client| client.batch_execute(statements).await)
        .await
        .unwrap()
        .unwrap();
}

/// The one text that a query answers.
pub(crate) async fn ask(url: &str, query: &str) -> String {
    herald::dev::with_client(url, async |client| client.query_one(query, &[]).await)
        .await
        .unwrap()
        .unwrap()
        .get(0)
}

/// Writes people into `profiles`.
pub(crate) async fn people<const COUNT: usize>(client: &Client) -> [Uuid; COUNT] {
    let people = std::array::from_fn(|_| Uuid::new_v4());
    for (number, person) in people.iter().enumerate() {
        client
            .execute(
                "insert into profiles (id, username) values ($1, $2)",
                &[person, &format!("person {number}")],
            )
            .await
            .unwrap();
    }
    people
}
