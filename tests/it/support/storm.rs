//! Writers and devices by the dozen on a Postgres of their own, for as long as a test does to them what it likes.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use herald::{
    dev::cluster::{Cluster, ClusterBuilder},
    tasks::Tasks,
    types::UserId,
};
use tokio_postgres::{Client, NoTls};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    APPLICATION,
    database::people,
    follower::{Addresses, Carrier, Follower, Habits},
    gateway::migrate,
    note, number_from_environment, wait_until, writers,
};

/// Users of a storm, each with several devices.
const USERS: usize = 8;

/// Devices of each user.
const DEVICES: usize = 4;

/// Connections that write.
const WRITERS: u64 = 8;

/// The variable with the seed of a run that is to be repeated.
const SEED: &str = "HERALD_FAULT_SEED";

/// The longest time the writers may take.
const WRITING: Duration = Duration::from_secs(90);

/// A database of its own with Herald in it, people, writers and devices.
pub(crate) struct Storm {
    pub(crate) cluster: Cluster,
    pub(crate) url: String,
    pub(crate) people: [Uuid; USERS],
    pub(crate) seed: u64,
    addresses: Addresses,
    devices: Tasks,
    writing: Tasks,
    enough: CancellationToken,
    pub(crate) followers: Vec<Follower>,
    /// How often writers were started.
    rounds: AtomicU64,
}

/// The seed of the random decisions: a new one, or that of a run that is to be repeated.
fn seed() -> u64 {
    let seed = number_from_environment(SEED).unwrap_or_else(rand::random);
    let test = std::thread::current().name().unwrap_or_default().to_owned();
    note(&format_args!(
        "to repeat these random decisions: {SEED}={seed} script/test {test}"
    ));
    seed
}

impl Storm {
    pub(crate) async fn new() -> Self {
        Self::on(ClusterBuilder::temporary()).await
    }

    /// On a Postgres with settings of its own.
    pub(crate) async fn on(cluster: ClusterBuilder) -> Self {
        // Nobody but commits takes records to the disk, so that a crash finds some that are not there.
        let cluster = cluster
            .setting("wal_writer_delay", "10s")
            .setting("bgwriter_lru_maxpages", "0")
            .setting("autovacuum", "off")
            .start()
            .await
            .unwrap();
        cluster.create_database("storm").await.unwrap();
        let url = cluster.url("storm");
        let people = with_client(&url, async |client| {
            client.batch_execute(APPLICATION).await.unwrap();
            people::<USERS>(client).await
        })
        .await;
        migrate(&url).await;
        let seed = seed();
        Self {
            cluster,
            url,
            people,
            seed,
            addresses: Arc::new(Mutex::new(Vec::new())),
            devices: Tasks::new(),
            writing: Tasks::new(),
            enough: CancellationToken::new(),
            followers: Vec::new(),
            rounds: AtomicU64::new(0),
        }
    }

    /// Where devices connect from now on.
    pub(crate) fn connect_to(&self, gateways: impl IntoIterator<Item = SocketAddr>) {
        *self.addresses.lock().unwrap() = gateways.into_iter().collect();
    }

    /// Devices that drop at random moments, and for each user one that never drops by itself. They come over WebSockets
    /// and over Server-Sent Events.
    pub(crate) async fn follow(&mut self) {
        for (number, person) in (0..).zip(self.people.iter().flat_map(|person| [person; DEVICES])) {
            let stays = number % DEVICES as u64 == 0;
            let drops_within = (!stays).then_some(Duration::from_millis(400));
            self.followers.push(Follower::start(
                &self.devices,
                &self.addresses,
                UserId(*person),
                Habits {
                    drops_within,
                    carrier: Carrier::of(number),
                },
                self.seed.wrapping_add(number),
                self.enough.clone(),
            ));
        }
        // A device begins where the feed is when it first connects; what is written before is not its business.
        wait_until("every device is there", || {
            self.followers
                .iter()
                .all(|follower| follower.notebook.lock().unwrap().greeted)
        })
        .await;
    }

    /// Starts writers that each do so many transactions.
    pub(crate) fn write(&self, transactions: usize) {
        let round = self.rounds.fetch_add(1, Ordering::Relaxed);
        writers::start(
            &self.writing,
            &self.url,
            &self.people,
            WRITERS,
            transactions,
            self.seed.wrapping_add(round),
        );
    }

    /// Waits for the end of the writers.
    pub(crate) async fn written(&self) {
        self.writing
            .finish(WRITING)
            .await
            .expect("the writers did not end");
    }

    /// Waits until every device has everything that is in the log, and holds what it has against that.
    pub(crate) async fn everything_arrived_once(&self) {
        everything_arrived_once(&self.url, &self.followers).await;
    }

    /// Ends the devices, after a last look at whether there was a storm at all.
    pub(crate) async fn end(self) {
        let (mut seen, mut resumed) = (0, 0);
        for follower in &self.followers {
            let notebook = follower.notebook.lock().unwrap();
            seen += notebook.seen.len();
            resumed += notebook.resumed;
        }
        // Each change concerns two people or one, with DEVICES each.
        assert!(seen > 100 * DEVICES, "{seen} deliveries are no storm");
        assert!(
            resumed > self.followers.len(),
            "devices came back {resumed} times only"
        );
        self.enough.cancel();
        self.devices.finish(Duration::from_secs(10)).await.unwrap();
    }
}

/// Waits until each of these devices has everything that is in the log, and holds what it has against that.
pub(crate) async fn everything_arrived_once(url: &str, followers: &[Follower]) {
    let log = with_client(url, async |client| {
        the_log_is_complete(client).await;
        logged(client).await
    })
    .await;
    for follower in followers {
        let mut expected: Vec<i64> = log
            .iter()
            .filter(|row| row.concerns(follower.user))
            .map(|row| row.seq)
            .collect();
        expected.sort_unstable();
        let count = || follower.notebook.lock().unwrap().seen.len();
        wait_until(
            &format!("all {} of {} changes arrived", expected.len(), count()),
            || count() >= expected.len(),
        )
        .await;
        let notebook = follower.notebook.lock().unwrap();
        assert_eq!(notebook.doubled(), [0; 0], "arrived more than once");
        assert_eq!(notebook.discontinued, [""; 0], "continuity was lost");
        assert!(
            notebook.seen.keys().eq(&expected),
            "something else arrived than was logged"
        );
    }
}

struct LogRow {
    seq: i64,
    sender: Uuid,
    receiver: Uuid,
}

impl LogRow {
    fn concerns(&self, user: UserId) -> bool {
        self.sender == user.0 || self.receiver == user.0
    }
}

async fn logged(client: &Client) -> Vec<LogRow> {
    let rows = client
        .query("select seq, sender_id, receiver_id from herald.log", &[])
        .await
        .unwrap();
    rows.iter()
        .map(|row| LogRow {
            seq: row.get(0),
            sender: row.get(1),
            receiver: row.get(2),
        })
        .collect()
}

/// Every message has exactly one insert in the log, and every insert a message.
async fn the_log_is_complete(client: &Client) {
    let wrong: i64 = client
        .query_one(
            "select count(*) from public.messages as m \
             full join (select seq, message_id from herald.log where op = 'i') as l on l.message_id = m.id \
             where m.id is null or l.seq is null",
            &[],
        )
        .await
        .unwrap()
        .get(0);
    assert_eq!(wrong, 0, "the log and the messages differ");
}

/// Does some work with a session as superuser.
pub(crate) async fn with_client<T>(url: &str, work: impl AsyncFnOnce(&Client) -> T) -> T {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    let work = async move { work(&client).await };
    tokio::join!(work, connection).0
}
