//! `herald send` as its user meets it: the whole program against a real gateway.

use std::{
    net::SocketAddr,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use herald::{tasks::Tasks, types::UserId};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    time::timeout,
};
use uuid::Uuid;

use crate::{
    processes::PATIENCE,
    support::{
        database::{self, Database, ask, execute},
        gateway::{self, Gateway, SECRET},
    },
    tail::Port,
};

const WRONG_SECRET: &str = "another secret, long enough for HS256 as well";

/// A database with Herald and two people in it.
struct Scene {
    database: Database,
    alice: Uuid,
    bob: Uuid,
}

impl Scene {
    async fn new() -> Self {
        let database = Database::with_application().await;
        gateway::migrate(&database.url()).await;
        let [alice, bob] = database::people(&database.connect().await).await;
        Self { database, alice, bob }
    }

    /// The flags with which Alice writes to Bob.
    fn alice_to_bob(&self) -> [String; 2] {
        [format!("--as={}", self.alice), format!("--to={}", self.bob)]
    }

    /// All messages, one to a line.
    async fn messages(&self) -> String {
        ask(
            &self.database.url(),
            "select coalesce(string_agg(concat_ws(' ', id, sender_id, receiver_id, product_id, content), e'\\n'), '')
               from messages",
        )
        .await
    }
}

/// A running `herald send`. Dropped, it is killed.
struct Sending(Child);

/// How it ended.
struct Ended {
    code: i32,
    out: String,
    notes: String,
}

impl Sending {
    fn start(address: SocketAddr, flags: &[String], more: &[&str], secret: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_herald"));
        command
            .args(["send", &format!("--url=http://{address}")])
            .args(flags)
            .args(more);
        for (variable, _) in std::env::vars().filter(|(name, _)| name.starts_with("HERALD_")) {
            command.env_remove(variable);
        }
        command
            .env("HERALD_JWT_SECRET", secret)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        Self(command.spawn().unwrap())
    }

    /// Reads standard error until this was said.
    async fn notes_until(&mut self, what: &str) -> String {
        let mut lines = BufReader::new(self.0.stderr.as_mut().unwrap()).lines();
        let mut notes = String::new();
        let read = async {
            while !notes.contains(what) {
                let line = lines.next_line().await.unwrap();
                notes.push_str(&line.unwrap_or_else(|| panic!("it did not say `{what}`, but: {notes}")));
                notes.push('\n');
            }
        };
        timeout(PATIENCE, read).await.unwrap();
        notes
    }

    async fn end(self) -> Ended {
        let output = timeout(PATIENCE, self.0.wait_with_output())
            .await
            .expect("it goes on")
            .unwrap();
        Ended {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            notes: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

async fn send(address: SocketAddr, flags: &[String], more: &[&str]) -> Ended {
    Sending::start(address, flags, more, SECRET).end().await
}

#[tokio::test]
async fn a_message_is_stored_as_its_sender_and_its_id_is_printed() {
    let scene = Scene::new().await;
    let gateway = Gateway::start(&scene.database.url()).await;
    let (alice, bob) = (scene.alice, scene.bob);
    let sent = send(gateway.address(), &scene.alice_to_bob(), &["Grüße 😀"]).await;
    assert_eq!((sent.code, sent.notes.as_str()), (0, ""));
    let id: Uuid = sent.out.trim().parse().unwrap();
    assert_eq!(scene.messages().await, format!("{id} {alice} {bob} Grüße 😀"));

    let product = Uuid::new_v4();
    execute(
        &scene.database.url(),
        &format!("insert into products (id, title, price) values ('{product}', 'Desk lamp', 1)"),
    )
    .await;
    let more = ["--json", "--product", &product.to_string(), "two\nlines"];
    let sent = send(gateway.address(), &scene.alice_to_bob(), &more).await;
    assert_eq!((sent.code, sent.out.lines().count()), (0, 1), "{}", sent.notes);
    let row: Value = serde_json::from_str(&sent.out).unwrap();
    assert_eq!(row["product_id"], product.to_string());
    assert_eq!(row["sender_id"], alice.to_string());
    assert_eq!(
        (&row["content"], &row["is_read"]),
        (&"two\nlines".into(), &false.into())
    );
    gateway.stop().await;
}

#[tokio::test]
async fn the_text_can_come_by_standard_input_and_the_sender_by_a_token() {
    let scene = Scene::new().await;
    let gateway = Gateway::start(&scene.database.url()).await;
    let token = gateway::token(UserId(scene.alice));
    let flags = [format!("--token={token}"), format!("--to={}", scene.bob)];
    let mut sending = Sending::start(gateway.address(), &flags, &["-"], "");
    let mut input = sending.0.stdin.take().unwrap();
    input.write_all(b"- from a file -\n").await.unwrap();
    drop(input);
    let sent = sending.end().await;
    assert_eq!(sent.code, 0, "{}", sent.notes);
    assert!(scene.messages().await.ends_with(" - from a file -"));
    gateway.stop().await;
}

#[tokio::test]
async fn the_same_id_is_stored_once_and_belongs_to_who_sent_it_first() {
    let scene = Scene::new().await;
    let gateway = Gateway::start(&scene.database.url()).await;
    let id = format!("--id={}", Uuid::new_v4());
    let first = send(gateway.address(), &scene.alice_to_bob(), &[&id, "once"]).await;
    let before = scene.messages().await;
    let second = send(gateway.address(), &scene.alice_to_bob(), &[&id, "once"]).await;
    assert_eq!(
        (first.code, second.code),
        (0, 0),
        "{} {}",
        first.notes,
        second.notes
    );
    assert_eq!(first.out, second.out);
    let flags = [format!("--as={}", scene.bob), format!("--to={}", scene.alice)];
    let other = send(gateway.address(), &flags, &[&id, "mine"]).await;
    assert_eq!((other.code, other.out.as_str()), (1, ""));
    assert!(
        other.notes.contains("the gateway answered 409: "),
        "{}",
        other.notes
    );
    assert_eq!(scene.messages().await, before);
    gateway.stop().await;
}

#[tokio::test]
async fn what_is_refused_is_told_in_the_gateways_words_and_not_tried_again() {
    let scene = Scene::new().await;
    let gateway = Gateway::start(&scene.database.url()).await;
    let flags = scene.alice_to_bob();
    let to_nobody = [flags[0].clone(), format!("--to={}", Uuid::new_v4())];
    let long = "x".repeat(10_001);
    for (flags, text, secret, status) in [
        (&flags, "Hello", WRONG_SECRET, 401),
        (&to_nobody, "Hello", SECRET, 404),
        (&flags, "", SECRET, 422),
        (&flags, long.as_str(), SECRET, 413),
    ] {
        let refused = Sending::start(gateway.address(), flags, &[text], secret)
            .end()
            .await;
        assert_eq!((refused.code, refused.out.as_str()), (1, ""), "{}", refused.notes);
        let words = refused
            .notes
            .strip_prefix(&format!("herald send: the gateway answered {status}: "))
            .unwrap_or_else(|| panic!("{status} was expected: {}", refused.notes));
        assert!(
            words.trim().ends_with('.') && words.lines().count() == 1,
            "{words}"
        );
    }
    assert_eq!(scene.messages().await, "");
    gateway.stop().await;
}

#[tokio::test]
async fn what_cannot_be_sent_at_all_is_told_at_once_with_what_to_do() {
    let nowhere = Port::reserve();
    let mistaken = send(nowhere.address, &["--as=alice".to_owned()], &[]).await;
    assert_eq!(mistaken.code, 64);
    for part in ["--as: `alice`", "--to: not given", "TEXT: not given"] {
        assert!(mistaken.notes.contains(part), "{}", mistaken.notes);
    }
    let flags = ["--as", "--to"].map(|flag| format!("{flag}={}", Uuid::new_v4()));
    let away = send(nowhere.address, &flags, &["--patience=1s", "Hello"]).await;
    assert_eq!((away.code, away.out.as_str()), (1, ""));
    let last = away.notes.lines().last().unwrap();
    assert!(
        last.contains("cannot be reached: Connection refused"),
        "{}",
        away.notes
    );
    // Nothing was stored for certain, and so nothing is said about it.
    assert!(!away.notes.contains("--id"), "{}", away.notes);
}

#[tokio::test]
async fn a_gateway_that_is_away_is_waited_for_and_gets_the_message_once() {
    let scene = Scene::new().await;
    let port = Port::reserve();
    let mut sending = Sending::start(port.address, &scene.alice_to_bob(), &["at last"], SECRET);
    let notes = sending.notes_until("trying again").await;
    assert!(notes.contains("cannot be reached"), "{notes}");
    let gateway = Gateway::start_on(port.address, gateway::config(&scene.database.url())).await;
    let sent = sending.end().await;
    assert_eq!(sent.code, 0, "{}", sent.notes);
    let id = sent.out.trim();
    assert_eq!(
        scene.messages().await,
        format!("{id} {} {} at last", scene.alice, scene.bob)
    );
    gateway.stop().await;
}

#[tokio::test]
async fn a_message_whose_answers_are_lost_is_sent_again_and_stored_once() {
    let scene = Scene::new().await;
    let gateway = Gateway::start(&scene.database.url()).await;
    let tasks = Tasks::new();
    let (proxy, swallowed) = swallowing(&tasks, gateway.address(), 2).await;
    let sent = send(proxy, &scene.alice_to_bob(), &["Hello"]).await;
    assert_eq!(sent.code, 0, "{}", sent.notes);
    assert_eq!(
        sent.notes.matches("was lost before the answer came").count(),
        2,
        "{}",
        sent.notes
    );
    assert_eq!(swallowed.load(Ordering::SeqCst), 2);
    assert_eq!(scene.messages().await.lines().count(), 1);
    assert!(scene.messages().await.starts_with(sent.out.trim()));

    // If no answer ever arrives, it says how to go on.
    let (proxy, _) = swallowing(&tasks, gateway.address(), usize::MAX).await;
    let unknown = send(proxy, &scene.alice_to_bob(), &["--patience=1s", "Again"]).await;
    assert_eq!((unknown.code, unknown.out.as_str()), (1, ""));
    let id = unknown
        .notes
        .split("--id ")
        .nth(1)
        .unwrap()
        .split(',')
        .next()
        .unwrap();
    let more = [&format!("--id={id}"), "Again"];
    let known = send(gateway.address(), &scene.alice_to_bob(), &more).await;
    assert_eq!((known.code, known.out.trim()), (0, id), "{}", known.notes);
    assert_eq!(scene.messages().await.matches("Again").count(), 1);
    tasks.stop();
    tasks.finish(PATIENCE).await.unwrap();
    gateway.stop().await;
}

/// A proxy that cuts its first connections as soon as the gateway has begun to answer, and counts them.
async fn swallowing(tasks: &Tasks, gateway: SocketAddr, first: usize) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let swallowed = Arc::new(AtomicUsize::new(0));
    let (counted, stopping) = (Arc::clone(&swallowed), tasks.stopping());
    tasks.spawn("proxy", async move {
        loop {
            let (mut client, _) = tokio::select! {
                accepted = listener.accept() => accepted.unwrap(),
                () = stopping.cancelled() => return,
            };
            let mut server = TcpStream::connect(gateway).await.unwrap();
            let (mut from_client, mut to_client) = client.split();
            let (mut from_server, mut to_server) = server.split();
            let up = tokio::io::copy(&mut from_client, &mut to_server);
            if counted.load(Ordering::SeqCst) < first {
                tokio::select! {
                    _ended = up => {}
                    begun = from_server.read_u8() => {
                        begun.unwrap();
                        counted.fetch_add(1, Ordering::SeqCst);
                    }
                }
            } else {
                tokio::select! {
                    _ended = up => {}
                    _ended = tokio::io::copy(&mut from_server, &mut to_client) => {}
                }
            }
        }
    });
    (address, swallowed)
}
