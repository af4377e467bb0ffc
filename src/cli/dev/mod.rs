//! `herald dev`: a private Postgres, the demo application, people who talk, and the gateway, in one.
//!
//! The parts begin in the order Postgres, tables and people, chatter, gateway, and end in the order chatter, gateway, Postgres, so
//! that nothing is written that nobody delivers. However this process ends, the others end with it: each holds the other
//! end of a pipe. The demo keeps no data of its own; it is all in the folder, and a second start finds it there.

mod sign_in;

use std::{
    convert::Infallible,
    fmt,
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use tokio::{net::TcpListener, process::Command};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use super::{EXIT_USAGE, fail, signals::Signals};
use crate::{
    app::{App, AppConfig, StartError},
    auth::{AuthConfig, Secret, SecretTooShort},
    config::{
        dev::{ChatterConfig, ChatterFlags, DevConfig, DevFlags},
        token::SECRET_VARIABLE,
    },
    dev::{
        self,
        chatter::{self, Chatter},
        cluster::{Cluster, ClusterError, SUPERUSER, Stop},
        demo,
        people::PEOPLE,
    },
    edge::{AllowedOrigins, WebRoot, acceptor},
    migrate::{self, MigrateError},
    postgres::{Settings, SettingsError},
    telemetry,
};

/// The port that clients take by themselves; for any other the printed commands name it.
const USUAL_PORT: u16 = 4000;

/// How long the gateway may take to drain: the demo has few sessions, and whoever pressed Ctrl-C waits.
const GRACE: Duration = Duration::from_secs(5);

/// How long the migration may wait for locks; nobody else uses the private Postgres.
const MIGRATE_PATIENCE: Duration = Duration::from_secs(30);

/// Why the demo does not run.
#[derive(Debug, thiserror::Error)]
enum DevError {
    #[error("{address} is in use by another process, perhaps another `herald dev`: end that one, or choose another port, \
             for instance --bind {}:{}", address.ip(), address.port().checked_add(1).unwrap_or(USUAL_PORT))]
    PortTaken { address: SocketAddr },
    #[error("cannot listen on {address}: {error}; choose an address of this machine with --bind")]
    Bind { address: SocketAddr, error: io::Error },
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error("the demo could not be loaded: {}; to begin anew, remove the folder", dev::in_full(.0))]
    Demo(#[from] tokio_postgres::Error),
    #[error("{}: {error}", path.display())]
    File { path: PathBuf, error: io::Error },
    #[error("the chatter could not be run: {0}")]
    Chatter(io::Error),
    #[error("signals cannot be received: {0}")]
    Signals(io::Error),
    #[error("the demo's database could not be prepared: {0}")]
    Migrate(#[from] MigrateError),
    #[error("the gateway could not be started: {0}")]
    Start(#[from] StartError),
    #[error("the gateway cannot go on: {0}")]
    Refused(String),
    #[error("the folder's secret cannot be used: {0}")]
    Secret(#[from] SecretTooShort),
    #[error("the private Postgres has no usable address: {0}")]
    Address(#[from] SettingsError),
    #[error("ended at once by a second signal")]
    EndedAtOnce,
}

/// Runs the demo until a signal ends it.
pub(super) fn run(flags: DevFlags) -> ExitCode {
    let config = match flags.check() {
        Ok(config) => config,
        Err(mistakes) => return fail("dev", &mistakes, EXIT_USAGE),
    };
    block_on(until_signalled(config))
}

/// Runs the chatter until its standard input ends.
pub(super) fn run_chatter(flags: ChatterFlags) -> ExitCode {
    let ChatterConfig {
        database_url,
        gateway,
    } = match flags.check() {
        Ok(config) => config,
        Err(mistakes) => return fail("dev-chatter", &mistakes, EXIT_USAGE),
    };
    block_on(async {
        chatter::run(&database_url, gateway, |note| say(note))
            .await
            .map_err(DevError::Chatter)
    })
}

fn block_on(work: impl Future<Output = Result<(), DevError>>) -> ExitCode {
    let result = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map(|runtime| {
            let result = runtime.block_on(work);
            // Nothing is left that deserves waiting for: what had to end in order has ended, or a second signal cut it short.
            runtime.shutdown_background();
            result
        });
    match result {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            say(&error);
            ExitCode::FAILURE
        }
        Err(error) => {
            say(&format_args!("the runtime cannot be started: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Notes something on standard error. Where nobody reads it any more, there is nobody to tell.
fn say(note: &dyn fmt::Display) {
    let _told = writeln!(io::stderr(), "herald: {note}");
}

/// The first signal stops everything in order, the second at once.
async fn until_signalled(config: DevConfig) -> Result<(), DevError> {
    let mut signals = Signals::receive().map_err(DevError::Signals)?;
    let stopping = CancellationToken::new();
    let mut demo = Box::pin(run_demo(config, stopping.clone()));
    tokio::select! {
        ended = &mut demo => return ended,
        () = signals.next() => {}
    }
    say(&"stopping; the same signal again ends it at once");
    stopping.cancel();
    tokio::select! {
        ended = demo => ended,
        () = signals.next() => Err(DevError::EndedAtOnce),
    }
}

async fn run_demo(config: DevConfig, stopping: CancellationToken) -> Result<(), DevError> {
    let DevConfig {
        folder,
        bind,
        web_root,
        log,
    } = config;
    telemetry::start(log);
    let (demo, listener) = tokio::select! {
        prepared = Demo::prepare(&folder, bind, web_root) => prepared?,
        () = stopping.cancelled() => return Ok(()),
    };
    let gateway_stopping = CancellationToken::new();
    let mut gateway = Box::pin(serve(demo.gateway(listener, gateway_stopping.clone())?));
    let mut chatter = demo.start_chatter()?;
    // Where standard output is closed nobody wants the guide.
    let _shown = io::stdout().write_all(demo.guide(&chatter).as_bytes());
    let gateway_ended = tokio::select! {
        ended = &mut gateway => Some(ended),
        never = watch(&mut chatter) => match never {},
        () = stopping.cancelled() => None,
    };
    chatter.end().await.map_err(DevError::Chatter)?;
    gateway_stopping.cancel();
    let served = match gateway_ended {
        Some(ended) => ended,
        None => gateway.await,
    };
    demo.cluster.stop(Stop::Fast).await?;
    served
}

/// What the gateway needs to run beside the demo.
struct Gateway {
    listener: TcpListener,
    config: AppConfig,
    /// Cancelled once the chatter has ended: the gateway drains, and [`serve`] answers when it has.
    stopping: CancellationToken,
}

/// Runs the gateway until it is told to stop, and until it has drained.
async fn serve(gateway: Gateway) -> Result<(), DevError> {
    let app = App::start(gateway.config, gateway.listener).await?;
    tokio::select! {
        reason = app.refused() => return Err(DevError::Refused(reason)),
        () = gateway.stopping.cancelled() => {}
    }
    if let Err(left) = app.drain(GRACE).await {
        say(&format_args!(
            "the gateway stopped with tasks that had not ended: {left:?}"
        ));
    }
    Ok(())
}

/// Brings the demo's tables and people, and what Herald needs beside them, into the database.
async fn prepare_database(client: &mut Client) -> Result<u64, DevError> {
    let messages = demo::load(client).await?;
    migrate::install(client, MIGRATE_PATIENCE).await?;
    Ok(messages)
}

/// Says when the chatter has ended by itself. The rest of the demo goes on without it.
async fn watch(chatter: &mut Chatter) -> Infallible {
    match chatter.ended().await {
        Ok(status) => say(&format_args!(
            "the chatter has ended by itself ({status}); start again to hear it"
        )),
        Err(error) => say(&format_args!("the chatter is out of sight: {error}")),
    }
    std::future::pending().await
}

/// What the parts of the demo share.
struct Demo {
    cluster: Cluster,
    /// Where the gateway listens.
    address: SocketAddr,
    /// A page for people, if one is served.
    web_root: Option<WebRoot>,
    jwt_secret_file: PathBuf,
    password_file: PathBuf,
    /// This very program.
    program: PathBuf,
}

impl Demo {
    async fn prepare(
        folder: &Path,
        bind: SocketAddr,
        web_root: Option<WebRoot>,
    ) -> Result<(Self, TcpListener), DevError> {
        let (listener, address) = listen(bind)?;
        say(&format_args!(
            "starting a private Postgres in {}",
            folder.display()
        ));
        let cluster = Cluster::builder(folder).start().await?;
        if let Some(elsewhere) = cluster.kept_elsewhere() {
            say(&format_args!(
                "Postgres does not run as root, and the user who runs it cannot enter {}: its data is in {}",
                folder.display(),
                elsewhere.display()
            ));
        }
        cluster.ensure_database(demo::DATABASE).await?;
        let messages = dev::with_client(&cluster.url(demo::DATABASE), prepare_database).await??;
        if messages > 0 {
            say(&format_args!(
                "loaded the demo: {} people, {messages} messages",
                PEOPLE.len()
            ));
        }
        let folder = folder.canonicalize().map_err(|error| file_error(folder, error))?;
        let demo = Self {
            cluster,
            address,
            web_root,
            jwt_secret_file: folder.join("jwt-secret"),
            password_file: folder.join("password"),
            program: std::env::current_exe().map_err(|error| file_error(Path::new("herald"), error))?,
        };
        Ok((demo, listener))
    }

    fn gateway(&self, listener: TcpListener, stopping: CancellationToken) -> Result<Gateway, DevError> {
        let secret = Secret::new(self.jwt_secret()?)?;
        let auth = AuthConfig {
            secrets: Some(secret.clone().into()),
            ..AuthConfig::default()
        };
        let database = Settings::parse(&self.cluster.url(demo::DATABASE))?;
        let config = AppConfig {
            // A page in the making is served from a port of its own.
            origins: AllowedOrigins::Any,
            web_root: self.web_root.clone(),
            further_routes: sign_in::routes(secret, self.address),
            ..AppConfig::with_defaults(database, auth)
        };
        Ok(Gateway {
            listener,
            config,
            stopping,
        })
    }

    fn jwt_secret(&self) -> Result<String, DevError> {
        let file = &self.jwt_secret_file;
        dev::kept_secret(file).map_err(|error| file_error(file, error))
    }

    /// Where the gateway is reached from this machine: one that listens on every address, on loopback.
    fn url(&self) -> String {
        let mut address = self.address;
        match address.ip() {
            IpAddr::V4(every) if every.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(every) if every.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
            IpAddr::V4(_) | IpAddr::V6(_) => {}
        }
        format!("http://{address}")
    }

    fn start_chatter(&self) -> Result<Chatter, DevError> {
        let mut command = Command::new(&self.program);
        command
            .arg("dev-chatter")
            .env("DATABASE_URL", self.cluster.url(demo::DATABASE))
            .env("HERALD_URL", self.url())
            .env(SECRET_VARIABLE, self.jwt_secret()?);
        Chatter::start(command).map_err(DevError::Chatter)
    }

    /// What runs, and what to try. Every command works as it stands, from any folder.
    fn guide(&self, chatter: &Chatter) -> String {
        let [alice, bob, ..] = PEOPLE;
        let log = self.cluster.log_file();
        let chatter = chatter.pid().unwrap_or_default();
        let (url, database, port) = (self.url(), demo::DATABASE, self.cluster.port());
        let socket = url.replacen("http", "ws", 1);
        let (tail, psql) = (self.tail(alice.id()), self.psql(alice.id(), bob.id()));
        let (send, token) = (self.send(alice.id(), bob.id()), self.token(alice.id()));
        let last = PEOPLE[PEOPLE.len() - 1];
        let page = self.page();
        format!(
            "
Running
  gateway   {url}
  Postgres  127.0.0.1:{port}, database {database}, log in {}
  chatter   process {chatter}: somebody writes to somebody every one to two seconds,
            half of it by SQL and half by the HTTP API
{page}
Try in another terminal

  See what {} receives and sends, as it happens:
    {tail}

  Write to her as {}, with nothing but SQL, and by the HTTP API:
    {psql}
    {send}

  Load what her frontend shows, and a conversation of it:
    {token}
    curl -H \"Authorization: Bearer $TOKEN\" \"{url}/v1/conversations?limit=5\"
    curl -H \"Authorization: Bearer $TOKEN\" \"{url}/v1/conversations/{}__general/messages?limit=5\"

  Connect a page of hers, in any of three ways ($TOKEN as above):
    createClient(\"{url}\", \"sb_publishable_demo\", {{ accessToken: async () => TOKEN }})   supabase-js, as it is
    new RealtimeClient(\"{socket}/realtime/v1\", {{ params: {{ apikey: TOKEN }} }})         realtime-js alone
    new WebSocket(\"{socket}/v1/socket\", [\"herald.v1\", `bearer.${{TOKEN}}`])             the native protocol

  Look at the gateway:
    curl {url}/healthz
    curl {url}/readyz
    curl {url}/metrics

  The others are called {} ({}) and so on up to {} ({}).

Ctrl-C stops everything; the next start finds the data again.
",
            shell_word(&log),
            alice.username,
            bob.username,
            bob.id(),
            PEOPLE[2].username,
            PEOPLE[2].id(),
            last.username,
            last.id(),
        )
    }

    /// Where two people are found in a browser, if the gateway serves a page.
    fn page(&self) -> String {
        if self.web_root.is_none() {
            return String::new();
        }
        let [alice, bob, ..] = PEOPLE;
        format!(
            "
Try in a browser
  open {}/?as={} and ?as={} side by side, and write from one to the other
",
            self.url(),
            alice.username,
            bob.username
        )
    }

    fn tail(&self, user: uuid::Uuid) -> String {
        format!("{} tail --as {user}{}", self.herald(), self.elsewhere())
    }

    fn send(&self, receiver: uuid::Uuid, sender: uuid::Uuid) -> String {
        let (herald, elsewhere) = (self.herald(), self.elsewhere());
        format!("{herald} send --as {sender} --to {receiver}{elsewhere} \"Hello from herald send\"")
    }

    fn token(&self, user: uuid::Uuid) -> String {
        format!("TOKEN=\"$({} token --user {user})\"", self.herald())
    }

    /// How a command begins that signs its own tokens.
    fn herald(&self) -> String {
        let (secret, program) = (shell_word(&self.jwt_secret_file), shell_word(&self.program));
        format!("HERALD_JWT_SECRET=\"$(cat {secret})\" {program}")
    }

    /// What a client has to be told if the gateway is not where clients look by themselves.
    fn elsewhere(&self) -> String {
        if self.address.port() == USUAL_PORT {
            String::new()
        } else {
            format!(" --url {}", self.url())
        }
    }

    fn psql(&self, receiver: uuid::Uuid, sender: uuid::Uuid) -> String {
        let beside_postgres = self.cluster.program("psql");
        let psql = if beside_postgres.is_file() {
            shell_word(&beside_postgres)
        } else {
            "psql".to_owned()
        };
        let (password, port, database) = (
            shell_word(&self.password_file),
            self.cluster.port(),
            demo::DATABASE,
        );
        format!(
            "PGPASSWORD=\"$(cat {password})\" {psql} -h 127.0.0.1 -p {port} -U {SUPERUSER} {database} \
      -c \"insert into messages (sender_id, receiver_id, content) values ('{sender}', '{receiver}', 'Hello from psql')\""
        )
    }
}

/// Listens before anything else is started, so that a port that is taken is found at once.
fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), DevError> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::AddrInUse => DevError::PortTaken { address },
        _ => DevError::Bind { address, error },
    };
    let listener = acceptor::bind(address).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

fn file_error(path: &Path, error: io::Error) -> DevError {
    DevError::File {
        path: path.to_path_buf(),
        error,
    }
}

/// A path as one word of a shell's command line.
fn shell_word(path: &Path) -> String {
    let text = path.display().to_string();
    if text
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"/._-+@".contains(&byte))
    {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_one_word_for_a_shell() {
        assert_eq!(
            shell_word(Path::new("/srv/app/.herald/jwt-secret")),
            "/srv/app/.herald/jwt-secret"
        );
        assert_eq!(shell_word(Path::new("/my work/it's")), r"'/my work/it'\''s'");
    }
}
