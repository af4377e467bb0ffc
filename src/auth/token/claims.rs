//! The claims of a token whose signature is good.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use super::{AuthError, Identity, parts::json};
use crate::types::UserId;

/// How far the issuer's clock may be ahead of ours, for `nbf`. `exp` gets no such grace: who renews in time needs none.
const CLOCK_SKEW: Duration = Duration::from_secs(10);
/// The last second of the year 9999, the end of what RFC 3339 can write. Later expiry is taken for this.
pub const EXPIRY_SECONDS_MAX: u64 = 253_402_300_799;

/// What a token has to be for, if that is asked.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    /// What `aud` has to be or to contain.
    pub audience: Option<String>,
    /// What `iss` has to be.
    pub issuer: Option<String>,
}

impl Expected {
    /// Whom the claims speak for at this time.
    ///
    /// # Errors
    /// [`AuthError`]: the first thing that is wrong with them.
    pub fn identity(&self, payload: String, now: SystemTime) -> Result<Identity, AuthError> {
        let claims: Claims = json(payload.as_bytes())?;
        let expiry = check_times(&claims, now)?;
        if let Some(expected) = &self.issuer
            && text(claims.iss.as_ref(), "iss")? != expected
        {
            return Err(AuthError::WrongIssuer);
        }
        if let Some(expected) = &self.audience {
            check_audience(claims.aud.as_ref(), expected)?;
        }
        let user = hyphenated(text(claims.sub.as_ref(), "sub")?).ok_or(AuthError::InvalidSubject)?;
        Ok(Identity {
            user,
            expires_at: UNIX_EPOCH + expiry,
            claims: payload.into_boxed_str(),
        })
    }

    /// As [`Self::identity`]; none if they speak for nobody, such as those of the key with which an application's pages call themselves.
    /// What else is expected of a person's token is not expected of such a one.
    ///
    /// # Errors
    /// [`AuthError`].
    pub fn recognise(&self, payload: String, now: SystemTime) -> Result<Option<Identity>, AuthError> {
        let claims: Claims = json(payload.as_bytes())?;
        if claims.sub.is_some() {
            return self.identity(payload, now).map(Some);
        }
        // A key that opens nothing by itself may be good for ever.
        if claims.exp.is_some() {
            check_times(&claims, now)?;
        }
        Ok(None)
    }
}

fn text<'a>(claim: Option<&'a Value>, name: &'static str) -> Result<&'a str, AuthError> {
    claim.and_then(Value::as_str).ok_or(AuthError::MissingClaim(name))
}

/// Whether the token is good at this time; answers when it ends.
fn check_times(claims: &Claims, now: SystemTime) -> Result<Duration, AuthError> {
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
    Ok(expiry)
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
