//! One private Postgres for all tests that run at the same time; the last of them to end lets it go.

use std::sync::{Arc, Weak};

use herald::dev::cluster::Cluster;
use tokio::sync::Mutex;

static SHARED: Mutex<Weak<Cluster>> = Mutex::const_new(Weak::new());

/// The cluster that is running, or a new one.
pub(crate) async fn shared() -> Arc<Cluster> {
    let mut shared = SHARED.lock().await;
    if let Some(cluster) = shared.upgrade() {
        return cluster;
    }
    let cluster = Arc::new(Cluster::temporary().await.unwrap());
    *shared = Arc::downgrade(&cluster);
    cluster
}
