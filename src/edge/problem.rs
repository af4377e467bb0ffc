//! Errors as RFC 9457 problem bodies. What they say helps the caller and tells nothing about the inside.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;

use crate::{auth::AuthError, store::refusal::Refusal};

/// An error as the caller sees it.
#[derive(Clone, Debug)]
pub struct Problem {
    status: StatusCode,
    detail: &'static str,
    headers: Vec<(header::HeaderName, &'static str)>,
    /// Whether its detail is also where Supabase's clients look for it.
    tells_supabase: bool,
}

impl Problem {
    /// A status, and a sentence for the caller that says what to do.
    pub const fn new(status: StatusCode, detail: &'static str) -> Self {
        Self {
            status,
            detail,
            headers: Vec::new(),
            tells_supabase: false,
        }
    }

    pub(super) fn with(mut self, name: header::HeaderName, value: &'static str) -> Self {
        self.headers.push((name, value));
        self
    }

    /// The same for one of Supabase's clients, which reads what was wrong from the body's `error`.
    #[must_use]
    pub const fn for_supabase(mut self) -> Self {
        self.tells_supabase = true;
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

    /// A request without TLS, where TLS is spoken. It is not led on to where it should have gone: whatever secret it holds has
    /// been said openly, and whoever wrote the address has to learn of it.
    pub fn tls_required() -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "This port speaks TLS: use https:// or wss://.",
        )
        .with(header::CONNECTION, "close")
    }

    /// The query string is no query string.
    pub const fn bad_query() -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "The query string could not be read: percent-encode its values.",
        )
    }

    /// The path names no conversation.
    pub const fn bad_conversation() -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "The path names no conversation: write <user id>__<product id> or <user id>__general, ids in lower case.",
        )
    }

    /// `limit` is out of bounds.
    pub const fn bad_limit() -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "`limit` has to be a whole number from 1 to 200.",
        )
    }

    /// `before` is no token of a page.
    pub const fn bad_page() -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "`before` has to be the `next` of another page of this list, exactly as it came.",
        )
    }

    /// The body is not what the call expects.
    pub const fn bad_body() -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "The body could not be read: send a JSON object in UTF-8 with `content` as a string.",
        )
    }

    /// The message's id is none.
    pub const fn bad_id() -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "`id` has to be a UUID in lower case with hyphens.",
        )
    }

    /// The content holds what Postgres cannot keep.
    pub const fn content_has_nul() -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "The content holds a NUL character, which cannot be stored; leave it out.",
        )
    }

    /// There is nothing in the content.
    pub const fn content_empty() -> Self {
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "The content is empty; a message needs at least one visible character.",
        )
    }

    /// There is too much in the content.
    pub const fn content_too_long() -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "The content has more than 10,000 characters; send it in parts.",
        )
    }

    /// The body is larger than any message.
    pub const fn body_too_large() -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "The body has more than 256 KiB, and no message needs that many.",
        )
    }

    /// The body did not arrive in time.
    pub const fn body_too_slow() -> Self {
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            "The body did not arrive within 10 seconds; send it again.",
        )
    }

    /// The body calls itself something else than JSON.
    pub const fn unsupported_media_type() -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "Send the body as JSON, with the header Content-Type: application/json.",
        )
    }

    /// The body is no batch of broadcasts.
    pub const fn bad_batch() -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "The body could not be read: send {\"messages\":[{\"topic\":\"…\",\"event\":\"…\",\"payload\":{}}]} in UTF-8, with up to 100 messages.",
        )
    }

    /// The payload of a broadcast is not what it calls itself.
    pub const fn bad_payload() -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "The payload could not be read: send it as JSON in UTF-8, or as application/octet-stream.",
        )
    }

    /// A topic or an event without a name, or with one that is too long.
    pub const fn bad_topic() -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "Topic and event need names: of up to 246 bytes for a topic, and up to 255 for an event.",
        )
    }

    /// The person may not speak on this topic.
    pub const fn topic_not_allowed() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "This user may not use this topic; the gateway's operator can allow it.",
        )
    }

    /// The payload calls itself something that is not passed on.
    pub const fn unsupported_payload() -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "Send the payload as application/json or as application/octet-stream.",
        )
    }

    /// More is said on the topic than may be.
    pub fn too_many_messages() -> Self {
        Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            "Too many messages per second on this topic; wait a moment.",
        )
        .with(header::RETRY_AFTER, "1")
    }

    /// Something is wrong with the gateway itself.
    pub const fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "The gateway could not do this; its log tells the operator more.",
        )
    }

    /// A user calls too often.
    pub fn too_many_requests() -> Self {
        Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            "This user calls more often than the gateway allows; wait a moment.",
        )
        .with(header::RETRY_AFTER, "1")
    }

    /// A call that the database did not carry out.
    pub fn of_refusal(refusal: &Refusal) -> Self {
        match refusal {
            Refusal::Unavailable(_) => {
                Self::unavailable("The database cannot be asked right now; try again, with the same id.")
            }
            Refusal::Role(_) | Refusal::Bookkeeping => Self::unavailable(
                "The gateway cannot act for its users right now; its log tells the operator why.",
            ),
            Refusal::Forbidden(_) => Self::new(
                StatusCode::FORBIDDEN,
                "The application's rules do not allow this.",
            ),
            Refusal::NotFound => Self::new(
                StatusCode::NOT_FOUND,
                "There is no such conversation: the person or the product does not exist.",
            ),
            Refusal::Conflict => Self::new(
                StatusCode::CONFLICT,
                "The id belongs to something else; choose a new one.",
            ),
            Refusal::Unacceptable(_) | Refusal::NotWritten => Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "The application does not take this message.",
            ),
            Refusal::Failed(_) => Self::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "The application's database raised an error; the gateway's log tells the operator more.",
            ),
        }
    }

    /// The gateway cannot take sessions at this moment.
    pub fn unavailable(detail: &'static str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail).with(header::RETRY_AFTER, "1")
    }

    /// The gateway holds as many connections as it may.
    pub fn too_many_connections() -> Self {
        Self::unavailable("The gateway has as many connections as it may have; try again later.")
    }

    /// The gateway has as much memory as it may have.
    pub fn short_of_memory() -> Self {
        Self::unavailable("The gateway has as much memory as it may have; try again later.")
    }

    /// As many connections as there may be come from the caller's address.
    pub fn too_many_connections_of_address() -> Self {
        Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            "There are as many connections from this address as the gateway allows; close some, or try again later.",
        )
        .with(header::RETRY_AFTER, "1")
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut body = json!({
            "type": "about:blank",
            "title": self.status.canonical_reason(),
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        if self.tells_supabase {
            // An extension member (RFC 9457 §3.2).
            body["error"] = self.detail.into();
        }
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
