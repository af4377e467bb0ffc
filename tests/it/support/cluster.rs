//! A private Postgres in a temporary folder, reached through a socket in that folder, so that no port is taken.
//!
//! Tests that run at the same time share one; the last of them to end stops it and removes the folder.

use std::{
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tempfile::TempDir;

static SHARED: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());

/// A running Postgres.
pub(crate) struct Cluster {
    folder: TempDir,
}

impl Cluster {
    /// The cluster that is running, or a new one.
    pub(crate) fn shared() -> Arc<Self> {
        // A test that failed here has left the weak reference as it was.
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let cluster = Arc::new(Self::start());
            *shared = Arc::downgrade(&cluster);
            cluster
        })
    }

    fn start() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("herald-it-")
            .tempdir_in("/tmp")
            .unwrap();
        if let Some((user, group)) = server_user() {
            std::os::unix::fs::chown(folder.path(), Some(user), Some(group)).unwrap();
        }
        let cluster = Self { folder };
        run(Command::new(binary("initdb"))
            .args([
                "--auth=trust",
                "--username=postgres",
                "--encoding=UTF8",
                "--locale=C",
                "--no-sync",
                "-D",
            ])
            .arg(cluster.data()));
        // Nothing here has to survive a crash of the machine.
        let options = format!(
            "-c listen_addresses='' -c unix_socket_directories='{}' -c fsync=off -c max_connections=200",
            cluster.folder.path().display()
        );
        run(Command::new(binary("pg_ctl"))
            .args(["start", "--wait", "--silent", "-D"])
            .arg(cluster.data())
            .arg("-l")
            .arg(cluster.folder.path().join("log"))
            .args(["-o", &options]));
        cluster
    }

    /// The URL of one of its databases, for a role that needs no password.
    pub(crate) fn url(&self, role: &str, database: &str) -> String {
        let socket = self.folder.path().display().to_string().replace('/', "%2F");
        format!("postgres://{role}@{socket}/{database}")
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        run(Command::new(binary("pg_ctl"))
            .args(["stop", "--wait", "--silent", "--mode=immediate", "-D"])
            .arg(self.data()));
    }
}

/// The path of one of Postgres's programs: of the newest server packaged by Debian, or by its name.
pub(crate) fn binary(name: &str) -> PathBuf {
    let packaged = Path::new("/usr/lib/postgresql");
    let newest = std::fs::read_dir(packaged)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|version| packaged.join(version.to_string()).join("bin").join(name).exists())
        .max();
    newest.map_or_else(
        || name.into(),
        |version| packaged.join(version.to_string()).join("bin").join(name),
    )
}

/// Postgres refuses to run as root; then it runs as the user `postgres`.
fn server_user() -> Option<(u32, u32)> {
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        return None;
    }
    let id = |flag| -> u32 {
        let output = Command::new("id").args([flag, "postgres"]).output().unwrap();
        String::from_utf8(output.stdout)
            .unwrap()
            .trim()
            .parse()
            .expect("a user named postgres")
    };
    Some((id("-u"), id("-g")))
}

fn run(command: &mut Command) {
    if let Some((user, group)) = server_user() {
        command.uid(user).gid(group).current_dir("/tmp");
    }
    // The server inherits what its starter writes to, so its output goes to its log and not through a pipe.
    let status = command.stdout(std::process::Stdio::null()).status().unwrap();
    assert!(status.success(), "{command:?}: {status}");
}
