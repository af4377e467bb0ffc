//! One call of the HTTP API: the request, its answer within a deadline, and what an error means.
//!
//! Sources: `PROTOCOL.md`; RFC 9457 (problems); RFC 9110 §10.2.3 (`Retry-After`).

use std::{error::Error, fmt, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, client::conn::http1};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::time::timeout;
use tower::ServiceExt;
use uuid::Uuid;

use super::{Credentials, Escaped, GatewayUrl, HttpConnector, TrustError, http_connector, tls_complaint};
use crate::{auth::IssueError, protocol::conversation::Conversation};

/// The largest answer that is read. A stored message has at most 10,000 characters of content, which JSON may write with
/// six bytes each, and what the view joins to it.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Calls a gateway as one person.
#[derive(Clone, Debug)]
pub struct GatewayClient {
    url: GatewayUrl,
    credentials: Credentials,
    connector: HttpConnector,
}

/// A message that is to be sent.
#[derive(Clone, Debug, Serialize)]
pub struct Draft {
    /// The message's id, chosen by whoever sends it.
    pub id: Uuid,
    /// What it says.
    pub content: String,
}

/// A message that the gateway has stored.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Its id.
    pub id: Uuid,
    /// The row as the gateway gave it, one JSON object on one line.
    pub row: Box<str>,
}

/// Why a call was not answered as hoped.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No connection came about, so that nothing was asked for.
    #[error("{url} cannot be reached: {}", Escaped(why))]
    Unreachable {
        /// What was called.
        url: GatewayUrl,
        /// What the system says.
        why: String,
    },
    /// The connection ended before the answer was whole. The gateway may have done what it was asked to.
    #[error("the connection to {url} was lost before the answer came: {}", Escaped(why))]
    Lost {
        /// What was called.
        url: GatewayUrl,
        /// What the system says.
        why: String,
    },
    /// No answer in time. The gateway may have done what it was asked to.
    #[error("no answer from {url} within {} s", within.as_secs_f32())]
    Deadline {
        /// What was called.
        url: GatewayUrl,
        /// The bound.
        within: Duration,
    },
    /// The gateway, or what lies before it, said no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// What answered is no gateway, or a later one.
    #[error("{url} does not answer like a gateway: {why}; check the address")]
    NotAGateway {
        /// What was called.
        url: GatewayUrl,
        /// What is wrong with its answer.
        why: String,
    },
    /// No trustworthy connection.
    #[error("TLS: {0}; check the gateway's certificate, or name its root by the variable SSL_CERT_FILE")]
    Tls(String),
    /// The token cannot be sent.
    #[error("the token holds characters that no token has; give it whole, as the issuer gave it")]
    UnusableToken,
    /// No token could be signed.
    #[error(transparent)]
    Token(#[from] IssueError),
}

/// An answer that says no, in the words of the one who said it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// The problem's `detail`, or the status's name where no gateway answered.
    pub detail: Option<String>,
    /// The header `Retry-After`, if it holds seconds.
    pub retry_after: Option<Duration>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "the gateway answered {}", self.status)?;
        match &self.detail {
            Some(detail) => write!(formatter, ": {}", Escaped(detail)),
            None => Ok(()),
        }
    }
}

impl From<TrustError> for CallError {
    fn from(error: TrustError) -> Self {
        Self::Tls(error.to_string())
    }
}

impl CallError {
    /// Whether the same call may be answered otherwise a little later.
    pub const fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Lost { .. } | Self::Deadline { .. } => true,
            // A request that took too long, too many of them, and a gateway or its database that is away, as the gateway
            // itself or a proxy before it says so.
            Self::Refused(refusal) => matches!(refusal.status, 408 | 429 | 502 | 503 | 504),
            Self::NotAGateway { .. } | Self::Tls(_) | Self::UnusableToken | Self::Token(_) => false,
        }
    }

    /// Whether the gateway may have done what it was asked to, although no answer says so.
    pub const fn may_have_been_done(&self) -> bool {
        match self {
            Self::Lost { .. } | Self::Deadline { .. } | Self::NotAGateway { .. } => true,
            Self::Refused(refusal) => refusal.status >= 500 || refusal.status == 408,
            Self::Unreachable { .. } | Self::Tls(_) | Self::UnusableToken | Self::Token(_) => false,
        }
    }

    /// How long the gateway asked to be left alone.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(refusal) => refusal.retry_after,
            _ => None,
        }
    }
}

impl GatewayClient {
    /// A client that has no connection yet.
    ///
    /// # Errors
    /// [`CallError::Tls`] if the gateway is to be reached by TLS and the system trusts nobody.
    pub fn new(url: GatewayUrl, credentials: Credentials) -> Result<Self, CallError> {
        let connector = http_connector(&url)?;
        Ok(Self {
            url,
            credentials,
            connector,
        })
    }

    /// Where the gateway is.
    pub const fn url(&self) -> &GatewayUrl {
        &self.url
    }

    /// Sends a message. Sent again with the same id, it is stored once, and the answer is the stored row.
    ///
    /// # Errors
    /// [`CallError`].
    ///
    /// # Cancel safety
    /// Not safe to forget: dropped on the way, the message may have been stored or not. Sending it again is safe.
    pub async fn send(
        &self,
        conversation: Conversation,
        draft: &Draft,
        within: Duration,
    ) -> Result<Sent, CallError> {
        #[derive(Deserialize)]
        struct Stored<'a> {
            #[serde(borrow)]
            message: &'a RawValue,
        }
        #[derive(Deserialize)]
        struct Row {
            id: Uuid,
        }
        // Text and a UUID can always be written as JSON.
        let body = serde_json::to_vec(draft).unwrap_or_default();
        let path = format!("/v1/conversations/{conversation}/messages");
        let answer = self.post(&path, body.into(), within).await?;
        let stored: Stored<'_> = self.read(&answer)?;
        let row: Row = self.read(stored.message.get().as_bytes())?;
        Ok(Sent {
            id: row.id,
            // Within strings JSON escapes line ends, so these stand between values, where a space says the same.
            row: stored.message.get().replace(['\n', '\r'], " ").into(),
        })
    }

    /// Marks what this person has received in a conversation as read, and answers how many messages that changed.
    ///
    /// # Errors
    /// [`CallError`].
    ///
    /// # Cancel safety
    /// Not safe to forget: dropped on the way, they may have been marked or not. Marking again is safe.
    pub async fn mark_as_read(&self, conversation: Conversation, within: Duration) -> Result<u64, CallError> {
        #[derive(Deserialize)]
        struct Marked {
            updated: u64,
        }
        let path = format!("/v1/conversations/{conversation}/read");
        let answer = self.post(&path, Bytes::new(), within).await?;
        Ok(self.read::<Marked>(&answer)?.updated)
    }

    fn read<'a, T: Deserialize<'a>>(&self, answer: &'a [u8]) -> Result<T, CallError> {
        serde_json::from_slice(answer).map_err(|error| self.not_a_gateway(&error))
    }

    async fn post(&self, path: &str, body: Bytes, within: Duration) -> Result<Bytes, CallError> {
        // Boxed, because TLS makes the future a large one.
        timeout(within, Box::pin(self.exchange(path, body)))
            .await
            .unwrap_or_else(|_| {
                Err(CallError::Deadline {
                    url: self.url.clone(),
                    within,
                })
            })
    }

    async fn exchange(&self, path: &str, body: Bytes) -> Result<Bytes, CallError> {
        let uri: Uri = self
            .url
            .below(path)
            .parse()
            .map_err(|error| self.not_a_gateway(&error))?;
        let request = self.request(&uri, body)?;
        let stream = self
            .connector
            .clone()
            .oneshot(uri)
            .await
            .map_err(|error| self.unreachable(&*error))?;
        let lost = |error: hyper::Error| self.lost(&error);
        let (mut sender, connection) = http1::handshake(stream).await.map_err(lost)?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(lost)?;
            self.judge(response).await
        };
        tokio::pin!(connection, exchange);
        tokio::select! {
            answered = &mut exchange => answered,
            // Once the connection has carried everything, what is left is to read it; if it broke, the exchange says so.
            _carried = &mut connection => exchange.await,
        }
    }

    fn request(&self, uri: &Uri, body: Bytes) -> Result<Request<Full<Bytes>>, CallError> {
        let token = self.credentials.token()?;
        let mut bearer = HeaderValue::from_str(&format!("Bearer {}", token.expose()))
            .map_err(|_| CallError::UnusableToken)?;
        bearer.set_sensitive(true);
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(header::HOST, authority)
            .header(header::AUTHORIZATION, bearer)
            .header(header::ACCEPT, "application/json, application/problem+json")
            .header(header::USER_AGENT, concat!("herald/", env!("CARGO_PKG_VERSION")))
            .header(header::CONNECTION, "close");
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        request
            .body(Full::new(body))
            .map_err(|error| self.not_a_gateway(&error))
    }

    async fn judge(&self, response: Response<Incoming>) -> Result<Bytes, CallError> {
        let (head, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        let body = match body {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<http_body_util::LengthLimitError>() => {
                return Err(self.not_a_gateway(&error));
            }
            Err(error) => return Err(self.lost(&*error)),
        };
        match head.status {
            status if status.is_success() => Ok(body),
            status if status.is_client_error() || status.is_server_error() => {
                let retry_after = head.headers.get(header::RETRY_AFTER);
                Err(refusal(status, retry_after, &body).into())
            }
            status => Err(self.not_a_gateway(&format_args!("it answered {status}"))),
        }
    }

    fn unreachable(&self, error: &(dyn Error + 'static)) -> CallError {
        if let Some(complaint) = tls_complaint(error) {
            return CallError::Tls(complaint.to_string());
        }
        CallError::Unreachable {
            url: self.url.clone(),
            why: innermost(error),
        }
    }

    fn lost(&self, error: &(dyn Error + 'static)) -> CallError {
        CallError::Lost {
            url: self.url.clone(),
            why: innermost(error),
        }
    }

    fn not_a_gateway(&self, why: &dyn fmt::Display) -> CallError {
        CallError::NotAGateway {
            url: self.url.clone(),
            why: why.to_string(),
        }
    }
}

/// What the system had to say. The outermost text is only "tcp connect error" or the like.
fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

fn refusal(status: StatusCode, retry_after: Option<&HeaderValue>, body: &[u8]) -> Refusal {
    #[derive(Deserialize)]
    struct Problem {
        detail: String,
    }
    let detail = serde_json::from_slice::<Problem>(body)
        .ok()
        .map(|problem| problem.detail);
    Refusal {
        status: status.as_u16(),
        // Without a problem body it was not a gateway that answered; its name for the status is the best there is.
        detail: detail.or_else(|| status.canonical_reason().map(str::to_owned)),
        retry_after: retry_after
            .and_then(|value| value.to_str().ok()?.trim().parse().ok())
            .map(Duration::from_secs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(status: u16, body: &str) -> String {
        let status = StatusCode::from_u16(status).unwrap();
        refusal(status, None, body.as_bytes()).to_string()
    }

    #[test]
    fn a_refusal_is_told_in_the_words_of_the_gateway_or_of_its_status() {
        assert_eq!(
            told(422, r#"{"detail":"The message is empty."}"#),
            "the gateway answered 422: The message is empty."
        );
        assert_eq!(told(502, "<html>"), "the gateway answered 502: Bad Gateway");
        let hostile = told(400, r#"{"detail":"\u001b[2J"}"#);
        assert!(hostile.ends_with(r"\u{1b}[2J"), "{hostile}");
    }

    #[test]
    fn seconds_to_wait_are_read_and_dates_are_not() {
        let wait = |value| {
            let value = HeaderValue::from_static(value);
            refusal(StatusCode::TOO_MANY_REQUESTS, Some(&value), b"").retry_after
        };
        assert_eq!(wait("7"), Some(Duration::from_secs(7)));
        assert_eq!(wait("Wed, 21 Oct 2026 07:28:00 GMT"), None);
    }

    #[test]
    fn what_passes_is_told_from_what_does_not() {
        let error = |status| {
            CallError::Refused(Refusal {
                status,
                detail: None,
                retry_after: None,
            })
        };
        for status in [408, 429, 502, 503, 504] {
            assert!(error(status).may_pass(), "{status}");
        }
        for status in [400, 401, 403, 404, 409, 413, 415, 422, 500] {
            assert!(!error(status).may_pass(), "{status}");
        }
        assert!(!CallError::Tls("unknown issuer".to_owned()).may_pass());
    }
}
