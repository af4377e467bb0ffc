//! Certificates and keys that can be served, and what is said of those that cannot.

use std::{fs, path::PathBuf};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use herald::edge::{TlsSettings, tls::CertificateFiles};
use rcgen::KeyPair;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use super::{NAME, NO_DATABASE, Stage, der};
use crate::support::{
    authority::Issued,
    gateway::{self, Gateway},
};

/// A PEM file of these bytes.
fn pem(label: &str, der: &[u8]) -> String {
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        STANDARD.encode(der)
    )
}

/// The key within PKCS#8 (RFC 5208 §5) in the form of its own algorithm: the octets of the first string of octets that is not
/// within the algorithm's name.
fn inner(pkcs8: &[u8]) -> &[u8] {
    fn take(bytes: &[u8]) -> (u8, &[u8], &[u8]) {
        let (length, begin) = match bytes[1] {
            short @ 0..=0x7f => (usize::from(short), 2),
            long => {
                let count = usize::from(long & 0x7f);
                let length = bytes[2..2 + count]
                    .iter()
                    .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
                (length, 2 + count)
            }
        };
        (bytes[0], &bytes[begin..begin + length], &bytes[begin + length..])
    }
    let (_, sequence, _) = take(pkcs8);
    let (_, _version, rest) = take(sequence);
    let (_, _algorithm, rest) = take(rest);
    let (tag, key, _) = take(rest);
    assert_eq!(tag, 4);
    key
}

impl Stage {
    fn files(&self) -> CertificateFiles {
        CertificateFiles {
            certificate: self.path("cert.pem"),
            key: self.path("key.pem"),
        }
    }

    /// What is said of the certificate and of the key.
    fn told(&self, certificate: &[u8], key: &[u8]) -> (String, String) {
        fs::write(self.path("cert.pem"), certificate).unwrap();
        fs::write(self.path("key.pem"), key).unwrap();
        let mistakes = TlsSettings::open(self.files()).expect_err("it is accepted");
        let told = (
            mistakes.of_certificate().map(|problem| problem.to_string()),
            mistakes.of_key().map(|problem| problem.to_string()),
        );
        (told.0.unwrap_or_default(), told.1.unwrap_or_default())
    }
}

#[tokio::test]
async fn keys_of_every_kind_and_form_are_served() {
    let stage = Stage::new();
    let generate = |algorithm| KeyPair::generate_for(algorithm).unwrap();
    let p256 = generate(&rcgen::PKCS_ECDSA_P256_SHA256);
    let rsa = generate(&rcgen::PKCS_RSA_SHA256);
    let issue = |key: &KeyPair| stage.authority.issue_with(&[NAME], key, |_| {});
    let sec1 = Issued {
        key: pem("EC PRIVATE KEY", inner(&p256.serialize_der())),
        ..issue(&p256)
    };
    let pkcs1 = Issued {
        key: pem("RSA PRIVATE KEY", inner(&rsa.serialize_der())),
        ..issue(&rsa)
    };
    for issued in [
        issue(&p256),
        issue(&generate(&rcgen::PKCS_ECDSA_P384_SHA384)),
        issue(&generate(&rcgen::PKCS_ED25519)),
        issue(&rsa),
        sec1,
        pkcs1,
    ] {
        stage.install(&issued);
        let mut config = gateway::config(NO_DATABASE);
        stage.configure(&mut config);
        let gateway = Gateway::start_on("127.0.0.1:0".parse().unwrap(), config).await;
        let shown = stage.client().shown(gateway.address()).await;
        assert_eq!(shown, der(&issued), "{}", issued.key.lines().next().unwrap());
        gateway.stop().await;
    }
}

#[tokio::test]
async fn a_chain_and_a_file_that_holds_everything_are_served() {
    let stage = Stage::new();
    let issued = stage.authority.issue(&[NAME]);
    // Mail programs and editors leave things before and between, and Windows ends lines in its own way.
    let all = format!(
        "the gateway's own\n{}\nits root\n{}{}",
        issued.certificate, stage.authority.certificate, issued.key
    )
    .replace('\n', "\r\n");
    stage.replace("all.pem", &all);
    let mut config = gateway::config(NO_DATABASE);
    config.tls = Some(
        TlsSettings::open(CertificateFiles {
            certificate: stage.path("all.pem"),
            key: stage.path("all.pem"),
        })
        .unwrap(),
    );
    let gateway = Gateway::start_on("127.0.0.1:0".parse().unwrap(), config).await;
    let stream = stage.client().connect(gateway.address()).await;
    let shown = stream.get_ref().1.peer_certificates().unwrap();
    let root = CertificateDer::from_pem_slice(stage.authority.certificate.as_bytes()).unwrap();
    assert_eq!(shown, [der(&issued), root]);
    gateway.stop().await;
}

#[test]
fn what_cannot_be_served_says_what_to_do() {
    let stage = Stage::new();
    let issued = stage.authority.issue(&[NAME]);
    let (certificate, key) = (issued.certificate.as_bytes(), issued.key.as_bytes());
    let certificate_der = der(&issued);
    let key_der = PrivateKeyDer::from_pem_slice(key).unwrap();
    let encrypted = pem("ENCRYPTED PRIVATE KEY", &[0; 32]);
    let old_encrypted = issued.key.replacen(
        "-----\n",
        "-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\n",
        1,
    );
    let foreign = stage.authority.issue(&[NAME]);
    let behind = format!("{}{}", foreign.certificate, issued.certificate);
    let half = &certificate[..certificate.len() / 2];
    let nonsense = pem("CERTIFICATE", &[0x30, 0x03, 0x02, 0x01, 0x05]);
    let dsa = pem("PRIVATE KEY", &[0x30, 0x03, 0x02, 0x01, 0x00]);
    let pkcs12 = [0x30, 0x82, 0x10, 0x00, 0x02, 0x01, 0x03, 0x30];
    let large = vec![b'\n'; (1 << 20) + 1];
    for (certificate, key, of_certificate, of_key) in [
        (&b""[..], key, "holds no certificate", ""),
        (certificate, b"", "", "holds no private key"),
        (b"hello", b"hello", "holds no certificate", "holds no private key"),
        (&certificate_der, key, "openssl x509 -inform der", ""),
        (&pkcs12, key, "openssl pkcs12", ""),
        (certificate, key_der.secret_der(), "", "DER form"),
        (key, certificate, "HERALD_TLS_CERT names", "HERALD_TLS_KEY names"),
        (certificate, encrypted.as_bytes(), "", "openssl pkey -in"),
        (certificate, old_encrypted.as_bytes(), "", "passphrase"),
        (half, key, "no sound PEM file", ""),
        (certificate, &key[..key.len() / 2], "", "no sound PEM file"),
        (
            certificate,
            foreign.key.as_bytes(),
            "",
            "does not belong to the certificate",
        ),
        (behind.as_bytes(), key, "", "certificate number 2"),
        (nonsense.as_bytes(), key, "cannot be used", ""),
        (certificate, dsa.as_bytes(), "", "ECDSA"),
        (&large, key, "more than 1048576 bytes", ""),
    ] {
        let told = stage.told(certificate, key);
        for (told, expected, file) in [(told.0, of_certificate, "cert.pem"), (told.1, of_key, "key.pem")] {
            assert_eq!(told.is_empty(), expected.is_empty(), "{expected}: {told}");
            assert!(told.contains(expected), "{expected}: {told}");
            assert!(told.is_empty() || told.contains(file), "{told}");
            // A line of the key, whichever file it stood in.
            for line in issued.key.lines().filter(|line| !line.starts_with("---")) {
                assert!(!told.contains(line), "{told}");
            }
        }
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named_with_the_reason() {
    let stage = Stage::new();
    let told = |certificate: PathBuf, key: PathBuf| {
        TlsSettings::open(CertificateFiles { certificate, key })
            .map(drop)
            .unwrap_err()
            .to_string()
    };
    let missing = told(stage.path("nowhere.pem"), stage.path("key.pem"));
    assert!(
        missing.contains("nowhere.pem cannot be read: No such file") && !missing.contains("key.pem"),
        "{missing}"
    );
    // A folder, and a device that never ends.
    let both = told(stage.folder.path().to_owned(), "/dev/zero".into());
    assert_eq!(both.matches("is no regular file").count(), 2, "{both}");
}

#[test]
fn the_key_is_not_shown() {
    let stage = Stage::new();
    let key = fs::read_to_string(stage.path("key.pem")).unwrap();
    let mut config = gateway::config(NO_DATABASE);
    stage.configure(&mut config);
    let shown = format!("{config:?}");
    assert!(shown.contains("ServerCertificate"), "{shown}");
    for line in key.lines() {
        assert!(!shown.contains(line), "{shown}");
    }
}
