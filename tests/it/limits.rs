//! What is bounded: what waits for a session, how many connections there are, how often the database is asked.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use futures::{StreamExt, stream};
use herald::{dev::cluster::ClusterBuilder, types::UserId};
use serde_json::Value;
use tokio::net::{TcpSocket, TcpStream};

use crate::support::{
    APPLICATION,
    database::people,
    gateway::{Gateway, config, migrate, token},
    http,
    scene::{Scene, content, seq},
    socket::{Heard, Socket, request},
    wait_until,
};

/// A connection whose receiving side takes little ahead of its reader.
pub(crate) async fn narrow(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(8 * 1024).unwrap();
    socket.connect(address).await.unwrap()
}

/// The most bytes that the kernel keeps for the sending side of a connection.
pub(crate) fn send_buffer_max() -> usize {
    let limits = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_wmem").unwrap();
    limits.split_whitespace().next_back().unwrap().parse().unwrap()
}

/// Collects the serial numbers of a client that keeps to the protocol: what came after the last cursor does not count.
#[derive(Default)]
pub(crate) struct Received {
    pub(crate) seen: BTreeMap<i64, usize>,
    pub(crate) provisional: Vec<i64>,
    pub(crate) cursor: Option<String>,
}

impl Received {
    pub(crate) fn take(&mut self, frame: &Value) {
        self.provisional
            .extend(frame["events"].as_array().unwrap().iter().map(seq));
        if let Some(cursor) = frame["cursor"].as_str() {
            self.cursor = Some(cursor.to_owned());
            for seq in self.provisional.drain(..) {
                *self.seen.entry(seq).or_default() += 1;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_does_not_read_is_closed_while_others_go_on_and_resumes_without_loss() {
    const OUTBOX: usize = 256 * 1024;
    const TEXT: usize = 30_000;
    let scene = Scene::<3>::with(|config| config.outbox_bytes = OUTBOX).await;
    let [slow, alice, bob] = scene.people;
    let address = scene.gateway.address();
    let stream = narrow(address).await;
    let mut deaf = Socket::open_on(stream, request(address, &token(slow), None))
        .await
        .unwrap();
    let (mut hers, _) = scene.connect(alice).await;
    let (mut his, _) = scene.connect(bob).await;
    let closed = || scene.gateway.metric("sessions_closed_total{reason=\"slow\"}") > 0.0;
    let mut written = 0;
    let mut round = 0;
    while !closed() {
        scene
            .execute(&format!(
                "insert into public.messages (sender_id, receiver_id, content) \
                 select '{slow}', '{slow}', repeat('€', {}) from generate_series(1, 5)",
                TEXT / '€'.len_utf8(),
            ))
            .await;
        written += 5 * TEXT;
        // The others hear of theirs in the very next batch, whatever waits for the slow one.
        let text = format!("round {round}");
        scene.write(alice, bob, &text).await;
        for socket in [&mut hers, &mut his] {
            assert_eq!(content(&socket.events(1).await.0[0]), text);
        }
        round += 1;
        // What the kernel takes, the outbox, a frame that is being written, and what one round adds.
        let bound = 2 * send_buffer_max() + OUTBOX + (2 << 20);
        assert!(
            written < bound,
            "{written} bytes were taken for a session that does not read"
        );
    }
    assert_eq!(scene.gateway.metric("outbox_overflows_total"), 1.0);
    wait_until("it has left the hub", || {
        !scene.gateway.app.hub().registry.is_present(slow)
    })
    .await;
    scene.write(slow, slow, "while it was away").await;

    // It reads now: what had been sent, and then why no more came.
    let mut received = Received::default();
    let code = loop {
        match deaf.hear().await {
            Heard::Frame(frame) if frame["type"] == "ready" => {
                received.cursor = Some(frame["cursor"].as_str().unwrap().to_owned());
            }
            Heard::Frame(frame) => received.take(&frame),
            Heard::Closed(code) => break code,
            Heard::Broken => panic!("the connection ended without a close frame"),
        }
    };
    assert_eq!(code, 4008);
    received.provisional.clear();
    let expected = scene.logged(slow).await;
    assert!(received.seen.len() < expected.len());
    let (mut again, ready) = scene.come_back(slow, received.cursor.as_ref().unwrap()).await;
    assert_eq!(ready["resumed"], true, "{ready}");
    while received.seen.len() < expected.len() {
        received.take(&again.frame().await);
    }
    assert!(received.seen.keys().eq(&expected));
    assert!(received.seen.values().all(|count| *count == 1));
    scene.gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_is_too_slow_for_one_huge_batch_is_told_to_reload() {
    let scene = Scene::<1>::with(|config| config.outbox_bytes = 64 * 1024).await;
    let [alice] = scene.people;
    let address = scene.gateway.address();
    let stream = narrow(address).await;
    let mut deaf = Socket::open_on(stream, request(address, &token(alice), None))
        .await
        .unwrap();
    let ready = deaf.frame().await;
    scene
        .execute(&format!(
            "insert into public.messages (sender_id, receiver_id, content) \
             select '{alice}', '{alice}', repeat('x', 3000) from generate_series(1, 5000)"
        ))
        .await;
    wait_until("it is closed", || {
        scene.gateway.metric("outbox_overflows_total") > 0.0
    })
    .await;
    scene.caught_up().await;
    assert_eq!(deaf.close_code().await, 4008);
    // The cursor is still the one from before the batch, and more lies behind it than is replayed.
    let (mut again, told) = scene.come_back(alice, ready["cursor"].as_str().unwrap()).await;
    assert_eq!(
        (told["resumed"].as_bool(), told["reason"].as_str()),
        (Some(false), Some("too_far"))
    );
    scene.write(alice, alice, "live").await;
    assert_eq!(content(&again.events(1).await.0[0]), "live");
    scene.gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_sessions_leave_in_the_same_moment_and_newcomers_come_in_meanwhile() {
    const USERS: usize = 2_500;
    const SESSIONS: usize = 5_000;
    let scene = Scene::<1>::new().await;
    let users: Vec<UserId> = (0..USERS).map(|_| UserId(uuid::Uuid::new_v4())).collect();
    let address = scene.gateway.address();
    let tokens: Vec<String> = users.iter().map(|user| token(*user)).collect();
    let sockets: Vec<Socket> = stream::iter(0..SESSIONS)
        .map(async |number| Socket::connect(address, &tokens[number % USERS], None).await.0)
        .buffer_unordered(64)
        .collect()
        .await;
    let registry = &scene.gateway.app.hub().registry;
    assert_eq!((registry.users(), registry.sessions()), (USERS, SESSIONS));
    assert_eq!(scene.gateway.metric("sessions{protocol=\"native\"}"), 5_000.0);

    let leaving = async {
        drop(sockets);
        tokio::task::yield_now().await;
    };
    let coming = async {
        let mut came = 0;
        // As long as they leave, and at least once.
        while came == 0 || registry.sessions() > 100 {
            let (mut newcomer, _) = scene.connect(scene.people[0]).await;
            scene.write(scene.people[0], scene.people[0], "hello").await;
            assert_eq!(content(&newcomer.events(1).await.0[0]), "hello");
            newcomer.close().await;
            came += 1;
        }
    };
    tokio::join!(leaving, coming);
    wait_until("nobody is left", || {
        registry.users() == 0
            && registry.sessions() == 0
            && scene.gateway.metric("sessions{protocol=\"native\"}") == 0.0
            && scene.gateway.metric("connections") == 0.0
    })
    .await;
    let page = http::fetch(address, "/metrics").await.body;
    assert!(page.contains("herald_users 0\n"));
    scene.gateway.stop().await;
}

#[tokio::test]
async fn connections_beyond_the_limit_are_refused_and_come_in_when_others_have_left() {
    let scene = Scene::<1>::with(|config| config.connections_max = 2).await;
    let [alice] = scene.people;
    let address = scene.gateway.address();
    let bearer = format!("Bearer {}", token(alice));
    let (first, _) = scene.connect(alice).await;
    let (mut second, _) = scene.connect(alice).await;
    for _ in 0..5 {
        let answer = http::ask_for_socket(address, "", &[("Authorization", &bearer)]).await;
        assert!(answer.problem(503).contains("connections"));
        assert_eq!(answer.header("retry-after"), Some("1"), "{answer:?}");
    }
    http::fetch(address, "/healthz").await.problem(503);
    assert_eq!(
        scene
            .gateway
            .metric("sessions_refused_total{reason=\"too_many_connections\"}"),
        6.0
    );
    scene.write(alice, alice, "undisturbed").await;
    assert_eq!(content(&second.events(1).await.0[0]), "undisturbed");
    first.close().await;
    crate::processes::until("a place to be free", async || {
        http::fetch(address, "/healthz").await.status == 200
    })
    .await;
    scene.gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_view_is_asked_once_a_batch_however_many_sessions_there_are() {
    const BATCHES: usize = 20;
    let cluster = ClusterBuilder::temporary()
        .setting("shared_preload_libraries", "pg_stat_statements")
        .start()
        .await
        .unwrap();
    cluster.create_database("counted").await.unwrap();
    let url = cluster.url("counted");
    herald::dev::with_client(&url, async |client| {
        client.batch_execute(APPLICATION).await.unwrap();
        client
            .batch_execute("create extension pg_stat_statements")
            .await
            .unwrap();
        migrate(&url).await;
        let users = people::<20>(client).await.map(UserId);
        let mut config = config(&url);
        // Only rings make it read.
        config.feed.idle_tick = Duration::from_secs(3600);
        let gateway = Gateway::start_with(config).await;
        let mut sockets = Vec::new();
        for user in users.iter().cycle().take(100) {
            sockets.push(Socket::connect(gateway.address(), &token(*user), None).await.0);
        }
        // From here on it reads when it is rung for, and no more.
        gateway.asleep().await;
        client
            .batch_execute("select pg_stat_statements_reset()")
            .await
            .unwrap();
        let reads_before = gateway.metric("feed_reads_total");
        for batch in 1..=BATCHES {
            // Everybody writes to everybody else.
            let everybody = "insert into public.messages (sender_id, receiver_id, content) \
                             select s.id, r.id, 'hello' from profiles s, profiles r where s.id < r.id";
            assert_eq!(client.execute(everybody, &[]).await.unwrap(), 190);
            for socket in &mut sockets {
                assert_eq!(socket.events(19).await.0.len(), 19, "batch {batch}");
            }
        }
        #[allow(clippy::cast_precision_loss, reason = "small numbers")]
        let batches = BATCHES as f64;
        assert_eq!(gateway.metric("batches_total"), batches);
        assert_eq!(gateway.metric("feed_reads_total") - reads_before, batches);
        assert_eq!(gateway.metric("events_delivered_total"), batches * 19.0 * 100.0);
        let asked: i64 = client
            .query_one(
                "select coalesce(sum(calls), 0)::int8 from pg_stat_statements \
                 where query like '%messages_realtime_view%' and query not like '%pg_stat_statements%'",
                &[],
            )
            .await
            .unwrap()
            .get(0);
        assert_eq!(usize::try_from(asked).unwrap(), BATCHES);
        gateway.stop().await;
    })
    .await
    .unwrap();
}
