//! What `herald dev` can be told.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;

use super::{Mistakes, serve::LogFlags, token::SECRET_VARIABLE, web::WebFlags};
use crate::{auth::Secret, client::GatewayUrl, dev::chatter::Gateway, edge::WebRoot, telemetry::LogConfig};

/// The flags of `herald dev`.
#[derive(Args, Clone, Debug)]
pub struct DevFlags {
    /// Where the private Postgres and its secrets are kept; it is made if it is missing
    #[arg(
        long,
        env = "HERALD_DEV_FOLDER",
        default_value = ".herald",
        value_name = "FOLDER"
    )]
    pub folder: PathBuf,
    /// Where the gateway listens
    #[arg(
        long,
        env = "HERALD_BIND",
        default_value = "127.0.0.1:4000",
        value_name = "ADDRESS:PORT"
    )]
    pub bind: SocketAddr,
    #[command(flatten)]
    web: WebFlags,
    #[command(flatten)]
    log: LogFlags,
}

/// `herald dev`, checked.
#[derive(Debug)]
pub struct DevConfig {
    /// Where the private Postgres and its secrets are kept.
    pub folder: PathBuf,
    /// Where the gateway listens.
    pub bind: SocketAddr,
    /// A page for people, if one is served.
    pub web_root: Option<WebRoot>,
    /// What is logged.
    pub log: LogConfig,
}

impl DevFlags {
    /// Checks everything.
    ///
    /// # Errors
    /// All mistakes at once.
    pub fn check(self) -> Result<DevConfig, Mistakes> {
        let mut mistakes = Mistakes::none();
        let web_root = self.web.check(&mut mistakes);
        let log = self.log.check(&mut mistakes);
        mistakes.into_result()?;
        let log = log.ok_or_else(Mistakes::none)?;
        Ok(DevConfig {
            folder: self.folder,
            bind: self.bind,
            web_root,
            log,
        })
    }
}

/// The flags of the chatter, a process that `herald dev` starts beside itself. Nobody types them.
#[derive(Args, Clone)]
pub struct ChatterFlags {
    /// The demo's database. It contains a password, so it comes by the environment, which other users cannot read
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: String,
    /// The demo's gateway; without it everything is said by SQL
    #[arg(long, env = "HERALD_URL")]
    url: Option<String>,
    /// What signs the people's tokens; by the environment, like the password
    #[arg(long, env = SECRET_VARIABLE, hide_env_values = true)]
    jwt_secret: Option<String>,
}

/// The chatter's flags, checked.
#[derive(Debug)]
pub struct ChatterConfig {
    /// The demo's database.
    pub database_url: String,
    /// The demo's gateway, if there is one.
    pub gateway: Option<Gateway>,
}

impl ChatterFlags {
    /// Checks everything.
    ///
    /// # Errors
    /// All mistakes at once.
    pub fn check(self) -> Result<ChatterConfig, Mistakes> {
        let mut mistakes = Mistakes::none();
        let url = self
            .url
            .and_then(|url| mistakes.check("HERALD_URL", url.parse::<GatewayUrl>()));
        let secret = self
            .jwt_secret
            .and_then(|secret| mistakes.check(SECRET_VARIABLE, Secret::new(secret)));
        mistakes.into_result()?;
        Ok(ChatterConfig {
            database_url: self.database_url,
            gateway: url.zip(secret).map(|(url, secret)| Gateway { url, secret }),
        })
    }
}

impl std::fmt::Debug for ChatterFlags {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("ChatterFlags").finish_non_exhaustive()
    }
}
