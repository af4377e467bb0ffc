//! What the tests stand on: a private Postgres, a database each, and a session that hears notifications.

pub(crate) mod cluster;
pub(crate) mod database;

/// The tables of the application that Herald is put beside: the demo's.
pub(crate) const APPLICATION: &str = include_str!("../../../sql/demo/schema.sql");
