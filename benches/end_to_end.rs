//! From INSERT to the socket, beside the least that any listener could do.
//!
//! 500 users are connected to a gateway that runs as its own process, and 200 rows a second are inserted, each in a
//! transaction of its own, into a Postgres that writes to disk at every commit. Measured for every row and each of its
//! two people, in milliseconds: from the moment the INSERT is sent, and from the moment its commit is confirmed, to the
//! arrival of the frame at the socket. Messages are announced before the commit is confirmed, so that the second may
//! be below zero.
//!
//! Peer, in the same run and for the same rows: a bare listener that is told each new row's identifier by a trigger of
//! its own and asks `messages_realtime_view` for that row. It has no log, no cursor, no encoding and no socket.
//!
//! Limit: the median from INSERT to the socket is below 1.5 times the bare listener's. The run fails otherwise.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark reports to whoever started it, and one that cannot be set up has nothing to tell"
)]

mod support;

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    net::Ipv4Addr,
    pin::pin,
    process::ExitCode,
    task::{Context, Poll},
    time::Duration,
};

use futures::StreamExt;
use herald::tasks::Tasks;
use serde_json::Value;
use tokio::{
    sync::mpsc::{self, Receiver, Sender},
    time::{Instant, MissedTickBehavior, timeout},
};
use tokio_postgres::{AsyncMessage, Client, Connection, NoTls, tls::NoTlsStream};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use uuid::Uuid;

use support::{
    database::Database,
    figures::{Times, machine},
    gateway::Gateway,
    people::{number_of, numbered, product, settle, token, user},
    socket,
};

const USERS: u32 = 500;

/// Connections that insert. One alone would fall behind whenever a commit waits for the disk.
const WRITERS: u32 = 4;

/// Time between two rows of one writer; all of them together write 200 a second.
const INTERVAL: Duration = Duration::from_millis(20);

/// Rows of one writer that are not measured: connections warm up, plans are made.
const WARM_UP: u32 = 100;

/// Rows of one writer in all.
const ROWS: u32 = WARM_UP + 1000;

/// The greatest ratio of the medians.
const LIMIT: f64 = 1.5;

/// Room for all arrivals, which are looked at after the run.
const ARRIVALS: usize = 4 * (WRITERS * ROWS) as usize;

/// How long the last arrivals may take.
const AT_MOST: Duration = Duration::from_secs(10);

/// When a row was inserted.
#[derive(Clone, Copy)]
struct Inserted {
    number: usize,
    sent: Instant,
    confirmed: Instant,
}

/// When a row, or a frame with rows, arrived.
struct Arrived<T> {
    what: T,
    at: Instant,
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
    let counts = database.can_count_statements().await;
    if counts {
        let create = "create extension pg_stat_statements";
        setup.batch_execute(create).await.unwrap();
    }
    let gateway = Gateway::start(&database.url(), &tasks).await;
    let (heard_bare, mut bare) = mpsc::channel(ARRIVALS);
    listen(&database.url(), heard_bare, &tasks).await;
    let (heard, mut sockets) = mpsc::channel(ARRIVALS);
    connect(&gateway, &heard, &tasks).await;
    println!("machine: {}", machine(&database.version().await));

    let before = Counted::so_far(&gateway, &setup, counts).await;
    let inserted = insert(&database).await;
    let expected = inserted.len();
    let arrived = arrivals(&mut sockets, 2 * expected).await;
    let bare = collect(&mut bare, expected, |arrived| vec![(arrived.what, arrived.at)]).await;
    let after = Counted::so_far(&gateway, &setup, counts).await;

    before.print_until(&after);
    print_times(&inserted, &arrived, &bare)
}

/// Opens a socket for every user. Whatever arrives is noted with its time and read later.
async fn connect(gateway: &Gateway, heard: &Sender<Arrived<Utf8Bytes>>, tasks: &Tasks) {
    for number in 0..USERS {
        let from = Ipv4Addr::LOCALHOST.into();
        let mut socket = Box::pin(socket::open(gateway.address(), &token(user(number)), from)).await;
        let heard = heard.clone();
        tasks.spawn("socket", async move {
            while let Some(Ok(message)) = socket.next().await {
                let at = Instant::now();
                if let Message::Text(what) = message {
                    heard.send(Arrived { what, at }).await.unwrap();
                }
            }
        });
    }
}

/// Inserts all rows, and answers with those that are measured.
async fn insert(database: &Database) -> Vec<Inserted> {
    let mut clients = Vec::new();
    for _ in 0..WRITERS {
        clients.push(database.connect().await);
    }
    let writers = (0..).zip(&clients).map(|(writer, client)| write(writer, client));
    futures::future::join_all(writers).await.concat()
}

async fn write(writer: u32, client: &Client) -> Vec<Inserted> {
    let statement = "insert into messages (id, sender_id, receiver_id, product_id, content) \
                     values ($1, $2, $3, $4, 'A message of about the length that people write to each other.')";
    let statement = client.prepare(statement).await.unwrap();
    let start = Instant::now() + INTERVAL * writer / WRITERS;
    let mut ticks = tokio::time::interval_at(start, INTERVAL);
    // A row that had to wait is sent late and does not slow the others down.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut rows = Vec::new();
    for row in 0..ROWS {
        let number = row * WRITERS + writer;
        // Two different people, and over the time everybody meets many others.
        let sender = number % USERS;
        let receiver = (sender + 1 + number * 7 % (USERS - 1)) % USERS;
        let (sender, receiver) = (user(sender).0, user(receiver).0);
        ticks.tick().await;
        let sent = Instant::now();
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 4] =
            [&numbered(number), &sender, &receiver, &product(number)];
        client.execute(&statement, &parameters).await.unwrap();
        let confirmed = Instant::now();
        let number = number_of(numbered(number));
        rows.push(Inserted {
            number,
            sent,
            confirmed,
        });
    }
    rows
}

/// The rows in the frames that arrived at sockets.
async fn arrivals(sockets: &mut Receiver<Arrived<Utf8Bytes>>, expected: usize) -> Vec<Vec<Instant>> {
    collect(sockets, expected, |arrived| {
        let frame: Value = serde_json::from_str(&arrived.what).unwrap();
        let events = frame["events"].as_array().unwrap();
        let id = |event: &Value| event["message"]["id"].as_str().unwrap().parse::<Uuid>().unwrap();
        events.iter().map(|event| (id(event), arrived.at)).collect()
    })
    .await
}

/// When each row arrived, by its number, once as many as expected have.
async fn collect<T>(
    source: &mut Receiver<Arrived<T>>,
    expected: usize,
    rows: impl Fn(Arrived<T>) -> Vec<(Uuid, Instant)>,
) -> Vec<Vec<Instant>> {
    let mut all = vec![Vec::new(); (WRITERS * ROWS) as usize];
    let mut count = 0;
    while count < expected {
        let arrived = timeout(AT_MOST, source.recv()).await;
        let arrived = arrived.unwrap_or_else(|_| panic!("{count} of {expected} rows arrived"));
        for (id, at) in rows(arrived.unwrap()) {
            all[number_of(id)].push(at);
            count += 1;
        }
    }
    assert_eq!(count, expected, "more rows arrived than were expected");
    all
}

/// Starts the bare listener.
async fn listen(url: &str, heard: Sender<Arrived<Uuid>>, tasks: &Tasks) {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    let mut line = Line {
        connection,
        told: VecDeque::new(),
    };
    let trigger = "create function bare() returns trigger language plpgsql as \
                     $$begin perform pg_notify('bare', new.id::text); return null; end$$; \
                   create trigger bare after insert on messages for each row execute function bare(); \
                   listen bare";
    line.drive(client.batch_execute(trigger)).await;
    tasks.spawn("bare", listen_barely(client, line, heard));
}

/// The least that a listener could do.
async fn listen_barely(client: Client, mut line: Line, heard: Sender<Arrived<Uuid>>) {
    let statement = "select * from messages_realtime_view where id = $1";
    let statement = line.drive(client.prepare(statement)).await;
    loop {
        let id = line.announced().await;
        let row = line.drive(client.query_one(&statement, &[&id])).await;
        let at = Instant::now();
        let what = row.get("id");
        heard.send(Arrived { what, at }).await.unwrap();
    }
}

/// The bare listener's connection. As the gateway does, the listener drives it in the task that asks, which spares it
/// the way from one task to another.
struct Line {
    connection: Connection<tokio_postgres::Socket, NoTlsStream>,
    told: VecDeque<Uuid>,
}

impl Line {
    /// The answer to a question.
    async fn drive<T>(&mut self, question: impl Future<Output = Result<T, tokio_postgres::Error>>) -> T {
        let mut question = pin!(question);
        let answer = poll_fn(|context| {
            self.poll(context);
            question.as_mut().poll(context)
        });
        answer.await.unwrap()
    }

    /// The next row that was announced.
    async fn announced(&mut self) -> Uuid {
        poll_fn(|context| {
            self.poll(context);
            self.told.pop_front().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    /// Notes which rows were announced.
    fn poll(&mut self, context: &mut Context<'_>) {
        while let Poll::Ready(message) = self.connection.poll_message(context) {
            match message {
                Some(Ok(AsyncMessage::Notification(notification))) => {
                    self.told.push_back(notification.payload().parse().unwrap());
                }
                Some(Ok(_)) => {}
                // The next question fails, or the rows that do not arrive are missed.
                Some(Err(_)) | None => return,
            }
        }
    }
}

/// How often the gateway has read, by its own account and by that of Postgres.
struct Counted {
    batches: u64,
    reads: u64,
    view_queries: Option<i64>,
}

impl Counted {
    async fn so_far(gateway: &Gateway, client: &Client, counts: bool) -> Self {
        let view_queries = "select coalesce(sum(calls), 0)::bigint from pg_stat_statements \
             where query like '%messages_realtime_view%' and query like '%herald.log%' \
               and query not like '%pg_stat_statements%'";
        Self {
            batches: gateway.metric("batches_total").await,
            reads: gateway.metric("feed_reads_total").await,
            view_queries: if counts {
                Some(client.query_one(view_queries, &[]).await.unwrap().get(0))
            } else {
                None
            },
        }
    }

    fn print_until(&self, after: &Self) {
        let (batches, reads) = (after.batches - self.batches, after.reads - self.reads);
        println!("batches with events:               {batches}");
        println!("reads of the log (empty ones too): {reads}");
        match (self.view_queries, after.view_queries) {
            (Some(before), Some(after)) => {
                println!("queries of the view, by Postgres:  {}", after - before);
            }
            _ => println!("queries of the view, by Postgres:  pg_stat_statements is not installed"),
        }
    }
}

fn print_times(inserted: &[Inserted], sockets: &[Vec<Instant>], bare: &[Vec<Instant>]) -> ExitCode {
    let measured = inserted
        .iter()
        .filter(|row| row.number >= (WARM_UP * WRITERS) as usize);
    let measured: Vec<Inserted> = measured.copied().collect();
    let times = |arrivals: &[Vec<Instant>], from: fn(&Inserted) -> Instant| {
        let all = measured.iter().flat_map(|row| {
            let began = from(row);
            arrivals[row.number]
                .iter()
                .map(move |at| milliseconds(began, *at))
        });
        Times::new(all.collect())
    };
    println!("\n{}", Times::head("milliseconds"));
    let commits = measured.iter().map(|row| milliseconds(row.sent, row.confirmed));
    println!(
        "{}",
        Times::new(commits.collect()).line("INSERT to its confirmation")
    );
    let mut is_within = true;
    for (name, from) in [
        ("INSERT", (|row| row.sent) as fn(&Inserted) -> Instant),
        ("confirmation", |row| row.confirmed),
    ] {
        let (herald, bare) = (times(sockets, from), times(bare, from));
        println!("{}", herald.line(&format!("{name} to the socket")));
        println!("{}", bare.line(&format!("{name} to the bare listener")));
        if name == "INSERT" {
            let ratio = herald.median() / bare.median();
            println!("ratio of the medians: {ratio:.2} (limit {LIMIT})");
            is_within = ratio < LIMIT;
        }
    }
    if is_within {
        ExitCode::SUCCESS
    } else {
        println!("the limit is exceeded");
        ExitCode::FAILURE
    }
}

fn milliseconds(from: Instant, to: Instant) -> f64 {
    let later = to.saturating_duration_since(from).as_secs_f64();
    let earlier = from.saturating_duration_since(to).as_secs_f64();
    (later - earlier) * 1000.0
}
