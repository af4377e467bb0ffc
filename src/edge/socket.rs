//! `GET /v1/socket`: the native protocol over a WebSocket.

use axum::{
    extract::{Request, State},
    http::{HeaderValue, header},
    response::Response,
};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use super::{
    Edge, Problem, address, door,
    websocket::{Dialect, Encoded, Socket, handshake, upgrade},
};
use crate::{
    auth::offers_native_protocol,
    protocol::{
        client_frame::CLIENT_FRAME_BYTES_MAX,
        server_frame::{self, EventsFrameBuilder},
    },
    session::{Opening, Outbound},
};

/// The subprotocol that a client offers to bring its token in the same header.
const SUBPROTOCOL: &str = "herald.v1";

/// The native protocol.
static NATIVE: Dialect<Outbound> = Dialect {
    name: "native",
    client_frame_bytes_max: CLIENT_FRAME_BYTES_MAX,
    encode,
};

/// Checks everything that can be checked before the upgrade, and starts the session after it.
pub(super) async fn open(State(edge): State<Edge>, mut request: Request) -> Result<Response, Problem> {
    let (headers, query) = (request.headers(), request.uri().query());
    let identity = door::identify(&edge, headers, query).await?;
    let mut answer = handshake(request.headers())?;
    if offers_native_protocol(request.headers()) {
        answer.headers_mut().insert(
            header::SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static(SUBPROTOCOL),
        );
    }
    door::check_open(&edge)?;
    let cursor = door::cursor_parameter(request.uri())?;
    let upgrade = upgrade(&mut request)?;
    let opening = Opening {
        log: door::log_context(request.extensions())?,
        identity,
        cursor: cursor.map(|text| text.parse()),
    };
    let (sessions, place) = (edge.sessions, address::place(request.extensions()));
    let session = async move {
        let _place = place;
        if let Some(socket) = Socket::take_over(upgrade, &opening.log, &NATIVE).await {
            sessions.run(opening, socket).await;
        }
    };
    edge.tasks.spawn("session", session);
    Ok(answer)
}

fn encode(outbound: Outbound) -> Encoded {
    let text: Utf8Bytes = match outbound {
        Outbound::Ready(ready) => ready.encode().into(),
        Outbound::Replayed(frame) => return Encoded::Frame(frame.websocket_frame()),
        Outbound::Live(delivery) => return Encoded::Frame(delivery.frame.websocket_frame()),
        Outbound::Standing(cursor) => {
            let frame = EventsFrameBuilder::new().finish(Some(&cursor.to_string()));
            return Encoded::Frame(frame.websocket_frame());
        }
        Outbound::Authenticated { expires_at } => server_frame::encode_auth(expires_at).into(),
        Outbound::Pong { reference } => server_frame::encode_pong(reference.as_deref()).into(),
        Outbound::Error { message } => server_frame::encode_error(&message).into(),
        Outbound::Heartbeat => return Encoded::Message(Message::Ping(bytes::Bytes::new())),
    };
    Encoded::Message(Message::Text(text))
}

#[cfg(test)]
mod tests {
    use std::{
        sync::Arc,
        time::{Duration, SystemTime},
    };

    use futures::StreamExt as _;
    use tokio_tungstenite::{WebSocketStream, tungstenite::protocol::Role};
    use tokio_util::sync::CancellationToken;
    use uuid::Uuid;

    use super::*;
    use crate::{
        auth::{AuthConfig, Identity, Secret, Verifier},
        hub::{Hub, Position},
        log_context::LogContext,
        metrics::Metrics,
        postgres::{Settings, pool},
        protocol::{close::CloseCode, cursor::Epoch, snapshot::Snapshot},
        session::{End, RhythmConfig, Sessions},
        store::{parking::parking, replay::Replayer},
        tasks::Tasks,
        types::{BatchNumber, SessionId, UserId},
    };

    /// Longer than anything here takes.
    const AT_MOST: Duration = Duration::from_secs(10);

    /// Sessions of a gateway whose shutdown has begun. Nothing here asks the database.
    async fn sessions_of_a_gateway_that_drains() -> Sessions {
        let settings = Settings::parse("postgres://localhost/none").unwrap();
        let pool = pool(&settings, 1, AT_MOST).unwrap();
        let auth = AuthConfig {
            secrets: Some(
                Secret::new("a secret that is long enough for HS256")
                    .unwrap()
                    .into(),
            ),
            ..AuthConfig::default()
        };
        let hub = Arc::new(Hub::new(1, Arc::new(Metrics::new())));
        hub.position.publish(Arc::new(Position {
            epoch: Epoch::new("e").unwrap(),
            batch: BatchNumber(1),
            snapshot: Arc::new(Snapshot::new(1, 9, 9, Vec::new()).unwrap()),
        }));
        let draining = CancellationToken::new();
        draining.cancel();
        let metrics = Arc::new(Metrics::new());
        let (parking, _attendant) = parking(
            pool.clone(),
            Arc::clone(&hub),
            Arc::clone(&metrics),
            AT_MOST,
            Uuid::nil(),
        );
        Sessions {
            hub,
            parking,
            topic_rule: Arc::default(),
            replayer: Replayer::new(pool, Arc::default(), Arc::clone(&metrics), 1, AT_MOST).0,
            verifier: Arc::new(Verifier::start(auth, &Tasks::new()).await.unwrap()),
            metrics,
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
            log: LogContext {
                connection: SessionId::random(),
                peer: ([127, 0, 0, 1], 1).into(),
                request_id: "a-request".into(),
                client: None,
            },
            identity: Identity {
                user: UserId(Uuid::nil()),
                expires_at: SystemTime::now() + AT_MOST,
                claims: "{}".into(),
            },
            cursor: None,
        };
        let (near, far) = tokio::io::duplex(1024);
        let mut client = WebSocketStream::from_raw_socket(far, Role::Client, None).await;
        let session = sessions.run(opening, Socket::new(near, Vec::new(), &NATIVE));
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
