//! The certificate that the gateway shows, and its key: two files in PEM form, read and judged.
//!
//! What is said of them is for whoever has to mend them; nothing of the key's content is ever said.

use std::{
    fmt,
    fs::File,
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::{
    Error, InconsistentKeys, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    sign::{CertifiedKey, SigningKey, SingleCertAndKey},
};
use x509_cert::der::Decode as _;

/// The largest file that is read, in bytes. A chain and a key have some kilobytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The protocol that is spoken within TLS, as ALPN names it (RFC 7301 §6). A client that speaks HTTP/2 only is told so by the
/// handshake.
const ALPN: &[u8] = b"http/1.1";

/// A certificate that ends within this time should have been renewed long ago: what renews them begins weeks before.
const SOON: Duration = Duration::from_secs(7 * 24 * 3600);

/// Where a certificate and its key lie. Both may be one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate, and behind it those that lead to its root.
    pub certificate: PathBuf,
    /// The certificate's private key.
    pub key: PathBuf,
}

/// All that is wrong with a certificate and its key. There is at least one of the two.
#[derive(Debug)]
pub struct CertificateMistakes {
    files: CertificateFiles,
    certificate: Option<CertificateProblem>,
    key: Option<KeyProblem>,
}

/// A file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FileProblem {
    /// It is not there, or may not be read.
    #[error("cannot be read: {0}; give the path of a file in PEM form that the gateway's user may read")]
    Unreadable(#[from] io::Error),
    /// It is a folder, a pipe or a device.
    #[error("is no regular file; give the path of a file in PEM form, which is read again and again")]
    NotAFile,
    /// It is larger than a certificate can be.
    #[error("has more than {FILE_BYTES_MAX} bytes; a certificate and its key have some thousand")]
    TooLarge,
}

/// A file holds no certificate that can be served.
#[derive(Debug, thiserror::Error)]
pub enum CertificateProblem {
    /// It cannot be read.
    #[error(transparent)]
    File(#[from] FileProblem),
    /// It is binary.
    #[error("is in DER form; make a PEM file of it: openssl x509 -inform der -in FILE -out FILE.pem")]
    Der,
    /// It is binary, and holds both.
    #[error(
        "is a PKCS#12 file; make PEM files of it: openssl pkcs12 -in FILE -nokeys -out cert.pem, and -nocerts -noenc -out key.pem"
    )]
    Pkcs12,
    /// It is no sound PEM file.
    #[error("is no sound PEM file ({0}); copy it again, from -----BEGIN to the end of the last END line")]
    Malformed(String),
    /// It holds the key only.
    #[error(
        "holds a private key and no certificate; HERALD_TLS_CERT names the certificate, HERALD_TLS_KEY the key"
    )]
    OnlyAKey,
    /// There is no certificate in it.
    #[error(
        "holds no certificate; it should have the gateway's own in PEM form, and behind it those that lead to its root"
    )]
    Empty,
    /// The first certificate cannot be used.
    #[error("holds a certificate that cannot be used: {0}; have another one issued")]
    Unusable(String),
}

/// A file holds no key that belongs to the certificate.
#[derive(Debug, thiserror::Error)]
pub enum KeyProblem {
    /// It cannot be read.
    #[error(transparent)]
    File(#[from] FileProblem),
    /// It is binary.
    #[error("is in DER form; make a PEM file of it: openssl pkey -inform der -in FILE -out FILE.pem")]
    Der,
    /// It asks for a passphrase.
    #[error(
        "is encrypted, and nobody can be asked for its passphrase; decrypt it (openssl pkey -in FILE -out key.pem) and let \
         nobody but the gateway's user read it"
    )]
    Encrypted,
    /// It is no sound PEM file.
    #[error("is no sound PEM file; copy it again, from -----BEGIN to the end of the END line")]
    Malformed,
    /// It holds the certificate only.
    #[error(
        "holds a certificate and no private key; HERALD_TLS_KEY names the key, HERALD_TLS_CERT the certificate"
    )]
    OnlyACertificate,
    /// There is no key in it.
    #[error("holds no private key; it should have one in PEM form (PKCS#8, SEC1 or PKCS#1)")]
    Empty,
    /// It is a key of another kind.
    #[error(
        "holds a key that cannot be used; RSA of 2048 bits and more, ECDSA on P-256, P-384 or P-521, and Ed25519 can"
    )]
    Unsupported,
    /// It belongs to no certificate of the file.
    #[error("holds a key that does not belong to the certificate in {}; give both of one issue", .0.display())]
    Foreign(PathBuf),
    /// It belongs to a certificate that is not the first.
    #[error(
        "holds the key of certificate number {position} in {}; the gateway's own has to be the first there",
        .file.display()
    )]
    BehindOthers {
        /// Counted from one.
        position: usize,
        /// The file of certificates.
        file: PathBuf,
    },
    /// TLS cannot be set up with it.
    #[error("cannot be used for TLS: {0}")]
    Setup(String),
}

impl CertificateMistakes {
    /// What is wrong with the certificate's file.
    pub fn of_certificate(&self) -> Option<impl fmt::Display> {
        let problem = self.certificate.as_ref()?;
        Some(format!("{} {problem}", self.files.certificate.display()))
    }

    /// What is wrong with the key's file.
    pub fn of_key(&self) -> Option<impl fmt::Display> {
        let problem = self.key.as_ref()?;
        Some(format!("{} {problem}", self.files.key.display()))
    }
}

impl fmt::Display for CertificateMistakes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.of_certificate(), self.of_key()) {
            (Some(certificate), Some(key)) => write!(formatter, "{certificate}; {key}"),
            (Some(one), None) => one.fmt(formatter),
            (None, Some(one)) => one.fmt(formatter),
            (None, None) => Ok(()),
        }
    }
}

impl std::error::Error for CertificateMistakes {}

/// What the two files held at one moment, not judged yet.
pub(super) struct FileContents {
    files: CertificateFiles,
    certificate: Result<Vec<u8>, FileProblem>,
    key: Result<Vec<u8>, FileProblem>,
}

impl fmt::Debug for FileContents {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The key must not be shown.
        formatter
            .debug_struct("FileContents")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

impl CertificateFiles {
    /// Reads both. It blocks.
    pub(super) fn read(&self) -> FileContents {
        FileContents {
            files: self.clone(),
            certificate: read(&self.certificate),
            key: read(&self.key),
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, FileProblem> {
    // A pipe would keep whoever opens it waiting until somebody writes.
    if !path.metadata()?.is_file() {
        return Err(FileProblem::NotAFile);
    }
    let mut bytes = Vec::new();
    File::open(path)?
        .take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(FileProblem::TooLarge);
    }
    Ok(bytes)
}

/// Tells one state of the files from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fingerprint(u64);

impl FileContents {
    /// The same for the same contents, or for the same way in which they cannot be read.
    pub(super) fn fingerprint(&self) -> Fingerprint {
        let mut hasher = DefaultHasher::new();
        for file in [&self.certificate, &self.key] {
            match file {
                Ok(bytes) => bytes.hash(&mut hasher),
                Err(problem) => problem.to_string().hash(&mut hasher),
            }
        }
        Fingerprint(hasher.finish())
    }

    /// Makes what can be served of it.
    ///
    /// # Errors
    /// All that is wrong with either file.
    pub(super) fn judge(self) -> Result<ServerCertificate, CertificateMistakes> {
        let fingerprint = self.fingerprint();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let files = self.files;
        let chain = self
            .certificate
            .map_err(Into::into)
            .and_then(|bytes| chain(&bytes));
        let key = self
            .key
            .map_err(Into::into)
            .and_then(|bytes| signing_key(&bytes, &provider));
        let (chain, key) = match (chain, key) {
            (Ok(chain), Ok(key)) => (chain, key),
            (chain, key) => {
                return Err(CertificateMistakes {
                    files,
                    certificate: chain.err(),
                    key: key.err(),
                });
            }
        };
        match fitting(chain, key, provider, fingerprint, &files) {
            Ok(certificate) => Ok(certificate),
            Err(Misfit::Certificate(problem)) => Err(CertificateMistakes {
                files,
                certificate: Some(problem),
                key: None,
            }),
            Err(Misfit::Key(problem)) => Err(CertificateMistakes {
                files,
                certificate: None,
                key: Some(problem),
            }),
        }
    }
}

/// The certificates of a PEM file, of which there is at least one.
fn chain(bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertificateProblem> {
    match binary(bytes) {
        Some(Binary::Pkcs12) => return Err(CertificateProblem::Pkcs12),
        Some(Binary::Other) => return Err(CertificateProblem::Der),
        None => {}
    }
    let chain = CertificateDer::pem_slice_iter(bytes)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| CertificateProblem::Malformed(error.to_string()))?;
    if !chain.is_empty() {
        return Ok(chain);
    }
    Err(if has(bytes, b"PRIVATE KEY-----") {
        CertificateProblem::OnlyAKey
    } else {
        CertificateProblem::Empty
    })
}

/// The first private key of a PEM file.
fn signing_key(bytes: &[u8], provider: &CryptoProvider) -> Result<Arc<dyn SigningKey>, KeyProblem> {
    if binary(bytes).is_some() {
        return Err(KeyProblem::Der);
    }
    // The second is how OpenSSL marked it before there was PKCS#8 (RFC 1421 §4.6.1.1).
    if has(bytes, b"-----BEGIN ENCRYPTED PRIVATE KEY-----") || has(bytes, b"Proc-Type: 4,ENCRYPTED") {
        return Err(KeyProblem::Encrypted);
    }
    let key = PrivateKeyDer::from_pem_slice(bytes).map_err(|error| match error {
        pem::Error::NoItemsFound if has(bytes, b"-----BEGIN CERTIFICATE-----") => {
            KeyProblem::OnlyACertificate
        }
        pem::Error::NoItemsFound => KeyProblem::Empty,
        _ => KeyProblem::Malformed,
    })?;
    provider
        .key_provider
        .load_private_key(key)
        .map_err(|_| KeyProblem::Unsupported)
}

/// What a file is that is no PEM file.
enum Binary {
    /// A certificate and its key together (RFC 7292).
    Pkcs12,
    /// A certificate or a key.
    Other,
}

/// Whether this is ASN.1 in DER: a sequence whose length is given in one to four bytes.
fn binary(bytes: &[u8]) -> Option<Binary> {
    let [0x30, 0x81..=0x84, rest @ ..] = bytes else {
        return None;
    };
    let length_bytes = usize::from(bytes[1] & 0x0f);
    // PKCS#12 begins with its version, the integer 3; certificates begin with a sequence, and keys with another version.
    Some(match rest.get(length_bytes..) {
        Some([0x02, 0x01, 0x03, ..]) => Binary::Pkcs12,
        _ => Binary::Other,
    })
}

fn has(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// A certificate and a key that are sound by themselves cannot be served together.
enum Misfit {
    Certificate(CertificateProblem),
    Key(KeyProblem),
}

fn fitting(
    chain: Vec<CertificateDer<'static>>,
    key: Arc<dyn SigningKey>,
    provider: Arc<CryptoProvider>,
    fingerprint: Fingerprint,
    files: &CertificateFiles,
) -> Result<ServerCertificate, Misfit> {
    let unusable = |error: String| Misfit::Certificate(CertificateProblem::Unusable(error));
    let belongs = |chain: &[CertificateDer<'static>]| {
        match CertifiedKey::new(chain.to_vec(), Arc::clone(&key)).keys_match() {
            // A key that does not tell its public half is believed; those of this provider tell it.
            Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(true),
            Err(Error::InconsistentKeys(_)) => Ok(false),
            Err(error) => Err(error),
        }
    };
    if !belongs(&chain).map_err(|error| unusable(error.to_string()))? {
        let position = (1..chain.len()).find(|first| belongs(&chain[*first..]).unwrap_or(false));
        return Err(Misfit::Key(match position {
            Some(position) => KeyProblem::BehindOthers {
                position: position + 1,
                file: files.certificate.clone(),
            },
            None => KeyProblem::Foreign(files.certificate.clone()),
        }));
    }
    let own = x509_cert::Certificate::from_der(&chain[0]).map_err(|error| unusable(error.to_string()))?;
    let validity = own.tbs_certificate.validity;
    let config = server_config(CertifiedKey::new(chain, key), provider)
        .map_err(|error| Misfit::Key(KeyProblem::Setup(error.to_string())))?;
    Ok(ServerCertificate {
        config: Arc::new(config),
        not_before: validity.not_before.to_system_time(),
        not_after: validity.not_after.to_system_time(),
        fingerprint,
    })
}

/// TLS 1.2 and 1.3 with this certificate, whatever name a client asks for.
fn server_config(certified: CertifiedKey, provider: Arc<CryptoProvider>) -> Result<ServerConfig, Error> {
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = vec![ALPN.to_vec()];
    // A client keeps its session itself, in a ticket that is sealed with keys which change every six hours, so that the gateway
    // keeps nothing for those who may come back. Each certificate has keys of its own: who has not seen a new one yet cannot
    // go around it by an old session.
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    Ok(config)
}

/// A certificate with its key, ready to be served.
pub(super) struct ServerCertificate {
    pub(super) config: Arc<ServerConfig>,
    pub(super) fingerprint: Fingerprint,
    not_before: SystemTime,
    not_after: SystemTime,
}

impl fmt::Debug for ServerCertificate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ServerCertificate({})", self.span())
    }
}

/// Where a moment lies in a certificate's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Age {
    /// Before its beginning.
    Early,
    /// Within, and far from the end.
    Valid,
    /// Within, and near the end.
    EndsSoon,
    /// After its end.
    Ended,
}

impl Age {
    /// Whether clients accept it.
    pub(super) const fn is_valid(self) -> bool {
        matches!(self, Self::Valid | Self::EndsSoon)
    }
}

impl ServerCertificate {
    /// How old it is at this moment.
    pub(super) fn age(&self, now: SystemTime) -> Age {
        if now < self.not_before {
            Age::Early
        } else if now > self.not_after {
            Age::Ended
        } else if self.not_after.duration_since(now).is_ok_and(|left| left < SOON) {
            Age::EndsSoon
        } else {
            Age::Valid
        }
    }

    /// When it ends, in seconds since 1970.
    pub(super) fn ends_at(&self) -> i64 {
        let since = self.not_after.duration_since(SystemTime::UNIX_EPOCH);
        // X.509 knows years from 1950 to 9999; an end before 1970 is long over, however long.
        since.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
    }

    /// From when until when it is valid, for people.
    pub(super) fn span(&self) -> String {
        let written = |moment: SystemTime| {
            jiff::Timestamp::try_from(moment)
                .map_or_else(|_| "the end of the calendar".to_owned(), |it| it.to_string())
        };
        format!(
            "from {} until {}",
            written(self.not_before),
            written(self.not_after)
        )
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    /// Valid from 2030-01-01 until 2030-03-01.
    fn certificate() -> ServerCertificate {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["chat.example".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2030, 1, 1);
        params.not_after = rcgen::date_time_ymd(2030, 3, 1);
        let certificate = params.self_signed(&key).unwrap().pem();
        let nowhere = CertificateFiles {
            certificate: PathBuf::new(),
            key: PathBuf::new(),
        };
        let contents = FileContents {
            files: nowhere,
            certificate: Ok(certificate.into_bytes()),
            key: Ok(key.serialize_pem().into_bytes()),
        };
        contents.judge().unwrap()
    }

    #[test]
    fn a_certificate_is_early_then_valid_then_near_its_end_then_over() {
        let certificate = certificate();
        assert_eq!(
            certificate.span(),
            "from 2030-01-01T00:00:00Z until 2030-03-01T00:00:00Z"
        );
        assert_eq!(certificate.ends_at(), 1_898_553_600);
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(1_898_553_600);
        for (before_the_end, age, is_valid) in [
            (59 * DAY + Duration::from_secs(1), Age::Early, false),
            (59 * DAY, Age::Valid, true),
            (SOON, Age::Valid, true),
            (6 * DAY, Age::EndsSoon, true),
            (Duration::ZERO, Age::EndsSoon, true),
        ] {
            assert_eq!(certificate.age(end - before_the_end), age, "{before_the_end:?}");
            assert_eq!(age.is_valid(), is_valid);
        }
        assert_eq!(certificate.age(end + Duration::from_secs(1)), Age::Ended);
        assert!(!Age::Ended.is_valid());
    }

    #[test]
    fn the_same_contents_have_the_same_fingerprint_and_a_file_that_is_away_another() {
        let read = |certificate: &Path, key: &Path| {
            CertificateFiles {
                certificate: certificate.to_owned(),
                key: key.to_owned(),
            }
            .read()
            .fingerprint()
        };
        let folder = tempfile::tempdir().unwrap();
        let [one, two, away] = ["one", "two", "away"].map(|name| folder.path().join(name));
        std::fs::write(&one, "1").unwrap();
        std::fs::write(&two, "2").unwrap();
        assert_eq!(read(&one, &two), read(&one, &two));
        assert_ne!(read(&one, &two), read(&two, &one));
        assert_ne!(read(&one, &two), read(&one, &away));
        assert_eq!(read(&one, &away), read(&one, &away));
    }
}
