//! The real program, `herald serve`, as an operator runs it.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    process::{Child, Command},
    time::timeout,
};

use super::{
    database::AT_MOST,
    gateway::{SECRET, as_gateway},
    http, note, wait_until,
};
use crate::processes;

/// Lines of the log that are shown when a test has failed.
const SHOWN_LINES: usize = 40;

const HERALD: &str = env!("CARGO_BIN_EXE_herald");

/// A gateway that is a process of its own. Dropped, it is killed.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
    _folder: TempDir,
}

impl Process {
    /// Starts `herald serve` on a port that the kernel chooses, with these variables and no other ones.
    pub(crate) fn serve(database: &str, variables: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        Self::start(database, variables, &log, folder)
    }

    /// As [`Process::serve`], with its log in a file of the test.
    pub(crate) fn serve_with_log(database: &str, variables: &[(&str, &str)], log: &str) -> Self {
        Self::start(database, variables, Path::new(log), tempfile::tempdir().unwrap())
    }

    fn start(database: &str, variables: &[(&str, &str)], log: &Path, folder: TempDir) -> Self {
        let file = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .unwrap();
        let child = Command::new(HERALD)
            .arg("serve")
            .env_clear()
            .env("DATABASE_URL", as_gateway(database))
            .env("HERALD_BIND", "127.0.0.1:0")
            .env("HERALD_JWT_SECRET", SECRET)
            .env("HERALD_LOG_FORMAT", "json")
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self {
            child,
            log: log.to_owned(),
            _folder: folder,
        }
    }

    /// All that it has written to standard error so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Where it listens, as its log says; waits until it does.
    pub(crate) async fn address(&self) -> SocketAddr {
        let mut address = None;
        wait_until("the log says where the gateway listens", || {
            address = self.log().lines().find_map(listening);
            address.is_some()
        })
        .await;
        address.unwrap()
    }

    /// Waits until it is ready, and answers where it listens.
    pub(crate) async fn ready(&self) -> SocketAddr {
        let address = self.address().await;
        processes::until("the gateway to be ready", async || {
            http::fetch(address, "/readyz").await.status == 200
        })
        .await;
        address
    }

    /// Its number, as long as it runs.
    pub(crate) fn id(&self) -> u32 {
        self.child.id().expect("it has ended already")
    }

    /// Sends a signal by its name.
    pub(crate) fn signal(&self, name: &str) {
        processes::signal(name, self.id());
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        timeout(AT_MOST, self.child.wait())
            .await
            .expect("the process did not end")
            .unwrap()
    }

    /// Whether it still runs.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A device such as /dev/full could be read for ever.
        if std::thread::panicking() && self.log.is_file() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let last = lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n");
            note(&format_args!("{last}"));
        }
    }
}

/// In either format of the log.
fn listening(line: &str) -> Option<SocketAddr> {
    if !line.contains("the gateway is running") {
        return None;
    }
    let address = match serde_json::from_str::<Value>(line) {
        Ok(line) => line["address"].as_str()?.to_owned(),
        Err(_) => line.split("address=").nth(1)?.split(' ').next()?.to_owned(),
    };
    Some(address.parse().unwrap())
}
