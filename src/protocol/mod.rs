//! What travels over the wire, and the arithmetic of cursors. Pure: no input or output, no clock, no runtime.

pub mod client_frame;
pub mod close;
pub mod conversation;
pub mod cursor;
pub mod event;
pub mod event_stream;
pub mod page;
pub mod phoenix;
pub mod rejoin;
pub mod server_frame;
pub mod snapshot;
mod text_frame;
pub mod topic;
