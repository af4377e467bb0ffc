//! Secrets that are replaced while a gateway runs, and what is never shown of any of them.

use std::{fs, net::SocketAddr, path::Path, process::Command, time::Duration};

use herald::{
    auth::{Secret, issue},
    types::UserId,
};
use serde_json::json;
use uuid::Uuid;

use crate::{
    process::{prepared, write},
    processes::until,
    support::{
        database::Database,
        http,
        phoenix::Door,
        process::Process,
        scene::content,
        socket::{Heard, Socket},
        wait_until,
    },
};

const OLD: &str = "the-old-secret-of-32-bytes-and-some-more";
const WORDS: &str = "words-between-two-people";
const NEW: &str = "the-new-secret-of-32-bytes-and-some-more";

fn token(secret: &str, user: UserId) -> String {
    let secret = Secret::new(secret).unwrap();
    let token = issue(&secret, user, None, None, Duration::from_secs(600)).unwrap();
    token.expose().to_owned()
}

/// Puts a file in place of another in one step, as Kubernetes and careful people do.
fn replace(path: &Path, content: &str) {
    let beside = path.with_extension("new");
    fs::write(&beside, content).unwrap();
    fs::rename(beside, path).unwrap();
}

#[tokio::test]
async fn a_secret_is_replaced_while_the_gateway_runs_and_nobody_is_refused() {
    let database = Database::empty().await;
    let person = prepared(&database.url()).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secrets");
    replace(&path, OLD);
    let variables = [
        ("HERALD_JWT_SECRET", ""),
        ("HERALD_JWT_SECRET_FILE", path.to_str().unwrap()),
    ];
    let process = Process::serve(&database.url(), &variables);
    let address = process.ready().await;
    let (old, new) = (token(OLD, person), token(NEW, person));
    let (mut socket, _) = Socket::connect(address, &old, None).await;
    assert!(Socket::open(address, &new, None).await.is_err());

    replace(&path, &format!("{NEW}\n{OLD}\n"));
    until("the new secret to be accepted", async || {
        Socket::open(address, &new, None).await.is_ok()
    })
    .await;
    assert!(Socket::open(address, &old, None).await.is_ok());

    // What cannot be used changes nothing, and is told once.
    replace(&path, &format!("{NEW}\ntoo-short\n"));
    wait_until("the mistake is told", || process.log().contains("line 2 of")).await;
    fs::remove_file(&path).unwrap();
    wait_until("the next one, too", || process.log().contains("cannot be read")).await;
    for token in [&old, &new] {
        assert!(Socket::open(address, token, None).await.is_ok());
    }

    replace(&path, NEW);
    until("the old secret to be refused", async || {
        Socket::open(address, &old, None).await.is_err()
    })
    .await;
    assert!(Socket::open(address, &new, None).await.is_ok());
    // A session goes on until its token ends.
    write(&database.url(), person, "still here").await;
    assert_eq!(content(&socket.events(1).await.0[0]), "still here");
    let log = process.log();
    assert_eq!(
        log.matches("the shared secrets were replaced").count(),
        2,
        "{log}"
    );
    assert_eq!(log.matches("cannot be renewed").count(), 2, "{log}");
    for secret in [OLD, NEW, "too-short"] {
        assert!(!log.contains(secret), "{log}");
    }
}

/// What a token has that nothing else has.
fn signature(token: &str) -> &str {
    token.rsplit('.').next().unwrap()
}

/// Brings a token wherever one may be brought, and where none may.
async fn bring_everywhere(address: SocketAddr, person: UserId, token: &str) {
    let bearer = format!("Bearer {token}");
    let list = format!("herald.v1, bearer.{token}");
    http::ask_for_socket(address, "", &[("Authorization", &bearer)]).await;
    http::ask_for_socket(address, "", &[("Sec-WebSocket-Protocol", &list)]).await;
    http::ask_for_socket(address, &format!("?access_token={token}"), &[]).await;
    http::ask(address, "GET", "/v1/conversations", &[("Authorization", &bearer)]).await;
    http::ask(address, "GET", &format!("/no/such/path?token={token}"), &[]).await;
    let body = json!({"content": WORDS}).to_string();
    let target = format!("/v1/conversations/{person}__general/messages");
    http::ask_with_body(
        address,
        "POST",
        &target,
        &[("Authorization", &bearer), ("Content-Type", "application/json")],
        body.as_bytes(),
    )
    .await;
}

#[tokio::test]
async fn nothing_secret_is_in_a_log_of_everything_nor_in_the_metrics() {
    const PASSWORD: &str = "the-password-of-the-database";
    let database = Database::empty().await;
    let person = prepared(&database.url()).await;
    let url = database.url().replacen('@', &format!(":{PASSWORD}@"), 1);
    let token = token(OLD, person);
    // Signed with another secret, and so refused wherever it is brought.
    let wrong = self::token(NEW, person);
    for format in ["text", "json"] {
        let variables = [
            ("HERALD_JWT_SECRET", OLD),
            ("HERALD_LOG", "trace"),
            ("HERALD_LOG_FORMAT", format),
            ("HERALD_BIND", "127.0.0.1:0"),
        ];
        let mut process = Process::serve(&url, &variables);
        let address = process.ready().await;
        for token in [&token, &wrong] {
            bring_everywhere(address, person, token).await;
        }
        let events = format!("/v1/events?access_token={wrong}&cursor=1");
        http::ask(address, "GET", &events, &[]).await;
        Door::new(address).key(&wrong).refused().await;
        let mut phoenix = Door::new(address).key(&token).open().await;
        let said = phoenix
            .join("realtime:room", &json!({"access_token": wrong, "config": {}}))
            .await;
        assert_eq!(said.payload["status"], "error", "{said:?}");
        let (mut socket, _) = Socket::connect(address, &token, None).await;
        socket
            .say(&json!({"type": "auth", "token": wrong}).to_string())
            .await;
        assert!(matches!(socket.hear().await, Heard::Closed(_) | Heard::Frame(_)));
        write(&database.url(), person, WORDS).await;
        let metrics = http::fetch(address, "/metrics").await.body;
        process.signal("TERM");
        process.ended().await;
        let log = process.log();
        for told in ["a token was refused", "/no/such/path", "a key was refused"] {
            assert!(
                log.contains(told),
                "{told} is missing:
{log}"
            );
        }
        for (place, text) in [("the log", &log), ("the metrics", &metrics)] {
            for secret in [PASSWORD, OLD, NEW, signature(&token), signature(&wrong), WORDS] {
                assert!(!text.contains(secret), "{secret} is in {place}:\n{text}");
            }
        }
    }
}

#[test]
fn nothing_secret_is_in_the_help() {
    const PASSWORD: &str = "the-password-of-the-database";
    let url = format!("postgres://owner:{PASSWORD}@localhost/app");
    let token = token(OLD, UserId(Uuid::new_v4()));
    for command in ["serve", "migrate", "token", "tail", "send", "dev", "healthcheck"] {
        let help = Command::new(env!("CARGO_BIN_EXE_herald"))
            .args([command, "--help"])
            .env_clear()
            .envs([
                ("DATABASE_URL", url.as_str()),
                ("HERALD_FEED_DATABASE_URL", &url),
                ("HERALD_JWT_SECRET", OLD),
                ("HERALD_TOKEN", &token),
            ])
            .output()
            .unwrap();
        let help = String::from_utf8(help.stdout).unwrap();
        assert!(help.contains("Usage"), "{help}");
        for secret in [PASSWORD, OLD, &token] {
            assert!(!help.contains(secret), "{secret} is in the help of {command}");
        }
    }
}
