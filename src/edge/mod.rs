//! Where the outside meets the gateway: TCP connections, TLS, HTTP, the upgrade to a WebSocket, Server-Sent Events, and the files of a page.
//!
//! Invariants:
//! - Nobody who has not shown a valid token reaches a native session. A session of Phoenix channels needs a key of the application's,
//!   and hears nothing before it has a person's token.
//! - Every connection has an id, which is in its span and names its session; every request has an id, which is in its span
//!   and its answer.
//! - No token and no query string reaches the log.

pub mod acceptor;
mod address;
mod api;
mod broadcast;
mod caller;
mod connection;
mod door;
#[cfg(test)]
mod echo;
mod events;
mod handshakes;
pub mod health;
mod identified;
mod memory;
pub mod origin;
mod phoenix;
mod problem;
mod rest;
mod socket;
mod stream;
pub mod tls;
mod web_root;
mod websocket;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderName, Method, header},
    middleware::{from_fn, from_fn_with_state},
    response::Response,
    routing::get,
};
use deadpool_postgres::Pool;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower_http::cors::{AllowOrigin, CorsLayer};

use self::{
    acceptor::{Acceptor, Refusing, Tls},
    identified::{REQUEST_ID, identified},
};
pub use self::{
    address::{AddressConfig, Addresses, ForwardedHeader, TrustedProxies},
    api::body::read as read_json,
    connection::ConnectionId,
    handshakes::{HandshakeLimits, Handshakes},
    memory::{Ceiling, MemoryWatch, ceiling},
    origin::AllowedOrigins,
    problem::Problem,
    tls::{Renewal, TlsSettings},
    web_root::{WebRoot, WebRootError},
};
use crate::{
    auth::Verifier, hub::FeedStatus, metrics::Metrics, quota::Quota, session::Sessions,
    store::conversations::Conversations, tasks::Tasks, types::UserId,
};

/// How long a browser may remember what a preflight was answered.
const PREFLIGHT_AGE: Duration = Duration::from_secs(600);

/// What the edge needs of the rest.
#[derive(Clone, Debug)]
pub struct Edge {
    /// Runs a session once a socket is open.
    pub sessions: Arc<Sessions>,
    /// Judges tokens.
    pub verifier: Arc<Verifier>,
    /// What the feed is doing.
    pub feed: FeedStatus,
    /// Asked by `/readyz` whether it answers.
    pub pool: Pool,
    /// What happened, in numbers.
    pub metrics: Arc<Metrics>,
    /// Starts session tasks.
    pub tasks: Tasks,
    /// Cancelled when a shutdown begins.
    pub draining: CancellationToken,
    /// Lists, reads and writes messages as their users.
    pub conversations: Conversations,
    /// How many requests each user may make.
    pub quota: Arc<Quota<UserId>>,
    /// Whose pages may open a session.
    pub origins: Arc<AllowedOrigins>,
    /// How much is open from each address.
    pub addresses: Addresses,
    /// What the pool answered last.
    pub probe: Arc<health::Probe>,
    /// A page for people, if one is served.
    pub web_root: Option<WebRoot>,
}

/// All routes of the gateway, and further ones that whoever starts it has of its own. They are answered under the same
/// conditions: request ids, CORS, problems for what is not there.
fn router(edge: Edge, further: Router) -> Router {
    let cors = cors(&edge.origins);
    api::routes(&edge)
        .merge(broadcast::routes())
        .route("/v1/socket", get(socket::open))
        .route("/v1/events", get(events::open))
        .route("/realtime/v1/websocket", get(phoenix::open))
        .route("/socket/websocket", get(phoenix::open))
        .route("/healthz", get(health::live))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(health::metrics))
        .merge(further.with_state(()))
        .fallback(of_the_page)
        .method_not_allowed_fallback(|| async { Problem::method_not_allowed() })
        .layer(from_fn(rest::read_out))
        .layer(from_fn_with_state(edge.addresses.clone(), address::admit))
        .layer(from_fn_with_state(
            edge.addresses.clone(),
            address::delay_refusals,
        ))
        .layer(cors)
        .layer(from_fn(identified))
        .with_state(edge)
}

/// What the page has at a path that is not the gateway's.
async fn of_the_page(State(edge): State<Edge>, request: Request) -> Result<Response, Problem> {
    match &edge.web_root {
        Some(web_root) => web_root.answer(request).await,
        None => Err(Problem::not_found()),
    }
}

/// Which pages may read answers (the Fetch standard, "CORS protocol"). Nothing here goes by cookies, so that credentials
/// need not be allowed.
fn cors(origins: &Arc<AllowedOrigins>) -> CorsLayer {
    let origins = Arc::clone(origins);
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(move |_origin, request| {
            origins.allow(&request.headers)
        }))
        .allow_methods([Method::GET, Method::POST])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            HeaderName::from_static("last-event-id"),
            REQUEST_ID,
            // What Supabase's clients send.
            HeaderName::from_static("apikey"),
            HeaderName::from_static("x-client-info"),
            HeaderName::from_static("x-supabase-api-version"),
            // What tracing in a browser adds to every request (the W3C's Trace Context and Baggage).
            HeaderName::from_static("traceparent"),
            HeaderName::from_static("tracestate"),
            HeaderName::from_static("baggage"),
        ])
        .expose_headers([REQUEST_ID, header::RETRY_AFTER])
        .max_age(PREFLIGHT_AGE)
}

/// TLS at the door, and what keeps its certificate up to date.
pub fn tls(settings: TlsSettings, metrics: &Arc<Metrics>) -> (Tls, Renewal) {
    let (greeter, renewal) = Renewal::new(settings, metrics);
    let enlightening = Router::new()
        .fallback(|| async { Problem::tls_required() })
        .layer(from_fn(identified));
    let tls = Tls {
        greeter,
        enlightening,
    };
    (tls, renewal)
}

/// How connections come in, and how many.
#[derive(Debug)]
pub struct Entrance {
    /// Where they come from.
    pub listener: TcpListener,
    /// Speaks TLS on each, if there is a certificate.
    pub tls: Option<Tls>,
    /// The most at once.
    pub connections_max: usize,
    /// Bounds those that have not said what they want.
    pub handshakes: Handshakes,
    /// Whether there is memory for one more.
    pub ceiling: Ceiling,
}

/// What accepts connections and serves them.
pub fn acceptor(edge: Edge, further: Router, entrance: Entrance) -> Acceptor {
    let counting = |problem: Problem, reason: &'static str| {
        let metrics = Arc::clone(&edge.metrics);
        refusing(problem, move || metrics.refuse(reason))
    };
    Acceptor {
        refusing: Refusing {
            connections: counting(Problem::too_many_connections(), "too_many_connections"),
            address: counting(Problem::too_many_connections_of_address(), address::REASON),
            memory: counting(Problem::short_of_memory(), "short_of_memory"),
        },
        listener: entrance.listener,
        tls: entrance.tls,
        connections_max: entrance.connections_max,
        handshakes: Arc::new(entrance.handshakes),
        ceiling: entrance.ceiling,
        addresses: edge.addresses.clone(),
        metrics: Arc::clone(&edge.metrics),
        tasks: edge.tasks.clone(),
        draining: edge.draining.clone(),
        router: router(edge, further),
    }
}

/// The answer to every request on a connection that is one too many.
fn refusing(problem: Problem, count: impl Fn() + Clone + Send + Sync + 'static) -> Router {
    // A connection that is one too many does not stay for another request.
    let problem = problem.with(header::CONNECTION, "close");
    let answer = move || {
        count();
        let problem = problem.clone();
        async move { problem }
    };
    Router::new().fallback(answer).layer(from_fn(identified))
}
