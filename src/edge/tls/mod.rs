//! TLS at the gateway's own door: its certificate, the handshake, and the certificate's renewal.
//!
//! Invariants:
//! - A certificate is in service only with its own key, and only as a whole pair: what does not fit is kept away.
//! - A renewal concerns handshakes that begin after it. No connection is dropped, and none changes its keys.
//! - A handshake delays nobody else: it runs in its connection's own task.
//!
//! It deliberately asks for no client certificates, ignores the name that a client asks for (SNI), takes no early data, and
//! asks nobody whether a certificate was revoked.

mod certificate;
mod handshake;
mod renewal;

use std::{sync::Arc, time::Duration};

use self::certificate::ServerCertificate;
pub(super) use self::handshake::{Greeted, Greeter};
pub use self::{
    certificate::{CertificateFiles, CertificateMistakes, CertificateProblem, FileProblem, KeyProblem},
    renewal::Renewal,
};

/// How often the files are read again. Certificates are renewed weeks before they end, so that this is soon enough; two
/// files of some kilobytes cost some microseconds.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// The settings of TLS, with a certificate that can be served.
#[derive(Clone, Debug)]
pub struct TlsSettings {
    files: CertificateFiles,
    certificate: Arc<ServerCertificate>,
    /// How often the files are read again.
    pub look_every: Duration,
}

impl TlsSettings {
    /// Reads a certificate and its key. It blocks for as long as the files take.
    ///
    /// # Errors
    /// All that is wrong with either file.
    pub fn open(files: CertificateFiles) -> Result<Self, CertificateMistakes> {
        let certificate = files.read().judge()?;
        Ok(Self {
            files,
            certificate: Arc::new(certificate),
            look_every: LOOK_EVERY,
        })
    }
}
