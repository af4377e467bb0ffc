//! Judges tokens. The only place that does.
//!
//! A token is looked at in this order, and the first thing wrong is the answer: length, form, algorithm, key, signature,
//! and only then the claims. Verifying is synchronous and costs microseconds; only a key that is not there yet is worth
//! waiting for, and that wait is bounded.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use jsonwebtoken::{Algorithm, DecodingKey, crypto};

use super::{
    AuthError, Identity, JwksError, JwksSource, KeySet, SharedSecrets, Token,
    jwks::{Jwks, Lookup},
    shared_secrets::SharedKeys,
    token::{Expected, Parts},
};
use crate::tasks::Tasks;

/// How tokens are checked.
#[derive(Clone, Debug, Default)]
pub struct AuthConfig {
    /// The shared secrets; with them HS256 is accepted.
    pub secrets: Option<SharedSecrets>,
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
    /// Between two readings of a file of shared secrets.
    pub secrets_interval: Duration,
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
            // Whoever puts a new secret beside the old one should not have to wait before it is used.
            secrets_interval: Duration::from_secs(2),
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
    secrets: Option<SharedKeys>,
    jwks: Option<Jwks>,
    expected: Expected,
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
        if config.secrets.is_none() && config.jwks.is_none() {
            return Err(AuthConfigError::NoKeys);
        }
        let jwks = match config.jwks {
            Some(source) => Some(Jwks::start(source, config.timing, tasks).await?),
            None => None,
        };
        let secrets = config
            .secrets
            .map(|secrets| SharedKeys::start(secrets, config.timing.secrets_interval, tasks));
        let shared = Shared {
            secrets,
            jwks,
            expected: Expected {
                audience: config.audience,
                issuer: config.issuer,
            },
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
        self.shared.expected.identity(parts.payload()?, now)
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
        let header = parts.header()?;
        let algorithm = match header.alg.as_str() {
            "HS256" => Algorithm::HS256,
            "RS256" => Algorithm::RS256,
            "ES256" => Algorithm::ES256,
            "EdDSA" => Algorithm::EdDSA,
            _ => return Err(AuthError::UnsupportedAlgorithm),
        };
        // The algorithm decides which keys are looked at, and no key is ever looked at for two algorithms: a public key
        // cannot be taken for the shared secret.
        match (algorithm, &self.shared.secrets, &self.shared.jwks) {
            (Algorithm::HS256, Some(secrets), _) => check_each(parts, secrets.load().iter(), algorithm),
            (Algorithm::HS256, None, _) | (_, _, None) => Err(AuthError::UnsupportedAlgorithm),
            (_, _, Some(jwks)) => {
                let keys = jwks.keys()?;
                verify_with(&keys, parts, algorithm, header.kid.as_deref())
            }
        }
    }

    /// Recognises the person behind a token; `None` if it is a good token that speaks for nobody, such as the key with which an
    /// application's pages call themselves. What else is expected of a person's token is not expected of such a one.
    ///
    /// # Errors
    /// [`AuthError`].
    pub fn recognise(&self, token: &Token) -> Result<Option<Identity>, AuthError> {
        let parts = Parts::split(token.expose())?;
        self.verify_signature(&parts)?;
        self.shared
            .expected
            .recognise(parts.payload()?, SystemTime::now())
    }

    /// As [`Self::recognise`], and waits as [`Self::authenticate`] does.
    ///
    /// # Errors
    /// [`AuthError`].
    ///
    /// # Cancel safety
    /// Safe, as with [`Self::authenticate`].
    pub async fn recognise_patiently(&self, token: &Token) -> Result<Option<Identity>, AuthError> {
        match (self.recognise(token), &self.shared.jwks) {
            (Err(AuthError::UnknownKey | AuthError::KeysUnavailable), Some(jwks)) => {
                jwks.refreshed().await;
                self.recognise(token)
            }
            (answer, _) => answer,
        }
    }
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
        Lookup::Keys(candidates) => check_each(parts, candidates.into_iter(), algorithm),
    }
}

/// Whether one of the keys has signed the token.
fn check_each<'a>(
    parts: &Parts<'_>,
    keys: impl Iterator<Item = &'a DecodingKey>,
    algorithm: Algorithm,
) -> Result<(), AuthError> {
    let mut answer = Err(AuthError::UnknownKey);
    for key in keys {
        answer = check(parts, key, algorithm);
        if answer != Err(AuthError::BadSignature) {
            break;
        }
    }
    answer
}

fn check(parts: &Parts<'_>, key: &DecodingKey, algorithm: Algorithm) -> Result<(), AuthError> {
    match crypto::verify(parts.signature, parts.message.as_bytes(), key, algorithm) {
        Ok(true) => Ok(()),
        Ok(false) => Err(AuthError::BadSignature),
        // The key's kind was checked when it was read, so what is left is a signature that is not base64url.
        Err(_) => Err(AuthError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    use jsonwebtoken::EncodingKey;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        auth::{
            Secret, issue,
            token::{EXPIRY_SECONDS_MAX, TOKEN_BYTES_MAX},
        },
        types::UserId,
    };

    const SECRET: &str = "a secret of the tests, which is long enough";
    const USER: &str = "8a6e0804-2bd0-4672-b79d-d97027f9071a";
    /// The time of these tests, in seconds since 1970.
    const NOW: u64 = 1_800_000_000;

    fn secret() -> Secret {
        Secret::new(SECRET).unwrap()
    }

    async fn verifier(audience: Option<&str>, issuer: Option<&str>) -> Verifier {
        let config = AuthConfig {
            secrets: Some(secret().into()),
            audience: audience.map(str::to_owned),
            issuer: issuer.map(str::to_owned),
            ..AuthConfig::default()
        };
        Verifier::start(config, &Tasks::new()).await.unwrap()
    }

    fn signed(header: &str, claims: &[u8]) -> Token {
        let message = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header),
            URL_SAFE_NO_PAD.encode(claims)
        );
        let key = EncodingKey::from_secret(SECRET.as_bytes());
        let signature = crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
        Token::new(format!("{message}.{signature}"))
    }

    fn token(claims: &Value) -> Token {
        signed(r#"{"alg":"HS256","typ":"JWT"}"#, claims.to_string().as_bytes())
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn verify(verifier: &Verifier, token: &Token) -> Result<Identity, AuthError> {
        verifier.verify_at(token, at(NOW))
    }

    #[tokio::test]
    async fn a_good_token_tells_its_user_its_end_and_its_claims_as_they_were_signed() {
        let claims = format!(
            r#"{{ "role":"authenticated", "sub":"{USER}", "exp":{}, "x":"é" }}"#,
            NOW + 60
        );
        let token = signed(
            r#"{"alg":"HS256","kid":"any","jku":"https://evil"}"#,
            claims.as_bytes(),
        );
        let identity = verify(&verifier(None, None).await, &token).unwrap();
        assert_eq!(identity.user.to_string(), USER);
        assert_eq!(identity.expires_at, at(NOW + 60));
        assert_eq!(&*identity.claims, claims);
        assert!(!format!("{identity:?} {token:?}").contains("authenticated"));
    }

    #[tokio::test]
    async fn the_claims_are_judged_one_by_one() {
        let verifier = verifier(Some("chat"), Some("https://issuer")).await;
        let good = json!({"sub": USER, "exp": NOW + 60, "aud": "chat", "iss": "https://issuer"});
        verify(&verifier, &token(&good)).unwrap();
        let far = NOW * 1000;
        for (claim, value, expected) in [
            ("exp", json!(NOW + 1), Ok(())),
            ("exp", json!(NOW), Err(AuthError::Expired)),
            ("exp", json!(NOW - 1), Err(AuthError::Expired)),
            ("exp", json!(-1), Err(AuthError::Expired)),
            ("exp", json!(1_800_000_000.5), Ok(())),
            ("exp", json!(1_800_000_000.0), Err(AuthError::Expired)),
            ("exp", json!(1e300), Ok(())),
            ("exp", json!(u64::MAX), Ok(())),
            ("exp", json!(far.to_string()), Err(AuthError::MissingClaim("exp"))),
            ("exp", Value::Null, Err(AuthError::MissingClaim("exp"))),
            ("exp", json!([far]), Err(AuthError::MissingClaim("exp"))),
            ("nbf", json!(NOW + 10), Ok(())),
            ("nbf", json!(NOW + 11), Err(AuthError::NotYetValid)),
            ("nbf", json!(1e300), Err(AuthError::NotYetValid)),
            ("nbf", json!("soon"), Err(AuthError::MissingClaim("nbf"))),
            ("nbf", Value::Null, Ok(())),
            ("aud", json!(["mail", "chat"]), Ok(())),
            ("aud", json!(["mail"]), Err(AuthError::WrongAudience)),
            ("aud", json!([]), Err(AuthError::WrongAudience)),
            ("aud", json!("Chat"), Err(AuthError::WrongAudience)),
            (
                "aud",
                json!({"chat": "chat"}),
                Err(AuthError::MissingClaim("aud")),
            ),
            ("aud", Value::Null, Err(AuthError::MissingClaim("aud"))),
            ("iss", json!("https://issuer/"), Err(AuthError::WrongIssuer)),
            (
                "iss",
                json!(["https://issuer"]),
                Err(AuthError::MissingClaim("iss")),
            ),
            ("iss", Value::Null, Err(AuthError::MissingClaim("iss"))),
            ("sub", json!(USER.to_uppercase()), Ok(())),
            ("sub", json!("alice"), Err(AuthError::InvalidSubject)),
            ("sub", json!(""), Err(AuthError::InvalidSubject)),
            (
                "sub",
                json!(USER.replace('-', "")),
                Err(AuthError::InvalidSubject),
            ),
            (
                "sub",
                json!(format!("{{{USER}}}")),
                Err(AuthError::InvalidSubject),
            ),
            ("sub", json!(7), Err(AuthError::MissingClaim("sub"))),
            ("sub", Value::Null, Err(AuthError::MissingClaim("sub"))),
        ] {
            let mut claims = good.clone();
            claims[claim] = value;
            assert_eq!(verify(&verifier, &token(&claims)).map(drop), expected, "{claims}");
        }
    }

    #[tokio::test]
    async fn audience_and_issuer_are_not_looked_at_unless_configured() {
        let claims = json!({"sub": USER, "exp": NOW + 60, "aud": 7, "iss": ["anyone"]});
        verify(&verifier(None, None).await, &token(&claims)).unwrap();
    }

    #[tokio::test]
    async fn an_end_beyond_the_calendar_becomes_the_end_of_the_calendar() {
        let claims = json!({"sub": USER, "exp": u64::MAX});
        let identity = verify(&verifier(None, None).await, &token(&claims)).unwrap();
        assert_eq!(identity.expires_at, at(EXPIRY_SECONDS_MAX));
    }

    #[tokio::test]
    async fn only_algorithms_that_were_set_up_are_accepted_whatever_the_token_says() {
        let verifier = verifier(None, None).await;
        let claims = json!({"sub": USER, "exp": NOW + 60}).to_string();
        for algorithm in [
            "none", "None", "NONE", "", "HS384", "HS512", "RS256", "ES256", "EdDSA", "PS256", "hs256",
        ] {
            let token = signed(&json!({"alg": algorithm}).to_string(), claims.as_bytes());
            assert_eq!(
                verify(&verifier, &token),
                Err(AuthError::UnsupportedAlgorithm),
                "{algorithm}"
            );
            let (message, _) = token.expose().rsplit_once('.').unwrap();
            let unsigned = Token::new(format!("{message}."));
            assert_eq!(
                verify(&verifier, &unsigned),
                Err(AuthError::UnsupportedAlgorithm),
                "{algorithm}"
            );
        }
    }

    #[tokio::test]
    async fn a_signature_is_judged_before_any_claim() {
        let verifier = verifier(None, None).await;
        let expired = token(&json!({"sub": "nobody", "exp": 1}));
        let (message, signature) = expired.expose().rsplit_once('.').unwrap();
        for wrong in [
            String::new(),
            "AAAA".to_owned(),
            "A".repeat(43),
            format!("{}A", &signature[..42]),
        ] {
            let answer = verify(&verifier, &Token::new(format!("{message}.{wrong}")));
            assert!(
                matches!(answer, Err(AuthError::BadSignature | AuthError::Malformed)),
                "{answer:?}"
            );
        }
        let garbage = format!("{}.!!!.{signature}", message.split_once('.').unwrap().0);
        assert_eq!(
            verify(&verifier, &Token::new(garbage)),
            Err(AuthError::BadSignature)
        );
    }

    #[tokio::test]
    async fn what_is_no_token_is_malformed() {
        let verifier = verifier(None, None).await;
        let claims = json!({"sub": USER, "exp": NOW + 60}).to_string();
        let good = signed(r#"{"alg":"HS256"}"#, claims.as_bytes());
        verify(&verifier, &good).unwrap();
        let good = good.expose();
        let mut wrong: Vec<Token> = [
            "",
            ".",
            "..",
            "...",
            "a.b",
            "a.b.c",
            &format!("{good}="),
            &format!("{good}.x"),
            &format!(" {good}"),
        ]
        .map(Token::new)
        .into();
        wrong.push(signed(
            r#"{"alg":"HS256","crit":["b64"],"b64":false}"#,
            claims.as_bytes(),
        ));
        wrong.push(signed(r#"{"alg":"HS256","crit":null}"#, claims.as_bytes()));
        wrong.push(signed(r#"{"alg":"HS256","alg":"HS256"}"#, claims.as_bytes()));
        wrong.push(signed(r#"{"typ":"JWT"}"#, claims.as_bytes()));
        wrong.push(signed(r#"{"alg":["HS256"]}"#, claims.as_bytes()));
        wrong.push(signed(r#"["HS256"]"#, claims.as_bytes()));
        let list = format!(r#"["{USER}", {}, null, null, null]"#, NOW + 60);
        for claims in ["", "null", "7", "{", "[]", &list, "{} x"] {
            wrong.push(signed(r#"{"alg":"HS256"}"#, claims.as_bytes()));
        }
        wrong.push(signed(r#"{"alg":"HS256"}"#, b"{\"sub\":\"\xff\"}"));
        let twice = format!(r#"{{"sub":"{USER}","exp":{0},"exp":{0}}}"#, NOW + 60);
        wrong.push(signed(r#"{"alg":"HS256"}"#, twice.as_bytes()));
        wrong.push(signed(r#"{"alg":"HS256"}"#, "[".repeat(4000).as_bytes()));
        for token in wrong {
            assert_eq!(
                verify(&verifier, &token),
                Err(AuthError::Malformed),
                "{}",
                token.expose()
            );
        }
    }

    #[tokio::test]
    async fn a_token_of_8_kib_is_read_and_a_longer_one_is_not_looked_at() {
        let verifier = verifier(None, None).await;
        let padded = |bytes: usize| token(&json!({"sub": USER, "exp": NOW + 60, "x": "x".repeat(bytes)}));
        let longest = (5000..6200)
            .rev()
            .map(padded)
            .find(|token| token.expose().len() <= TOKEN_BYTES_MAX)
            .unwrap();
        verify(&verifier, &longest).unwrap();
        assert_eq!(verify(&verifier, &padded(6200)), Err(AuthError::TooLong));
        assert_eq!(
            verify(&verifier, &Token::new("x".repeat(TOKEN_BYTES_MAX + 1))),
            Err(AuthError::TooLong)
        );
    }

    #[tokio::test]
    async fn a_token_that_was_made_here_is_accepted_here() {
        let verifier = verifier(Some("chat"), Some("herald")).await;
        let user = UserId(USER.parse().unwrap());
        let token = issue(
            &secret(),
            user,
            Some("chat"),
            Some("herald"),
            Duration::from_secs(3600),
        )
        .unwrap();
        let identity = verifier.authenticate(&token).await.unwrap();
        assert_eq!(identity.user, user);
        assert!(identity.claims.contains(r#""role":"authenticated""#));
        let left = identity.expires_at.duration_since(SystemTime::now()).unwrap();
        assert!(left > Duration::from_secs(3500) && left <= Duration::from_secs(3600));
        assert_eq!(
            verifier.verify_at(&token, identity.expires_at),
            Err(AuthError::Expired)
        );
    }

    #[tokio::test]
    async fn a_verifier_without_any_key_is_a_mistake_of_the_settings() {
        let error = Verifier::start(AuthConfig::default(), &Tasks::new())
            .await
            .unwrap_err();
        assert!(error.to_string().contains("HERALD_JWT_SECRET"), "{error}");
    }

    #[test]
    fn every_reason_is_told_apart_and_every_detail_is_a_sentence() {
        let mut errors = vec![
            AuthError::MissingToken,
            AuthError::Malformed,
            AuthError::TooLong,
            AuthError::UnsupportedAlgorithm,
            AuthError::UnknownKey,
            AuthError::BadSignature,
            AuthError::Expired,
            AuthError::NotYetValid,
            AuthError::WrongAudience,
            AuthError::WrongIssuer,
            AuthError::InvalidSubject,
            AuthError::KeysUnavailable,
        ];
        errors.extend(["exp", "nbf", "sub", "aud", "iss"].map(AuthError::MissingClaim));
        let reasons: std::collections::BTreeSet<_> = errors.iter().map(|error| error.reason()).collect();
        assert_eq!(reasons, AuthError::REASONS.into_iter().collect());
        let details: std::collections::BTreeSet<_> = errors.iter().map(|error| error.detail()).collect();
        assert_eq!(details.len(), errors.len());
        assert!(details.iter().all(|detail| detail.ends_with('.')));
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(future)
    }

    proptest! {
        #[test]
        fn no_text_is_a_token_and_none_makes_it_panic(text in ".*", parts in "[A-Za-z0-9_-]{0,40}\\.[A-Za-z0-9_-]{0,40}\\.[A-Za-z0-9_-]{0,50}") {
            let verifier = block_on(verifier(None, None));
            prop_assert!(verify(&verifier, &Token::new(text)).is_err());
            prop_assert!(verify(&verifier, &Token::new(parts)).is_err());
        }

        #[test]
        fn no_signed_garbage_makes_it_panic(header in ".{0,60}", claims in proptest::collection::vec(any::<u8>(), 0..200)) {
            let verifier = block_on(verifier(None, None));
            let _answer = verify(&verifier, &signed(&header, &claims));
            let answer = verify(&verifier, &signed(r#"{"alg":"HS256"}"#, &claims));
            prop_assert!(answer.is_err());
        }

        #[test]
        fn a_token_with_any_character_changed_is_refused(position: prop::sample::Index, replacement in "[A-Za-z0-9_.-]") {
            let verifier = block_on(verifier(None, None));
            let mut text = token(&json!({"sub": USER, "exp": NOW + 60})).expose().to_owned();
            let position = position.index(text.len());
            prop_assume!(text[position..=position] != *replacement);
            text.replace_range(position..=position, &replacement);
            prop_assert!(verify(&verifier, &Token::new(text)).is_err());
        }
    }
}
