//! Who a client command speaks for: a user whose tokens it signs itself, or whoever it was given a token of.

use std::time::Duration;

use uuid::Uuid;

use super::{
    Mistakes,
    token::{JwtFlags, JwtSettings, SECRET_VARIABLE},
};
use crate::{
    auth::Token,
    client::{Credentials, Signer},
    types::UserId,
};

/// How long each of the client's own tokens is good. It makes new ones as it goes, so that one that leaks is soon worth
/// nothing.
const OWN_TOKEN_LIFETIME: Duration = Duration::from_secs(5 * 60);

/// Checks who is meant by `--as`, and what proves it; notes what is wrong. `purpose` says what `--as` is for.
pub(super) fn check(
    user_typed: Option<String>,
    token: Option<String>,
    jwt: JwtFlags,
    purpose: &str,
    mistakes: &mut Mistakes,
) -> (Option<UserId>, Option<Credentials>) {
    let set = |value: Option<String>| value.filter(|value| !value.is_empty());
    let typed = set(user_typed);
    let user = typed
        .as_deref()
        .and_then(|text| mistakes.check("--as", user(text)));
    let credentials = if let Some(token) = set(token) {
        Some(Credentials::Given(Token::new(token)))
    } else {
        if typed.is_none() {
            mistakes.note(
                "--as",
                format_args!("not given; say {purpose}, or give a token by HERALD_TOKEN"),
            );
        }
        signer(jwt, user, mistakes).map(Credentials::Signed)
    };
    (user, credentials)
}

/// What signs the client's own tokens.
fn signer(jwt: JwtFlags, user: Option<UserId>, mistakes: &mut Mistakes) -> Option<Signer> {
    if !jwt.has_secret() {
        let what = "not set; set it to the secret that `herald serve` has, or give a token by HERALD_TOKEN";
        mistakes.note(SECRET_VARIABLE, what);
    }
    let JwtSettings {
        secrets,
        audience,
        issuer,
    } = jwt.check(mistakes);
    Some(Signer {
        secret: secrets?.first().clone(),
        user: user?,
        audience,
        issuer,
        lifetime: OWN_TOKEN_LIFETIME,
    })
}

/// Reads the id of a person.
pub(super) fn user(text: &str) -> Result<UserId, String> {
    Uuid::try_parse(text)
        .map(UserId)
        .map_err(|_| format!("`{text}` is not a UUID; give the id of a row in `profiles`"))
}
