//! Broadcasts over HTTP, as Supabase's clients send them: `send()` while a channel is not joined, in a batch, and `httpSend()`,
//! one at a time.
//!
//! The caller is a person, for whom the topics' rule decides, as it does over a socket. What was said is answered with 202 and
//! nothing else: it is on its way to those who are here, and nobody knows who has heard it.

use std::sync::Arc;

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Path, Query, State, rejection::PathRejection},
    http::{HeaderMap, StatusCode, Uri},
    response::{IntoResponse, Response},
    routing::post,
};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::{
    Edge, Problem,
    api::body::{collect, media_type},
    caller::authenticate,
};
use crate::{
    auth::find_api_token,
    hub::topics::TopicMessage,
    protocol::{
        phoenix::message::Content,
        topic::{TOPIC_NAME_BYTES_MAX, TopicKey},
    },
    types::UserId,
};

/// The most messages of a batch. A client makes batches of one; who has more to say is a program, and can call again.
const BATCH_MAX: usize = 100;

/// The longest name of an event, in bytes: a binary frame gives its length in one byte.
const EVENT_BYTES_MAX: usize = u8::MAX as usize;

/// Where Supabase's clients look for it: behind the path of their project, and at a server of one's own.
pub(super) fn routes() -> Router<Edge> {
    ["/realtime/v1/api/broadcast", "/api/broadcast"]
        .into_iter()
        .fold(Router::new(), |router, path| {
            router
                .route(path, post(batch))
                .route(&format!("{path}/{{topic}}/events/{{event}}"), post(single))
        })
}

/// One message of a batch. Fields that are not known are ignored.
#[derive(Deserialize)]
struct Message {
    /// Its name without `realtime:`.
    topic: String,
    event: String,
    payload: Box<RawValue>,
    private: Option<bool>,
}

#[derive(Deserialize)]
struct Batch {
    messages: Vec<Message>,
}

/// What the query of a single message may hold beside the key.
#[derive(Deserialize)]
struct Parameters {
    private: Option<String>,
}

/// A message that its caller may say.
struct Allowed {
    key: TopicKey,
    message: Arc<TopicMessage>,
}

async fn batch(State(edge): State<Edge>, uri: Uri, headers: HeaderMap, body: Body) -> Response {
    let said = async {
        let caller = identify(&edge, &headers, &uri).await?;
        if media_type(&headers).is_some_and(|kind| kind != "application/json") {
            return Err(Problem::unsupported_media_type());
        }
        let bytes = collect(body).await?.ok_or(Problem::bad_batch())?;
        let messages = understand(&bytes).ok_or(Problem::bad_batch())?;
        // A batch costs as much as its messages one by one; the call itself was the first of them.
        take(&edge, caller, messages.len() - 1)?;
        let allow = |message: Message| {
            let payload = Content::Json(message.payload);
            let private = message.private.unwrap_or_default();
            allowed(&edge, caller, &message.topic, private, message.event, payload)
        };
        // All of them are judged before any is said.
        let allowed: Vec<Allowed> = messages.into_iter().map(allow).collect::<Result<_, _>>()?;
        allowed.iter().try_for_each(|allowed| say(&edge, allowed))
    };
    answer(said.await)
}

async fn single(
    State(edge): State<Edge>,
    path: Result<Path<(String, String)>, PathRejection>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let said = async {
        let caller = identify(&edge, &headers, &uri).await?;
        // A path that does not decode to UTF-8 names nothing.
        let Path((topic, event)) = path.map_err(|_| Problem::bad_topic())?;
        let Query(parameters): Query<Parameters> =
            Query::try_from_uri(&uri).map_err(|_| Problem::bad_query())?;
        let is_binary = match media_type(&headers).as_deref() {
            // Whoever does not say sends JSON, as to Supabase's server.
            None | Some("application/json") => false,
            Some("application/octet-stream") => true,
            Some(_) => return Err(Problem::unsupported_payload()),
        };
        let bytes = collect(body).await?.ok_or(Problem::bad_payload())?;
        let payload = if is_binary {
            Content::Binary(bytes)
        } else {
            let json = serde_json::from_slice(&bytes).map_err(|_| Problem::bad_payload())?;
            Content::Json(json)
        };
        let private = parameters.private.as_deref() == Some("true");
        say(&edge, &allowed(&edge, caller, &topic, private, event, payload)?)
    };
    answer(said.await)
}

/// Who calls: the token has been judged, and the user has not called too often.
async fn identify(edge: &Edge, headers: &HeaderMap, uri: &Uri) -> Result<UserId, Problem> {
    let identity = authenticate(edge, find_api_token(headers, uri.query())).await?;
    take(edge, identity.user, 1)?;
    Ok(identity.user)
}

/// The messages of a batch, if it is one.
fn understand(bytes: &Bytes) -> Option<Vec<Message>> {
    // An array of the fields in their order would be understood, too, and is no object.
    let is_object = bytes.trim_ascii_start().starts_with(b"{");
    let Batch { messages } = serde_json::from_slice(bytes).ok().filter(|_| is_object)?;
    (1..=BATCH_MAX).contains(&messages.len()).then_some(messages)
}

/// Takes so many requests of the caller's.
fn take(edge: &Edge, caller: UserId, count: usize) -> Result<(), Problem> {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    if edge.quota.take_many(caller, count, Instant::now()) {
        Ok(())
    } else {
        Err(Problem::too_many_requests())
    }
}

fn allowed(
    edge: &Edge,
    caller: UserId,
    topic: &str,
    private: bool,
    event: String,
    payload: Content,
) -> Result<Allowed, Problem> {
    let is_named = |name: &str, bytes_max| (1..=bytes_max).contains(&name.len());
    if !is_named(topic, TOPIC_NAME_BYTES_MAX) || !is_named(&event, EVENT_BYTES_MAX) {
        return Err(Problem::bad_topic());
    }
    let Some(key) = edge.sessions.topic_rule.resolve(topic, private, caller) else {
        edge.metrics.refuse_topic("rule");
        return Err(Problem::topic_not_allowed());
    };
    let event = event.into();
    let message = Arc::new(TopicMessage::Broadcast {
        event,
        content: payload,
    });
    Ok(Allowed { key, message })
}

/// Says a message to all members. Of a batch, those before one that is too many have been said.
fn say(edge: &Edge, allowed: &Allowed) -> Result<(), Problem> {
    let said = edge
        .sessions
        .hub
        .topics
        .broadcast(&allowed.key, None, false, &allowed.message);
    said.map(|_heard| ())
        .map_err(|_too_many| Problem::too_many_messages())
}

/// Exactly 202 and nothing else, which `httpSend()` insists on; or a problem that it can read.
fn answer(said: Result<(), Problem>) -> Response {
    match said {
        Ok(()) => StatusCode::ACCEPTED.into_response(),
        Err(problem) => problem.for_supabase().into_response(),
    }
}
