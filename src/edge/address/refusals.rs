//! How often one address may be refused something.
//!
//! Requests that are refused, for their token above all, cost the gateway as much as good ones, and nobody's quota. So an address that is refused
//! more often than anybody who means well gets its refusals late, and thereby its next request. Nothing else changes for it: other people
//! may share the address, and their good requests are answered as ever.

use std::time::Duration;

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use tokio::time::{Instant, sleep};

use super::{Addresses, shared_by_customer};

/// The longest that a refusal is late. It is below the deadlines that clients have for an answer, so that they learn why.
const LATE_MAX: Duration = Duration::from_secs(5);

/// Holds refusals (status 4xx) back that come too often to one address.
///
/// # Cancel safety
/// Safe: a client that leaves is not answered.
pub(in crate::edge) async fn delay_refusals(
    State(addresses): State<Addresses>,
    request: Request,
    next: Next,
) -> Response {
    let origin = addresses.origin(&request);
    let response = next.run(request).await;
    if let Some(origin) = origin
        && response.status().is_client_error()
    {
        let origin = shared_by_customer(origin.address());
        let late = addresses.refusals.take_ahead(origin, LATE_MAX, Instant::now());
        if !late.is_zero() {
            addresses.metrics.refusals_delayed.inc();
            sleep(late).await;
        }
    }
    response
}
