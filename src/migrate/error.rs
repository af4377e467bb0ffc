//! Why a migration did not succeed, in words that say what to do about it.

use std::{fmt, time::Duration};

use thiserror::Error;
use tokio_postgres::error::{DbError, SqlState};

/// A migration that did not succeed. Each text says what was left in the database, if anything was.
#[derive(Debug, Error)]
pub enum MigrateError {
    /// The database lacks something Herald needs, or something stands in the way; all of it at once.
    #[error("Herald cannot be installed in this database; nothing was changed:\n  {}", .0.join("\n  "))]
    Unsuitable(Vec<String>),

    /// A newer Herald was here.
    #[error(
        "the database has Herald's schema version {installed}, but this build knows only up to {known}; \
         nothing was changed: use the newer herald"
    )]
    Newer {
        /// The version in the database.
        installed: i32,
        /// The newest version of this build.
        known: i32,
    },

    /// There is nothing to uninstall.
    #[error("Herald is not installed in this database, so there is nothing to remove")]
    NotInstalled,

    /// Another migration did not end in time.
    #[error(
        "another `herald migrate` is at work (process {process} of the server) and did not finish within {patience:?}; \
         run this again when it has, or with a longer --patience"
    )]
    Busy {
        /// The server process that holds the advisory lock, or `?` if it has just let go.
        process: String,
        /// How long it was waited for.
        patience: Duration,
    },

    /// A lock on the application's tables was not to be had.
    #[error(
        "other transactions did not let go of the tables within {patience:?}, so this step changed nothing; \
         end them or run this again, with a longer --patience if need be: {}", Blockers(.blockers)
    )]
    Locked {
        /// Who held such locks when it was given up.
        blockers: Vec<Blocker>,
        /// How long it was tried.
        patience: Duration,
    },

    /// Concurrent work on an index waited for old transactions and was given up.
    #[error(
        "`{statement}` waited {patience:?} for transactions that began before it; everything before it is done. \
         End them or wait, then run this again: it repairs what is unfinished: {}", Blockers(.blockers)
    )]
    IndexLocked {
        /// What was being run.
        statement: String,
        /// The oldest open transactions.
        blockers: Vec<Blocker>,
        /// How long it was waited for.
        patience: Duration,
    },

    /// The indexes did not come to rest.
    #[error(
        "the indexes are changed by somebody else at the same time; run this again when that has ended: {0}"
    )]
    Unsettled(String),

    /// Postgres refused, or the connection was lost.
    #[error("{}", describe(.0))]
    Database(#[from] tokio_postgres::Error),
}

/// A session of the server that stands in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocker {
    /// The server process, as `pg_terminate_backend` takes it.
    pub process: i32,
    /// Its role.
    pub role: String,
    /// What it calls itself; empty if it has no name.
    pub application: String,
    /// How long its transaction has been open, in seconds.
    pub open_for_seconds: i64,
}

impl fmt::Display for Blocker {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "process {} of role {}", self.process, self.role)?;
        if !self.application.is_empty() {
            write!(formatter, " ({})", self.application)?;
        }
        write!(formatter, ", open for {} s", self.open_for_seconds)
    }
}

struct Blockers<'a>(&'a [Blocker]);

impl fmt::Display for Blockers<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((first, rest)) = self.0.split_first() else {
            return formatter.write_str("they have just ended");
        };
        write!(formatter, "{first}")?;
        rest.iter()
            .try_for_each(|blocker| write!(formatter, "; {blocker}"))
    }
}

impl MigrateError {
    /// Reads an error of `sql/check.sql` or `sql/indexes.sql`; any other stays what it is.
    pub(super) fn from_database(error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            Some(refusal) if refusal.code().code() == "HR001" => Self::Unsuitable(
                refusal
                    .detail()
                    .unwrap_or_default()
                    .lines()
                    .map(str::to_owned)
                    .collect(),
            ),
            Some(refusal) if refusal.code().code() == "HR002" => {
                Self::Unsettled(refusal.message().to_owned())
            }
            _ => Self::Database(error),
        }
    }
}

/// Whether a lock was not to be had in time, so that the same may succeed a little later.
pub(super) fn is_lock_failure(error: &tokio_postgres::Error) -> bool {
    // QUERY_CANCELED is what statement_timeout raises, which bounds the lock on a whole tree of partitions.
    [
        SqlState::LOCK_NOT_AVAILABLE,
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::QUERY_CANCELED,
    ]
    .iter()
    .any(|state| error.code() == Some(state))
}

fn describe(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(refusal) => describe_refusal(refusal),
        None => std::error::Error::source(error)
            .map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}")),
    }
}

fn describe_refusal(refusal: &DbError) -> String {
    let mut text = format!("Postgres refused: {}", refusal.message());
    for more in [refusal.detail(), refusal.hint(), refusal.where_()]
        .into_iter()
        .flatten()
    {
        text.push_str("\n  ");
        text.push_str(more);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_stands_in_the_way_is_named_so_that_he_can_be_found() {
        let blocker = Blocker {
            process: 42,
            role: "app".into(),
            application: "worker".into(),
            open_for_seconds: 7,
        };
        let error = MigrateError::Locked {
            blockers: vec![blocker.clone(), blocker],
            patience: Duration::from_secs(2),
        };
        assert!(error.to_string().ends_with(
            "process 42 of role app (worker), open for 7 s; process 42 of role app (worker), open for 7 s"
        ));
    }
}
