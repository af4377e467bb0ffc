//! How a page of the demo gets a token: the demo has no identity provider and its people no passwords, so whoever sits at the
//! page chooses whom to be.
//!
//! Invariants:
//! - Only pages that the demo's gateway serves itself are answered, and programs that are no browsers. A page from elsewhere is not,
//!   neither by its own name nor by one that its owner has made lead here (DNS rebinding).
//! - `herald serve` has none of this.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    Json, Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header, uri::Authority},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    auth::{Secret, issue},
    dev::people::PEOPLE,
    edge::{AllowedOrigins, Problem, read_json},
    protocol::server_frame::rfc3339,
    types::UserId,
};

/// How long a token is good: as long as one of `herald token` by default.
const TOKEN_LIFETIME: Duration = Duration::from_secs(3600);

/// What signs the tokens, and where the gateway listens.
#[derive(Clone, Debug)]
struct SignIn {
    secret: Arc<Secret>,
    bound: IpAddr,
}

/// `GET /demo/people` and `POST /demo/token`, for a gateway that listens on `address` and believes what `secret` signs.
pub(super) fn routes(secret: Secret, address: SocketAddr) -> Router {
    let sign_in = SignIn {
        secret: Arc::new(secret),
        bound: address.ip(),
    };
    Router::new()
        .route("/demo/people", get(people))
        .route("/demo/token", post(token))
        .route_layer(from_fn_with_state(sign_in.clone(), for_own_pages))
        .with_state(sign_in)
}

/// One of the people whom a page may be.
#[derive(Serialize)]
struct Person {
    id: Uuid,
    username: &'static str,
    avatar_url: String,
}

#[derive(Serialize)]
struct People {
    people: Vec<Person>,
}

/// All people of the demo.
async fn people() -> Response {
    let people = PEOPLE
        .iter()
        .map(|person| Person {
            id: person.id(),
            username: person.username,
            avatar_url: person.avatar_url(),
        })
        .collect();
    never_kept(People { people })
}

/// Whom a page wants to be.
#[derive(Deserialize)]
struct Wish {
    username: String,
}

/// What the page is given.
#[derive(Serialize)]
struct Granted<'a> {
    token: &'a str,
    user: Uuid,
    /// When the token ends, in UTC and whole seconds.
    expires_at: String,
}

/// A token for one of them.
async fn token(State(sign_in): State<SignIn>, headers: HeaderMap, body: Body) -> Result<Response, Problem> {
    let not_understood = Problem::new(
        StatusCode::BAD_REQUEST,
        "The body could not be read: send {\"username\":\"…\"} in UTF-8, with a name of GET /demo/people.",
    );
    let wish: Wish = read_json(&headers, body, not_understood).await?;
    let person = PEOPLE.iter().find(|person| person.username == wish.username);
    let user = UserId(person.ok_or(NOBODY)?.id());
    // Taken before the token is made, so that the token is good for no less than is said.
    let expires_at = SystemTime::now() + TOKEN_LIFETIME;
    let token = issue(&sign_in.secret, user, None, None, TOKEN_LIFETIME).map_err(|error| {
        tracing::error!(%error, "no token could be made");
        Problem::internal()
    })?;
    Ok(never_kept(Granted {
        token: token.expose(),
        user: user.0,
        expires_at: rfc3339(expires_at),
    }))
}

fn never_kept(answer: impl Serialize) -> Response {
    let no_store = HeaderValue::from_static("no-store");
    ([(header::CACHE_CONTROL, no_store)], Json(answer)).into_response()
}

const NOBODY: Problem = Problem::new(
    StatusCode::UNPROCESSABLE_ENTITY,
    "Nobody in the demo has this name; GET /demo/people tells who there is.",
);

const STRANGER: Problem = Problem::new(
    StatusCode::FORBIDDEN,
    "Only pages that this gateway serves itself, at localhost or at its address, may do this.",
);

/// Lets the gateway's own pages through.
async fn for_own_pages(
    State(sign_in): State<SignIn>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    if sign_in.is_own_page(request.headers()) {
        Ok(next.run(request).await)
    } else {
        Err(STRANGER)
    }
}

impl SignIn {
    fn is_own_page(&self, headers: &HeaderMap) -> bool {
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        host.is_some_and(|host| self.is_own_host(host)) && is_same_origin(headers)
    }

    /// Whether a browser that says this host was led here by no name that belongs to somebody else. Anybody can make a name of their
    /// own lead to this machine; its pages would then be of the same origin as the gateway. The port says nothing: it may be
    /// a forwarded one, and it is compared with the page's.
    fn is_own_host(&self, host: &str) -> bool {
        let Ok(authority) = host.parse::<Authority>() else {
            return false;
        };
        if host.contains('@') {
            // A URL may have a user's name there, and this header may not (RFC 9110 §7.2).
            return false;
        }
        let name = authority.host();
        let literal = name
            .trim_start_matches('[')
            .trim_end_matches(']')
            .parse::<IpAddr>();
        match literal {
            // A gateway that listens on every address does not know which of them are its own. No name is involved here.
            Ok(address) => address.is_loopback() || address == self.bound || self.bound.is_unspecified(),
            Err(_) => name.eq_ignore_ascii_case("localhost"),
        }
    }
}

/// Whether the request comes from a page of the very host that it asks, or from no page. No setting opens this to others.
fn is_same_origin(headers: &HeaderMap) -> bool {
    // Browsers say it with each request to a loopback address, also where they send no origin (Fetch Metadata §2.4), and no
    // page can say it for them.
    match headers.get("sec-fetch-site") {
        Some(site) => site == "same-origin" || site == "none",
        None => AllowedOrigins::SameHost.allow(headers),
    }
}

#[cfg(test)]
mod tests {
    use tower::ServiceExt as _;

    use super::*;

    const SECRET: &str = "a secret for tests, long enough for HS256";

    /// The status of `POST /demo/token` at a gateway that listens on an address.
    async fn status(bound: &str, headers: &[(&str, &str)], body: &str) -> u16 {
        let routes = routes(Secret::new(SECRET).unwrap(), bound.parse().unwrap());
        let mut request = Request::post("/demo/token").header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = routes.oneshot(request.body(Body::from(body.to_owned())).unwrap());
        answer.await.unwrap().status().as_u16()
    }

    const ALICE: &str = r#"{"username":"alice"}"#;

    #[tokio::test]
    async fn only_hosts_that_nobody_else_can_own_are_answered() {
        let loopback = "127.0.0.1:4000";
        for own in [
            "127.0.0.1:4000",
            "localhost:4000",
            "LOCALHOST",
            "[::1]:4000",
            "127.0.0.1:8080",
        ] {
            assert_eq!(status(loopback, &[("host", own)], ALICE).await, 200, "{own}");
        }
        for other in [
            "evil.example:4000",
            "localhost.evil.example",
            "192.168.1.5:4000",
            "127.0.0.1.nip.io",
            "evil.example@127.0.0.1",
            "",
        ] {
            assert_eq!(status(loopback, &[("host", other)], ALICE).await, 403, "{other}");
        }
        assert_eq!(status(loopback, &[], ALICE).await, 403);
        let inside = "192.168.1.5:4000";
        assert_eq!(status(inside, &[("host", inside)], ALICE).await, 200);
        assert_eq!(status(inside, &[("host", "192.168.1.6:4000")], ALICE).await, 403);
        assert_eq!(status("0.0.0.0:4000", &[("host", inside)], ALICE).await, 200);
        assert_eq!(status("[::]:4000", &[("host", "evil.example")], ALICE).await, 403);
    }

    #[tokio::test]
    async fn pages_of_other_origins_are_refused_whatever_they_leave_out() {
        let host = ("host", "localhost:4000");
        let asked = async |header| status("127.0.0.1:4000", &[host, header], ALICE).await;
        for own in [
            ("origin", "http://localhost:4000"),
            ("sec-fetch-site", "same-origin"),
            ("sec-fetch-site", "none"),
        ] {
            assert_eq!(asked(own).await, 200, "{own:?}");
        }
        for other in [
            ("origin", "http://localhost:5173"),
            ("origin", "http://127.0.0.1:4000"),
            ("origin", "https://evil.example"),
            ("origin", "null"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
        ] {
            assert_eq!(asked(other).await, 403, "{other:?}");
        }
    }

    #[tokio::test]
    async fn what_is_no_wish_is_told() {
        let asked = async |body| status("127.0.0.1:4000", &[("host", "localhost")], body).await;
        assert_eq!(asked(r#"{"username":"nobody"}"#).await, 422);
        for wrong in ["", "{}", "[\"alice\"]", r#"{"username":1}"#] {
            assert_eq!(asked(wrong).await, 400, "{wrong}");
        }
    }
}
