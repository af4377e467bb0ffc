//! What Supabase's clients cost beside native ones: the way to the socket, processor time, memory, and their return.
//!
//! The clients are sockets that speak Phoenix channels 2.0.0 as Supabase's do, each with one channel that hears the messages its
//! user receives. Unlike native clients they bring no cursor, so that the gateway sends a ping behind each flush with events and
//! learns from the answer what has arrived. Postgres writes to disk at every commit. Gateways run as processes of their own. The
//! peer in the same run is the native protocol, with the same messages at the same time:
//!
//! - From INSERT to the socket: 500 users with a socket of each protocol at one gateway, 200 rows a second.
//! - Processor time of the gateway, by the kernel's account, for each event that is delivered: two gateways on one database, one
//!   for each protocol. A message to 500 sockets of one user, the next one when it has arrived everywhere; ten of them in one
//!   transaction, where one ping stands for ten events; and messages to 500 users with a socket each, 200 a second.
//! - Resident memory of the gateway for each idle connection, after a heartbeat: two gateways again, with 5,000 each.
//!
//! And without a peer: 400 users with five devices each are cut off in one moment, each user is sent a message, and then all 2,000
//! sockets come back in another moment. Measured is how long after the first of them set out each one hears changes again and
//! has what it missed, and what the database was asked for that. Each has to be told everything once.
//!
//! Limits: see the constants. The run fails if one is exceeded. Parts are chosen by their names: `latency`, `processor`, `memory`,
//! `return`; all of them run if none is named.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark reports to whoever started it, and one that cannot be set up has nothing to tell"
)]

mod support;

use std::{
    net::{IpAddr, Ipv4Addr},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt, future::join_all};
use herald::{tasks::Tasks, types::UserId};
use serde_json::Value;
use tokio::{
    sync::{
        Notify,
        mpsc::{self, Receiver, Sender},
    },
    time::{Instant, MissedTickBehavior, sleep, timeout},
};
use tokio_postgres::Client;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use support::{
    channel::{self, Told},
    database::Database,
    figures::{Times, machine},
    gateway::Gateway,
    people::{number_of, numbered, product, settle, token, user},
    socket::{self, Socket},
};

/// Users that take part in all but the measurement of memory.
const USERS: u32 = 500;

/// Who writes to all of them and is connected nowhere, so that a message has one reader.
const SENDER: UserId = user(USERS);

/// Connections that insert. One alone would fall behind whenever a commit waits for the disk.
const WRITERS: u32 = 4;

/// Time between two rows of one writer; all of them together write 200 a second.
const INTERVAL: Duration = Duration::from_millis(20);

/// Rows of one writer that are not measured: connections warm up, plans are made.
const WARM_UP: u32 = 100;

/// Rows of one writer that are measured.
const ROWS: u32 = 1000;

/// Messages to all sockets of one user, one by one; and so many transactions of ten.
const MESSAGES: u32 = 100;

/// Messages of one transaction, where they are written together.
const TOGETHER: u32 = 10;

/// Idle connections of each protocol.
const IDLE: u32 = 5_000;

/// Longer than the gateway's heartbeat of 25 s, so that each session has sent and received one.
const A_HEARTBEAT: Duration = Duration::from_secs(30);

/// Users that come back.
const RETURNING: u32 = 400;

/// Devices of each of them.
const DEVICES: u32 = 5;

/// Connections that are being opened at the same time.
const AT_ONCE: usize = 64;

/// How long anything here may take.
const AT_MOST: Duration = Duration::from_secs(30);

/// Greatest ratio of the medians from INSERT to a channel and to a native socket.
const LATENCY_LIMIT: f64 = 1.5;

/// Greatest ratio of the processor time for an event to a channel and to a native socket, of messages one by one.
const PROCESSOR_LIMIT: f64 = 4.0;

/// Greatest ratio of the memory of a connection with one channel and of a native one.
const MEMORY_LIMIT: f64 = 2.0;

/// Longest time until the last of those who come back has what it missed.
const RETURN_LIMIT: Duration = Duration::from_secs(10);

/// Which protocol a socket speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Native,
    Phoenix,
}

const BOTH: [Protocol; 2] = [Protocol::Native, Protocol::Phoenix];

/// A frame that arrived.
struct Arrived {
    socket: usize,
    frame: Utf8Bytes,
    at: Instant,
}

fn main() -> ExitCode {
    if !support::is_asked_for() {
        return ExitCode::SUCCESS;
    }
    support::allow_sockets(2 * IDLE);
    support::runtime().block_on(run())
}

async fn run() -> ExitCode {
    let database = Database::durable().await;
    settle(&database.connect().await, USERS + 1).await;
    println!("machine: {}", machine(&database.version().await));
    let mut is_within = true;
    if is_chosen("latency") {
        is_within &= Box::pin(latency(&database)).await;
    }
    if is_chosen("processor") {
        is_within &= Box::pin(processor(&database)).await;
    }
    if is_chosen("memory") {
        is_within &= Box::pin(memory(&database)).await;
    }
    if is_chosen("return") {
        is_within &= Box::pin(coming_back(&database)).await;
    }
    if is_within {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Whether a part is to run.
fn is_chosen(part: &str) -> bool {
    let mut names = std::env::args()
        .skip(1)
        .filter(|name| !name.starts_with("--"))
        .peekable();
    names.peek().is_none() || names.any(|name| name == part)
}

/// Prints a figure and its limit, and answers whether it is within.
fn judge(name: &str, measured: f64, limit: f64) -> bool {
    let is_within = measured < limit;
    let verdict = if is_within { "" } else { ", EXCEEDED" };
    println!("{name}: {measured:.2} (limit {limit}{verdict})");
    is_within
}

/// The address that a connection comes from: a port stands for one connection, and there are some 28,000 by default.
fn source(number: u32) -> IpAddr {
    let [.., last] = (1 + number / IDLE).to_be_bytes();
    Ipv4Addr::new(127, 0, 0, last).into()
}

/// Opens a socket that hears what its user receives.
async fn open(protocol: Protocol, gateway: &Gateway, user: UserId, from: IpAddr) -> Socket {
    let (address, token) = (gateway.address(), token(user));
    match protocol {
        Protocol::Native => socket::open(address, &token, from).await,
        Protocol::Phoenix => channel::subscribe(address, user, &token, "", from).await,
    }
}

/// Opens a socket for each number, some of them at a time.
async fn open_all(protocol: Protocol, gateway: &Gateway, users: impl Iterator<Item = u32>) -> Vec<Socket> {
    futures::stream::iter((0..).zip(users))
        .map(|(number, of)| Box::pin(open(protocol, gateway, user(of), source(number))))
        .buffered(AT_ONCE)
        .collect()
        .await
}

/// Reads a socket, which answers pings, and hands on what arrives.
async fn listen(number: usize, mut socket: Socket, heard: Sender<Arrived>) {
    while let Some(Ok(message)) = socket.next().await {
        let at = Instant::now();
        if let Message::Text(frame) = message {
            let arrived = Arrived {
                socket: number,
                frame,
                at,
            };
            heard.send(arrived).await.unwrap();
        }
    }
}

/// Which messages a frame brings.
fn messages_of(protocol: Protocol, frame: &str) -> Vec<Uuid> {
    match protocol {
        Protocol::Native => {
            let frame: Value = serde_json::from_str(frame).unwrap();
            let events = frame["events"].as_array().unwrap();
            let id = |event: &Value| event["message"]["id"].as_str().unwrap().parse().unwrap();
            events.iter().map(id).collect()
        }
        Protocol::Phoenix => match channel::read(frame) {
            Told::Inserted(id) => vec![id],
            Told::Joined | Told::Subscribed => Vec::new(),
        },
    }
}

/// Inserts rows from all writers, 200 a second, and answers with their numbers and when each was sent. The first has the
/// number `first`; each goes to one of all users in turn.
async fn write(database: &Database, first: u32, rows: u32) -> Vec<(u32, Instant)> {
    let mut clients = Vec::new();
    for _ in 0..WRITERS {
        clients.push(database.connect().await);
    }
    let writers = (0..)
        .zip(&clients)
        .map(|(writer, client)| write_some(writer, client, first, rows));
    join_all(writers).await.concat()
}

async fn write_some(writer: u32, client: &Client, first: u32, rows: u32) -> Vec<(u32, Instant)> {
    let statement = "insert into messages (id, sender_id, receiver_id, product_id, content) \
                     values ($1, $2, $3, $4, 'A message of about the length that people write to each other.')";
    let statement = client.prepare(statement).await.unwrap();
    let start = Instant::now() + INTERVAL * writer / WRITERS;
    let mut ticks = tokio::time::interval_at(start, INTERVAL);
    // A row that had to wait is sent late and does not slow the others down.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut written = Vec::new();
    for row in 0..rows {
        let number = first + row * WRITERS + writer;
        let receiver = user(number % USERS).0;
        ticks.tick().await;
        let sent = Instant::now();
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 4] =
            [&numbered(number), &SENDER.0, &receiver, &product(number)];
        client.execute(&statement, &parameters).await.unwrap();
        written.push((number, sent));
    }
    written
}

/// Waits until a sum of a gateway's counter is reached.
async fn reach(gateway: &Gateway, metric: &str, expected: u64) {
    let reached = timeout(AT_MOST, async {
        while gateway.metric(metric).await < expected {
            sleep(Duration::from_millis(10)).await;
        }
    });
    let in_time = reached.await;
    assert!(in_time.is_ok(), "{metric} did not reach {expected}");
}

/// From INSERT to the socket.
async fn latency(database: &Database) -> bool {
    let tasks = Tasks::new();
    let gateway = Gateway::start(&database.url(), &tasks).await;
    let expected = (WRITERS * (WARM_UP + ROWS)) as usize;
    let mut arrivals = Vec::new();
    for protocol in BOTH {
        let (heard, arrived) = mpsc::channel(2 * expected);
        for (number, socket) in open_all(protocol, &gateway, 0..USERS)
            .await
            .into_iter()
            .enumerate()
        {
            tasks.spawn("socket", listen(number, socket, heard.clone()));
        }
        arrivals.push((protocol, arrived));
    }
    let written = write(database, 0, WARM_UP + ROWS).await;
    println!("\n{}", Times::head("milliseconds from INSERT"));
    let mut medians = Vec::new();
    for (protocol, mut arrived) in arrivals {
        let at = first_arrivals(protocol, &mut arrived, expected).await;
        let times = written
            .iter()
            .filter(|(number, _)| *number >= WRITERS * WARM_UP)
            .map(|(number, sent)| (at[*number as usize].unwrap() - *sent).as_secs_f64() * 1000.0);
        let times = Times::new(times.collect());
        println!("{}", times.line(&format!("to the socket, {protocol:?}")));
        medians.push(times.median());
    }
    judge("ratio of the medians", medians[1] / medians[0], LATENCY_LIMIT)
}

/// When each row arrived. None may arrive twice.
async fn first_arrivals(
    protocol: Protocol,
    arrived: &mut Receiver<Arrived>,
    expected: usize,
) -> Vec<Option<Instant>> {
    let mut all = vec![None; expected];
    let mut count = 0;
    while count < expected {
        let arrived = timeout(AT_MOST, arrived.recv()).await;
        let arrived = arrived.unwrap_or_else(|_| panic!("{count} of {expected} rows arrived"));
        let Arrived { frame, at, .. } = arrived.unwrap();
        for id in messages_of(protocol, &frame) {
            let before = all[number_of(id)].replace(at);
            assert_eq!(before, None, "a row arrived twice");
            count += 1;
        }
    }
    all
}

/// A gateway whose sockets all speak one protocol.
struct Side {
    protocol: Protocol,
    gateway: Gateway,
    listeners: Tasks,
    /// Frames that have arrived at all sockets.
    frames: Arc<AtomicU64>,
    /// Told when a frame has arrived.
    arrival: Arc<Notify>,
    /// What had been delivered when the measurement began.
    delivered: u64,
    /// What it had cost by then.
    processor_time: Duration,
}

impl Side {
    async fn start(protocol: Protocol, database: &Database, tasks: &Tasks) -> Self {
        let settings = [("HERALD_SESSIONS_PER_USER", "1000")];
        Self {
            protocol,
            gateway: Gateway::start_with(&database.url(), &settings, tasks).await,
            listeners: Tasks::new(),
            frames: Arc::default(),
            arrival: Arc::default(),
            delivered: 0,
            processor_time: Duration::ZERO,
        }
    }

    /// Opens sockets of these users, and reads them until the cut.
    async fn connect(&self, users: impl Iterator<Item = u32>, cut: &CancellationToken) {
        for mut socket in open_all(self.protocol, &self.gateway, users).await {
            let (frames, arrival) = (Arc::clone(&self.frames), Arc::clone(&self.arrival));
            let listening = async move {
                while let Some(Ok(message)) = socket.next().await {
                    if let Message::Text(_) = message {
                        frames.fetch_add(1, Ordering::Relaxed);
                        arrival.notify_one();
                    }
                }
            };
            let cut = cut.clone();
            self.listeners.spawn("socket", async move {
                // Dropped, the socket is closed without a word.
                let _cut = cut.run_until_cancelled(listening).await;
            });
        }
    }

    /// Waits until so many frames have arrived.
    async fn arrived(&self, frames: u64) {
        let all = timeout(AT_MOST, async {
            while self.frames.load(Ordering::Relaxed) < frames {
                self.arrival.notified().await;
            }
        });
        all.await.unwrap();
    }

    /// Notes what has been so far.
    async fn begin(&mut self) {
        self.delivered = self.gateway.metric("events_delivered_total").await;
        self.processor_time = self.gateway.processor_time();
    }

    /// Waits until so many events have been delivered since, and their arrival is proved where the protocol proves it. Answers how
    /// many microseconds each has cost.
    async fn cost(&self, events: u64) -> f64 {
        let all = self.delivered + events;
        reach(&self.gateway, "events_delivered_total", all).await;
        if self.protocol == Protocol::Phoenix {
            reach(&self.gateway, "events_acknowledged_total", all).await;
        }
        let taken = self.gateway.processor_time().saturating_sub(self.processor_time);
        taken.as_secs_f64() * 1e6 / f64::from(u32::try_from(events).unwrap())
    }
}

/// Processor time for each event.
async fn processor(database: &Database) -> bool {
    let tasks = Tasks::new();
    let client = database.connect().await;
    let mut sides = Vec::new();
    for protocol in BOTH {
        sides.push(Side::start(protocol, database, &tasks).await);
    }
    println!(
        "\n{:<52}{:>10}{:>10}{:>8}",
        "microseconds of the gateway for an event", "Native", "Phoenix", "ratio"
    );
    let cut = CancellationToken::new();
    for side in &sides {
        side.connect((0..USERS).map(|_| 0), &cut).await;
    }
    tell(&client, &sides, WARM_UP / 10, 1).await;
    let mut ratios = Vec::new();
    for (name, transactions, messages) in [
        ("a message to 500 sockets of one user", MESSAGES, 1),
        (
            "ten messages in one transaction, likewise",
            MESSAGES / 5,
            TOGETHER,
        ),
    ] {
        for side in &mut sides {
            side.begin().await;
        }
        tell(&client, &sides, transactions, messages).await;
        ratios.push(print_costs(name, &sides, u64::from(USERS * transactions * messages)).await);
    }
    cut.cancel();
    let cut = CancellationToken::new();
    for side in &sides {
        side.connect(0..USERS, &cut).await;
    }
    let (first, rows) = (WRITERS * (WARM_UP + ROWS), WARM_UP + ROWS / 2);
    write(database, first, WARM_UP).await;
    for side in &mut sides {
        side.begin().await;
    }
    write(database, first + WRITERS * WARM_UP, rows).await;
    let name = "a message to each of 500 users, 200 a second";
    ratios.push(print_costs(name, &sides, u64::from(WRITERS * rows)).await);
    cut.cancel();
    judge("ratio, one by one to one user", ratios[0], PROCESSOR_LIMIT)
}

/// Writes messages to user 0, so many in each transaction, and each transaction when the one before has arrived everywhere.
async fn tell(client: &Client, sides: &[Side], transactions: u32, messages: u32) {
    let statement = "insert into messages (sender_id, receiver_id, content) \
                     select $1, $2, 'A message of about the length that people write to each other.' \
                     from generate_series(1, $3::int4)";
    let statement = client.prepare(statement).await.unwrap();
    for _ in 0..transactions {
        let before: Vec<u64> = sides
            .iter()
            .map(|side| side.frames.load(Ordering::Relaxed))
            .collect();
        let messages = i32::try_from(messages).unwrap();
        client
            .execute(&statement, &[&SENDER.0, &user(0).0, &messages])
            .await
            .unwrap();
        for (side, before) in sides.iter().zip(before) {
            let frames = match side.protocol {
                // A native frame brings a whole batch.
                Protocol::Native => 1,
                Protocol::Phoenix => messages.unsigned_abs(),
            };
            side.arrived(before + u64::from(USERS * frames)).await;
        }
    }
}

/// Prints what an event has cost either side, and answers with the ratio.
async fn print_costs(name: &str, sides: &[Side], events: u64) -> f64 {
    let mut costs = Vec::new();
    for side in sides {
        costs.push(side.cost(events).await);
    }
    let ratio = costs[1] / costs[0];
    println!("{name:<52}{:>10.1}{:>10.1}{ratio:>8.2}", costs[0], costs[1]);
    ratio
}

/// Memory of idle connections.
async fn memory(database: &Database) -> bool {
    let tasks = Tasks::new();
    let cut = CancellationToken::new();
    let (mut sides, mut before) = (Vec::new(), Vec::new());
    for protocol in BOTH {
        let side = Side::start(protocol, database, &tasks).await;
        before.push(side.gateway.resident_kib());
        // Each protocol has its own users: a user may have few sockets, and one each is as many people as there can be.
        side.connect(0..IDLE, &cut).await;
        sides.push(side);
    }
    sleep(A_HEARTBEAT).await;
    println!("\n{:<52}{:>10}", "KiB of the gateway for an idle connection", "");
    let mut each = Vec::new();
    for (side, before) in sides.iter().zip(before) {
        let open = side.gateway.metrics("sessions").await;
        assert_eq!(open, u64::from(IDLE), "connections were lost on the way");
        let taken = u32::try_from(side.gateway.resident_kib() - before).unwrap();
        each.push(f64::from(taken) / f64::from(IDLE));
        println!(
            "{:<52}{:>10.2}",
            format!("{:?}", side.protocol),
            each[each.len() - 1]
        );
    }
    cut.cancel();
    judge("ratio", each[1] / each[0], MEMORY_LIMIT)
}

/// The clients that are cut off and come back.
struct Returning<'a> {
    gateway: &'a Gateway,
    tasks: &'a Tasks,
    tokens: Vec<String>,
    heard: Sender<Arrived>,
    arrived: Receiver<Arrived>,
}

/// What one of them has heard.
#[derive(Clone, Default)]
struct Heard {
    subscribed: Option<Instant>,
    messages: Vec<(Uuid, Instant)>,
}

/// Messages that each user is sent.
#[derive(Clone, Copy)]
enum Round {
    Before = 2_000_000,
    Missed = 3_000_000,
    After = 4_000_000,
}

impl Round {
    fn message(self, of: u32) -> Uuid {
        numbered(self as u32 + of)
    }

    /// Writes a message to each user, one after the other.
    async fn write(self, client: &Client) {
        let statement = "insert into messages (id, sender_id, receiver_id, content) \
                         values ($1, $2, $3, 'A message of about the length that people write to each other.')";
        let statement = client.prepare(statement).await.unwrap();
        for of in 0..RETURNING {
            let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
                [&self.message(of), &SENDER.0, &user(of).0];
            client.execute(&statement, &parameters).await.unwrap();
        }
    }
}

impl Returning<'_> {
    /// Connects all of them until they are cut off. Answers when the first one set out.
    async fn come(&self, cut: &CancellationToken) -> Instant {
        let began = Instant::now();
        let coming = (0..RETURNING * DEVICES).map(|number| async move {
            let (of, device) = (number % RETURNING, format!("device-{}", number / RETURNING));
            let (address, token) = (self.gateway.address(), &self.tokens[of as usize]);
            let joining = channel::join(address, user(of), token, &device, source(0));
            let socket = Box::pin(joining).await;
            let listening = listen(number as usize, socket, self.heard.clone());
            let cut = cut.clone();
            self.tasks.spawn("socket", async move {
                // Dropped, the socket is closed without a word.
                let _cut = cut.run_until_cancelled(listening).await;
            });
        });
        let connected = futures::stream::iter(coming).buffer_unordered(AT_ONCE);
        Box::pin(connected.collect::<()>()).await;
        began
    }

    /// What each of them hears, until all have heard enough.
    async fn hear(&mut self, is_enough: impl Fn(&Heard) -> bool) -> Vec<Heard> {
        let mut all = vec![Heard::default(); (RETURNING * DEVICES) as usize];
        let mut waiting = all.len();
        while waiting > 0 {
            let arrived = timeout(AT_MOST, self.arrived.recv()).await;
            let Arrived { socket, frame, at } = arrived
                .unwrap_or_else(|_| panic!("{waiting} wait still"))
                .unwrap();
            let heard = &mut all[socket];
            let had_enough = is_enough(heard);
            match channel::read(&frame) {
                Told::Joined => {}
                Told::Subscribed => heard.subscribed = Some(at),
                Told::Inserted(id) => heard.messages.push((id, at)),
            }
            waiting -= usize::from(is_enough(heard) && !had_enough);
        }
        all
    }

    /// Waits until each of them has heard this round's message, and checks that it has heard nothing else.
    async fn hear_round(&mut self, round: Round) {
        let all = self.hear(|heard| !heard.messages.is_empty()).await;
        check(&all, round);
    }
}

/// Checks that each has heard this round's message, once, and nothing else.
fn check(all: &[Heard], round: Round) {
    for (number, heard) in (0..).zip(all) {
        let ids: Vec<Uuid> = heard.messages.iter().map(|(id, _)| *id).collect();
        assert_eq!(ids, [round.message(number % RETURNING)], "socket {number}");
    }
}

/// The return of all who were cut off.
async fn coming_back(database: &Database) -> bool {
    let tasks = Tasks::new();
    let client = database.connect().await;
    let gateway = Gateway::start(&database.url(), &tasks).await;
    let sockets = u64::from(RETURNING * DEVICES);
    // Room for all that is told until it is looked at.
    let (heard, arrived) = mpsc::channel(8 * (RETURNING * DEVICES) as usize);
    let mut returning = Returning {
        gateway: &gateway,
        tasks: &tasks,
        tokens: (0..RETURNING).map(|number| token(user(number))).collect(),
        heard,
        arrived,
    };
    let cut = CancellationToken::new();
    returning.come(&cut).await;
    returning.hear(|heard| heard.subscribed.is_some()).await;
    Round::Before.write(&client).await;
    returning.hear_round(Round::Before).await;
    // One that goes before its answer to the ping has come would be told again what it has.
    reach(&gateway, "events_acknowledged_total", sockets).await;

    cut.cancel();
    let away = timeout(AT_MOST, async {
        while gateway.metrics("sessions").await > 0 {
            sleep(Duration::from_millis(10)).await;
        }
    });
    away.await.unwrap();
    Round::Missed.write(&client).await;
    let asked_before = asked(&gateway).await;
    let processor_time = gateway.processor_time();
    let cut = CancellationToken::new();
    let began = returning.come(&cut).await;
    let connected = began.elapsed();
    let all = returning
        .hear(|heard| heard.subscribed.is_some() && !heard.messages.is_empty())
        .await;
    let processor_time = gateway.processor_time().saturating_sub(processor_time);
    let asked_after = asked(&gateway).await;
    check(&all, Round::Missed);
    // What was told twice would come before this.
    Round::After.write(&client).await;
    returning.hear_round(Round::After).await;
    cut.cancel();

    let since = |at: Instant| (at - began).as_secs_f64() * 1000.0;
    let messages = Times::new(all.iter().map(|heard| since(heard.messages[0].1)).collect());
    let subscribed = Times::new(all.iter().map(|heard| since(heard.subscribed.unwrap())).collect());
    println!(
        "\n{}",
        Times::head("milliseconds since the first set out to return")
    );
    println!("{}", messages.line("until one has what it missed"));
    println!("{}", subscribed.line("until one hears changes again"));
    let milliseconds = |time: Duration| time.as_secs_f64() * 1000.0;
    let asked = [asked_after.0 - asked_before.0, asked_after.1 - asked_before.1];
    println!(
        "connected, all of them:            {:.0} ms",
        milliseconds(connected)
    );
    println!(
        "processor time of the gateway:     {:.0} ms",
        milliseconds(processor_time)
    );
    println!("statements about positions:        {}", asked[0]);
    println!("questions to the log:              {}", asked[1]);
    let last = messages.at(1000).max(subscribed.at(1000)) / 1000.0;
    judge(
        "seconds until all have returned",
        last,
        RETURN_LIMIT.as_secs_f64(),
    )
}

/// How many statements about the positions of channels there were, and how many questions to the log about what was missed.
async fn asked(gateway: &Gateway) -> (u64, u64) {
    let positions = gateway.metric("parking_queries_total").await;
    (positions, gateway.metrics("replays_total").await)
}
