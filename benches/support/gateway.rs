//! `herald serve` as a process of its own, on a port that the kernel chose.

use std::{net::SocketAddr, process::Stdio, time::Duration};

use herald::{load::process::processor_time, memory::resident_of, tasks::Tasks};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::{Child, ChildStderr, Command},
    sync::oneshot,
    time::timeout,
};

use super::people::SECRET;

/// Longer than a start takes, so that what hangs fails.
const AT_MOST: Duration = Duration::from_secs(30);

/// A running gateway. Dropped, it is killed.
pub(crate) struct Gateway {
    child: Child,
    address: SocketAddr,
}

impl Gateway {
    /// Starts it with its default settings, and waits until it takes sessions.
    pub(crate) async fn start(database_url: &str, tasks: &Tasks) -> Self {
        Self::start_with(database_url, &[], tasks).await
    }

    /// The same, with some settings by their variables.
    pub(crate) async fn start_with(database_url: &str, settings: &[(&str, &str)], tasks: &Tasks) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_herald"))
            .arg("serve")
            .env("DATABASE_URL", database_url)
            .env("HERALD_BIND", "127.0.0.1:0")
            .env("HERALD_JWT_SECRET", SECRET)
            .env("HERALD_LOG_FORMAT", "json")
            .envs(settings.iter().copied())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let (found, address) = oneshot::channel();
        tasks.spawn("log", read_log(child.stderr.take().unwrap(), found));
        let address = timeout(AT_MOST, address).await.unwrap().unwrap();
        let gateway = Self { child, address };
        timeout(AT_MOST, async {
            while !gateway.page("/readyz").await.starts_with("HTTP/1.1 200") {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
        .unwrap();
        gateway
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// The answer to a request, with its headers.
    async fn page(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    /// The value of one line of `/metrics`, without its prefix `herald_`; zero if there is no such line.
    pub(crate) async fn metric(&self, name: &str) -> u64 {
        let page = self.page("/metrics").await;
        let prefix = format!("herald_{name} ");
        let line = page.lines().find_map(|line| line.strip_prefix(&prefix));
        line.map_or(0, |value| value.parse().unwrap())
    }

    /// The sum of all lines of `/metrics` with this name, whatever their labels.
    pub(crate) async fn metrics(&self, name: &str) -> u64 {
        let page = self.page("/metrics").await;
        let prefix = format!("herald_{name}{{");
        let lines = page.lines().filter(|line| line.starts_with(&prefix));
        let values = lines.map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap());
        values.sum()
    }

    /// The processor time that the process has taken, in user mode and in the kernel. The kernel tells it in ticks.
    pub(crate) fn processor_time(&self) -> Duration {
        processor_time(self.id()).unwrap()
    }

    /// The process's resident memory in KiB, as the kernel counts it.
    pub(crate) fn resident_kib(&self) -> u64 {
        resident_of(self.id()).unwrap() / 1024
    }
}

/// Reads the log to its end, finds the address in it, and repeats what should worry somebody.
#[allow(clippy::print_stderr, reason = "a benchmark reports to whoever started it")]
async fn read_log(stderr: ChildStderr, found: oneshot::Sender<SocketAddr>) {
    let mut lines = BufReader::new(stderr).lines();
    let mut found = Some(found);
    while let Ok(Some(line)) = lines.next_line().await {
        let entry: Value = serde_json::from_str(&line).unwrap_or_default();
        if let Some(address) = entry["address"].as_str()
            && let Some(found) = found.take()
        {
            // Nobody waits any more if the start took too long.
            let _told = found.send(address.parse().unwrap());
        } else if entry["level"] != "INFO" {
            eprintln!("{line}");
        }
    }
}
