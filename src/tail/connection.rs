//! Opens a connection to a gateway, a WebSocket or Server-Sent Events, and tells apart why it did not open. From then on
//! it makes no difference which of them it is, but for a token that is to be renewed.

use std::time::Duration;

use futures::{SinkExt, StreamExt};
use http::{HeaderValue, StatusCode, header};
use serde::Deserialize;
use serde_json::json;
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    Connector as SocketConnector, MaybeTlsStream, WebSocketStream, connect_async_tls_with_config,
    tungstenite::{
        Error as SocketError, Message, Utf8Bytes,
        client::IntoClientRequest,
        error::ProtocolError,
        protocol::{CloseFrame, WebSocketConfig, frame::coding::CloseCode as SocketCloseCode},
    },
};

use super::{
    Carrier, TailError,
    event_source::{EventSource, HttpConnector},
    recovery::Loss,
};
use crate::{
    auth::Token,
    client::{self, GatewayUrl},
};

/// From looking up the name to the answer to the upgrade.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// The largest frame that is read. The gateway's frames have 64 KiB and what one event reaches beyond; a row far above
/// that is not a message of people.
pub(super) const FRAME_BYTES_MAX: usize = 16 * 1024 * 1024;

/// How long sending something may take. A client's frames are short, so that a connection that takes none is broken.
const SEND_DEADLINE: Duration = Duration::from_secs(10);

/// How long saying goodbye may take; the gateway notices anyway.
const GOODBYE_DEADLINE: Duration = Duration::from_secs(1);

/// A connection to a gateway.
pub(super) enum Connection {
    /// The native protocol over a WebSocket.
    Socket(Box<WebSocketStream<MaybeTlsStream<TcpStream>>>),
    /// The same frames as Server-Sent Events.
    Events(Box<EventSource>),
}

/// What opens connections, made once.
pub(super) enum Connector {
    Socket(SocketConnector),
    Events(Box<HttpConnector>),
}

/// What came.
#[derive(Debug)]
pub(super) enum Heard {
    /// A frame.
    Text(Utf8Bytes),
    /// A sign of life.
    Alive,
    /// The gateway closed the connection.
    Closed {
        /// Its code.
        code: u16,
        /// Its text.
        reason: String,
    },
    /// The connection is no more.
    Broken(String),
    /// More than a gateway sends at once.
    TooLarge(String),
}

/// What became of a new token.
#[derive(Debug)]
pub(super) enum Renewal {
    /// It is on its way, or the connection is being closed and says so itself.
    Sent,
    /// It cannot be sent on this connection: the next one begins with it.
    NeedsConnection,
    /// The connection is no more.
    Broken(String),
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum ConnectError {
    /// It may come about later, or the gateway has said what to do.
    Lost(Loss),
    /// It never will.
    Hopeless(TailError),
}

/// What opens connections to this gateway: with the roots that the operating system trusts, or without TLS.
pub(super) fn connector(url: &GatewayUrl, carrier: Carrier) -> Result<Connector, TailError> {
    let untrusted = |error: client::TrustError| TailError::Tls(error.to_string());
    Ok(match carrier {
        Carrier::WebSocket if url.is_secure() => {
            Connector::Socket(SocketConnector::Rustls(client::trusted().map_err(untrusted)?))
        }
        Carrier::WebSocket => Connector::Socket(SocketConnector::Plain),
        Carrier::ServerSentEvents => {
            Connector::Events(Box::new(client::http_connector(url).map_err(untrusted)?))
        }
    })
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
) -> Result<Connection, ConnectError> {
    let connecting = async {
        match connector {
            Connector::Socket(connector) => open_socket(url, connector, token, cursor).await,
            Connector::Events(connector) => {
                let source = EventSource::open(url, connector, token, cursor).await?;
                Ok(Connection::Events(Box::new(source)))
            }
        }
    };
    // Boxed, because TLS makes the future a large one.
    match timeout(CONNECT_DEADLINE, Box::pin(connecting)).await {
        Ok(connected) => connected,
        Err(_) => Err(ConnectError::Lost(Loss::Unreachable(format!(
            "no answer from {url} within {} s",
            CONNECT_DEADLINE.as_secs()
        )))),
    }
}

async fn open_socket(
    url: &GatewayUrl,
    connector: &SocketConnector,
    token: &Token,
    cursor: Option<&str>,
) -> Result<Connection, ConnectError> {
    let mut request = url
        .socket(cursor)
        .into_client_request()
        .map_err(|error| judge(error, url))?;
    request
        .headers_mut()
        .insert(header::AUTHORIZATION, bearer(token)?);
    let config = WebSocketConfig::default()
        .max_message_size(Some(FRAME_BYTES_MAX))
        .max_frame_size(Some(FRAME_BYTES_MAX));
    let (socket, _response) =
        connect_async_tls_with_config(request, Some(config), true, Some(connector.clone()))
            .await
            .map_err(|error| judge(error, url))?;
    Ok(Connection::Socket(Box::new(socket)))
}

/// The header that carries the token.
pub(super) fn bearer(token: &Token) -> Result<HeaderValue, ConnectError> {
    let mut bearer = HeaderValue::from_str(&format!("Bearer {}", token.expose()))
        .map_err(|_| ConnectError::Hopeless(TailError::UnusableToken))?;
    bearer.set_sensitive(true);
    Ok(bearer)
}

impl Connection {
    /// What comes next.
    ///
    /// # Cancel safety
    /// Safe: nothing that came is lost.
    pub(super) async fn next(&mut self) -> Heard {
        match self {
            Self::Socket(socket) => heard(socket.next().await),
            Self::Events(source) => source.next().await,
        }
    }

    /// Replaces the token that the connection began with.
    ///
    /// # Cancel safety
    /// Not safe: half a frame may have been sent, and the connection is of no use then.
    pub(super) async fn renew(&mut self, token: &Token) -> Renewal {
        let Self::Socket(socket) = self else {
            return Renewal::NeedsConnection;
        };
        let frame = json!({"type": "auth", "token": token.expose()}).to_string();
        match timeout(SEND_DEADLINE, socket.send(Message::Text(frame.into()))).await {
            // A connection that is being closed tells its reason to the one who goes on reading.
            Ok(Ok(()) | Err(SocketError::ConnectionClosed | SocketError::Protocol(_))) => Renewal::Sent,
            Ok(Err(error)) => Renewal::Broken(error.to_string()),
            Err(_) => Renewal::Broken("nothing can be sent any more".to_owned()),
        }
    }

    /// Tells the gateway that nobody listens any more, where that can be told.
    ///
    /// # Cancel safety
    /// Safe: the connection is of no further use either way.
    pub(super) async fn say_goodbye(&mut self) {
        let Self::Socket(socket) = self else { return };
        let frame = CloseFrame {
            code: SocketCloseCode::Normal,
            reason: "".into(),
        };
        // The process ends either way.
        let _said = timeout(GOODBYE_DEADLINE, (**socket).close(Some(frame))).await;
    }
}

fn heard(message: Option<Result<Message, SocketError>>) -> Heard {
    match message {
        Some(Ok(Message::Text(text))) => Heard::Text(text),
        Some(Ok(Message::Close(Some(frame)))) => Heard::Closed {
            code: frame.code.into(),
            reason: frame.reason.as_str().to_owned(),
        },
        Some(Ok(Message::Close(None))) | None => Heard::Broken("it was closed without a reason".to_owned()),
        // Pings are answered by the library; all of these are signs of life.
        Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Binary(_) | Message::Frame(_))) => {
            Heard::Alive
        }
        Some(Err(SocketError::Capacity(error))) => Heard::TooLarge(error.to_string()),
        Some(Err(error)) => Heard::Broken(error.to_string()),
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

/// Why the gateway, or what lies before it, did not let the client in.
pub(super) fn refused(response: &http::Response<Option<Vec<u8>>>) -> Loss {
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
