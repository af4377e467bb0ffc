//! Gives each request a name, which is in its lines of the log and in its answer.

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tracing::Instrument as _;
use uuid::Uuid;

use crate::log_context::request_span;

/// The header that carries the request id, in requests and in answers.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest request id that is taken over from a proxy.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// The id of a request, for whoever goes on after it.
#[derive(Clone, Debug)]
pub(super) struct RequestId(HeaderValue);

impl RequestId {
    /// As text.
    pub(super) fn as_str(&self) -> &str {
        // It was found harmless, or made of letters that are.
        self.0.to_str().unwrap_or_default()
    }
}

/// Puts the request's id on its answer, and a line in the log. The line has the path and not the query, where a token
/// may be.
pub(super) async fn identified(mut request: Request, next: Next) -> Response {
    let id = RequestId(request_id(request.headers()));
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let span = request_span(id.as_str());
    request.extensions_mut().insert(id.clone());
    let answer = async {
        let response = next.run(request).await.into_response();
        tracing::debug!(%method, path, status = response.status().as_u16(), "answered");
        response
    };
    let mut response = answer.instrument(span).await;
    response.headers_mut().insert(REQUEST_ID, id.0);
    response
}

/// The id that the request brings from a proxy, if it is harmless in a log; otherwise a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let is_harmless = |value: &&HeaderValue| {
        let bytes = value.as_bytes();
        (1..=REQUEST_ID_BYTES_MAX).contains(&bytes.len())
            && bytes
                .iter()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/+=".contains(byte))
    };
    headers
        .get(REQUEST_ID)
        .filter(is_harmless)
        .cloned()
        .unwrap_or_else(|| {
            // A UUID's letters are always a header's value.
            HeaderValue::from_str(&Uuid::new_v4().to_string()).unwrap_or(HeaderValue::from_static("none"))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxys_id_is_taken_over_if_it_is_harmless() {
        let id = |brought: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_bytes(brought).unwrap());
            request_id(&headers).to_str().unwrap().to_owned()
        };
        assert_eq!(id(b"Root=1-67891233-abcdef"), "Root=1-67891233-abcdef");
        for wrong in [&b""[..], b"a b", b"a\"b", "ü".as_bytes(), &[b'a'; 129]] {
            assert!(Uuid::try_parse(&id(wrong)).is_ok(), "{wrong:?}");
        }
    }
}
