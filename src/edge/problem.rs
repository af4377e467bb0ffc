//! Errors as RFC 9457 problem bodies. What they say helps the caller and tells nothing about the inside.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;

use crate::auth::AuthError;

/// An error as the caller sees it.
#[derive(Clone, Debug)]
pub struct Problem {
    status: StatusCode,
    detail: &'static str,
    headers: Vec<(header::HeaderName, &'static str)>,
}

impl Problem {
    const fn new(status: StatusCode, detail: &'static str) -> Self {
        Self {
            status,
            detail,
            headers: Vec::new(),
        }
    }

    fn with(mut self, name: header::HeaderName, value: &'static str) -> Self {
        self.headers.push((name, value));
        self
    }

    /// No such path.
    pub const fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "There is nothing at this path.")
    }

    /// The path has other methods.
    pub const fn method_not_allowed() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "This path does not answer to this method.",
        )
    }

    /// The token is missing or not accepted.
    pub fn unauthorized(error: AuthError) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, error.detail()).with(header::WWW_AUTHENTICATE, "Bearer")
    }

    /// A page of another origin.
    pub const fn origin_not_allowed() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "Pages of this origin may not connect; the gateway's operator can allow it.",
        )
    }

    /// A request for a WebSocket that is no upgrade, or one of another version (RFC 6455 §4.4). The answer names the
    /// protocol to upgrade to (RFC 9110 §15.5.22).
    pub fn upgrade_required() -> Self {
        Self::new(
            StatusCode::UPGRADE_REQUIRED,
            "This path speaks WebSocket version 13: connect with a WebSocket client.",
        )
        .with(header::CONNECTION, "Upgrade")
        .with(header::UPGRADE, "websocket")
        .with(header::SEC_WEBSOCKET_VERSION, "13")
    }

    /// The handshake lacks something (RFC 6455 §4.2.1).
    pub const fn bad_handshake() -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "The WebSocket handshake has no Sec-WebSocket-Key.",
        )
    }

    /// The query string is no query string.
    pub const fn bad_query() -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "The query string could not be read: percent-encode its values.",
        )
    }

    /// The gateway cannot take sessions at this moment.
    pub fn unavailable(detail: &'static str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail).with(header::RETRY_AFTER, "1")
    }

    /// The gateway holds as many connections as it may.
    pub fn too_many_connections() -> Self {
        Self::unavailable("The gateway has as many connections as it may have; try again later.")
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = json!({
            "type": "about:blank",
            "title": self.status.canonical_reason(),
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        let mut response = (self.status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        for (name, value) in self.headers {
            headers.insert(name, HeaderValue::from_static(value));
        }
        response
    }
}
