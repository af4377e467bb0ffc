//! A gateway's events over plain HTTP: asks for Server-Sent Events and reads them as they come.
//!
//! The connection is polled by whoever waits for the next event, so that it needs no task of its own.

use std::error::Error;

use futures::{FutureExt, future::Fuse};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{
    body::{Bytes, Incoming},
    client::conn::http1,
};
use hyper_rustls::MaybeHttpsStream;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower::ServiceExt as _;

use super::{
    TailError,
    connection::{ConnectError, FRAME_BYTES_MAX, Heard, bearer, refused},
    event_stream::EventStreamParser,
    recovery::Loss,
};
pub(super) use crate::client::HttpConnector;
use crate::{
    auth::Token,
    client::{GatewayUrl, tls_complaint},
    protocol::event_stream::CONTENT_TYPE,
};

/// The path of the events, below the gateway's own.
const EVENTS_PATH: &str = "/v1/events";

/// Where the cursor travels, as a browser brings it.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// The longest refusal that is read; a gateway's is a few lines.
const REFUSAL_BYTES_MAX: usize = 16 * 1024;

/// The names of the events that carry a frame.
const FRAMES: [&str; 3] = ["ready", "events", "close"];

type Exchange = http1::Connection<MaybeHttpsStream<TokioIo<TcpStream>>, Empty<Bytes>>;

/// An open stream of events.
pub(super) struct EventSource {
    exchange: Fuse<Exchange>,
    /// Without it the exchange would take the request for given up.
    _sender: http1::SendRequest<Empty<Bytes>>,
    body: Incoming,
    parser: EventStreamParser,
}

impl EventSource {
    /// Asks for events, from the cursor on if there is one.
    ///
    /// # Cancel safety
    /// Safe: the connection is closed.
    pub(super) async fn open(
        url: &GatewayUrl,
        connector: &HttpConnector,
        token: &Token,
        cursor: Option<&str>,
    ) -> Result<Self, ConnectError> {
        let not_a_gateway = |why: String| {
            ConnectError::Hopeless(TailError::NotAGateway {
                url: url.clone(),
                why,
            })
        };
        let uri: Uri = url
            .below(EVENTS_PATH)
            .parse()
            .map_err(|error: http::uri::InvalidUri| not_a_gateway(error.to_string()))?;
        let request = request(&uri, token, cursor)?;
        let stream = connector
            .clone()
            .oneshot(uri)
            .await
            .map_err(|error| judge(&*error, url))?;
        let (mut sender, exchange) = http1::handshake(stream)
            .await
            .map_err(|error| judge(&error, url))?;
        let mut exchange = exchange.fuse();
        let answered = {
            let asking = sender.send_request(request);
            tokio::pin!(asking);
            tokio::select! {
                biased;
                answered = &mut asking => answered,
                // What is left is to hear how it ended.
                _ended = &mut exchange => asking.await,
            }
        };
        let response = answered.map_err(|error| judge(&error, url))?;
        if response.status() != StatusCode::OK {
            return Err(ConnectError::Lost(refused(&whole(response, exchange).await)));
        }
        let is_stream = response
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(CONTENT_TYPE.as_bytes()));
        if !is_stream {
            return Err(not_a_gateway("its answer is no stream of events".to_owned()));
        }
        Ok(Self {
            exchange,
            _sender: sender,
            body: response.into_body(),
            parser: EventStreamParser::new(FRAME_BYTES_MAX),
        })
    }

    /// What comes next.
    ///
    /// # Cancel safety
    /// Safe: nothing that came is lost.
    pub(super) async fn next(&mut self) -> Heard {
        loop {
            while let Some(event) = self.parser.take() {
                if FRAMES.contains(&event.name.as_str()) {
                    return Heard::Text(event.data.into());
                }
            }
            let frame = tokio::select! {
                biased;
                frame = self.body.frame() => frame,
                // What is left is to read what it has carried.
                _ended = &mut self.exchange => continue,
            };
            let bytes = match frame {
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
                Some(Err(error)) => return Heard::Broken(chain(&error)),
                None => return Heard::Broken("it was closed without a reason".to_owned()),
            };
            if let Err(error) = self.parser.read(&bytes) {
                return Heard::TooLarge(error.to_string());
            }
            // Comments, and parts of an event, are signs of life.
            if self.parser.is_empty() {
                return Heard::Alive;
            }
        }
    }
}

fn request(uri: &Uri, token: &Token, cursor: Option<&str>) -> Result<Request<Empty<Bytes>>, ConnectError> {
    let host = uri.authority().map_or("", http::uri::Authority::as_str);
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = uri.path().parse().unwrap_or_default();
    let headers = request.headers_mut();
    // The address has been read, so that its host can be said.
    headers.insert(
        header::HOST,
        HeaderValue::from_str(host).unwrap_or(HeaderValue::from_static("")),
    );
    headers.insert(header::ACCEPT, HeaderValue::from_static(CONTENT_TYPE));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::AUTHORIZATION, bearer(token)?);
    if let Some(cursor) = cursor {
        let cursor =
            HeaderValue::from_str(cursor).map_err(|_| ConnectError::Hopeless(TailError::UnusableCursor))?;
        headers.insert(LAST_EVENT_ID, cursor);
    }
    Ok(request)
}

/// A refusal with as much of its body as can be read.
async fn whole(response: Response<Incoming>, mut exchange: Fuse<Exchange>) -> Response<Option<Vec<u8>>> {
    let (parts, body) = response.into_parts();
    let reading = Limited::new(body, REFUSAL_BYTES_MAX).collect();
    tokio::pin!(reading);
    let read = tokio::select! {
        biased;
        read = &mut reading => read,
        _ended = &mut exchange => reading.await,
    };
    Response::from_parts(parts, read.ok().map(|body| body.to_bytes().to_vec()))
}

fn judge(error: &(dyn Error + Send + Sync + 'static), url: &GatewayUrl) -> ConnectError {
    // A certificate that is not accepted will not be accepted in a second either.
    match tls_complaint(error) {
        Some(tls) => ConnectError::Hopeless(TailError::Tls(tls.to_string())),
        None => ConnectError::Lost(Loss::Unreachable(format!("{url}: {}", chain(error)))),
    }
}

fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text.push_str(": ");
        text.push_str(&error.to_string());
        next = error.source();
    }
    text
}
