//! TLS at the gateway's own door.

use std::{ffi::OsString, path::PathBuf};

use clap::Args;

use super::Mistakes;
use crate::edge::{TlsSettings, tls::CertificateFiles};

/// The variable of the certificate's file.
pub(super) const CERTIFICATE_VARIABLE: &str = "HERALD_TLS_CERT";

/// The variable of the key's file.
const KEY_VARIABLE: &str = "HERALD_TLS_KEY";

/// TLS, as typed.
#[derive(Args, Clone, Debug)]
pub struct TlsFlags {
    /// A PEM file with a certificate, and behind it those that lead to its root: connections are taken by TLS 1.2 and 1.3 then.
    /// It is read again every 10 s, and a new certificate serves new connections.
    #[arg(long = "tls-cert", env = CERTIFICATE_VARIABLE, value_name = "FILE")]
    certificate: Option<OsString>,
    /// A PEM file with the certificate's private key, without a passphrase.
    #[arg(long = "tls-key", env = KEY_VARIABLE, value_name = "FILE")]
    key: Option<OsString>,
}

impl TlsFlags {
    /// Notes what is wrong, and answers the certificate, if connections are to be taken by TLS.
    pub fn check(self, mistakes: &mut Mistakes) -> Option<TlsSettings> {
        let file = |path: Option<OsString>| path.filter(|path| !path.is_empty()).map(PathBuf::from);
        let (certificate, key) = match (file(self.certificate), file(self.key)) {
            (Some(certificate), Some(key)) => (certificate, key),
            (None, None) => return None,
            (Some(_), None) => {
                let what = format!(
                    "not set, and {CERTIFICATE_VARIABLE} is; give the certificate's private key, too"
                );
                mistakes.note(KEY_VARIABLE, what);
                return None;
            }
            (None, Some(_)) => {
                let what = format!("not set, and {KEY_VARIABLE} is; give the key's certificate, too");
                mistakes.note(CERTIFICATE_VARIABLE, what);
                return None;
            }
        };
        TlsSettings::open(CertificateFiles { certificate, key })
            .map_err(|wrong| {
                if let Some(problem) = wrong.of_certificate() {
                    mistakes.note(CERTIFICATE_VARIABLE, problem);
                }
                if let Some(problem) = wrong.of_key() {
                    mistakes.note(KEY_VARIABLE, problem);
                }
            })
            .ok()
    }
}
