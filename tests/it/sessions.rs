//! A session as its client meets it: what it is told, what it may say, how it ends, and what a change looks like.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use futures::future::join_all;
use herald::{quota::Rate, tasks::Tasks, types::UserId};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::{
    database::{AT_MOST, people},
    follower::{Carrier, Follower, Habits},
    gateway::{Gateway, token, token_for},
    http,
    phoenix::encode,
    scene::{Scene, content, seq},
    socket::{Heard, Socket},
    wait_until,
};

/// How long a drain may take here.
const GRACE: Duration = Duration::from_secs(10);

/// The lifetime of a token whose end a test waits for. `exp` counts whole seconds, so that one second may be none.
const SHORT: Duration = Duration::from_secs(2);

/// A frame of a client as its bytes (RFC 6455 §5.2), masked with zeros, which leaves the payload readable.
fn raw_frame(is_last: bool, opcode: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    assert!(length < 126);
    let mut bytes = vec![u8::from(is_last) << 7 | opcode, 0x80 | length, 0, 0, 0, 0];
    bytes.extend(payload);
    bytes
}

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const PING: u8 = 9;

#[tokio::test]
async fn the_first_frame_says_who_what_where_and_until_when() {
    let scene = Scene::<1>::new().await;
    let [alice] = scene.people;
    let (mut socket, ready) = scene.connect(alice).await;
    let keys: BTreeSet<_> = ready.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = ["type", "user", "session", "cursor", "expires_at", "heartbeat_s"];
    assert_eq!(keys, BTreeSet::from(expected), "{ready}");
    assert_eq!(ready["user"], alice.to_string());
    assert_eq!(ready["heartbeat_s"], 25);
    let session = Uuid::try_parse(ready["session"].as_str().unwrap()).unwrap();
    assert_eq!(ready["session"], session.to_string());
    let expires_at = humantime::parse_rfc3339(ready["expires_at"].as_str().unwrap()).unwrap();
    let lifetime = expires_at.duration_since(SystemTime::now()).unwrap();
    assert!(lifetime > Duration::from_secs(3500) && lifetime <= Duration::from_secs(3600));

    let cursor = ready["cursor"].as_str().unwrap();
    let (_again, ready) = scene.come_back(alice, cursor).await;
    assert_eq!(ready["resumed"], true, "{ready}");
    assert!(ready.get("reason").is_none(), "{ready}");
    assert_ne!(ready["session"], session.to_string());
    // A session's cursor before its first event is one to come back with.
    scene.write(alice, alice, "first").await;
    assert_eq!(content(&socket.events(1).await.0[0]), "first");
    scene.gateway.stop().await;
}

#[tokio::test]
async fn a_ping_is_answered_with_its_reference_and_unknown_fields_are_ignored() {
    let scene = Scene::<1>::new().await;
    let (mut socket, _) = scene.connect(scene.people[0]).await;
    for (said, answer) in [
        (
            json!({"type": "ping", "ref": "x"}),
            json!({"type": "pong", "ref": "x"}),
        ),
        (json!({"type": "ping"}), json!({"type": "pong"})),
        (json!({"type": "ping", "ref": null}), json!({"type": "pong"})),
        (
            json!({"type": "ping", "ref": ""}),
            json!({"type": "pong", "ref": ""}),
        ),
        (
            json!({"later": {"type": "auth"}, "type": "ping", "ref": "ümlaut \u{0} \"", "token": [1]}),
            json!({"type": "pong", "ref": "ümlaut \u{0} \""}),
        ),
    ] {
        socket.say(&said.to_string()).await;
        assert_eq!(socket.frame().await, answer);
    }
    // The longest frame that is allowed.
    let longest = format!("{:width$}}}", "{\"type\":\"ping\"", width = 64 * 1024 - 1);
    assert_eq!(longest.len(), 64 * 1024);
    socket.say(&longest).await;
    assert_eq!(socket.frame().await, json!({"type": "pong"}));
    scene.gateway.stop().await;
}

#[tokio::test]
async fn nine_frames_that_are_not_understood_are_answered_and_the_tenth_closes() {
    let scene = Scene::<1>::new().await;
    let (mut socket, _) = scene.connect(scene.people[0]).await;
    let wrong = [
        "",
        "nonsense",
        "[]",
        "{}",
        "{\"type\":7}",
        "{\"type\":\"subscribe\"}",
        "{\"type\":\"auth\"}",
        "{\"type\":\"ping\",\"ref\":7}",
        "{\"type\":\"ready\"}",
    ];
    for text in wrong {
        socket.say(text).await;
        let answer = socket.frame().await;
        assert_eq!(
            (&answer["type"], &answer["code"]),
            (&json!("error"), &json!("unknown_type"))
        );
        assert!(answer["message"].as_str().unwrap().len() > 10, "{answer}");
        // What is understood in between does not count and does not forgive.
        socket.say("{\"type\":\"ping\"}").await;
        assert_eq!(socket.frame().await["type"], "pong");
    }
    socket.say("{\"type\":\"subscribe\"}").await;
    assert_eq!(socket.close_code().await, 4010);
    scene.gateway.stop().await;
}

#[tokio::test]
async fn what_a_client_must_not_send_closes_with_a_code_that_arrives() {
    let scene = Scene::<1>::new().await;
    let token = token(scene.people[0]);
    let connect = || Socket::connect(scene.gateway.address(), &token, None);

    let (mut socket, _) = connect().await;
    socket
        .send(Message::binary(b"{\"type\":\"ping\"}".as_slice()))
        .await
        .unwrap();
    assert_eq!(socket.close_code().await, 1003);

    // One byte too many, and so much that the gateway closes while most of it has yet to be sent.
    for length in [64 * 1024 + 1, 4 << 20] {
        let (mut socket, _) = connect().await;
        socket.say(&"x".repeat(length)).await;
        assert_eq!(socket.close_code().await, 1009, "{length} bytes");
    }
    // In fragments, each of which is small.
    let (mut socket, _) = connect().await;
    let piece = [b'x'; 120];
    let mut bytes = raw_frame(false, TEXT, &piece);
    for _ in 0..=64 * 1024 / piece.len() {
        bytes.extend(raw_frame(false, CONTINUATION, &piece));
    }
    socket.stream().write_all(&bytes).await.unwrap();
    assert_eq!(socket.close_code().await, 1009);

    let unmasked = [0x81, 2, b'{', b'}'];
    let not_utf8 = raw_frame(true, TEXT, &[0xff, 0xfe]);
    let unknown_opcode = raw_frame(true, 3, b"");
    let stray_continuation = raw_frame(true, CONTINUATION, b"x");
    for (bytes, code) in [
        (&unmasked[..], 1002),
        (&not_utf8, 1007),
        (&unknown_opcode, 1002),
        (&stray_continuation, 1002),
    ] {
        let (mut socket, _) = connect().await;
        socket.stream().write_all(bytes).await.unwrap();
        assert_eq!(socket.close_code().await, code, "{bytes:?}");
    }
    wait_until("nobody is left", || {
        scene.gateway.app.hub().registry.sessions() == 0
    })
    .await;
    scene.gateway.stop().await;
}

#[tokio::test]
async fn a_client_that_says_too_much_at_once_is_closed_and_a_steady_one_is_not() {
    let scene = Scene::<1>::with(|config| {
        // Twenty at once, and a million a second.
        config.rhythm.frames = Rate::new(1_000_000, Duration::from_micros(20));
    })
    .await;
    let (mut socket, _) = scene.connect(scene.people[0]).await;
    // The rate is high enough that whoever waits for each answer never meets the limit.
    for number in 0..200 {
        socket
            .say(&json!({"type": "ping", "ref": number.to_string()}).to_string())
            .await;
        assert_eq!(socket.frame().await["ref"], number.to_string());
    }
    scene.gateway.stop().await;

    let scene = Scene::<1>::new().await;
    let (mut socket, _) = scene.connect(scene.people[0]).await;
    let burst: Vec<u8> = (0..2_000)
        .flat_map(|_| raw_frame(true, TEXT, b"{\"type\":\"ping\"}"))
        .collect();
    socket.stream().write_all(&burst).await.unwrap();
    assert_eq!(socket.close_code().await, 4029);

    // Few and large is too much as well: a frame of sixty KiB is fine, and a hundred of them at once are not.
    let (mut socket, _) = scene.connect(scene.people[0]).await;
    let large = json!({"type": "ping", "padding": "x".repeat(60_000)}).to_string();
    let burst: Vec<u8> = (0..100).flat_map(|_| encode(TEXT, large.as_bytes())).collect();
    // The gateway may close before it has taken all.
    let _written = socket.stream().write_all(&burst).await;
    assert_eq!(socket.close_code().await, 4029);

    // Control frames count too: a flood of pings is a flood.
    let (mut socket, _) = scene.connect(scene.people[0]).await;
    let burst: Vec<u8> = (0..2_000).flat_map(|_| raw_frame(true, PING, b"")).collect();
    socket.stream().write_all(&burst).await.unwrap();
    assert_eq!(socket.close_code().await, 4029);
    scene.gateway.stop().await;
}

#[tokio::test]
async fn a_new_token_keeps_the_session_beyond_the_end_of_the_first_one() {
    let scene = Scene::<1>::new().await;
    let [alice] = scene.people;
    let first = token_for(alice, SHORT);
    let (mut socket, ready) = Socket::connect(scene.gateway.address(), &first, None).await;
    let first_ends = humantime::parse_rfc3339(ready["expires_at"].as_str().unwrap()).unwrap();
    socket
        .say(&json!({"type": "auth", "token": token(alice), "later": 1}).to_string())
        .await;
    let answer = socket.frame().await;
    assert_eq!(answer["type"], "auth", "{answer}");
    let second_ends = humantime::parse_rfc3339(answer["expires_at"].as_str().unwrap()).unwrap();
    assert!(second_ends > first_ends + Duration::from_secs(3000));
    let mut pause = tokio::time::interval(Duration::from_millis(50));
    while SystemTime::now() < first_ends + Duration::from_millis(200) {
        pause.tick().await;
        socket.say("{\"type\":\"ping\"}").await;
        assert_eq!(socket.frame().await["type"], "pong");
    }
    scene.write(alice, alice, "still here").await;
    assert_eq!(content(&socket.events(1).await.0[0]), "still here");
    scene.gateway.stop().await;
}

#[tokio::test]
async fn a_refresh_with_another_token_than_the_users_own_good_one_closes() {
    let scene = Scene::<2>::new().await;
    let [alice, bob] = scene.people;
    let expired = token_for(alice, Duration::ZERO);
    for (wrong, code) in [
        (token(bob), 4003),
        ("garbage".to_owned(), 4003),
        (String::new(), 4003),
        (format!("{}x", token(alice)), 4003),
        // Whoever sends an expired one is late and not a stranger.
        (expired, 4001),
    ] {
        let (mut socket, _) = scene.connect(alice).await;
        socket
            .say(&json!({"type": "auth", "token": wrong}).to_string())
            .await;
        assert_eq!(socket.close_code().await, code);
    }
    let counted = |reason: &str| {
        scene
            .gateway
            .metric(&format!("auth_failures_total{{reason=\"{reason}\"}}"))
    };
    assert_eq!([counted("expired"), counted("malformed")], [1.0, 2.0]);
    scene.gateway.stop().await;
}

#[tokio::test]
async fn a_session_ends_with_its_token() {
    let scene = Scene::<1>::new().await;
    let token = token_for(scene.people[0], SHORT);
    let (mut socket, _) = Socket::connect(scene.gateway.address(), &token, None).await;
    assert_eq!(socket.close_code().await, 4001);
    let late = http::ask_for_socket(
        scene.gateway.address(),
        "",
        &[("Authorization", &format!("Bearer {token}"))],
    )
    .await;
    assert!(late.problem(401).contains("expired"));
    scene.gateway.stop().await;
}

#[tokio::test]
async fn the_oldest_session_of_a_user_goes_when_there_are_too_many() {
    let scene = Scene::<2>::with(|config| config.sessions_per_user = 2).await;
    let [alice, bob] = scene.people;
    let (mut first, _) = scene.connect(alice).await;
    let (mut second, _) = scene.connect(alice).await;
    let (mut other, _) = scene.connect(bob).await;
    let (mut third, _) = scene.connect(alice).await;
    assert_eq!(first.close_code().await, 4009);
    scene.write(bob, alice, "to those who stayed").await;
    for socket in [&mut second, &mut third, &mut other] {
        assert_eq!(content(&socket.events(1).await.0[0]), "to those who stayed");
    }
    wait_until("three are left", || {
        scene.gateway.app.hub().registry.sessions() == 3
    })
    .await;
    scene.gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_tells_everybody_and_leaves_nothing() {
    const SESSIONS: usize = 400;
    let scene = Scene::<40>::new().await;
    let address = scene.gateway.address();
    let sockets: Vec<_> =
        join_all((0..SESSIONS).map(|number| scene.connect(scene.people[number % 40]))).await;
    assert_eq!(scene.gateway.metric("sessions{protocol=\"native\"}"), 400.0);
    assert_eq!(scene.gateway.app.hub().registry.users(), 40);

    // These requests are under way when the shutdown begins. One of them is never finished.
    let begin = async |text: &str| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        stream
    };
    let ready = http::request("GET", "/readyz", &[]);
    let mut asking = begin(&ready).await;
    assert_eq!(http::read(&mut asking).await.unwrap().status, 200);
    let mut half = begin(&ready[..ready.len() - 2]).await;
    let _silent = begin("").await;
    let _never_finished = begin("GET /healthz HT").await;
    wait_until("the gateway knows them", || {
        scene.gateway.metric("connections") >= 404.0
    })
    .await;

    let app = scene.gateway.app;
    let (hub, metrics) = (Arc::clone(app.hub()), Arc::clone(app.metrics()));
    let began = Instant::now();
    let outside = async {
        let refused = async || TcpStream::connect(address).await.is_err();
        crate::processes::until("new connections to be refused", refused).await;
        half.write_all(b"\r\n").await.unwrap();
        let answer = http::read(&mut half).await.unwrap();
        assert_eq!(answer.status, 503);
        assert!(answer.body.contains("shutting down"), "{answer:?}");
        let goodbyes = sockets
            .into_iter()
            .map(async |(mut socket, _)| socket.close_code().await);
        assert_eq!(join_all(goodbyes).await, [1001; SESSIONS]);
    };
    let (left, ()) = tokio::join!(app.drain(GRACE), outside);
    left.expect("something was left when the grace was over");
    assert!(began.elapsed() < GRACE);
    assert_eq!((hub.registry.users(), hub.registry.sessions()), (0, 0));
    let page = metrics.render().unwrap();
    for line in [
        "herald_sessions{protocol=\"native\"} 0\n",
        "herald_connections 0\n",
        "herald_sessions_closed_total{reason=\"going_away\"} 400\n",
    ] {
        assert!(page.contains(line), "{line} is missing in {page}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_is_not_held_up_by_a_client_that_reads_nothing() {
    let scene = Scene::<1>::with(|config| config.outbox_bytes = 64 << 20).await;
    let [alice] = scene.people;
    let (_deaf, _) = scene.connect(alice).await;
    let before = scene.gateway.metric("events_delivered_total");
    // More than the buffers of a connection take, and less than the outbox does.
    scene
        .execute(&format!(
            "insert into public.messages (sender_id, receiver_id, content) \
             select '{alice}', '{alice}', repeat('€', 10000) from generate_series(1, 800)"
        ))
        .await;
    wait_until("all of it was read from the log", || {
        scene.gateway.metric("events_read_total{operation=\"insert\"}") >= 800.0
    })
    .await;
    assert!(scene.gateway.metric("events_delivered_total") < before + 800.0);
    scene
        .gateway
        .app
        .drain(GRACE)
        .await
        .expect("the client that reads nothing was left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_opens_in_the_moment_of_a_drain_is_closed_too() {
    // Where the two meet is a matter of microseconds, so that it is tried again and again.
    let scene = Scene::<1>::new().await;
    scene.gateway.stop().await;
    let token = token(scene.people[0]);
    for _ in 0..10 {
        let gateway = Gateway::start(&scene.database.url()).await;
        let address = gateway.address();
        let hub = Arc::clone(gateway.app.hub());
        let newcomers = join_all((0..8).map(async |_| {
            while let Ok(mut socket) = Socket::open(address, &token, None).await {
                match socket.hear().await {
                    Heard::Frame(frame) => assert_eq!(frame["type"], "ready"),
                    Heard::Closed(code) => assert_eq!(code, 1001),
                    Heard::Broken => {}
                }
            }
        }));
        let drain = async {
            wait_until("newcomers come", || hub.registry.sessions() > 0).await;
            gateway.app.drain(GRACE).await
        };
        let (left, _) = tokio::join!(drain, newcomers);
        left.expect("a session was left when the grace was over");
        assert_eq!(hub.registry.sessions(), 0);
    }
}

#[tokio::test]
async fn a_client_is_pinged_every_heartbeat_and_one_that_never_answers_is_closed() {
    const HEARTBEAT: Duration = Duration::from_millis(400);
    let scene = Scene::<2>::with(|config| config.rhythm.heartbeat = HEARTBEAT).await;
    let [alice, bob] = scene.people;
    let (mut answers, ready) = scene.connect(alice).await;
    assert_eq!(ready["heartbeat_s"], 1);
    let began = Instant::now();
    let (mut silent, _) = scene.connect(bob).await;
    let hub = scene.gateway.app.hub();
    for _ in 0..8 {
        // Reading a ping answers it.
        assert!(matches!(answers.message().await, Some(Ok(Message::Ping(_)))));
        if !hub.registry.is_present(bob) {
            // Two and a half heartbeats, of which the first was counted from before the session began.
            assert!(began.elapsed() >= HEARTBEAT * 5 / 2);
        }
    }
    wait_until("the silent one is gone", || !hub.registry.is_present(bob)).await;
    assert!(hub.registry.is_present(alice));
    assert_eq!(silent.close_code().await, 1001);
    // A sign of life of any kind counts, not only an answer to a ping.
    let (mut talks, _) = scene.connect(bob).await;
    let began = Instant::now();
    let mut pause = tokio::time::interval(HEARTBEAT / 4);
    while began.elapsed() < HEARTBEAT * 4 {
        pause.tick().await;
        talks
            .stream()
            .write_all(&raw_frame(true, TEXT, b"{\"type\":\"ping\"}"))
            .await
            .unwrap();
    }
    assert!(hub.registry.is_present(bob));
    scene.gateway.stop().await;
}

#[tokio::test]
async fn a_client_that_leaves_leaves_nothing_behind_whichever_way_it_goes() {
    let scene = Scene::<3>::new().await;
    let [alice, bob, carol] = scene.people;
    let (polite, _) = scene.connect(alice).await;
    let (wordless, _) = scene.connect(bob).await;
    let (mut abrupt, _) = scene.connect(carol).await;
    polite.close().await;
    drop(wordless);
    // A reset, as of a machine that was switched off and on.
    abrupt.stream().set_zero_linger().unwrap();
    drop(abrupt);
    wait_until("nobody is left", || {
        scene.gateway.app.hub().registry.sessions() == 0
            && scene.gateway.metric("sessions{protocol=\"native\"}") == 0.0
            && scene.gateway.metric("connections") == 0.0
    })
    .await;
    assert_eq!(
        scene.gateway.metric("sessions_closed_total{reason=\"left\"}"),
        3.0
    );
    scene.gateway.stop().await;
}

#[tokio::test]
async fn a_client_that_closes_is_answered_with_its_own_code() {
    let scene = Scene::<1>::new().await;
    let (mut socket, _) = scene.connect(scene.people[0]).await;
    let mut close = raw_frame(true, 8, &[]);
    close[1] = 0x80 | 2;
    close.extend(3_042_u16.to_be_bytes());
    socket.stream().write_all(&close).await.unwrap();
    assert_eq!(socket.close_code().await, 3042);
    assert!(matches!(socket.hear().await, Heard::Broken));
    scene.gateway.stop().await;
}

#[tokio::test]
async fn frames_may_come_in_fragments_and_byte_by_byte() {
    let scene = Scene::<1>::new().await;
    let [alice] = scene.people;
    // The handshake too, and the first frame right behind it.
    let mut stream = TcpStream::connect(scene.gateway.address()).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let authorization = format!("Bearer {}", token(alice));
    let mut bytes = http::request(
        "GET",
        "/v1/socket",
        &[
            ("Connection", "keep-alive, Upgrade"),
            ("Upgrade", "WebSocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("Authorization", &authorization),
        ],
    )
    .into_bytes();
    bytes.extend(raw_frame(false, TEXT, b"{\"type\":\"pi"));
    // Control frames may stand between fragments (RFC 6455 §5.4).
    bytes.extend(raw_frame(true, PING, b"between"));
    bytes.extend(raw_frame(false, CONTINUATION, b"ng\",\"ref\":\"\xc3"));
    bytes.extend(raw_frame(true, CONTINUATION, b"\xbc\"}"));
    for byte in bytes {
        stream.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut received = Vec::new();
    let pong = b"\"ref\":\"\xc3\xbc\"";
    let arrived = async {
        while !received.windows(pong.len()).any(|window| window == pong) {
            assert!(stream.read_buf(&mut received).await.unwrap() > 0);
        }
    };
    tokio::time::timeout(AT_MOST, arrived).await.expect("no pong");
    let text = String::from_utf8_lossy(&received);
    assert!(text.starts_with("HTTP/1.1 101 "), "{text}");
    // The key and the answer to it are the example of RFC 6455 §1.3.
    assert!(text.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{text}");
    assert!(text.contains("between"), "the ping was not answered: {text}");
    scene.gateway.stop().await;
}

#[tokio::test]
async fn a_change_has_the_form_of_the_protocol_and_the_row_is_as_postgres_prints_it() {
    let scene = Scene::<2>::new().await;
    let [alice, bob] = scene.people;
    scene
        .execute(&format!(
            "set timezone = 'UTC'; update profiles set username = E'Bob \"\\\\ \\U0001F600', avatar_url = null where id = '{bob}'; \
             insert into products (id, title, price) values ('{PRODUCT}', 'A <b>lamp</b>', 1234567890.10)"
        ))
        .await;
    let (mut hers, _) = scene.connect(alice).await;
    let (mut his, _) = scene.connect(bob).await;
    let message: Uuid = scene
        .application
        .query_one(
            &format!(
                "insert into public.messages (sender_id, receiver_id, product_id, content, created_at) values \
                 ('{alice}', '{bob}', '{PRODUCT}', E'line\\nline', '2031-02-28 23:59:59.123456+05:45') returning id"
            ),
            &[],
        )
        .await
        .unwrap()
        .get(0);
    let as_printed = async || -> String {
        let row = "select row_to_json(v)::text from public.messages_realtime_view v where id = $1";
        scene
            .application
            .query_one(row, &[&message])
            .await
            .unwrap()
            .get(0)
    };
    let mut seqs = Vec::new();
    for (statement, op) in [
        ("", "insert"),
        (
            "update public.messages set is_read = true, delivered_at = '2031-03-01 00:00:00.5Z'",
            "update",
        ),
        ("update public.messages set content = 'corrected'", "update"),
    ] {
        scene.execute(statement).await;
        let printed = as_printed().await;
        for (socket, other) in [(&mut hers, bob), (&mut his, alice)] {
            let text = socket.text().await;
            assert!(text.contains(&printed), "{printed} is not in {text}");
            let frame: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(frame["type"], "events");
            assert!(frame["cursor"].is_string());
            let [event] = &frame["events"].as_array().unwrap()[..] else {
                panic!("{text}")
            };
            let keys: BTreeSet<_> = event.as_object().unwrap().keys().map(String::as_str).collect();
            assert_eq!(keys, BTreeSet::from(["op", "seq", "conversation", "message"]));
            assert_eq!(event["op"], op);
            assert_eq!(event["conversation"], format!("{other}__{PRODUCT}"));
            seqs.push(seq(event));
        }
        let row: Value = serde_json::from_str(&printed).unwrap();
        assert!(printed.contains("\"product_price\":1234567890.10"), "{printed}");
        assert_eq!(row["created_at"], "2031-02-28T18:14:59.123456+00:00");
        assert_eq!(row["receiver_avatar"], Value::Null);
        assert_eq!(row["receiver_username"], "Bob \"\\ 😀");
    }
    assert!(
        seqs.is_sorted() && seqs[0] == seqs[1] && seqs[2] < seqs[4],
        "{seqs:?}"
    );

    scene.gateway.stop().await;
}

#[tokio::test]
async fn a_message_whose_product_goes_changes_its_conversation_and_a_deleted_one_is_named() {
    let scene = Scene::<2>::new().await;
    let [alice, bob] = scene.people;
    let message = scene.write(alice, bob, "about a lamp").await;
    scene
        .execute(&format!(
            "insert into products (id, title, price) values ('{PRODUCT}', 'A lamp', 1); \
             update public.messages set product_id = '{PRODUCT}'"
        ))
        .await;
    scene.caught_up().await;
    let (mut hers, _) = scene.connect(alice).await;
    let (mut his, _) = scene.connect(bob).await;
    // The product goes, and the message stays in the conversation without one.
    scene.execute("delete from public.products").await;
    for (socket, other) in [(&mut hers, bob), (&mut his, alice)] {
        let (events, _) = socket.events(1).await;
        assert_eq!(
            (&events[0]["op"], &events[0]["conversation"]),
            (&json!("update"), &json!(format!("{other}__general")))
        );
    }
    scene.execute("delete from public.messages").await;
    for (socket, other) in [(&mut hers, bob), (&mut his, alice)] {
        let (events, _) = socket.events(1).await;
        assert_eq!(events[0]["op"], "delete");
        assert_eq!(events[0]["message"], json!({"id": message}));
        assert_eq!(events[0]["conversation"], format!("{other}__general"));
    }
    scene.gateway.stop().await;
}

const PRODUCT: &str = "aaaaaaaa-0000-4000-8000-00000000000f";

#[tokio::test]
async fn a_message_to_oneself_arrives_once_at_each_device() {
    let scene = Scene::<1>::new().await;
    let [alice] = scene.people;
    let (mut phone, ready) = scene.connect(alice).await;
    let (mut tablet, _) = scene.connect(alice).await;
    scene.write(alice, alice, "note").await;
    scene.write(alice, alice, "end").await;
    for socket in [&mut phone, &mut tablet] {
        let (events, _) = socket.events(2).await;
        assert_eq!([content(&events[0]), content(&events[1])], ["note", "end"]);
        assert_eq!(events[0]["conversation"], format!("{alice}__general"));
    }
    let (mut again, _) = scene.come_back(alice, ready["cursor"].as_str().unwrap()).await;
    let (events, _) = again.events(2).await;
    assert_eq!([content(&events[0]), content(&events[1])], ["note", "end"]);
    scene.gateway.stop().await;
}

#[tokio::test]
async fn a_message_of_ten_thousand_emoji_arrives_live_and_by_replay() {
    let scene = Scene::<2>::new().await;
    let [alice, bob] = scene.people;
    let (mut socket, ready) = scene.connect(bob).await;
    let long = "😀".repeat(10_000);
    for _ in 0..3 {
        scene.write(alice, bob, &long).await;
    }
    let (mut again, _) = scene.come_back(bob, ready["cursor"].as_str().unwrap()).await;
    for socket in [&mut socket, &mut again] {
        let (events, cursor) = socket.events(3).await;
        assert!(events.iter().all(|event| content(event) == long));
        assert!(cursor.is_some());
    }
    scene.gateway.stop().await;
}

#[tokio::test]
async fn a_deleted_user_takes_the_messages_along_and_both_sides_are_told() {
    let scene = Scene::<3>::new().await;
    let [alice, bob, carol] = scene.people;
    scene
        .execute(
            "alter table messages drop constraint messages_sender_id_fkey, drop constraint messages_receiver_id_fkey, \
             add foreign key (sender_id) references profiles on delete cascade, \
             add foreign key (receiver_id) references profiles on delete cascade",
        )
        .await;
    let gone = [
        scene.write(alice, bob, "one").await,
        scene.write(bob, alice, "two").await,
    ];
    scene.write(bob, carol, "stays").await;
    scene.caught_up().await;
    let (mut hers, _) = scene.connect(alice).await;
    let (mut his, _) = scene.connect(bob).await;
    let (mut others, _) = scene.connect(carol).await;
    scene
        .execute(&format!("delete from public.profiles where id = '{alice}'"))
        .await;
    scene.write(carol, carol, "after").await;
    for (socket, other) in [(&mut hers, bob), (&mut his, alice)] {
        let (events, _) = socket.events(2).await;
        let ids: BTreeSet<_> = events
            .iter()
            .map(|event| event["message"]["id"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(ids, gone.iter().map(Uuid::to_string).collect());
        for event in &events {
            assert_eq!(
                (&event["op"], &event["conversation"]),
                (&json!("delete"), &json!(format!("{other}__general")))
            );
        }
    }
    assert_eq!(content(&others.events(1).await.0[0]), "after");
    scene.gateway.stop().await;
}

#[tokio::test]
async fn what_is_inserted_and_deleted_in_one_transaction_is_only_deleted() {
    let scene = Scene::<2>::new().await;
    let [alice, bob] = scene.people;
    let (mut live, ready) = scene.connect(bob).await;
    scene
        .execute(&format!(
            "begin; insert into public.messages (sender_id, receiver_id, content) values ('{alice}', '{bob}', 'brief'); \
             update public.messages set content = 'briefer'; delete from public.messages; commit"
        ))
        .await;
    scene.write(alice, bob, "end").await;
    let (mut again, _) = scene.come_back(bob, ready["cursor"].as_str().unwrap()).await;
    for socket in [&mut live, &mut again] {
        let (events, _) = socket.events(2).await;
        assert_eq!(
            (&events[0]["op"], &events[1]["op"]),
            (&json!("delete"), &json!("insert"))
        );
        assert_eq!(content(&events[1]), "end");
    }
    assert_eq!(scene.gateway.metric("events_vanished_total"), 2.0);
    scene.gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_rows_of_one_statement_reach_each_of_many_users() {
    const USERS: usize = 100;
    let scene = Scene::<0>::new().await;
    let users = people::<USERS>(&scene.application).await.map(UserId);
    let sockets: Vec<_> = join_all(users.iter().map(|user| scene.connect(*user))).await;
    // Each row goes from one to the next, so that each has a hundred to send and a hundred to receive.
    scene
        .execute(
            "with person as (select id, row_number() over (order by id) - 1 as place from profiles) \
             insert into public.messages (sender_id, receiver_id, content) \
             select sender.id, receiver.id, 'row ' || row from generate_series(1, 10000) as row \
             join person sender on sender.place = row % 100 join person receiver on receiver.place = (row + 1) % 100",
        )
        .await;
    let received = join_all(sockets.into_iter().map(async |(mut socket, _)| {
        let (events, cursor) = socket.events(200).await;
        // Whoever has all of a batch before its end is sent the cursor by itself.
        let cursor = if let Some(cursor) = cursor {
            cursor
        } else {
            let frame = socket.frame().await;
            assert_eq!(frame["events"], json!([]), "{frame}");
            frame["cursor"].as_str().unwrap().to_owned()
        };
        (events, cursor)
    }))
    .await;
    let mut cursors = BTreeSet::new();
    for (user, (events, cursor)) in users.iter().zip(received) {
        let mut seqs: Vec<_> = events.iter().map(seq).collect();
        assert!(seqs.is_sorted());
        seqs.dedup();
        assert_eq!(seqs, scene.logged(*user).await);
        cursors.insert(cursor);
    }
    assert_eq!(cursors.len(), 1, "one batch has one cursor");
    scene.gateway.stop().await;
}

/// Follows a user through whatever happens while the statement runs, and holds what arrived against the log.
///
/// A client that reads keeps up as a rule. If it does not, its outbox fills, it is closed with 4008 and comes back with
/// the cursor from before the batch, since a batch's cursor comes at its end: the replay then brings the whole batch.
/// It needs a gateway that replays as many rows; with the default of 1000 the client would be told `too_far` and reload.
async fn a_large_statement_arrives_once(prepare: &str, statement: &str, rows: usize) {
    let scene = Scene::<2>::with(|config| config.replay_events = 20_000).await;
    let [alice, bob] = scene.people;
    let with_people = |text: &str| {
        text.replace("$alice", &alice.to_string())
            .replace("$bob", &bob.to_string())
    };
    scene.execute(&with_people(prepare)).await;
    scene.caught_up().await;
    let tasks = Tasks::new();
    let addresses = Arc::new(Mutex::new(vec![scene.gateway.address()]));
    let enough = CancellationToken::new();
    let habits = Habits {
        drops_within: None,
        carrier: Carrier::WebSocket,
    };
    let followers =
        [alice, bob].map(|user| Follower::start(&tasks, &addresses, user, habits, 7, enough.clone()));
    wait_until("both follow", || {
        followers
            .iter()
            .all(|follower| follower.notebook.lock().unwrap().greeted)
    })
    .await;
    let before = scene.logged(alice).await.len();
    scene.execute(&with_people(statement)).await;
    let log = scene.logged(alice).await.split_off(before);
    assert_eq!(log.len(), rows);
    for follower in &followers {
        wait_until("everything arrived", || {
            follower.notebook.lock().unwrap().seen.len() >= rows
        })
        .await;
        let notebook = follower.notebook.lock().unwrap();
        assert_eq!(notebook.doubled(), [0; 0]);
        assert_eq!(notebook.discontinued, [""; 0]);
        assert!(notebook.seen.keys().eq(&log));
    }
    enough.cancel();
    tasks.finish(GRACE).await.unwrap();
    scene.gateway.stop().await;
}

/// Rows from Alice to Bob, `$rows` of them.
const MANY: &str = "insert into public.messages (sender_id, receiver_id, content) \
                    select '$alice', '$bob', 'row ' || row from generate_series(1, $rows) as row";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_rows_of_one_statement_reach_one_pair_once() {
    a_large_statement_arrives_once("", &MANY.replace("$rows", "10000"), 10_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_of_five_thousand_rows_reaches_both_people_once() {
    let update = "update public.messages set is_read = true";
    a_large_statement_arrives_once(&MANY.replace("$rows", "5000"), update, 5_000).await;
}
