//! Why a call of a user was not carried out.

use deadpool_postgres::PoolError;
use tokio_postgres::{Error, error::SqlState};

use crate::postgres::PooledError;

/// Why a call was not carried out. Nothing was changed, except where [`Refusal::Unavailable`] says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The database is away, busy or too slow. If a connection was lost in the middle, what was to be written may have been
    /// written: repeat it under the same id.
    #[error("the database cannot be asked: {0}")]
    Unavailable(PooledError),
    /// The gateway cannot act as its users.
    #[error(
        "the role for users cannot be taken: {0}; create it and grant it to the gateway's own role, or set HERALD_DB_ROLE"
    )]
    Role(PooledError),
    /// The application's rules do not allow it: row-level security, a missing right, or a trigger that objects.
    #[error("the application's rules do not allow it ({0})")]
    Forbidden(PooledError),
    /// There is no such person or product.
    #[error("there is no such person or product")]
    NotFound,
    /// The id belongs to something else.
    #[error("the id belongs to another message")]
    Conflict,
    /// The application's tables do not take it.
    #[error("the application's tables do not take it ({0})")]
    Unacceptable(PooledError),
    /// The application kept the message from being written without a word: a trigger, or another unique column.
    #[error("the application did not write it, and gave no reason")]
    NotWritten,
    /// Something is wrong with the database, the application's view or this program.
    #[error("the database raised an error: {0}")]
    Failed(PooledError),
    /// The database holds something that this version does not know.
    #[error("the database's answer has an unexpected shape; run `herald migrate` with this version")]
    Bookkeeping,
}

/// What was being done when the database raised an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doing {
    Reading,
    Writing,
}

impl Refusal {
    /// What the database's error means for the call.
    pub(super) fn of(error: PooledError, doing: Doing) -> Self {
        let PooledError::Query(told) = &error else {
            return Self::Unavailable(error);
        };
        let Some(code) = told.code() else {
            // Without a code it was not the server that spoke: the connection broke.
            return Self::Unavailable(error);
        };
        match (code.code(), class(told)) {
            ("HR404", _) => Self::NotFound,
            ("HR409", _) => Self::Conflict,
            ("HR503", _) => Self::Role(error),
            // `insufficient_privilege`, which row-level security raises too; a view's check option; a trigger's RAISE.
            ("42501" | "44000" | "P0001", _) => Self::Forbidden(error),
            // A standby that is not promoted yet says `feature_not_supported` to a transaction that may write.
            ("0A000", _) | (_, "08" | "53" | "55" | "57" | "40" | "25") => Self::Unavailable(error),
            _ if doing == Doing::Reading => Self::Failed(error),
            _ if *code == SqlState::FOREIGN_KEY_VIOLATION => Self::NotFound,
            _ if *code == SqlState::UNIQUE_VIOLATION => Self::Conflict,
            (_, "22" | "23") => Self::Unacceptable(error),
            _ => Self::Failed(error),
        }
    }
}

impl From<PoolError> for Refusal {
    fn from(error: PoolError) -> Self {
        Self::Unavailable(error.into())
    }
}

/// The first two letters of SQLSTATE, which name the class of an error.
fn class(error: &Error) -> &str {
    error
        .code()
        .and_then(|code| code.code().get(..2))
        .unwrap_or_default()
}
