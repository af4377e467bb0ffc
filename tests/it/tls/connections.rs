//! What goes over a connection by TLS: both versions, sessions of both carriers, their ends, and who may open them.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use futures::StreamExt as _;
use rustls::{
    HandshakeKind, ProtocolVersion,
    pki_types::ServerName,
    version::{TLS12, TLS13},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::{client_async, tungstenite::Message};

use super::{Client, NAME, NO_DATABASE, Stage, fetch_on};
use crate::support::{
    database::AT_MOST,
    event_source::{Came, EventSource},
    gateway::{self, Gateway, token},
    http,
    scene::{Scene, content},
    socket::{self, Heard, Socket},
    wait_until,
};

#[tokio::test]
async fn requests_and_sessions_go_by_both_versions_of_tls() {
    let stage = Stage::new();
    let scene: Scene<1> = stage.scene().await;
    let ([alice], address) = (scene.people, scene.gateway.address());
    for (version, number, name) in [
        (&TLS12, ProtocolVersion::TLSv1_2, "1.2"),
        (&TLS13, ProtocolVersion::TLSv1_3, "1.3"),
    ] {
        let client = Client::new(&stage.authority, &[version]);
        let mut stream = client.connect(address).await;
        assert_eq!(stream.get_ref().1.protocol_version(), Some(number));
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"http/1.1".as_slice()));
        let answer = fetch_on(&mut stream, "/readyz").await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "ready\n"));
        // The host may serve other things without TLS, which the gateway must not put an end to.
        assert_eq!(answer.header("strict-transport-security"), None);
        assert_eq!(fetch_on(&mut stream, "/healthz").await.status, 200);

        let (mut socket, _) = client.session(address, alice).await;
        scene.write(alice, alice, name).await;
        assert_eq!(content(&socket.events(1).await.0[0]), name);
        socket.close().await;
        let counted = format!("tls_handshakes_total{{version=\"{name}\",kind=\"full\"}}");
        assert!(scene.gateway.metric(&counted) >= 1.0);
    }
    scene.gateway.stop().await;
}

#[tokio::test]
async fn a_client_that_comes_back_resumes_its_session_and_one_of_http_2_alone_is_turned_away() {
    let stage = Stage::new();
    let gateway = gateway_without_database(&stage).await;
    for version in [&TLS12, &TLS13] {
        let client = Client::new(&stage.authority, &[version]);
        let mut kinds = Vec::new();
        for _ in 0..2 {
            let mut stream = client.connect(gateway.address()).await;
            kinds.push(stream.get_ref().1.handshake_kind().unwrap());
            // The ticket comes behind the handshake, before the answer.
            assert_eq!(fetch_on(&mut stream, "/healthz").await.status, 200);
        }
        assert_eq!(
            kinds,
            [HandshakeKind::Full, HandshakeKind::Resumed],
            "{version:?}"
        );
    }
    assert_eq!(
        gateway.metric("tls_handshakes_total{version=\"1.3\",kind=\"resumed\"}"),
        1.0
    );

    let mut client = stage.client();
    client.config.alpn_protocols = vec![b"h2".to_vec()];
    let refused = client.try_connect(gateway.address()).await.map(drop).unwrap_err();
    assert!(refused.to_string().contains("NoApplicationProtocol"), "{refused}");
    client.config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    assert_eq!(client.fetch(gateway.address(), "/healthz").await.status, 200);
    client.config.alpn_protocols = Vec::new();
    assert_eq!(client.fetch(gateway.address(), "/healthz").await.status, 200);
    let counted = "tls_handshake_failures_total{reason=\"incompatible\"}";
    wait_until("it is counted", || gateway.metric(counted) == 1.0).await;
    gateway.stop().await;
}

#[tokio::test]
async fn server_sent_events_go_by_tls_and_a_client_that_leaves_without_a_word_is_noticed() {
    let stage = Stage::new();
    let scene: Scene<1> = stage.scene().await;
    let ([alice], address) = (scene.people, scene.gateway.address());
    let bearer = format!("Bearer {}", token(alice));
    let headers = [("Authorization", bearer.as_str())];
    let mut sources = Vec::new();
    for _ in 0..2 {
        let stream = stage.client().connect(address).await;
        let mut source = EventSource::open_on(stream, "/v1/events", &headers)
            .await
            .unwrap();
        assert_eq!(source.block().await.event.as_deref(), Some("ready"));
        sources.push(source);
    }
    scene.write(alice, alice, "by tls").await;
    for source in &mut sources {
        assert_eq!(content(&source.events(1).await.0[0]), "by tls");
    }
    // No `close_notify`: the network is gone.
    drop(sources.pop());
    let sessions = || scene.gateway.metric("sessions{protocol=\"sse\"}");
    wait_until("the session that was left has ended", || sessions() == 1.0).await;

    let mut source = sources.pop().unwrap();
    let (closed, ()) = tokio::join!(source.closed(), scene.gateway.stop());
    assert_eq!(closed.0, 1001);
}

#[tokio::test]
async fn the_end_of_a_connection_is_told_by_tls_too() {
    let stage = Stage::new();
    let scene: Scene<1> = stage.scene().await;
    let ([alice], address) = (scene.people, scene.gateway.address());
    let client = stage.client();
    let mut asking = client.connect(address).await;
    assert_eq!(fetch_on(&mut asking, "/healthz").await.status, 200);
    let (mut socket, _) = client.session(address, alice).await;
    let drained = async {
        assert_eq!(socket.close_code().await, 1001);
        // An end without `close_notify` is an error (RFC 8446 §6.1), which an attacker could have made.
        assert!(matches!(
            socket.message().await,
            None | Some(Err(tokio_tungstenite::tungstenite::Error::ConnectionClosed))
        ));
        let mut rest = Vec::new();
        timeout(AT_MOST, asking.read_to_end(&mut rest))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(rest, [0; 0]);
    };
    tokio::join!(drained, scene.gateway.stop());
}

#[tokio::test]
async fn pages_of_the_gateways_host_have_to_come_by_tls() {
    let stage = Stage::new();
    let scene: Scene<1> = stage.scene().await;
    let ([alice], address) = (scene.people, scene.gateway.address());
    for (origin, is_allowed) in [
        (format!("https://{address}"), true),
        (format!("http://{address}"), false),
        ("https://evil.example".to_owned(), false),
    ] {
        let mut request = socket::request(address, &token(alice), None);
        request.headers_mut().insert("origin", origin.parse().unwrap());
        let stream = stage.client().connect(address).await;
        let opened = Socket::open_by_tls(stream, request).await;
        assert_eq!(opened.is_ok(), is_allowed, "{origin}");
    }
    scene.gateway.stop().await;
}

#[tokio::test]
async fn whoever_forgets_tls_is_told_and_nothing_is_answered_there() {
    let stage = Stage::new();
    let gateway = gateway_without_database(&stage).await;
    for target in ["/healthz", "/v1/socket?access_token=x"] {
        let answer = http::fetch(gateway.address(), target).await;
        assert!(answer.problem(400).contains("https://"), "{answer:?}");
        assert_eq!(answer.header("connection"), Some("close"));
    }
    assert_eq!(
        gateway.metric("tls_handshake_failures_total{reason=\"plain_http\"}"),
        2.0
    );
    gateway.stop().await;
}

#[tokio::test]
async fn a_connection_beyond_the_limit_is_refused_by_tls() {
    let stage = Stage::new();
    let mut config = gateway::config(NO_DATABASE);
    stage.configure(&mut config);
    config.connections_max = 1;
    let gateway = Gateway::start_on("127.0.0.1:0".parse().unwrap(), config).await;
    let client = stage.client();
    let mut first = client.connect(gateway.address()).await;
    assert_eq!(fetch_on(&mut first, "/healthz").await.status, 200);
    let refused = client.fetch(gateway.address(), "/healthz").await;
    assert!(refused.problem(503).contains("connections"), "{refused:?}");
    drop(first);
    gateway.stop().await;
}

#[tokio::test]
async fn the_events_of_a_batch_are_one_record() {
    let stage = Stage::new();
    let scene: Scene<1> = stage.scene().await;
    let [alice] = scene.people;
    let records = Arc::new(AtomicUsize::new(0));
    let tapped = Tapped {
        stream: TcpStream::connect(scene.gateway.address()).await.unwrap(),
        header: Vec::new(),
        left: 0,
        records: Arc::clone(&records),
    };
    // In TLS 1.3 whatever is encrypted looks like data; in 1.2 only data does.
    let client = Client::new(&stage.authority, &[&TLS12]);
    let connector = TlsConnector::from(Arc::new(client.config));
    let stream = connector
        .connect(ServerName::try_from(NAME).unwrap(), tapped)
        .await
        .unwrap();
    let request = socket::request(scene.gateway.address(), &token(alice), None);
    let (mut socket, _) = Box::pin(client_async(request, stream)).await.unwrap();
    let mut frame = async || loop {
        let next = timeout(AT_MOST, socket.next())
            .await
            .expect("nothing came")
            .unwrap()
            .unwrap();
        if let Message::Text(text) = next {
            break serde_json::from_str::<serde_json::Value>(&text).unwrap();
        }
    };
    assert_eq!(frame().await["type"], "ready");
    for round in 0..5 {
        let before = records.load(Ordering::SeqCst);
        scene
            .execute(&format!(
                "insert into messages (sender_id, receiver_id, content) select '{alice}', '{alice}', 'x' from generate_series(1, 10)"
            ))
            .await;
        assert_eq!(frame().await["events"].as_array().unwrap().len(), 10);
        assert_eq!(records.load(Ordering::SeqCst) - before, 1, "round {round}");
    }
    scene.gateway.stop().await;
}

#[tokio::test]
async fn what_does_not_fit_into_one_record_and_what_nobody_reads_is_felt_by_the_session() {
    let stage = Stage::new();
    let scene: Scene<1> = Scene::with(|config| {
        stage.configure(config);
        config.outbox_bytes = 1 << 16;
    })
    .await;
    let ([alice], address) = (scene.people, scene.gateway.address());
    let client = stage.client();
    let (mut reading, _) = client.session(address, alice).await;
    let (mut idle, _) = client.session(address, alice).await;
    let long = "x".repeat(9000);
    let mut closed = false;
    for number in 0..2000 {
        scene.write(alice, alice, &format!("{number} {long}")).await;
        let (events, _) = reading.events(1).await;
        assert!(content(&events[0]).starts_with(&format!("{number} ")));
        if scene.gateway.metric("outbox_overflows_total") > 0.0 {
            closed = true;
            break;
        }
    }
    assert!(closed, "a session that is not read holds as much as it wants");
    // It finds what was written before, and then the reason, or nothing if it came too late for that.
    while let Heard::Frame(_) = idle.hear().await {}
    scene.gateway.stop().await;
}

#[tokio::test]
async fn a_stream_that_ends_in_the_middle_of_a_session_has_no_end_of_its_body() {
    let stage = Stage::new();
    let scene: Scene<1> = stage.scene().await;
    let ([alice], address) = (scene.people, scene.gateway.address());
    let bearer = format!("Bearer {}", token(alice));
    let stream = stage.client().connect(address).await;
    let mut source = EventSource::open_on(stream, "/v1/events", &[("Authorization", &bearer)])
        .await
        .unwrap();
    assert_eq!(source.block().await.event.as_deref(), Some("ready"));
    source.stream.shutdown().await.unwrap();
    assert!(matches!(source.next().await, Came::Broken));
    scene.gateway.stop().await;
}

async fn gateway_without_database(stage: &Stage) -> Gateway {
    let mut config = gateway::config(NO_DATABASE);
    stage.configure(&mut config);
    Gateway::start_on("127.0.0.1:0".parse().unwrap(), config).await
}

/// Counts the records of data that come from the gateway (RFC 8446 §5.1).
struct Tapped {
    stream: TcpStream,
    /// Of the record that begins.
    header: Vec<u8>,
    /// What is still to come of the record.
    left: usize,
    records: Arc<AtomicUsize>,
}

impl Tapped {
    fn note(&mut self, mut bytes: &[u8]) {
        const APPLICATION_DATA: u8 = 23;
        while !bytes.is_empty() {
            if self.left > 0 {
                let taken = self.left.min(bytes.len());
                self.left -= taken;
                bytes = &bytes[taken..];
                continue;
            }
            self.header.push(bytes[0]);
            bytes = &bytes[1..];
            if let [kind, _, _, high, low] = self.header[..] {
                self.left = usize::from(u16::from_be_bytes([high, low]));
                self.records
                    .fetch_add(usize::from(kind == APPLICATION_DATA), Ordering::SeqCst);
                self.header.clear();
            }
        }
    }
}

impl AsyncRead for Tapped {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let read = buffer.filled()[before..].to_vec();
        self.note(&read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tapped {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
