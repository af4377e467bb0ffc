//! What can happen to gateways and their Postgres, done for a while and then mended.

use std::{fs, process::Command, time::Duration};

use herald::{dev::cluster::Stop, tasks::Tasks};
use rand::{RngExt, rngs::StdRng};
use tokio::time::sleep;
use tokio_postgres::{NoTls, error::SqlState};

use super::at_random::Installation;
use crate::{
    processes::{signal, until},
    support::{
        gateway::as_gateway,
        network::Network,
        storm::{Storm, with_client},
    },
};

/// How far a clock jumps at most, in seconds: more than the hour for which tokens of the tests are good.
const JUMP_MAX: i64 = 3 * 3600;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Connections to Postgres are reset.
    Cut,
    /// What goes between gateway and Postgres takes longer.
    Delay,
    /// It is cut off in its middle.
    Halve,
    /// Nothing gets through for a while, and then all of it.
    Hold,
    /// The connections that there are carry nothing any more, and nobody is told.
    Lose,
    /// `kill -9`.
    KillGateway,
    StopGateway,
    /// `kill -9` of the feed's backend, whereupon Postgres ends all others and recovers.
    KillBackend,
    StopPostgres,
    RestartPostgres,
    /// Nobody can read messages, so that the pool fills with those who wait.
    LockMessages,
    /// Postgres has no connection left.
    TakeConnections,
    /// The gateway has no file descriptor left.
    TakeDescriptors,
    /// The gateway's clock on the wall is set.
    SetClock,
}

impl Fault {
    pub(super) const ALL: [Self; 14] = [
        Self::Cut,
        Self::Delay,
        Self::Halve,
        Self::Hold,
        Self::Lose,
        Self::KillGateway,
        Self::StopGateway,
        Self::KillBackend,
        Self::StopPostgres,
        Self::RestartPostgres,
        Self::LockMessages,
        Self::TakeConnections,
        Self::TakeDescriptors,
        Self::SetClock,
    ];

    /// Lets it happen to one of the gateways for so long, and mends it.
    pub(super) async fn happen(
        self,
        installation: &mut Installation,
        victim: usize,
        random: &mut StdRng,
        length: Duration,
    ) {
        let gateway = &installation.gateways[victim];
        match self {
            Self::Cut | Self::Delay | Self::Halve | Self::Hold | Self::Lose => {
                self.happen_between(&gateway.network, random, length).await;
            }
            Self::KillGateway => {
                gateway.process.signal("KILL");
                installation.start_again(victim).await;
            }
            Self::StopGateway => {
                let stopped = Stopped::these(vec![gateway.process.id()]);
                sleep(length).await;
                drop(stopped);
            }
            Self::TakeDescriptors => {
                let process = gateway.process.id();
                let before = descriptor_limit(process);
                let open = fs::read_dir(format!("/proc/{process}/fd")).unwrap().count();
                limit_descriptors(process, open as u64);
                sleep(length).await;
                limit_descriptors(process, before);
            }
            Self::SetClock => {
                installation.clock.set(random.random_range(-JUMP_MAX..JUMP_MAX));
                sleep(length).await;
                installation.clock.set(0);
            }
            Self::TakeConnections => {
                let taken = take_connections(&installation.storm.url).await;
                gateway.network.cut();
                sleep(length).await;
                taken.stop();
            }
            Self::KillBackend | Self::StopPostgres | Self::RestartPostgres | Self::LockMessages => {
                self.happen_to(&installation.storm, random, length).await;
            }
        }
    }

    async fn happen_between(self, network: &Network, random: &mut StdRng, length: Duration) {
        match self {
            Self::Delay => network.delay(Duration::from_millis(random.random_range(1..200))),
            Self::Halve => network.halve(),
            Self::Hold => network.hold(),
            Self::Lose => network.lose(),
            _ => network.cut(),
        }
        sleep(length).await;
        network.clear();
    }

    async fn happen_to(self, storm: &Storm, random: &mut StdRng, length: Duration) {
        match self {
            Self::KillBackend => {
                kill_feed_backend(&storm.url).await;
                until("Postgres has recovered", async || {
                    tokio_postgres::connect(&storm.url, NoTls).await.is_ok()
                })
                .await;
            }
            Self::StopPostgres => {
                let postmaster = storm.cluster.postmaster_pid().unwrap();
                let stopped = Stopped::these(server_processes(postmaster));
                sleep(length).await;
                drop(stopped);
            }
            Self::LockMessages => {
                with_client(&storm.url, async |client| {
                    let lock = "begin; lock table public.messages in access exclusive mode";
                    client.batch_execute(lock).await.unwrap();
                    sleep(length).await;
                    client.batch_execute("commit").await.unwrap();
                })
                .await;
            }
            _ => {
                let how = if random.random() {
                    Stop::Fast
                } else {
                    Stop::Immediate
                };
                storm.cluster.stop(how).await.unwrap();
                sleep(length).await;
                storm.cluster.start_again().await.unwrap();
            }
        }
    }
}

/// Processes that stand still until this is dropped, also by a test that fails.
struct Stopped(Vec<u32>);

impl Stopped {
    fn these(processes: Vec<u32>) -> Self {
        for process in &processes {
            // A backend may have ended since it was seen.
            send("STOP", *process);
        }
        Self(processes)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        for process in &self.0 {
            send("CONT", *process);
        }
    }
}

fn send(name: &str, process: u32) {
    let _sent = Command::new("kill")
        .args([&format!("-{name}"), &process.to_string()])
        .output()
        .unwrap();
}

/// The postmaster and all that it has started.
pub(super) fn server_processes(postmaster: u32) -> Vec<u32> {
    let children = Command::new("ps")
        .args(["-o", "pid=", "--ppid", &postmaster.to_string()])
        .output()
        .unwrap();
    let children = String::from_utf8(children.stdout).unwrap();
    let children = children
        .split_whitespace()
        .map(|process| process.parse().unwrap());
    std::iter::once(postmaster).chain(children).collect()
}

async fn kill_feed_backend(url: &str) {
    let backends = with_client(url, async |client| {
        let feeds = "select pid from pg_stat_activity where application_name = 'herald feed'";
        client.query(feeds, &[]).await.unwrap()
    })
    .await;
    // Between two connections there may be none.
    if let Some(backend) = backends.first() {
        signal("KILL", backend.get::<_, i32>(0).try_into().unwrap());
    }
}

/// All connections that Postgres still has for those who are no superusers; they are held until the tasks are stopped.
async fn take_connections(url: &str) -> Tasks {
    let taken = Tasks::new();
    loop {
        match tokio_postgres::connect(&as_gateway(url), NoTls).await {
            Ok((client, connection)) => {
                let stopping = taken.stopping();
                taken.spawn("taken connection", async move {
                    // It may end with Postgres before.
                    let _ended = stopping.run_until_cancelled(connection).await;
                    drop(client);
                });
            }
            Err(error) if error.code() == Some(&SqlState::TOO_MANY_CONNECTIONS) => return taken,
            Err(error) => panic!("{error}"),
        }
    }
}

/// How many files a process may have open.
fn descriptor_limit(process: u32) -> u64 {
    let limits = fs::read_to_string(format!("/proc/{process}/limits")).unwrap();
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .unwrap();
    line.split_whitespace().nth(3).unwrap().parse().unwrap()
}

fn limit_descriptors(process: u32, most: u64) {
    let limited = Command::new("prlimit")
        .args(["--pid", &process.to_string(), &format!("--nofile={most}:")])
        .status()
        .unwrap();
    assert!(limited.success());
}
