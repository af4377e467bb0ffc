//! The TLS handshake of one connection. When it is given up, and how many there are at once, is the matter of
//! [`handshakes`](crate::edge::handshakes).

use std::{io, sync::Arc};

use arc_swap::ArcSwap;
use rustls::{AlertDescription, Error, HandshakeKind, ProtocolVersion, ServerConfig, ServerConnection};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::ServerCertificate;
use crate::metrics::Metrics;

/// What may wait, encrypted, for a peer that does not read, in bytes: about one record of TLS (RFC 8446 §5.1). More than that
/// is felt by whoever writes, as on a connection without TLS.
const WAITING_BYTES: usize = 16 * 1024;

/// What a peer turned out to be.
#[derive(Debug)]
pub(in crate::edge) enum Greeted {
    /// One that speaks TLS.
    Tls(Box<TlsStream<TcpStream>>),
    /// One that speaks HTTP without TLS, and deserves to be told.
    Http(TcpStream),
}

/// Why there was no handshake; what is counted is its name.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the peer left before it said anything")]
    Silent,
    #[error("{0}")]
    Failed(io::Error),
}

/// Speaks TLS with the certificate that is in service.
#[derive(Debug)]
pub(in crate::edge) struct Greeter {
    config: ArcSwap<ServerConfig>,
    metrics: Arc<Metrics>,
}

impl Greeter {
    /// With this certificate in service.
    pub(super) fn new(certificate: &ServerCertificate, metrics: Arc<Metrics>) -> Self {
        Self {
            config: ArcSwap::new(Arc::clone(&certificate.config)),
            metrics,
        }
    }

    /// Serves this certificate to whoever comes from now on.
    pub(super) fn serve(&self, certificate: &ServerCertificate) {
        self.config.store(Arc::clone(&certificate.config));
    }

    /// Makes the handshake with a peer. `None` if there is nobody to talk to; the connection is
    /// closed then.
    ///
    /// # Cancel safety
    /// Safe: the connection is closed.
    pub(in crate::edge) async fn greet(&self, stream: TcpStream) -> Option<Greeted> {
        match self.shake_hands(stream).await {
            Ok(greeted) => {
                match &greeted {
                    Greeted::Tls(stream) => self.count(stream.get_ref().1),
                    Greeted::Http(_) => self.metrics.fail_handshake("plain_http"),
                }
                Some(greeted)
            }
            // Whoever looks whether a port is open does this all the time.
            Err(Failure::Silent) => None,
            Err(failure) => {
                let reason = failure.reason();
                tracing::debug!(reason, %failure, "no TLS handshake");
                self.metrics.fail_handshake(reason);
                None
            }
        }
    }

    async fn shake_hands(&self, stream: TcpStream) -> Result<Greeted, Failure> {
        let mut first = [0];
        match stream.peek(&mut first).await {
            Ok(1..) => {}
            Ok(0) | Err(_) => return Err(Failure::Silent),
        }
        // A request begins with its method, and TLS with a byte that is no letter (RFC 8446 §5.1).
        if first[0].is_ascii_uppercase() {
            return Ok(Greeted::Http(stream));
        }
        let acceptor = TlsAcceptor::from(self.config.load_full());
        let handshake = acceptor.accept_with(stream, |connection| {
            connection.set_buffer_limit(Some(WAITING_BYTES));
        });
        match handshake.await {
            Ok(stream) => Ok(Greeted::Tls(Box::new(stream))),
            Err(error) => Err(Failure::Failed(error)),
        }
    }

    fn count(&self, connection: &ServerConnection) {
        let version = match connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "1.3",
            _ => "1.2",
        };
        let kind = match connection.handshake_kind() {
            Some(HandshakeKind::Resumed) => "resumed",
            _ => "full",
        };
        self.metrics.count_handshake(version, kind);
    }
}

impl Failure {
    /// One of few words, for the metrics.
    fn reason(&self) -> &'static str {
        use AlertDescription as Alert;
        let error = match self {
            Self::Silent => return "left",
            Self::Failed(error) => error,
        };
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
        match tls {
            None => "left",
            Some(Error::PeerIncompatible(_) | Error::NoApplicationProtocol) => "incompatible",
            Some(Error::InvalidMessage(_)) => "malformed",
            Some(Error::AlertReceived(
                Alert::BadCertificate
                | Alert::CertificateExpired
                | Alert::CertificateRevoked
                | Alert::CertificateUnknown
                | Alert::UnknownCA
                | Alert::UnsupportedCertificate,
            )) => "certificate_refused",
            Some(_) => "other",
        }
    }
}
