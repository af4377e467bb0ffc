//! A private Postgres in a folder: for `herald dev`, and for every test that needs a real one.
//!
//! - Postgres never outlives its owner: a guardian process stops it when the owner ends, also by `kill -9`.
//! - A folder has one owner at a time, held by a file lock that the kernel gives back.
//! - What an earlier owner left is found again, after a crash too: Postgres recovers from its log, and a number in
//!   `postmaster.pid` that meanwhile belongs to another process is told from a postmaster.
//! - The port stays the same for the life of a cluster and, if nobody took it meanwhile, from one start to the next.
//!
//! It is not for production: one machine, loopback only, no backup and no upgrade from one major version to the next.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use tokio::{process::Command, sync::Mutex, time::Instant};

pub use super::guardian::Stop;
use super::{
    binaries::{Binaries, OLDEST_MAJOR},
    guardian::{Guardian, Orders},
    place::{Place, ServerUser},
};

/// The superuser of every cluster.
pub const SUPERUSER: &str = "postgres";
/// Long enough for a recovery after a crash on a slow disk; a start that works takes less than a second.
const START_WITHIN: Duration = Duration::from_secs(120);
/// A fast stop writes everything that is in memory; after this it becomes an immediate one.
const STOP_WITHIN: Duration = Duration::from_secs(30);
/// How often a file or a process is looked at while something is awaited. It costs microseconds, so it is short.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How often a start is tried again after another process took the port between the choice and the start.
const PORT_ATTEMPTS: u32 = 10;
/// A log that has grown beyond this is begun anew at the next start.
const LOG_BYTES_MAX: u64 = 16 << 20;
/// How much of the log's end an error shows.
const LOG_BYTES_SHOWN: u64 = 2_000;
/// The line of `postmaster.pid` that tells the state of the postmaster; `LOCK_FILE_LINE_PM_STATUS` in Postgres.
const STATE_LINE: usize = 7;

/// Why there is no private Postgres.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// No server that is new enough.
    #[error(
        "no PostgreSQL server of version {OLDEST_MAJOR} or newer was found (found: {found}). Install one: \
         `apt-get install postgresql` on Debian and Ubuntu, `dnf install postgresql-server` on Fedora, \
         `brew install postgresql@17` on macOS, or put the folder with `postgres` and `initdb` on PATH"
    )]
    NoServer {
        /// Versions and their folders.
        found: String,
    },
    /// The data folder was made by another major version.
    #[error(
        "the data was made by PostgreSQL {major}, which was not found (found: {found}). Install PostgreSQL {major}, or \
         remove the folder to begin anew"
    )]
    OtherMajor {
        /// The version that made the data.
        major: u32,
        /// Versions and their folders.
        found: String,
    },
    /// Root cannot run Postgres, and there is nobody to lend it to.
    #[error(
        "Postgres does not run as root, and there is neither a user `postgres` nor `nobody`: create one, or run as an ordinary user"
    )]
    NoServerUser,
    /// Somebody else made the folder, or has rights in it.
    #[error(
        "{} exists and is not a private folder (mode 0700) of the user who runs Postgres: remove it, or choose another folder",
        folder.display()
    )]
    NotOurs {
        /// The folder in question.
        folder: PathBuf,
    },
    /// Another process owns the folder.
    #[error("{} is in use by another process: stop it first, or choose another folder", folder.display())]
    InUse {
        /// The folder in question.
        folder: PathBuf,
    },
    /// The data is there, the password to it is not.
    #[error(
        "{} is missing or empty, so the data beside it cannot be opened: restore the file, or remove the folder to begin anew",
        file.display()
    )]
    NoPassword {
        /// The file with the password.
        file: PathBuf,
    },
    /// A folder or file could not be made, read or written.
    #[error("{}: {error}; check that the folder is on a disk with room and that you may write to it", path.display())]
    Folder {
        /// What was touched.
        path: PathBuf,
        /// What the system answered.
        error: io::Error,
    },
    /// Somebody else has the port that this cluster's URLs name.
    #[error(
        "port {port} on 127.0.0.1 cannot be used: {error}; stop the process that has it, then start again"
    )]
    Port {
        /// The port; 0 if any would have done.
        port: u16,
        /// What the system answered.
        error: io::Error,
    },
    /// A program could not be run.
    #[error("`{program}` could not be run: {error}")]
    Program {
        /// Its name.
        program: String,
        /// What the system answered.
        error: io::Error,
    },
    /// A program ran and failed.
    #[error("`{program}` failed; its last words:\n{output}")]
    Failed {
        /// Its name.
        program: String,
        /// The end of what it wrote.
        output: String,
    },
    /// Postgres did not become ready, or did not stop, in time.
    #[error("Postgres did not {what} within {} s; the end of its log:\n{log}", within.as_secs())]
    TooSlow {
        /// `start` or `stop`.
        what: &'static str,
        /// The bound.
        within: Duration,
        /// The end of the log.
        log: String,
    },
    /// Postgres ended while it was starting.
    #[error("Postgres ended while it was starting; the end of its log:\n{log}")]
    Ended {
        /// The end of the log.
        log: String,
    },
    /// A statement of the cluster's own failed.
    #[error("Postgres refused `{statement}`: {}", super::in_full(error))]
    Statement {
        /// The SQL.
        statement: String,
        /// Its answer.
        error: tokio_postgres::Error,
    },
}

impl ClusterError {
    pub(super) fn folder(path: &Path, error: io::Error) -> Self {
        Self::Folder {
            path: path.to_path_buf(),
            error,
        }
    }

    pub(super) fn program(program: &str, error: io::Error) -> Self {
        Self::Program {
            program: program.to_owned(),
            error,
        }
    }
}

/// How a cluster is to be; [`ClusterBuilder::start`] makes or finds it.
#[derive(Debug)]
pub struct ClusterBuilder {
    folder: Option<PathBuf>,
    settings: Vec<(String, String)>,
}

impl ClusterBuilder {
    /// A cluster in a new folder below `/tmp` that goes with its owner, made for speed: it does not survive a power cut.
    /// Everybody on the machine may connect to it.
    pub fn temporary() -> Self {
        let builder = Self {
            folder: None,
            settings: Vec::new(),
        };
        // Tests run side by side, each with a gateway and its pool, on one cluster.
        builder.setting("fsync", "off").setting("max_connections", "200")
    }

    /// Gives Postgres a setting, as `-c name=value` does. The last one of a name counts.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Makes the cluster or finds it again, and starts it. It is ready for connections afterwards.
    ///
    /// # Errors
    /// [`ClusterError`], whose texts say what to do.
    ///
    /// # Cancel safety
    /// Safe: dropped on the way, it leaves no process; what it began to make is made anew by the next start.
    pub async fn start(self) -> Result<Cluster, ClusterError> {
        let (place, lock) = match &self.folder {
            Some(folder) => {
                fs::create_dir_all(folder).map_err(|error| ClusterError::folder(folder, error))?;
                let lock = own(folder)?;
                (Place::below(folder).await?, Some(lock))
            }
            None => (Place::temporary().await?, None),
        };
        let data = place.data();
        let binaries = Binaries::find(made_by(&data)).await?;
        let password = match &self.folder {
            Some(folder) => Some(password(folder, data.exists())?),
            None => None,
        };
        let port_file = self.folder.as_ref().map(|folder| folder.join("port"));
        let former = port_file
            .as_ref()
            .and_then(|file| fs::read_to_string(file).ok()?.trim().parse().ok());
        let cluster = Cluster {
            port: AtomicU32::new(0),
            postmaster: AtomicU32::new(0),
            running: Mutex::new(None),
            reservation: Mutex::new(Reservation::none()),
            temporary: self.folder.is_none(),
            settings: self.settings,
            password,
            port_file,
            binaries,
            place,
            _lock: lock,
        };
        if !data.exists() {
            cluster.create().await?;
        }
        cluster.end_leftover().await?;
        cluster.start_on(former.map_or(Port::Any, Port::Rather)).await?;
        Ok(cluster)
    }
}

/// A password that does not show itself.
struct Password(String);

impl std::fmt::Debug for Password {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Password")
    }
}

/// A private Postgres. Dropped, it stops Postgres, without waiting for it; a temporary one is removed.
#[derive(Debug)]
pub struct Cluster {
    place: Place,
    binaries: Binaries,
    settings: Vec<(String, String)>,
    password: Option<Password>,
    port_file: Option<PathBuf>,
    temporary: bool,
    port: AtomicU32,
    /// 0 while it is stopped.
    postmaster: AtomicU32,
    running: Mutex<Option<Running>>,
    reservation: Mutex<Reservation>,
    /// Held for as long as this owns the folder; the kernel releases it with the process.
    _lock: Option<FolderLock>,
}

#[derive(Debug)]
struct Running {
    guardian: Guardian,
    sockets: PathBuf,
}

impl Cluster {
    /// A cluster that is kept in this folder, which is made if it is missing.
    ///
    /// Connections need the password that is kept in the folder with mode 0600, since every user of the machine reaches loopback.
    pub fn builder(folder: impl Into<PathBuf>) -> ClusterBuilder {
        ClusterBuilder {
            folder: Some(folder.into()),
            settings: Vec::new(),
        }
    }

    /// A temporary cluster for tests; [`ClusterBuilder::temporary`] tells more and takes settings.
    ///
    /// # Errors
    /// As [`ClusterBuilder::start`].
    ///
    /// # Cancel safety
    /// As [`ClusterBuilder::start`].
    pub async fn temporary() -> Result<Self, ClusterError> {
        ClusterBuilder::temporary().start().await
    }

    /// Where to connect to a database of this cluster as its superuser: a `postgresql://` URL, over TCP on loopback.
    pub fn url(&self, database: &str) -> String {
        let password = self
            .password
            .as_ref()
            .map(|Password(password)| format!(":{password}"))
            .unwrap_or_default();
        let database: String = database.bytes().map(percent_encoded).collect();
        format!(
            "postgresql://{SUPERUSER}{password}@127.0.0.1:{}/{database}",
            self.port()
        )
    }

    /// The TCP port on 127.0.0.1; the same after a restart.
    pub fn port(&self) -> u16 {
        u16::try_from(self.port.load(Ordering::Acquire)).unwrap_or_default()
    }

    /// The folder with the data, whose owner is the user that runs Postgres.
    pub fn data_folder(&self) -> PathBuf {
        self.place.data()
    }

    /// The file with what Postgres has to say.
    pub fn log_file(&self) -> PathBuf {
        self.place.log()
    }

    /// Where the data is, if it is not below the folder that was asked for since the user who runs Postgres cannot get there.
    pub fn kept_elsewhere(&self) -> Option<&Path> {
        self.place.elsewhere.then_some(&*self.place.base)
    }

    /// The folder with the Unix socket, while Postgres runs.
    ///
    /// # Cancel safety
    /// Safe: it only waits for a start or stop that is under way.
    pub async fn socket_folder(&self) -> Option<PathBuf> {
        self.running
            .lock()
            .await
            .as_ref()
            .map(|running| running.sockets.clone())
    }

    /// The process id of the postmaster, unless this cluster is stopped.
    pub fn postmaster_pid(&self) -> Option<u32> {
        Some(self.postmaster.load(Ordering::Acquire)).filter(|process| *process != 0)
    }

    /// Where a program of this Postgres would be, `psql` say. Not every installation has all of them.
    pub fn program(&self, name: &str) -> PathBuf {
        self.binaries.program(name)
    }

    /// Stops Postgres and keeps its data. It answers when the postmaster has ended; if it is stopped already, at once.
    ///
    /// # Errors
    /// [`ClusterError::TooSlow`] if it does not end even by an immediate stop.
    ///
    /// # Cancel safety
    /// Not safe to forget: dropped on the way, Postgres may still be stopping. Calling it again waits for that.
    pub async fn stop(&self, how: Stop) -> Result<(), ClusterError> {
        let mut running = self.running.lock().await;
        let Some(Running { guardian, .. }) = running.as_mut() else {
            return Ok(());
        };
        if guardian.stop(how).is_err() {
            // The guardian has ended already, and Postgres before it.
            tracing::debug!("the guardian of Postgres had ended before it was told to stop");
        }
        if !self.has_ended(guardian, STOP_WITHIN).await? {
            signal("-QUIT", guardian.postmaster()).await?;
            if !self.has_ended(guardian, STOP_WITHIN).await? {
                return Err(ClusterError::TooSlow {
                    what: "stop",
                    within: STOP_WITHIN * 2,
                    log: self.log_end(),
                });
            }
        }
        self.postmaster.store(0, Ordering::Release);
        *running = None;
        Ok(())
    }

    /// Starts Postgres again after [`Cluster::stop`], or after it ended by itself, on the same port. If it runs, it is left alone.
    ///
    /// # Errors
    /// [`ClusterError`]; also when another process has taken the port meanwhile, which only systems other than Linux allow.
    ///
    /// # Cancel safety
    /// Dropped on the way, it leaves no process; a temporary cluster then loses its data.
    pub async fn start_again(&self) -> Result<(), ClusterError> {
        {
            let mut running = self.running.lock().await;
            if let Some(Running { guardian, .. }) = running.as_mut() {
                if !self.has_ended(guardian, Duration::ZERO).await? {
                    return Ok(());
                }
                *running = None;
            }
        }
        self.start_on(Port::Only(self.port())).await
    }

    /// Makes an empty database.
    ///
    /// # Errors
    /// [`ClusterError::Statement`] with what Postgres answered, for instance that it exists.
    ///
    /// # Cancel safety
    /// Not safe: dropped on the way, the database may have been made or not.
    pub async fn create_database(&self, name: &str) -> Result<(), ClusterError> {
        self.execute(&format!("create database {}", quoted(name))).await
    }

    /// Makes a database that is a copy of another one, to which nobody may be connected.
    ///
    /// # Errors
    /// [`ClusterError::Statement`] with what Postgres answered, for instance that the template is in use.
    ///
    /// # Cancel safety
    /// Not safe: dropped on the way, the database may have been made or not.
    pub async fn create_database_from(&self, name: &str, template: &str) -> Result<(), ClusterError> {
        self.execute(&format!(
            "create database {} template {}",
            quoted(name),
            quoted(template)
        ))
        .await
    }

    /// Makes an empty database, unless there is one of this name.
    ///
    /// # Errors
    /// [`ClusterError::Statement`] with what Postgres answered.
    ///
    /// # Cancel safety
    /// Not safe: dropped on the way, the database may have been made or not.
    pub async fn ensure_database(&self, name: &str) -> Result<(), ClusterError> {
        match self.create_database(name).await {
            Err(ClusterError::Statement { error, .. })
                if error.code() == Some(&tokio_postgres::error::SqlState::DUPLICATE_DATABASE) =>
            {
                Ok(())
            }
            other => other,
        }
    }

    async fn execute(&self, statement: &str) -> Result<(), ClusterError> {
        let refused = |error| ClusterError::Statement {
            statement: statement.to_owned(),
            error,
        };
        super::with_client(&self.url("postgres"), async |client| {
            client.batch_execute(statement).await
        })
        .await
        .and_then(|answer| answer)
        .map_err(refused)
    }

    /// Makes the data folder. It appears under its name only when it is complete.
    async fn create(&self) -> Result<(), ClusterError> {
        let unfinished = self.place.base.join("data.unfinished");
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished).map_err(|error| ClusterError::folder(&unfinished, error))?;
        }
        let mut initdb = Command::new(self.binaries.program("initdb"));
        initdb
            .arg("--pgdata")
            .arg(&unfinished)
            .args(["--username", SUPERUSER]);
        initdb.args(["--encoding", "UTF8", "--locale", "C", "--no-instructions"]);
        let password_file = self.place.base.join("password.unfinished");
        match &self.password {
            Some(Password(password)) => {
                write_private(&password_file, password)?;
                self.place
                    .hand_over(&password_file)
                    .map_err(|error| ClusterError::folder(&password_file, error))?;
                initdb
                    .args(["--auth", "scram-sha-256", "--pwfile"])
                    .arg(&password_file);
            }
            None => {
                initdb.args(["--auth", "trust", "--no-sync"]);
            }
        }
        let made = self.run("initdb", initdb).await;
        if self.password.is_some() {
            fs::remove_file(&password_file).map_err(|error| ClusterError::folder(&password_file, error))?;
        }
        made?;
        fs::rename(&unfinished, self.place.data()).map_err(|error| ClusterError::folder(&unfinished, error))
    }

    /// Runs a program as the server user, with nothing of the caller's environment.
    async fn run(&self, name: &str, mut command: Command) -> Result<(), ClusterError> {
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin")
            .env("LC_ALL", "C");
        command
            .current_dir("/")
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true);
        ServerUser::assume(self.place.server_user.as_ref(), &mut command);
        let output = command
            .output()
            .await
            .map_err(|error| ClusterError::program(name, error))?;
        if output.status.success() {
            return Ok(());
        }
        let said = [output.stdout, output.stderr].concat();
        let said = &said[said.len().saturating_sub(2_000)..];
        Err(ClusterError::Failed {
            program: name.to_owned(),
            output: String::from_utf8_lossy(said).into_owned(),
        })
    }

    /// Ends a postmaster whose owner and whose guardian are both gone, or waits for one that is being stopped. The lock is ours,
    /// so nobody else wants it.
    async fn end_leftover(&self) -> Result<(), ClusterError> {
        let Some(process) = former_postmaster(&self.place.data()) else {
            return Ok(());
        };
        if !works_on(process, &self.place.data()).await {
            return Ok(());
        }
        let mut pg_ctl = Command::new(self.binaries.program("pg_ctl"));
        pg_ctl
            .arg("--pgdata")
            .arg(self.place.data())
            .args(["--mode", "fast", "--silent"]);
        pg_ctl.args(["--timeout", &STOP_WITHIN.as_secs().to_string(), "stop"]);
        let stopped = self.run("pg_ctl", pg_ctl).await;
        // It may have ended by itself between the two looks, which pg_ctl calls a failure.
        if works_on(process, &self.place.data()).await {
            stopped
        } else {
            Ok(())
        }
    }

    async fn start_on(&self, port: Port) -> Result<(), ClusterError> {
        let mut port = port;
        for attempt in 1.. {
            match self.try_start(port).await {
                Ok(()) => break,
                Err(ClusterError::Ended { log })
                    if attempt < PORT_ATTEMPTS && log.contains("could not bind") =>
                {
                    if let Port::Rather(_) = port {
                        port = Port::Any;
                    }
                    if let Port::Any = port {
                        *self.reservation.lock().await = Reservation::none();
                    }
                    tokio::time::sleep(LOOK_EVERY * attempt).await;
                }
                Err(error) => return Err(error),
            }
        }
        if let Some(file) = &self.port_file {
            fs::write(file, self.port().to_string()).map_err(|error| ClusterError::folder(file, error))?;
        }
        Ok(())
    }

    async fn try_start(&self, port: Port) -> Result<(), ClusterError> {
        let mut running = self.running.lock().await;
        let port = self.reservation.lock().await.reserve(port)?;
        let data = self.place.data();
        let log = self.open_log()?;
        let begins = log.metadata().map_or(0, |log| log.len());
        // Postgres would take a number of an ended postmaster, meanwhile given to another process, for a living one. It leaves
        // its own grandparent out of account, and by this name it believes to be told who that is. `CreateLockFile` in
        // Postgres's miscinit.c has the rules.
        let not_the_postmaster = match former_postmaster(&data) {
            Some(process) if !works_on(process, &data).await => Some(process),
            _ => None,
        };
        let sockets = self.place.sockets()?;
        let orders = Orders {
            server_user: self.place.server_user.as_ref(),
            owner_gone: if self.temporary {
                Stop::Immediate
            } else {
                Stop::Fast
            },
            sockets: &sockets,
            temporary: self.temporary.then_some(&*self.place.base),
            log,
            not_the_postmaster,
        };
        let arguments = self.arguments(&data, &sockets, port);
        let mut guardian = Guardian::start(orders, &self.binaries.program("postgres"), &arguments)
            .map_err(|error| ClusterError::program("postgres", error))?;
        self.becomes_ready(&mut guardian, begins).await?;
        self.port.store(port.into(), Ordering::Release);
        self.postmaster.store(guardian.postmaster(), Ordering::Release);
        *running = Some(Running { guardian, sockets });
        Ok(())
    }

    fn arguments(&self, data: &Path, sockets: &Path, port: u16) -> Vec<String> {
        let mut arguments = vec![
            "-D".to_owned(),
            data.display().to_string(),
            "-p".to_owned(),
            port.to_string(),
        ];
        let fixed = [
            ("listen_addresses", "127.0.0.1".to_owned()),
            ("unix_socket_directories", sockets.display().to_string()),
            ("logging_collector", "off".to_owned()),
        ];
        let settings = self
            .settings
            .iter()
            .map(|(name, value)| format!("{name}={value}"));
        let fixed = fixed.into_iter().map(|(name, value)| format!("{name}={value}"));
        arguments.extend(
            settings
                .chain(fixed)
                .flat_map(|setting| ["-c".to_owned(), setting]),
        );
        arguments
    }

    /// Waits until the postmaster has written that it accepts connections.
    async fn becomes_ready(&self, guardian: &mut Guardian, log_begins: u64) -> Result<(), ClusterError> {
        let deadline = Instant::now() + START_WITHIN;
        let file = self.place.data().join("postmaster.pid");
        let process = guardian.postmaster().to_string();
        loop {
            let written = fs::read_to_string(&file).unwrap_or_default();
            let mut lines = written.lines();
            if lines.next() == Some(&*process)
                && lines
                    .nth(STATE_LINE - 1)
                    .is_some_and(|line| line.trim() == "ready")
            {
                return Ok(());
            }
            if guardian
                .ended()
                .map_err(|error| ClusterError::program("postgres", error))?
                .is_some()
            {
                return Err(ClusterError::Ended {
                    log: end_of(&self.place.log(), log_begins),
                });
            }
            if Instant::now() >= deadline {
                return Err(ClusterError::TooSlow {
                    what: "start",
                    within: START_WITHIN,
                    log: self.log_end(),
                });
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn has_ended(&self, guardian: &mut Guardian, within: Duration) -> Result<bool, ClusterError> {
        let deadline = Instant::now() + within;
        loop {
            if guardian
                .ended()
                .map_err(|error| ClusterError::program("postgres", error))?
                .is_some()
            {
                return Ok(true);
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn open_log(&self) -> Result<File, ClusterError> {
        let path = self.place.log();
        let failed = |error| ClusterError::folder(&path, error);
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        if log.metadata().map_err(failed)?.len() > LOG_BYTES_MAX {
            log.set_len(0).map_err(failed)?;
        }
        self.place.hand_over(&path).map_err(failed)?;
        Ok(log)
    }

    fn log_end(&self) -> String {
        end_of(&self.place.log(), 0)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let running = self.running.get_mut();
        let guarded = running
            .as_mut()
            .is_some_and(|running| matches!(running.guardian.ended(), Ok(None)));
        // The guardian, if there is one, removes the folder when it sees the pipe close, which is now.
        *running = None;
        if self.temporary
            && !guarded
            && let Err(error) = fs::remove_dir_all(&self.place.base)
        {
            tracing::warn!(folder = %self.place.base.display(), %error, "a temporary folder could not be removed");
        }
    }
}

/// Which port Postgres gets.
#[derive(Clone, Copy, Debug)]
enum Port {
    /// One that the kernel chooses.
    Any,
    /// This one if it is free: the port of an earlier start.
    Rather(u16),
    /// This one: URLs that name it have been given out.
    Only(u16),
}

/// Keeps a port from being given to others while Postgres does not listen on it.
///
/// On Linux a socket that is bound and does not listen shares its port with Postgres, since both allow the address to be
/// reused; the kernel gives such a port to nobody who lets it choose, and connections to it are refused while Postgres is
/// away. Elsewhere the port is only chosen and released.
#[derive(Debug)]
struct Reservation(Option<socket2::Socket>);

impl Reservation {
    const fn none() -> Self {
        Self(None)
    }

    fn reserve(&mut self, port: Port) -> Result<u16, ClusterError> {
        let failed = |port: u16| move |error| ClusterError::Port { port, error };
        if let Some(socket) = &self.0 {
            return port_of(socket).map_err(failed(0));
        }
        let socket = match port {
            Port::Any => bound(0).map_err(failed(0))?,
            Port::Rather(port) => bound(port).or_else(|_taken| bound(0)).map_err(failed(port))?,
            Port::Only(port) => bound(port).map_err(failed(port))?,
        };
        let port = port_of(&socket).map_err(failed(0))?;
        self.0 = cfg!(target_os = "linux").then_some(socket);
        Ok(port)
    }
}

fn bound(port: u16) -> io::Result<socket2::Socket> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.set_reuse_address(cfg!(target_os = "linux"))?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())?;
    Ok(socket)
}

fn port_of(socket: &socket2::Socket) -> io::Result<u16> {
    let address = socket.local_addr()?.as_socket();
    address
        .map(|address| address.port())
        .ok_or_else(|| io::Error::other("a bound socket without an address"))
}

/// A folder that belongs to this process until this is dropped.
#[derive(Debug)]
struct FolderLock(File);

impl Drop for FolderLock {
    fn drop(&mut self) {
        // The kernel gives the lock back when the last copy of the descriptor is closed, and a process that another thread is just
        // starting has one until it executes its program. A folder could so be in use that nobody uses.
        let _released = self.0.unlock();
    }
}

/// Takes the folder for this process, or says that it is taken.
fn own(folder: &Path) -> Result<FolderLock, ClusterError> {
    let path = folder.join("lock");
    let options = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(false)
        .mode(0o600)
        .open(&path);
    let lock = options.map_err(|error| ClusterError::folder(&path, error))?;
    match lock.try_lock() {
        Ok(()) => Ok(FolderLock(lock)),
        Err(fs::TryLockError::WouldBlock) => Err(ClusterError::InUse {
            folder: folder.to_path_buf(),
        }),
        Err(fs::TryLockError::Error(error)) => Err(ClusterError::folder(&path, error)),
    }
}

/// The major version that made a data folder, if there is one.
fn made_by(data: &Path) -> Option<u32> {
    fs::read_to_string(data.join("PG_VERSION"))
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// The password kept in a folder; a new one if there is no data that has one yet.
fn password(folder: &Path, has_data: bool) -> Result<Password, ClusterError> {
    let file = folder.join("password");
    if has_data {
        let found = fs::read_to_string(&file).unwrap_or_default();
        let found = found.trim();
        if found.is_empty() {
            Err(ClusterError::NoPassword { file })
        } else {
            Ok(Password(found.to_owned()))
        }
    } else {
        let password = super::secret();
        write_private(&file, &password)?;
        Ok(Password(password))
    }
}

/// Writes a file that only its owner may read.
fn write_private(path: &Path, content: &str) -> Result<(), ClusterError> {
    super::write_private(path, content).map_err(|error| ClusterError::folder(path, error))
}

/// The number in `postmaster.pid`, which stays behind when a postmaster is killed.
fn former_postmaster(data: &Path) -> Option<u32> {
    fs::read_to_string(data.join("postmaster.pid"))
        .ok()?
        .lines()
        .next()?
        .trim()
        .parse()
        .ok()
}

/// Whether a process lives and has this data folder on its command line, as each postmaster of a [`Cluster`] has.
async fn works_on(process: u32, data: &Path) -> bool {
    let mut ps = Command::new("ps");
    ps.args(["-ww", "-o", "command=", "-p", &process.to_string()]);
    let command_line = match fs::read(format!("/proc/{process}/cmdline")) {
        Ok(command_line) => command_line,
        Err(_) => ps.output().await.map(|output| output.stdout).unwrap_or_default(),
    };
    let wanted = data.as_os_str().as_encoded_bytes();
    command_line.windows(wanted.len()).any(|window| window == wanted)
}

async fn signal(signal: &str, process: u32) -> Result<(), ClusterError> {
    let sent = Command::new("kill")
        .args([signal, &process.to_string()])
        .status()
        .await;
    sent.map(|_| ())
        .map_err(|error| ClusterError::program("kill", error))
}

/// The end of a log, and nothing from before a certain byte.
fn end_of(log: &Path, begins: u64) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(
            begins.max(length.saturating_sub(LOG_BYTES_SHOWN)),
        ))?;
        let mut end = Vec::new();
        file.take(LOG_BYTES_SHOWN).read_to_end(&mut end)?;
        Ok(end)
    };
    match read() {
        Ok(end) => String::from_utf8_lossy(&end).into_owned(),
        Err(error) => format!("({} cannot be read: {error})", log.display()),
    }
}

fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

fn percent_encoded(byte: u8) -> String {
    if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
        char::from(byte).to_string()
    } else {
        format!("%{byte:02X}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_free_once_its_owner_is_gone_although_a_process_being_started_has_the_descriptor() {
        let folder = tempfile::tempdir().unwrap();
        let owned = own(folder.path()).unwrap();
        let inherited = owned.0.try_clone().unwrap();
        assert!(matches!(own(folder.path()), Err(ClusterError::InUse { .. })));
        drop(owned);
        own(folder.path()).unwrap();
        drop(inherited);
    }

    #[test]
    fn names_are_safe_in_statements_and_in_urls() {
        assert_eq!(quoted(r#"a"b"#), r#""a""b""#);
        assert_eq!(
            "a b/ü".bytes().map(percent_encoded).collect::<String>(),
            "a%20b%2F%C3%BC"
        );
    }

    #[test]
    fn a_reserved_port_refuses_connections_and_is_given_to_nobody_else() {
        let mut reservation = Reservation::none();
        let port = reservation.reserve(Port::Any).unwrap();
        assert_eq!(reservation.reserve(Port::Any).unwrap(), port);
        let refused = std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }
}
