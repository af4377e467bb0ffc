//! `GET /v1/socket`: the upgrade, and the native protocol on top of tokio-tungstenite.
//!
//! The handshake's answer is made here and not by tungstenite, because the request has been read by the HTTP server
//! already. After the upgrade the plain connection is taken back out of it, so that an idle session costs a socket,
//! a small buffer and its task, and nothing of the HTTP server.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures::{Sink, SinkExt, Stream, StreamExt};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error as SocketError, Message, Utf8Bytes,
        error::ProtocolError,
        handshake::derive_accept_key,
        protocol::{CloseFrame, Role, WebSocketConfig},
    },
};
use tracing::Instrument as _;

use super::{
    Edge, Problem,
    connection::{Connection, ServedConnection},
    door,
};
use crate::{
    auth::offers_native_protocol,
    protocol::{
        client_frame::CLIENT_FRAME_BYTES_MAX,
        server_frame::{self, EventsFrameBuilder},
    },
    session::{End, Inbound, Opening, Outbound, Transport, TransportGone},
};

/// The subprotocol that a client offers to bring its token in the same header.
const SUBPROTOCOL: &str = "herald.v1";

/// Each connection keeps a buffer of this many bytes for reading, allocated at once; tungstenite's own default is
/// 128 KiB. A client's frames are short, and a longer one makes the buffer grow for as long as it takes.
const READ_BUFFER_BYTES: usize = 1024;

/// Frames are collected up to this many bytes before they are written to the socket. The buffer grows when it is
/// used; a common message fits many times.
const WRITE_BUFFER_BYTES: usize = 16 * 1024;

/// How long the HTTP server may take to hand the connection over.
const UPGRADE_DEADLINE: Duration = Duration::from_secs(10);

/// How long a peer may take to end its side after it was sent a close frame.
const LINGER: Duration = Duration::from_secs(3);

/// How much is read at once of what a peer still sends after it was sent a close frame.
const SCRAP_BYTES: usize = 1024;

/// Checks everything that can be checked before the upgrade, and starts the session after it.
pub(super) async fn open(State(edge): State<Edge>, mut request: Request) -> Result<Response, Problem> {
    let (headers, query) = (request.headers(), request.uri().query());
    let identity = door::identify(&edge, headers, query).await?;
    let answer = handshake(request.headers())?;
    door::check_open(&edge)?;
    let cursor = door::cursor_parameter(request.uri())?;
    let upgrade = request
        .extensions_mut()
        .remove::<OnUpgrade>()
        .ok_or(Problem::upgrade_required())?;
    let opening = Opening {
        session: door::session_id(request.extensions()),
        identity,
        cursor: cursor.map(|text| text.parse()),
    };
    let span = tracing::Span::current();
    edge.tasks
        .clone()
        .spawn("session", run(edge, opening, upgrade).instrument(span));
    Ok(answer)
}

/// The answer that switches protocols (RFC 6455 §4.2.2), if the request asks for it properly.
fn handshake(headers: &HeaderMap) -> Result<Response, Problem> {
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
    if offers_native_protocol(headers) {
        answer.insert(
            header::SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static(SUBPROTOCOL),
        );
    }
    Ok(response)
}

async fn run(edge: Edge, opening: Opening, upgrade: OnUpgrade) {
    let Ok(Ok(upgraded)) = tokio::time::timeout(UPGRADE_DEADLINE, upgrade).await else {
        tracing::debug!("the client left before the upgrade");
        return;
    };
    let Some(socket) = NativeSocket::take_over(upgraded).await else {
        tracing::error!("the upgraded connection is not one of the acceptor's");
        return;
    };
    tracing::debug!(user = %opening.identity.user, "the session begins");
    edge.sessions.run(opening, socket).await;
}

/// A WebSocket that speaks the native protocol.
#[derive(Debug)]
struct NativeSocket<S> {
    socket: WebSocketStream<S>,
}

impl NativeSocket<Connection> {
    /// Takes the plain connection, and whatever was read ahead, back from the HTTP server.
    async fn take_over(upgraded: Upgraded) -> Option<Self> {
        let parts = upgraded.downcast::<TokioIo<ServedConnection>>().ok()?;
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(WRITE_BUFFER_BYTES)
            .max_message_size(Some(CLIENT_FRAME_BYTES_MAX))
            .max_frame_size(Some(CLIENT_FRAME_BYTES_MAX));
        let stream = parts.io.into_inner().into_connection();
        let read = parts.read_buf.to_vec();
        let socket = WebSocketStream::from_partially_read(stream, read, Role::Server, Some(config)).await;
        Some(Self { socket })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream for NativeSocket<S> {
    type Item = Inbound;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Inbound>> {
        loop {
            return Poll::Ready(match ready!(self.socket.poll_next_unpin(context)) {
                Some(Ok(Message::Text(text))) => Some(Inbound::Text(text)),
                Some(Ok(Message::Binary(_))) => Some(Inbound::Binary),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => Some(Inbound::Alive),
                // The answer to a close is queued by now; the next poll writes it and ends the stream.
                Some(Ok(Message::Close(_) | Message::Frame(_))) => continue,
                Some(Err(SocketError::Capacity(_))) => Some(Inbound::TooBig),
                // A peer that goes without a word is everyday life and no mistake of its protocol.
                Some(Err(SocketError::Protocol(ProtocolError::ResetWithoutClosingHandshake))) => None,
                Some(Err(SocketError::Protocol(_) | SocketError::Utf8(_))) => Some(Inbound::Garbage),
                Some(Err(_)) | None => None,
            });
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Sink<Outbound> for NativeSocket<S> {
    type Error = TransportGone;

    fn poll_ready(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), TransportGone>> {
        self.socket.poll_ready_unpin(context).map_err(|_| TransportGone)
    }

    fn start_send(mut self: Pin<&mut Self>, outbound: Outbound) -> Result<(), TransportGone> {
        self.socket
            .start_send_unpin(encode(outbound))
            .map_err(|_| TransportGone)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), TransportGone>> {
        self.socket.poll_flush_unpin(context).map_err(|_| TransportGone)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), TransportGone>> {
        self.socket.poll_close_unpin(context).map_err(|_| TransportGone)
    }
}

fn encode(outbound: Outbound) -> Message {
    let text: Utf8Bytes = match outbound {
        Outbound::Ready(ready) => ready.encode().into(),
        Outbound::Replayed(frame) => frame.text(),
        Outbound::Live(delivery) => delivery.frame.text(),
        Outbound::Standing(cursor) => EventsFrameBuilder::new().finish(Some(&cursor.to_string())).text(),
        Outbound::Authenticated { expires_at } => server_frame::encode_auth(expires_at).into(),
        Outbound::Pong { reference } => server_frame::encode_pong(reference.as_deref()).into(),
        Outbound::Error { message } => server_frame::encode_error(&message).into(),
        Outbound::Heartbeat => return Message::Ping(bytes::Bytes::new()),
    };
    Message::Text(text)
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Transport for NativeSocket<S> {
    fn protocol(&self) -> &'static str {
        "native"
    }

    async fn finish(&mut self, end: End) {
        let End::Closed(code) = end else { return };
        let frame = CloseFrame {
            code: code.number().into(),
            reason: Utf8Bytes::from_static(code.reason()),
        };
        if self.socket.send(Message::Close(Some(frame))).await.is_err() {
            return;
        }
        // Ending our side tells the peer that nothing follows. What it still sends is read and thrown away, because
        // a socket that is closed with unread bytes resets the connection, and the close frame would be lost.
        let stream = self.socket.get_mut();
        let drained = async {
            stream.shutdown().await?;
            // Not in the future itself, where every session would keep room for it as long as it lives.
            let mut scrap = vec![0; SCRAP_BYTES];
            while stream.read(&mut scrap).await? > 0 {}
            std::io::Result::Ok(())
        };
        let _lingered = tokio::time::timeout(LINGER, drained).await;
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::SystemTime};

    use tokio_util::sync::CancellationToken;
    use uuid::Uuid;

    use super::*;
    use crate::{
        auth::{AuthConfig, Identity, Secret, Verifier},
        hub::{Hub, Position},
        metrics::Metrics,
        postgres::{Settings, pool},
        protocol::{close::CloseCode, cursor::Epoch, snapshot::Snapshot},
        session::{RhythmConfig, Sessions},
        store::replay::Replayer,
        tasks::Tasks,
        types::{BatchNumber, SessionId, UserId},
    };

    /// Sessions of a gateway whose shutdown has begun. Nothing here asks the database.
    async fn sessions_of_a_gateway_that_drains() -> Sessions {
        let settings = Settings::parse("postgres://localhost/none").unwrap();
        let pool = pool(&settings, 1, UPGRADE_DEADLINE).unwrap();
        let auth = AuthConfig {
            secret: Some(Secret::new("a secret that is long enough for HS256").unwrap()),
            ..AuthConfig::default()
        };
        let hub = Arc::new(Hub::new(1));
        hub.position.publish(Arc::new(Position {
            epoch: Epoch::new("e").unwrap(),
            batch: BatchNumber(1),
            snapshot: Arc::new(Snapshot::new(1, 9, 9, Vec::new()).unwrap()),
        }));
        let draining = CancellationToken::new();
        draining.cancel();
        Sessions {
            hub,
            replayer: Replayer::new(pool, 1, UPGRADE_DEADLINE),
            verifier: Arc::new(Verifier::start(auth, &Tasks::new()).await.unwrap()),
            metrics: Arc::new(Metrics::new()),
            rhythm: RhythmConfig::default(),
            outbox_bytes: 1 << 20,
            draining,
            stopping: CancellationToken::new(),
        }
    }

    #[tokio::test]
    async fn a_session_that_opens_after_the_shutdown_looked_for_sessions_closes_itself() {
        let sessions = sessions_of_a_gateway_that_drains().await;
        let opening = Opening {
            session: SessionId::random(),
            identity: Identity {
                user: UserId(Uuid::nil()),
                expires_at: SystemTime::now() + UPGRADE_DEADLINE,
                claims: "{}".into(),
            },
            cursor: None,
        };
        let (near, far) = tokio::io::duplex(1024);
        let socket = WebSocketStream::from_raw_socket(near, Role::Server, None).await;
        let mut client = WebSocketStream::from_raw_socket(far, Role::Client, None).await;
        let session = sessions.run(opening, NativeSocket { socket });
        let said = async {
            let Some(Ok(Message::Close(Some(frame)))) = client.next().await else {
                panic!("no close frame came");
            };
            drop(client);
            u16::from(frame.code)
        };
        let (end, code) = tokio::join!(session, said);
        assert_eq!(end, End::Closed(CloseCode::GoingAway));
        assert_eq!(code, CloseCode::GoingAway.number());
        assert_eq!(sessions.hub.registry.sessions(), 0);
    }
}
