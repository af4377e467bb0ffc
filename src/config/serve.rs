//! Settings of `herald serve`.

use std::{fmt, net::SocketAddr, time::Duration};

use axum::Router;
use clap::Args;
use tracing_subscriber::EnvFilter;

use super::{
    Mistakes,
    database::DatabaseFlags,
    limits::LimitFlags,
    quantity,
    setting::{check_count, check_duration, if_set},
    tls::TlsFlags,
    token::{JwtFlags, SECRET_VARIABLE},
    web::WebFlags,
};
use crate::{
    app::AppConfig,
    auth::{AuthConfig, JwksSource, JwksTiming},
    edge::AllowedOrigins,
    feed::FeedConfig,
    protocol::{
        phoenix::table::RealtimeTable,
        topic::{TOPIC_RULE_DEFAULT, TopicRule},
    },
    session::RhythmConfig,
    telemetry::{LogConfig, LogFormat},
};

/// `herald serve` as typed.
#[derive(Args)]
pub struct ServeFlags {
    #[command(flatten)]
    database: DatabaseFlags,
    /// Where to listen.
    #[arg(
        long,
        env = "HERALD_BIND",
        default_value = "127.0.0.1:4000",
        value_name = "ADDRESS:PORT"
    )]
    bind: String,
    #[command(flatten)]
    jwt: JwtFlags,
    /// Public keys for RS256, ES256 and EdDSA tokens: a file or URL of a JSON Web Key Set.
    #[arg(long, env = "HERALD_JWKS", value_name = "FILE OR URL")]
    jwks: Option<String>,
    /// The role taken on in the database for the user who calls the HTTP API; empty for none.
    #[arg(
        long,
        env = "HERALD_DB_ROLE",
        default_value = "authenticated",
        value_name = "ROLE"
    )]
    db_role: String,
    /// Requests a second that one user may make over HTTP; bursts may have twice as many.
    #[arg(
        long,
        env = "HERALD_USER_REQUESTS_PER_SECOND",
        default_value = "500",
        value_name = "COUNT"
    )]
    user_requests_per_second: String,
    /// Origins whose pages may connect, separated by commas; `*` for all. By default those of the gateway's own host.
    #[arg(long, env = "HERALD_ALLOWED_ORIGINS", value_name = "ORIGINS")]
    allowed_origins: Option<String>,
    #[command(flatten)]
    tls: TlsFlags,
    #[command(flatten)]
    web: WebFlags,
    /// Topics of broadcast and presence that a person may use, as patterns separated by commas: `*` is any run of characters,
    /// `{user}` the person's own id, `{conversation}` a conversation of the person's. Add `lobby:*` for a lobby of everybody.
    #[arg(
        long,
        env = "HERALD_ALLOWED_TOPICS",
        default_value = TOPIC_RULE_DEFAULT,
        value_name = "PATTERNS"
    )]
    allowed_topics: String,
    #[command(flatten)]
    limits: LimitFlags,
    /// What may wait for one session before it is closed as slow.
    #[arg(
        long,
        env = "HERALD_OUTBOX_BYTES",
        default_value = "1MiB",
        value_name = "SIZE"
    )]
    outbox_bytes: String,
    /// Events that are replayed to a session that comes back; one that missed more is told to reload.
    #[arg(
        long,
        env = "HERALD_REPLAY_EVENTS",
        default_value = "1000",
        value_name = "COUNT"
    )]
    replay_events: String,
    /// Connections of the pool, which also bounds how many replays run at once.
    #[arg(
        long,
        env = "HERALD_POOL_CONNECTIONS",
        default_value = "8",
        value_name = "COUNT"
    )]
    pool_connections: String,
    /// Time between two pings to a client; one that is silent for two and a half of them is gone.
    #[arg(
        long,
        env = "HERALD_HEARTBEAT",
        default_value = "25s",
        value_name = "DURATION"
    )]
    heartbeat: String,
    /// How long changes are kept for clients that come back.
    #[arg(
        long,
        env = "HERALD_LOG_RETENTION",
        default_value = "24h",
        value_name = "DURATION"
    )]
    log_retention: String,
    /// How long a channel of a Supabase client may be away without missing anything.
    #[arg(
        long,
        env = "HERALD_REJOIN_WINDOW",
        default_value = "2m",
        value_name = "DURATION"
    )]
    rejoin_window: String,
    /// The table by whose name Supabase clients subscribe to messages, with its schema.
    #[arg(
        long,
        env = "HERALD_REALTIME_TABLE",
        default_value = "public.messages",
        value_name = "SCHEMA.TABLE"
    )]
    realtime_table: String,
    /// How long a shutdown may take.
    #[arg(
        long,
        env = "HERALD_SHUTDOWN_GRACE",
        default_value = "10s",
        value_name = "DURATION"
    )]
    shutdown_grace: String,
    #[command(flatten)]
    log: LogFlags,
}

impl fmt::Debug for ServeFlags {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // URLs and the secret must not be shown.
        formatter
            .debug_struct("ServeFlags")
            .field("bind", &self.bind)
            .finish_non_exhaustive()
    }
}

/// What is logged, as typed. Every command that runs a gateway has these.
#[derive(Args, Clone, Debug)]
pub struct LogFlags {
    /// What is logged: a level (error, warn, info, debug, trace), or levels by module, such as `info,herald::feed=debug`.
    #[arg(
        long = "log",
        env = "HERALD_LOG",
        default_value = "info",
        value_name = "FILTER"
    )]
    filter: String,
    /// How a line of the log looks: `text` or `json`.
    #[arg(
        long = "log-format",
        env = "HERALD_LOG_FORMAT",
        default_value = "text",
        value_name = "FORMAT"
    )]
    format: String,
}

/// `herald serve`, checked.
#[derive(Debug)]
pub struct ServeConfig {
    /// Where to listen.
    pub bind: SocketAddr,
    /// The gateway's own settings.
    pub app: AppConfig,
    /// How long a shutdown may take.
    pub shutdown_grace: Duration,
    /// What is logged.
    pub log: LogConfig,
}

impl LogFlags {
    /// Notes what is wrong, and answers the rest.
    pub fn check(self, mistakes: &mut Mistakes) -> Option<LogConfig> {
        let filter = mistakes.check("HERALD_LOG", EnvFilter::try_new(if_set(&self.filter, "info")));
        let format = mistakes.check(
            "HERALD_LOG_FORMAT",
            match if_set(&self.format, "text") {
                "text" => Ok(LogFormat::Text),
                "json" => Ok(LogFormat::Json),
                other => Err(format!("`{other}` is not a format; write text or json")),
            },
        );
        Some(LogConfig {
            filter: filter?,
            format: format?,
        })
    }
}

impl ServeFlags {
    /// Checks everything.
    ///
    /// # Errors
    /// All mistakes at once.
    pub fn check(self) -> Result<ServeConfig, Mistakes> {
        let mut mistakes = Mistakes::none();
        let checked = self.check_into(&mut mistakes);
        mistakes.into_result()?;
        // Without a mistake every part is there.
        checked.ok_or_else(Mistakes::none)
    }

    fn check_into(self, mistakes: &mut Mistakes) -> Option<ServeConfig> {
        let database = self.database.check(mistakes);
        let bind = mistakes.check("HERALD_BIND", address(if_set(&self.bind, "127.0.0.1:4000")));
        let auth = check_auth(self.jwt, self.jwks, mistakes);
        let origins = check_origins(self.allowed_origins, mistakes);
        let tls = self.tls.check(mistakes);
        let web_root = self.web.check(mistakes);
        let topics = TopicRule::parse(if_set(&self.allowed_topics, TOPIC_RULE_DEFAULT));
        let topics = mistakes.check("HERALD_ALLOWED_TOPICS", topics);
        let limits = self.limits.check(mistakes);
        let user_requests_per_second = check_count(
            "HERALD_USER_REQUESTS_PER_SECOND",
            &self.user_requests_per_second,
            "500",
            mistakes,
        );
        let replay_events = check_count("HERALD_REPLAY_EVENTS", &self.replay_events, "1000", mistakes);
        let pool_connections = check_count("HERALD_POOL_CONNECTIONS", &self.pool_connections, "8", mistakes);
        let outbox_bytes = mistakes.check(
            "HERALD_OUTBOX_BYTES",
            quantity::bytes(if_set(&self.outbox_bytes, "1MiB")),
        );
        let heartbeat = check_duration("HERALD_HEARTBEAT", &self.heartbeat, "25s", mistakes);
        let log_retention = check_duration("HERALD_LOG_RETENTION", &self.log_retention, "24h", mistakes);
        let rejoin_window = check_duration("HERALD_REJOIN_WINDOW", &self.rejoin_window, "2m", mistakes);
        let realtime_table = check_table(&self.realtime_table, mistakes);
        let shutdown_grace = check_duration("HERALD_SHUTDOWN_GRACE", &self.shutdown_grace, "10s", mistakes);
        let log = self.log.check(mistakes);
        let (pool_settings, feed_settings) = database?;
        let limits = limits?;
        Some(ServeConfig {
            bind: bind?,
            app: AppConfig {
                pool_settings,
                feed_settings,
                auth: auth?,
                origins: origins?,
                web_root,
                further_routes: Router::new(),
                tls,
                topics: topics?,
                connections_max: limits.connections_max,
                addresses: limits.addresses,
                handshakes: limits.handshakes,
                memory_limit: limits.memory,
                role: Some(self.db_role).filter(|role| !role.is_empty()),
                user_requests_per_second: user_requests_per_second?,
                sessions_per_user: limits.sessions_per_user,
                outbox_bytes: outbox_bytes?,
                replay_events: replay_events?,
                pool_connections: pool_connections? as usize,
                log_retention: log_retention?,
                rejoin_window: rejoin_window?,
                realtime_table: realtime_table?,
                rhythm: RhythmConfig {
                    heartbeat: heartbeat?,
                    ..limits.rhythm
                },
                feed: FeedConfig::default(),
            },
            shutdown_grace: shutdown_grace?,
            log: log?,
        })
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| format!("`{text}` is not an address with a port; write 127.0.0.1:4000 or [::]:4000"))
}

fn check_origins(origins: Option<String>, mistakes: &mut Mistakes) -> Option<AllowedOrigins> {
    let parsed = AllowedOrigins::parse(&origins.unwrap_or_default());
    mistakes.check("HERALD_ALLOWED_ORIGINS", parsed)
}

fn check_table(table: &str, mistakes: &mut Mistakes) -> Option<RealtimeTable> {
    let parsed = RealtimeTable::parse(if_set(table, "public.messages"));
    mistakes.check("HERALD_REALTIME_TABLE", parsed)
}

fn check_auth(jwt: JwtFlags, jwks: Option<String>, mistakes: &mut Mistakes) -> Option<AuthConfig> {
    let a_secret_was_given = jwt.has_secret();
    let jwt = jwt.check(mistakes);
    let jwks = match jwks.filter(|jwks| !jwks.is_empty()) {
        Some(jwks) => Some(mistakes.check("HERALD_JWKS", jwks.parse::<JwksSource>())?),
        None => None,
    };
    if !a_secret_was_given && jwks.is_none() {
        let what = "not set, and neither is HERALD_JWKS; without one of them no token can be checked";
        mistakes.note(SECRET_VARIABLE, what);
    }
    let (audience, issuer) = (jwt.audience, jwt.issuer);
    Some(AuthConfig {
        secrets: jwt.secrets,
        jwks,
        audience,
        issuer,
        timing: JwksTiming::default(),
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Typed {
        #[command(flatten)]
        serve: ServeFlags,
    }

    fn check(arguments: &[&str]) -> Result<ServeConfig, Mistakes> {
        Typed::parse_from(["herald"].iter().chain(arguments))
            .serve
            .check()
    }

    #[test]
    fn every_mistake_is_told_at_once() {
        let told = check(&[
            "--database-url=postgres://localhost/app?sslmode=maybe",
            "--bind=4000",
            "--jwt-secret=short",
            "--outbox-bytes=lots",
            "--max-connections=0",
            "--connections-per-address=few",
            "--trusted-proxies=proxy.example",
            "--forwarded-header=Via",
            "--memory-limit=1MiB",
            "--log-format=xml",
            "--allowed-topics=user:{me}",
            "--shutdown-grace=10",
        ])
        .unwrap_err()
        .to_string();
        for setting in [
            "DATABASE_URL",
            "HERALD_BIND",
            "HERALD_JWT_SECRET",
            "HERALD_OUTBOX_BYTES",
            "HERALD_MAX_CONNECTIONS",
            "HERALD_CONNECTIONS_PER_ADDRESS",
            "HERALD_TRUSTED_PROXIES",
            "HERALD_FORWARDED_HEADER",
            "HERALD_MEMORY_LIMIT",
            "HERALD_LOG_FORMAT",
            "HERALD_ALLOWED_TOPICS",
            "HERALD_SHUTDOWN_GRACE",
        ] {
            assert!(
                told.contains(&format!("\n  {setting}: ")),
                "{setting} is missing in {told}"
            );
        }
    }

    #[test]
    fn what_is_required_is_named() {
        let told = check(&["--database-url=", "--jwt-secret=", "--jwks="])
            .unwrap_err()
            .to_string();
        assert!(
            told.contains("DATABASE_URL: not set") && told.contains("HERALD_JWT_SECRET: not set"),
            "{told}"
        );
    }

    #[test]
    fn secrets_come_out_of_files_and_files_that_cannot_be_read_are_told_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, content).unwrap();
            path.display().to_string()
        };
        let url = file("url", "postgres://localhost/app\n");
        let secret = file("secret", &format!("{}\n", "s".repeat(32)));
        let config = check(&[
            &format!("--database-url-file={url}"),
            &format!("--feed-database-url-file={url}"),
            &format!("--jwt-secret-file={secret}"),
        ])
        .unwrap();
        assert!(config.app.auth.secrets.is_some());

        let told = check(&[
            "--database-url-file=/nowhere/url",
            "--jwt-secret-file=/nowhere/secret",
        ])
        .unwrap_err()
        .to_string();
        let lines: Vec<_> = told.lines().skip(1).collect();
        assert_eq!(lines.len(), 2, "{told}");
        assert!(
            lines[0].contains("DATABASE_URL_FILE: /nowhere/url cannot be read"),
            "{told}"
        );
        assert!(
            lines[1].contains("HERALD_JWT_SECRET_FILE: /nowhere/secret cannot be read"),
            "{told}"
        );
    }

    #[test]
    fn the_least_settings_are_a_database_and_a_secret() {
        let secret = format!("--jwt-secret={}", "s".repeat(32));
        let config = check(&[
            "--database-url=postgres://localhost/app",
            &secret,
            "--outbox-bytes=",
        ])
        .unwrap();
        assert_eq!(config.app.outbox_bytes, 1 << 20);
        assert_eq!(config.shutdown_grace, Duration::from_secs(10));
        assert_eq!(config.app.origins, AllowedOrigins::SameHost);
        assert_eq!(config.app.topics, TopicRule::default());
    }
}
