//! Waiting for conditions, and looking at processes.

use std::{process::Command, time::Duration};

use tokio::time::Instant;

/// Much longer than anything takes that is waited for; a machine under load is slow.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for a condition, and says what was awaited if it does not come.
pub(crate) async fn until(what: &str, mut reached: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !reached().await {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Whether there is such a process; one that has ended and is not yet collected does not count.
pub(crate) fn lives(process: u32) -> bool {
    let state = Command::new("ps")
        .args(["-o", "stat=", "-p", &process.to_string()])
        .output()
        .unwrap();
    let state = String::from_utf8(state.stdout).unwrap();
    !state.trim().is_empty() && !state.trim().starts_with('Z')
}

/// Sends a signal by its name, `KILL` or `INT` say.
pub(crate) fn signal(name: &str, process: u32) {
    let sent = Command::new("kill")
        .args([&format!("-{name}"), &process.to_string()])
        .status()
        .unwrap();
    assert!(sent.success());
}
