//! Where the outside meets the gateway: TCP connections, HTTP, the upgrade to a WebSocket, and Server-Sent Events.
//!
//! Invariants:
//! - Nobody who has not shown a valid token reaches a session.
//! - Every connection has a request id, which is in its span, its answers and its session.
//! - No token and no query string reaches the log.

pub mod acceptor;
mod caller;
mod connection;
mod door;
mod events;
pub mod health;
pub mod origin;
mod problem;
mod socket;
mod stream;

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderName, HeaderValue},
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::get,
};
use deadpool_postgres::Pool;
use tokio_util::sync::CancellationToken;

pub use self::{connection::ConnectionId, origin::AllowedOrigins, problem::Problem};
use crate::{auth::Verifier, hub::FeedStatus, metrics::Metrics, session::Sessions, tasks::Tasks};

/// The header that carries the request id of a connection.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What the edge needs of the rest.
#[derive(Clone, Debug)]
pub struct Edge {
    /// Runs a session once a socket is open.
    pub sessions: Arc<Sessions>,
    /// Judges tokens.
    pub verifier: Arc<Verifier>,
    /// What the feed is doing.
    pub feed: FeedStatus,
    /// Asked by `/readyz` whether it answers.
    pub pool: Pool,
    /// What happened, in numbers.
    pub metrics: Arc<Metrics>,
    /// Starts session tasks.
    pub tasks: Tasks,
    /// Cancelled when a shutdown begins.
    pub draining: CancellationToken,
    /// Whose pages may open a session.
    pub origins: Arc<AllowedOrigins>,
    /// What the pool answered last.
    pub probe: Arc<health::Probe>,
}

/// All routes of the gateway.
pub fn router(edge: Edge) -> Router {
    Router::new()
        .route("/v1/socket", get(socket::open))
        .route("/v1/events", get(events::open))
        .route("/healthz", get(health::live))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(health::metrics))
        .fallback(|| async { Problem::not_found() })
        .method_not_allowed_fallback(|| async { Problem::method_not_allowed() })
        .layer(from_fn(identified))
        .with_state(edge)
}

/// The answer to every request on a connection beyond the limit.
pub fn refusing_router(metrics: Arc<Metrics>) -> Router {
    Router::new()
        .fallback(|| async { Problem::too_many_connections() })
        .layer(from_fn_with_state(
            metrics,
            |State(metrics): State<Arc<Metrics>>, request: Request, next: Next| async move {
                metrics.refuse("too_many_connections");
                identified(request, next).await
            },
        ))
}

/// Puts the connection's request id on the answer and a line in the log. The line has the path and not the query,
/// where a token may be.
async fn identified(request: Request, next: Next) -> Response {
    let id = request.extensions().get::<ConnectionId>().copied();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let mut response = next.run(request).await.into_response();
    tracing::debug!(%method, path, status = response.status().as_u16(), "answered");
    if let Some(value) = id.and_then(|id| HeaderValue::from_str(&id.to_string()).ok()) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}
