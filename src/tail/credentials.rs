//! What a client shows to prove who it is: a token it was given, or its own ones, made anew for each connection.

use std::time::Duration;

use crate::{
    auth::{self, IssueError, Secret, Token},
    types::UserId,
};

/// Where a client's tokens come from.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// One token, made by somebody else.
    Given(Token),
    /// Tokens signed on the spot with the shared secret.
    Signed(Signer),
}

/// Signs a client's own tokens.
#[derive(Clone, Debug)]
pub struct Signer {
    /// The secret that the gateway has too.
    pub secret: Secret,
    /// The user they speak for.
    pub user: UserId,
    /// The claim `aud`, if the gateway checks it.
    pub audience: Option<String>,
    /// The claim `iss`, if the gateway checks it.
    pub issuer: Option<String>,
    /// How long each of them is good.
    pub lifetime: Duration,
}

impl Credentials {
    /// The token for a connection that begins now.
    pub(super) fn token(&self) -> Result<Token, IssueError> {
        match self {
            Self::Given(token) => Ok(token.clone()),
            Self::Signed(signer) => auth::issue(
                &signer.secret,
                signer.user,
                signer.audience.as_deref(),
                signer.issuer.as_deref(),
                signer.lifetime,
            ),
        }
    }

    /// How long after making a token it is time for the next one: half of its life is left for the way. `None` if there is
    /// no next one.
    pub(super) fn renew_after(&self) -> Option<Duration> {
        match self {
            Self::Given(_) => None,
            // `exp` counts whole seconds, so that a token lives up to one less than it was given.
            Self::Signed(signer) => Some(signer.lifetime.saturating_sub(Duration::from_secs(1)) / 2),
        }
    }
}
