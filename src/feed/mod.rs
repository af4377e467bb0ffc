//! The one way in for events: a connection that listens for the doorbell and reads what is new in the log.
//!
//! Invariants:
//! - The log is the truth. A ring that is lost, late or doubled changes nothing, because every read asks for what is
//!   new since the last snapshot.
//! - No transaction stays open on the feed's connection: it would keep Postgres from trimming its notification queue.
//! - A batch is published before it is handed over, and a batch that was begun is finished, even across a reconnect.

mod doorbell;
mod link;
mod listener;
mod reader;
mod retention;
mod watchdog;

pub use self::{
    listener::{Feed, FeedConfig},
    retention::Retention,
    watchdog::Watchdog,
};
