//! What Herald costs those who write: 32 connections that insert one message after another, as fast as Postgres takes them.
//!
//! Three kinds of slices of two seconds alternate in one run, so that whatever the machine does besides hits all alike: without
//! any trigger; with Herald's triggers, a gateway that reads along and 100 people who are connected to it; and, as the peer, with the
//! least that people write by hand, a row trigger that notifies, without Herald. Postgres writes to disk at every commit.
//!
//! Measured: inserts a second in the median of the slices, as a share of those without any trigger; the gateway's processor time for each
//! row. All that was inserted has to have arrived within a second of the end of its slice.
//!
//! Limit: with Herald the writers keep 1.5 times the throughput that the notifying trigger leaves them. The run fails otherwise.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark reports to whoever started it, and one that cannot be set up has nothing to tell"
)]

mod support;

use std::{net::Ipv4Addr, process::ExitCode, time::Duration};

use futures::{StreamExt, future::join_all};
use herald::tasks::Tasks;
use tokio::time::{Instant, timeout};
use tokio_postgres::{Client, Statement, types::ToSql};

use support::{
    database::Database,
    figures::machine,
    gateway::Gateway,
    people::{product, settle, token, user},
    socket,
};

/// People who write to each other.
const USERS: u32 = 500;

/// Those of them who are connected.
const CONNECTED: u32 = 100;

/// Connections that insert.
const WRITERS: u32 = 32;

/// How long one slice takes.
const SLICE: Duration = Duration::from_secs(2);

/// Slices of each kind, of which the first is not measured: connections warm up, plans are made.
const SLICES: usize = 6;

/// The least ratio of the throughput with Herald to that with a row trigger that notifies.
const LIMIT: f64 = 1.5;

/// How late the last delivery of a slice may be.
const LATE_MAX: Duration = Duration::from_secs(1);

/// What happens at an insert.
#[derive(Clone, Copy)]
enum Kind {
    Untouched,
    Herald,
    Notify,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Untouched, Self::Herald, Self::Notify];

    const fn name(self) -> &'static str {
        match self {
            Self::Untouched => "no trigger",
            Self::Herald => "Herald",
            Self::Notify => "a row trigger that notifies",
        }
    }

    /// The statements that set it up; the triggers are switched as a whole first.
    const fn statements(self) -> &'static str {
        match self {
            Self::Untouched => "alter table messages disable trigger user",
            Self::Herald => {
                "alter table messages enable trigger user; alter table messages disable trigger plain"
            }
            Self::Notify => {
                "alter table messages disable trigger user; alter table messages enable trigger plain"
            }
        }
    }
}

fn main() -> ExitCode {
    if !support::is_asked_for() {
        return ExitCode::SUCCESS;
    }
    support::runtime().block_on(run())
}

async fn run() -> ExitCode {
    let tasks = Tasks::new();
    let database = Database::durable().await;
    let setup = database.connect().await;
    settle(&setup, USERS).await;
    setup
        .batch_execute(
            "create function plain() returns trigger language plpgsql as \
               $$begin perform pg_notify('plain', new.id::text); return null; end$$; \
             create trigger plain after insert on messages for each row execute function plain()",
        )
        .await
        .unwrap();
    let gateway = Gateway::start(&database.url(), &tasks).await;
    for number in 0..CONNECTED {
        let from = Ipv4Addr::LOCALHOST.into();
        let mut socket = Box::pin(socket::open(gateway.address(), &token(user(number)), from)).await;
        tasks.spawn(
            "socket",
            async move { while let Some(Ok(_)) = socket.next().await {} },
        );
    }
    let mut writers = Vec::new();
    for number in 0..WRITERS {
        writers.push(Writer::connect(number, &database).await);
    }
    println!("machine: {}", machine(&database.version().await));

    let mut throughput = [const { Vec::new() }; 3];
    let (mut rows, mut processor_time) = (0, Duration::ZERO);
    for slice in 0..SLICES {
        for kind in Kind::ALL {
            setup.batch_execute(kind.statements()).await.unwrap();
            let processor_before = gateway.processor_time();
            let logged_before = gateway.metrics("events_read_total").await;
            let began = Instant::now();
            let inserted: u32 = join_all(writers.iter_mut().map(|writer| writer.write(began + SLICE)))
                .await
                .iter()
                .sum();
            let elapsed = began.elapsed();
            if matches!(kind, Kind::Herald) {
                let all = logged_before + u64::from(inserted);
                let arrive = async { while gateway.metrics("events_read_total").await < all {} };
                timeout(LATE_MAX, arrive)
                    .await
                    .unwrap_or_else(|_| panic!("the gateway does not keep up with the writers"));
                if slice > 0 {
                    rows += inserted;
                    processor_time += gateway.processor_time().saturating_sub(processor_before);
                }
            }
            if slice > 0 {
                throughput[kind as usize].push(f64::from(inserted) / elapsed.as_secs_f64());
            }
        }
    }
    print(throughput, processor_time.as_secs_f64() * 1e6 / f64::from(rows))
}

fn print(throughput: [Vec<f64>; 3], microseconds: f64) -> ExitCode {
    println!("{:<32}{:>12}{:>9}", "", "inserts/s", "share");
    let medians = throughput.map(median);
    let share = |kind: Kind| medians[kind as usize] / medians[Kind::Untouched as usize];
    for kind in Kind::ALL {
        println!(
            "{:<32}{:>12.0}{:>8.0} %",
            kind.name(),
            medians[kind as usize],
            share(kind) * 100.0
        );
    }
    println!("the gateway's processor time for each row: {microseconds:.1} µs");
    let ratio = share(Kind::Herald) / share(Kind::Notify);
    println!("with Herald {ratio:.2} times what the notifying trigger leaves (limit {LIMIT})");
    if ratio < LIMIT {
        println!("the limit is missed");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A connection that inserts.
struct Writer {
    client: Client,
    statement: Statement,
    number: u32,
}

impl Writer {
    async fn connect(number: u32, database: &Database) -> Self {
        let client = database.connect().await;
        let statement = "insert into messages (sender_id, receiver_id, product_id, content) \
                         values ($1, $2, $3, 'A message of about the length that people write to each other.')";
        let statement = client.prepare(statement).await.unwrap();
        Self {
            client,
            statement,
            number,
        }
    }

    /// Inserts until then, and answers how many rows.
    async fn write(&mut self, until: Instant) -> u32 {
        let mut count = 0;
        while Instant::now() < until {
            self.number += WRITERS;
            let sender = self.number % USERS;
            let receiver = (sender + 1 + self.number * 7 % (USERS - 1)) % USERS;
            let (sender, receiver) = (user(sender).0, user(receiver).0);
            let product = product(self.number);
            let parameters: [&(dyn ToSql + Sync); 3] = [&sender, &receiver, &product];
            self.client.execute(&self.statement, &parameters).await.unwrap();
            count += 1;
        }
        count
    }
}
