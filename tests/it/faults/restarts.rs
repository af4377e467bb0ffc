//! Everything is started again: all at once, and one gateway after the other.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::FutureExt;
use herald::{dev::cluster::Stop, tasks::Tasks, types::UserId};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    process::prepared,
    processes::until,
    support::{
        database::{Database, execute},
        follower::{Addresses, Carrier, Follower, Habits},
        gateway::{metric_in, token},
        http::try_to_fetch,
        note,
        process::Process,
        scene::write,
        socket::Socket,
        storm::{Storm, everything_arrived_once},
        wait_until,
    },
};

/// How often everything is started again.
const RESTARTS: usize = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_killed_and_started_ten_times_in_a_row_under_load() {
    let mut storm = Storm::new().await;
    let mut gateway = Process::serve(&storm.url, &[]);
    storm.connect_to([gateway.ready().await]);
    storm.follow().await;
    for round in 0..RESTARTS {
        storm.write(10);
        // Something is under way when it happens.
        let before = seen(&storm);
        wait_until("something arrives", || seen(&storm) > before).await;
        gateway.signal("KILL");
        let how = if round % 2 == 0 {
            Stop::Immediate
        } else {
            Stop::Fast
        };
        storm.cluster.stop(how).await.unwrap();
        gateway.ended().await;
        // The gateway is there before its database.
        gateway = Process::serve(&storm.url, &[]);
        storm.connect_to([gateway.address().await]);
        storm.cluster.start_again().await.unwrap();
    }
    storm.written().await;
    storm.everything_arrived_once().await;
    storm.end().await;
}

fn seen(storm: &Storm) -> usize {
    storm
        .followers
        .iter()
        .map(|follower| follower.notebook.lock().unwrap().seen.len())
        .sum()
}

/// Carries each new connection to the next gateway that is ready, as a balancer in front of several does.
struct Balancer {
    address: SocketAddr,
    gateways: Addresses,
    ready: Addresses,
    tasks: Tasks,
}

/// How often it asks whether gateways are ready.
const ASKED_EVERY: Duration = Duration::from_millis(50);

impl Balancer {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let balancer = Self {
            address: listener.local_addr().unwrap(),
            gateways: Arc::default(),
            ready: Arc::default(),
            tasks: Tasks::new(),
        };
        let look = look_after(Arc::clone(&balancer.gateways), Arc::clone(&balancer.ready));
        let (tasks, ready) = (balancer.tasks.clone(), Arc::clone(&balancer.ready));
        let balance = balance(listener, ready, tasks.clone());
        for (name, work) in [
            ("look after gateways", look.boxed()),
            ("balance", balance.boxed()),
        ] {
            let stopping = tasks.stopping();
            tasks.spawn(name, async move {
                let _stopped = stopping.run_until_cancelled(work).await;
            });
        }
        balancer
    }

    /// How many sessions the gateways have together.
    async fn sessions(&self) -> f64 {
        let gateways = self.gateways.lock().unwrap().clone();
        let mut sessions = 0.0;
        for gateway in gateways {
            // One that is being started again has none.
            if let Some(page) = try_to_fetch(gateway, "/metrics").await {
                sessions += metric_in(&page.body, "sessions{protocol=\"native\"}");
            }
        }
        sessions
    }
}

async fn look_after(gateways: Addresses, ready: Addresses) {
    loop {
        let all = gateways.lock().unwrap().clone();
        let mut found = Vec::new();
        for gateway in all {
            if try_to_fetch(gateway, "/readyz")
                .await
                .is_some_and(|answer| answer.status == 200)
            {
                found.push(gateway);
            }
        }
        *ready.lock().unwrap() = found;
        tokio::time::sleep(ASKED_EVERY).await;
    }
}

async fn balance(listener: TcpListener, ready: Addresses, tasks: Tasks) {
    let mut turn = 0;
    loop {
        let (mut near, _) = listener.accept().await.unwrap();
        let ready = ready.lock().unwrap().clone();
        let Some(gateway) = ready.get(turn % ready.len().max(1)).copied() else {
            continue;
        };
        turn += 1;
        let stopping = tasks.stopping();
        tasks.spawn("balanced connection", async move {
            if let Ok(mut far) = TcpStream::connect(gateway).await {
                let carried = copy_bidirectional(&mut near, &mut far);
                let _ended = stopping.run_until_cancelled(carried).await;
            }
        });
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

/// Devices of each person in a rolling restart.
const DEVICES: usize = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_of_two_gateways_loses_nothing_and_nobody_is_ever_refused_by_both() {
    rolling_restart(600).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it takes a minute and 15,000 file descriptors: script/test --long"]
async fn a_rolling_restart_of_two_gateways_with_5000_sessions() {
    rolling_restart(5_000).await;
}

async fn rolling_restart(sessions: usize) {
    // As metrics are told.
    let expected = f64::from(u32::try_from(sessions).unwrap());
    let database = Database::empty().await;
    let url = database.url();
    prepared(&url).await;
    let people: Vec<Uuid> = (0..sessions / DEVICES).map(|_| Uuid::new_v4()).collect();
    let rows: Vec<String> = people
        .iter()
        .map(|person| format!("('{person}', '{person}')"))
        .collect();
    execute(
        &url,
        &format!("insert into profiles (id, username) values {}", rows.join(", ")),
    )
    .await;

    let balancer = Balancer::new().await;
    let mut gateways = [serve(&url), serve(&url)];
    for gateway in &gateways {
        let address = gateway.ready().await;
        balancer.gateways.lock().unwrap().push(address);
    }
    until("the balancer leads to both", async || {
        balancer.ready.lock().unwrap().len() == 2
    })
    .await;
    let devices = Tasks::new();
    let followers = follow(&devices, &balancer, &people, sessions);
    until("everybody is there", async || {
        balancer.sessions().await == expected
    })
    .await;

    let enough = CancellationToken::new();
    let writing = write_until(&database, &people, &enough);
    let asking = longest_refusal(balancer.address, UserId(people[0]), &enough);
    let rolling = async {
        for (number, gateway) in gateways.iter_mut().enumerate() {
            gateway.signal("TERM");
            assert_eq!(gateway.ended().await.code(), Some(0), "{}", gateway.log());
            *gateway = serve(&url);
            let address = gateway.ready().await;
            balancer.gateways.lock().unwrap()[number] = address;
            // The one that asks has a session, too.
            until("everybody is back", async || {
                balancer.sessions().await >= expected
            })
            .await;
        }
        enough.cancel();
    };
    let (written, longest, ()) = tokio::join!(writing, asking, rolling);
    note(&format_args!(
        "{written} messages were written, and nobody was refused by both for longer than {longest:?}"
    ));
    assert!(written > 10, "{written} messages are no load");
    assert!(longest < Duration::from_secs(1), "both refused for {longest:?}");
    everything_arrived_once(&url, &followers).await;
    let came_back = followers
        .iter()
        .filter(|follower| follower.notebook.lock().unwrap().resumed > 0);
    assert_eq!(came_back.count(), sessions);
    devices.stop();
}

fn serve(url: &str) -> Process {
    // All sessions come from one address here.
    Process::serve(url, &[("HERALD_CONNECTIONS_PER_ADDRESS", "10000")])
}

fn follow(devices: &Tasks, balancer: &Balancer, people: &[Uuid], sessions: usize) -> Vec<Follower> {
    let through = Arc::new(Mutex::new(vec![balancer.address]));
    let habits = Habits {
        drops_within: None,
        carrier: Carrier::WebSocket,
    };
    let follow = |(seed, person): (u64, &Uuid)| {
        Follower::start(
            devices,
            &through,
            UserId(*person),
            habits,
            seed,
            devices.stopping(),
        )
    };
    (0..)
        .zip(people.iter().cycle().take(sessions))
        .map(follow)
        .collect()
}

/// Somebody writes to somebody all the time; answers how often.
async fn write_until(database: &Database, people: &[Uuid], enough: &CancellationToken) -> usize {
    let application = database.connect().await;
    let mut written = 0;
    while !enough.is_cancelled() {
        let (sender, receiver) = (people[written % people.len()], people[written * 7 % people.len()]);
        write(&application, UserId(sender), UserId(receiver), "hello").await;
        written += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    written
}

/// Asks to be let in all the time; answers with the longest time in which everybody was refused. To be slow is no refusal.
async fn longest_refusal(address: SocketAddr, person: UserId, enough: &CancellationToken) -> Duration {
    let (mut longest, mut refused_since) = (Duration::ZERO, None);
    while !enough.is_cancelled() {
        let asked_at = Instant::now();
        if Socket::open(address, &token(person), None).await.is_ok() {
            refused_since = None;
        } else {
            longest = longest.max(refused_since.get_or_insert(asked_at).elapsed());
        }
        tokio::time::sleep(ASKED_EVERY).await;
    }
    longest
}
