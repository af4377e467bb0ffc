//! What an idle connection costs the gateway.
//!
//! Measured: the resident memory of a gateway that runs as its own process, before and after 10,000 authenticated
//! connections over loopback, in KiB a connection; directly after the last one has opened, and again after a round of
//! heartbeats. What the kernel holds for its sockets is not in it. Beside it: how many connections a second are opened,
//! each with its own token, where this program's side of the work shares the processors.
//!
//! Limit: 8 KiB a connection. The run fails if it is exceeded.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark reports to whoever started it, and one that cannot be set up has nothing to tell"
)]

mod support;

use std::{process::ExitCode, time::Duration};

use futures::StreamExt;
use herald::tasks::Tasks;
use tokio::time::Instant;

use support::{
    database::Database,
    figures::machine,
    gateway::Gateway,
    people::{token, user},
    socket,
};

const CONNECTIONS: u32 = 10_000;

/// The most memory of one connection, in KiB.
const LIMIT_KIB: f64 = 8.0;

/// Connections that are being opened at the same time.
const AT_ONCE: usize = 64;

/// Longer than the gateway's heartbeat of 25 s, so that each session has sent and received one.
const A_HEARTBEAT: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    if !support::is_asked_for() {
        return ExitCode::SUCCESS;
    }
    support::allow_sockets(CONNECTIONS);
    support::runtime().block_on(run())
}

async fn run() -> ExitCode {
    let tasks = Tasks::new();
    let database = Database::hasty().await;
    let gateway = Gateway::start(&database.url(), &tasks).await;
    println!("machine: {}", machine(&database.version().await));
    let tokens: Vec<String> = (0..CONNECTIONS).map(|number| token(user(number))).collect();

    let before = gateway.resident_kib();
    let began = Instant::now();
    let opened = futures::stream::iter((0..).zip(&tokens))
        .map(|(number, token)| socket::open(gateway.address(), token, socket::source(number)))
        .buffer_unordered(AT_ONCE)
        .for_each(async |mut socket| {
            // Reading answers the gateway's pings.
            tasks.spawn(
                "socket",
                async move { while let Some(Ok(_)) = socket.next().await {} },
            );
        });
    Box::pin(opened).await;
    let took = began.elapsed();
    let opened = gateway.resident_kib();
    tokio::time::sleep(A_HEARTBEAT).await;
    let beaten = gateway.resident_kib();
    let open = gateway.metric(r#"sessions{protocol="native"}"#).await;
    assert_eq!(open, u64::from(CONNECTIONS), "connections were lost on the way");

    let each = |after: u64| f64::from(u32::try_from(after - before).unwrap()) / f64::from(CONNECTIONS);
    println!("connections:                       {CONNECTIONS}");
    println!(
        "opened a second:                   {:.0}",
        f64::from(CONNECTIONS) / took.as_secs_f64()
    );
    println!("resident before:                   {before} KiB");
    println!(
        "resident with all open:            {opened} KiB, {:.2} KiB each",
        each(opened)
    );
    println!(
        "resident after a heartbeat:        {beaten} KiB, {:.2} KiB each",
        each(beaten)
    );
    let most = each(opened).max(each(beaten));
    println!("limit:                             {LIMIT_KIB} KiB each");
    if most > LIMIT_KIB {
        println!("the limit is exceeded");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
