//! TLS towards Postgres: which server certificates are accepted under which `sslmode`.
//!
//! The handshake's signature is always checked, so that whoever answers does own the key of the certificate shown. What
//! the modes differ in is whether that certificate has to lead to a trusted root, and whether it has to bear the host's
//! name. Revocation lists and client certificates are not supported.

use std::{path::Path, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{self, CryptoProvider, WebPkiSupportedAlgorithms},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
};
use tokio_postgres_rustls::MakeRustlsConnect;

/// The protocol's name in ALPN, which direct TLS demands; see PostgreSQL's documentation of `sslnegotiation`.
const ALPN: &[u8] = b"postgresql";

/// Certificates that the operator trusts to sign a server's, or to be the server's own.
#[derive(Debug, Default)]
pub(super) struct Roots {
    certificates: Vec<CertificateDer<'static>>,
}

/// What a server certificate has to prove.
#[derive(Debug)]
pub(super) enum Verification {
    /// Nothing: encryption without knowing with whom.
    Nothing,
    /// That it leads to one of the roots.
    Chain(Roots),
    /// That it leads to one of the roots and bears the name of the host.
    ChainAndName(Roots),
}

/// Why no TLS configuration could be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum TlsError {
    #[error("the file could not be read: {0}")]
    Unreadable(rustls::pki_types::pem::Error),
    #[error("it holds no certificate that can be used; it should hold one or more in PEM form")]
    NoCertificate,
    #[error("the system's store holds no certificate that can be used{0}")]
    EmptySystemStore(String),
    #[error("TLS could not be set up: {0}")]
    Setup(String),
}

impl Roots {
    /// The certificates in a PEM file.
    pub(super) fn from_file(path: &Path) -> Result<Self, TlsError> {
        let certificates = CertificateDer::pem_file_iter(path)
            .map_err(TlsError::Unreadable)?
            .collect::<Result<Vec<_>, _>>()
            .map_err(TlsError::Unreadable)?;
        if certificates.is_empty() {
            Err(TlsError::NoCertificate)
        } else {
            Ok(Self { certificates })
        }
    }

    /// The certificates that the operating system trusts.
    pub(super) fn from_system() -> Result<Self, TlsError> {
        let found = rustls_native_certs::load_native_certs();
        if found.certs.is_empty() {
            let problem = found
                .errors
                .first()
                .map(|error| format!(": {error}"))
                .unwrap_or_default();
            return Err(TlsError::EmptySystemStore(problem));
        }
        Ok(Self {
            certificates: found.certs,
        })
    }
}

/// A connector that accepts the certificates `verification` asks for. `direct` offers ALPN, as direct TLS demands.
pub(super) fn connector(verification: Verification, direct: bool) -> Result<MakeRustlsConnect, TlsError> {
    let provider = Arc::new(crypto::aws_lc_rs::default_provider());
    let verifier = Arc::new(Verifier::new(verification, &provider)?);
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::Setup(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    if direct {
        config.alpn_protocols = vec![ALPN.to_vec()];
    }
    Ok(MakeRustlsConnect::new(config))
}

/// The rules of one `sslmode`.
#[derive(Debug)]
struct Verifier {
    chain: Option<Arc<WebPkiServerVerifier>>,
    checks_name: bool,
    roots: Roots,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    fn new(verification: Verification, provider: &Arc<CryptoProvider>) -> Result<Self, TlsError> {
        let algorithms = provider.signature_verification_algorithms;
        let (roots, checks_name) = match verification {
            Verification::Nothing => {
                return Ok(Self {
                    chain: None,
                    checks_name: false,
                    roots: Roots::default(),
                    algorithms,
                });
            }
            Verification::Chain(roots) => (roots, false),
            Verification::ChainAndName(roots) => (roots, true),
        };
        let mut store = RootCertStore::empty();
        let (added, _ignored) = store.add_parsable_certificates(roots.certificates.iter().cloned());
        if added == 0 {
            return Err(TlsError::NoCertificate);
        }
        let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(provider))
            .build()
            .map_err(|error| TlsError::Setup(error.to_string()))?;
        Ok(Self {
            chain: Some(chain),
            checks_name,
            roots,
            algorithms,
        })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(chain) = &self.chain else {
            return Ok(ServerCertVerified::assertion());
        };
        let Err(error) = chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
        else {
            return Ok(ServerCertVerified::assertion());
        };
        if is_about_the_name(&error) {
            return if self.checks_name {
                Err(error)
            } else {
                Ok(ServerCertVerified::assertion())
            };
        }
        // A self-signed server certificate is its own root. webpki turns it down as a certificate authority that acts
        // as a server; OpenSSL, and with it libpq, accepts it, because the very certificate was declared trusted.
        // webpki looks at the validity first, so what remains here says nothing against a certificate that is trusted
        // by itself.
        if !is_about_time(&error) && self.roots.certificates.iter().any(|root| root == end_entity) {
            if self.checks_name {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
            }
            return Ok(ServerCertVerified::assertion());
        }
        Err(error)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        crypto::verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

const fn is_about_the_name(error: &Error) -> bool {
    matches!(
        error,
        Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }
        )
    )
}

const fn is_about_time(error: &Error) -> bool {
    matches!(
        error,
        Error::InvalidCertificate(
            CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. }
        )
    )
}
