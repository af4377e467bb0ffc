//! The handshake of one connection: when it is given up, and how many there are at once.
//!
//! A peer that has sent nothing yet costs nothing but its connection. From its first byte on it takes one of the places for
//! handshakes. When all are taken, newcomers wait in their own tasks, and a handshake that has had its fair time by then makes
//! room for them, the oldest first. So peers that begin handshakes and do not go on cannot keep others out, and a crowd
//! that comes back at once is served in its order instead of being cut off.

use std::{io, pin::pin, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use rustls::{AlertDescription, Error, HandshakeKind, ProtocolVersion, ServerConfig, ServerConnection};
use tokio::{
    net::TcpStream,
    sync::{Notify, Semaphore, SemaphorePermit},
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::ServerCertificate;
use crate::metrics::Metrics;

/// What may wait, encrypted, for a peer that does not read, in bytes: about one record of TLS (RFC 8446 §5.1). More than that
/// is felt by whoever writes, as on a connection without TLS.
const WAITING_BYTES: usize = 16 * 1024;

/// How patient the gateway is with handshakes.
#[derive(Clone, Copy, Debug)]
pub struct HandshakeLimits {
    /// The time from a connection's acceptance until its handshake is done.
    pub deadline: Duration,
    /// The time that a handshake has to itself even while others wait for its place. It suffices for slow mobile networks.
    pub fair_time: Duration,
    /// The most handshakes at once. Each takes some 12 KiB.
    pub at_once: usize,
}

impl Default for HandshakeLimits {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(10),
            fair_time: Duration::from_secs(2),
            at_once: 4096,
        }
    }
}

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
    #[error("the handshake was not done in time")]
    Deadline,
    #[error("others waited for the handshake's place")]
    Crowded,
    #[error("{0}")]
    Failed(io::Error),
}

/// Makes handshakes with the certificate that is in service.
#[derive(Debug)]
pub(in crate::edge) struct Handshakes {
    config: ArcSwap<ServerConfig>,
    places: Semaphore,
    /// Told when somebody needs a place.
    wanted: Notify,
    limits: HandshakeLimits,
    metrics: Arc<Metrics>,
}

impl Handshakes {
    /// None so far, and this certificate in service.
    pub(super) fn new(
        certificate: &ServerCertificate,
        limits: HandshakeLimits,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            config: ArcSwap::new(Arc::clone(&certificate.config)),
            places: Semaphore::new(limits.at_once),
            wanted: Notify::new(),
            limits,
            metrics,
        }
    }

    /// Serves this certificate to whoever comes from now on.
    pub(super) fn serve(&self, certificate: &ServerCertificate) {
        self.config.store(Arc::clone(&certificate.config));
    }

    /// Makes the handshake with a peer that has connected right now. `None` if there is nobody to talk to; the connection is
    /// closed then.
    ///
    /// # Cancel safety
    /// Safe: the connection is closed.
    pub(in crate::edge) async fn greet(&self, stream: TcpStream) -> Option<Greeted> {
        let greeted = timeout(self.limits.deadline, self.shake_hands(stream)).await;
        match greeted.unwrap_or(Err(Failure::Deadline)) {
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
        let _place = self.place().await;
        let acceptor = TlsAcceptor::from(self.config.load_full());
        let handshake = acceptor.accept_with(stream, |connection| {
            connection.set_buffer_limit(Some(WAITING_BYTES));
        });
        tokio::select! {
            biased;
            done = handshake => done.map(|stream| Greeted::Tls(Box::new(stream))).map_err(Failure::Failed),
            () = self.has_to_make_room() => Err(Failure::Crowded),
        }
    }

    /// Waits for a place, and asks for one as long as it waits.
    async fn place(&self) -> Option<SemaphorePermit<'_>> {
        if let Ok(place) = self.places.try_acquire() {
            return Some(place);
        }
        let mut acquiring = pin!(self.places.acquire());
        loop {
            self.wanted.notify_one();
            // Nobody may have had its fair time yet. The semaphore is never closed, so that there is no error.
            if let Ok(place) = timeout(self.limits.fair_time, &mut acquiring).await {
                return place.ok();
            }
        }
    }

    /// Resolves when a handshake that began right now has had its fair time, and somebody waits for its place.
    async fn has_to_make_room(&self) {
        sleep(self.limits.fair_time).await;
        loop {
            self.wanted.notified().await;
            // Whoever asked may have found a place by now.
            if self.places.available_permits() == 0 {
                return;
            }
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
            Self::Deadline => return "deadline",
            Self::Crowded => return "crowded",
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
