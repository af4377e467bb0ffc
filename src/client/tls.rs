//! Whom a client believes: the certificate authorities that the operating system trusts, or, where nothing is at stake, anybody.

use std::{error::Error, io, sync::Arc};

use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use rustls::{
    DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use super::GatewayUrl;

/// What opens connections for HTTP.
pub type HttpConnector = HttpsConnector<hyper_util::client::legacy::connect::HttpConnector>;

/// The system's certificate authorities cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TrustError(String);

/// How connections by TLS are made: with the system's certificate authorities, or those of the variables
/// `SSL_CERT_FILE` and `SSL_CERT_DIR`.
///
/// # Errors
/// There is none that can be used.
pub fn trusted() -> Result<Arc<rustls::ClientConfig>, TrustError> {
    let mut roots = rustls::RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (usable, _unusable) = roots.add_parsable_certificates(found.certs);
    if usable == 0 {
        let why = found.errors.first().map_or_else(
            || "the system's store holds no certificate that can be used".to_owned(),
            ToString::to_string,
        );
        return Err(TrustError(why));
    }
    with_roots(roots)
}

/// What opens connections for HTTP to this gateway, by TLS or without.
///
/// # Errors
/// The gateway is to be reached by TLS, and the system trusts nobody.
pub fn http_connector(url: &GatewayUrl) -> Result<HttpConnector, TrustError> {
    let config = if url.is_secure() {
        trusted()?
    } else {
        trusting_nobody()?
    };
    Ok(HttpsConnectorBuilder::new()
        .with_tls_config((*config).clone())
        .https_or_http()
        .enable_http1()
        .build())
}

/// For connections over which nothing secret is said, and whose answers are worth no more than those of whoever listens there: the
/// certificate may name anybody. That the handshake is made with the certificate's key is checked all the same.
///
/// # Errors
/// TLS cannot be set up.
pub fn believing_anybody() -> Result<Arc<rustls::ClientConfig>, TrustError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| TrustError(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(algorithms)))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Believes every certificate.
#[derive(Debug)]
struct Anybody(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

/// For connections without TLS, where nobody has to be believed.
fn trusting_nobody() -> Result<Arc<rustls::ClientConfig>, TrustError> {
    with_roots(rustls::RootCertStore::empty())
}

fn with_roots(roots: rustls::RootCertStore) -> Result<Arc<rustls::ClientConfig>, TrustError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| TrustError(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// What TLS had to say, if it is what an error is about. A certificate that is not accepted will not be accepted in a
/// second either.
pub fn tls_complaint<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut current = Some(error);
    while let Some(error) = current {
        if let Some(tls) = error.downcast_ref() {
            return Some(tls);
        }
        // The source of an `io::Error` is its inner error's source, so that the inner one has to be asked for by name.
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        current = match inner {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tls_has_to_say_is_found_below_other_errors_and_nowhere_else() {
        let tls = rustls::Error::General("no".to_owned());
        let wrapped = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, tls.clone()));
        assert_eq!(tls_complaint(&wrapped), Some(&tls));
        assert_eq!(
            tls_complaint(&io::Error::from(io::ErrorKind::ConnectionRefused)),
            None
        );
    }
}
