//! The description of the API (`OpenAPI` 3.1.0), made from the calls and the shapes below, and served with an entity tag.

use std::{
    future::ready,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use axum::{
    Router,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use utoipa::{
    OpenApi, ToSchema,
    openapi::{
        ContentBuilder, Ref, ResponseBuilder,
        path::Operation,
        security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    },
};

use super::super::Edge;

/// The media type of a problem (RFC 9457 §3).
const PROBLEM_TYPE: &str = "application/problem+json";

/// What every call may answer, and why.
const PROBLEMS: [(u16, &str); 7] = [
    (400, "The path or the query is malformed."),
    (401, "The token is missing or not accepted."),
    (403, "The application's rules do not allow it."),
    (404, "There is no such conversation partner or product."),
    (
        429,
        "This user calls too often; try again after `Retry-After` seconds.",
    ),
    (500, "The application's database raised an error."),
    (
        503,
        "The database is away, or the gateway is full; try again after `Retry-After` seconds.",
    ),
];

/// What a call with a body may answer beside that.
const PROBLEMS_OF_BODIES: [(u16, &str); 3] = [
    (408, "The body came too slowly."),
    (
        413,
        "The content has more than 10,000 characters, or the body is too large.",
    ),
    (415, "The body is not `application/json`."),
];

/// What a call that writes may answer beside that.
const PROBLEMS_OF_WRITING: [(u16, &str); 2] = [
    (
        409,
        "The id belongs to anything else, or the application has a row like it.",
    ),
    (
        422,
        "The content is empty, or the application does not take the change.",
    ),
];

/// A page of conversations.
#[derive(ToSchema)]
#[allow(dead_code, reason = "only its shape is used")]
pub(super) struct ConversationPage {
    /// Newest first.
    conversations: Vec<ConversationPreview>,
    /// Connect with it, and nothing is missed after this answer.
    cursor: String,
    /// Leads to the next page; null on the last one.
    #[schema(required)]
    next: Option<String>,
}

/// One conversation: the columns of `get_user_conversation_previews`.
#[derive(ToSchema)]
#[allow(dead_code, reason = "only its shape is used")]
pub(super) struct ConversationPreview {
    /// `<other user>__<product>` or `<other user>__general`.
    conversation_id: String,
    other_user_id: uuid::Uuid,
    #[schema(required)]
    other_username: Option<String>,
    #[schema(required)]
    other_avatar: Option<String>,
    #[schema(required)]
    product_id: Option<uuid::Uuid>,
    #[schema(required)]
    product_title: Option<String>,
    #[schema(required)]
    last_message: Option<String>,
    /// RFC 3339.
    last_message_time: String,
    /// What the caller has received in it and not read.
    unread_count: i32,
}

/// A page of messages.
#[derive(ToSchema)]
#[allow(dead_code, reason = "only its shape is used")]
pub(super) struct MessagePage {
    /// The oldest first.
    messages: Vec<Message>,
    /// Connect with it, and nothing is missed after this answer.
    cursor: String,
    /// Leads to older messages; null on the last page.
    #[schema(required)]
    next: Option<String>,
}

/// A message.
#[derive(ToSchema)]
#[allow(dead_code, reason = "only its shape is used")]
pub(super) struct MessageAnswer {
    message: Message,
}

/// A row of `messages_realtime_view`, which the application may have given more columns.
#[derive(ToSchema)]
#[allow(dead_code, reason = "only its shape is used")]
pub(super) struct Message {
    id: uuid::Uuid,
    #[schema(required)]
    sender_id: Option<uuid::Uuid>,
    #[schema(required)]
    receiver_id: Option<uuid::Uuid>,
    #[schema(required)]
    product_id: Option<uuid::Uuid>,
    #[schema(required)]
    content: Option<String>,
    /// RFC 3339.
    #[schema(required)]
    created_at: Option<String>,
    #[schema(required)]
    is_read: Option<bool>,
    #[schema(required)]
    delivered_at: Option<String>,
    sender_username: Option<String>,
    sender_avatar: Option<String>,
    receiver_username: Option<String>,
    receiver_avatar: Option<String>,
    product_title: Option<String>,
    product_price: Option<f64>,
}

/// How many messages were marked.
#[derive(ToSchema)]
#[allow(dead_code, reason = "only its shape is used")]
pub(super) struct Marked {
    #[schema(minimum = 0)]
    updated: u64,
}

/// An error (RFC 9457).
#[derive(ToSchema)]
#[allow(dead_code, reason = "only its shape is used")]
struct ProblemBody {
    r#type: String,
    title: String,
    status: u16,
    /// What went wrong and what to do.
    detail: String,
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Herald",
        description = "Conversations over HTTP. Every call acts as the user whose token it brings."
    ),
    components(schemas(ProblemBody))
)]
struct Frame;

/// The description without the calls.
pub(super) fn frame() -> utoipa::openapi::OpenApi {
    let mut frame = Frame::openapi();
    if let Some(components) = &mut frame.components {
        let bearer = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .bearer_format("JWT")
            .build();
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
    }
    frame.security = Some(vec![SecurityRequirement::new("bearer", Vec::<String>::new())]);
    frame
}

/// Adds the problems that every call may answer with.
fn add_problems(operation: &mut Operation, writes: bool) {
    let has_body = operation.request_body.is_some();
    let of_bodies = PROBLEMS_OF_BODIES.iter().filter(|_| has_body);
    let of_writing = PROBLEMS_OF_WRITING.iter().filter(|_| writes);
    for (status, why) in PROBLEMS.iter().chain(of_bodies).chain(of_writing) {
        let content = ContentBuilder::new()
            .schema(Some(Ref::from_schema_name("ProblemBody")))
            .build();
        let response = ResponseBuilder::new()
            .description(*why)
            .content(PROBLEM_TYPE, content)
            .build();
        operation
            .responses
            .responses
            .insert(status.to_string(), response.into());
    }
}

/// The finished text.
#[derive(Clone)]
pub(super) struct Description {
    text: Arc<str>,
    tag: Arc<str>,
}

impl Description {
    /// Completes the description of these calls.
    pub(super) fn new(mut openapi: utoipa::openapi::OpenApi) -> Self {
        for path in openapi.paths.paths.values_mut() {
            if let Some(operation) = &mut path.get {
                add_problems(operation, false);
            }
            if let Some(operation) = &mut path.post {
                add_problems(operation, true);
            }
        }
        // It is made of literals and types; the empty text could only come of a defect of the library.
        let text = openapi.to_json().unwrap_or_default();
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        Self {
            tag: format!("\"{:016x}\"", hasher.finish()).into(),
            text: text.into(),
        }
    }

    /// Serves it. It tells nothing about anybody, so it needs no token and may be kept.
    pub(super) fn route(self) -> Router<Edge> {
        let serve = move |headers: HeaderMap| ready(self.answer(&headers));
        Router::new().route("/v1/openapi.json", get(serve))
    }

    fn answer(&self, headers: &HeaderMap) -> Response {
        let is_known = headers
            .get_all(header::IF_NONE_MATCH)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            // A weak tag is as good here (RFC 9110 §13.1.2).
            .any(|tag| matches!(tag.trim(), "*") || tag.trim().trim_start_matches("W/") == &*self.tag);
        let caching = [
            (header::ETAG, self.tag.to_string()),
            (header::CACHE_CONTROL, "no-cache".to_owned()),
        ];
        if is_known {
            return (StatusCode::NOT_MODIFIED, caching).into_response();
        }
        let kind = [(header::CONTENT_TYPE, "application/json")];
        (caching, kind, self.text.to_string()).into_response()
    }
}
