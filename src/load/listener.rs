//! A session that listens: a WebSocket with small buffers, since thousands of them are in one process.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use futures::StreamExt;
use http::{HeaderValue, StatusCode, Uri, header};
use tokio::{
    net::{TcpSocket, TcpStream},
    time::{Instant, sleep, timeout},
};
use tokio_tungstenite::{
    Connector, MaybeTlsStream, WebSocketStream, client_async_tls_with_config,
    tungstenite::{self, Message, client::IntoClientRequest, protocol::WebSocketConfig},
};
use tokio_util::sync::CancellationToken;

use super::{content::Mark, plan::Plan, progress::Progress, tally::Tally, target::Target};
use crate::{auth::IssueError, client};

/// How long opening a session may take. When thousands are opened, the last ones wait in the server's queue.
const OPEN_DEADLINE: Duration = Duration::from_secs(30);

/// The pause before a target that takes no sessions yet is asked again.
const WAIT: Duration = Duration::from_millis(20);

/// How long each token is good beyond the run.
const TOKEN_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// Connections from one address of this machine to a server on it. Each takes a port, of which some 28,000 are there by default.
const PER_ADDRESS: u32 = 20_000;

/// Bytes that each connection reads at once.
const READ_BUFFER_BYTES: usize = 4096;

/// Why a session did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No connection.
    #[error("the address cannot be reached: {0}")]
    Unreachable(#[from] io::Error),
    /// No session.
    #[error("the session was refused: {0}")]
    Refused(Box<tungstenite::Error>),
    /// Nothing was said.
    #[error("nothing came within {} s", OPEN_DEADLINE.as_secs())]
    Deadline,
    /// No token.
    #[error(transparent)]
    Token(#[from] IssueError),
    /// The system trusts nobody.
    #[error(transparent)]
    Trust(#[from] client::TrustError),
}

impl OpenError {
    /// Whether the target asks to come back (`503`).
    fn may_pass(&self) -> bool {
        let Self::Refused(error) = self else {
            return false;
        };
        matches!(&**error, tungstenite::Error::Http(answer) if answer.status() == StatusCode::SERVICE_UNAVAILABLE)
    }
}

/// An open session.
pub(super) type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Opens sessions of one target.
pub(super) struct Opener {
    target: Arc<Target>,
    uri: Uri,
    connector: Connector,
    addresses: Vec<SocketAddr>,
}

impl Opener {
    /// Looks the target's address up.
    pub(super) async fn new(target: Arc<Target>) -> Result<Self, OpenError> {
        let uri = target.url.socket(None);
        let uri: Uri = uri
            .parse()
            .map_err(|error| io::Error::other(format!("{uri}: {error}")))?;
        let connector = if target.url.is_secure() {
            Connector::Rustls(client::trusted()?)
        } else {
            Connector::Plain
        };
        let port = uri
            .port_u16()
            .unwrap_or(if target.url.is_secure() { 443 } else { 80 });
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let addresses = tokio::net::lookup_host((host, port)).await?.collect();
        Ok(Self {
            target,
            uri,
            connector,
            addresses,
        })
    }

    /// Opens the session with this number, of the person with that number, and waits for its first frame.
    pub(super) async fn open(&self, number: u32, person: u32) -> Result<Socket, OpenError> {
        let opening = async {
            let mut request = (&self.uri).into_client_request().map_err(refused)?;
            let token = self.target.token(person, TOKEN_LIFETIME)?;
            let bearer =
                HeaderValue::from_str(&format!("Bearer {}", token.expose())).map_err(io::Error::other)?;
            request.headers_mut().insert(header::AUTHORIZATION, bearer);
            let stream = self.connect(number).await?;
            let config = WebSocketConfig::default().read_buffer_size(READ_BUFFER_BYTES);
            let (mut socket, _answer) =
                client_async_tls_with_config(request, stream, Some(config), Some(self.connector.clone()))
                    .await
                    .map_err(refused)?;
            match socket.next().await {
                Some(Ok(Message::Text(_))) => Ok(socket),
                Some(Err(error)) => Err(refused(error)),
                Some(Ok(_)) | None => Err(refused(tungstenite::Error::ConnectionClosed)),
            }
        };
        // Boxed, because TLS makes the future a large one.
        timeout(OPEN_DEADLINE, Box::pin(opening))
            .await
            .unwrap_or(Err(OpenError::Deadline))
    }

    /// Waits until the target takes sessions: one that has just begun may not have reached its database yet.
    pub(super) async fn wait(&self) -> Result<(), OpenError> {
        let until = Instant::now() + OPEN_DEADLINE;
        loop {
            match self.open(0, 0).await {
                Err(error) if error.may_pass() && Instant::now() < until => sleep(WAIT).await,
                opened => return opened.map(drop),
            }
        }
    }

    async fn connect(&self, number: u32) -> Result<TcpStream, io::Error> {
        let mut failed = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in &self.addresses {
            let connecting = async {
                let socket = match address.ip() {
                    IpAddr::V4(_) => TcpSocket::new_v4()?,
                    IpAddr::V6(_) => TcpSocket::new_v6()?,
                };
                if address.ip() == Ipv4Addr::LOCALHOST {
                    let [_, _, high, low] = (number / PER_ADDRESS + 1).to_be_bytes();
                    socket.bind((Ipv4Addr::new(127, 0, high, low), 0).into())?;
                }
                let stream = socket.connect(*address).await?;
                stream.set_nodelay(true)?;
                Ok(stream)
            };
            match connecting.await {
                Ok(stream) => return Ok(stream),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }
}

fn refused(error: tungstenite::Error) -> OpenError {
    OpenError::Refused(Box::new(error))
}

/// Notes what a session hears until it is told to stop, and answers all that it has heard.
pub(super) async fn listen(
    mut socket: Socket,
    mut tally: Tally,
    plan: &Plan,
    mark: &Mark,
    progress: &Progress,
    stopping: &CancellationToken,
) -> Tally {
    progress.open.fetch_add(1, Relaxed);
    loop {
        let said = tokio::select! {
            biased;
            said = socket.next() => said,
            () = stopping.cancelled() => break,
        };
        let at = Instant::now();
        match said {
            Some(Ok(Message::Text(text))) => {
                for message in mark.messages_in(&text) {
                    progress.note_arrival(message, tally.note(message, plan), at);
                }
            }
            Some(Ok(Message::Close(Some(frame)))) => {
                progress.note_ended(format!("closed with {}: {}", u16::from(frame.code), frame.reason));
                break;
            }
            Some(Ok(Message::Close(None))) | None => {
                progress.note_ended("closed without a reason".to_owned());
                break;
            }
            // Pings are answered by the library.
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                progress.note_ended(error.to_string());
                break;
            }
        }
    }
    progress.open.fetch_sub(1, Relaxed);
    tally
}
