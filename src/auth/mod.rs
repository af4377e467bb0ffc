//! Who is calling: from a request to a token, and from a token to an identity.
//!
//! Invariants:
//! - The accepted algorithms come from the configuration and the keys, never from the token: HS256 only with the shared
//!   secret, RS256, ES256 and EdDSA only with a key of that kind from the JWKS. `none` does not exist here.
//! - Claims are neither believed nor talked about before the signature has been verified.
//! - No token, secret or claim is written to a log or shown by `Debug`.
//!
//! Sources: RFC 7515 (JWS), RFC 7517 (JWK), RFC 7518 (algorithms), RFC 7519 (JWT), RFC 8037 (EdDSA), RFC 8725 (best
//! practice), RFC 6750 (bearer tokens).
//!
//! It deliberately does not decide what a user may do, keeps no sessions, and knows no revocation: a token is good until
//! it expires.

mod credentials;
mod issue;
mod jwks;
mod secret;
mod shared_secrets;
pub mod token;
mod verifier;

pub use self::{
    credentials::{find_api_token, find_token, offers_native_protocol},
    issue::{IssueError, issue},
    jwks::{JwksError, JwksSource, KeySet},
    secret::{SECRET_BYTES_MIN, Secret, SecretTooShort},
    shared_secrets::{SecretsError, SharedSecrets},
    token::{AuthError, Identity, Token},
    verifier::{AuthConfig, AuthConfigError, JwksTiming, Verifier},
};
