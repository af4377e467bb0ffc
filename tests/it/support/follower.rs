//! A device that follows one user's messages: it drops at random moments, comes back with its cursor, and keeps count.
//!
//! It counts a frame without a cursor as provisional, as the protocol says: what came since the last cursor is
//! forgotten when the connection is lost, because the replay brings it again.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use herald::{tasks::Tasks, types::UserId};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{
    event_source::EventSource,
    gateway::token,
    socket::{Heard, Socket},
};

/// Where a device connects. Tests change it while devices run.
pub(crate) type Addresses = Arc<Mutex<Vec<SocketAddr>>>;

/// What a device has for certain.
#[derive(Debug, Default)]
pub(crate) struct Notebook {
    /// How often each log row came, by its serial number.
    pub(crate) seen: BTreeMap<i64, usize>,
    /// Whether it has been greeted at all.
    pub(crate) greeted: bool,
    /// How often it connected and was told `resumed: true`.
    pub(crate) resumed: usize,
    /// Reasons for which a cursor was not continued.
    pub(crate) discontinued: Vec<String>,
}

impl Notebook {
    /// Serial numbers that came more than once.
    pub(crate) fn doubled(&self) -> Vec<i64> {
        self.seen
            .iter()
            .filter(|(_, count)| **count > 1)
            .map(|(seq, _)| *seq)
            .collect()
    }
}

/// A device that runs until it is told to stop.
pub(crate) struct Follower {
    pub(crate) user: UserId,
    pub(crate) notebook: Arc<Mutex<Notebook>>,
}

/// How a device behaves.
#[derive(Clone, Copy)]
pub(crate) struct Habits {
    /// The longest time it stays connected before it drops without a word; `None`: it never drops by itself.
    pub(crate) drops_within: Option<Duration>,
    /// What carries its events.
    pub(crate) carrier: Carrier,
}

/// What carries a device's events.
#[derive(Clone, Copy)]
pub(crate) enum Carrier {
    WebSocket,
    ServerSentEvents,
}

impl Carrier {
    /// Every third of many devices comes over Server-Sent Events, whatever else is told by whether its number is even.
    pub(crate) const fn of(number: u64) -> Self {
        if number.is_multiple_of(3) {
            Self::ServerSentEvents
        } else {
            Self::WebSocket
        }
    }
}

/// An open connection of a device.
enum Connection {
    Socket(Box<Socket>),
    Events(EventSource),
}

impl Connection {
    async fn open(carrier: Carrier, address: SocketAddr, token: &str, cursor: Option<&str>) -> Option<Self> {
        match carrier {
            Carrier::WebSocket => {
                let socket = Socket::open(address, token, cursor).await.ok()?;
                Some(Self::Socket(Box::new(socket)))
            }
            Carrier::ServerSentEvents => {
                let source = EventSource::open(address, token, cursor).await.ok()?;
                Some(Self::Events(source))
            }
        }
    }

    async fn hear(&mut self) -> Heard {
        match self {
            Self::Socket(socket) => socket.hear().await,
            Self::Events(source) => source.hear().await,
        }
    }
}

impl Follower {
    /// Starts a device. Its random decisions come from the seed.
    pub(crate) fn start(
        tasks: &Tasks,
        addresses: &Addresses,
        user: UserId,
        habits: Habits,
        seed: u64,
        stop: CancellationToken,
    ) -> Self {
        let notebook = Arc::new(Mutex::new(Notebook::default()));
        let device = Device {
            addresses: Arc::clone(addresses),
            user,
            habits,
            random: StdRng::seed_from_u64(seed),
            notebook: Arc::clone(&notebook),
            cursor: None,
        };
        tasks.spawn("follower", async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = device.run() => {}
            }
        });
        Self { user, notebook }
    }
}

struct Device {
    addresses: Addresses,
    user: UserId,
    habits: Habits,
    random: StdRng,
    notebook: Arc<Mutex<Notebook>>,
    cursor: Option<String>,
}

impl Device {
    async fn run(mut self) {
        loop {
            let address = {
                let addresses = self.addresses.lock().unwrap();
                addresses[self.random.random_range(0..addresses.len())]
            };
            let token = token(self.user);
            let carrier = self.habits.carrier;
            let connection = Connection::open(carrier, address, &token, self.cursor.as_deref()).await;
            if let Some(connection) = connection {
                let stay = self
                    .habits
                    .drops_within
                    .map(|most| most.mul_f64(self.random.random()));
                let stay = stay.unwrap_or(Duration::from_secs(3600));
                // Most wait to be greeted, however long that takes a machine under load; or they would ask again and again without
                // ever getting on.
                let is_patient = self.random.random_range(0..8) > 0;
                self.follow(connection, stay, is_patient).await;
            }
            // A device that cannot connect tries again soon; that pause is a client's backoff and not a wait for
            // anything that the test looks at.
            tokio::time::sleep(Duration::from_millis(self.random.random_range(1..50))).await;
        }
    }

    /// Follows until the connection ends, or drops it after so long: that is how a laptop's lid closes, without a word.
    async fn follow(&mut self, mut connection: Connection, stay: Duration, is_patient: bool) {
        let mut provisional: Vec<i64> = Vec::new();
        let mut drops_at = (!is_patient).then(|| Instant::now() + stay);
        loop {
            let heard = match drops_at {
                Some(drops_at) => timeout_at(drops_at, connection.hear()).await,
                None => Ok(connection.hear().await),
            };
            let Ok(Heard::Frame(frame)) = heard else { return };
            match frame["type"].as_str() {
                Some("ready") => {
                    drops_at.get_or_insert_with(|| Instant::now() + stay);
                    self.greeted(&frame);
                }
                Some("events") => {
                    let events = frame["events"].as_array().unwrap();
                    provisional.extend(events.iter().map(|event| event["seq"].as_i64().unwrap()));
                    if let Some(cursor) = frame["cursor"].as_str() {
                        self.cursor = Some(cursor.to_owned());
                        let mut notebook = self.notebook.lock().unwrap();
                        for seq in provisional.drain(..) {
                            *notebook.seen.entry(seq).or_default() += 1;
                        }
                    }
                }
                other => panic!("unexpected frame {other:?}"),
            }
        }
    }

    fn greeted(&mut self, frame: &Value) {
        let mut notebook = self.notebook.lock().unwrap();
        notebook.greeted = true;
        match frame["resumed"].as_bool() {
            Some(true) => notebook.resumed += 1,
            Some(false) => notebook
                .discontinued
                .push(frame["reason"].as_str().unwrap().to_owned()),
            None => {}
        }
        self.cursor = Some(frame["cursor"].as_str().unwrap().to_owned());
    }
}
