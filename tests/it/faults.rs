//! The hunt for what could lose a message or tell it twice: everything breaks that can, and what each device has is held against the log.

mod at_random;
mod churn;
mod disk;
mod failover;
mod fault;
mod restarts;
