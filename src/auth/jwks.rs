//! The public keys: read from a file or a URL, kept fresh in the background, looked up by algorithm and `kid`.
//!
//! Invariants:
//! - A reading that fails changes nothing: the old keys stay in use while the source is away, slow or wrong.
//! - What is read is bounded: a mebibyte, 64 keys, one reading at a time, each under a deadline.
//! - A key serves one algorithm, which follows from its type, so that a token cannot have it used for another.
//!
//! It deliberately follows no redirects, looks at no cache headers, and takes no symmetric key from a JWKS.

use std::{fmt, future::Future, path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::rt::Executor;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;
use tokio::{
    io::AsyncReadExt,
    sync::watch,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{AuthError, JwksTiming};
use crate::{backoff::Backoff, tasks::Tasks};

/// The largest JWKS, in bytes. Those of large providers have a few KiB.
const JWKS_BYTES_MAX: usize = 1 << 20;
/// The most keys in one JWKS. Providers publish two to four.
const KEYS_MAX: usize = 64;
/// The most keys that one token without `kid` is tried against; each costs up to a tenth of a millisecond.
const CANDIDATES_MAX: usize = 16;
/// The smallest RSA modulus, in bytes: RFC 7518 §3.3 asks for 2048 bits.
const RSA_MODULUS_BYTES_MIN: usize = 256;

/// Where public keys come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JwksSource {
    /// A file, read again at an interval.
    File(PathBuf),
    /// An `http` or `https` URL.
    Url(Uri),
}

/// Why keys could not be read.
#[derive(Debug, thiserror::Error)]
pub enum JwksError {
    /// It begins like a URL and is none that can be fetched.
    #[error(
        "this is no URL that can be fetched; write https://host/path without user and password, or a file's path"
    )]
    InvalidUrl,
    /// The file cannot be read.
    #[error("{path} could not be read: {source}", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// It is larger than any JWKS has to be.
    #[error("it is larger than {JWKS_BYTES_MAX} bytes; a JWKS has a few kilobytes")]
    TooLarge,
    /// It is not a JWKS.
    #[error("it is not a JWKS ({0}); it should be a JSON object with the list `keys` (RFC 7517)")]
    NotJwks(String),
    /// It has too many keys.
    #[error("it has {0} keys, and at most {KEYS_MAX} are taken; remove those that are no longer in use")]
    TooManyKeys(usize),
    /// None of its keys can verify a token.
    #[error(
        "none of its {0} keys can be used; needed is an RSA key of 2048 bits or more (RS256), an EC key on P-256 (ES256) \
         or an OKP key on Ed25519 (EdDSA), for signatures"
    )]
    NoUsableKey(usize),
    /// The server answered something else than 200.
    #[error("the server answered {0}; give the final address, redirects are not followed")]
    Status(StatusCode),
    /// The server could not be reached, or the answer broke off.
    #[error("it could not be fetched: {0}")]
    Unreachable(String),
    /// It took too long.
    #[error("it was not there within {0:?}")]
    Deadline(Duration),
    /// The system has no root certificates.
    #[error(
        "an https URL needs the system's root certificates, and there are none ({0}); install ca-certificates"
    )]
    NoRootCertificates(std::io::Error),
}

impl FromStr for JwksSource {
    type Err = JwksError;

    fn from_str(text: &str) -> Result<Self, JwksError> {
        if !text.contains("://") {
            return Ok(Self::File(PathBuf::from(text)));
        }
        let uri = Uri::from_str(text).map_err(|_| JwksError::InvalidUrl)?;
        let fetchable = matches!(uri.scheme_str(), Some("http" | "https"))
            && uri
                .authority()
                .is_some_and(|authority| !authority.as_str().contains('@'));
        if fetchable {
            Ok(Self::Url(uri))
        } else {
            Err(JwksError::InvalidUrl)
        }
    }
}

impl fmt::Display for JwksSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(formatter),
            // A query may hold a key of the provider's own.
            Self::Url(uri) => write!(
                formatter,
                "{}://{}{}",
                uri.scheme_str().unwrap_or_default(),
                uri.authority().map_or("", |authority| authority.as_str()),
                uri.path()
            ),
        }
    }
}

/// The keys of one JWKS that can verify tokens.
#[derive(Debug)]
pub struct KeySet {
    keys: Vec<Key>,
}

struct Key {
    kid: Option<String>,
    algorithm: Algorithm,
    verifying: DecodingKey,
}

impl fmt::Debug for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Key")
            .field("kid", &self.kid)
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

/// Which keys may have signed a token.
pub(super) enum Lookup<'keys> {
    /// These, and no other.
    Keys(Vec<&'keys DecodingKey>),
    /// The key that the token names is there, but for another algorithm.
    OtherAlgorithm,
    /// None that is there.
    Unknown,
}

/// A JWK as far as it matters. Unknown members are ignored (RFC 7517 §4).
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    public_key_use: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl KeySet {
    /// Reads a JWKS. Keys of other kinds and for other purposes are passed over, as RFC 7517 §5 asks for.
    ///
    /// # Errors
    /// It is no JWKS, is too large, or holds no key that can be used.
    pub fn parse(bytes: &[u8]) -> Result<Self, JwksError> {
        #[derive(Deserialize)]
        struct Jwks {
            keys: Vec<Value>,
        }
        if bytes.len() > JWKS_BYTES_MAX {
            return Err(JwksError::TooLarge);
        }
        let jwks: Jwks =
            serde_json::from_slice(bytes).map_err(|error| JwksError::NotJwks(error.to_string()))?;
        let found = jwks.keys.len();
        if found > KEYS_MAX {
            return Err(JwksError::TooManyKeys(found));
        }
        let keys: Vec<Key> = jwks.keys.into_iter().filter_map(Key::from_json).collect();
        if keys.is_empty() {
            Err(JwksError::NoUsableKey(found))
        } else {
            Ok(Self { keys })
        }
    }

    /// How many keys can be used.
    pub const fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether no key can be used; a parsed set always has one.
    pub const fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The keys to try: those of that name, or, for a token without `kid`, a bounded number of its algorithm.
    pub(super) fn candidates(&self, algorithm: Algorithm, kid: Option<&str>) -> Lookup<'_> {
        let named = |key: &&Key| kid.is_none() || key.kid.as_deref() == kid;
        let keys: Vec<&DecodingKey> = self
            .keys
            .iter()
            .filter(named)
            .filter(|key| key.algorithm == algorithm)
            .map(|key| &key.verifying)
            .take(CANDIDATES_MAX)
            .collect();
        if !keys.is_empty() {
            Lookup::Keys(keys)
        } else if self.keys.iter().any(|key| named(&key)) {
            Lookup::OtherAlgorithm
        } else {
            Lookup::Unknown
        }
    }
}

impl Key {
    fn from_json(value: Value) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(value).ok()?;
        let for_signatures = jwk
            .public_key_use
            .as_deref()
            .is_none_or(|purpose| purpose == "sig")
            && jwk
                .key_ops
                .as_ref()
                .is_none_or(|operations| operations.iter().any(|one| one == "verify"));
        if !for_signatures {
            return None;
        }
        let (algorithm, verifying) = match (jwk.kty.as_str(), jwk.crv.as_deref(), jwk.alg.as_deref()) {
            ("RSA", _, None | Some("RS256")) => (Algorithm::RS256, rsa(&jwk)?),
            ("EC", Some("P-256"), None | Some("ES256")) => (Algorithm::ES256, p256(&jwk)?),
            ("OKP", Some("Ed25519"), None | Some("EdDSA" | "Ed25519")) => (Algorithm::EdDSA, ed25519(&jwk)?),
            _ => return None,
        };
        Some(Self {
            kid: jwk.kid,
            algorithm,
            verifying,
        })
    }
}

fn rsa(jwk: &Jwk) -> Option<DecodingKey> {
    let (modulus, exponent) = (super::token::decode(jwk.n.as_deref()?).ok()?, jwk.e.as_deref()?);
    let significant = modulus.iter().skip_while(|byte| **byte == 0).count();
    (significant >= RSA_MODULUS_BYTES_MIN)
        .then(|| super::token::decode(exponent).ok())
        .flatten()
        .map(|exponent| DecodingKey::from_rsa_raw_components(&modulus, &exponent))
}

fn p256(jwk: &Jwk) -> Option<DecodingKey> {
    let (x, y) = (jwk.x.as_deref()?, jwk.y.as_deref()?);
    (is_32_bytes(x) && is_32_bytes(y))
        .then(|| DecodingKey::from_ec_components(x, y).ok())
        .flatten()
}

fn ed25519(jwk: &Jwk) -> Option<DecodingKey> {
    let x = jwk.x.as_deref()?;
    is_32_bytes(x)
        .then(|| DecodingKey::from_ed_components(x).ok())
        .flatten()
}

fn is_32_bytes(encoded: &str) -> bool {
    super::token::decode(encoded).is_ok_and(|bytes| bytes.len() == 32)
}

/// The keys in use, and the way to call for fresh ones.
#[derive(Debug)]
pub(super) struct Jwks {
    keys: Arc<ArcSwapOption<KeySet>>,
    readings: watch::Sender<Readings>,
    timing: JwksTiming,
}

/// What is going on with the source.
#[derive(Debug, Default)]
struct Readings {
    /// How many have ended, well or not.
    ended: u64,
    /// One is called for or running.
    pending: bool,
    /// When a token last called for one.
    demanded: Option<Instant>,
}

impl Jwks {
    /// Reads a file and fails if it is bad; does not wait for a URL. Either way a task then keeps the keys fresh.
    pub(super) async fn start(
        source: JwksSource,
        timing: JwksTiming,
        tasks: &Tasks,
    ) -> Result<Self, JwksError> {
        let reader = Reader::new(source, timing, tasks)?;
        let (first, pending) = match &reader.origin {
            Origin::File(_) => (Some(Arc::new(reader.read().await?)), false),
            // The first fetch begins with the task, and tokens that come before it has ended wait for it.
            Origin::Url(..) => (None, true),
        };
        let keys = Arc::new(ArcSwapOption::new(first));
        let readings = watch::Sender::new(Readings {
            pending,
            ..Readings::default()
        });
        let refresher = Arc::new(Refresher {
            reader,
            keys: Arc::clone(&keys),
            readings: readings.clone(),
            timing,
        });
        let stopping = tasks.stopping();
        tasks.spawn_restarting("jwks refresh", move || {
            Arc::clone(&refresher).run(stopping.clone())
        });
        Ok(Self {
            keys,
            readings,
            timing,
        })
    }

    /// The keys at hand.
    pub(super) fn keys(&self) -> Result<Arc<KeySet>, AuthError> {
        self.keys.load_full().ok_or(AuthError::KeysUnavailable)
    }

    /// Calls for a reading, if none is under way and the last call is long enough ago, and waits for the one that is
    /// under way. Returns at once if there is none, and in any case after [`JwksTiming::demand_wait`].
    ///
    /// # Cancel safety
    /// Safe: it only waits.
    pub(super) async fn refreshed(&self) {
        let mut subscription = self.readings.subscribe();
        let mut ended = None;
        self.readings.send_if_modified(|readings| {
            let free = readings
                .demanded
                .is_none_or(|last| last.elapsed() >= self.timing.demand_interval);
            let calls = !readings.pending && free;
            if calls {
                readings.pending = true;
                readings.demanded = Some(Instant::now());
            }
            ended = readings.pending.then_some(readings.ended);
            calls
        });
        let Some(ended) = ended else { return };
        // Both outcomes lead on: the caller looks at the keys again.
        let _waited = timeout(
            self.timing.demand_wait,
            subscription.wait_for(|readings| readings.ended > ended),
        )
        .await;
    }
}

/// The task that keeps the keys fresh.
struct Refresher {
    reader: Reader,
    keys: Arc<ArcSwapOption<KeySet>>,
    readings: watch::Sender<Readings>,
    timing: JwksTiming,
}

impl Refresher {
    async fn run(self: Arc<Self>, stopping: CancellationToken) {
        let interval = match self.reader.origin {
            Origin::File(_) => self.timing.file_interval,
            Origin::Url(..) => self.timing.url_interval,
        };
        let mut backoff = Backoff::new(self.timing.retry_base, self.timing.retry_cap);
        let mut subscription = self.readings.subscribe();
        let mut pause = interval;
        loop {
            tokio::select! {
                () = stopping.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
                _called = subscription.wait_for(|readings| readings.pending) => {}
            }
            self.readings.send_modify(|readings| readings.pending = true);
            let read = tokio::select! {
                () = stopping.cancelled() => return,
                read = self.reader.read() => read,
            };
            pause = match read {
                Ok(keys) => {
                    backoff.reset();
                    self.adopt(keys);
                    interval
                }
                Err(error) => {
                    tracing::warn!(
                        source = %self.reader.source, %error, in_use = self.keys.load().is_some(),
                        "the JWKS could not be read; the keys at hand stay in use"
                    );
                    backoff.next_delay(&mut rand::rng()).min(interval)
                }
            };
            self.readings.send_modify(|readings| {
                readings.pending = false;
                readings.ended += 1;
            });
        }
    }

    fn adopt(&self, keys: KeySet) {
        let names = |keys: &KeySet| keys.keys.iter().map(|key| key.kid.clone()).collect::<Vec<_>>();
        let before = self.keys.load_full();
        if before.is_none_or(|before| names(&before) != names(&keys)) {
            tracing::info!(source = %self.reader.source, keys = keys.len(), "the JWKS has new keys");
        }
        self.keys.store(Some(Arc::new(keys)));
    }
}

type HttpClient = Client<HttpsConnector<HttpConnector>, Empty<Bytes>>;

/// Reads the source once.
struct Reader {
    source: JwksSource,
    origin: Origin,
    deadline: Duration,
}

enum Origin {
    File(PathBuf),
    Url(Box<HttpClient>, Uri),
}

impl Reader {
    fn new(source: JwksSource, timing: JwksTiming, tasks: &Tasks) -> Result<Self, JwksError> {
        let origin = match &source {
            JwksSource::File(path) => Origin::File(path.clone()),
            JwksSource::Url(uri) => {
                if uri.scheme_str() == Some("http") {
                    tracing::warn!(%source, "the JWKS comes unencrypted; whoever can alter the traffic can log in as anyone");
                }
                Origin::Url(Box::new(client(uri, tasks)?), uri.clone())
            }
        };
        Ok(Self {
            source,
            origin,
            deadline: timing.fetch_deadline,
        })
    }

    async fn read(&self) -> Result<KeySet, JwksError> {
        let reading = async {
            match &self.origin {
                Origin::File(path) => read_file(path).await,
                Origin::Url(client, uri) => fetch(client, uri).await,
            }
        };
        let bytes = timeout(self.deadline, reading)
            .await
            .map_err(|_| JwksError::Deadline(self.deadline))??;
        KeySet::parse(&bytes)
    }
}

async fn read_file(path: &PathBuf) -> Result<Bytes, JwksError> {
    let unreadable = |source| JwksError::Unreadable {
        path: path.clone(),
        source,
    };
    let file = tokio::fs::File::open(path).await.map_err(unreadable)?;
    let mut bytes = Vec::new();
    // One byte more than is allowed is enough to know that it is too large.
    file.take(JWKS_BYTES_MAX as u64 + 1)
        .read_to_end(&mut bytes)
        .await
        .map_err(unreadable)?;
    Ok(bytes.into())
}

async fn fetch(client: &HttpClient, uri: &Uri) -> Result<Bytes, JwksError> {
    let request = Request::get(uri)
        .header(header::ACCEPT, "application/jwk-set+json, application/json")
        .header(header::USER_AGENT, concat!("herald/", env!("CARGO_PKG_VERSION")))
        .body(Empty::new())
        .map_err(|_| JwksError::InvalidUrl)?;
    let answer = client
        .request(request)
        .await
        .map_err(|error| JwksError::Unreachable(chain(&error)))?;
    if answer.status() != StatusCode::OK {
        return Err(JwksError::Status(answer.status()));
    }
    let body = Limited::new(answer.into_body(), JWKS_BYTES_MAX).collect().await;
    match body {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(JwksError::TooLarge),
        Err(error) => Err(JwksError::Unreachable(chain(&*error))),
    }
}

/// A client that keeps no connection: minutes lie between two fetches.
fn client(uri: &Uri, tasks: &Tasks) -> Result<HttpClient, JwksError> {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let builder = if uri.scheme_str() == Some("https") {
        HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(provider)
            .map_err(JwksError::NoRootCertificates)?
            .https_only()
    } else {
        let config = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| JwksError::Unreachable(error.to_string()))?
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        HttpsConnectorBuilder::new()
            .with_tls_config(config)
            .https_or_http()
    };
    let connector = builder.enable_http1().build();
    Ok(Client::builder(Connections(tasks.clone()))
        .pool_max_idle_per_host(0)
        .build(connector))
}

/// Starts the client's connections where every task is started.
#[derive(Clone)]
struct Connections(Tasks);

impl<F> Executor<F> for Connections
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn("jwks connection", future);
    }
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}
