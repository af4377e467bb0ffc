//! The databases of a gateway: where the pool leads, and where the feed listens.

use std::ffi::OsString;

use clap::Args;

use super::{
    Mistakes,
    secret::{self, Given},
};
use crate::postgres::Settings;

/// The variable of the pool's database.
const POOL_VARIABLE: &str = "DATABASE_URL";

/// The variable of the feed's database.
const FEED_VARIABLE: &str = "HERALD_FEED_DATABASE_URL";

/// The databases, as typed. It does not show itself, because URLs hold passwords.
#[derive(Args)]
pub(super) struct DatabaseFlags {
    /// The database, as a URL or as key=value pairs, for the pool; it may lead through a pooler in transaction mode.
    #[arg(long, env = POOL_VARIABLE, hide_env_values = true, value_name = "URL")]
    database_url: Option<String>,
    /// A file with that, in place of it: it holds a password.
    #[arg(long, env = "DATABASE_URL_FILE", value_name = "FILE")]
    database_url_file: Option<OsString>,
    /// A direct connection to the primary for LISTEN, if `DATABASE_URL` leads through a pooler.
    #[arg(
        long,
        env = FEED_VARIABLE,
        hide_env_values = true,
        value_name = "URL"
    )]
    feed_database_url: Option<String>,
    /// A file with that, in place of it.
    #[arg(long, env = "HERALD_FEED_DATABASE_URL_FILE", value_name = "FILE")]
    feed_database_url_file: Option<OsString>,
}

impl DatabaseFlags {
    /// Notes what is wrong, and answers the settings of the pool and of the feed.
    pub(super) fn check(self, mistakes: &mut Mistakes) -> Option<(Settings, Settings)> {
        let pool = secret::read(POOL_VARIABLE, self.database_url, self.database_url_file, mistakes);
        let pool = match pool {
            Given::Secret(url) => mistakes.check(POOL_VARIABLE, Settings::parse(&url)),
            Given::Wrong => None,
            Given::Nothing => {
                mistakes.note(
                    POOL_VARIABLE,
                    "not set; give the database, such as postgres://owner@localhost/app",
                );
                None
            }
        };
        let (url, file) = (self.feed_database_url, self.feed_database_url_file);
        let feed = match secret::read(FEED_VARIABLE, url, file, mistakes) {
            Given::Secret(url) => mistakes
                .check(FEED_VARIABLE, Settings::parse(&url))
                .map(|settings| settings.of_variable(FEED_VARIABLE)),
            Given::Wrong => None,
            Given::Nothing => pool.clone(),
        };
        pool.zip(feed)
    }
}
