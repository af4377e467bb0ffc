//! `GET /v1/events`: the session of the WebSocket, carried by Server-Sent Events.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures::future::join_all;
use herald::edge::AllowedOrigins;
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpStream, time::Instant};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    limits::{Received, narrow, send_buffer_max},
    support::{
        database::Database,
        event_source::{Came, EventSource},
        gateway::{Gateway, ROLE, config, token, token_for},
        http,
        scene::{Scene, content},
        socket::Socket,
        wait_until,
    },
};

/// How long a drain may take here.
const GRACE: Duration = Duration::from_secs(10);

/// The lifetime of a token whose end a test waits for. `exp` counts whole seconds, so that one second may be none.
const SHORT: Duration = Duration::from_secs(2);

/// A cursor that no gateway takes for its own.
const STRANGE: &str = "anotherlog.1-5";

#[tokio::test]
async fn every_frame_is_the_one_that_a_socket_of_the_same_user_gets() {
    let scene = Scene::<2>::new().await;
    let [alice, bob] = scene.people;
    let mut socket = Socket::open(scene.gateway.address(), &token(alice), None)
        .await
        .unwrap();
    let of_socket = socket.frame().await;
    let (mut source, ready) = EventSource::connect(scene.gateway.address(), &token(alice), None).await;
    for line in [
        "content-type: text/event-stream",
        "cache-control: no-store, no-transform",
        "x-accel-buffering: no",
        "connection: close",
    ] {
        assert!(source.has_header(line), "{line} is missing");
    }
    let mut of_source = ready.json();
    assert_eq!(ready.id.as_deref(), of_source["cursor"].as_str());
    assert_eq!(ready.retry, Some(1000));
    for own in ["session", "expires_at", "cursor"] {
        assert!(of_source[own].is_string());
        of_source[own] = of_socket[own].clone();
    }
    assert_eq!(of_source, of_socket);

    let message = scene.write(bob, alice, "line\nline \u{0085} \u{2028} 😀").await;
    for (op, next) in [
        ("insert", "update public.messages set is_read = true"),
        ("update", "delete from public.messages"),
        ("delete", ""),
    ] {
        let text = socket.text().await;
        let block = source.block().await;
        assert_eq!(block.data.as_ref(), Some(&text));
        assert_eq!(block.event.as_deref(), Some("events"));
        assert_eq!(block.id.as_deref(), block.json()["cursor"].as_str());
        assert_eq!((block.retry, block.comments), (None, 0));
        let event = &block.json()["events"][0];
        assert_eq!(
            (&event["op"], &event["message"]["id"]),
            (&json!(op), &json!(message))
        );
        scene.execute(next).await;
    }
    assert_eq!(scene.gateway.metric("sessions{protocol=\"sse\"}"), 1.0);
    assert_eq!(scene.gateway.metric("sessions{protocol=\"native\"}"), 1.0);
    scene.gateway.stop().await;
}

#[tokio::test]
async fn a_row_that_is_written_over_several_lines_stays_one_event() {
    let scene = Scene::<1>::new().await;
    let [alice] = scene.people;
    let view = "select pg_get_viewdef('public.messages_realtime_view'::regclass)";
    let view: String = scene.application.query_one(view, &[]).await.unwrap().get(0);
    let view = view.trim_end_matches(';');
    scene
        .execute(&format!(
            "drop view public.messages_realtime_view; create view public.messages_realtime_view as \
             select v.*, E'{{\"a\":\\n1,\\n\\n\"b\": 2}}'::json as extra from ({view}) as v; \
             grant select on public.messages_realtime_view to {ROLE}"
        ))
        .await;
    let (mut socket, _) = scene.connect(alice).await;
    let (mut source, _) = EventSource::connect(scene.gateway.address(), &token(alice), None).await;
    scene.write(alice, alice, "hello").await;
    let text = socket.text().await;
    assert!(text.contains("{\"a\":\n1,\n\n\"b\": 2}"), "{text}");
    assert_eq!(source.block().await.data, Some(text));
    scene.gateway.stop().await;
}

#[tokio::test]
async fn a_browser_goes_on_where_it_was_and_what_it_brings_itself_is_newer_than_the_address() {
    let scene = Scene::<1>::new().await;
    let [alice] = scene.people;
    let address = scene.gateway.address();
    let user = token(alice);
    let (mut source, ready) = EventSource::connect(address, &user, None).await;
    let oldest = ready.id.unwrap();
    scene.write(alice, alice, "first").await;
    let newer = source.events(1).await.1.unwrap();
    drop(source);
    scene.write(alice, alice, "second").await;
    // Were the feed still on its way, the rest would come live, from a position that may be newer than the one brought.
    scene.caught_up().await;

    let (mut source, ready) = EventSource::connect(address, &user, Some(&newer)).await;
    assert_eq!(
        (ready.json()["resumed"].as_bool(), ready.id.as_ref()),
        (Some(true), Some(&newer))
    );
    assert_eq!(content(&source.events(1).await.0[0]), "second");

    let bearer = ("Authorization", format!("Bearer {user}"));
    let bearer = (bearer.0, bearer.1.as_str());
    let by_address = format!("/v1/events?cursor={oldest}");
    let ask = async |target: &str, headers: &[(&str, &str)]| {
        let stream = TcpStream::connect(address).await.unwrap();
        EventSource::open_on(stream, target, headers).await.unwrap()
    };
    for headers in [&[bearer][..], &[bearer, ("Last-Event-ID", "")]] {
        let mut source = ask(&by_address, headers).await;
        assert_eq!(source.block().await.json()["resumed"], true);
        let (events, _) = source.events(2).await;
        assert_eq!([content(&events[0]), content(&events[1])], ["first", "second"]);
    }
    let mut source = ask(&by_address, &[bearer, ("Last-Event-ID", &newer)]).await;
    assert_eq!(source.block().await.json()["resumed"], true);
    assert_eq!(content(&source.events(1).await.0[0]), "second");
    // All of it in the address, as a browser's own EventSource has to.
    let mut source = ask(&format!("{by_address}&access_token={user}"), &[]).await;
    assert_eq!(source.block().await.json()["resumed"], true);
    assert_eq!(source.events(2).await.0.len(), 2);
    scene.gateway.stop().await;
}

#[tokio::test]
async fn a_cursor_that_leads_nowhere_is_told_with_its_reason_and_a_new_one() {
    let scene = Scene::<1>::with(|config| config.replay_events = 2).await;
    let [alice] = scene.people;
    let address = scene.gateway.address();
    let (_, ready) = EventSource::connect(address, &token(alice), None).await;
    let old = ready.id.unwrap();
    for _ in 0..3 {
        scene.write(alice, alice, "many").await;
    }
    scene.caught_up().await;
    for (cursor, reason) in [
        ("garbage", "malformed"),
        ("\u{fc}", "malformed"),
        (STRANGE, "unknown_epoch"),
        (&old, "too_far"),
    ] {
        let (mut source, ready) = EventSource::connect(address, &token(alice), Some(cursor)).await;
        let frame = ready.json();
        assert_eq!(
            (frame["resumed"].as_bool(), frame["reason"].as_str()),
            (Some(false), Some(reason))
        );
        assert_eq!(ready.id.as_deref(), frame["cursor"].as_str());
        scene.write(alice, alice, reason).await;
        assert_eq!(content(&source.events(1).await.0[0]), reason);
    }
    scene.gateway.stop().await;
}

#[tokio::test]
async fn who_is_not_let_in_gets_a_problem() {
    let scene = Scene::<1>::with(|config| {
        config.origins = AllowedOrigins::parse("https://app.example").unwrap();
    })
    .await;
    let [alice] = scene.people;
    let address = scene.gateway.address();
    let bearer = format!("Bearer {}", token(alice));
    let bearer = ("Authorization", bearer.as_str());
    let nobody = http::fetch(address, "/v1/events").await;
    assert_eq!(nobody.header("www-authenticate"), Some("Bearer"));
    nobody.problem(401);
    let late = token_for(alice, Duration::ZERO);
    let late = http::fetch(address, &format!("/v1/events?access_token={late}")).await;
    assert!(late.problem(401).contains("expired"));
    let stranger = ("Origin", "https://evil.example");
    http::ask(address, "GET", "/v1/events", &[bearer, stranger])
        .await
        .problem(403);
    // A page that may connect may read what it gets.
    let target = format!("/v1/events?access_token={}", token(alice));
    let page = ("Origin", "https://app.example");
    let stream = TcpStream::connect(address).await.unwrap();
    let source = EventSource::open_on(stream, &target, &[page]).await.unwrap();
    assert!(source.has_header("access-control-allow-origin: https://app.example"));
    drop(source);
    nothing_is_left(&scene).await;
    // The token is judged first.
    http::ask(address, "GET", "/v1/events", &[stranger])
        .await
        .problem(401);
    http::ask(address, "GET", "/v1/events?cursor=a&cursor=b", &[bearer])
        .await
        .problem(400);
    http::ask(address, "POST", "/v1/events", &[bearer])
        .await
        .problem(405);
    assert_eq!(
        scene.gateway.metric("sessions_refused_total{reason=\"origin\"}"),
        1.0
    );
    assert_eq!(
        scene.gateway.metric("auth_failures_total{reason=\"expired\"}"),
        1.0
    );
    assert_eq!(scene.gateway.app.hub().registry.sessions(), 0);
    scene.gateway.stop().await;

    // A database without Herald: the feed never begins.
    let database = Database::with_application().await;
    let gateway = Gateway::start_on("127.0.0.1:0".parse().unwrap(), config(&database.url())).await;
    let answer = http::ask(gateway.address(), "GET", "/v1/events", &[bearer]).await;
    assert!(answer.problem(503).contains("has not reached its database"));
    assert_eq!(answer.header("retry-after"), Some("1"));
    gateway.stop().await;
}

#[tokio::test]
async fn a_head_request_is_answered_and_begins_no_session() {
    let scene = Scene::<1>::new().await;
    let [alice] = scene.people;
    let address = scene.gateway.address();
    let bearer = format!("Bearer {}", token(alice));
    let bearer = ("Authorization", bearer.as_str());
    let answer = http::ask(address, "HEAD", "/v1/events", &[bearer]).await;
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (200, Some("text/event-stream"))
    );
    assert_eq!(scene.gateway.app.hub().registry.sessions(), 0);
    assert_eq!(
        scene.gateway.metric("sessions_closed_total{reason=\"left\"}"),
        0.0
    );
    scene.gateway.stop().await;
}

#[tokio::test]
async fn a_connection_that_answered_other_requests_may_become_a_stream() {
    let scene = Scene::<1>::new().await;
    let [alice] = scene.people;
    let mut stream = TcpStream::connect(scene.gateway.address()).await.unwrap();
    for _ in 0..2 {
        let request = http::request("GET", "/healthz", &[]);
        stream.write_all(request.as_bytes()).await.unwrap();
        assert_eq!(http::read(&mut stream).await.unwrap().status, 200);
    }
    let target = format!("/v1/events?access_token={}", token(alice));
    let mut source = EventSource::open_on(stream, &target, &[]).await.unwrap();
    assert_eq!(source.block().await.event.as_deref(), Some("ready"));
    scene.write(alice, alice, "here").await;
    assert_eq!(content(&source.events(1).await.0[0]), "here");
    scene.gateway.stop().await;
}

#[tokio::test]
async fn a_session_ends_with_its_token() {
    let scene = Scene::<1>::new().await;
    let [alice] = scene.people;
    let token = token_for(alice, SHORT);
    let (mut source, ready) = EventSource::connect(scene.gateway.address(), &token, None).await;
    let expires_at = ready.json()["expires_at"].as_str().unwrap().to_owned();
    assert_eq!(source.closed().await, (4001, 1000));
    assert!(SystemTime::now() >= humantime::parse_rfc3339(&expires_at).unwrap());
    // What a browser does then by itself, which ends its EventSource.
    let again = EventSource::open(scene.gateway.address(), &token, ready.id.as_deref()).await;
    assert_eq!(again.err(), Some(401));
    nothing_is_left(&scene).await;
    scene.gateway.stop().await;
}

async fn nothing_is_left<const PEOPLE: usize>(scene: &Scene<PEOPLE>) {
    wait_until("nothing is left of it", || {
        scene.gateway.app.hub().registry.sessions() == 0
            && scene.gateway.metric("sessions{protocol=\"sse\"}") == 0.0
            && scene.gateway.metric("connections") == 0.0
    })
    .await;
}

#[tokio::test]
async fn the_oldest_session_of_a_user_goes_whatever_carries_it() {
    let scene = Scene::<1>::with(|config| config.sessions_per_user = 2).await;
    let [alice] = scene.people;
    let (mut first, _) = EventSource::connect(scene.gateway.address(), &token(alice), None).await;
    let (mut second, _) = scene.connect(alice).await;
    let (mut third, _) = EventSource::connect(scene.gateway.address(), &token(alice), None).await;
    // A browser cannot be told to stop, but to wait for longer than it is open.
    assert_eq!(first.closed().await, (4009, 24 * 3600 * 1000));
    let (mut fourth, _) = EventSource::connect(scene.gateway.address(), &token(alice), None).await;
    assert_eq!(second.close_code().await, 4009);
    scene.write(alice, alice, "to those who stayed").await;
    for source in [&mut third, &mut fourth] {
        assert_eq!(content(&source.events(1).await.0[0]), "to those who stayed");
    }
    scene.gateway.stop().await;
}

#[tokio::test]
async fn a_client_is_sent_a_comment_every_heartbeat_and_need_not_say_anything() {
    const HEARTBEAT: Duration = Duration::from_millis(300);
    let scene = Scene::<2>::with(|config| config.rhythm.heartbeat = HEARTBEAT).await;
    let [alice, bob] = scene.people;
    let (mut source, _) = EventSource::connect(scene.gateway.address(), &token(alice), None).await;
    let began = Instant::now();
    for _ in 0..8 {
        let Came::Block(block) = source.next().await else {
            panic!("it ended");
        };
        assert_eq!((block.comments, &block.data, &block.id), (1, &None, &None));
    }
    // Much longer than a socket may be silent.
    assert!(began.elapsed() >= HEARTBEAT * 7);
    scene.write(bob, alice, "still there").await;
    assert_eq!(content(&source.events(1).await.0[0]), "still there");
    scene.gateway.stop().await;
}

#[tokio::test]
async fn a_client_that_goes_leaves_nothing_behind_whichever_way_it_goes() {
    let scene = Scene::<3>::new().await;
    let [alice, bob, carol] = scene.people;
    let address = scene.gateway.address();
    let (wordless, _) = EventSource::connect(address, &token(alice), None).await;
    let (abrupt, _) = EventSource::connect(address, &token(bob), None).await;
    let (mut half, _) = EventSource::connect(address, &token(carol), None).await;
    assert_eq!(scene.gateway.metric("connections"), 3.0);
    drop(wordless);
    abrupt.stream.set_zero_linger().unwrap();
    drop(abrupt);
    half.stream.shutdown().await.unwrap();
    nothing_is_left(&scene).await;
    assert_eq!(
        scene.gateway.metric("sessions_closed_total{reason=\"left\"}"),
        3.0
    );
    scene.gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_is_closed_as_slow_and_goes_on_without_loss() {
    const OUTBOX: usize = 256 * 1024;
    let scene = Scene::<2>::with(|config| config.outbox_bytes = OUTBOX).await;
    let [slow, other] = scene.people;
    let address = scene.gateway.address();
    let target = format!("/v1/events?access_token={}", token(slow));
    let mut deaf = EventSource::open_on(narrow(address).await, &target, &[])
        .await
        .unwrap();
    let (mut others, _) = EventSource::connect(address, &token(other), None).await;
    overfill(&scene, 2 * send_buffer_max() + OUTBOX + (2 << 20)).await;
    scene.write(other, other, "undisturbed").await;
    assert_eq!(content(&others.events(1).await.0[0]), "undisturbed");
    assert_eq!(scene.gateway.metric("outbox_overflows_total"), 1.0);
    wait_until("it has left the hub", || {
        !scene.gateway.app.hub().registry.is_present(slow)
            && scene.gateway.metric("sessions{protocol=\"sse\"}") == 1.0
    })
    .await;

    // It reads now: what had been sent, and then why no more came.
    let mut received = Received::default();
    let ready = deaf.block().await;
    received.cursor = ready.id;
    loop {
        let block = deaf.block().await;
        if block.event.as_deref() == Some("close") {
            assert_eq!(
                (block.json()["code"].as_u64(), block.retry),
                (Some(4008), Some(1000))
            );
            break;
        }
        received.take(&block.json());
    }
    assert!(matches!(deaf.next().await, Came::Ended));
    received.provisional.clear();
    let expected = scene.logged(slow).await;
    assert!(received.seen.len() < expected.len());
    let (mut again, ready) = EventSource::connect(address, &token(slow), received.cursor.as_deref()).await;
    assert_eq!(ready.json()["resumed"], true);
    while received.seen.len() < expected.len() {
        received.take(&again.block().await.json());
    }
    assert!(received.seen.keys().eq(&expected));
    assert!(received.seen.values().all(|count| *count == 1));
    scene.gateway.stop().await;
}

/// Writes to the first of the people until a session has been closed as slow.
async fn overfill<const PEOPLE: usize>(scene: &Scene<PEOPLE>, bound: usize) {
    const TEXT: usize = 30_000;
    let slow = scene.people[0];
    let mut written = 0;
    while scene.gateway.metric("sessions_closed_total{reason=\"slow\"}") == 0.0 {
        scene
            .execute(&format!(
                "insert into public.messages (sender_id, receiver_id, content) \
                 select '{slow}', '{slow}', repeat('€', {}) from generate_series(1, 5)",
                TEXT / '€'.len_utf8(),
            ))
            .await;
        scene.caught_up().await;
        written += 5 * TEXT;
        assert!(
            written < bound,
            "{written} bytes were taken for a session that does not read"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_never_reads_does_not_keep_its_connection() {
    const OUTBOX: usize = 64 * 1024;
    let scene = Scene::<1>::with(|config| config.outbox_bytes = OUTBOX).await;
    let target = format!("/v1/events?access_token={}", token(scene.people[0]));
    let stream = narrow(scene.gateway.address()).await;
    let _deaf = EventSource::open_on(stream, &target, &[]).await.unwrap();
    overfill(&scene, 2 * send_buffer_max() + OUTBOX + (2 << 20)).await;
    nothing_is_left(&scene).await;
    scene.gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_takes_nothing_for_long_is_closed_though_its_outbox_has_room() {
    let scene = Scene::<1>::with(|config| {
        config.outbox_bytes = 64 << 20;
        config.rhythm.heartbeat = Duration::from_secs(1);
    })
    .await;
    let [alice] = scene.people;
    let target = format!("/v1/events?access_token={}", token(alice));
    let stream = narrow(scene.gateway.address()).await;
    let _deaf = EventSource::open_on(stream, &target, &[]).await.unwrap();
    flood(&scene).await;
    wait_until("its session is closed", || {
        let closed = |reason| {
            scene
                .gateway
                .metric(&format!("sessions_closed_total{{reason=\"{reason}\"}}"))
        };
        closed("slow") + closed("going_away") == 1.0
    })
    .await;
    nothing_is_left(&scene).await;
    scene.gateway.stop().await;
}

/// More than the buffers of a connection take.
async fn flood(scene: &Scene<1>) {
    let alice = scene.people[0];
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
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_tells_everybody_when_to_come_back_and_leaves_nothing() {
    const SESSIONS: usize = 300;
    let scene = Scene::<30>::new().await;
    let address = scene.gateway.address();
    let tokens: Vec<_> = scene.people.iter().map(|user| token(*user)).collect();
    let sources =
        join_all((0..SESSIONS).map(|number| EventSource::connect(address, &tokens[number % 30], None)));
    let sources = sources.await;
    assert_eq!(scene.gateway.metric("sessions{protocol=\"sse\"}"), 300.0);
    let app = scene.gateway.app;
    let (hub, metrics) = (Arc::clone(app.hub()), Arc::clone(app.metrics()));
    let outside = async {
        let goodbyes = sources
            .into_iter()
            .map(async |(mut source, _)| source.closed().await);
        join_all(goodbyes).await
    };
    let (left, goodbyes) = tokio::join!(app.drain(GRACE), outside);
    left.expect("something was left when the grace was over");
    assert!(
        goodbyes
            .iter()
            .all(|(code, retry)| *code == 1001 && *retry <= 5000)
    );
    // Drawn at random, so that browsers do not come back in one moment.
    let early = goodbyes.iter().filter(|(_, retry)| *retry < 2500).count();
    assert!(
        (75..225).contains(&early),
        "{early} of 300 come back within the first half"
    );
    assert_eq!((hub.registry.users(), hub.registry.sessions()), (0, 0));
    let page = metrics.render().unwrap();
    for line in [
        "herald_sessions{protocol=\"sse\"} 0\n",
        "herald_connections 0\n",
        "herald_sessions_closed_total{reason=\"going_away\"} 300\n",
    ] {
        assert!(page.contains(line), "{line} is missing in {page}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_is_not_held_up_by_a_client_that_reads_nothing() {
    let scene = Scene::<1>::with(|config| config.outbox_bytes = 64 << 20).await;
    let target = format!("/v1/events?access_token={}", token(scene.people[0]));
    let stream = narrow(scene.gateway.address()).await;
    let _deaf = EventSource::open_on(stream, &target, &[]).await.unwrap();
    flood(&scene).await;
    let drained = scene.gateway.app.drain(GRACE).await;
    drained.expect("the client that reads nothing was left");
}

#[tokio::test]
async fn a_client_to_which_nothing_happens_is_sent_a_cursor_in_an_event_of_its_own() {
    let scene = Scene::<2>::with(|config| {
        config.rhythm.heartbeat = Duration::from_millis(100);
        config.rhythm.cursor_age = Duration::from_millis(200);
    })
    .await;
    let [alice, bob] = scene.people;
    let (mut socket, _) = scene.connect(alice).await;
    let (mut source, _) = EventSource::connect(scene.gateway.address(), &token(alice), None).await;
    scene.write(bob, bob, "none of hers").await;
    let block = source.block().await;
    let frame = block.json();
    assert_eq!((&frame["type"], &frame["events"]), (&json!("events"), &json!([])));
    assert_eq!(
        (block.event.as_deref(), block.id.as_deref()),
        (Some("events"), frame["cursor"].as_str())
    );
    let of_socket = loop {
        if let Some(Ok(Message::Text(text))) = socket.message().await {
            break serde_json::from_str::<Value>(&text).unwrap();
        }
    };
    let keys = |frame: &Value| frame.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&of_socket), keys(&frame));
    scene.gateway.stop().await;
}
