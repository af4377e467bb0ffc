//! What the benchmarks share: a database and a gateway as processes of their own, sockets, and how figures are printed.
#![allow(
    dead_code,
    reason = "each benchmark is a program of its own and uses its part of this"
)]

pub(crate) mod caller;
pub(crate) mod channel;
pub(crate) mod database;
pub(crate) mod figures;
pub(crate) mod gateway;
pub(crate) mod people;
pub(crate) mod samples;
pub(crate) mod socket;

use std::time::Duration;

use criterion::Criterion;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::Runtime;

/// Whether `cargo bench` runs this program. `cargo test --all-targets` starts it too, and has no use for a long run.
pub(crate) fn is_asked_for() -> bool {
    std::env::args().any(|argument| argument == "--bench")
}

/// Shorter than criterion's own times, so that no benchmark takes more than about a minute.
pub(crate) fn brisk() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3))
}

/// The runtime of a benchmark's own side, with as many threads as the gateway's.
pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// Raises the bound on open files for this process and the gateways that it starts, each of which has so many sockets.
pub(crate) fn allow_sockets(count: u32) {
    let now = getrlimit(Resource::Nofile);
    let enough = u64::from(count) + 500;
    assert!(
        now.maximum.is_none_or(|maximum| maximum >= enough),
        "the hard limit of open files is below {enough}: raise it with `ulimit -Hn`"
    );
    let wanted = Rlimit {
        current: now.maximum,
        maximum: now.maximum,
    };
    setrlimit(Resource::Nofile, wanted).unwrap();
}
