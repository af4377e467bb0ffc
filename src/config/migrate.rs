//! Settings of `herald migrate`.

use std::{ffi::OsString, time::Duration};

use super::{
    Mistakes, quantity,
    secret::{self, Given},
};
use crate::migrate::GatewayRole;

/// The flags of `herald migrate` as typed.
#[derive(clap::Args)]
pub struct MigrateFlags {
    /// The database, as a URL or as key=value pairs.
    #[arg(
        long,
        env = "DATABASE_URL",
        hide_env_values = true,
        value_name = "URL",
        global = true
    )]
    database_url: Option<String>,

    /// A file with that, in place of it: it holds a password.
    #[arg(long, env = "DATABASE_URL_FILE", value_name = "FILE", global = true)]
    database_url_file: Option<OsString>,

    /// A direct connection to the primary, if `DATABASE_URL` goes through a pooler: a pooler in transaction mode can
    /// neither build indexes concurrently nor keep two migrations apart. Preferred if set.
    #[arg(
        long,
        env = "HERALD_FEED_DATABASE_URL",
        hide_env_values = true,
        value_name = "URL",
        global = true
    )]
    feed_database_url: Option<String>,

    /// A file with that, in place of it.
    #[arg(
        long,
        env = "HERALD_FEED_DATABASE_URL_FILE",
        value_name = "FILE",
        global = true
    )]
    feed_database_url_file: Option<OsString>,

    /// How long each wait may last: for another migration, for locks on the tables, for old transactions during an
    /// index build. Writers are never held up for longer than half a second, whatever stands here.
    #[arg(long, env = "HERALD_MIGRATE_PATIENCE", default_value = "2m", value_parser = quantity::duration, global = true)]
    patience: Duration,

    /// The role to make for the gateway, with the least rights that it needs; one that is there is granted what it lacks. By default none
    /// is made, and the gateway connects as the owner.
    #[arg(long, env = "HERALD_GATEWAY_ROLE", value_name = "ROLE")]
    gateway_role: Option<String>,

    /// The role that the gateway takes on for the user who calls the HTTP API, of which its own becomes a member; empty for none.
    #[arg(
        long,
        env = "HERALD_DB_ROLE",
        default_value = "authenticated",
        value_name = "ROLE"
    )]
    db_role: String,

    /// Print the SQL, as a script for psql that installs into a database without Herald (with `uninstall`: that removes
    /// it), and stop. No database is asked or changed.
    #[arg(long, global = true)]
    print: bool,

    #[command(subcommand)]
    action: Option<Action>,
}

/// What to do other than installing.
#[derive(Clone, Copy, Debug, clap::Subcommand)]
enum Action {
    /// Remove everything that Herald installed and leave the application as it was.
    Uninstall,
}

/// Which way to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Install, upgrade or repair.
    Install,
    /// Remove.
    Uninstall,
}

/// The settings of `herald migrate`, checked.
pub enum Migrate {
    /// Show the SQL.
    Print(Direction, Option<GatewayRole>),
    /// Run it.
    Run {
        /// Installing or removing.
        direction: Direction,
        /// The variable that the URL came from, for messages about it.
        setting: &'static str,
        /// A direct connection to the primary.
        database_url: String,
        /// The bound of each single wait.
        patience: Duration,
        /// The role to make, or to complete, when installing.
        gateway_role: Option<GatewayRole>,
    },
}

impl MigrateFlags {
    /// Checks what was typed.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn check(self) -> Result<Migrate, Mistakes> {
        let direction = match self.action {
            None => Direction::Install,
            Some(Action::Uninstall) => Direction::Uninstall,
        };
        let of_users = self.db_role;
        let gateway_role = self
            .gateway_role
            .filter(|name| !name.is_empty() && direction == Direction::Install)
            .map(|name| GatewayRole { name, of_users });
        if self.print {
            return Ok(Migrate::Print(direction, gateway_role));
        }
        let mut mistakes = Mistakes::none();
        // A variable that is set to nothing is as good as unset.
        let urls = [
            (
                "HERALD_FEED_DATABASE_URL",
                self.feed_database_url,
                self.feed_database_url_file,
            ),
            ("DATABASE_URL", self.database_url, self.database_url_file),
        ];
        for (setting, url, file) in urls {
            match secret::read(setting, url, file, &mut mistakes) {
                Given::Nothing => {}
                Given::Wrong => return Err(mistakes),
                Given::Secret(database_url) => {
                    return Ok(Migrate::Run {
                        direction,
                        setting,
                        database_url,
                        patience: self.patience,
                        gateway_role,
                    });
                }
            }
        }
        mistakes.note(
            "DATABASE_URL",
            "not set; give the database, such as postgres://owner@localhost/app",
        );
        Err(mistakes)
    }
}

// Written by hand, because the URLs hold passwords.
impl std::fmt::Debug for MigrateFlags {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("MigrateFlags")
            .field("patience", &self.patience)
            .field("print", &self.print)
            .field("action", &self.action)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Migrate {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Print(direction, role) => formatter
                .debug_tuple("Print")
                .field(direction)
                .field(role)
                .finish(),
            Self::Run {
                direction, patience, ..
            } => formatter
                .debug_struct("Run")
                .field("direction", direction)
                .field("patience", patience)
                .finish_non_exhaustive(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(database_url: Option<&str>, feed_database_url: Option<&str>) -> MigrateFlags {
        MigrateFlags {
            database_url: database_url.map(str::to_owned),
            feed_database_url: feed_database_url.map(str::to_owned),
            database_url_file: None,
            feed_database_url_file: None,
            patience: Duration::from_secs(1),
            gateway_role: None,
            db_role: "authenticated".to_owned(),
            print: false,
            action: None,
        }
    }

    fn url(flags: MigrateFlags) -> (&'static str, String) {
        match flags.check().unwrap() {
            Migrate::Run {
                setting,
                database_url,
                ..
            } => (setting, database_url),
            Migrate::Print(..) => unreachable!("nothing is to be printed"),
        }
    }

    #[test]
    fn the_direct_connection_is_preferred_if_it_is_set_to_something() {
        let direct = ("HERALD_FEED_DATABASE_URL", "direct".to_owned());
        assert_eq!(url(flags(Some("pooler"), Some("direct"))), direct);
        let pooler = ("DATABASE_URL", "pooler".to_owned());
        assert_eq!(url(flags(Some("pooler"), Some(""))), pooler);
        assert_eq!(url(flags(Some("pooler"), None)), pooler);
    }

    #[test]
    fn without_a_database_it_says_which_variable_to_set() {
        assert!(
            flags(None, None)
                .check()
                .unwrap_err()
                .to_string()
                .contains("DATABASE_URL: not set")
        );
    }

    #[test]
    fn a_password_does_not_show_in_debug_output() {
        let text = format!("{:?}", flags(Some("postgres://a:secret@b/c"), None));
        assert!(!text.contains("secret"), "{text}");
    }
}
