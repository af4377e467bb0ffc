//! Two gateways of which one or the other is always in trouble.

use std::time::Duration;

use herald::dev::cluster::ClusterBuilder;
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};

use super::fault::Fault;
use crate::support::{
    clock::Clock, network::Network, note, number_from_environment, process::Process, storm::Storm,
};

/// The variable that says how many faults there are beyond one of each kind.
const MORE: &str = "HERALD_MORE_FAULTS";

/// The longest time that something is broken. A gateway finds out by itself what takes longer than its deadlines; that is what
/// lost connections are for, which stay lost.
const LENGTH_MAX: Duration = Duration::from_millis(1500);

/// Connections that Postgres has, few enough to be taken.
const CONNECTIONS: &str = "70";

/// Transactions of each writer while something is broken.
const TRANSACTIONS: usize = 8;

/// Two gateways on one Postgres.
pub(super) struct Installation {
    pub(super) storm: Storm,
    pub(super) gateways: Vec<Placed>,
    pub(super) clock: Clock,
}

/// A gateway, and what is between it and Postgres.
pub(super) struct Placed {
    pub(super) process: Process,
    pub(super) network: Network,
    /// Postgres, by way of that network.
    url: String,
}

impl Installation {
    async fn new() -> Self {
        let storm = Storm::on(ClusterBuilder::temporary().setting("max_connections", CONNECTIONS)).await;
        let clock = Clock::new();
        let mut gateways = Vec::new();
        for _ in 0..2 {
            let (network, url) = Network::before_database(&storm.url).await;
            let process = serve(&url, &clock);
            gateways.push(Placed {
                process,
                network,
                url,
            });
        }
        let mut installation = Self {
            storm,
            gateways,
            clock,
        };
        installation.connect().await;
        for Placed { process, .. } in &installation.gateways {
            process.ready().await;
        }
        installation.storm.follow().await;
        installation
    }

    /// Starts a gateway that was killed.
    pub(super) async fn start_again(&mut self, number: usize) {
        let Placed { process, url, .. } = &mut self.gateways[number];
        process.ended().await;
        *process = serve(url, &self.clock);
        self.connect().await;
    }

    /// Starts the gateways that have ended by themselves, as whoever supervises them would.
    async fn supervise(&mut self) {
        for number in 0..self.gateways.len() {
            if !self.gateways[number].process.is_running() {
                self.start_again(number).await;
            }
        }
    }

    async fn connect(&self) {
        let mut addresses = Vec::new();
        for Placed { process, .. } in &self.gateways {
            addresses.push(process.address().await);
        }
        self.storm.connect_to(addresses);
    }
}

fn serve(url: &str, clock: &Clock) -> Process {
    let variables = clock.variables();
    let variables: Vec<(&str, &str)> = variables
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    Process::serve(url, &variables)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_breaks_nothing_is_lost_and_nothing_comes_twice() {
    let mut installation = Installation::new().await;
    let mut random = StdRng::seed_from_u64(installation.storm.seed);
    let mut faults = Fault::ALL.to_vec();
    let more = number_from_environment(MORE).unwrap_or(0);
    faults.extend((0..more).map(|_| Fault::ALL[random.random_range(0..Fault::ALL.len())]));
    faults.shuffle(&mut random);
    for (number, fault) in (1..).zip(faults) {
        let victim = random.random_range(0..installation.gateways.len());
        let length = LENGTH_MAX.mul_f64(random.random_range(0.1..1.0));
        // The last of these lines names what was not survived.
        note(&format_args!(
            "{number}: {fault:?} for {length:?} at gateway {victim}"
        ));
        installation.storm.write(TRANSACTIONS);
        fault.happen(&mut installation, victim, &mut random, length).await;
        installation.supervise().await;
        installation.storm.written().await;
        installation.storm.everything_arrived_once().await;
    }
    let Installation { storm, .. } = installation;
    storm.end().await;
}
