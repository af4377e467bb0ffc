//! What a page waits for: the list of conversations, the first page of one, and a send until its answer.
//!
//! There are 1,000,000 messages. One person has 100 conversations over 100,000 of them, half of which that person sent;
//! a quarter of the conversations are about no product; 1,000 received messages are unread. Row-level security is that of
//! the demo. The gateway runs as its own process and is asked over HTTP by one client that keeps its connection. Postgres
//! writes to disk at every commit. Measured is the time from the request to the last byte of the answer, in milliseconds.
//!
//! Peer of a send, in the same run and alternating with it: a bare INSERT of such a row by tokio-postgres, prepared, on a
//! connection of its own, through the same triggers and without row-level security.
//!
//! Limits: 99 of 100 lists of 100 conversations take less than 20 ms, and first pages of 50 less than 10 ms; the list costs the
//! same after that person's messages have doubled; a send takes less than 2 times the bare INSERT. The run fails otherwise.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark reports to whoever started it, and one that cannot be set up has nothing to tell"
)]

mod support;

use std::process::ExitCode;

use herald::tasks::Tasks;
use serde_json::json;
use tokio::time::Instant;
use tokio_postgres::Client;
use uuid::Uuid;

use support::{
    caller::Caller,
    database::Database,
    figures::{Times, machine},
    gateway::Gateway,
    people::{NUMBERED, settling, user},
};

/// All people. The one who is measured has the number 0, and talks with 1 to 25.
const USERS: u32 = 5000;

/// All messages. Every tenth is of the person who is measured.
const MESSAGES: u32 = 1_000_000;

/// That person's conversations.
const CONVERSATIONS: usize = 100;

/// Calls of each kind that are measured.
const CALLS: usize = 500;

/// Calls of each kind before, which are not measured: connections warm up, caches fill.
const WARM_UP: usize = 50;

/// Greatest 99th percentile of the list of conversations, in milliseconds.
const LIST_LIMIT: f64 = 20.0;

/// Greatest 99th percentile of a first page, in milliseconds.
const PAGE_LIMIT: f64 = 10.0;

/// Greatest ratio of the medians of a send and a bare INSERT.
const SEND_LIMIT: f64 = 2.0;

/// Greatest ratio of the medians of the list after and before the messages doubled: 1, and what this machine's noise adds.
const DOUBLED_LIMIT: f64 = 1.25;

/// What autovacuum would have done by then.
const VACUUM: &str = "vacuum analyze messages";

const LIST: &str = "/v1/conversations?limit=100";

fn main() -> ExitCode {
    if !support::is_asked_for() {
        return ExitCode::SUCCESS;
    }
    support::runtime().block_on(run())
}

async fn run() -> ExitCode {
    let tasks = Tasks::new();
    let database = Database::durable_with(&messages()).await;
    let client = database.connect().await;
    client.batch_execute(VACUUM).await.unwrap();
    let gateway = Gateway::start(&database.url(), &tasks).await;
    println!("machine: {}\n", machine(&database.version().await));
    let mut caller = Caller::connect(gateway.address(), user(0)).await;
    let pages = conversations(&mut caller).await;

    let list = gets(&mut caller, |_| LIST).await;
    let page = gets(&mut caller, |number| &pages[number % CONVERSATIONS]).await;
    let (send, insert) = sends(&mut caller, &pages[0], &client).await;
    client.batch_execute(&doubling()).await.unwrap();
    client.batch_execute(VACUUM).await.unwrap();
    let doubled = gets(&mut caller, |_| LIST).await;

    println!("{}", Times::head("milliseconds"));
    println!("{}", list.line("list of 100 conversations"));
    println!("{}", doubled.line("the same, over twice the messages"));
    println!("{}", page.line("first page of 50 messages"));
    println!("{}", send.line("send until its 201"));
    println!("{}\n", insert.line("bare INSERT until its confirmation"));
    let limits = [
        ("p99 of the list, ms", list.at(990), LIST_LIMIT),
        ("p99 of the first page, ms", page.at(990), PAGE_LIMIT),
        (
            "list over twice the messages, ratio of the medians",
            doubled.median() / list.median(),
            DOUBLED_LIMIT,
        ),
        (
            "send to bare INSERT, ratio of the medians",
            send.median() / insert.median(),
            SEND_LIMIT,
        ),
    ];
    let mut is_within = true;
    for (name, measured, limit) in limits {
        let verdict = if measured < limit { "" } else { ", EXCEEDED" };
        println!("{name}: {measured:.2} (limit {limit}{verdict})");
        is_within &= measured < limit;
    }
    if is_within {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// The statements that write all messages in the order of their times. Triggers and foreign keys would only make it slow.
fn messages() -> String {
    let person = |number: &str| NUMBERED.replace("to_hex(n)", &format!("to_hex({number})"));
    let (sender, receiver) = (person("sender"), person("receiver"));
    let product = person("product");
    let step = MESSAGES / 100_000;
    format!(
        "{settle}
         set session_replication_role = replica;
         insert into messages (id, sender_id, receiver_id, product_id, content, created_at, is_read)
         select gen_random_uuid(), {sender}, {receiver}, case when product is not null then {product} end,
                'A message of about the length that people write to each other.',
                now() - ({MESSAGES} - number) * interval '8 seconds', is_read
           from (
                select number,
                       case when number % {step} > 0 then 26 + (number * 7919) % ({USERS} - 26)
                            when is_sent then 0 else other end as sender,
                       case when number % {step} > 0 then 26 + (number * 104729 + 1) % ({USERS} - 26)
                            when is_sent then other else 0 end as receiver,
                       case when number % {step} > 0 then nullif(number % 51, 50)
                            when conversation >= 25 then (conversation / 25 * 13 + conversation) % 50 end as product,
                       number % {step} > 0 or is_sent or turn < 980 as is_read
                  from generate_series(0, {MESSAGES}::bigint - 1) as number,
                       lateral (select number / {step} % 100 as conversation, number / {step} / 100 as turn) as place,
                       lateral (select 1 + conversation % 25 as other, turn % 2 = 1 as is_sent) as part
                 order by number
                ) as message;
         set session_replication_role = origin",
        settle = settling(USERS),
    )
}

/// The statements that write each of the person's messages once more, a second earlier and read.
fn doubling() -> String {
    let person = NUMBERED.replace("to_hex(n)", "'0'");
    format!(
        "set session_replication_role = replica;
         insert into messages (id, sender_id, receiver_id, product_id, content, created_at, is_read)
         select gen_random_uuid(), sender_id, receiver_id, product_id, content, created_at - interval '1 second', true
           from messages where {person} in (sender_id, receiver_id) order by created_at;
         set session_replication_role = origin"
    )
}

/// Where the first pages of all conversations are.
async fn conversations(caller: &mut Caller) -> Vec<String> {
    caller.get(LIST).await;
    let body = caller.body();
    let listed = body["conversations"].as_array().unwrap();
    assert_eq!(listed.len(), CONVERSATIONS);
    let unread = listed
        .iter()
        .map(|conversation| conversation["unread_count"].as_u64().unwrap());
    assert_eq!(unread.sum::<u64>(), 1000);
    let targets = listed.iter().map(|conversation| {
        let name = conversation["conversation_id"].as_str().unwrap();
        format!("/v1/conversations/{name}/messages")
    });
    let targets: Vec<String> = targets.collect();
    caller.get(&targets[0]).await;
    assert_eq!(caller.body()["messages"].as_array().unwrap().len(), 50);
    targets
}

/// How long the answers took.
async fn gets<'a>(caller: &mut Caller, target: impl Fn(usize) -> &'a str) -> Times {
    let mut times = Vec::new();
    for number in 0..WARM_UP + CALLS {
        let began = Instant::now();
        caller.get(target(number)).await;
        times.push(milliseconds_since(began));
    }
    Times::new(times.split_off(WARM_UP))
}

/// How long sends and bare INSERTs took, in turn.
async fn sends(caller: &mut Caller, target: &str, client: &Client) -> (Times, Times) {
    const CONTENT: &str = "A message of about the length that people write to each other.";
    let statement = "insert into messages (id, sender_id, receiver_id, product_id, content) values ($1, $2, $3, null, $4)";
    let statement = client.prepare(statement).await.unwrap();
    let (mut sends, mut inserts) = (Vec::new(), Vec::new());
    for _ in 0..WARM_UP + CALLS {
        let body = json!({"id": Uuid::new_v4(), "content": CONTENT}).to_string();
        let began = Instant::now();
        caller.post(target, &body).await;
        sends.push(milliseconds_since(began));
        let began = Instant::now();
        client
            .execute(&statement, &[&Uuid::new_v4(), &user(0).0, &user(1).0, &CONTENT])
            .await
            .unwrap();
        inserts.push(milliseconds_since(began));
    }
    (
        Times::new(sends.split_off(WARM_UP)),
        Times::new(inserts.split_off(WARM_UP)),
    )
}

fn milliseconds_since(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1000.0
}
