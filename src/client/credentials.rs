//! What a client shows to prove who it is: a token it was given, or its own ones, made anew for each connection.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;
use uuid::Uuid;

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
    /// Whom the gateway will take this client for; `None` if the given token does not say so in a way that is understood.
    /// The claim `sub` (RFC 7519 §4.1.2) is read here and not believed: that is the gateway's business.
    pub fn speaks_for(&self) -> Option<UserId> {
        #[derive(Deserialize)]
        struct Claims {
            sub: Uuid,
        }
        match self {
            Self::Signed(signer) => Some(signer.user),
            Self::Given(token) => {
                let payload = token.expose().split('.').nth(1)?;
                let claims = URL_SAFE_NO_PAD.decode(payload).ok()?;
                let Claims { sub } = serde_json::from_slice(&claims).ok()?;
                Some(UserId(sub))
            }
        }
    }

    /// The token for a connection that begins now.
    ///
    /// # Errors
    /// It could not be signed.
    pub fn token(&self) -> Result<Token, IssueError> {
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
    pub fn renew_after(&self) -> Option<Duration> {
        match self {
            Self::Given(_) => None,
            // `exp` counts whole seconds, so that a token lives up to one less than it was given.
            Self::Signed(signer) => Some(signer.lifetime.saturating_sub(Duration::from_secs(1)) / 2),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_given_token_says_whom_it_speaks_for() {
        let signer = Signer {
            secret: Secret::new("s".repeat(32)).unwrap(),
            user: UserId(Uuid::from_u128(7)),
            audience: None,
            issuer: None,
            lifetime: Duration::from_secs(60),
        };
        let token = Credentials::Signed(signer).token().unwrap();
        assert_eq!(
            Credentials::Given(token).speaks_for(),
            Some(UserId(Uuid::from_u128(7)))
        );
        for unreadable in ["", "a.b.c", "a.e30.c"] {
            assert_eq!(Credentials::Given(Token::new(unreadable)).speaks_for(), None);
        }
    }
}
