//! People connect, chat and leave, all the time and in every way: what the gateway keeps for those who have left is nothing.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures::future::join_all;
use herald::{memory::resident_of, types::UserId};
use serde_json::Value;
use tokio::time::Instant;
use tokio_postgres::Client;
use uuid::Uuid;

use crate::{
    phoenix::{INBOX, inbox},
    process::prepared,
    processes::until,
    support::{
        database::{Database, people},
        event_source::EventSource,
        gateway::{metric_in, token},
        http::try_to_fetch,
        note, number_from_environment,
        phoenix::Door,
        process::Process,
        scene::write,
        socket::Socket,
    },
};

/// How many come and go at the same time.
const GUESTS: usize = 32;

/// How long a long churn is, in seconds, for runs by hand.
const LASTING: &str = "HERALD_CHURN_SECONDS";

/// How long the long one is by itself.
const LONG: Duration = Duration::from_secs(600);

/// How much of the time the memory may grow: by then the history that the gateway keeps for those who come back is full.
const WARM_UP: f64 = 0.25;

/// What somebody holds while he or she is there.
enum Presence {
    Native(Box<Socket>),
    Events(Box<EventSource>),
    Phoenix(crate::support::phoenix::Phoenix),
}

impl Presence {
    /// Waits until this was heard, whatever else there is to hear, and answers the cursor that came with it.
    async fn hears(&mut self, content: &str) -> Option<String> {
        let is_heard = |text: &str| text.contains(&format!("\"{content}\""));
        loop {
            match self {
                Self::Native(socket) => {
                    let text = socket.text().await;
                    if is_heard(&text) {
                        let frame: Value = serde_json::from_str(&text).unwrap();
                        return frame["cursor"].as_str().map(str::to_owned);
                    }
                }
                Self::Events(source) => {
                    let block = source.block().await;
                    if block.data.as_deref().is_some_and(is_heard) {
                        return block.id;
                    }
                }
                Self::Phoenix(client) => {
                    if client.contents(INBOX, 1).await == [content] {
                        return None;
                    }
                }
            }
        }
    }
}

/// Comes in this way, with a cursor if there is one.
async fn come(address: SocketAddr, person: UserId, round: usize, cursor: Option<&str>) -> Presence {
    match round % 3 {
        0 => Presence::Native(Box::new(Socket::connect(address, &token(person), cursor).await.0)),
        1 => Presence::Events(Box::new(
            EventSource::connect(address, &token(person), cursor).await.0,
        )),
        _ => Presence::Phoenix(inbox(&Door::new(address), person).await),
    }
}

/// Comes, says something to himself or herself, hears it, and goes: with a goodbye, or without. Answers how often.
async fn guest(address: SocketAddr, application: Arc<Client>, person: UserId, until: Instant) -> usize {
    let (mut rounds, mut cursor) = (0, None::<String>);
    while Instant::now() < until {
        let back_with = cursor.take().filter(|_| rounds % 2 == 0);
        let mut presence = come(address, person, rounds, back_with.as_deref()).await;
        let said = format!("hello {rounds}");
        write(&application, person, person, &said).await;
        cursor = presence.hears(&said).await;
        match presence {
            Presence::Native(socket) if rounds % 4 < 2 => socket.close().await,
            Presence::Phoenix(client) if rounds % 4 < 2 => drop(client.close().await),
            Presence::Phoenix(client) => drop(client.reset().await),
            Presence::Native(_) | Presence::Events(_) => {}
        }
        rounds += 1;
    }
    rounds
}

/// Lets guests come and go for so long, and waits until the gateway has nobody any more. Answers its memory then.
async fn churn(gateway: &Process, database: &Database, guests: &[Uuid], lasting: Duration) -> u64 {
    let (address, until_then) = (gateway.ready().await, Instant::now() + lasting);
    let coming = guests.iter().map(async |person| {
        let application = Arc::new(database.connect().await);
        guest(address, application, UserId(*person), until_then).await
    });
    let visits: usize = join_all(coming).await.iter().sum();
    assert!(visits >= guests.len(), "{visits}");
    until("nobody to be left", async || {
        let page = try_to_fetch(address, "/metrics").await;
        page.is_some_and(|page| {
            let sessions = ["native", "sse", "phoenix"]
                .map(|protocol| metric_in(&page.body, &format!("sessions{{protocol=\"{protocol}\"}}")));
            // What asks is a connection itself.
            sessions.iter().all(|sessions| *sessions == 0.0) && metric_in(&page.body, "connections") <= 1.0
        })
    })
    .await;
    let memory = resident_of(gateway.id()).unwrap();
    note(&format_args!("{visits} visits, and then {} KiB", memory / 1024));
    memory
}

/// Answers by how many bytes the memory has grown after the warm-up.
async fn grown_by(lasting: Duration) -> i64 {
    let database = Database::empty().await;
    prepared(&database.url()).await;
    let guests = people::<GUESTS>(&database.connect().await).await;
    let gateway = Process::serve(&database.url(), &[]);
    let before = churn(&gateway, &database, &guests, lasting.mul_f64(WARM_UP)).await;
    let after = churn(&gateway, &database, &guests, lasting.mul_f64(1.0 - WARM_UP)).await;
    after.cast_signed() - before.cast_signed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_has_left_leaves_nothing_behind() {
    // A short one begins with an empty history, which takes eight mebibytes by and by.
    let grown = grown_by(Duration::from_secs(8)).await;
    assert!(grown < 12 << 20, "{grown} bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it takes ten minutes; script/test --long runs it"]
async fn ten_minutes_of_coming_and_going_take_less_than_a_mebibyte() {
    let lasting = number_from_environment(LASTING).map_or(LONG, Duration::from_secs);
    let grown = grown_by(lasting).await;
    assert!(grown < 1 << 20, "{grown} bytes");
}
