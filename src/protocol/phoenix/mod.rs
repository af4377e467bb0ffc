//! What clients of Supabase Realtime say and hear: the dialect of Phoenix channels, and the filters of its

pub mod relation;
