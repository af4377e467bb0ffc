//! The HTTP API: what a page loads and what it sends.
//!
//! Every call acts as the user whose token it brings, and every error is a problem (RFC 9457). Answers are private to their
//! caller, so that nothing between may keep them (RFC 9111 §5.2.2.5).

pub(super) mod body;
mod conversations;
mod description;
mod parameters;

use axum::{
    Router,
    extract::{MatchedPath, Request, State},
    http::{HeaderValue, header},
    middleware::{Next, from_fn, from_fn_with_state},
    response::Response,
};
use tokio::time::Instant;
use tower_http::compression::CompressionLayer;
use utoipa_axum::{router::OpenApiRouter, routes};

use self::description::Description;
use super::Edge;
use crate::metrics::{ByRequest, observe};

/// The routes of the API, and of their description.
pub(super) fn routes(edge: &Edge) -> Router<Edge> {
    let (calls, openapi) = OpenApiRouter::with_openapi(description::frame())
        .routes(routes!(conversations::list))
        .routes(routes!(conversations::messages, conversations::send))
        .routes(routes!(conversations::mark_read))
        .split_for_parts();
    calls
        .route_layer(from_fn(private))
        .route_layer(from_fn_with_state(edge.clone(), measured))
        .merge(Description::new(openapi).route())
        .route_layer(CompressionLayer::new())
}

/// Forbids everything between the gateway and the caller to keep the answer.
async fn private(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Counts and times a call.
async fn measured(State(edge): State<Edge>, request: Request, next: Next) -> Response {
    let path = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("", MatchedPath::as_str);
    let operation = match (path.rsplit('/').next(), request.method().as_str()) {
        (Some("conversations"), _) => "list_conversations",
        (Some("messages"), "POST") => "send_message",
        (Some("messages"), _) => "list_messages",
        _ => "mark_read",
    };
    let began = Instant::now();
    let response = next.run(request).await;
    let status = response.status().as_u16();
    edge.metrics
        .requests
        .get_or_create(&ByRequest { operation, status })
        .inc();
    observe(&edge.metrics.request_duration, began.elapsed());
    response
}
