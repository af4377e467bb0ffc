//! What the tests stand on: a private Postgres, a database each, and a session that hears notifications.

pub(crate) mod authority;
pub(crate) mod caller;
pub(crate) mod clock;
pub(crate) mod cluster;
pub(crate) mod cutter;
pub(crate) mod database;
pub(crate) mod event_source;
pub(crate) mod follower;
pub(crate) mod gateway;
pub(crate) mod http;
pub(crate) mod network;
pub(crate) mod phoenix;
pub(crate) mod pooler;
pub(crate) mod process;
pub(crate) mod scene;
pub(crate) mod socket;
pub(crate) mod storm;
pub(crate) mod supabase;
pub(crate) mod wire;
pub(crate) mod writers;

/// The tables of the application that Herald is put beside: the demo's.
pub(crate) const APPLICATION: &str = include_str!("../../../sql/demo/schema.sql");

/// Says something that is shown if the test fails.
#[allow(clippy::print_stderr, reason = "the test harness keeps it until then")]
pub(crate) fn note(what: &std::fmt::Arguments<'_>) {
    eprintln!("{what}");
}

/// A number from the environment, for runs by hand that are to be repeated or to be longer.
#[allow(clippy::disallowed_methods, reason = "tests are configured by nothing else")]
pub(crate) fn number_from_environment(variable: &str) -> Option<u64> {
    let number = std::env::var(variable).ok()?;
    Some(
        number
            .parse()
            .unwrap_or_else(|_| panic!("{variable} is not a number")),
    )
}

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
