//! Tests against a real Postgres and real sockets, in one binary so that they share one cluster.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "clippy knows tests by their attribute, not what they call"
)]

mod cluster;
mod demo;
mod postgres;
mod processes;
