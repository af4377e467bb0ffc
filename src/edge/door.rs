//! What is asked of everybody who wants a session, whatever carries it, and in the same order.
//!
//! It deliberately does not look at what belongs to one carrier alone, such as the handshake of a WebSocket.

use axum::{
    extract::Query,
    http::{Extensions, HeaderMap, Uri},
};
use serde::Deserialize;

use super::{
    ConnectionId, Edge, Problem,
    address::{self, Peer},
    caller::authenticate,
    identified::RequestId,
};
use crate::{
    auth::{Identity, find_token},
    log_context::LogContext,
};

/// What the query string may hold beside the token, which is read where all credentials are.
#[derive(Deserialize)]
struct Parameters {
    cursor: Option<String>,
}

/// Who wants the session, if its page may have one.
///
/// # Errors
/// `401` or `503` for the token, `403` for the page's origin.
///
/// # Cancel safety
/// Safe.
pub(super) async fn identify(
    edge: &Edge,
    headers: &HeaderMap,
    query: Option<&str>,
) -> Result<Identity, Problem> {
    let identity = authenticate(edge, find_token(headers, query)).await?;
    check_origin(edge, headers)?;
    Ok(identity)
}

/// Whether the page that asks may have a session.
///
/// # Errors
/// `403`.
pub(super) fn check_origin(edge: &Edge, headers: &HeaderMap) -> Result<(), Problem> {
    if !edge.origins.allow(headers) {
        edge.metrics.refuse("origin");
        return Err(Problem::origin_not_allowed());
    }
    Ok(())
}

/// Whether the gateway takes sessions at this moment.
///
/// # Errors
/// `503`.
pub(super) fn check_open(edge: &Edge) -> Result<(), Problem> {
    if edge.draining.is_cancelled() {
        edge.metrics.refuse("draining");
        return Err(Problem::unavailable(
            "The gateway is shutting down; another one may answer.",
        ));
    }
    if edge.sessions.hub.position.newest().is_none() {
        edge.metrics.refuse("no_feed");
        return Err(Problem::unavailable(
            "The gateway has not reached its database yet.",
        ));
    }
    Ok(())
}

/// The cursor in the query string, not yet read.
///
/// # Errors
/// `400` if the query string is none.
pub(super) fn cursor_parameter(uri: &Uri) -> Result<Option<String>, Problem> {
    let Query(parameters): Query<Parameters> = Query::try_from_uri(uri).map_err(|_| Problem::bad_query())?;
    Ok(parameters.cursor)
}

/// What names the session that a request opens: its connection, and the request.
///
/// # Errors
/// `503` if the connection is not one of the acceptor's, which does not happen.
pub(super) fn log_context(extensions: &Extensions) -> Result<LogContext, Problem> {
    let found = || {
        let ConnectionId(connection) = *extensions.get()?;
        let Peer(peer) = *extensions.get()?;
        Some(LogContext {
            connection,
            peer,
            request_id: extensions.get::<RequestId>()?.as_str().into(),
            client: address::client(extensions),
        })
    };
    found().ok_or_else(foreign_connection)
}

/// What is answered on a connection that cannot hold a session.
pub(super) fn foreign_connection() -> Problem {
    tracing::error!("the connection is not one of the acceptor's");
    Problem::unavailable("The gateway cannot hold a session on this connection; use another one.")
}
