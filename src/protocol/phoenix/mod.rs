//! What clients of Supabase Realtime say and hear: the dialect of Phoenix channels, and the filters of its
//! changes.

pub mod filter;
pub mod relation;
