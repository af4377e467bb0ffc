//! TLS at the gateway's own door: real sockets, and clients that know one authority and no other.

mod connections;
mod handshakes;
mod pairs;
mod programs;
mod renewal;

use std::{fs, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use herald::{
    app::AppConfig,
    edge::{TlsSettings, tls::CertificateFiles},
    types::UserId,
};
use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{io::AsyncWriteExt, net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::support::{
    authority::{Authority, Issued},
    database::AT_MOST,
    gateway::token,
    http::{self, Answer},
    scene::Scene,
    socket::{self, Socket},
};

/// The name in the gateway's certificate.
const NAME: &str = "chat.example";

/// Nothing of a handshake needs a database, so that there is none: the gateway waits for it.
const NO_DATABASE: &str = "postgres://127.0.0.1:1/none";

/// Longer than any test lasts.
const EVER: Duration = Duration::from_secs(3600);

/// A folder with a certificate and its key, and who issued it.
struct Stage {
    authority: Authority,
    folder: TempDir,
}

impl Stage {
    fn new() -> Self {
        let stage = Self {
            authority: Authority::new("the right authority"),
            folder: tempfile::tempdir().unwrap(),
        };
        stage.install(&stage.authority.issue(&[NAME]));
        stage
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Lays files into the folder, each by renaming, as programs do that renew certificates.
    fn install(&self, issued: &Issued) {
        self.replace("cert.pem", &issued.certificate);
        self.replace("key.pem", &issued.key);
    }

    fn replace(&self, name: &str, text: &str) {
        let beside = self.path("beside");
        fs::write(&beside, text).unwrap();
        fs::rename(beside, self.path(name)).unwrap();
    }

    /// With a look at the files all the time.
    fn settings(&self) -> TlsSettings {
        let mut settings = TlsSettings::open(CertificateFiles {
            certificate: self.path("cert.pem"),
            key: self.path("key.pem"),
        })
        .unwrap();
        settings.look_every = Duration::from_millis(10);
        settings
    }

    fn configure(&self, config: &mut AppConfig) {
        config.tls = Some(self.settings());
    }

    /// A scene whose gateway speaks TLS.
    async fn scene<const PEOPLE: usize>(&self) -> Scene<PEOPLE> {
        Scene::with(|config| self.configure(config)).await
    }

    fn client(&self) -> Client {
        Client::new(&self.authority, rustls::ALL_VERSIONS)
    }
}

/// A client by TLS that trusts one authority.
#[derive(Clone)]
struct Client {
    config: ClientConfig,
}

impl Client {
    fn new(authority: &Authority, versions: &[&'static SupportedProtocolVersion]) -> Self {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(authority.certificate.as_bytes()).unwrap())
            .unwrap();
        let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self { config }
    }

    async fn try_on(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(NAME).unwrap();
        let connector = TlsConnector::from(Arc::new(self.config.clone()));
        timeout(AT_MOST, connector.connect(name, stream))
            .await
            .expect("the handshake does not end")
    }

    async fn try_connect(&self, address: SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
        self.try_on(TcpStream::connect(address).await.unwrap()).await
    }

    async fn connect(&self, address: SocketAddr) -> TlsStream<TcpStream> {
        self.try_connect(address).await.unwrap()
    }

    async fn fetch(&self, address: SocketAddr, target: &str) -> Answer {
        let mut stream = self.connect(address).await;
        fetch_on(&mut stream, target).await
    }

    /// Opens a session, and answers with its first frame too.
    async fn session(&self, address: SocketAddr, user: UserId) -> (Socket, Value) {
        let stream = self.connect(address).await;
        let request = socket::request(address, &token(user), None);
        let mut socket = Socket::open_by_tls(stream, request).await.unwrap();
        let ready = socket.frame().await;
        assert_eq!(ready["type"], "ready", "{ready}");
        (socket, ready)
    }

    /// The certificate that is shown to whoever connects.
    async fn shown(&self, address: SocketAddr) -> CertificateDer<'static> {
        let stream = self.connect(address).await;
        let shown = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
        shown.into_owned()
    }
}

async fn fetch_on(stream: &mut TlsStream<TcpStream>, target: &str) -> Answer {
    stream
        .write_all(http::request("GET", target, &[]).as_bytes())
        .await
        .unwrap();
    http::read(stream).await.expect("no answer")
}

fn der(issued: &Issued) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap()
}
