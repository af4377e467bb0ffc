//! Who is calling: the same judgement of a token at every entrance.
//!
//! It deliberately does not look for the token: that is `auth::find_token`'s matter.

use super::{Edge, Problem};
use crate::{
    auth::{AuthError, Identity, Token},
    metrics::ByReason,
};

/// The caller behind a token, or the answer that refuses it. A refusal is counted and logged.
///
/// # Errors
/// `401`, or `503` if tokens cannot be checked at the moment.
///
/// # Cancel safety
/// Safe.
pub(super) async fn authenticate(edge: &Edge, token: Result<Token, AuthError>) -> Result<Identity, Problem> {
    let judged = match token {
        Ok(token) => edge.verifier.authenticate(&token).await,
        Err(error) => Err(error),
    };
    judged.map_err(|error| {
        edge.metrics
            .auth_failures
            .get_or_create(&ByReason {
                reason: error.reason(),
            })
            .inc();
        tracing::info!(reason = error.reason(), "a token was refused");
        match error {
            // The token may be good: a client that took this for a refusal would not come back.
            AuthError::KeysUnavailable => Problem::unavailable(error.detail()),
            _ => Problem::unauthorized(error),
        }
    })
}
