//! What can be wrong with a token.

use std::fmt;

/// Every way a token can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AuthError {
    /// The request brings none.
    MissingToken,
    /// It is not three parts of base64url with JSON in them, or demands an extension nobody knows (`crit`).
    Malformed,
    /// It is longer than any token of an honest issuer.
    TooLong,
    /// Its algorithm is not one that this gateway was set up for, or not that of the key it names.
    UnsupportedAlgorithm,
    /// It names a key that is not in the JWKS.
    UnknownKey,
    /// Its signature does not belong to it.
    BadSignature,
    /// Its `exp` has come.
    Expired,
    /// Its `nbf` has not come.
    NotYetValid,
    /// Its `aud` does not name this gateway.
    WrongAudience,
    /// Its `iss` is not the one expected.
    WrongIssuer,
    /// A claim is missing or has another type than RFC 7519 gives it.
    MissingClaim(&'static str),
    /// Its `sub` is not a UUID.
    InvalidSubject,
    /// The JWKS has not been read yet: the token may well be good.
    KeysUnavailable,
}

impl AuthError {
    /// All reasons, for a metric that shows each of them from the start.
    pub const REASONS: [&'static str; 13] = [
        "missing_token",
        "malformed",
        "too_long",
        "unsupported_algorithm",
        "unknown_key",
        "bad_signature",
        "expired",
        "not_yet_valid",
        "wrong_audience",
        "wrong_issuer",
        "missing_claim",
        "invalid_subject",
        "keys_unavailable",
    ];

    /// The stable label of the metric `herald_auth_failures{reason}`.
    pub const fn reason(self) -> &'static str {
        let [
            missing_token,
            malformed,
            too_long,
            unsupported_algorithm,
            unknown_key,
            bad_signature,
            expired,
            not_yet_valid,
            wrong_audience,
            wrong_issuer,
            missing_claim,
            invalid_subject,
            keys_unavailable,
        ] = Self::REASONS;
        match self {
            Self::MissingToken => missing_token,
            Self::Malformed => malformed,
            Self::TooLong => too_long,
            Self::UnsupportedAlgorithm => unsupported_algorithm,
            Self::UnknownKey => unknown_key,
            Self::BadSignature => bad_signature,
            Self::Expired => expired,
            Self::NotYetValid => not_yet_valid,
            Self::WrongAudience => wrong_audience,
            Self::WrongIssuer => wrong_issuer,
            Self::MissingClaim(_) => missing_claim,
            Self::InvalidSubject => invalid_subject,
            Self::KeysUnavailable => keys_unavailable,
        }
    }

    /// A sentence for the token's owner. It tells nothing about the keys, and of the claims only what a holder of a
    /// properly signed token may know.
    pub const fn detail(self) -> &'static str {
        match self {
            Self::MissingToken => {
                "A token is needed: send it as `Authorization: Bearer <token>`, as the WebSocket subprotocol \
                 `bearer.<token>` beside `herald.v1`, or as the query parameter `access_token`."
            }
            Self::Malformed => "The token is not a JSON Web Token; send it whole, as the issuer gave it.",
            Self::TooLong => "The token is longer than 8192 bytes; ask the issuer for one with fewer claims.",
            Self::UnsupportedAlgorithm => "The token's algorithm is not accepted here.",
            Self::UnknownKey => "The token was signed with a key that is not known here; get a new token.",
            Self::BadSignature => {
                "The token's signature does not match; get a new token from the right issuer."
            }
            Self::Expired => "The token has expired; get a new one.",
            Self::NotYetValid => "The token is not valid yet; check the clock of the issuer.",
            Self::WrongAudience => "The token was issued for another audience (`aud`).",
            Self::WrongIssuer => "The token comes from another issuer (`iss`) than is expected here.",
            Self::MissingClaim(claim) => Self::about_claim(claim),
            Self::InvalidSubject => "The token's `sub` is not a UUID, so it names no user.",
            Self::KeysUnavailable => "Tokens cannot be checked at the moment; try again in a few seconds.",
        }
    }

    const fn about_claim(claim: &str) -> &'static str {
        match claim.as_bytes() {
            b"exp" => "The token's `exp` is missing or not a number; it must say when it expires.",
            b"nbf" => "The token's `nbf` is not a number.",
            b"sub" => "The token's `sub` is missing or not text; it must name the user.",
            b"aud" => "The token's `aud` is missing or not text; it must name its audience.",
            b"iss" => "The token's `iss` is missing or not text; it must name its issuer.",
            _ => "The token lacks a claim that is needed here.",
        }
    }
}

impl fmt::Display for AuthError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.detail())
    }
}

impl std::error::Error for AuthError {}
