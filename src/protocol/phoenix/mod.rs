//! What clients of Supabase Realtime say and hear: the dialect of Phoenix channels, and the filters of its changes.

pub mod change;
pub mod filter;
pub mod join;
pub mod message;
pub mod relation;
pub mod table;
