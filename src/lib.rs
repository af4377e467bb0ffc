//! Herald: a realtime gateway beside a web application and its Postgres.
//!
//! Modules in the order of their layers, lowest first; each may use those of the layers above it in this list and
//! none below. `ARCHITECTURE.md` tells the life of one message through them.

pub mod backoff;
pub mod metrics;
pub mod tasks;
pub mod types;

pub mod protocol;

pub mod auth;
pub mod hub;
pub mod postgres;

pub mod dev;
pub mod migrate;
pub mod store;
pub mod tail;

pub mod fanout;
pub mod session;

pub mod edge;
pub mod feed;

pub mod app;
pub mod telemetry;

pub mod config;

pub mod cli;
