//! Where clients come from, and how much may be open from each address.
//!
//! A connection whose peer is the client itself takes one of its address's places when it is accepted, and keeps it for as long as it lives. One
//! of a trusted proxy carries requests of many clients: there each request takes a place of its client's address, and a session keeps it.
//! An address whose requests are refused all the time waits for the answers.
//!
//! Invariant: an address that is counted was seen by the gateway or by a trusted proxy, never only named by a client.

mod forwarded;
mod places;
mod refusals;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::{
    extract::{Request, State},
    http::Extensions,
    middleware::Next,
    response::Response,
};

pub use self::forwarded::{ForwardedHeader, TrustedProxies};
use self::places::{Places, shared_by_customer};
pub(super) use self::{
    places::{Full, Place},
    refusals::delay_refusals,
};
use super::Problem;
use crate::{log_context::name_client, metrics::Metrics, quota::Quota};

/// What is counted when an address has too many connections.
pub(super) const REASON: &str = "too_many_connections_of_address";

/// Whose word about addresses is taken, and how much may be open from each.
#[derive(Clone, Debug)]
pub struct AddressConfig {
    /// Proxies that tell their clients' addresses. They are not limited themselves.
    pub trusted_proxies: TrustedProxies,
    /// Where they tell them.
    pub header: ForwardedHeader,
    /// Connections of one address at once.
    pub connections_max: usize,
    /// Requests a second of one address that are refused at once; further ones are refused at this rate.
    pub refusals_per_second: u32,
}

impl AddressConfig {
    /// By default one address may have a tenth of all connections: enough for a large office, and too few to keep everybody out.
    pub fn within(all_connections_max: usize) -> Self {
        Self {
            trusted_proxies: TrustedProxies::default(),
            header: ForwardedHeader::default(),
            connections_max: all_connections_max.div_ceil(10),
            refusals_per_second: 20,
        }
    }
}

/// The addresses from which something is open. Clones share the counts.
#[derive(Clone, Debug)]
pub struct Addresses {
    trusted_proxies: Arc<TrustedProxies>,
    header: ForwardedHeader,
    places: Places,
    refusals: Arc<Quota<IpAddr>>,
    metrics: Arc<Metrics>,
}

/// Who sent a request, on the level of TCP.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) SocketAddr);

/// Who sent a request through a trusted proxy.
#[derive(Clone, Copy, Debug)]
struct Client(IpAddr);

/// Where a request comes from.
#[derive(Clone, Copy, Debug)]
enum Origin {
    /// The connection's peer, whose connection holds the place.
    Peer(IpAddr),
    /// The client of a trusted proxy, as the proxy tells it.
    BehindProxy(IpAddr),
}

impl Origin {
    const fn address(self) -> IpAddr {
        match self {
            Self::Peer(address) | Self::BehindProxy(address) => address,
        }
    }
}

impl Addresses {
    /// Nothing is open yet.
    pub fn new(config: &AddressConfig, metrics: Arc<Metrics>) -> Self {
        Self {
            trusted_proxies: Arc::new(config.trusted_proxies.clone()),
            header: config.header,
            places: Places::new(config.connections_max),
            refusals: Arc::new(Quota::new(config.refusals_per_second)),
            metrics,
        }
    }

    /// Takes a place for a connection. A trusted proxy's needs none.
    ///
    /// # Errors
    /// [`Full`].
    pub(super) fn admit(&self, peer: IpAddr) -> Result<Option<Place>, Full> {
        if self.trusted_proxies.contains(peer) {
            return Ok(None);
        }
        self.places.take(peer).map(Some)
    }

    /// Where a request comes from, if it is known.
    fn origin(&self, request: &Request) -> Option<Origin> {
        let Peer(peer) = *request.extensions().get()?;
        let peer = peer.ip();
        if !self.trusted_proxies.contains(peer) {
            return Some(Origin::Peer(peer));
        }
        let values = request.headers().get_all(self.header.name());
        let values: Vec<&[u8]> = values.iter().map(http::HeaderValue::as_bytes).collect();
        let client = self.trusted_proxies.client(peer, self.header, values.into_iter());
        client.map(Origin::BehindProxy)
    }
}

/// Takes a place for a request that came through a trusted proxy, and names its client in the log.
///
/// # Errors
/// `429` if there is none.
pub(super) async fn admit(
    State(addresses): State<Addresses>,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let Some(Origin::BehindProxy(client)) = addresses.origin(&request) else {
        return Ok(next.run(request).await);
    };
    name_client(&tracing::Span::current(), client);
    request.extensions_mut().insert(Client(client));
    let Ok(place) = addresses.places.take(client) else {
        addresses.metrics.refuse(REASON);
        return Err(Problem::too_many_connections_of_address());
    };
    let place = Arc::new(place);
    request.extensions_mut().insert(Arc::clone(&place));
    let response = next.run(request).await;
    drop(place);
    Ok(response)
}

/// Who sent a request, if it came through a trusted proxy.
pub(super) fn client(extensions: &Extensions) -> Option<IpAddr> {
    extensions.get().map(|Client(client)| *client)
}

/// The place that a request has taken, for a session that goes on after it.
pub(super) fn place(extensions: &Extensions) -> Option<Arc<Place>> {
    extensions.get().cloned()
}
