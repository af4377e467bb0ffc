//! Takes TCP connections in and speaks HTTP/1.1 on each, by TLS if there is a certificate, until a shutdown begins.
//!
//! A connection beyond the limit is answered with `503` instead of being left to wait; refusals are bounded as well.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
#[cfg(target_os = "linux")]
use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use tracing::Instrument as _;

use super::{
    address::{Addresses, Full, Peer, Place},
    connection::{Carrier, Connection, ConnectionId, ServedConnection},
    handshakes::{Handshake, Handshakes},
    memory::Ceiling,
    stream::StreamHandle,
    tls::{Greeted, Greeter},
};
use crate::{
    backoff::Backoff, log_context::connection_span, metrics::Metrics, tasks::Tasks, types::SessionId,
};

/// Connections that the kernel may hold ready. After a restart thousands come back within a second.
const BACKLOG: u32 = 4096;

/// The most bytes of a request's line and headers. The longest cursor, 32 KiB, has to fit beside a token.
const HEADERS_BYTES_MAX: usize = 64 * 1024;

/// The time that a request has to come to its end once a shutdown has begun. It is longer than answers usually
/// take; a client that does not finish its request must not use up the grace of the shutdown.
const LAST_REQUEST_DEADLINE: Duration = Duration::from_secs(5);

/// The longest time that a connection may be used for requests. A peer that never reads its answers must not hold a
/// place for ever; one that reads them, such as Prometheus, opens another connection. Sessions are not concerned,
/// neither those that took the connection over nor those whose answer is a stream.
const REQUESTS_MAX: Duration = Duration::from_secs(300);

/// How long the kernel may wait for a peer to confirm what was sent before it gives the connection up (RFC 5482); by
/// itself it would try for a quarter of an hour. A peer that vanished without a word, its network gone, is noticed so
/// even where it is not asked for an answer. It is longer than two and a half default heartbeats and the time that a
/// session takes to end, so that the session's own judgement, which the client is told, comes first.
#[cfg(target_os = "linux")]
const UNCONFIRMED_MAX: Duration = Duration::from_secs(90);

/// Refusals that are under way at once; a connection beyond them is dropped without an answer.
const REFUSALS_MAX: usize = 256;

/// Opens the listening socket.
///
/// # Errors
/// What the kernel says: the address is taken, not of this machine, or not allowed.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    // A restart must not wait for the old connections' TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// TLS at the door.
#[derive(Clone, Debug)]
pub struct Tls {
    pub(super) greeter: Arc<Greeter>,
    /// Answers requests that came without TLS.
    pub(super) enlightening: Router,
}

/// Who answers on connections that are one too many.
#[derive(Debug, Default)]
pub struct Refusing {
    /// In all.
    pub connections: Router,
    /// From one address.
    pub address: Router,
    /// For the memory that there is.
    pub memory: Router,
}

/// Accepts connections and serves them.
#[derive(Debug)]
pub struct Acceptor {
    /// Where connections come from.
    pub listener: TcpListener,
    /// Answers requests.
    pub router: Router,
    /// Answers requests on connections that are one too many.
    pub refusing: Refusing,
    /// Whether there is memory for one more.
    pub ceiling: Ceiling,
    /// How much is open from each address.
    pub addresses: Addresses,
    /// Bounds what has not said yet what it wants.
    pub handshakes: Arc<Handshakes>,
    /// Speaks TLS on each connection, if there is a certificate.
    pub tls: Option<Tls>,
    /// The most connections at once.
    pub connections_max: usize,
    /// Counts connections.
    pub metrics: Arc<Metrics>,
    /// Starts a task for each connection.
    pub tasks: Tasks,
    /// Ends accepting.
    pub draining: CancellationToken,
}

impl Acceptor {
    /// Accepts until a shutdown begins, and closes the listening socket then.
    ///
    /// # Cancel safety
    /// Safe: a connection is accepted whole or not at all.
    pub async fn run(self) {
        let allowed = Arc::new(Semaphore::new(self.connections_max.min(Semaphore::MAX_PERMITS)));
        let refusals = Arc::new(Semaphore::new(REFUSALS_MAX));
        let mut backoff = Backoff::new(Duration::from_millis(5), Duration::from_secs(1));
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.draining.cancelled() => return,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    backoff.reset();
                    match self.admit(peer, &allowed) {
                        Ok((permit, place)) => self.serve(stream, peer, permit, place, &self.router),
                        Err(refusing) => {
                            if let Ok(permit) = Arc::clone(&refusals).try_acquire_owned() {
                                self.serve(stream, peer, permit, None, refusing);
                            }
                        }
                    }
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    // Out of file descriptors or memory: trying at once would only burn a processor.
                    let delay = backoff.next_delay(&mut rand::rng());
                    tracing::error!(%error, ?delay, "connections cannot be accepted");
                    tokio::time::sleep(delay).await;
                }
            }
        }
    }

    /// The places that a new connection takes, or who tells it that there is none.
    fn admit(
        &self,
        peer: SocketAddr,
        allowed: &Arc<Semaphore>,
    ) -> Result<(OwnedSemaphorePermit, Option<Place>), &Router> {
        if !self.ceiling.has_room(self.metrics.open_connections()) {
            return Err(&self.refusing.memory);
        }
        let place = self
            .addresses
            .admit(peer.ip())
            .map_err(|Full| &self.refusing.address)?;
        let permit = Arc::clone(allowed)
            .try_acquire_owned()
            .map_err(|_| &self.refusing.connections)?;
        Ok((permit, place))
    }

    fn serve(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        permit: OwnedSemaphorePermit,
        place: Option<Place>,
        router: &Router,
    ) {
        let id = ConnectionId(SessionId::random());
        let span = connection_span(id.0, peer);
        // Events are small and must not wait for each other (RFC 896); the kernel may refuse only on a dead socket.
        let _set = stream.set_nodelay(true);
        #[cfg(target_os = "linux")]
        let _set = SockRef::from(&stream).set_tcp_user_timeout(Some(UNCONFIRMED_MAX));
        let held = (self.metrics.count_connection(), permit, place);
        let (router, tls) = (router.clone(), self.tls.clone());
        let draining = self.draining.clone();
        let handshakes = Arc::clone(&self.handshakes);
        let served = async move {
            // A connection without a request is not waited for by a shutdown, and one in its handshake has none yet.
            let opened = draining.run_until_cancelled(Box::pin(open(stream, tls, router, &handshakes)));
            if let Some(Some((carrier, router, handshake))) = opened.await {
                let connection = Connection::new(carrier, held);
                serve_requests(connection, id, Peer(peer), router, handshake, &draining).await;
            }
        };
        self.tasks.spawn("connection", served.instrument(span));
    }
}

/// Lets a peer begin, and makes the handshake of TLS if there is a certificate. Answers with who answers on the connection; `None`
/// if nobody needs an answer.
async fn open(
    stream: TcpStream,
    tls: Option<Tls>,
    router: Router,
    handshakes: &Arc<Handshakes>,
) -> Option<(Carrier, Router, Handshake)> {
    let handshake = handshakes.begin(&stream).await?;
    let Some(tls) = tls else {
        return Some((Carrier::Plain(stream), router, handshake));
    };
    let greeted = tokio::select! {
        biased;
        greeted = tls.greeter.greet(stream) => greeted,
        () = handshake.given_up() => None,
    };
    match greeted? {
        Greeted::Tls(stream) => Some((Carrier::Tls(stream), router, handshake)),
        Greeted::Http(stream) => Some((Carrier::Plain(stream), tls.enlightening, handshake)),
    }
}

/// Answers requests on a connection until it ends, or has to.
async fn serve_requests(
    connection: Connection,
    id: ConnectionId,
    peer: Peer,
    router: Router,
    handshake: Handshake,
    draining: &CancellationToken,
) {
    let headers_deadline = handshake.headers_deadline();
    let asked = Arc::new(Notify::new());
    let asking = Arc::clone(&asked);
    let stream_handle = StreamHandle::default();
    let connection = ServedConnection::new(connection, stream_handle.watch());
    let offered = stream_handle.clone();
    let service = router.map_request(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(id);
        request.extensions_mut().insert(peer);
        asking.notify_one();
        request.extensions_mut().insert(offered.clone());
        request
    });
    let mut serving = Box::pin(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(headers_deadline)
            .max_buf_size(HEADERS_BYTES_MAX)
            .serve_connection(TokioIo::new(connection), TowerToHyperService::new(service))
            .with_upgrades(),
    );
    let ended = tokio::select! {
        ended = &mut serving => Some(ended),
        () = stream_handle.cut() => None,
        () = until_it_is_given_up(handshake, &asked) => None,
        () = until_it_has_to_end(draining) => {
            // A stream goes on: this only says that no further request is taken.
            serving.as_mut().graceful_shutdown();
            tokio::select! {
                ended = serving => Some(ended),
                () = until_it_is_cut(&stream_handle) => None,
            }
        }
    };
    if let Some(Err(error)) = ended {
        // Peers that vanish and scanners that speak no HTTP are everyday life.
        tracing::debug!(%error, "the connection ended early");
    }
}

/// Resolves when a handshake has to be given up; never once there was a request, which ends it.
async fn until_it_is_given_up(handshake: Handshake, asked: &Notify) {
    tokio::select! {
        biased;
        () = asked.notified() => {
            drop(handshake);
            std::future::pending::<()>().await;
        }
        () = handshake.given_up() => {}
    }
}

/// Resolves when a connection that takes no further request has no right to go on: soon, or with its session.
async fn until_it_is_cut(stream: &StreamHandle) {
    tokio::time::sleep(LAST_REQUEST_DEADLINE).await;
    if stream.is_stream() {
        stream.cut().await;
    }
}

/// Resolves when a shutdown begins, or when a connection has been used for requests for long enough.
async fn until_it_has_to_end(draining: &CancellationToken) {
    let _elapsed = tokio::time::timeout(REQUESTS_MAX, draining.cancelled()).await;
}

/// Whether an accept failed because of the one connection that was being accepted (`accept(2)`, "Error handling").
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
    )
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stream_goes_on_until_its_session_has_ended_and_a_request_does_not() {
        let request = StreamHandle::default();
        let began = tokio::time::Instant::now();
        until_it_is_cut(&request).await;
        assert_eq!(began.elapsed(), LAST_REQUEST_DEADLINE);

        let stream = StreamHandle::default();
        let (writer, _body) = stream.begin().unwrap();
        let mut cut = Box::pin(until_it_is_cut(&stream));
        let long = tokio::time::timeout(2 * REQUESTS_MAX, &mut cut).await;
        assert!(long.is_err());
        drop(writer);
        assert!(cut.now_or_never().is_some());
    }
}
