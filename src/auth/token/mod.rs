//! What a token says, and whether that is good. Pure: whether its signature is its own is not told here, and nothing of it is to be
//! believed before that has been found out.

mod claims;
mod error;
mod parts;

use std::{fmt, time::SystemTime};

use crate::types::UserId;

pub use self::{
    claims::{EXPIRY_SECONDS_MAX, Expected},
    error::AuthError,
    parts::{Header, Parts, TOKEN_BYTES_MAX, decode},
};

/// A JWT as it was brought, not yet believed. It does not show itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// A token from the place where a protocol carries it, such as a frame's field.
    pub fn new(token: impl Into<String>) -> Self {
        Self(token.into())
    }

    /// The token itself, for the one who sends it on. It must not reach a log.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Token(redacted)")
    }
}

/// Who a verified token speaks for, and how long.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// The claim `sub`.
    pub user: UserId,
    /// The claim `exp`, at most the end of the year 9999, so that it can always be written as a date.
    pub expires_at: SystemTime,
    /// All claims, as the JSON text that was signed; Postgres gets it as `request.jwt.claims`.
    pub claims: Box<str>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The claims may hold an address or a name, which is nobody's business in a log.
        formatter
            .debug_struct("Identity")
            .field("user", &self.user)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}
