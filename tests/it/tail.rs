//! `herald tail` as its user meets it: the whole program against a real gateway.

use std::{
    net::SocketAddr,
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use herald::{
    app::AppConfig,
    auth::Secret,
    client::{Credentials, Signer},
    tail::{Audience, Carrier, Event, Notice, Tail, TailConfig},
    tasks::Tasks,
    types::UserId,
};
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines},
    net::{TcpListener, TcpStream},
    process::{Child, ChildStdout, Command},
    time::{Instant, timeout},
};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    processes::{PATIENCE, signal},
    support::{
        database::{self, Database},
        gateway::{self, Gateway, SECRET, token_for},
        wait_until,
    },
};

/// A database with Herald and two people in it, and a session to write as the application.
struct Scene {
    database: Database,
    application: Client,
    alice: Uuid,
    bob: Uuid,
}

impl Scene {
    async fn new() -> Self {
        let database = Database::with_application().await;
        gateway::migrate(&database.url()).await;
        let application = database.connect().await;
        let [alice, bob] = database::people(&application).await;
        Self {
            database,
            application,
            alice,
            bob,
        }
    }

    fn config(&self) -> AppConfig {
        gateway::config(&self.database.url())
    }

    /// Bob writes to Alice.
    async fn say(&self, content: &str) -> Uuid {
        let insert =
            "insert into messages (sender_id, receiver_id, content) values ($1, $2, $3) returning id";
        let row = self
            .application
            .query_one(insert, &[&self.bob, &self.alice, &content])
            .await
            .unwrap();
        row.get(0)
    }

    async fn say_many(&self, what: &str, count: usize) {
        for number in 0..count {
            self.say(&format!("{what} {number}")).await;
        }
    }

    /// The serial numbers of everything that was ever logged, in order.
    async fn logged(&self) -> Vec<i64> {
        let rows = self
            .application
            .query("select seq from herald.log order by seq", &[])
            .await
            .unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }
}

/// The flags of a client that prints JSON, over a WebSocket.
const SOCKET: &[&str] = &["--json"];

/// The flags of one that prints JSON, over Server-Sent Events.
const EVENTS: &[&str] = &["--json", "--sse"];

/// A running `herald tail`. Dropped, it is killed.
struct Running {
    child: Child,
    out: Option<Lines<BufReader<ChildStdout>>>,
    notes: Arc<Mutex<Vec<String>>>,
    tasks: Tasks,
}

impl Running {
    /// Follows Alice with tokens of its own.
    fn start(scene: &Scene, address: SocketAddr, flags: &[&str]) -> Self {
        let user = format!("--as={}", scene.alice);
        let flags: Vec<&str> = flags.iter().copied().chain([user.as_str()]).collect();
        Self::start_with(address, &flags, &[("HERALD_JWT_SECRET", SECRET)])
    }

    fn start_with(address: SocketAddr, flags: &[&str], variables: &[(&str, &str)]) -> Self {
        let url = format!("--url=http://{address}");
        let flags: Vec<&str> = flags.iter().copied().chain([url.as_str()]).collect();
        Self::start_anywhere(&flags, variables)
    }

    fn start_anywhere(flags: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_herald"));
        command.arg("tail").args(flags);
        for (variable, _) in std::env::vars().filter(|(name, _)| name.starts_with("HERALD_")) {
            command.env_remove(variable);
        }
        command.envs(variables.iter().copied());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut errors = BufReader::new(child.stderr.take().unwrap()).lines();
        let notes = Arc::new(Mutex::new(Vec::new()));
        let tasks = Tasks::new();
        let kept = Arc::clone(&notes);
        tasks.spawn("notes", async move {
            while let Some(line) = errors.next_line().await.unwrap() {
                kept.lock().unwrap().push(line);
            }
        });
        Self {
            child,
            out: Some(out),
            notes,
            tasks,
        }
    }

    fn notes(&self) -> String {
        self.notes.lock().unwrap().join("\n")
    }

    async fn noted(&self, what: &str) {
        wait_until(what, || self.notes().contains(what)).await;
    }

    async fn line(&mut self) -> String {
        timeout(PATIENCE, self.out.as_mut().unwrap().next_line())
            .await
            .unwrap_or_else(|_| panic!("no line; it says: {}", self.notes()))
            .unwrap()
            .unwrap_or_else(|| panic!("it ended; it says: {}", self.notes()))
    }

    async fn json(&mut self) -> Value {
        serde_json::from_str(&self.line().await).unwrap()
    }

    async fn sequence(&mut self, count: usize) -> Vec<i64> {
        let mut sequence = Vec::new();
        while sequence.len() < count {
            sequence.push(self.json().await["seq"].as_i64().unwrap());
        }
        sequence
    }

    /// Waits for its end, and answers with its exit code and everything it still wrote.
    async fn end(mut self) -> (i32, String, String) {
        let mut rest = String::new();
        if let Some(out) = self.out.take() {
            let read = timeout(PATIENCE, out.into_inner().read_to_string(&mut rest)).await;
            read.unwrap_or_else(|_| panic!("it goes on; it says: {}", self.notes()))
                .unwrap();
        }
        let status = timeout(PATIENCE, self.child.wait()).await.unwrap().unwrap();
        self.tasks.finish(PATIENCE).await.unwrap();
        (status.code().unwrap(), rest, self.notes())
    }

    /// Ends it as Ctrl-C does.
    async fn interrupt(self) -> (i32, String, String) {
        signal("INT", self.child.id().unwrap());
        self.end().await
    }
}

/// A port that stays this test's own while nobody listens on it: connecting is refused, and no other process gets it.
pub(crate) struct Port {
    pub(crate) address: SocketAddr,
    _held: Socket,
}

impl Port {
    pub(crate) fn reserve() -> Self {
        let held = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        held.set_reuse_address(true).unwrap();
        held.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into())
            .unwrap();
        Self {
            address: held.local_addr().unwrap().as_socket().unwrap(),
            _held: held,
        }
    }
}

#[tokio::test]
async fn each_change_is_one_line_for_people_and_one_object_for_programs() {
    let scene = Scene::new().await;
    let gateway = Gateway::start(&scene.database.url()).await;
    let mut for_people = Running::start(&scene, gateway.address(), &[]);
    let mut for_programs = Running::start(&scene, gateway.address(), &["--json"]);
    for_people.noted("connected as").await;
    for_programs.noted("connected as").await;
    let id = scene.say("Hello\u{1b}[2J\nAlice 😀").await;
    let read = "update messages set is_read = true where id = $1";
    scene.application.execute(read, &[&id]).await.unwrap();
    let delete = "delete from messages where id = $1";
    let line = for_people.line().await;
    assert!(line.ends_with(r"Z ← person 1 Hello\u{1b}[2J\nAlice 😀"), "{line}");
    let line = for_people.line().await;
    assert!(line.contains("← person 1 (updated, read) Hello"), "{line}");
    // Deleted earlier, the row would be gone before it is read.
    scene.application.execute(delete, &[&id]).await.unwrap();
    let line = for_people.line().await;
    assert_eq!(line, format!("(deleted) message {id} with {}", scene.bob));
    for op in ["insert", "update", "delete"] {
        let event = for_programs.json().await;
        assert_eq!(event["op"], op, "{event}");
        assert_eq!(event["message"]["id"], id.to_string(), "{event}");
        assert_eq!(
            event["conversation"],
            format!("{}__general", scene.bob),
            "{event}"
        );
        if op != "delete" {
            assert_eq!(event["message"]["content"], "Hello\u{1b}[2J\nAlice 😀");
        }
    }
    for running in [for_people, for_programs] {
        let (code, rest, notes) = running.interrupt().await;
        assert_eq!((code, rest.as_str()), (0, ""), "{notes}");
        assert!(notes.contains("to continue from here: --cursor "), "{notes}");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn a_gateway_that_restarts_on_its_port_costs_nothing_and_doubles_nothing() {
    a_gateway_restarts_on_its_port(SOCKET).await;
}

#[tokio::test]
async fn events_go_on_through_restarts_of_the_gateway_on_its_port() {
    a_gateway_restarts_on_its_port(EVENTS).await;
}

async fn a_gateway_restarts_on_its_port(flags: &[&str]) {
    let scene = Scene::new().await;
    let port = Port::reserve();
    // Nobody is there yet, and it waits.
    let mut tail = Running::start(&scene, port.address, flags);
    tail.noted("the gateway cannot be reached").await;
    let mut seen = Vec::new();
    for round in 0..2 {
        let gateway = Gateway::start_on(port.address, scene.config()).await;
        let greeted = round + 1;
        wait_until("it is connected", || {
            tail.notes().matches("connected").count() >= greeted
        })
        .await;
        scene.say_many("while it is there", 20).await;
        seen.extend(tail.sequence(20).await);
        gateway.stop().await;
        scene.say_many("while it is away", 20).await;
    }
    tail.noted("code 1001").await;
    let gateway = Gateway::start_on(port.address, scene.config()).await;
    seen.extend(tail.sequence(40).await);
    assert_eq!(seen, scene.logged().await);
    let (code, rest, notes) = tail.interrupt().await;
    assert_eq!((code, rest.as_str()), (0, ""), "{notes}");
    assert_eq!(notes.matches("connected again").count(), 2, "{notes}");
    gateway.stop().await;
}

/// What a bad network does with a connection that has carried enough.
#[derive(Clone, Copy)]
enum Fault {
    /// It ends.
    Cut,
    /// It stays open and carries nothing more.
    Silence,
}

/// Stands between a client and a gateway, and does something to each connection that has carried this many bytes to the
/// client; those after the last number are left alone.
async fn bad_network(tasks: &Tasks, gateway: SocketAddr, fault: Fault, after: Vec<u64>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stopping = tasks.stopping();
    tasks.spawn("bad network", async move {
        let carry_all = async {
            let mut kept = Vec::new();
            for bytes in after.into_iter().map(Some).chain(std::iter::repeat(None)) {
                let (mut client, _) = listener.accept().await.unwrap();
                let mut upstream = TcpStream::connect(gateway).await.unwrap();
                carry(&mut client, &mut upstream, bytes).await;
                match fault {
                    Fault::Cut => {}
                    Fault::Silence => kept.push((client, upstream)),
                }
            }
        };
        tokio::select! {
            () = carry_all => {}
            () = stopping.cancelled() => {}
        }
    });
    address
}

async fn carry(client: &mut TcpStream, gateway: &mut TcpStream, bytes: Option<u64>) {
    let (mut from_client, mut to_client) = client.split();
    let (from_gateway, mut to_gateway) = gateway.split();
    let mut from_gateway = from_gateway.take(bytes.unwrap_or(u64::MAX));
    // Whichever way ends first ends both; what was carried so far has been handed over.
    tokio::select! {
        _ended = tokio::io::copy(&mut from_gateway, &mut to_client) => {}
        _ended = tokio::io::copy(&mut from_client, &mut to_gateway) => {}
    }
}

#[tokio::test]
async fn a_batch_of_many_frames_that_is_cut_again_and_again_is_printed_once() {
    a_batch_is_cut_again_and_again(SOCKET).await;
}

#[tokio::test]
async fn events_of_a_batch_that_is_cut_again_and_again_are_printed_once() {
    a_batch_is_cut_again_and_again(EVENTS).await;
}

async fn a_batch_is_cut_again_and_again(flags: &[&str]) {
    let scene = Scene::new().await;
    let gateway = Gateway::start(&scene.database.url()).await;
    let tasks = Tasks::new();
    // One statement makes some 600 KB in ten frames, of which only the last has a cursor: every cut but the first falls
    // between two of them.
    let cuts = vec![100_000, 300_000, 200_000, 450_000];
    let proxy = bad_network(&tasks, gateway.address(), Fault::Cut, cuts).await;
    let mut tail = Running::start(&scene, proxy, flags);
    tail.noted("connected as").await;
    let insert = "insert into messages (sender_id, receiver_id, content)
                  select $1, $2, n || repeat('x', 1000) from generate_series(1, 400) as n";
    scene
        .application
        .execute(insert, &[&scene.bob, &scene.alice])
        .await
        .unwrap();
    let mut seen = tail.sequence(400).await;
    // What would come double comes before this.
    scene.say("the last one").await;
    seen.extend(tail.sequence(1).await);
    assert_eq!(seen, scene.logged().await);
    let (code, rest, notes) = tail.interrupt().await;
    assert_eq!((code, rest.as_str()), (0, ""), "{notes}");
    assert_eq!(notes.matches("connected again").count(), 4, "{notes}");
    tasks.stop();
    tasks.finish(PATIENCE).await.unwrap();
    gateway.stop().await;
}

#[tokio::test]
async fn a_connection_that_goes_silent_is_left_for_a_new_one() {
    a_connection_goes_silent(SOCKET).await;
}

#[tokio::test]
async fn a_stream_of_events_that_goes_silent_is_left_for_a_new_one() {
    a_connection_goes_silent(EVENTS).await;
}

async fn a_connection_goes_silent(flags: &[&str]) {
    let scene = Scene::new().await;
    let mut config = scene.config();
    config.rhythm.heartbeat = Duration::from_secs(1);
    let gateway = Gateway::start_with(config).await;
    let tasks = Tasks::new();
    // The answer to the upgrade and the first frame are shorter than this, and the next frame reaches beyond.
    let proxy = bad_network(&tasks, gateway.address(), Fault::Silence, vec![2_000]).await;
    let mut tail = Running::start(&scene, proxy, flags);
    tail.noted("connected as").await;
    scene.say(&"x".repeat(2_000)).await;
    scene.say("last").await;
    let seen = tail.sequence(2).await;
    assert_eq!(seen, scene.logged().await);
    let (code, rest, notes) = tail.interrupt().await;
    assert_eq!((code, rest.as_str()), (0, ""), "{notes}");
    assert!(notes.contains("nothing came for 2 s"), "{notes}");
    tasks.stop();
    tasks.finish(PATIENCE).await.unwrap();
    gateway.stop().await;
}

#[tokio::test]
async fn the_cursor_printed_at_the_end_leads_on_and_a_wrong_one_is_marked_as_a_gap() {
    let scene = Scene::new().await;
    let gateway = Gateway::start(&scene.database.url()).await;
    let tail = Running::start(&scene, gateway.address(), &[]);
    tail.noted("connected as").await;
    let (_, _, notes) = tail.interrupt().await;
    let cursor = notes.split("--cursor ").nth(1).unwrap().trim().to_owned();
    scene.say("missed").await;
    for flags in [SOCKET, EVENTS] {
        let with = |cursor| -> Vec<&str> { flags.iter().copied().chain(["--cursor", cursor]).collect() };
        let mut tail = Running::start(&scene, gateway.address(), &with(&cursor));
        assert_eq!(tail.json().await["message"]["content"], "missed");
        tail.interrupt().await;

        let mut tail = Running::start(&scene, gateway.address(), &with("none of yours"));
        assert_eq!(
            tail.json().await,
            serde_json::json!({"type": "gap", "reason": "malformed"})
        );
        scene.say("goes on").await;
        assert_eq!(tail.json().await["message"]["content"], "goes on");
        tail.interrupt().await;
    }
    gateway.stop().await;
}

#[tokio::test]
async fn who_is_not_let_in_is_told_why_and_does_not_try_again() {
    somebody_is_not_let_in(SOCKET).await;
}

#[tokio::test]
async fn who_gets_no_events_is_told_why_and_does_not_try_again() {
    somebody_is_not_let_in(EVENTS).await;
}

async fn somebody_is_not_let_in(flags: &[&str]) {
    let scene = Scene::new().await;
    let gateway = Gateway::start(&scene.database.url()).await;
    let user = format!("--as={}", scene.alice);
    let with_user: Vec<&str> = flags.iter().copied().chain([user.as_str()]).collect();
    let wrong = "another secret, long enough for HS256 as well";
    let tail = Running::start_with(gateway.address(), &with_user, &[("HERALD_JWT_SECRET", wrong)]);
    let (code, out, notes) = tail.end().await;
    assert_eq!((code, out.as_str()), (1, ""), "{notes}");
    assert!(
        notes.contains("the gateway answered 401: The token's signature does not match"),
        "{notes}"
    );

    let bobs = token_for(UserId(scene.bob), Duration::from_secs(60));
    let tail = Running::start_with(gateway.address(), &with_user, &[("HERALD_TOKEN", &bobs)]);
    let (code, _, notes) = tail.end().await;
    assert_eq!(code, 1, "{notes}");
    assert!(
        notes.contains(&format!("speaks for {} and not for {}", scene.bob, scene.alice)),
        "{notes}"
    );

    let tail = Running::start_with(gateway.address(), &["--as=alice"], &[]);
    assert_eq!(tail.end().await.0, 64);
    gateway.stop().await;
}

#[tokio::test]
async fn a_given_token_that_ends_is_told_and_leaves_the_cursor() {
    a_given_token_ends(SOCKET).await;
}

#[tokio::test]
async fn a_given_token_that_ends_ends_the_events_and_leaves_the_cursor() {
    a_given_token_ends(EVENTS).await;
}

async fn a_given_token_ends(flags: &[&str]) {
    let scene = Scene::new().await;
    let gateway = Gateway::start(&scene.database.url()).await;
    let token = token_for(UserId(scene.alice), Duration::from_secs(3));
    let tail = Running::start_with(gateway.address(), flags, &[("HERALD_TOKEN", &token)]);
    let (code, _, notes) = tail.end().await;
    assert_eq!(code, 1, "{notes}");
    assert!(
        notes.contains("the token has expired") && notes.contains("to continue from here: --cursor "),
        "{notes}"
    );
    assert!(!notes.contains(&token), "the token is shown: {notes}");
    gateway.stop().await;
}

#[tokio::test]
async fn when_nobody_reads_any_more_it_ends_quietly() {
    let scene = Scene::new().await;
    let gateway = Gateway::start(&scene.database.url()).await;
    let mut tail = Running::start(&scene, gateway.address(), &[]);
    tail.noted("connected as").await;
    drop(tail.out.take());
    scene.say("to nobody").await;
    let (code, _, notes) = tail.end().await;
    assert_eq!(code, 0, "{notes}");
    assert!(!notes.contains("pipe"), "{notes}");
    gateway.stop().await;
}

#[tokio::test]
async fn it_can_be_stopped_while_nobody_reads_what_it_prints() {
    let scene = Scene::new().await;
    let gateway = Gateway::start(&scene.database.url()).await;
    let mut tail = Running::start(&scene, gateway.address(), &[]);
    tail.noted("connected as").await;
    // Much more than a pipe and the buffers around it hold.
    let insert = "insert into messages (sender_id, receiver_id, content)
                  select $1, $2, repeat('x', 10000) from generate_series(1, 60)";
    scene
        .application
        .execute(insert, &[&scene.bob, &scene.alice])
        .await
        .unwrap();
    assert!(tail.line().await.ends_with("xxx"));
    signal("INT", tail.child.id().unwrap());
    let status = timeout(PATIENCE, tail.child.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(0));
    gateway.stop().await;
}

/// Keeps what it is shown.
#[derive(Clone, Default)]
struct Notebook {
    events: Arc<Mutex<Vec<i64>>>,
    notices: Arc<Mutex<Vec<Notice>>>,
}

impl Audience for Notebook {
    async fn show(&mut self, _viewer: Uuid, events: &[&Event]) -> std::io::Result<()> {
        self.events
            .lock()
            .unwrap()
            .extend(events.iter().map(|event| event.key.seq));
        Ok(())
    }

    async fn show_gap(&mut self, reason: &str) -> std::io::Result<()> {
        panic!("nothing is missing: {reason}");
    }

    fn note(&mut self, notice: &Notice) {
        self.notices.lock().unwrap().push(notice.clone());
    }
}

#[tokio::test]
async fn its_own_tokens_are_renewed_before_they_end_without_a_new_connection() {
    let scene = Scene::new().await;
    let gateway = Gateway::start(&scene.database.url()).await;
    tokens_are_renewed(&scene, &gateway, Carrier::WebSocket).await;
    let left = || gateway.metric("sessions_closed_total{reason=\"left\"}");
    wait_until("it has left", || left() > 0.0).await;
    assert_eq!(left(), 1.0);
    gateway.stop().await;
}

#[tokio::test]
async fn events_go_on_with_a_new_token_before_the_old_one_ends_and_nothing_is_lost() {
    let scene = Scene::new().await;
    let gateway = Gateway::start(&scene.database.url()).await;
    tokens_are_renewed(&scene, &gateway, Carrier::ServerSentEvents).await;
    // One after the other, and none of them because its token had ended.
    wait_until("all have left", || gateway.app.hub().registry.sessions() == 0).await;
    assert!(gateway.metric("sessions_closed_total{reason=\"left\"}") >= 4.0);
    assert_eq!(
        gateway.metric("sessions_closed_total{reason=\"token_expired\"}"),
        0.0
    );
    gateway.stop().await;
}

/// Nobody who watches notices that tokens end, and every message is shown once.
async fn tokens_are_renewed(scene: &Scene, gateway: &Gateway, carrier: Carrier) {
    let lifetime = Duration::from_secs(4);
    let config = TailConfig {
        url: format!("http://{}", gateway.address()).parse().unwrap(),
        carrier,
        user: Some(UserId(scene.alice)),
        credentials: Credentials::Signed(Signer {
            secret: Secret::new(SECRET).unwrap(),
            user: UserId(scene.alice),
            audience: None,
            issuer: None,
            lifetime,
        }),
        cursor: None,
    };
    let notebook = Notebook::default();
    let (tasks, stopping) = (Tasks::new(), CancellationToken::new());
    let (mut audience, stop) = (notebook.clone(), stopping.clone());
    tasks.spawn("tail", async move {
        Tail::new(config).run(&mut audience, &stop).await.unwrap();
    });
    let connected = || !notebook.notices.lock().unwrap().is_empty();
    wait_until("it is connected", connected).await;
    let began = Instant::now();
    let mut said = 0;
    while began.elapsed() < lifetime * 2 {
        scene.say("still there?").await;
        said += 1;
        wait_until("it was shown", || notebook.events.lock().unwrap().len() == said).await;
    }
    let logged = scene.logged().await;
    assert_eq!(*notebook.events.lock().unwrap(), logged);
    let notices = notebook.notices.lock().unwrap().clone();
    assert!(
        matches!(notices.as_slice(), [Notice::Connected { resumed: false, .. }]),
        "{notices:?}"
    );
    stopping.cancel();
    tasks.finish(PATIENCE).await.unwrap();
}

/// A reverse proxy that speaks TLS as `localhost`. It passes on one request of each connection, and the answer to it.
struct TlsProxy {
    address: SocketAddr,
    certificate: tempfile::NamedTempFile,
}

impl TlsProxy {
    fn start(gateway: SocketAddr) -> Self {
        let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let certificate = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(certificate.path(), key.cert.pem()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let private = rustls::pki_types::PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap();
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![key.cert.der().clone()], private)
            .unwrap();
        let config = Arc::new(config);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        // It ends with the process; nothing waits for it.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let config = Arc::clone(&config);
                std::thread::spawn(move || {
                    let tls = rustls::ServerConnection::new(config).unwrap();
                    // A client that does not trust the certificate leaves, and that is its matter.
                    let _passed = pass_on(rustls::StreamOwned::new(tls, stream.unwrap()), gateway);
                });
            }
        });
        Self { address, certificate }
    }
}

fn pass_on(
    mut client: rustls::StreamOwned<rustls::ServerConnection, std::net::TcpStream>,
    gateway: SocketAddr,
) -> std::io::Result<()> {
    use std::io::{Read, Write};
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte)?;
        request.push(byte[0]);
    }
    let mut gateway = std::net::TcpStream::connect(gateway)?;
    gateway.write_all(&request)?;
    let mut buffer = [0; 4096];
    loop {
        match gateway.read(&mut buffer)? {
            0 => return Ok(()),
            read => client.write_all(&buffer[..read])?,
        }
        client.flush()?;
    }
}

#[tokio::test]
async fn events_come_by_tls_from_whom_the_system_trusts_and_from_nobody_else() {
    let scene = Scene::new().await;
    let gateway = Gateway::start(&scene.database.url()).await;
    let proxy = TlsProxy::start(gateway.address());
    let user = format!("--as={}", scene.alice);
    let url = format!("--url=https://localhost:{}", proxy.address.port());
    let flags = ["--json", "--sse", &user, &url];
    let trusted = proxy.certificate.path().to_str().unwrap();
    let variables = [("HERALD_JWT_SECRET", SECRET), ("SSL_CERT_FILE", trusted)];
    let mut tail = Running::start_anywhere(&flags, &variables);
    tail.noted("connected as").await;
    scene.say("in confidence").await;
    assert_eq!(tail.json().await["message"]["content"], "in confidence");
    tail.interrupt().await;

    let other = TlsProxy::start(gateway.address());
    let trusted = other.certificate.path().to_str().unwrap();
    let variables = [("HERALD_JWT_SECRET", SECRET), ("SSL_CERT_FILE", trusted)];
    let (code, out, notes) = Running::start_anywhere(&flags, &variables).end().await;
    assert_eq!((code, out.as_str()), (1, ""), "{notes}");
    assert!(notes.contains("TLS: invalid peer certificate"), "{notes}");
    gateway.stop().await;
}
