//! What others notice of clients that mean harm.
//!
//! 100 people are connected to a gateway that runs as its own process with default settings (but that loopback addresses are strangers'), and 200 rows a second are inserted for
//! them. For each way to be a burden that is measured for some seconds while nobody is one, and for as long while somebody is: the time
//! from the moment an INSERT is sent to the arrival of its event, in milliseconds. The burdens come from addresses of their own, as
//! those of strangers do, and come back when they are thrown out.
//!
//! Limit: the 99th percentile under each burden is at most twice the quiet one of the same minute. The run fails otherwise.
//!
//! Strangers have machines of their own. Here they share the gateway's, so that they run in one thread of the lowest priority, which takes
//! what the others leave; what the kernel does to carry what they send is felt by all.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark reports to whoever started it, and one that cannot be set up has nothing to tell"
)]

mod support;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::ExitCode,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures::{
    FutureExt, SinkExt, StreamExt,
    future::{BoxFuture, join},
};
use herald::{tasks::Tasks, types::UserId};
use rustix::process::nice;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    runtime::{Handle, Runtime},
    time::{Instant, MissedTickBehavior, sleep},
};
use tokio_tungstenite::tungstenite::{Bytes, Message};
use uuid::Uuid;

use support::{
    database::Database,
    figures::{Times, machine},
    gateway::Gateway,
    people::{number_of, numbered, settle, token, user},
    socket,
};

/// People who only want to hear each other.
const PEOPLE: u32 = 100;

/// People who are a burden; they have tokens as good as everybody's.
const BURDENS: u32 = 100;

/// Connections that insert.
const WRITERS: u32 = 2;

/// Time between two rows of one writer; all of them together write 200 a second.
const INTERVAL: Duration = Duration::from_millis(10);

/// How long each side of a comparison takes.
const PHASE: Duration = Duration::from_secs(6);

/// How long a burden is there before it is measured, so that all its connections are.
const RAMP: Duration = Duration::from_secs(2);

/// The longest run, in rows.
const ROWS: usize = 60_000;

/// The greatest ratio of the 99th percentiles.
const LIMIT: f64 = 2.0;

/// The pause before somebody comes back who was thrown out or could not get in.
const PAUSE: Duration = Duration::from_millis(100);

/// Somebody's way to be a burden, from one connection to its end.
type Burden = fn(SocketAddr, u32) -> BoxFuture<'static, std::io::Result<()>>;

/// All ways, each with its name and the number of connections.
const ALL: [(&str, u32, Burden); 8] = [
    ("headers that come byte by byte", 500, |at, number| {
        slow_headers(at, number).boxed()
    }),
    ("connections that never say who they are", 5_000, |at, number| {
        silent(at, number).boxed()
    }),
    ("sessions that do not read", 100, |at, number| {
        unread(at, number).boxed()
    }),
    ("sessions that read a byte a second", 100, |at, number| {
        byte_a_second(at, number).boxed()
    }),
    ("frames in pieces of one byte", 20, |at, number| {
        pieces(at, number).boxed()
    }),
    ("floods of pings", 20, |at, number| pings(at, number).boxed()),
    ("bodies without an end", 100, |at, number| {
        endless_body(at, number).boxed()
    }),
    ("tokens that are none", 20, |at, number| {
        bad_tokens(at, number).boxed()
    }),
];

fn main() -> ExitCode {
    if !support::is_asked_for() {
        return ExitCode::SUCCESS;
    }
    support::allow_sockets(6_000);
    support::runtime().block_on(run())
}

async fn run() -> ExitCode {
    let tasks = Tasks::new();
    let database = Database::durable().await;
    settle(&database.connect().await, PEOPLE + BURDENS).await;
    // Strangers are no proxies, though all addresses are of this machine here.
    let settings = [("HERALD_TRUSTED_PROXIES", "none")];
    let gateway = Gateway::start_with(&database.url(), &settings, &tasks).await;
    println!("machine: {}", machine(&database.version().await));
    let heard = Arc::new(Heard::new());
    for number in 0..PEOPLE {
        listen(gateway.address(), number, &heard, &tasks).await;
    }
    for writer in 0..WRITERS {
        let client = database.connect().await;
        tasks.spawn("writer", write(client, writer, Arc::clone(&heard), tasks.clone()));
    }
    sleep(RAMP).await;
    println!("\n{}", Times::head("INSERT to the socket, milliseconds"));
    let mut is_within = true;
    let elsewhere = elsewhere();
    for (name, count, burden) in ALL {
        let (quiet, quiet_load) = join(heard.during(PHASE), load_of(&gateway)).await;
        let burdens = begin(gateway.address(), count, burden, elsewhere.handle());
        sleep(RAMP).await;
        let (burdened, load) = join(heard.during(PHASE), load_of(&gateway)).await;
        burdens.stop();
        burdens.finish(Duration::from_secs(10)).await.unwrap();
        let ratio = burdened.at(990) / quiet.at(990);
        println!("{}", quiet.line("quiet"));
        println!(
            "{}   p99 {ratio:.2} times; the gateway's processor time {quiet_load:.0} % and then {load:.0} %",
            burdened.line(name)
        );
        is_within &= ratio <= LIMIT;
        sleep(RAMP).await;
    }
    elsewhere.shutdown_background();
    tasks.stop();
    if is_within {
        ExitCode::SUCCESS
    } else {
        println!("the limit is exceeded");
        ExitCode::FAILURE
    }
}

/// Where strangers are.
fn elsewhere() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("elsewhere")
        .on_thread_start(|| {
            // On Linux a priority is a thread's.
            nice(19).unwrap();
        })
        .enable_all()
        .build()
        .unwrap()
}

/// How much of a processor the gateway has used while a phase lasts, in percent.
async fn load_of(gateway: &Gateway) -> f64 {
    let before = gateway.processor_time();
    sleep(PHASE).await;
    100.0 * gateway.processor_time().saturating_sub(before).as_secs_f64() / PHASE.as_secs_f64()
}

/// When rows were inserted, and how long their events took.
struct Heard {
    sent: Vec<Mutex<Option<Instant>>>,
    rows: AtomicU32,
    times: Mutex<Vec<f64>>,
}

impl Heard {
    fn new() -> Self {
        Self {
            sent: (0..ROWS).map(|_| Mutex::new(None)).collect(),
            rows: AtomicU32::new(0),
            times: Mutex::default(),
        }
    }

    async fn during(&self, phase: Duration) -> Times {
        self.times.lock().unwrap().clear();
        sleep(phase).await;
        Times::new(std::mem::take(&mut *self.times.lock().unwrap()))
    }

    fn note(&self, frame: &str, at: Instant) {
        let frame: Value = serde_json::from_str(frame).unwrap();
        for event in frame["events"].as_array().into_iter().flatten() {
            let id: Uuid = event["message"]["id"].as_str().unwrap().parse().unwrap();
            let sent = self.sent[number_of(id)].lock().unwrap().unwrap();
            let took = at.duration_since(sent).as_secs_f64() * 1000.0;
            self.times.lock().unwrap().push(took);
        }
    }
}

async fn listen(gateway: SocketAddr, number: u32, heard: &Arc<Heard>, tasks: &Tasks) {
    let from = Ipv4Addr::LOCALHOST.into();
    let mut socket = Box::pin(socket::open(gateway, &token(user(number)), from)).await;
    let (heard, stopping) = (Arc::clone(heard), tasks.stopping());
    tasks.spawn("listener", async move {
        while let Some(Some(message)) = stopping.run_until_cancelled(socket.next()).await {
            let at = Instant::now();
            match message {
                Ok(Message::Text(text)) => heard.note(&text, at),
                Ok(Message::Ping(_)) => {}
                other => panic!("somebody who did nothing was thrown out: {other:?}"),
            }
        }
    });
}

/// Some messages are for those who are a burden: they have a part in what everybody does.
async fn write(client: tokio_postgres::Client, writer: u32, heard: Arc<Heard>, tasks: Tasks) {
    let statement = "insert into messages (id, sender_id, receiver_id, content) values ($1, $2, $3, 'A message of about the length that people write.')";
    let statement = client.prepare(statement).await.unwrap();
    let mut ticks = tokio::time::interval_at(Instant::now() + INTERVAL * writer / WRITERS, INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let stopping = tasks.stopping();
    while stopping.run_until_cancelled(ticks.tick()).await.is_some() {
        let number = heard.rows.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = (number % PEOPLE, (number * 7 + 1) % (PEOPLE + BURDENS));
        *heard.sent[number as usize].lock().unwrap() = Some(Instant::now());
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
            [&numbered(number), &user(sender).0, &user(receiver).0];
        client.execute(&statement, &parameters).await.unwrap();
    }
}

/// Lets so many be a burden until they are stopped.
fn begin(gateway: SocketAddr, count: u32, burden: Burden, elsewhere: &Handle) -> Tasks {
    let _there = elsewhere.enter();
    let tasks = Tasks::new();
    for number in 0..count {
        let stopping = tasks.stopping();
        tasks.spawn("burden", async move {
            let again_and_again = async {
                loop {
                    // How it ends does not matter: it comes back.
                    let _ended = burden(gateway, number).await;
                    sleep(PAUSE).await;
                }
            };
            let _stopped = stopping.run_until_cancelled(again_and_again).await;
        });
    }
    tasks
}

/// An address of the machine that nobody else here has.
fn stranger(number: u32) -> IpAddr {
    let [_, _, high, low] = number.to_be_bytes();
    Ipv4Addr::new(127, 1, high, low).into()
}

async fn connect(gateway: SocketAddr, number: u32) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    // What is read a byte at a time must not find its place in a large buffer.
    socket.set_recv_buffer_size(4096)?;
    socket.bind((stranger(number), 0).into())?;
    let stream = socket.connect(gateway).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn person(number: u32) -> UserId {
    user(PEOPLE + number % BURDENS)
}

async fn slow_headers(gateway: SocketAddr, number: u32) -> std::io::Result<()> {
    let mut stream = connect(gateway, number).await?;
    stream.write_all(b"GET /v1/socket HTTP/1.1\r\nHost: ").await?;
    loop {
        stream.write_all(b"x").await?;
        sleep(Duration::from_millis(200)).await;
    }
}

async fn silent(gateway: SocketAddr, number: u32) -> std::io::Result<()> {
    let mut stream = connect(gateway, number).await?;
    // It waits to be thrown out.
    stream.read_u8().await.map(drop)
}

/// Asks to be a session, and answers with the connection, on which it has not read the answer.
async fn session(gateway: SocketAddr, number: u32) -> std::io::Result<TcpStream> {
    let mut stream = connect(gateway, number).await?;
    let request = format!(
        "GET /v1/socket HTTP/1.1\r\nHost: {gateway}\r\nAuthorization: Bearer {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        token(person(number))
    );
    stream.write_all(request.as_bytes()).await?;
    Ok(stream)
}

async fn unread(gateway: SocketAddr, number: u32) -> std::io::Result<()> {
    let stream = session(gateway, number).await?;
    sleep(Duration::from_secs(3600)).await;
    drop(stream);
    Ok(())
}

async fn byte_a_second(gateway: SocketAddr, number: u32) -> std::io::Result<()> {
    let mut stream = session(gateway, number).await?;
    loop {
        stream.read_u8().await?;
        sleep(Duration::from_secs(1)).await;
    }
}

/// A text frame of a client, masked with zeros, as RFC 6455 has it.
const FRAME: &[u8] = b"\x81\x90\0\0\0\0{\"type\":\"nope\"}";

async fn pieces(gateway: SocketAddr, number: u32) -> std::io::Result<()> {
    let mut stream = session(gateway, number).await?;
    let mut answers = [0; 1024];
    for byte in FRAME.iter().cycle() {
        stream.write_all(&[*byte]).await?;
        // The gateway is to have each of them by itself.
        tokio::task::yield_now().await;
        if let Some(Ok(0) | Err(_)) = stream.read(&mut answers).now_or_never() {
            break;
        }
    }
    Ok(())
}

async fn pings(gateway: SocketAddr, number: u32) -> std::io::Result<()> {
    let mut socket = Box::pin(socket::open(gateway, &token(person(number)), stranger(number))).await;
    let ping = || Message::Ping(Bytes::from_static(b"are you there?"));
    while socket.send(ping()).await.is_ok() {
        if let Some(None | Some(Err(_))) = socket.next().now_or_never() {
            break;
        }
    }
    Ok(())
}

async fn endless_body(gateway: SocketAddr, number: u32) -> std::io::Result<()> {
    let mut stream = connect(gateway, number).await?;
    let request = format!(
        "POST /v1/conversations/{}/messages HTTP/1.1\r\nHost: {gateway}\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
        user(0),
        token(person(number))
    );
    stream.write_all(request.as_bytes()).await?;
    loop {
        stream.write_all(b"1\r\n \r\n").await?;
        sleep(Duration::from_millis(20)).await;
    }
}

async fn bad_tokens(gateway: SocketAddr, number: u32) -> std::io::Result<()> {
    let mut stream = connect(gateway, number).await?;
    let request = format!(
        "GET /v1/conversations HTTP/1.1\r\nHost: {gateway}\r\nAuthorization: Bearer {}x\r\n\r\n",
        token(person(number))
    );
    let mut answer = [0; 4096];
    loop {
        stream.write_all(request.as_bytes()).await?;
        if stream.read(&mut answer).await? == 0 {
            return Ok(());
        }
    }
}
