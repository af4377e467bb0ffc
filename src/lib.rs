//! Herald: a realtime gateway beside a web application and its Postgres.
//!
//! Modules in the order in which a message meets them; `ARCHITECTURE.md` tells the same story in prose.

pub mod backoff;
pub mod metrics;
pub mod tasks;
pub mod types;

pub mod config;
pub mod hub;
pub mod protocol;

pub mod auth;
pub mod dev;
pub mod postgres;
pub mod store;

pub mod session;

pub mod edge;

pub mod fanout;
pub mod feed;
pub mod migrate;

pub mod migrate;

pub mod cli;
