//! The private Postgres that all tests of this process share.

use herald::dev::cluster::Cluster;
use tokio::sync::OnceCell;

use super::{database::execute, gateway::ROLE};

static SHARED: OnceCell<Cluster> = OnceCell::const_new();

/// One for all. It ends with the process; tests that stop or restart Postgres need one of their own.
pub(crate) async fn shared() -> &'static Cluster {
    SHARED
        .get_or_init(async || {
            let cluster = Cluster::temporary().await.unwrap();
            // Roles belong to all databases of a cluster: tests at the same time would make them at the same time.
            let roles = format!(
                "create role authenticated nologin; create role {ROLE} login noinherit; grant authenticated to {ROLE}"
            );
            execute(&cluster.url("postgres"), &roles).await;
            cluster
        })
        .await
}
