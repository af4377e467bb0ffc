//! The handshake (RFC 6455, section 4). Its answer is made here and not by tungstenite, because the request has been read by the HTTP server
//! already.

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use hyper::upgrade::OnUpgrade;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::super::Problem;

/// The answer that switches protocols (RFC 6455 §4.2.2), if the request asks for it properly.
///
/// # Errors
/// `426` or `400`.
pub(in super::super) fn handshake(headers: &HeaderMap) -> Result<Response, Problem> {
    let has = |name: header::HeaderName, token: &str| {
        headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .any(|value| {
                value
                    .split(',')
                    .any(|part| part.trim().eq_ignore_ascii_case(token))
            })
    };
    let upgrades = has(header::CONNECTION, "upgrade") && has(header::UPGRADE, "websocket");
    if !upgrades || !has(header::SEC_WEBSOCKET_VERSION, "13") {
        return Err(Problem::upgrade_required());
    }
    let key = headers
        .get(header::SEC_WEBSOCKET_KEY)
        .ok_or(Problem::bad_handshake())?;
    let accept =
        HeaderValue::from_str(&derive_accept_key(key.as_bytes())).map_err(|_| Problem::bad_handshake())?;
    let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
    let answer = response.headers_mut();
    answer.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    answer.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    Ok(response)
}

/// Takes the connection's upgrade out of a request.
///
/// # Errors
/// `426` if the connection cannot be upgraded.
pub(in super::super) fn upgrade(request: &mut Request) -> Result<OnUpgrade, Problem> {
    request
        .extensions_mut()
        .remove::<OnUpgrade>()
        .ok_or(Problem::upgrade_required())
}
