//! Questions to the database on behalf of one session. Each goes through the pool and may lead through a
//! transaction pooler, so that nothing here relies on a session.

pub mod log;
pub mod replay;
