//! The shared secret of HS256: long enough, and never shown.

use std::fmt;

/// The shared secret of HS256. It does not show itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

/// The shortest secret, in bytes: a key for HS256 has at least the size of the hash (RFC 7518 §3.2). A shorter one can be
/// found by trying.
pub const SECRET_BYTES_MIN: usize = 32;

impl Secret {
    /// Takes a secret of at least [`SECRET_BYTES_MIN`] bytes.
    ///
    /// # Errors
    /// It is shorter.
    pub fn new(secret: impl Into<Vec<u8>>) -> Result<Self, SecretTooShort> {
        let secret = secret.into();
        if secret.len() < SECRET_BYTES_MIN {
            Err(SecretTooShort { bytes: secret.len() })
        } else {
            Ok(Self(secret))
        }
    }

    /// The secret itself, for the cryptography.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(redacted)")
    }
}

/// A shared secret that could be guessed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the secret has {bytes} bytes and needs at least {SECRET_BYTES_MIN}; `openssl rand -base64 48` makes a good one"
)]
pub struct SecretTooShort {
    bytes: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_that_could_be_guessed_is_refused_and_none_is_shown() {
        let told = Secret::new("short-secret").unwrap_err().to_string();
        assert!(
            told.contains("12 bytes") && told.contains("at least 32") && !told.contains("short-secret"),
            "{told}"
        );
        let secret = Secret::new("a-secret-of-exactly-32-bytes-....").unwrap();
        assert_eq!(format!("{secret:?}"), "Secret(redacted)");
    }
}
