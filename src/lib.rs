//! Herald: a realtime gateway beside a web application and its Postgres.
//!
//! Modules in the order of their layers, lowest first: each may use those that stand in a group above its own, and no
//! others. `ARCHITECTURE.md` tells the life of one message through them.

pub mod backoff;
pub mod memory;
pub mod metrics;
pub mod quota;
pub mod secret_file;
pub mod tasks;
pub mod types;

pub mod log_context;
pub mod protocol;

pub mod auth;
pub mod hub;
pub mod postgres;

pub mod client;
pub mod migrate;
pub mod store;

pub mod dev;
pub mod fanout;
pub mod load;
pub mod session;
pub mod tail;

pub mod edge;
pub mod feed;

pub mod app;
pub mod telemetry;

pub mod config;

pub mod cli;
