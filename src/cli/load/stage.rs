//! What a load is run on, if nothing else is given: a private Postgres with people, this program's own gateway as a process of its own, and peers.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, ChildStderr, Command},
    time::timeout,
};
use uuid::Uuid;

use crate::{
    auth::{Secret, SecretTooShort},
    client::GatewayUrl,
    config::token::SECRET_VARIABLE,
    dev::{
        self,
        cluster::{Cluster, ClusterBuilder, ClusterError, Stop},
        demo,
    },
    load::target::{Target, Trust},
    migrate::{self, MigrateError},
    postgres::{self, ConnectError, Settings, SettingsError},
    tasks::Tasks,
    types::UserId,
};

/// How long a process may take until it listens, and a question to its database.
const START_WITHIN: Duration = Duration::from_secs(30);

/// How long a process may take to end by itself.
const END_WITHIN: Duration = Duration::from_secs(15);

/// The sessions of one person that a gateway lets in by itself.
const SESSIONS_PER_USER: u32 = 64;

/// How much of what a process says is kept for an error, in lines.
const LINES_KEPT: usize = 20;

/// Why there is nothing to put under load.
#[derive(Debug, thiserror::Error)]
pub(super) enum StageError {
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error("the database could not be prepared: {}", dev::in_full(.0))]
    Database(#[from] tokio_postgres::Error),
    #[error("the database could not be prepared: {0}")]
    Migrate(#[from] MigrateError),
    #[error("the database cannot be reached: {0}")]
    Connect(#[from] ConnectError),
    #[error(
        "the database has {found} people in `profiles`, and {wanted} are to write; give fewer by --users"
    )]
    People { found: usize, wanted: u32 },
    #[error("{}: {error}", program.display())]
    Program { program: PathBuf, error: io::Error },
    #[error("{} ended before it listened ({status}):\n{said}", program.display())]
    Ended {
        program: PathBuf,
        status: ExitStatus,
        said: String,
    },
    #[error("{} did not listen within {} s", program.display(), START_WITHIN.as_secs())]
    Silent { program: PathBuf },
    #[error("{0} is no address of a gateway")]
    Address(String),
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Secret(#[from] SecretTooShort),
}

/// A private Postgres, from which everything else begins.
pub(super) struct OwnStage {
    cluster: Cluster,
    people: u32,
    secret: String,
}

/// A process under load.
pub(super) struct Running {
    child: Child,
    target: Target,
}

impl OwnStage {
    /// Starts a Postgres that writes to disk at every commit, as in production.
    pub(super) async fn start(people: u32) -> Result<Self, StageError> {
        let cluster = ClusterBuilder::temporary().setting("fsync", "on").start().await?;
        Ok(Self {
            cluster,
            people,
            secret: dev::secret(),
        })
    }

    /// A gateway of this very program with its default settings, or those of the environment; so many sessions of each person are let in.
    pub(super) async fn gateway(&self, sessions: u32) -> Result<Running, StageError> {
        let program = std::env::current_exe().map_err(|error| StageError::Program {
            program: "herald".into(),
            error,
        })?;
        let url = self.database("herald", true).await?;
        let mut command = Command::new(&program);
        command
            .arg("serve")
            .env("HERALD_BIND", "127.0.0.1:0")
            .env(
                "HERALD_SESSIONS_PER_USER",
                sessions.max(SESSIONS_PER_USER).to_string(),
            )
            .env("HERALD_LOG_FORMAT", "json");
        self.begin("herald", &program, command, &url).await
    }

    /// A program of Node's.
    pub(super) async fn peer(&self, file: &Path) -> Result<Running, StageError> {
        let name = file
            .file_stem()
            .map_or_else(|| "peer".into(), |stem| stem.to_string_lossy());
        let name = format!("node {name}");
        let url = self.database(&name, false).await?;
        let mut command = Command::new("node");
        command.arg(file);
        self.begin(&name, Path::new("node"), command, &url).await
    }

    /// Ends Postgres, and removes what it kept.
    pub(super) async fn stop(self) -> Result<(), StageError> {
        Ok(self.cluster.stop(Stop::Fast).await?)
    }

    /// A database with the application's tables and people, and with what Herald needs if it is for a gateway.
    async fn database(&self, name: &str, is_for_herald: bool) -> Result<String, StageError> {
        self.cluster.create_database(name).await?;
        let url = self.cluster.url(name);
        let count = self.people;
        dev::with_client(&url, async |client| {
            client.batch_execute(demo::SCHEMA).await?;
            let people = "insert into profiles (username, avatar_url) \
                          select 'person ' || n, 'https://images.example/' || n || '.png' from generate_series(1, $1::bigint) n";
            client.execute(people, &[&i64::from(count)]).await?;
            client.batch_execute("analyze profiles").await?;
            if is_for_herald {
                migrate::install(client, START_WITHIN).await?;
            }
            Ok(())
        })
        .await?
        .map(|()| url)
    }

    async fn begin(
        &self,
        name: &str,
        program: &Path,
        mut command: Command,
        database_url: &str,
    ) -> Result<Running, StageError> {
        let failed = |error| StageError::Program {
            program: program.to_path_buf(),
            error,
        };
        let database = Settings::parse(database_url)?;
        let people = people_of(&database, self.people).await?;
        let mut child = command
            .env("DATABASE_URL", database_url)
            .env(SECRET_VARIABLE, &self.secret)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // A signal from the terminal is for the load, which ends it in its order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let address = listens(&mut child, program).await?;
        let url = format!("http://{address}");
        let target = Target {
            name: name.to_owned(),
            url: url.parse::<GatewayUrl>().map_err(|_| StageError::Address(url))?,
            database,
            process: child.id(),
            people,
            trust: Trust {
                secret: Secret::new(self.secret.clone())?,
                audience: None,
                issuer: None,
            },
        };
        Ok(Running { child, target })
    }
}

impl Running {
    pub(super) fn target(&self) -> Target {
        self.target.clone()
    }

    /// Ends the process, and waits until it has.
    pub(super) async fn end(&mut self) -> Result<(), StageError> {
        let failed = |error| StageError::Program {
            program: self.target.name.clone().into(),
            error,
        };
        let process = self.child.id().and_then(|id| i32::try_from(id).ok());
        if let Some(process) = process.and_then(rustix::process::Pid::from_raw) {
            // If it has ended meanwhile, there is nothing to wait for.
            let _told = rustix::process::kill_process(process, rustix::process::Signal::TERM);
        }
        match timeout(END_WITHIN, self.child.wait()).await {
            Ok(ended) => ended.map(|_| ()).map_err(failed),
            Err(_too_slow) => self.child.kill().await.map_err(failed),
        }
    }
}

/// So many people of the application, always the same ones.
pub(super) async fn people_of(database: &Settings, count: u32) -> Result<Vec<UserId>, StageError> {
    let (client, connection) = postgres::connect(database, "herald load", START_WITHIN).await?;
    let asking = async move {
        let question = "select id from profiles order by id limit $1";
        client.query(question, &[&i64::from(count)]).await
    };
    let (rows, _closed) = tokio::join!(asking, connection);
    let people: Vec<UserId> = rows?.iter().map(|row| UserId(row.get::<_, Uuid>(0))).collect();
    if people.len() < count as usize {
        return Err(StageError::People {
            found: people.len(),
            wanted: count,
        });
    }
    Ok(people)
}

/// Waits until a process says where it listens, as JSON on standard error. What it says later is read and dropped, so that it never waits for a
/// reader.
async fn listens(child: &mut Child, program: &Path) -> Result<SocketAddr, StageError> {
    let silent = || StageError::Silent {
        program: program.to_path_buf(),
    };
    let mut lines = BufReader::new(child.stderr.take().ok_or_else(silent)?).lines();
    let mut said = Vec::new();
    let listening = async {
        while let Ok(Some(line)) = lines.next_line().await {
            let entry: Value = serde_json::from_str(&line).unwrap_or_default();
            if let Some(address) = entry["address"].as_str().and_then(|text| text.parse().ok()) {
                return Some(address);
            }
            if said.len() < LINES_KEPT {
                said.push(line);
            }
        }
        None
    };
    match timeout(START_WITHIN, listening).await {
        Ok(Some(address)) => {
            Tasks::new().spawn("log", drop_all(lines));
            Ok(address)
        }
        Ok(None) => {
            let status = child.wait().await.map_err(|error| StageError::Program {
                program: program.to_path_buf(),
                error,
            })?;
            Err(StageError::Ended {
                program: program.to_path_buf(),
                status,
                said: said.join("\n"),
            })
        }
        Err(_too_slow) => Err(silent()),
    }
}

async fn drop_all(mut lines: tokio::io::Lines<BufReader<ChildStderr>>) {
    while let Ok(Some(_)) = lines.next_line().await {}
}
