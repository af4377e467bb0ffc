//! Questions to the database on behalf of one user, and what the gateway keeps there about its users' channels. Each goes
//! through the pool and may lead through a transaction pooler, so that nothing here relies on a session.

mod acting;
pub mod conversations;
pub mod log;
pub mod parking;
mod place;
pub mod refusal;
pub mod replay;
