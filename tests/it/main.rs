//! Tests against a real Postgres and real sockets, in one binary so that they share one cluster and link once.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "clippy knows tests by their attribute, not what they call"
)]

mod auth;
mod cluster;
mod delivery;
mod demo;
mod migrate;
mod postgres_tls;
mod processes;
mod support;
