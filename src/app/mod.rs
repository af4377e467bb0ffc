//! Builds the parts of a gateway and joins them; no logic of its own.

mod drain;
mod vital;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use deadpool_postgres::Pool;
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::vital::Vital;
use crate::{
    auth::{AuthConfig, AuthConfigError, Verifier},
    edge::{
        AddressConfig, Addresses, AllowedOrigins, Ceiling, Edge, Entrance, HandshakeLimits, Handshakes,
        MemoryWatch, Renewal, TlsSettings, WebRoot, acceptor, acceptor::Tls, ceiling, tls,
    },
    feed::{Feed, FeedConfig, Retention},
    hub::{FeedStatus, Hub},
    metrics::Metrics,
    postgres::{Settings, pool},
    protocol::{phoenix::table::RealtimeTable, topic::TopicRule},
    quota::Quota,
    session::{RhythmConfig, Sessions},
    store::{
        conversations::Conversations,
        parking::parking,
        replay::{Replayer, Together},
    },
    tasks::Tasks,
};

/// How long a replay, or a request, waits for a free connection of the pool.
const POOL_WAIT: Duration = Duration::from_secs(5);

/// How long a replay may take, from the question to its last row.
const REPLAY_DEADLINE: Duration = Duration::from_secs(10);

/// How long the database may take to carry out a call of the HTTP API.
const CALL_DEADLINE: Duration = Duration::from_secs(10);

/// The settings of a gateway.
#[derive(Clone, Debug)]
pub struct AppConfig {
    /// The database, for replays and upkeep; may lead through a transaction pooler.
    pub pool_settings: Settings,
    /// The database, for the feed; direct, to the primary.
    pub feed_settings: Settings,
    /// How tokens are judged.
    pub auth: AuthConfig,
    /// Whose pages may connect.
    pub origins: AllowedOrigins,
    /// A page for people, if one is served beside the protocols.
    pub web_root: Option<WebRoot>,
    /// Routes beside the gateway's own; `herald serve` has none.
    pub further_routes: Router,
    /// TLS at the door; without it something else has to speak it for browsers of other machines.
    pub tls: Option<TlsSettings>,
    /// Which topics a person may join, and speak on.
    pub topics: TopicRule,
    /// Connections at once.
    pub connections_max: usize,
    /// Connections of one address at once, and who tells addresses.
    pub addresses: AddressConfig,
    /// How patient the gateway is with peers that have not said what they want.
    pub handshakes: HandshakeLimits,
    /// The memory beyond which no connection is taken in, in bytes; `None` for no limit.
    pub memory_limit: Option<u64>,
    /// The role taken on for the calling user; `None` keeps the pool's own.
    pub role: Option<String>,
    /// Requests a second of one user over HTTP.
    pub user_requests_per_second: u32,
    /// Sessions of one user at once.
    pub sessions_per_user: usize,
    /// The bound of each session's outbox.
    pub outbox_bytes: usize,
    /// The most events of one replay.
    pub replay_events: u32,
    /// Connections of the pool.
    pub pool_connections: usize,
    /// How long the log is kept.
    pub log_retention: Duration,
    /// How long a channel of a client that knows no cursor may be away without missing anything.
    pub rejoin_window: Duration,
    /// As whose changes Supabase's clients are told of.
    pub realtime_table: RealtimeTable,
    /// Heartbeats and limits on what a client sends.
    pub rhythm: RhythmConfig,
    /// How patient the feed is.
    pub feed: FeedConfig,
}

impl AppConfig {
    /// The settings that `herald serve` has when it is told no more than a database and how to judge tokens.
    pub fn with_defaults(database: Settings, auth: AuthConfig) -> Self {
        Self {
            pool_settings: database.clone(),
            feed_settings: database,
            auth,
            origins: AllowedOrigins::SameHost,
            web_root: None,
            further_routes: Router::new(),
            tls: None,
            topics: TopicRule::default(),
            connections_max: 100_000,
            addresses: AddressConfig::within(100_000),
            handshakes: HandshakeLimits::default(),
            memory_limit: None,
            role: Some("authenticated".to_owned()),
            user_requests_per_second: 500,
            sessions_per_user: 64,
            outbox_bytes: 1 << 20,
            replay_events: 1000,
            pool_connections: 8,
            log_retention: Duration::from_secs(24 * 3600),
            rejoin_window: Duration::from_secs(120),
            realtime_table: RealtimeTable::default(),
            rhythm: RhythmConfig::default(),
            feed: FeedConfig::default(),
        }
    }
}

impl AppConfig {
    fn entrance(
        &self,
        listener: TcpListener,
        tls: Option<Tls>,
        ceiling: Ceiling,
        metrics: &Arc<Metrics>,
    ) -> Entrance {
        Entrance {
            listener,
            tls,
            connections_max: self.connections_max,
            handshakes: Handshakes::new(self.handshakes, Arc::clone(metrics)),
            ceiling,
        }
    }

    /// Whose pages may connect, by TLS if the gateway speaks it.
    fn allowed_origins(&self) -> AllowedOrigins {
        let allowed = self.origins.clone();
        if self.tls.is_some() {
            allowed.by_tls()
        } else {
            allowed
        }
    }
}

/// Why a gateway could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Tokens cannot be judged.
    #[error(transparent)]
    Auth(#[from] AuthConfigError),
    /// The pool cannot be built.
    #[error("the connection pool cannot be built: {0}")]
    Pool(#[from] deadpool_postgres::BuildError),
    /// The listening socket does not know its own address.
    #[error("the listening socket cannot be used: {0}")]
    Socket(#[from] std::io::Error),
}

/// A running gateway.
#[derive(Debug)]
pub struct App {
    address: SocketAddr,
    hub: Arc<Hub>,
    feed: FeedStatus,
    metrics: Arc<Metrics>,
    tasks: Tasks,
    draining: CancellationToken,
    refused: watch::Receiver<Option<String>>,
}

impl App {
    /// Starts a gateway on a listening socket. It answers at once, and takes sessions once its feed has begun.
    ///
    /// # Errors
    /// [`StartError`]. A database that is away is no error: the feed goes on trying.
    ///
    /// # Cancel safety
    /// Not safe: parts may have been started.
    pub async fn start(config: AppConfig, listener: TcpListener) -> Result<Self, StartError> {
        let address = listener.local_addr()?;
        let metrics = Arc::new(Metrics::new());
        let counting = Arc::clone(&metrics);
        let tasks = Tasks::reporting(move |task| counting.count_panic(task));
        let pool = pool(&config.pool_settings, config.pool_connections, POOL_WAIT)?;
        let verifier = Arc::new(Verifier::start(config.auth.clone(), &tasks).await?);
        let hub = Arc::new(Hub::new(config.sessions_per_user, Arc::clone(&metrics)));
        let feed = FeedStatus::new(Arc::clone(&metrics));
        let draining = CancellationToken::new();
        let (parking, attendant) = parking(
            pool.clone(),
            Arc::clone(&hub),
            Arc::clone(&metrics),
            config.rejoin_window,
            Uuid::new_v4(),
        );
        let (replayer, together) = replayer(pool.clone(), &hub, &metrics, config.replay_events);
        let sessions = Arc::new(Sessions {
            hub: Arc::clone(&hub),
            parking,
            topic_rule: Arc::new(config.topics.clone()),
            replayer,
            verifier: Arc::clone(&verifier),
            metrics: Arc::clone(&metrics),
            rhythm: config.rhythm,
            outbox_bytes: config.outbox_bytes,
            draining: draining.clone(),
            stopping: tasks.stopping(),
        });
        let (tls, renewal) = config.tls.clone().map(|settings| tls(settings, &metrics)).unzip();
        let edge = Edge {
            sessions,
            verifier,
            feed: feed.clone(),
            pool: pool.clone(),
            metrics: Arc::clone(&metrics),
            tasks: tasks.clone(),
            draining: draining.clone(),
            conversations: Conversations::new(pool.clone(), config.role.as_deref(), CALL_DEADLINE),
            quota: Arc::new(Quota::new(config.user_requests_per_second)),
            origins: Arc::new(config.allowed_origins()),
            addresses: Addresses::new(&config.addresses, Arc::clone(&metrics)),
            probe: Arc::default(),
            web_root: config.web_root.clone(),
        };
        let (ceiling, memory_watch) = ceiling(config.memory_limit, &metrics);
        let entrance = config.entrance(listener, tls, ceiling, &metrics);
        let acceptor = acceptor(edge, config.further_routes.clone(), entrance);
        let (refuse, refused) = watch::channel(None);
        let app = Self {
            address,
            hub,
            feed,
            metrics,
            tasks,
            draining,
            refused,
        };
        app.start_vital("acceptor", &app.draining, &refuse, acceptor.run());
        app.start_renewal(renewal, &refuse);
        app.start_memory_watch(memory_watch);
        // It ends when nobody is left who could park anything, which is after the last session.
        app.start_vital("parking attendant", &app.draining, &refuse, attendant.run());
        app.start_vital("replays", &app.draining, &refuse, together.run());
        app.start_feed(&config, pool, &refuse);
        Ok(app)
    }

    fn start_renewal(&self, renewal: Option<Renewal>, refuse: &watch::Sender<Option<String>>) {
        if let Some(renewal) = renewal {
            let renewing = renewal.run(self.draining.clone());
            self.start_vital("certificate renewal", &self.draining, refuse, renewing);
        }
    }

    fn start_memory_watch(&self, watch: Option<MemoryWatch>) {
        if let Some(watch) = watch {
            let stopping = self.tasks.stopping();
            self.tasks.spawn_restarting("memory watch", move || {
                let (watch, stopping) = (watch.clone(), stopping.clone());
                async move {
                    stopping.run_until_cancelled(watch.run()).await;
                }
            });
        }
    }

    fn start_feed(&self, config: &AppConfig, pool: Pool, refuse: &watch::Sender<Option<String>>) {
        let metrics = || Arc::clone(&self.metrics);
        let settings = config.feed_settings.clone();
        let feed = Feed::new(
            settings,
            config.feed,
            Arc::clone(&self.hub),
            self.feed.clone(),
            metrics(),
            config.realtime_table.clone(),
        );
        let stopping = self.tasks.stopping();
        let watching = stopping.clone();
        let (watchdog, watched) = (feed.watchdog(), self.vital("watchdog", &stopping, refuse));
        self.tasks.spawn("watchdog", async move {
            if let Some(reason) = watching.run_until_cancelled(watchdog.run()).await {
                tracing::error!(%reason, "the gateway cannot go on");
                watched.refuse(reason);
            }
        });
        let vital = self.vital("feed", &stopping, refuse);
        let running = stopping.clone();
        self.tasks.spawn("feed", async move {
            if let Err(reason) = feed.run(running).await {
                vital.refuse(reason);
            }
        });
        let retention = Retention::new(pool, config.log_retention, metrics());
        // Whoever writes and reads is not concerned while it is away.
        self.tasks
            .spawn_restarting("retention", move || retention.clone().run(stopping.clone()));
    }

    fn start_vital(
        &self,
        name: &'static str,
        may_end: &CancellationToken,
        refuse: &watch::Sender<Option<String>>,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let vital = self.vital(name, may_end, refuse);
        self.tasks.spawn(name, async move {
            let _vital = vital;
            task.await;
        });
    }

    fn vital(
        &self,
        name: &'static str,
        may_end: &CancellationToken,
        refuse: &watch::Sender<Option<String>>,
    ) -> Vital {
        Vital {
            name,
            may_end: may_end.clone(),
            feed: self.feed.clone(),
            refuse: refuse.clone(),
        }
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its numbers.
    pub const fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Who is connected, and how far the feed is.
    pub const fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// What the feed is doing.
    pub const fn feed(&self) -> &FeedStatus {
        &self.feed
    }

    /// Waits for a reason for which the gateway cannot go on: its database refuses it until a person changes something, and
    /// the feed has never begun; or a vital task ended by itself. Does not resolve otherwise.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn refused(&self) -> String {
        let mut refused = self.refused.clone();
        loop {
            if let Some(reason) = refused.borrow_and_update().clone() {
                return reason;
            }
            if refused.changed().await.is_err() {
                // The feed ended without a reason, because the process stops.
                return std::future::pending().await;
            }
        }
    }
}

fn replayer(pool: Pool, hub: &Hub, metrics: &Arc<Metrics>, events_max: u32) -> (Replayer, Together) {
    let history = Arc::clone(&hub.history);
    Replayer::new(pool, history, Arc::clone(metrics), events_max, REPLAY_DEADLINE)
}
