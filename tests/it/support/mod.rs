//! What the tests stand on: a private Postgres, a database each, and a session that hears notifications.

pub(crate) mod authority;
pub(crate) mod blackhole;
pub(crate) mod caller;
pub(crate) mod cluster;
pub(crate) mod cutter;
pub(crate) mod database;
pub(crate) mod event_source;
pub(crate) mod follower;
pub(crate) mod gateway;
pub(crate) mod http;
pub(crate) mod phoenix;
pub(crate) mod pooler;
pub(crate) mod process;
pub(crate) mod scene;
pub(crate) mod socket;
pub(crate) mod supabase;
pub(crate) mod wire;
pub(crate) mod writers;

/// The tables of the application that Herald is put beside: the demo's.
pub(crate) const APPLICATION: &str = include_str!("../../../sql/demo/schema.sql");

/// Waits until a condition holds, and fails with its name if that takes longer than anything here should.
pub(crate) async fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + database::AT_MOST;
    while !holds() {
        assert!(
            tokio::time::Instant::now() < deadline,
            "in vain it was waited until {what}"
        );
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}
