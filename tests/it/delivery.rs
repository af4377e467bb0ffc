//! The promise: every committed change reaches every session of its two users that is connected or comes back with its
//! cursor, once, whatever happens on the way.
//!
//! What should have arrived is read from the log when all is over, and the log is held against the messages themselves.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use herald::{
    dev::cluster::{Cluster, ClusterBuilder, Stop},
    tasks::Tasks,
    types::UserId,
};
use tokio_postgres::{Client, NoTls};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::{
    APPLICATION,
    database::people,
    follower::{Addresses, Carrier, Follower, Habits},
    gateway::{Gateway, config, migrate, token},
    socket::Socket,
    wait_until, writers,
};

/// Users of a storm, each with several devices.
const USERS: usize = 8;

/// Devices of each user.
const DEVICES: usize = 4;

/// Connections that write.
const WRITERS: u64 = 8;

/// The longest time the writers may take.
const WRITING: Duration = Duration::from_secs(90);

/// A database of its own with Herald in it, people, writers and devices.
struct Storm {
    cluster: Cluster,
    url: String,
    people: [Uuid; USERS],
    seed: u64,
    addresses: Addresses,
    devices: Tasks,
    writing: Tasks,
    enough: CancellationToken,
    followers: Vec<Follower>,
}

impl Storm {
    async fn new() -> Self {
        // Nobody but commits takes records to the disk, so that a crash finds some that are not there.
        let cluster = ClusterBuilder::temporary()
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
        let seed = rand::random();
        // The seed of a failed run replays its random decisions.
        std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("seed {seed}\n")).unwrap();
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
        }
    }

    fn connect_to(&self, gateways: &[&Gateway]) {
        *self.addresses.lock().unwrap() = gateways.iter().map(|gateway| gateway.address()).collect();
    }

    /// Devices that drop at random moments, and for each user one that never drops by itself. They come over WebSockets
    /// and over Server-Sent Events.
    async fn follow(&mut self) {
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

    fn write(&self, transactions: usize) {
        writers::start(
            &self.writing,
            &self.url,
            &self.people,
            WRITERS,
            transactions,
            self.seed,
        );
    }

    async fn written(&self) {
        self.writing
            .finish(WRITING)
            .await
            .expect("the writers did not end");
    }

    /// Waits until every device has everything, and holds what it has against the log.
    async fn everything_arrived_once(self) {
        let log = with_client(&self.url, async |client| {
            the_log_is_complete(client).await;
            logged(client).await
        })
        .await;
        assert!(log.len() > 100, "{} changes are no storm", log.len());
        for follower in &self.followers {
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
        let resumed: usize = self
            .followers
            .iter()
            .map(|follower| follower.notebook.lock().unwrap().resumed)
            .sum();
        assert!(
            resumed > self.followers.len(),
            "devices came back {resumed} times only"
        );
        self.enough.cancel();
        self.devices.finish(Duration::from_secs(10)).await.unwrap();
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

async fn with_client<T>(url: &str, work: impl AsyncFnOnce(&Client) -> T) -> T {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    let work = async move { work(&client).await };
    tokio::join!(work, connection).0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_come_and_go_miss_nothing_and_get_nothing_twice() {
    let mut storm = Storm::new().await;
    let gateway = Gateway::start(&storm.url).await;
    storm.connect_to(&[&gateway]);
    storm.follow().await;
    storm.write(60);
    storm.written().await;
    storm.everything_arrived_once().await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_while_the_feed_loses_its_connection_again_and_again() {
    let mut storm = Storm::new().await;
    let gateway = Gateway::start(&storm.url).await;
    storm.connect_to(&[&gateway]);
    storm.follow().await;
    storm.write(120);
    let terminations = with_client(&storm.url, async |client| {
        let mut terminations = 0;
        let mut tick = tokio::time::interval(Duration::from_millis(250));
        loop {
            tokio::select! {
                () = storm.written() => return terminations,
                _ = tick.tick() => {
                    let killed = client
                        .query(
                            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'herald feed'",
                            &[],
                        )
                        .await
                        .unwrap();
                    terminations += killed.len();
                }
            }
        }
    })
    .await;
    assert!(
        terminations > 2,
        "the feed's backend was ended {terminations} times only"
    );
    storm.everything_arrived_once().await;
    assert!(gateway.metric("feed_reconnects_total") >= 2.0);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_while_postgres_restarts_quickly_and_at_once() {
    let mut storm = Storm::new().await;
    let gateway = Gateway::start(&storm.url).await;
    storm.connect_to(&[&gateway]);
    storm.follow().await;
    storm.write(100);
    for how in [Stop::Fast, Stop::Immediate, Stop::Immediate] {
        wait_until("something more was read", {
            let before = gateway.metric("batches_total");
            let gateway = &gateway;
            move || gateway.metric("batches_total") > before + 5.0
        })
        .await;
        storm.cluster.stop(how).await.unwrap();
        storm.cluster.start_again().await.unwrap();
    }
    storm.written().await;
    storm.everything_arrived_once().await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_stays_open_holds_nothing_up_and_arrives_at_its_end() {
    let mut storm = Storm::new().await;
    let gateway = Gateway::start(&storm.url).await;
    storm.connect_to(&[&gateway]);
    storm.follow().await;
    let [first, second, ..] = storm.people;
    let url = storm.url.clone();
    with_client(&url, async |client| {
        client
            .batch_execute(&format!(
                "begin; insert into public.messages (sender_id, receiver_id, content) values ('{first}', '{second}', 'early')"
            ))
            .await
            .unwrap();
        storm.write(40);
        storm.written().await;
        let seen = || storm.followers[0].notebook.lock().unwrap().seen.len();
        wait_until("others' messages arrive meanwhile", || seen() > 5).await;
        client.batch_execute("commit").await.unwrap();
    })
    .await;
    storm.everything_arrived_once().await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_move_between_two_gateways_of_which_one_lags() {
    let mut storm = Storm::new().await;
    let (quick, slow) = (
        Gateway::start(&storm.url).await,
        Gateway::start_with(lagging(&storm.url)).await,
    );
    storm.connect_to(&[&quick, &slow]);
    storm.follow().await;
    storm.write(60);
    let terminations = with_client(&storm.url, async |client| {
        let mut tick = tokio::time::interval(Duration::from_millis(300));
        loop {
            tokio::select! {
                () = storm.written() => return,
                _ = tick.tick() => {
                    // The newest feed is the lagging one's, which takes its time to come back.
                    client
                        .query(
                            "select pg_terminate_backend(pid) from pg_stat_activity \
                             where application_name = 'herald feed' order by backend_start desc limit 1",
                            &[],
                        )
                        .await
                        .unwrap();
                }
            }
        }
    });
    terminations.await;
    storm.everything_arrived_once().await;
    quick.stop().await;
    slow.stop().await;
}

/// A gateway that takes its time before it connects again, so that cursors from the other one are ahead of it.
fn lagging(url: &str) -> herald::app::AppConfig {
    let mut config = config(url);
    config.feed.backoff_base = Duration::from_millis(500);
    config.feed.backoff_cap = Duration::from_millis(500);
    config
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_number_that_is_given_out_again_after_a_crash_is_not_taken_for_seen() {
    let storm = Storm::new().await;
    let [first, second, ..] = storm.people;
    // The feed looks often by itself: a ring would be a commit, which takes everything before it to the disk.
    let mut settings = config(&storm.url);
    settings.feed.idle_tick = Duration::from_millis(50);
    let gateway = Gateway::start_with(settings).await;
    let user = token(UserId(second));
    let insert = |content: &str| {
        format!(
            "insert into public.messages (sender_id, receiver_id, content) values ('{first}', '{second}', '{content}')"
        )
    };
    // Rolled back transactions leave records that nobody waits for; the cursor has seen their numbers.
    let numbers_used = with_client(&storm.url, async |client| {
        client.batch_execute(&insert("before")).await.unwrap();
        for _ in 0..20 {
            client
                .batch_execute("begin; select pg_current_xact_id(); rollback")
                .await
                .unwrap();
        }
        next_number(client).await
    })
    .await;
    let seen_up_to = || gateway.app.hub().position.newest().unwrap().snapshot.xmax();
    wait_until("the feed has seen the numbers", || seen_up_to() >= numbers_used).await;
    let (socket, ready) = Socket::connect(gateway.address(), &user, None).await;
    let cursor = ready["cursor"].as_str().unwrap().to_owned();
    drop(socket);
    storm.cluster.stop(Stop::Immediate).await.unwrap();
    storm.cluster.start_again().await.unwrap();
    let number = with_client(&storm.url, async |client| {
        let number = next_number(client).await;
        for count in 0..20 {
            client
                .batch_execute(&insert(&format!("after {count}")))
                .await
                .unwrap();
        }
        number
    })
    .await;
    let (mut socket, ready) = Socket::connect_patiently(gateway.address(), &user, &cursor).await;
    assert_eq!(ready["resumed"], true, "{ready}");
    let (events, _) = socket.events(20).await;
    let contents: Vec<_> = events
        .iter()
        .map(|event| event["message"]["content"].as_str().unwrap())
        .collect();
    assert_eq!(
        contents,
        (0..20).map(|count| format!("after {count}")).collect::<Vec<_>>()
    );
    assert!(
        number < numbers_used,
        "no number was given out again ({number} after {numbers_used}), so nothing was tested"
    );
    gateway.stop().await;
}

/// The number of the next transaction.
async fn next_number(client: &Client) -> u64 {
    let row = client
        .query_one("select pg_snapshot_xmax(pg_current_snapshot())::text", &[])
        .await
        .unwrap();
    row.get::<_, &str>(0).parse().unwrap()
}
