//! A client of the HTTP API, and what every client of a gateway has: its address, its credentials, its trust in
//! certificates, and care with what strangers wrote.
//!
//! Invariants:
//! - The token travels in a header, never in a URL, and is shown nowhere.
//! - Every call has a deadline, and every answer a greatest size.
//! - A message has its id before it is sent for the first time, so that a send whose answer was lost is repeated safely.
//!
//! Each call has a connection of its own: its callers call once, or about once a second. It deliberately follows no
//! redirects, since a token is for the gateway that was named.

mod address;
mod credentials;
mod escape;
mod gateway;
mod send;
mod tls;

pub use self::{
    address::{GatewayUrl, GatewayUrlError},
    credentials::{Credentials, Signer},
    escape::Escaped,
    gateway::{CallError, Draft, GatewayClient, Refusal, Sent},
    send::{SendError, Waiting, send_patiently},
    tls::{HttpConnector, TrustError, believing_anybody, http_connector, tls_complaint, trusted},
};
