//! The form of a token: a compact JWS (RFC 7515), of which nothing has been believed yet.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Deserializer, de::IgnoredAny};

use super::AuthError;

/// The longest token that is looked at, in bytes. Tokens of real issuers have one to four thousand; most servers refuse
/// header lines beyond 8 KiB anyway.
pub const TOKEN_BYTES_MAX: usize = 8192;

/// The three parts of a compact JWS, still encoded.
#[derive(Clone, Copy)]
pub struct Parts<'a> {
    /// Header and payload with the dot between them, which is what is signed.
    pub message: &'a str,
    header: &'a str,
    payload: &'a str,
    /// What is to belong to the message.
    pub signature: &'a str,
}

impl fmt::Debug for Parts<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Parts(redacted)")
    }
}

impl<'a> Parts<'a> {
    /// Takes a token apart.
    ///
    /// # Errors
    /// [`AuthError::TooLong`], or [`AuthError::Malformed`] if it has not three parts.
    pub fn split(token: &'a str) -> Result<Self, AuthError> {
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

    /// What the token says of its signature.
    ///
    /// # Errors
    /// [`AuthError::Malformed`]; also if it demands an extension, since none is understood here (RFC 7515 §4.1.11).
    pub fn header(&self) -> Result<Header, AuthError> {
        let header: Header = json(&decode(self.header)?)?;
        if header.crit.is_some() {
            return Err(AuthError::Malformed);
        }
        Ok(header)
    }

    /// The text of the claims.
    ///
    /// # Errors
    /// [`AuthError::Malformed`] if it is no base64url of UTF-8.
    pub fn payload(&self) -> Result<String, AuthError> {
        String::from_utf8(decode(self.payload)?).map_err(|_| AuthError::Malformed)
    }
}

/// The members of the header that matter. Keys that a token brings itself (`jwk`, `jku`, `x5c`) are never looked at.
#[derive(Debug, Deserialize)]
pub struct Header {
    /// The name of the algorithm (RFC 7518 §3.1).
    pub alg: String,
    /// The name of the key.
    #[serde(default)]
    pub kid: Option<String>,
    #[serde(default, deserialize_with = "present")]
    crit: Option<()>,
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<()>, D::Error> {
    IgnoredAny::deserialize(deserializer).map(|_| Some(()))
}

/// Reads base64url without padding (RFC 7515 §2).
///
/// # Errors
/// [`AuthError::Malformed`].
pub fn decode(part: &str) -> Result<Vec<u8>, AuthError> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| AuthError::Malformed)
}

/// Reads a JSON object. Serde would also take an array for a struct, member by member.
pub(super) fn json<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, AuthError> {
    if !bytes.trim_ascii_start().starts_with(b"{") {
        return Err(AuthError::Malformed);
    }
    serde_json::from_slice(bytes).map_err(|_| AuthError::Malformed)
}
