//! The cluster that all tests of this process share, and what they ask of a database.

use std::sync::atomic::{AtomicU32, Ordering};

use herald::dev::cluster::Cluster;
use tokio::sync::OnceCell;

static SHARED: OnceCell<Cluster> = OnceCell::const_new();
static DATABASES: AtomicU32 = AtomicU32::new(0);

/// One for all. It ends with the process; tests that stop or restart Postgres need one of their own.
pub(crate) async fn shared() -> &'static Cluster {
    SHARED
        .get_or_init(async || Cluster::temporary().await.unwrap())
        .await
}

/// The URL of a new and empty database of the shared cluster.
pub(crate) async fn empty_database() -> String {
    let name = format!("test_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
    let cluster = shared().await;
    cluster.create_database(&name).await.unwrap();
    cluster.url(&name)
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
