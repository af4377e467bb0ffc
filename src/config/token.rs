//! What `herald token` is told, and how tokens are signed, which `herald serve` is told in the same words.

use std::{ffi::OsString, time::Duration};

use clap::Args;
use uuid::Uuid;

use super::{
    Mistakes, quantity,
    secret::{self, Place},
};
use crate::{
    auth::{Secret, SharedSecrets},
    types::UserId,
};

/// The variable of the shared secret.
pub const SECRET_VARIABLE: &str = "HERALD_JWT_SECRET";

/// The settings of tokens that making and checking them share.
#[derive(Clone, Debug, Args)]
pub struct JwtFlags {
    /// Shared secret of HS256 tokens, at least 32 bytes. Prefer the variable: a flag is seen by everyone on the machine.
    #[arg(long, env = SECRET_VARIABLE, hide_env_values = true, value_name = "SECRET")]
    pub jwt_secret: Option<String>,
    /// A file with that secret, in place of it, or with several of them, one in each line: the first one signs, and all are accepted. The gateway
    /// reads it again every 2 s.
    #[arg(long, env = "HERALD_JWT_SECRET_FILE", value_name = "FILE")]
    pub jwt_secret_file: Option<OsString>,
    /// Audience (`aud`) that tokens must have.
    #[arg(long, env = "HERALD_JWT_AUDIENCE", value_name = "AUDIENCE")]
    pub jwt_audience: Option<String>,
    /// Issuer (`iss`) that tokens must have.
    #[arg(long, env = "HERALD_JWT_ISSUER", value_name = "ISSUER")]
    pub jwt_issuer: Option<String>,
}

/// [`JwtFlags`], checked. A variable that is set to nothing counts as not set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtSettings {
    /// The shared secrets, if there are any.
    pub secrets: Option<SharedSecrets>,
    /// The audience, if it is checked.
    pub audience: Option<String>,
    /// The issuer, if it is checked.
    pub issuer: Option<String>,
}

impl JwtFlags {
    /// Whether a shared secret was given, be it of use or not.
    pub fn has_secret(&self) -> bool {
        secret::is_given(self.jwt_secret.as_ref(), self.jwt_secret_file.as_ref())
    }

    /// Notes what is wrong, and answers the rest.
    pub fn check(self, mistakes: &mut Mistakes) -> JwtSettings {
        let set = |value: Option<String>| value.filter(|value| !value.is_empty());
        let secrets = match secret::place(SECRET_VARIABLE, self.jwt_secret, self.jwt_secret_file, mistakes) {
            Place::Typed(secret) => mistakes
                .check(SECRET_VARIABLE, Secret::new(secret))
                .map(SharedSecrets::from),
            Place::File(setting, file) => mistakes.check(&setting, SharedSecrets::open(&file)),
            Place::Nowhere | Place::Both => None,
        };
        JwtSettings {
            secrets,
            audience: set(self.jwt_audience),
            issuer: set(self.jwt_issuer),
        }
    }
}

/// `herald token` as typed.
#[derive(Clone, Debug, Args)]
pub struct TokenFlags {
    /// The user the token speaks for: the id of a row in `profiles`.
    #[arg(long, value_name = "UUID")]
    pub user: String,
    /// How long the token is good: a number with s, m, h or d.
    #[arg(long, default_value = "1h", value_name = "DURATION")]
    pub expires_in: String,
    /// How it is signed.
    #[command(flatten)]
    pub jwt: JwtFlags,
}

/// [`TokenFlags`], checked.
#[derive(Clone, Debug)]
pub struct TokenSettings {
    /// The claim `sub`.
    pub user: UserId,
    /// From now until `exp`.
    pub lifetime: Duration,
    /// What signs it.
    pub secret: Secret,
    /// The claim `aud`.
    pub audience: Option<String>,
    /// The claim `iss`.
    pub issuer: Option<String>,
}

impl TokenFlags {
    /// Checks everything.
    ///
    /// # Errors
    /// All mistakes at once.
    pub fn check(self) -> Result<TokenSettings, Mistakes> {
        let mut mistakes = Mistakes::none();
        let user = mistakes.check("--user", user(&self.user));
        let lifetime = mistakes.check("--expires-in", lifetime(&self.expires_in));
        if !self.jwt.has_secret() {
            mistakes.note(
                SECRET_VARIABLE,
                "is not set; set it to the secret that `herald serve` has",
            );
        }
        let JwtSettings {
            secrets,
            audience,
            issuer,
        } = self.jwt.check(&mut mistakes);
        let (Some(user), Some(lifetime), Some(secrets)) = (user, lifetime, secrets) else {
            return Err(mistakes);
        };
        Ok(TokenSettings {
            user,
            lifetime,
            secret: secrets.first().clone(),
            audience,
            issuer,
        })
    }
}

fn user(text: &str) -> Result<UserId, String> {
    Uuid::try_parse(text)
        .map(UserId)
        .map_err(|_| format!("`{text}` is not a UUID; give the id of a row in `profiles`"))
}

fn lifetime(text: &str) -> Result<Duration, String> {
    match quantity::duration(text)? {
        // `exp` counts whole seconds, so such a token would have expired when it is made.
        short if short < Duration::from_secs(1) => Err(format!("`{text}` is too short; give at least 1s")),
        lifetime => Ok(lifetime),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(user: &str, expires_in: &str, secret: Option<&str>) -> TokenFlags {
        let jwt = JwtFlags {
            jwt_secret: secret.map(str::to_owned),
            jwt_secret_file: None,
            jwt_audience: Some(String::new()),
            jwt_issuer: Some("https://issuer".to_owned()),
        };
        TokenFlags {
            user: user.to_owned(),
            expires_in: expires_in.to_owned(),
            jwt,
        }
    }

    #[test]
    fn every_mistake_is_told_at_once_and_none_shows_the_secret() {
        let told = flags("alice", "soon", Some("too-short"))
            .check()
            .unwrap_err()
            .to_string();
        for part in [
            "--user: `alice` is not a UUID",
            "--expires-in: `soon`",
            "HERALD_JWT_SECRET: the secret has 9 bytes",
        ] {
            assert!(told.contains(part), "{told}");
        }
        assert!(!told.contains("too-short"), "{told}");
        let user = Uuid::nil().to_string();
        for missing in [None, Some("")] {
            let told = flags(&user, "900ms", missing).check().unwrap_err().to_string();
            assert!(told.contains("HERALD_JWT_SECRET: is not set"), "{told}");
            assert!(told.contains("at least 1s"), "{told}");
        }
    }

    #[test]
    fn a_variable_that_is_set_to_nothing_counts_as_not_set() {
        let settings = flags(&Uuid::nil().to_string(), "2h", Some(&"s".repeat(32)))
            .check()
            .unwrap();
        assert_eq!(settings.lifetime, Duration::from_secs(7200));
        assert_eq!(
            (settings.audience, settings.issuer.as_deref()),
            (None, Some("https://issuer"))
        );
    }
}
