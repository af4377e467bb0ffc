//! Judges tokens. The only place that does.
//!
//! A token is looked at in this order, and the first thing wrong is the answer: length, form, algorithm, key, signature,
//! and only then the claims. Verifying is synchronous and costs microseconds; only a key that is not there yet is worth
//! waiting for, and that wait is bounded.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, crypto};
use serde::{Deserialize, Deserializer, de::IgnoredAny};
use serde_json::Value;
use uuid::Uuid;

use super::{
    AuthError, Identity, JwksError, JwksSource, KeySet, Secret, Token,
    jwks::{Jwks, Lookup},
};
use crate::{tasks::Tasks, types::UserId};

/// The longest token that is looked at, in bytes. Tokens of real issuers have one to four thousand; most servers refuse
/// header lines beyond 8 KiB anyway.
const TOKEN_BYTES_MAX: usize = 8192;
/// How far the issuer's clock may be ahead of ours, for `nbf`. `exp` gets no such grace: who renews in time needs none.
const CLOCK_SKEW: Duration = Duration::from_secs(10);
/// The last second of the year 9999, the end of what RFC 3339 can write. Later expiry is taken for this.
const EXPIRY_SECONDS_MAX: u64 = 253_402_300_799;

/// How tokens are checked.
#[derive(Clone, Debug, Default)]
pub struct AuthConfig {
    /// The shared secret; with it HS256 is accepted.
    pub secret: Option<Secret>,
    /// Where public keys come from; with them RS256, ES256 and EdDSA are accepted, as far as there are keys.
    pub jwks: Option<JwksSource>,
    /// What `aud` has to be or to contain, if set.
    pub audience: Option<String>,
    /// What `iss` has to be, if set.
    pub issuer: Option<String>,
    /// When keys are read again.
    pub timing: JwksTiming,
}

/// When keys are read again, and how long anyone waits for that.
#[derive(Clone, Copy, Debug)]
pub struct JwksTiming {
    /// Between two readings of a file.
    pub file_interval: Duration,
    /// Between two fetches from a URL.
    pub url_interval: Duration,
    /// At least this lies between two readings that an unknown key has called for, so that made-up key names cannot turn
    /// the gateway against the issuer.
    pub demand_interval: Duration,
    /// How long a token with an unknown key waits for the reading it called for.
    pub demand_wait: Duration,
    /// How long one fetch may take, to the last byte.
    pub fetch_deadline: Duration,
    /// The first ceiling of the delay after a failure.
    pub retry_base: Duration,
    /// The last ceiling of the delay after failures.
    pub retry_cap: Duration,
}

impl Default for JwksTiming {
    fn default() -> Self {
        Self {
            file_interval: Duration::from_secs(30),
            url_interval: Duration::from_secs(300),
            demand_interval: Duration::from_secs(10),
            demand_wait: Duration::from_secs(2),
            fetch_deadline: Duration::from_secs(5),
            retry_base: Duration::from_secs(1),
            retry_cap: Duration::from_secs(60),
        }
    }
}

/// Why no verifier could be made.
#[derive(Debug, thiserror::Error)]
pub enum AuthConfigError {
    /// Nothing to check tokens with.
    #[error("no way to check tokens: set HERALD_JWT_SECRET, or HERALD_JWKS to a file or URL, or both")]
    NoKeys,
    /// The JWKS file cannot be used, or a URL cannot be fetched at all.
    #[error("HERALD_JWKS: {0}")]
    Jwks(#[from] JwksError),
}

/// Turns tokens into identities. Clones share the keys.
#[derive(Clone, Debug)]
pub struct Verifier {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    secret: Option<DecodingKey>,
    jwks: Option<Jwks>,
    audience: Option<String>,
    issuer: Option<String>,
}

impl Verifier {
    /// Reads the keys and starts the task that keeps them fresh, if there is a JWKS.
    ///
    /// A file must be good at the start. A URL may be away: until it is there, tokens that need its keys are answered
    /// with [`AuthError::KeysUnavailable`].
    ///
    /// # Errors
    /// [`AuthConfigError`].
    ///
    /// # Cancel safety
    /// Safe: nothing is started before the last await.
    pub async fn start(config: AuthConfig, tasks: &Tasks) -> Result<Self, AuthConfigError> {
        if config.secret.is_none() && config.jwks.is_none() {
            return Err(AuthConfigError::NoKeys);
        }
        let jwks = match config.jwks {
            Some(source) => Some(Jwks::start(source, config.timing, tasks).await?),
            None => None,
        };
        let secret = config
            .secret
            .map(|secret| DecodingKey::from_secret(secret.as_bytes()));
        let shared = Shared {
            secret,
            jwks,
            audience: config.audience,
            issuer: config.issuer,
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Checks a token with the keys at hand.
    ///
    /// # Errors
    /// [`AuthError`].
    pub fn verify(&self, token: &Token) -> Result<Identity, AuthError> {
        self.verify_at(token, SystemTime::now())
    }

    /// Checks a token as of a given time.
    ///
    /// # Errors
    /// [`AuthError`].
    pub fn verify_at(&self, token: &Token, now: SystemTime) -> Result<Identity, AuthError> {
        let parts = Parts::split(token.expose())?;
        self.verify_signature(&parts)?;
        let claims = decode(parts.payload)
            .and_then(|bytes| String::from_utf8(bytes).map_err(|_| AuthError::Malformed))?;
        self.check_claims(claims, now)
    }

    /// Checks a token, and if its key is not at hand, calls for the keys once and checks again. That wait is bounded
    /// ([`JwksTiming::demand_wait`]), and however many tokens ask, the source is asked rarely
    /// ([`JwksTiming::demand_interval`]).
    ///
    /// # Errors
    /// [`AuthError`].
    ///
    /// # Cancel safety
    /// Safe: it only waits; the reading it has called for goes on for the others.
    pub async fn authenticate(&self, token: &Token) -> Result<Identity, AuthError> {
        match (self.verify(token), &self.shared.jwks) {
            (Err(AuthError::UnknownKey | AuthError::KeysUnavailable), Some(jwks)) => {
                jwks.refreshed().await;
                self.verify(token)
            }
            (answer, _) => answer,
        }
    }

    fn verify_signature(&self, parts: &Parts<'_>) -> Result<(), AuthError> {
        let header: JoseHeader = json(&decode(parts.header)?)?;
        if header.crit.is_some() {
            // RFC 7515 §4.1.11: an extension that is not understood makes the token invalid.
            return Err(AuthError::Malformed);
        }
        let algorithm = match header.alg.as_str() {
            "HS256" => Algorithm::HS256,
            "RS256" => Algorithm::RS256,
            "ES256" => Algorithm::ES256,
            "EdDSA" => Algorithm::EdDSA,
            _ => return Err(AuthError::UnsupportedAlgorithm),
        };
        // The algorithm decides which keys are looked at, and no key is ever looked at for two algorithms: a public key
        // cannot be taken for the shared secret.
        match (algorithm, &self.shared.secret, &self.shared.jwks) {
            (Algorithm::HS256, Some(secret), _) => check(parts, secret, algorithm),
            (Algorithm::HS256, None, _) | (_, _, None) => Err(AuthError::UnsupportedAlgorithm),
            (_, _, Some(jwks)) => {
                let keys = jwks.keys()?;
                verify_with(&keys, parts, algorithm, header.kid.as_deref())
            }
        }
    }

    fn check_claims(&self, text: String, now: SystemTime) -> Result<Identity, AuthError> {
        let claims: Claims = json(text.as_bytes())?;
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let expiry = claims
            .exp
            .as_ref()
            .and_then(numeric_date)
            .ok_or(AuthError::MissingClaim("exp"))?;
        if expiry <= now {
            return Err(AuthError::Expired);
        }
        if let Some(not_before) = &claims.nbf {
            let not_before = numeric_date(not_before).ok_or(AuthError::MissingClaim("nbf"))?;
            if not_before > now + CLOCK_SKEW {
                return Err(AuthError::NotYetValid);
            }
        }
        if let Some(expected) = &self.shared.issuer {
            let issuer = claims
                .iss
                .as_ref()
                .and_then(Value::as_str)
                .ok_or(AuthError::MissingClaim("iss"))?;
            if issuer != expected {
                return Err(AuthError::WrongIssuer);
            }
        }
        if let Some(expected) = &self.shared.audience {
            check_audience(claims.aud.as_ref(), expected)?;
        }
        let subject = claims
            .sub
            .as_ref()
            .and_then(Value::as_str)
            .ok_or(AuthError::MissingClaim("sub"))?;
        let user = hyphenated(subject).ok_or(AuthError::InvalidSubject)?;
        Ok(Identity {
            user,
            expires_at: UNIX_EPOCH + expiry,
            claims: text.into_boxed_str(),
        })
    }
}

/// The three parts of a compact JWS, still encoded.
struct Parts<'a> {
    /// Header and payload with the dot between them, which is what is signed.
    message: &'a str,
    header: &'a str,
    payload: &'a str,
    signature: &'a str,
}

impl<'a> Parts<'a> {
    fn split(token: &'a str) -> Result<Self, AuthError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(AuthError::TooLong);
        }
        let (message, signature) = token.rsplit_once('.').ok_or(AuthError::Malformed)?;
        let (header, payload) = message.split_once('.').ok_or(AuthError::Malformed)?;
        // Five parts would be an encrypted token (RFC 7516).
        if payload.contains('.') {
            Err(AuthError::Malformed)
        } else {
            Ok(Self {
                message,
                header,
                payload,
                signature,
            })
        }
    }
}

/// The members of the header that matter. Keys that a token brings itself (`jwk`, `jku`, `x5c`) are never looked at.
#[derive(Deserialize)]
struct JoseHeader {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default, deserialize_with = "present")]
    crit: Option<()>,
}

/// The registered claims that are checked. A claim that occurs twice is an error of this type, so that nobody else can
/// read the other one.
#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    sub: Option<Value>,
    #[serde(default)]
    exp: Option<Value>,
    #[serde(default)]
    nbf: Option<Value>,
    #[serde(default)]
    aud: Option<Value>,
    #[serde(default)]
    iss: Option<Value>,
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<()>, D::Error> {
    IgnoredAny::deserialize(deserializer).map(|_| Some(()))
}

/// Base64url without padding (RFC 7515 §2).
pub(super) fn decode(part: &str) -> Result<Vec<u8>, AuthError> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| AuthError::Malformed)
}

fn json<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, AuthError> {
    serde_json::from_slice(bytes).map_err(|_| AuthError::Malformed)
}

/// Tries the keys that may have signed the token. What each is good for is a property of the key.
fn verify_with(
    keys: &KeySet,
    parts: &Parts<'_>,
    algorithm: Algorithm,
    kid: Option<&str>,
) -> Result<(), AuthError> {
    match keys.candidates(algorithm, kid) {
        Lookup::OtherAlgorithm => Err(AuthError::UnsupportedAlgorithm),
        Lookup::Unknown => Err(AuthError::UnknownKey),
        Lookup::Keys(candidates) => {
            let mut answer = Err(AuthError::UnknownKey);
            for key in candidates {
                answer = check(parts, key, algorithm);
                if answer != Err(AuthError::BadSignature) {
                    break;
                }
            }
            answer
        }
    }
}

fn check(parts: &Parts<'_>, key: &DecodingKey, algorithm: Algorithm) -> Result<(), AuthError> {
    match crypto::verify(parts.signature, parts.message.as_bytes(), key, algorithm) {
        Ok(true) => Ok(()),
        Ok(false) => Err(AuthError::BadSignature),
        // The key's kind was checked when it was read, so what is left is a signature that is not base64url.
        Err(_) => Err(AuthError::Malformed),
    }
}

fn check_audience(audience: Option<&Value>, expected: &str) -> Result<(), AuthError> {
    let matches = match audience {
        Some(Value::String(single)) => single == expected,
        Some(Value::Array(several)) => several.iter().any(|one| one.as_str() == Some(expected)),
        _ => return Err(AuthError::MissingClaim("aud")),
    };
    if matches {
        Ok(())
    } else {
        Err(AuthError::WrongAudience)
    }
}

/// RFC 7519 §2: seconds since 1970, which may have a fraction. What lies before is 1970, what lies beyond the calendar its
/// end.
fn numeric_date(value: &Value) -> Option<Duration> {
    let end = Duration::from_secs(EXPIRY_SECONDS_MAX);
    if let Some(seconds) = value.as_u64() {
        return Some(Duration::from_secs(seconds).min(end));
    }
    let seconds = value.as_f64()?.max(0.0);
    Some(Duration::try_from_secs_f64(seconds).unwrap_or(end).min(end))
}

/// Only the form that RFC 9562 writes: the other spellings would make one user of the database many in a log.
fn hyphenated(text: &str) -> Option<UserId> {
    const LENGTH: usize = uuid::fmt::Hyphenated::LENGTH;
    (text.len() == LENGTH)
        .then(|| Uuid::try_parse(text).ok().map(UserId))
        .flatten()
}
