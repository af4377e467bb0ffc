//! Connections to Postgres: what a connection string means, how a connection is opened, and what its failure means.
//!
//! Invariants:
//! - A password never leaves [`Settings`]: no error, `Debug`, `Display` or [`Failure::reason`] holds it.
//! - `sslmode` promises what libpq's documentation promises for it; where a mode verifies, nothing falls back to less.
//! - Opening a connection ends within the deadline its caller gave.
//!
//! It deliberately does not retry (that is the feed's decision, see [`Failure`]), and it does not spawn the connection
//! it opens: whoever listens for notifications has to poll it.

mod failure;
mod parameters;
mod settings;
mod tls;

use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Runtime};
use tokio::time::error::Elapsed;
use tokio_postgres::{Client, Config, Socket, tls::MakeTlsConnect};
use tokio_postgres_rustls::MakeRustlsConnect;

pub use self::{
    failure::{Failure, is_of_data},
    settings::{Settings, SettingsError, SslMode},
};

/// A connection that nobody drives yet. Poll it (`poll_message` tells notifications), or nothing happens on its client.
pub type Connection =
    tokio_postgres::Connection<Socket, <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream>;

/// How long the pool tries to open one connection. A server nearby answers within milliseconds; five seconds covers a
/// failover of its address, and is less than the patience of whoever waits for an HTTP answer.
const POOL_CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// How the pool's connections call themselves in `pg_stat_activity`, unless the connection string names them.
const POOL_APPLICATION_NAME: &str = "herald pool";

/// Why a connection could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The server did not finish its welcome in time.
    #[error(
        "no connection to {address} within {within:?}; check the address, the network and whether the server is up"
    )]
    Deadline {
        /// Where it was tried, as [`Settings::describe`] tells it.
        address: String,
        /// The deadline that passed.
        within: Duration,
    },
    /// The connection was refused, broke, or the server turned it down.
    #[error("the connection to {address} failed: {}", failure::chain(source))]
    Refused {
        /// Where it was tried, as [`Settings::describe`] tells it.
        address: String,
        /// What the driver tells.
        source: tokio_postgres::Error,
    },
}

/// Opens one connection and hands it over undriven, so that the caller can poll it for notifications itself.
///
/// `application_name` is what `pg_stat_activity` shows, unless the connection string brings its own. With several
/// hosts each gets its equal share of the deadline for its socket, so that one that is off the network does not use up
/// the time of the next; one that accepts and then says nothing does.
///
/// # Errors
/// [`ConnectError`]; ask [`Failure::of_connect`] whether trying again can help.
///
/// # Cancel safety
/// Safe: dropping the future closes the socket, and the server ends the half-opened session.
pub async fn connect(
    settings: &Settings,
    application_name: &str,
    deadline: Duration,
) -> Result<(Client, Connection), ConnectError> {
    let config = named(settings, application_name, deadline);
    // The future holds a whole handshake; boxed, it does not weigh on every task that connects.
    let connecting = Box::pin(config.connect(settings.tls()));
    match tokio::time::timeout(deadline, connecting).await {
        Ok(Ok(opened)) => Ok(opened),
        Ok(Err(source)) => Err(ConnectError::Refused {
            address: settings.describe(),
            source,
        }),
        Err(_elapsed) => Err(ConnectError::Deadline {
            address: settings.describe(),
            within: deadline,
        }),
    }
}

/// A pool of at most `size` connections. It opens none before the first is asked for, so the server may be away.
///
/// `wait` bounds how long a caller waits for a free connection; opening one is bounded by five seconds.
///
/// The pool may lead through PgBouncer in transaction mode, so nothing that uses it may rely on a session: no `LISTEN`,
/// no `SET` outside a transaction (`SET LOCAL` is fine), no advisory session lock, no temporary table, and no prepared
/// statement that outlives its transaction. Use `query_typed` or `simple_query`, which need no named statement;
/// `prepare`, `query` and `execute` need PgBouncer 1.21 or newer with `max_prepared_statements` above zero. For the same
/// reason a connection is recycled without any statement being sent: a broken one shows itself at its next use.
///
/// # Errors
/// None in practice: the runtime that the deadlines need is always given.
pub fn pool(settings: &Settings, size: usize, wait: Duration) -> Result<Pool, deadpool_postgres::BuildError> {
    let manager = Manager::from_config(
        named(settings, POOL_APPLICATION_NAME, POOL_CONNECT_DEADLINE),
        settings.tls(),
        ManagerConfig {
            recycling_method: RecyclingMethod::Fast,
        },
    );
    Pool::builder(manager)
        .max_size(size)
        .runtime(Runtime::Tokio1)
        .wait_timeout(Some(wait))
        .create_timeout(Some(POOL_CONNECT_DEADLINE))
        .recycle_timeout(Some(wait))
        .build()
}

/// Why a question to a connection of the pool has no answer.
#[derive(Debug, thiserror::Error)]
pub enum PooledError {
    /// No connection, or none in time.
    #[error("no connection: {0}")]
    Pool(#[from] PoolError),
    /// The server refused, or the connection broke.
    #[error("{}", failure::chain(.0))]
    Query(#[from] tokio_postgres::Error),
    /// No answer in time.
    #[error("no answer within {0:?}")]
    Deadline(Duration),
}

/// A connection of the pool, lent for one question.
///
/// Unless the question was answered, also if it was given up, the connection leaves the pool: behind it may be a network
/// that has gone silent, and whoever got it next would wait in vain, too.
#[derive(Debug)]
pub struct Lent(Option<Object>);

impl Lent {
    /// Waits for a connection, within the pool's own bounds.
    ///
    /// # Errors
    /// [`PooledError::Pool`].
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn from(pool: &Pool) -> Result<Self, PooledError> {
        Ok(Self(Some(pool.get().await?)))
    }

    /// The connection itself, to ask the question on.
    ///
    /// # Errors
    /// None before [`Self::settle`], which takes the loan away.
    pub fn client(&self) -> Result<&Client, PooledError> {
        let connection = self.0.as_ref().ok_or(PooledError::Pool(PoolError::Closed))?;
        Ok(connection)
    }

    /// Takes the answer, which was waited for until the deadline, and gives the connection back if there is one.
    ///
    /// # Errors
    /// [`PooledError::Query`], after which the connection is still good, or [`PooledError::Deadline`].
    pub fn settle<T>(
        mut self,
        answered: Result<Result<T, tokio_postgres::Error>, Elapsed>,
        deadline: Duration,
    ) -> Result<T, PooledError> {
        let answer = answered.map_err(|_| PooledError::Deadline(deadline))?;
        self.0 = None;
        Ok(answer?)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(unanswered) = self.0.take() {
            drop(Object::take(unanswered));
        }
    }
}

/// The driver's configuration under a name, with the deadline shared out among the hosts.
fn named(settings: &Settings, application_name: &str, deadline: Duration) -> Config {
    let mut config = settings.config().clone();
    if config.get_application_name().is_none() {
        config.application_name(application_name);
    }
    let hosts = u32::try_from(config.get_hosts().len().max(1)).unwrap_or(u32::MAX);
    let share = deadline / hosts;
    let wanted = config.get_connect_timeout().copied().unwrap_or(share);
    config.connect_timeout(wanted.min(share));
    config
}
