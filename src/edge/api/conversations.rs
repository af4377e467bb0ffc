//! The four calls.

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use tokio::sync::oneshot;
use tracing::Instrument as _;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    super::{Edge, Problem},
    body,
    description::{ConversationPage, Marked, MessageAnswer, MessagePage},
    parameters::{Caller, Conversation, ConversationParameter, Listing, PageParameters},
};
use crate::{
    protocol::page::{ConversationsBefore, MessagesBefore},
    store::{conversations::Page, refusal::Refusal},
};

/// The most characters of a message, as the application's own table bounds them.
const CONTENT_CHARACTERS_MAX: usize = 10_000;

/// The caller's conversations, the one with the newest message first.
#[utoipa::path(
    get,
    path = "/v1/conversations",
    operation_id = "listConversations",
    params(PageParameters),
    responses((status = 200, description = "A page, and the cursor of the snapshot it was read in.", body = ConversationPage))
)]
pub(super) async fn list(
    State(edge): State<Edge>,
    Caller(caller): Caller,
    listing: Listing<ConversationsBefore>,
) -> Result<Response, Problem> {
    let listed = edge
        .conversations
        .list(&caller, listing.limit, listing.before)
        .await;
    Ok(page(
        "conversations",
        &listed.map_err(|refusal| refused(&refusal))?,
    ))
}

/// The newest messages of a conversation, the oldest of them first; `next` leads to older ones.
#[utoipa::path(
    get,
    path = "/v1/conversations/{conversation}/messages",
    operation_id = "listMessages",
    params(
        ConversationParameter,
        PageParameters,
    ),
    responses((status = 200, description = "A page, and the cursor of the snapshot it was read in.", body = MessagePage))
)]
pub(super) async fn messages(
    State(edge): State<Edge>,
    Caller(caller): Caller,
    Conversation(conversation): Conversation,
    listing: Listing<MessagesBefore>,
) -> Result<Response, Problem> {
    let conversations = edge.conversations.clone();
    let call = async move {
        conversations
            .messages(&caller, conversation, listing.limit, listing.before)
            .await
    };
    Ok(page("messages", &carried_out(&edge, call).await?))
}

/// What a client sends. Fields that are not known are ignored.
#[derive(Deserialize, ToSchema)]
pub(super) struct NewMessage {
    /// What is said: not empty, and without NUL, which Postgres cannot keep.
    #[schema(min_length = 1, max_length = 10_000, pattern = r"^[^\x00]*[^\s\x00][^\x00]*$")]
    content: String,
    /// The message's id, chosen by the client, so that it may send again if the answer was lost. Without it the gateway
    /// chooses one, and a repetition is another message.
    #[schema(format = Uuid, pattern = "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
    id: Option<String>,
}

impl NewMessage {
    /// Checks both fields, and answers with the id to send under.
    fn check(&self) -> Result<Uuid, Problem> {
        let id = match &self.id {
            None => Uuid::new_v4(),
            // One id has one text, which is what comes back in the message.
            Some(text) => Uuid::try_parse(text)
                .ok()
                .filter(|id| id.to_string() == *text)
                .ok_or(Problem::bad_id())?,
        };
        let content = self.content.as_str();
        if content.chars().count() > CONTENT_CHARACTERS_MAX {
            return Err(Problem::content_too_long());
        }
        if content.contains('\0') {
            return Err(Problem::content_has_nul());
        }
        if content.trim().is_empty() {
            return Err(Problem::content_empty());
        }
        Ok(id)
    }
}

/// Sends a message. It comes back to both people through the feed, like everybody else's.
#[utoipa::path(
    post,
    path = "/v1/conversations/{conversation}/messages",
    operation_id = "sendMessage",
    params(ConversationParameter),
    request_body = NewMessage,
    responses(
        (status = 201, description = "The message was written.", body = MessageAnswer),
        (status = 200, description = "The message had been written by an earlier attempt.", body = MessageAnswer),
    )
)]
pub(super) async fn send(
    State(edge): State<Edge>,
    Caller(caller): Caller,
    Conversation(conversation): Conversation,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let message: NewMessage = body::read(&headers, body, Problem::bad_body()).await?;
    let id = message.check()?;
    let conversations = edge.conversations.clone();
    let call = async move {
        conversations
            .send(&caller, conversation, id, &message.content)
            .await
    };
    let sent = carried_out(&edge, call).await?;
    let status = if sent.is_new {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok(json(status, format!("{{\"message\":{}}}", sent.row)))
}

/// Marks as read what the caller received in a conversation.
#[utoipa::path(
    post,
    path = "/v1/conversations/{conversation}/read",
    operation_id = "markRead",
    params(ConversationParameter),
    responses((status = 200, description = "How many messages were marked.", body = Marked))
)]
pub(super) async fn mark_read(
    State(edge): State<Edge>,
    Caller(caller): Caller,
    Conversation(conversation): Conversation,
) -> Result<Response, Problem> {
    let conversations = edge.conversations.clone();
    let call = async move { conversations.mark_read(&caller, conversation).await };
    let updated = carried_out(&edge, call).await?;
    Ok(json(StatusCode::OK, format!("{{\"updated\":{updated}}}")))
}

/// Carries a call out in a task of its own. A client that leaves would otherwise leave a connection of the pool in the middle of a
/// question, which costs the connection, while Postgres works on: more connections than the pool may have, in the end.
async fn carried_out<T: Send + 'static>(
    edge: &Edge,
    call: impl Future<Output = Result<T, Refusal>> + Send + 'static,
) -> Result<T, Problem> {
    let (answer, answered) = oneshot::channel();
    let span = tracing::Span::current();
    let task = async move {
        // Nobody waits for the answer if the client has left.
        let _heard = answer.send(call.await);
    };
    edge.tasks.spawn("call", task.instrument(span));
    match answered.await {
        Ok(outcome) => outcome.map_err(|refusal| refused(&refusal)),
        // The task panicked, and has said so.
        Err(_) => Err(Problem::internal()),
    }
}

/// What the caller is told, and what the operator.
fn refused(refusal: &Refusal) -> Problem {
    match refusal {
        Refusal::NotFound | Refusal::Conflict => {}
        Refusal::Forbidden(_) | Refusal::Unacceptable(_) | Refusal::NotWritten => {
            tracing::info!(%refusal, "a call was refused");
        }
        Refusal::Unavailable(_) => tracing::warn!(%refusal, "a call could not be carried out"),
        Refusal::Role(_) | Refusal::Failed(_) | Refusal::Bookkeeping => {
            tracing::error!(%refusal, "a call could not be carried out");
        }
    }
    Problem::of_refusal(refusal)
}

/// Rows are JSON as Postgres made it, and tokens have no letter that JSON would escape, so that nothing is encoded anew.
fn page(name: &str, page: &Page) -> Response {
    let rows = page.rows.join(",");
    let next = page
        .next
        .as_ref()
        .map_or_else(|| "null".to_owned(), |next| format!("\"{next}\""));
    let cursor = &page.cursor;
    let text = format!("{{\"{name}\":[{rows}],\"cursor\":\"{cursor}\",\"next\":{next}}}");
    json(StatusCode::OK, text)
}

fn json(status: StatusCode, text: String) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], text).into_response()
}
