//! What a token says, before its signature is looked at and after that: as it was brought, and made of a header and claims so that a
//! fuzzer need not find base64 by itself. The first line of the input is the header, the rest are the claims.

#![no_main]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use herald_fuzz::token::{AuthError, EXPIRY_SECONDS_MAX, Expected, Parts, TOKEN_BYTES_MAX};
use libfuzzer_sys::fuzz_target;

/// The time of judgement, in seconds since 1970.
const NOW: u64 = 1_800_000_000;

fuzz_target!(|data: &[u8]| {
    if let Ok(token) = str::from_utf8(data) {
        judge(token);
    }
    let mut lines = data.splitn(2, |byte| *byte == b'\n');
    let [header, claims] = [(); 2].map(|()| URL_SAFE_NO_PAD.encode(lines.next().unwrap_or_default()));
    judge(&format!("{header}.{claims}.c2lnbmF0dXJl"));
});

fn judge(token: &str) {
    let parts = match Parts::split(token) {
        Ok(parts) => parts,
        Err(error) => {
            let is_long = token.len() > TOKEN_BYTES_MAX;
            assert_eq!(
                error,
                if is_long {
                    AuthError::TooLong
                } else {
                    AuthError::Malformed
                }
            );
            return;
        }
    };
    assert_eq!(format!("{}.{}", parts.message, parts.signature), token);
    // It is read, and whom it names makes no difference here.
    let _header = parts.header();
    let Ok(payload) = parts.payload() else { return };
    let anybody = Expected::default();
    let somebody = Expected {
        audience: Some("chat".to_owned()),
        issuer: Some("https://issuer".to_owned()),
    };
    let now = UNIX_EPOCH + Duration::from_secs(NOW);
    let found = anybody.identity(payload.clone(), now);
    check(found.as_ref().ok().map(|identity| identity.expires_at), now);
    // Whoever expects more lets in no more.
    if let Ok(strict) = somebody.identity(payload.clone(), now) {
        assert_eq!(found.as_ref(), Ok(&strict));
    }
    match anybody.recognise(payload, now) {
        Ok(Some(identity)) => assert_eq!(found, Ok(identity)),
        Ok(None) => assert!(found.is_err()),
        Err(error) => assert_eq!(found, Err(error)),
    }
}

fn check(expires_at: Option<SystemTime>, now: SystemTime) {
    let end = UNIX_EPOCH + Duration::from_secs(EXPIRY_SECONDS_MAX);
    assert!(expires_at.is_none_or(|expires_at| expires_at > now && expires_at <= end));
}
