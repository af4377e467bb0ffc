//! What the fuzz targets in `fuzz_targets/` work on.
//!
//! The protocol is compiled from its sources and not taken from the package `herald`, with which all that a gateway needs
//! would come: that takes minutes to build for a fuzzer, and nothing of it is asked here. It can be done because the
//! protocol is pure, and so is what reads the headers of proxies and what tokens say; see the layers in `ARCHITECTURE.md`.

#[path = "../../src/edge/address/forwarded.rs"]
pub mod forwarded;
#[path = "../../src/protocol/mod.rs"]
pub mod protocol;
pub mod table;
pub mod tail;
#[path = "../../src/auth/token/mod.rs"]
pub mod token;
#[path = "../../src/types.rs"]
pub mod types;
