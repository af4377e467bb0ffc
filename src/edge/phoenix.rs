//! `GET /realtime/v1/websocket` and `GET /socket/websocket`: Phoenix channels over a WebSocket, as Supabase's clients open it.
//!
//! Whoever connects brings a key, which may be the application's own: who it is, if anybody, is judged with each join. So a
//! session is let in without a person here, and hears nothing before it has one.

use axum::{
    Json,
    extract::{Query, Request, State},
    http::{HeaderMap, HeaderName, StatusCode},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use super::{
    Edge, Problem, address, door,
    websocket::{Dialect, Encoded, Socket, handshake, upgrade},
};
use crate::{
    auth::{AuthError, Token},
    metrics::ByReason,
    protocol::phoenix::message::{PHOENIX_FRAME_BYTES_MAX, Serializer},
    session::phoenix::{ApiKey, Frame, KeyHolder, Opening},
};

/// Phoenix channels.
static PHOENIX: Dialect<Frame> = Dialect {
    name: "phoenix",
    client_frame_bytes_max: PHOENIX_FRAME_BYTES_MAX,
    encode,
};

/// Where a key may stand beside the query string.
const KEY_HEADER: HeaderName = HeaderName::from_static("x-api-key");

/// What keys that are no tokens begin with.
const OPAQUE_KEY_PREFIX: &str = "sb_";

/// The longest name of a device, in bytes: a UUID and room to spare.
const DEVICE_BYTES_MAX: usize = 128;

/// The query string. Parameters of other names are the page's own and have no meaning here.
#[derive(Deserialize)]
struct Parameters {
    apikey: Option<String>,
    vsn: Option<String>,
    device: Option<String>,
}

/// Why a connection is refused, in the form that Supabase's server has for it: `{"error": …}`.
struct Refusal(StatusCode, &'static str);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, Json(json!({"error": self.1}))).into_response()
    }
}

/// Checks everything that can be checked before the upgrade, and starts the session after it.
pub(super) async fn open(State(edge): State<Edge>, mut request: Request) -> Result<Response, Response> {
    let refuse = |status, text| Refusal(status, text).into_response();
    let Query(parameters): Query<Parameters> = Query::try_from_uri(request.uri())
        .map_err(|_| refuse(StatusCode::BAD_REQUEST, "the query string could not be read"))?;
    let Some(serializer) = Serializer::from_version(parameters.vsn.as_deref()) else {
        return Err(refuse(
            StatusCode::BAD_REQUEST,
            "this `vsn` is not spoken here; use 1.0.0 or 2.0.0",
        ));
    };
    let device = parameters.device.filter(|device| !device.is_empty());
    if device
        .as_ref()
        .is_some_and(|device| device.len() > DEVICE_BYTES_MAX)
    {
        return Err(refuse(StatusCode::BAD_REQUEST, "`device` is too long"));
    }
    let key = key(request.headers(), parameters.apikey);
    let key = judge(&edge, key).await.map_err(IntoResponse::into_response)?;
    door::check_origin(&edge, request.headers()).map_err(IntoResponse::into_response)?;
    let answer = handshake(request.headers()).map_err(IntoResponse::into_response)?;
    door::check_open(&edge).map_err(IntoResponse::into_response)?;
    let upgrade = upgrade(&mut request).map_err(IntoResponse::into_response)?;
    let opening = Opening {
        log: door::log_context(request.extensions()).map_err(IntoResponse::into_response)?,
        serializer,
        key,
        device: device.map(Into::into),
    };
    let (sessions, place) = (edge.sessions, address::place(request.extensions()));
    let session = async move {
        let _place = place;
        if let Some(socket) = Socket::take_over(upgrade, &opening.log, &PHOENIX).await {
            sessions.run_phoenix(opening, socket).await;
        }
    };
    edge.tasks.spawn("session", session);
    Ok(answer)
}

fn key(headers: &HeaderMap, parameter: Option<String>) -> Option<Token> {
    let header = || Some(headers.get(KEY_HEADER)?.to_str().ok()?.to_owned());
    parameter
        .filter(|key| !key.is_empty())
        .or_else(header)
        .map(Token::new)
}

/// Finds out whose key it is. The application's own tells nothing and is let in, as a person's is that has expired: the page
/// cannot change it, and brings a newer token with its joins.
async fn judge(edge: &Edge, key: Option<Token>) -> Result<ApiKey, Response> {
    let Some(key) = key else {
        return Err(refuse_key(edge, AuthError::MissingToken));
    };
    if key.expose().starts_with(OPAQUE_KEY_PREFIX) {
        return Ok(ApiKey::new(&key, KeyHolder::Nobody));
    }
    let holder = match edge.verifier.recognise_patiently(&key).await {
        Ok(Some(identity)) => KeyHolder::Person(identity),
        // An application that signs its persons' tokens with a private key may have an older key with a shared secret.
        Ok(None) | Err(AuthError::UnsupportedAlgorithm) => KeyHolder::Nobody,
        Err(AuthError::Expired) => KeyHolder::Expired,
        Err(error) => return Err(refuse_key(edge, error)),
    };
    Ok(ApiKey::new(&key, holder))
}

fn refuse_key(edge: &Edge, error: AuthError) -> Response {
    let reason = error.reason();
    edge.metrics
        .auth_failures
        .get_or_create(&ByReason { reason })
        .inc();
    tracing::info!(reason, "a key was refused");
    match error {
        AuthError::KeysUnavailable => Problem::unavailable(error.detail()).into_response(),
        AuthError::MissingToken => Refusal(
            StatusCode::UNAUTHORIZED,
            "a key is needed: connect with the query parameter `apikey`",
        )
        .into_response(),
        _ => Refusal(StatusCode::UNAUTHORIZED, error.detail()).into_response(),
    }
}

fn encode(frame: Frame) -> Encoded {
    Encoded::Message(match frame {
        Frame::Text(text) => Message::Text(text.into()),
        Frame::Binary(bytes) => Message::Binary(bytes),
        Frame::Ping(number) => Message::Ping(number.to_be_bytes().to_vec().into()),
    })
}
