//! Who is calling: every entrance judges tokens here, and refuses them alike.

use super::{Edge, Problem};
use crate::{
    auth::{AuthError, Identity, Token},
    metrics::ByReason,
};

/// Judges a token, or the reason for which none was found.
///
/// # Errors
/// `401`; or `503` while the keys for it cannot be had.
///
/// # Cancel safety
/// Safe: nothing is kept.
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
