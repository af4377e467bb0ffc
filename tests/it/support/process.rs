//! The real program, `herald serve`, as an operator runs it.

use std::{
    fs,
    net::SocketAddr,
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
    http, wait_until,
};
use crate::processes;

const HERALD: &str = env!("CARGO_BIN_EXE_herald");

/// A gateway that is a process of its own. Dropped, it is killed.
pub(crate) struct Process {
    child: Child,
    folder: TempDir,
}

impl Process {
    /// Starts `herald serve` on a port that the kernel chooses, with these variables and no other ones.
    pub(crate) fn serve(database: &str, variables: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let log = fs::File::create(folder.path().join("log")).unwrap();
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
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self { child, folder }
    }

    /// All that it has written to standard error so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
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

    /// Sends a signal by its name.
    pub(crate) fn signal(&self, name: &str) {
        processes::signal(name, self.child.id().expect("it has ended already"));
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
