//! How long it takes until everybody is back.
//!
//! 10,000 people with a session each lose their connections, as when a network or a load balancer fails; a message is written to each of
//! them; and all come back within one second, at random moments, with their cursors. Measured: the time from the first of them until
//! each has been greeted and has heard what it missed, once; the questions to the database that this took; and the gateway's processor time.
//! It is done twice: with the gateway that was there, and with one that was started again meanwhile and remembers nothing.
//!
//! Limit: all are back after 3 s, with at most 100 questions. The run fails otherwise.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark reports to whoever started it, and one that cannot be set up has nothing to tell"
)]

mod support;

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use futures::StreamExt;
use herald::tasks::Tasks;
use rand::RngExt;
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};

use support::{
    database::Database,
    figures::machine,
    gateway::Gateway,
    people::{NUMBERED, settle, token, user},
    socket::{self, Socket},
};

const PEOPLE: u32 = 10_000;

/// Within this time everybody comes back.
const BURST: Duration = Duration::from_secs(1);

/// Connections that are being opened at the same time while nobody is in a hurry.
const AT_ONCE: usize = 64;

/// The longest time until everybody is back, and the most questions.
const LIMIT: (Duration, u64) = (Duration::from_secs(3), 100);

/// What takes longer has failed.
const AT_MOST: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    if !support::is_asked_for() {
        return ExitCode::SUCCESS;
    }
    support::allow_sockets(PEOPLE);
    support::runtime().block_on(run())
}

async fn run() -> ExitCode {
    let tasks = Tasks::new();
    let database = Database::durable().await;
    let application = database.connect().await;
    settle(&application, PEOPLE).await;
    let tokens: Vec<String> = (0..PEOPLE).map(|number| token(user(number))).collect();
    let mut gateway = Gateway::start(&database.url(), &tasks).await;
    println!("machine: {}", machine(&database.version().await));
    let mut is_within = true;
    for name in ["the gateway that was there", "a gateway that was started again"] {
        let cursors = open_all(&gateway, &tokens).await;
        if name.contains("again") {
            drop(gateway);
            gateway = Gateway::start(&database.url(), &tasks).await;
        }
        let write = format!(
            "insert into messages (sender_id, receiver_id, content) \
             select {NUMBERED}, {NUMBERED}, 'missed' from generate_series(0, {PEOPLE} - 1) as n"
        );
        application.batch_execute(&write).await.unwrap();
        let questions = gateway.metric("replay_queries_total").await;
        let processor = gateway.processor_time();
        let took = Box::pin(come_back(gateway.address(), &tokens, &cursors, &tasks)).await;
        let questions = gateway.metric("replay_queries_total").await - questions;
        let processor = gateway.processor_time().saturating_sub(processor);
        println!(
            "{name}: {PEOPLE} sessions back after {:.2} s, {questions} questions, {:.2} s of the gateway's processor time",
            took.as_secs_f64(),
            processor.as_secs_f64()
        );
        is_within &= took <= LIMIT.0 && questions <= LIMIT.1;
    }
    println!("limit: {:?}, {} questions", LIMIT.0, LIMIT.1);
    if is_within {
        ExitCode::SUCCESS
    } else {
        println!("the limit is exceeded");
        ExitCode::FAILURE
    }
}

/// Opens a session for everybody, and closes it. Answers with the cursors.
async fn open_all(gateway: &Gateway, tokens: &[String]) -> Vec<String> {
    let opened = futures::stream::iter((0..).zip(tokens))
        .map(|(number, token)| open(gateway.address(), number, token, None))
        .buffered(AT_ONCE)
        .map(|(socket, ready)| {
            // All are there before the first one goes.
            (socket, ready["cursor"].as_str().unwrap().to_owned())
        })
        .collect::<Vec<_>>();
    let (sockets, cursors): (Vec<Socket>, Vec<String>) = Box::pin(opened).await.into_iter().unzip();
    drop(sockets);
    cursors
}

async fn come_back(gateway: SocketAddr, tokens: &[String], cursors: &[String], tasks: &Tasks) -> Duration {
    let began = Instant::now();
    let back = (0..)
        .zip(tokens.iter().zip(cursors))
        .map(|(number, (token, cursor))| {
            let (token, cursor) = (token.clone(), cursor.clone());
            let at = BURST.mul_f64(rand::rng().random());
            let (sender, receiver) = tokio::sync::oneshot::channel();
            tasks.spawn("person", async move {
                sleep(at).await;
                let (mut socket, ready) = open(gateway, number, &token, Some(&cursor)).await;
                assert_eq!(ready["resumed"], true, "{ready}");
                let missed = frame(&mut socket).await;
                assert_eq!(missed["events"].as_array().map(Vec::len), Some(1), "{missed}");
                // It stays connected until all are back.
                let _waits = sender.send((socket, Instant::now()));
            });
            receiver
        });
    let back: Vec<_> = back.collect();
    let back = timeout(AT_MOST, futures::future::join_all(back)).await.unwrap();
    let last = back.into_iter().map(|back| back.unwrap().1).max().unwrap();
    last - began
}

async fn open(gateway: SocketAddr, number: u32, token: &str, cursor: Option<&str>) -> (Socket, Value) {
    let cursor = cursor
        .map(|cursor| format!("?cursor={cursor}"))
        .unwrap_or_default();
    let mut request = format!("ws://{gateway}/v1/socket{cursor}")
        .into_client_request()
        .unwrap();
    let bearer = format!("Bearer {token}").parse().unwrap();
    request.headers_mut().insert("authorization", bearer);
    let mut socket = Box::pin(socket::dial(gateway, request, socket::source(number))).await;
    let ready = frame(&mut socket).await;
    assert_eq!(ready["type"], "ready", "{ready}");
    (socket, ready)
}

async fn frame(socket: &mut Socket) -> Value {
    loop {
        match socket.next().await {
            Some(Ok(Message::Text(text))) => return serde_json::from_str(&text).unwrap(),
            Some(Ok(_)) => {}
            other => panic!("the connection ended: {other:?}"),
        }
    }
}
