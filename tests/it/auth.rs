//! Tokens signed with real keys, and the JWKS they are checked with: from a real HTTP server, and from a file.

use std::{
    fs,
    io::{Read, Write},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Redirect, Response},
    routing::get,
};
use futures::stream;
use herald::{
    auth::{
        AuthConfig, AuthConfigError, AuthError, Identity, JwksError, JwksSource, JwksTiming, KeySet, Secret,
        Token, Verifier,
    },
    tasks::Tasks,
};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, jwk::Jwk};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::{net::TcpSocket, time::Instant};

/// Much longer than anything here takes; a machine under load is slow.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longer than any test, for what must not happen by itself while it runs.
const NEVER: Duration = Duration::from_secs(3600);
const SECRET: &str = "a secret of the tests, which is long enough";
const USER: &str = "8a6e0804-2bd0-4672-b79d-d97027f9071a";

#[tokio::test]
async fn each_kind_of_key_verifies_its_own_algorithm_and_no_other() {
    let signers = [Signer::rsa("r"), Signer::p256("e"), Signer::ed25519("d")];
    let source = Source::start(jwks(&signers));
    let verifier = source.verifier(quiet()).await;
    for signer in &signers {
        let identity = verifier.authenticate(&signer.token()).await.unwrap();
        assert_eq!(identity.user.to_string(), USER);
        let nameless = signer.token_with(&Header::new(signer.algorithm));
        verifier.verify(&nameless).unwrap();

        let stranger = Signer {
            kid: signer.kid,
            ..signer.another()
        };
        assert_eq!(answer(&verifier, &stranger.token()), Err(AuthError::BadSignature));
        let nameless = stranger.token_with(&Header::new(signer.algorithm));
        assert_eq!(answer(&verifier, &nameless), Err(AuthError::BadSignature));
    }
    let [rsa, p256, _] = &signers;
    let under_the_name_of = |kid: &str, algorithm| Header {
        kid: Some(kid.to_owned()),
        ..Header::new(algorithm)
    };
    for token in [
        rsa.token_with(&under_the_name_of("e", Algorithm::RS256)),
        p256.token_with(&under_the_name_of("r", Algorithm::ES256)),
        rsa.token_with(&under_the_name_of("r", Algorithm::RS384)),
        rsa.token_with(&under_the_name_of("r", Algorithm::RS512)),
        rsa.token_with(&under_the_name_of("r", Algorithm::PS256)),
    ] {
        assert_eq!(answer(&verifier, &token), Err(AuthError::UnsupportedAlgorithm));
    }
    let embedded = Header {
        jwk: Some(Signer::p256("own").jwk),
        ..Header::new(Algorithm::ES256)
    };
    assert_eq!(
        answer(&verifier, &Signer::p256("own").token_with(&embedded)),
        Err(AuthError::BadSignature)
    );
}

#[tokio::test]
async fn a_public_key_is_never_taken_for_the_shared_secret() {
    let rsa = Signer::rsa("r");
    let source = Source::start(jwks(std::slice::from_ref(&rsa)));
    let public = [
        rsa.public_pem.clone().into_bytes(),
        rsa.jwk_json().to_string().into_bytes(),
    ];
    let mut config = source.config(quiet());
    for (secret, expected) in [
        (None, AuthError::UnsupportedAlgorithm),
        (Some(SECRET), AuthError::BadSignature),
    ] {
        config.secrets = secret.map(|secret| Secret::new(secret).unwrap().into());
        let verifier = Verifier::start(config.clone(), &source.tasks).await.unwrap();
        verifier.authenticate(&rsa.token()).await.unwrap();
        for key in &public {
            let header = Header {
                kid: Some("r".to_owned()),
                ..Header::new(Algorithm::HS256)
            };
            let token = sign(&header, &EncodingKey::from_secret(key));
            assert_eq!(answer(&verifier, &token), Err(expected));
        }
    }
    // Both ways in stand side by side.
    let verifier = Verifier::start(config, &source.tasks).await.unwrap();
    verifier.authenticate(&rsa.token()).await.unwrap();
    verifier
        .verify(&sign(
            &Header::new(Algorithm::HS256),
            &EncodingKey::from_secret(SECRET.as_bytes()),
        ))
        .unwrap();
}

#[tokio::test]
async fn an_unknown_kid_fetches_the_keys_at_once_and_a_flood_of_them_does_not() {
    let (old, new) = (Signer::p256("old"), Signer::p256("new"));
    let source = Source::start(jwks(std::slice::from_ref(&old)));
    let verifier = source.verifier(quiet()).await;
    verifier.authenticate(&old.token()).await.unwrap();
    assert_eq!(source.fetches(), 1);

    source.answer_with(jwks(std::slice::from_ref(&new)));
    assert_eq!(answer(&verifier, &new.token()), Err(AuthError::UnknownKey));
    let token = new.token();
    let together = futures::future::join_all((0..50).map(|_| verifier.authenticate(&token))).await;
    assert!(together.iter().all(Result::is_ok), "{together:?}");
    assert_eq!(answer(&verifier, &old.token()), Err(AuthError::UnknownKey));
    assert_eq!(source.fetches(), 2);

    let stranger = Signer::p256("stranger").token();
    let flood = futures::future::join_all((0..200).map(|_| verifier.authenticate(&stranger))).await;
    assert!(
        flood
            .iter()
            .all(|answer| matches!(answer, Err(AuthError::UnknownKey)))
    );
    assert_eq!(source.fetches(), 2);
}

#[tokio::test]
async fn keys_are_fetched_again_without_being_asked_for() {
    let (old, new) = (Signer::ed25519("old"), Signer::ed25519("new"));
    let source = Source::start(jwks(std::slice::from_ref(&old)));
    let verifier = source
        .verifier(JwksTiming {
            url_interval: Duration::from_millis(20),
            ..quiet()
        })
        .await;
    verifier.authenticate(&old.token()).await.unwrap();
    source.answer_with(jwks(std::slice::from_ref(&new)));
    until("the old key is gone", || {
        answer(&verifier, &old.token()) == Err(AuthError::UnknownKey)
    })
    .await;
    verifier.verify(&new.token()).unwrap();
}

#[tokio::test]
async fn while_the_source_fails_in_any_way_the_keys_at_hand_stay_in_use() {
    let (old, new) = (Signer::p256("old"), Signer::p256("new"));
    let source = Source::start(jwks(std::slice::from_ref(&old)));
    let fast = Duration::from_millis(20);
    let timing = JwksTiming {
        url_interval: fast,
        retry_cap: fast,
        fetch_deadline: Duration::from_millis(200),
        ..quiet()
    };
    let verifier = source.verifier(timing).await;
    verifier.authenticate(&old.token()).await.unwrap();
    for wrong in [
        Answer::Status(StatusCode::SERVICE_UNAVAILABLE),
        Answer::Status(StatusCode::NO_CONTENT),
        Answer::Body("<html>".to_owned()),
        Answer::Body(String::new()),
        Answer::Body(json!({"keys": []}).to_string()),
        Answer::Body(json!({"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}).to_string()),
        Answer::Body(json!({"keys": vec![json!({"kty": "RSA"}); 65]}).to_string()),
        Answer::Body(format!("{{\"keys\":[],\"x\":\"{}\"}}", "x".repeat(10 << 20))),
        Answer::Endless,
        Answer::Redirect,
        Answer::Silence,
    ] {
        let what = format!("{wrong:?}").chars().take(60).collect::<String>();
        let before = source.fetches();
        source.answer_with_any(wrong);
        until(&what, || source.fetches() >= before + 3).await;
        verifier
            .verify(&old.token())
            .unwrap_or_else(|error| panic!("{what}: {error}"));
    }
    source.answer_with(jwks(std::slice::from_ref(&new)));
    until("the new key", || answer(&verifier, &new.token()).is_ok()).await;
}

#[tokio::test]
async fn a_source_that_is_away_at_the_start_is_no_mistake_and_is_found_once_it_is_there() {
    let signer = Signer::p256("k");
    let source = Source::reserve(jwks(std::slice::from_ref(&signer)));
    let timing = JwksTiming {
        retry_cap: Duration::from_millis(20),
        demand_wait: Duration::from_millis(50),
        ..quiet()
    };
    let verifier = Verifier::start(source.config(timing), &source.tasks)
        .await
        .unwrap();
    assert_eq!(
        verifier.authenticate(&signer.token()).await.map(drop),
        Err(AuthError::KeysUnavailable)
    );
    source.listen();
    until("the keys", || answer(&verifier, &signer.token()).is_ok()).await;
}

#[tokio::test]
async fn a_source_that_says_nothing_holds_nobody_up() {
    let signer = Signer::p256("k");
    let source = Source::start_with(Answer::Silence);
    let wait = Duration::from_millis(100);
    let verifier = source
        .verifier(JwksTiming {
            demand_wait: wait,
            ..quiet()
        })
        .await;
    let begin = Instant::now();
    let token = signer.token();
    let answers = futures::future::join_all((0..50).map(|_| verifier.authenticate(&token))).await;
    assert!(
        answers
            .iter()
            .all(|answer| matches!(answer, Err(AuthError::KeysUnavailable)))
    );
    assert!(
        begin.elapsed() >= wait,
        "nobody waited for the fetch that was under way"
    );
    assert!(begin.elapsed() < PATIENCE / 2, "{:?}", begin.elapsed());
    // The task of a fetch ends with the process, however long its deadline.
    source.tasks.stop();
    assert_eq!(source.tasks.finish(PATIENCE).await, Ok(()));
}

#[tokio::test]
async fn tokens_that_come_before_the_first_fetch_has_ended_wait_for_it() {
    let signer = Signer::p256("k");
    let source = Source::start(jwks(std::slice::from_ref(&signer)));
    let verifier = source.verifier(quiet()).await;
    assert_eq!(
        answer(&verifier, &signer.token()),
        Err(AuthError::KeysUnavailable)
    );
    verifier.authenticate(&signer.token()).await.unwrap();
    assert_eq!(source.fetches(), 1);
}

#[tokio::test]
async fn keys_come_over_https_from_a_server_that_the_system_trusts_and_from_no_other() {
    let signer = Signer::p256("k");
    let pair = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["127.0.0.1".to_owned()])
        .unwrap()
        .self_signed(&pair)
        .unwrap();
    let port = serve_tls(
        certificate.der().clone(),
        &pair,
        jwks(std::slice::from_ref(&signer)),
    );
    let url = format!("https://127.0.0.1:{port}/keys");

    let config = AuthConfig {
        jwks: Some(url.parse().unwrap()),
        timing: quiet(),
        ..AuthConfig::default()
    };
    let verifier = Verifier::start(config, &Tasks::new()).await.unwrap();
    assert_eq!(
        verifier.authenticate(&signer.token()).await.map(drop),
        Err(AuthError::KeysUnavailable)
    );

    // What the system trusts is read once from the environment, so it takes a process of its own to trust more.
    let folder = tempfile::tempdir().unwrap();
    let trusted = folder.path().join("trusted.pem");
    fs::write(&trusted, certificate.pem()).unwrap();
    let child = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "auth::child_that_fetches_over_https"])
        .env("SSL_CERT_FILE", trusted)
        .env("HERALD_TEST_JWKS", url)
        .env("HERALD_TEST_TOKEN", signer.token().expose())
        .output();
    let child = tokio::time::timeout(PATIENCE, child).await.unwrap().unwrap();
    let told = String::from_utf8_lossy(&child.stdout).into_owned();
    assert!(child.status.success() && told.contains("1 passed"), "{told}");
}

#[tokio::test]
#[ignore = "it is run by keys_come_over_https_from_a_server_that_the_system_trusts_and_from_no_other"]
#[allow(
    clippy::disallowed_methods,
    reason = "this is how its parent tells it what to do"
)]
async fn child_that_fetches_over_https() {
    let source = std::env::var("HERALD_TEST_JWKS").unwrap().parse().unwrap();
    let config = AuthConfig {
        jwks: Some(source),
        timing: quiet(),
        ..AuthConfig::default()
    };
    let verifier = Verifier::start(config, &Tasks::new()).await.unwrap();
    verifier
        .authenticate(&Token::new(std::env::var("HERALD_TEST_TOKEN").unwrap()))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_file_is_read_again_at_its_interval_and_at_once_for_an_unknown_kid() {
    let (old, new, last) = (Signer::rsa("old"), Signer::p256("new"), Signer::ed25519("last"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("jwks.json");
    let tasks = Tasks::new();
    fs::write(&file, jwks(std::slice::from_ref(&old))).unwrap();
    let start = async |timing: JwksTiming| {
        let source: JwksSource = file.to_str().unwrap().parse().unwrap();
        Verifier::start(
            AuthConfig {
                jwks: Some(source),
                timing,
                ..AuthConfig::default()
            },
            &tasks,
        )
        .await
    };
    let patient = start(quiet()).await.unwrap();
    let fast = Duration::from_millis(20);
    let eager = start(JwksTiming {
        file_interval: fast,
        retry_cap: fast,
        ..quiet()
    })
    .await
    .unwrap();
    patient.verify(&old.token()).unwrap();

    fs::write(&file, jwks(std::slice::from_ref(&new))).unwrap();
    until("the new key", || answer(&eager, &new.token()).is_ok()).await;
    assert_eq!(answer(&patient, &new.token()), Err(AuthError::UnknownKey));
    patient.authenticate(&new.token()).await.unwrap();

    for wrong in ["", "{\"keys\":[", "[]"] {
        fs::write(&file, wrong).unwrap();
        assert!(matches!(
            start(quiet()).await,
            Err(AuthConfigError::Jwks(JwksError::NotJwks(_)))
        ));
        eager.verify(&new.token()).unwrap();
    }
    fs::write(&file, vec![b' '; (1 << 20) + 1]).unwrap();
    assert!(matches!(
        start(quiet()).await,
        Err(AuthConfigError::Jwks(JwksError::TooLarge))
    ));
    fs::remove_file(&file).unwrap();
    let missing = start(quiet()).await.unwrap_err().to_string();
    assert!(
        missing.contains("HERALD_JWKS") && missing.contains("jwks.json"),
        "{missing}"
    );
    eager.verify(&new.token()).unwrap();
    fs::write(&file, jwks(std::slice::from_ref(&last))).unwrap();
    until("the last key", || answer(&eager, &last.token()).is_ok()).await;
}

#[test]
fn keys_for_other_purposes_and_of_other_kinds_are_passed_over() {
    let good = Signer::p256("good").jwk_json();
    let changed = |name: &str, value: Value| {
        let mut key = good.clone();
        key[name] = value;
        key
    };
    let unusable = [
        changed("use", json!("enc")),
        changed("key_ops", json!(["sign"])),
        changed("alg", json!("ES384")),
        changed("crv", json!("P-384")),
        changed("kty", json!("RSA")),
        changed("x", json!("AAAA")),
        changed("y", json!("not base64url!")),
        json!({"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"}),
        json!({"kty": "RSA", "n": "AQAB", "e": "AQAB"}),
        json!({"kty": "OKP", "crv": "X25519", "x": "A".repeat(43)}),
        json!("key"),
    ];
    for key in &unusable {
        let told = KeySet::parse(json!({"keys": [key]}).to_string().as_bytes()).unwrap_err();
        assert!(matches!(told, JwksError::NoUsableKey(1)), "{key}: {told}");
    }
    let mut all = unusable.to_vec();
    all.extend([
        good.clone(),
        changed("use", json!("sig")),
        changed("key_ops", json!(["verify"])),
        changed("later", json!(1)),
    ]);
    assert_eq!(
        KeySet::parse(json!({"keys": all}).to_string().as_bytes())
            .unwrap()
            .len(),
        4
    );
}

#[test]
fn a_source_is_a_file_or_a_url_that_can_be_fetched() {
    assert_eq!(
        "keys/jwks.json".parse::<JwksSource>().unwrap(),
        JwksSource::File("keys/jwks.json".into())
    );
    let url: JwksSource = "https://id.example/keys?token=hidden".parse().unwrap();
    assert_eq!(url.to_string(), "https://id.example/keys");
    for wrong in [
        "ftp://id.example/keys",
        "https://user:hidden@id.example/",
        "https://",
        "http://a b/",
    ] {
        let told = wrong.parse::<JwksSource>().unwrap_err();
        assert!(
            matches!(told, JwksError::InvalidUrl) && !told.to_string().contains("hidden"),
            "{wrong}"
        );
    }
}

#[tokio::test]
async fn herald_token_prints_a_token_that_the_same_settings_accept() {
    let run = |arguments: &[&str], secret: &str| {
        Command::new(env!("CARGO_BIN_EXE_herald"))
            .arg("token")
            .args(arguments)
            .env_clear()
            .envs([
                ("HERALD_JWT_SECRET", secret),
                ("HERALD_JWT_AUDIENCE", "chat"),
                ("HERALD_JWT_ISSUER", "herald"),
            ])
            .output()
            .unwrap()
    };
    let made = run(&["--user", USER, "--expires-in", "5m"], SECRET);
    assert!(made.status.success(), "{made:?}");
    assert!(made.stderr.is_empty(), "{made:?}");
    let printed = String::from_utf8(made.stdout).unwrap();
    let config = AuthConfig {
        secrets: Some(Secret::new(SECRET).unwrap().into()),
        audience: Some("chat".to_owned()),
        issuer: Some("herald".to_owned()),
        ..AuthConfig::default()
    };
    let verifier = Verifier::start(config, &Tasks::new()).await.unwrap();
    let identity = verifier
        .verify(&Token::new(printed.strip_suffix('\n').unwrap()))
        .unwrap();
    assert_eq!(identity.user.to_string(), USER);
    let left = identity.expires_at.duration_since(SystemTime::now()).unwrap();
    assert!(
        left > Duration::from_secs(200) && left <= Duration::from_secs(300),
        "{left:?}"
    );

    let refused = run(&["--user", "somebody"], "hunter2");
    let told = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(64));
    assert!(refused.stdout.is_empty());
    assert!(
        told.contains("--user") && told.contains("HERALD_JWT_SECRET") && !told.contains("hunter2"),
        "{told}"
    );
}

/// No reading happens by itself, and everything that is waited for may take its time.
fn quiet() -> JwksTiming {
    JwksTiming {
        secrets_interval: NEVER,
        file_interval: NEVER,
        url_interval: NEVER,
        demand_interval: NEVER,
        demand_wait: PATIENCE,
        fetch_deadline: PATIENCE,
        retry_base: Duration::from_millis(10),
        retry_cap: NEVER,
    }
}

fn answer(verifier: &Verifier, token: &Token) -> Result<Identity, AuthError> {
    verifier.verify(token)
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "it did not come about: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A key pair of an identity provider.
struct Signer {
    kid: &'static str,
    algorithm: Algorithm,
    key: EncodingKey,
    jwk: Jwk,
    public_pem: String,
}

impl Signer {
    fn rsa(kid: &'static str) -> Self {
        let pair = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
        let key = EncodingKey::from_rsa_pem(pair.serialize_pem().as_bytes()).unwrap();
        Self::new(kid, Algorithm::RS256, key, &pair)
    }

    fn p256(kid: &'static str) -> Self {
        let pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let key = EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).unwrap();
        Self::new(kid, Algorithm::ES256, key, &pair)
    }

    fn ed25519(kid: &'static str) -> Self {
        let pair = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let key = EncodingKey::from_ed_pem(pair.serialize_pem().as_bytes()).unwrap();
        Self::new(kid, Algorithm::EdDSA, key, &pair)
    }

    fn new(kid: &'static str, algorithm: Algorithm, key: EncodingKey, pair: &KeyPair) -> Self {
        let mut jwk = match algorithm {
            // The library derives this one only from a form of private key that rcgen does not write.
            Algorithm::EdDSA => {
                Jwk::from_decoding_key(&DecodingKey::from_ed_der(pair.public_key_raw()), Some(algorithm))
                    .unwrap()
            }
            _ => Jwk::from_encoding_key(&key, algorithm).unwrap(),
        };
        jwk.common.key_id = Some(kid.to_owned());
        Self {
            kid,
            algorithm,
            key,
            jwk,
            public_pem: pair.public_key_pem(),
        }
    }

    /// Another key pair of the same kind.
    fn another(&self) -> Self {
        match self.algorithm {
            Algorithm::RS256 => Self::rsa("another"),
            Algorithm::ES256 => Self::p256("another"),
            _ => Self::ed25519("another"),
        }
    }

    fn jwk_json(&self) -> Value {
        serde_json::to_value(&self.jwk).unwrap()
    }

    fn token(&self) -> Token {
        self.token_with(&Header {
            kid: Some(self.kid.to_owned()),
            ..Header::new(self.algorithm)
        })
    }

    fn token_with(&self, header: &Header) -> Token {
        sign(header, &self.key)
    }
}

fn sign(header: &Header, key: &EncodingKey) -> Token {
    let expiry = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + NEVER;
    Token::new(jsonwebtoken::encode(header, &json!({"sub": USER, "exp": expiry.as_secs()}), key).unwrap())
}

fn jwks(signers: &[Signer]) -> String {
    json!({"keys": signers.iter().map(Signer::jwk_json).collect::<Vec<_>>()}).to_string()
}

/// What the server of the keys says.
#[derive(Clone, Debug)]
enum Answer {
    Body(String),
    Status(StatusCode),
    Redirect,
    /// A body that never ends.
    Endless,
    /// Nothing at all, for as long as the connection lasts.
    Silence,
}

/// An identity provider's HTTP server.
struct Source {
    tasks: Tasks,
    state: Arc<(Mutex<Answer>, AtomicUsize)>,
    socket: Mutex<Option<TcpSocket>>,
    port: u16,
}

impl Source {
    fn start(jwks: String) -> Self {
        Self::start_with(Answer::Body(jwks))
    }

    fn start_with(answer: Answer) -> Self {
        let source = Self::reserve(String::new());
        source.answer_with_any(answer);
        source.listen();
        source
    }

    /// Takes a port and refuses connections to it until [`Source::listen`].
    fn reserve(jwks: String) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let port = socket.local_addr().unwrap().port();
        let state = Arc::new((Mutex::new(Answer::Body(jwks)), AtomicUsize::new(0)));
        Self {
            tasks: Tasks::new(),
            state,
            socket: Mutex::new(Some(socket)),
            port,
        }
    }

    fn listen(&self) {
        let listener = self.socket.lock().unwrap().take().unwrap().listen(64).unwrap();
        let router = Router::new()
            .route("/keys", get(respond))
            .with_state(Arc::clone(&self.state));
        let stopping = self.tasks.stopping();
        self.tasks.spawn("identity provider", async move {
            tokio::select! {
                () = stopping.cancelled() => {}
                served = axum::serve(listener, router) => served.unwrap(),
            }
        });
    }

    fn config(&self, timing: JwksTiming) -> AuthConfig {
        let source = format!("http://127.0.0.1:{}/keys", self.port).parse().unwrap();
        AuthConfig {
            jwks: Some(source),
            timing,
            ..AuthConfig::default()
        }
    }

    async fn verifier(&self, timing: JwksTiming) -> Verifier {
        Verifier::start(self.config(timing), &self.tasks).await.unwrap()
    }

    fn answer_with(&self, jwks: String) {
        self.answer_with_any(Answer::Body(jwks));
    }

    fn answer_with_any(&self, answer: Answer) {
        *self.state.0.lock().unwrap() = answer;
    }

    fn fetches(&self) -> usize {
        self.state.1.load(Ordering::SeqCst)
    }
}

/// An HTTPS server for one answer, in a thread that lasts as long as the process; the answer is its port.
fn serve_tls(certificate: CertificateDer<'static>, pair: &KeyPair, body: String) -> u16 {
    let key = PrivateKeyDer::try_from(pair.serialize_der()).unwrap();
    let config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
    let config = Arc::new(config);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            // A client that does not trust the certificate hangs up here, which is its right.
            let mut stream = rustls::StreamOwned::new(
                rustls::ServerConnection::new(Arc::clone(&config)).unwrap(),
                socket.unwrap(),
            );
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                match stream.read(&mut byte) {
                    Ok(1) => request.push(byte[0]),
                    _ => break,
                }
            }
            let length = body.len();
            let _sent = write!(
                stream,
                "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}"
            );
            stream.conn.send_close_notify();
            let _closed = stream.flush();
        }
    });
    port
}

async fn respond(State(state): State<Arc<(Mutex<Answer>, AtomicUsize)>>) -> Response {
    let answer = state.0.lock().unwrap().clone();
    state.1.fetch_add(1, Ordering::SeqCst);
    match answer {
        Answer::Body(body) => ([(header::CONTENT_TYPE, "application/json")], body).into_response(),
        Answer::Status(status) => status.into_response(),
        Answer::Redirect => Redirect::temporary("/keys").into_response(),
        Answer::Endless => {
            let piece = Bytes::from(vec![b' '; 1 << 16]);
            Body::from_stream(stream::repeat_with(move || {
                Ok::<_, std::io::Error>(piece.clone())
            }))
            .into_response()
        }
        Answer::Silence => std::future::pending().await,
    }
}
