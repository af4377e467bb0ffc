//! Tests against a real Postgres and real sockets, in one binary so that they share one cluster and link once.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "clippy knows tests by their attribute, not what they call"
)]
#![allow(
    clippy::float_cmp,
    reason = "metrics are floats by their format, and the compared ones are counts"
)]

mod addresses;
mod api;
mod api_storms;
mod auth;
mod broadcast;
mod cluster;
mod cursors;
mod delivery;
mod demo;
mod documents;
mod doorbell;
mod events;
mod faults;
mod filters;
mod functions;
mod handshakes;
mod healthcheck;
mod life;
mod limits;
mod load;
mod migrate;
mod network;
mod parking;
mod phoenix;
mod plans;
mod postgres_tls;
mod process;
mod processes;
mod secrets;
mod send;
mod sessions;
mod supabase;
mod supervision;
mod support;
mod tail;
mod tls;
mod tokens_at_the_door;
mod view;
mod web_root;
