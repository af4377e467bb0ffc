//! What a delivery costs the gateway's process, from the log to the socket.
//!
//! Two shapes: each message to 1,000 sockets of one person, some at a time; and 1,000 people who each write to themselves, 50 rows a statement,
//! as fast as Postgres takes them. The gateway runs as its own process with default settings, and `herald::load` plays people and
//! writers on the same two cores.
//!
//! Peer of the first shape, in the same run: a thread that writes as many bytes to 1,000 sockets, one `write(2)` each, at the same pace, and does
//! nothing else. What the kernel does to carry bytes to a socket of the same machine counts for whoever sends, on both sides.
//!
//! Limits: a delivery of the first shape costs at most 1.2 times the bare write; one of the second at most 3.3 times (8 µs on a machine on which a bare
//! write takes 2.4 µs), and the last of them is at its socket 100 ms after the last commit. The run fails otherwise.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark reports to whoever started it, and one that cannot be set up has nothing to tell"
)]

mod support;

use std::{fs, io::Write as _, net::Ipv4Addr, num::NonZeroU32, process::ExitCode, time::Duration};

use herald::{
    auth::Secret,
    load::{
        self, Outcome,
        plan::{Path, Plan, Receiver},
        target::{Target, Trust},
    },
    postgres::Settings,
    tasks::Tasks,
};
use tokio::{io::AsyncReadExt, net::TcpStream, time::Instant};
use tokio_util::sync::CancellationToken;

use support::{
    database::Database,
    figures::machine,
    gateway::Gateway,
    people::{SECRET, settle, user},
};

const PEOPLE: u32 = 1_000;

/// Sockets of one person.
const SOCKETS: u32 = 1_000;

/// Messages a second to all of them: some 40,000 deliveries, which leaves the processors some rest.
const RATE: u32 = 40;

const MESSAGES: u32 = 400;

/// Bytes of a frame with one event of the first shape, as the gateway writes it.
const FRAME_BYTES: usize = 700;

/// Messages of the second shape.
const OWN_MESSAGES: u32 = 100_000;

/// Rows of one statement.
const ROWS: u32 = 50;

/// The most that a delivery of each shape may cost, in bare writes.
const LIMITS: (f64, f64) = (1.2, 3.3);

/// The longest time from the last commit to the last delivery, in milliseconds.
const LAG_MAX: f64 = 100.0;

fn main() -> ExitCode {
    if !support::is_asked_for() {
        return ExitCode::SUCCESS;
    }
    support::allow_sockets(2 * SOCKETS);
    support::runtime().block_on(run())
}

async fn run() -> ExitCode {
    let tasks = Tasks::new();
    let database = Database::durable().await;
    settle(&database.connect().await, PEOPLE).await;
    let settings = [("HERALD_SESSIONS_PER_USER", "1000")];
    let gateway = Gateway::start_with(&database.url(), &settings, &tasks).await;
    println!("machine: {}", machine(&database.version().await));

    let bare = bare(&tasks).await;
    let many_sockets = Plan {
        people: 1,
        sessions: SOCKETS,
        messages: MESSAGES,
        rate: NonZeroU32::new(RATE),
        path: Path::Sql {
            rows: NonZeroU32::MIN,
        },
        ..plan()
    };
    let one = load(&database, &gateway, many_sockets).await;
    let own = load(&database, &gateway, plan()).await;
    println!("bare write, a delivery:                    {bare:.2} µs");
    let of_one = cost(&one);
    println!(
        "one message to {SOCKETS} sockets, a delivery:    {of_one:.2} µs, {:.2} times",
        of_one / bare
    );
    let of_own = cost(&own);
    println!(
        "{PEOPLE} people each their own, a delivery:      {of_own:.2} µs, {:.2} times, {:.0} written a second, {:.1} ms behind the last commit",
        of_own / bare,
        own.writing.per_second,
        own.delivery.lag
    );
    let (one_max, own_max) = LIMITS;
    println!("limits: {one_max} times, {own_max} times, {LAG_MAX} ms");
    if of_one > one_max * bare || of_own > own_max * bare || own.delivery.lag > LAG_MAX {
        println!("the limit is exceeded");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// The second shape.
fn plan() -> Plan {
    Plan {
        people: PEOPLE,
        sessions: 1,
        receiver: Receiver::Oneself,
        messages: OWN_MESSAGES,
        duration: Duration::from_secs(60),
        rate: None,
        path: Path::Sql {
            rows: NonZeroU32::new(ROWS).unwrap(),
        },
        writers: NonZeroU32::new(2).unwrap(),
        content_bytes: 80,
        patience: Duration::from_secs(10),
    }
}

async fn load(database: &Database, gateway: &Gateway, plan: Plan) -> Outcome {
    let target = Target {
        name: "herald".to_owned(),
        url: format!("http://{}", gateway.address()).parse().unwrap(),
        database: Settings::parse(&database.url()).unwrap(),
        process: Some(gateway.id()),
        people: (0..plan.people).map(user).collect(),
        trust: Trust {
            secret: Secret::new(SECRET).unwrap(),
            audience: None,
            issuer: None,
        },
    };
    let outcome = load::run(plan, target, &CancellationToken::new(), |_| {})
        .await
        .unwrap();
    assert!(outcome.is_flawless(), "{outcome:?}");
    outcome
}

fn cost(outcome: &Outcome) -> f64 {
    outcome.process.as_ref().unwrap().microseconds_per_delivery
}

/// Writes a frame's bytes to each of as many sockets as often, and answers what one write takes of the processor, in microseconds.
async fn bare(tasks: &Tasks) -> f64 {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let mut sockets = Vec::new();
    for _ in 0..SOCKETS {
        let mut far = TcpStream::connect(address).await.unwrap();
        let (near, _) = listener.accept().unwrap();
        near.set_nodelay(true).unwrap();
        sockets.push(near);
        tasks.spawn("reader", async move {
            let mut buffer = vec![0; 4096];
            while far.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
        });
    }
    let writing = std::thread::spawn(move || {
        let frame = [b'x'; FRAME_BYTES];
        let before = processor_time_of_thread();
        for _ in 0..MESSAGES {
            let began = Instant::now();
            for socket in &mut sockets {
                socket.write_all(&frame).unwrap();
            }
            std::thread::sleep((Duration::from_secs(1) / RATE).saturating_sub(began.elapsed()));
        }
        processor_time_of_thread() - before
    });
    let took = tokio::task::spawn_blocking(|| writing.join().unwrap())
        .await
        .unwrap();
    took / f64::from(MESSAGES * SOCKETS)
}

/// What this thread has had of the processor, in microseconds (`proc_pid_schedstat(5)`).
fn processor_time_of_thread() -> f64 {
    let told = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    let nanoseconds: f64 = told.split(' ').next().unwrap().parse().unwrap();
    nanoseconds / 1000.0
}
