//! The private Postgres that all tests of this process share.

use herald::dev::cluster::Cluster;
use tokio::sync::OnceCell;

static SHARED: OnceCell<Cluster> = OnceCell::const_new();

/// One for all. It ends with the process; tests that stop or restart Postgres need one of their own.
pub(crate) async fn shared() -> &'static Cluster {
    SHARED
        .get_or_init(async || Cluster::temporary().await.unwrap())
        .await
}
