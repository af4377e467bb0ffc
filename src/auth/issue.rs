//! Makes tokens for development, so that trying Herald needs no identity provider.
//!
//! It deliberately knows HS256 only: a private key has no business in a gateway.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;

use super::{Secret, Token};
use crate::types::UserId;

/// The role that the application's row-level security expects of a person who is logged in.
const ROLE: &str = "authenticated";

/// Why no token could be made.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The end of its life is no date.
    #[error("the lifetime is too long; choose one of less than a few thousand years")]
    Lifetime,
    /// The signature could not be made.
    #[error("the token could not be signed: {0}")]
    Signature(#[from] jsonwebtoken::errors::Error),
}

#[derive(Serialize)]
struct Claims<'a> {
    sub: String,
    role: &'static str,
    iat: u64,
    exp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
}

/// Signs a token for a user, valid from now on for `lifetime`, with the role `authenticated`.
///
/// # Errors
/// [`IssueError`].
pub fn issue(
    secret: &Secret,
    user: UserId,
    audience: Option<&str>,
    issuer: Option<&str>,
    lifetime: Duration,
) -> Result<Token, IssueError> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_err(|_| IssueError::Lifetime)?;
    let end = now.checked_add(lifetime).ok_or(IssueError::Lifetime)?;
    let claims = Claims {
        sub: user.to_string(),
        role: ROLE,
        iat: now.as_secs(),
        exp: end.as_secs(),
        aud: audience,
        iss: issuer,
    };
    let key = EncodingKey::from_secret(secret.as_bytes());
    Ok(Token::new(jsonwebtoken::encode(
        &Header::new(Algorithm::HS256),
        &claims,
        &key,
    )?))
}
