//! Herald: a realtime gateway beside a web application and its Postgres.
//!
//! Modules in the order in which a message meets them; `ARCHITECTURE.md` tells the same story in prose.

pub mod backoff;
pub mod tasks;
pub mod types;

pub mod config;

pub mod migrate;

pub mod cli;
