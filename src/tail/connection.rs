//! Opens a WebSocket to a gateway, and tells apart why it did not open.

use std::time::Duration;

use http::{HeaderValue, StatusCode, header};
use serde::Deserialize;
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    Connector, MaybeTlsStream, WebSocketStream, connect_async_tls_with_config,
    tungstenite::{
        Error as SocketError, client::IntoClientRequest, error::ProtocolError, protocol::WebSocketConfig,
    },
};

use super::{TailError, recovery::Loss};
use crate::{
    auth::Token,
    client::{GatewayUrl, trusted},
};

/// From looking up the name to the answer to the upgrade.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// The largest frame that is read. The gateway's frames have 64 KiB and what one event reaches beyond; a row far above
/// that is not a message of people.
const FRAME_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A connection to a gateway.
pub(super) type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum ConnectError {
    /// It may come about later, or the gateway has said what to do.
    Lost(Loss),
    /// It never will.
    Hopeless(TailError),
}

/// How connections are encrypted: with the roots that the operating system trusts, or not at all.
pub(super) fn connector(url: &GatewayUrl) -> Result<Connector, TailError> {
    if !url.is_secure() {
        return Ok(Connector::Plain);
    }
    trusted()
        .map(Connector::Rustls)
        .map_err(|error| TailError::Tls(error.to_string()))
}

/// Connects, and continues from the cursor if there is one.
///
/// # Cancel safety
/// Safe: the connection is closed.
pub(super) async fn connect(
    url: &GatewayUrl,
    connector: &Connector,
    token: &Token,
    cursor: Option<&str>,
) -> Result<Socket, ConnectError> {
    let mut request = url
        .socket(cursor)
        .into_client_request()
        .map_err(|error| judge(error, url))?;
    let mut bearer = HeaderValue::from_str(&format!("Bearer {}", token.expose()))
        .map_err(|_| ConnectError::Hopeless(TailError::UnusableToken))?;
    bearer.set_sensitive(true);
    request.headers_mut().insert(header::AUTHORIZATION, bearer);
    let config = WebSocketConfig::default()
        .max_message_size(Some(FRAME_BYTES_MAX))
        .max_frame_size(Some(FRAME_BYTES_MAX));
    let connecting = connect_async_tls_with_config(request, Some(config), true, Some(connector.clone()));
    // Boxed, because TLS makes the future a large one.
    match timeout(CONNECT_DEADLINE, Box::pin(connecting)).await {
        Ok(Ok((socket, _response))) => Ok(socket),
        Ok(Err(error)) => Err(judge(error, url)),
        Err(_) => Err(ConnectError::Lost(Loss::Unreachable(format!(
            "no answer from {url} within {} s",
            CONNECT_DEADLINE.as_secs()
        )))),
    }
}

fn judge(error: SocketError, url: &GatewayUrl) -> ConnectError {
    let unreachable = |why: String| ConnectError::Lost(Loss::Unreachable(why));
    match error {
        SocketError::Http(response) => ConnectError::Lost(refused(&response)),
        SocketError::Io(error) => {
            // A certificate that is not accepted will not be accepted in a second either.
            match error
                .get_ref()
                .and_then(|inner| inner.downcast_ref::<rustls::Error>())
            {
                Some(tls) => ConnectError::Hopeless(TailError::Tls(tls.to_string())),
                None => unreachable(format!("{url}: {error}")),
            }
        }
        SocketError::ConnectionClosed | SocketError::Protocol(ProtocolError::HandshakeIncomplete) => {
            unreachable(format!("{url}: the connection ended before it was answered"))
        }
        error => ConnectError::Hopeless(TailError::NotAGateway {
            url: url.clone(),
            why: error.to_string(),
        }),
    }
}

fn refused(response: &http::Response<Option<Vec<u8>>>) -> Loss {
    #[derive(Deserialize)]
    struct Problem {
        detail: String,
    }
    let body = response.body().as_deref().unwrap_or_default();
    let detail = serde_json::from_slice::<Problem>(body)
        .ok()
        .map(|problem| problem.detail);
    // Without a problem body it was not a gateway that answered; its name for the status is the best there is.
    let named = || response.status().canonical_reason().map(str::to_owned);
    Loss::Refused {
        status: response.status().as_u16(),
        detail: detail.or_else(|| {
            let is_error = response.status() >= StatusCode::BAD_REQUEST;
            is_error.then(named).flatten()
        }),
        retry_after: response
            .headers()
            .get(header::RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.trim().parse().ok())
            .map(Duration::from_secs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(status: u16, retry_after: &str, body: &str) -> http::Response<Option<Vec<u8>>> {
        http::Response::builder()
            .status(status)
            .header(header::RETRY_AFTER, retry_after)
            .body(Some(body.as_bytes().to_vec()))
            .unwrap()
    }

    #[test]
    fn a_refusal_is_told_in_the_words_of_the_gateway_or_of_its_status() {
        let told = |status, body| refused(&response(status, "x", body)).to_string();
        assert_eq!(
            told(401, r#"{"detail":"The token has expired; get a new one."}"#),
            "the gateway answered 401: The token has expired; get a new one."
        );
        assert_eq!(told(502, "<html>"), "the gateway answered 502: Bad Gateway");
        assert!(told(200, "hello").contains("is this the address of a gateway?"));
    }

    #[test]
    fn seconds_to_wait_are_read_and_dates_are_not() {
        let wait = |value| match refused(&response(503, value, "")) {
            Loss::Refused { retry_after, .. } => retry_after,
            other => panic!("{other:?}"),
        };
        assert_eq!(wait("7"), Some(Duration::from_secs(7)));
        assert_eq!(wait("Wed, 21 Oct 2026 07:28:00 GMT"), None);
    }
}
