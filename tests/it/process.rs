//! `herald serve` as its operator meets it: signals, mistakes in its settings, a database that is away or refuses, and
//! a process that is killed.

use std::{
    net::TcpListener,
    sync::{Arc, Mutex},
    time::Duration,
};

use herald::{
    dev::cluster::{Cluster, Stop},
    protocol::{
        cursor::{Cursor, Epoch},
        snapshot::Snapshot,
    },
    tasks::Tasks,
    types::UserId,
};
use tokio::{io::AsyncWriteExt, net::TcpStream};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    processes::until,
    support::{
        APPLICATION,
        database::{AT_MOST, Database, ask, execute, people},
        follower::{Carrier, Follower, Habits},
        gateway::{migrate, token},
        http::{ask_for_socket, fetch},
        process::Process,
        scene::content,
        socket::{Heard, Socket},
        wait_until, writers,
    },
};

/// A database with Herald in it and one person.
pub(crate) async fn prepared(url: &str) -> UserId {
    execute(url, APPLICATION).await;
    migrate(url).await;
    let person = Uuid::new_v4();
    execute(
        url,
        &format!("insert into profiles (id, username) values ('{person}', 'one')"),
    )
    .await;
    UserId(person)
}

pub(crate) async fn write(url: &str, person: UserId, text: &str) {
    let insert = "insert into public.messages (sender_id, receiver_id, content)";
    execute(
        url,
        &format!("{insert} values ('{person}', '{person}', '{text}')"),
    )
    .await;
}

#[tokio::test]
async fn a_signal_drains_the_gateway_and_it_exits_with_zero() {
    let database = Database::empty().await;
    let person = prepared(&database.url()).await;
    for signal in ["TERM", "INT"] {
        let mut process = Process::serve(&database.url(), &[]);
        let address = process.ready().await;
        let (mut socket, _) = Socket::connect(address, &token(person), None).await;
        process.signal(signal);
        assert_eq!(socket.close_code().await, 1001);
        assert_eq!(process.ended().await.code(), Some(0), "{}", process.log());
        assert!(process.log().contains("\"stopped\""), "{}", process.log());
    }
}

#[tokio::test]
async fn a_second_signal_ends_the_process_at_once() {
    let database = Database::empty().await;
    prepared(&database.url()).await;
    let mut process = Process::serve(&database.url(), &[("HERALD_SHUTDOWN_GRACE", "10m")]);
    let address = process.ready().await;
    // A request that never ends keeps the drain going for some time.
    let mut unfinished = TcpStream::connect(address).await.unwrap();
    unfinished.write_all(b"GET /healthz HTTP/1.1\r\n").await.unwrap();
    process.signal("TERM");
    wait_until("the drain has begun", || process.log().contains("draining")).await;
    assert!(process.is_running());
    process.signal("TERM");
    assert_eq!(process.ended().await.code(), Some(1));
    assert!(process.log().contains("second signal"), "{}", process.log());
    assert!(!process.log().contains("\"stopped"), "{}", process.log());
}

#[tokio::test]
async fn settings_that_cannot_be_used_are_all_told_at_once() {
    let mut process = Process::serve(
        "postgres://user:a-password@localhost/app?sslmode=maybe",
        &[
            ("HERALD_BIND", "4000"),
            ("HERALD_JWT_SECRET", "short"),
            ("HERALD_HEARTBEAT", "often"),
            ("HERALD_SESSIONS_PER_USER", "-1"),
            ("HERALD_LOG_RETENTION", "0s"),
        ],
    );
    assert_eq!(process.ended().await.code(), Some(64));
    let told = process.log();
    for setting in [
        "DATABASE_URL",
        "HERALD_BIND",
        "HERALD_JWT_SECRET",
        "HERALD_HEARTBEAT",
        "HERALD_SESSIONS_PER_USER",
        "HERALD_LOG_RETENTION",
    ] {
        assert!(
            told.contains(&format!("{setting}: ")),
            "{setting} is missing in {told}"
        );
    }
    assert!(!told.contains("a-password"), "{told}");
}

#[tokio::test]
async fn a_port_that_is_taken_is_told_with_what_to_do() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut process = Process::serve("postgres://localhost/app", &[("HERALD_BIND", &address)]);
    assert_eq!(process.ended().await.code(), Some(1));
    let told = process.log();
    assert!(
        told.contains(&address) && told.contains("in use") && told.contains("HERALD_BIND"),
        "{told}"
    );
}

#[tokio::test]
async fn a_database_that_refuses_for_good_ends_the_start_with_its_reason() {
    let unprepared = Database::empty().await;
    let absent = unprepared.url().replace("/test_", "/no_such_database_");
    let folder = tempfile::tempdir().unwrap();
    let protected = Cluster::builder(folder.path()).start().await.unwrap();
    let url = protected.url("postgres");
    let (scheme, rest) = url.split_once("://").unwrap();
    let wrong_password = format!(
        "{scheme}://postgres:not-the-password@{}",
        rest.split_once('@').unwrap().1
    );
    for (url, expected) in [
        (unprepared.url(), "herald migrate"),
        (absent, "no_such_database"),
        (wrong_password, "password"),
    ] {
        let mut process = Process::serve(&url, &[]);
        assert_eq!(process.ended().await.code(), Some(1), "{expected}");
        let told = process.log();
        let last = told.lines().last().unwrap();
        assert!(
            last.starts_with("herald serve: ") && last.contains(expected),
            "{told}"
        );
        assert!(!told.contains("not-the-password"), "{told}");
    }
    protected.stop(Stop::Fast).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgres_that_is_away_is_waited_for_and_sessions_stay_open() {
    let cluster = Cluster::temporary().await.unwrap();
    cluster.create_database("app").await.unwrap();
    let url = cluster.url("app");
    let person = prepared(&url).await;
    cluster.stop(Stop::Fast).await.unwrap();

    let mut process = Process::serve(&url, &[]);
    let address = process.address().await;
    let why = |body: &str| body.starts_with("not ready: the feed: ") && body.contains("127.0.0.1");
    until("/readyz says why", async || {
        let answer = fetch(address, "/readyz").await;
        assert_eq!(answer.status, 503);
        why(&answer.body)
    })
    .await;
    assert_eq!(fetch(address, "/healthz").await.status, 200);
    let bearer = format!("Bearer {}", token(person));
    let refused = ask_for_socket(address, "", &[("Authorization", &bearer)]).await;
    assert!(refused.problem(503).contains("database"));
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert!(process.is_running());

    cluster.start_again().await.unwrap();
    let before = cursor(&url).await;
    process.ready().await;
    let (mut socket, greeting) = Socket::connect(address, &token(person), None).await;
    write(&url, person, "it works").await;
    assert_eq!(content(&socket.events(1).await.0[0]), "it works");

    // Half a minute is longer than a heartbeat, and than any deadline of the feed.
    for (how, away) in [
        (Stop::Fast, Duration::from_secs(30)),
        (Stop::Immediate, Duration::ZERO),
    ] {
        cluster.stop(how).await.unwrap();
        let back_at = tokio::time::Instant::now() + away;
        until("/readyz says why", async || {
            let answer = fetch(address, "/readyz").await;
            answer.status == 503 && why(&answer.body)
        })
        .await;
        // The session does not notice, and a new one is let in where the feed stands.
        loop {
            socket.say("{\"type\":\"ping\"}").await;
            assert_eq!(socket.frame().await["type"], "pong");
            assert!(why(&fetch(address, "/readyz").await.body));
            if tokio::time::Instant::now() >= back_at {
                break;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let (_newcomer, _) = Socket::connect(address, &token(person), None).await;
        // What was missed since the gateway is there need not be asked for.
        let cursor = greeting["cursor"].as_str();
        let (mut returning, ready) = Socket::connect(address, &token(person), cursor).await;
        assert_eq!(ready["resumed"], true, "{ready}");
        assert_eq!(content(&returning.frame().await["events"][0]), "it works");
        // What came before it is: the client is sent away, to come back.
        let mut returning = Socket::open(address, &token(person), Some(&before))
            .await
            .unwrap();
        assert!(matches!(returning.hear().await, Heard::Closed(1001)));
        cluster.start_again().await.unwrap();
        write(&url, person, "the moment it is back").await;
        assert_eq!(content(&socket.events(1).await.0[0]), "the moment it is back");
        process.ready().await;
    }
    let page = fetch(address, "/metrics").await.body;
    assert!(page.contains("herald_feed_discontinuities_total 0\n"), "{page}");
    process.signal("TERM");
    assert_eq!(process.ended().await.code(), Some(0));
}

/// The cursor of someone who lacks the last transaction before now, and so has less than any gateway that begins later.
async fn cursor(url: &str) -> String {
    let ask = async |question: &str| ask(url, question).await;
    let now = ask("select pg_snapshot_xmin(pg_current_snapshot())::text").await;
    let before = now.parse::<u64>().unwrap() - 1;
    let cursor = Cursor {
        epoch: Epoch::new(&ask("select herald.epoch()").await).unwrap(),
        snapshot: Arc::new(Snapshot::new(before, before, before, Vec::new()).unwrap()),
    };
    cursor.to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_is_killed_and_started_again_loses_nothing() {
    const PEOPLE: usize = 4;
    let database = Database::with_application().await;
    migrate(&database.url()).await;
    let people = people::<PEOPLE>(&database.connect().await).await;
    let seed = rand::random();
    let mut process = Process::serve(&database.url(), &[]);
    let address = process.ready().await;
    let addresses = Arc::new(Mutex::new(vec![address]));
    let (devices, writing, enough) = (Tasks::new(), Tasks::new(), CancellationToken::new());
    let followers: Vec<_> = (0..)
        .zip(people.iter().cycle().take(2 * PEOPLE))
        .map(|(number, person)| {
            let drops_within = (number % 2 == 0).then_some(Duration::from_millis(400));
            let habits = Habits {
                drops_within,
                carrier: Carrier::of(number),
            };
            Follower::start(
                &devices,
                &addresses,
                UserId(*person),
                habits,
                seed + number,
                enough.clone(),
            )
        })
        .collect();
    wait_until("every device is there", || {
        followers
            .iter()
            .all(|follower| follower.notebook.lock().unwrap().greeted)
    })
    .await;
    writers::start(&writing, &database.url(), &people, 4, 60, seed);
    for _ in 0..2 {
        let before = followers[1].notebook.lock().unwrap().seen.len();
        wait_until("something more has arrived", || {
            followers[1].notebook.lock().unwrap().seen.len() > before + 5
        })
        .await;
        process.signal("KILL");
        assert_eq!(process.ended().await.code(), None);
        process = Process::serve(&database.url(), &[]);
        *addresses.lock().unwrap() = vec![process.address().await];
    }
    writing.finish(AT_MOST).await.expect("the writers did not end");
    for follower in &followers {
        let concerns = format!("where '{}' in (sender_id, receiver_id)", follower.user);
        let expected = ask(
            &database.url(),
            &format!("select string_agg(seq::text, ' ' order by seq) from herald.log {concerns}"),
        )
        .await;
        let count = expected.split(' ').count();
        wait_until("everything has arrived", || {
            follower.notebook.lock().unwrap().seen.len() >= count
        })
        .await;
        let notebook = follower.notebook.lock().unwrap();
        assert_eq!(notebook.doubled(), [0; 0]);
        assert_eq!(notebook.discontinued, [""; 0]);
        let seen: Vec<_> = notebook.seen.keys().map(i64::to_string).collect();
        assert_eq!(seen.join(" "), expected);
        assert!(notebook.resumed > 0);
    }
    enough.cancel();
    devices.finish(AT_MOST).await.unwrap();
    process.signal("TERM");
    assert_eq!(process.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_gateway_whose_database_is_refused_later_stays_and_says_so() {
    let database = Database::empty().await;
    let person = prepared(&database.url()).await;
    let role = database.role("gateway");
    execute(
        &database.url(),
        &format!("create role {role} login superuser connection limit 20"),
    )
    .await;
    let process = Process::serve(&database.url_as(&role), &[]);
    let address = process.ready().await;
    let (mut socket, _) = Socket::connect(address, &token(person), None).await;
    execute(
        &database.url(),
        &format!("alter role {role} nologin; select pg_terminate_backend(pid) from pg_stat_activity where usename = '{role}'"),
    )
    .await;
    until("/readyz says why", async || {
        let answer = fetch(address, "/readyz").await;
        answer.status == 503 && answer.body.contains("not permitted to log in")
    })
    .await;
    write(&database.url(), person, "meanwhile").await;
    execute(&database.url(), &format!("alter role {role} login")).await;
    assert_eq!(content(&socket.events(1).await.0[0]), "meanwhile");
    process.ready().await;
}

#[tokio::test]
async fn a_gateway_that_is_short_of_memory_takes_nobody_in_and_serves_those_who_are_there() {
    /// As much of a request's headers as the gateway keeps of one that does not come to its end.
    const HEADERS_BYTES: usize = 60_000;
    /// Far more than fit into the limit.
    const MANY: usize = 4_000;
    let database = Database::empty().await;
    let person = prepared(&database.url()).await;
    // The least that is taken is told with what is wrong.
    let mut refused = Process::serve(&database.url(), &[("HERALD_MEMORY_LIMIT", "1MiB")]);
    assert_eq!(refused.ended().await.code(), Some(64));
    assert!(
        refused.log().contains("HERALD_MEMORY_LIMIT: "),
        "{}",
        refused.log()
    );

    let variables = [
        ("HERALD_MEMORY_LIMIT", "96MiB"),
        ("HERALD_HANDSHAKE_DEADLINE", "10m"),
    ];
    let process = Process::serve(&database.url(), &variables);
    let address = process.ready().await;
    let (mut socket, _) = Socket::connect(address, &token(person), None).await;
    let headers = format!(
        "GET /healthz HTTP/1.1\r\nX-Ballast: {}",
        "x".repeat(HEADERS_BYTES)
    );
    let mut waiting = Vec::new();
    let answer = loop {
        assert!(waiting.len() < MANY, "memory without end: {}", process.log());
        for _ in 0..20 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            // A connection that is refused may be closed before all is written.
            let _written = stream.write_all(headers.as_bytes()).await;
            waiting.push(stream);
        }
        let answer = fetch(address, "/healthz").await;
        if answer.status != 200 {
            break answer;
        }
    };
    assert!(answer.problem(503).contains("memory"), "{answer:?}");
    assert_eq!(answer.header("retry-after"), Some("1"), "{answer:?}");
    assert!(
        process.log().contains("as much memory as it may have"),
        "{}",
        process.log()
    );
    write(&database.url(), person, "undisturbed").await;
    assert_eq!(content(&socket.events(1).await.0[0]), "undisturbed");
    // Whether or not the allocator gives back what they took.
    drop(waiting);
    until("connections to be taken in again", async || {
        fetch(address, "/healthz").await.status == 200
    })
    .await;
}
