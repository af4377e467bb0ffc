//! Who is let in: every way a token can be wrong, in each place where one may stand, and what the door says then.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use herald::{auth::AuthConfig, edge::AllowedOrigins, types::UserId};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use uuid::Uuid;

use crate::support::{
    database::{Database, execute, people},
    gateway::{SECRET, migrate, token, token_for},
    http::{self, Answer, ask_for_socket},
    process::Process,
    scene::{Scene, content},
    socket::Socket,
};

const AUDIENCE: &str = "herald tests";
const ISSUER: &str = "https://issuer.test/";

fn in_seconds(offset: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    i64::try_from(now).unwrap() + offset
}

/// Claims of a good token, with some of them changed; `null` takes one away.
fn claims(user: UserId, changes: &Value) -> Value {
    let mut claims =
        json!({"sub": user.to_string(), "exp": in_seconds(3600), "aud": AUDIENCE, "iss": ISSUER});
    for (claim, value) in changes.as_object().unwrap() {
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(claim);
        } else {
            claims[claim] = value.clone();
        }
    }
    claims
}

fn sign(claims: &Value, algorithm: Algorithm, secret: &str) -> String {
    let key = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&Header::new(algorithm), claims, &key).unwrap()
}

fn unsigned(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.", part(header), part(claims))
}

/// Wrong tokens with the reason under which each is counted.
fn wrong_tokens(user: UserId) -> Vec<(&'static str, String)> {
    let signed = |changes: Value| sign(&claims(user, &changes), Algorithm::HS256, SECRET);
    let good = claims(user, &json!({}));
    let whole = signed(json!({}));
    vec![
        ("malformed", "no-token-at-all".to_owned()),
        ("malformed", whole.rsplit_once('.').unwrap().0.to_owned()),
        ("malformed", format!("{whole}.x")),
        ("expired", signed(json!({"exp": in_seconds(-1)}))),
        ("expired", signed(json!({"exp": 0}))),
        (
            "bad_signature",
            sign(
                &good,
                Algorithm::HS256,
                "another secret that is long enough for HS256",
            ),
        ),
        ("unsupported_algorithm", sign(&good, Algorithm::HS512, SECRET)),
        (
            "unsupported_algorithm",
            unsigned(&json!({"alg": "none", "typ": "JWT"}), &good),
        ),
        ("unsupported_algorithm", unsigned(&json!({"alg": "nOnE"}), &good)),
        ("bad_signature", unsigned(&json!({"alg": "HS256"}), &good)),
        ("wrong_audience", signed(json!({"aud": "somebody else"}))),
        ("missing_claim", signed(json!({"aud": null}))),
        ("wrong_issuer", signed(json!({"iss": "https://evil.test/"}))),
        ("missing_claim", signed(json!({"iss": null}))),
        ("invalid_subject", signed(json!({"sub": "alice"}))),
        (
            "invalid_subject",
            signed(json!({"sub": user.0.simple().to_string()})),
        ),
        ("missing_claim", signed(json!({"sub": null}))),
        ("missing_claim", signed(json!({"exp": null}))),
        ("missing_claim", signed(json!({"exp": "tomorrow"}))),
        ("not_yet_valid", signed(json!({"nbf": in_seconds(3600)}))),
        ("too_long", signed(json!({"pad": "x".repeat(8192)}))),
    ]
}

/// The places where a token may stand, in the order in which they are looked at.
async fn ask_in_place(scene: &Scene<1>, place: usize, token: &str) -> Answer {
    let address = scene.gateway.address();
    match place {
        0 => ask_for_socket(address, "", &[("Authorization", &format!("Bearer {token}"))]).await,
        1 => {
            let list = format!("herald.v1, bearer.{token}");
            ask_for_socket(address, "", &[("Sec-WebSocket-Protocol", &list)]).await
        }
        _ => ask_for_socket(address, &format!("?access_token={token}"), &[]).await,
    }
}

/// A gateway that wants to be named and knows its issuer.
async fn strict() -> Scene<1> {
    Scene::with(|config| {
        config.auth = AuthConfig {
            audience: Some(AUDIENCE.to_owned()),
            issuer: Some(ISSUER.to_owned()),
            ..config.auth.clone()
        };
    })
    .await
}

fn refused_for(scene: &Scene<1>, reason: &str) -> f64 {
    scene
        .gateway
        .metric(&format!("auth_failures_total{{reason=\"{reason}\"}}"))
}

#[tokio::test]
async fn each_way_a_token_can_be_wrong_is_answered_with_401_and_counted() {
    let scene = strict().await;
    for place in 0..3 {
        for (reason, token) in wrong_tokens(scene.people[0]) {
            let before = refused_for(&scene, reason);
            let answer = ask_in_place(&scene, place, &token).await;
            let detail = answer.problem(401);
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"), "{answer:?}");
            assert_eq!(answer.header("cache-control"), Some("no-store"), "{answer:?}");
            assert!(answer.header("x-request-id").is_some(), "{answer:?}");
            let helps = detail.contains("token") && detail.ends_with('.');
            assert!(helps, "{reason}: {detail}");
            // Nothing of the token, the keys or the code.
            for inside in [
                token.as_str(),
                SECRET,
                AUDIENCE,
                ISSUER,
                "jsonwebtoken",
                "src/",
                "Error",
            ] {
                assert!(!answer.body.contains(inside), "{inside} in {}", answer.body);
            }
            assert_eq!(
                refused_for(&scene, reason),
                before + 1.0,
                "{reason} in place {place}"
            );
        }
    }
    let answer = ask_for_socket(scene.gateway.address(), "", &[]).await;
    assert!(answer.problem(401).contains("Authorization"));
    assert_eq!(refused_for(&scene, "missing_token"), 1.0);
    assert_eq!(scene.gateway.app.hub().registry.sessions(), 0);
    scene.gateway.stop().await;
}

#[tokio::test]
async fn a_good_token_opens_in_each_place_and_the_first_place_decides() {
    let scene = strict().await;
    let [alice] = scene.people;
    let good = sign(&claims(alice, &json!({})), Algorithm::HS256, SECRET);
    for place in 0..3 {
        let answer = ask_in_place(&scene, place, &good).await;
        assert_eq!(answer.status, 101, "{answer:?}");
        // A server answers with a subprotocol only if it was offered (RFC 6455 §4.2.2).
        let chosen = (place == 1).then_some("herald.v1");
        assert_eq!(answer.header("sec-websocket-protocol"), chosen, "{answer:?}");
    }
    let address = scene.gateway.address();
    let query = format!("?access_token={good}");
    let bearer = format!("Bearer {good}");
    let list = format!("herald.v1, bearer.{good}");
    for (query, headers, status) in [
        (query.as_str(), vec![("Authorization", "Bearer wrong")], 401),
        (
            query.as_str(),
            vec![("Sec-WebSocket-Protocol", "herald.v1, bearer.wrong")],
            401,
        ),
        (
            "",
            vec![
                ("Sec-WebSocket-Protocol", list.as_str()),
                ("Authorization", "Bearer wrong"),
            ],
            401,
        ),
        (
            "?access_token=wrong",
            vec![
                ("Sec-WebSocket-Protocol", "herald.v1, bearer.wrong"),
                ("Authorization", bearer.as_str()),
            ],
            101,
        ),
        (
            "?access_token=wrong",
            vec![("Sec-WebSocket-Protocol", list.as_str())],
            101,
        ),
        // What a proxy leaves of its own authentication is no token.
        (query.as_str(), vec![("Authorization", "Basic dXNlcjpwYXNz")], 101),
        // Without a token in it, the list of protocols is not a place.
        (query.as_str(), vec![("Sec-WebSocket-Protocol", "herald.v1")], 101),
    ] {
        let answer = ask_for_socket(address, query, &headers).await;
        assert_eq!(answer.status, status, "{query} {headers:?}");
    }
    scene.gateway.stop().await;
}

#[tokio::test]
async fn pages_of_other_origins_are_refused_unless_they_are_allowed() {
    let scene = Scene::<1>::new().await;
    let bearer = format!("Bearer {}", token(scene.people[0]));
    let ask_from = async |scene: &Scene<1>, origin: &str, bearer: &str| {
        let headers = [("Authorization", bearer), ("Origin", origin)];
        ask_for_socket(scene.gateway.address(), "", &headers).await
    };
    for stranger in [
        "https://evil.test",
        "null",
        "http://herald.test.evil.test",
        "file://",
    ] {
        let detail = ask_from(&scene, stranger, &bearer).await.problem(403);
        assert!(detail.contains("origin"), "{detail}");
    }
    assert_eq!(ask_from(&scene, "https://herald.test", &bearer).await.status, 101);
    assert_eq!(
        scene.gateway.metric("sessions_refused_total{reason=\"origin\"}"),
        4.0
    );
    // Whether an origin is allowed is told to those alone who have a token.
    assert_eq!(
        ask_from(&scene, "https://evil.test", "Bearer x").await.status,
        401
    );
    scene.gateway.stop().await;

    let scene = Scene::<1>::with(|config| {
        config.origins = AllowedOrigins::parse("https://app.test, http://localhost:3000").unwrap();
    })
    .await;
    let bearer = format!("Bearer {}", token(scene.people[0]));
    for (origin, status) in [
        ("https://app.test", 101),
        ("http://localhost:3000", 101),
        ("http://localhost:3001", 403),
        ("https://herald.test", 403),
    ] {
        assert_eq!(ask_from(&scene, origin, &bearer).await.status, status, "{origin}");
    }
    scene.gateway.stop().await;
}

#[tokio::test]
async fn what_is_no_request_for_a_socket_is_told_so_as_a_problem() {
    let scene = Scene::<1>::new().await;
    let address = scene.gateway.address();
    let bearer = format!("Bearer {}", token(scene.people[0]));
    let authorized = [("Authorization", bearer.as_str())];
    for path in [
        "/",
        "/v1",
        "/v1/socket/",
        "/v2/socket",
        "/v1/socket%20",
        "/healthz/x",
    ] {
        let detail = http::ask(address, "GET", path, &authorized).await.problem(404);
        assert!(!detail.is_empty());
    }
    for (method, path) in [
        ("POST", "/v1/socket"),
        ("DELETE", "/healthz"),
        ("PUT", "/readyz"),
        ("PATCH", "/metrics"),
    ] {
        let answer = http::ask(address, method, path, &authorized).await;
        answer.problem(405);
        // RFC 9110 §15.5.6 demands it.
        assert!(
            answer
                .header("allow")
                .is_some_and(|allowed| allowed.contains("GET")),
            "{answer:?}"
        );
    }
    let plain = http::ask(address, "GET", "/v1/socket", &authorized).await;
    assert!(plain.problem(426).contains("WebSocket"));
    // RFC 9110 §15.5.22 demands it.
    assert_eq!(plain.header("upgrade"), Some("websocket"), "{plain:?}");
    let old = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "8"),
        authorized[0],
    ];
    let answer = http::ask(address, "GET", "/v1/socket", &old).await;
    answer.problem(426);
    assert_eq!(answer.header("sec-websocket-version"), Some("13"), "{answer:?}");
    let keyless = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        authorized[0],
    ];
    assert!(
        http::ask(address, "GET", "/v1/socket", &keyless)
            .await
            .problem(400)
            .contains("Sec-WebSocket-Key")
    );
    // Without a token nothing else is told.
    http::ask(address, "GET", "/v1/socket", &[]).await.problem(401);
    assert_eq!(http::fetch(address, "/healthz").await.status, 200);
    scene.gateway.stop().await;
}

#[tokio::test]
async fn no_token_secret_or_content_reaches_the_log_however_much_is_logged() {
    let database = Database::with_application().await;
    let url = database
        .url()
        .replace("postgres@", "postgres:a-password-of-postgres@");
    migrate(&database.url()).await;
    let [alice] = people::<1>(&database.connect().await).await.map(UserId);
    let content_of_a_message = format!("secret content {}", Uuid::new_v4());
    let replayed_content = format!("missed content {}", Uuid::new_v4());
    let mut process = Process::serve(&url, &[("HERALD_LOG", "trace")]);
    let address = process.ready().await;
    let by_query = token(alice);
    let request = format!("ws://{address}/v1/socket?access_token={by_query}")
        .into_client_request()
        .unwrap();
    let mut socket = Socket::open_by(request).await.unwrap();
    let cursor = socket.frame().await["cursor"].as_str().unwrap().to_owned();
    let write = async |content: &str| {
        let statement = "insert into public.messages (sender_id, receiver_id, content) values";
        execute(
            &database.url(),
            &format!("{statement} ('{alice}', '{alice}', '{content}')"),
        )
        .await;
    };
    write(&content_of_a_message).await;
    assert_eq!(content(&socket.events(1).await.0[0]), content_of_a_message);
    let by_frame = token_for(alice, Duration::from_secs(7200));
    socket
        .say(&json!({"type": "auth", "token": by_frame}).to_string())
        .await;
    assert_eq!(socket.frame().await["type"], "auth");
    socket
        .say(&json!({"type": "what a client says", "token": by_frame}).to_string())
        .await;
    assert_eq!(socket.frame().await["type"], "error");
    write(&replayed_content).await;
    let by_header = token_for(alice, Duration::from_secs(1800));
    let (mut again, _) = Socket::connect(address, &by_header, Some(&cursor)).await;
    assert_eq!(again.events(2).await.0.len(), 2);
    let refused = sign(
        &json!({"sub": alice.to_string(), "exp": 1}),
        Algorithm::HS256,
        SECRET,
    );
    ask_for_socket(address, &format!("?access_token={refused}"), &[])
        .await
        .problem(401);
    process.signal("TERM");
    assert!(process.ended().await.success());
    let log = process.log();
    assert!(log.contains("\"DEBUG\""), "little was logged");
    assert!(log.contains("request_id"), "no request id");
    is_kept_out(
        &log,
        &[
            ("a token of a query", by_query.as_str()),
            ("a token of a frame", &by_frame),
            ("a token of a header", &by_header),
            ("a refused token", &refused),
            ("the claims of a token", by_query.split('.').nth(1).unwrap()),
            ("a signature", by_query.rsplit('.').next().unwrap()),
            ("the secret", SECRET),
            ("the password", "a-password-of-postgres"),
            ("the content of a message", &content_of_a_message),
            ("replayed content", &replayed_content),
            ("what a client says", "what a client says"),
        ],
    );
}

/// None of these texts is in the log.
fn is_kept_out(log: &str, texts: &[(&str, &str)]) {
    for (what, text) in texts {
        let line = log.lines().find(|line| line.contains(text));
        assert_eq!(line, None, "{what} is in the log");
    }
}
