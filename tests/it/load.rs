//! `herald load`: what it counts is what there was, of a gateway that it starts, of one that runs already, and of one that loses and doubles messages.

use std::{
    net::SocketAddr,
    num::NonZeroU32,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures::{SinkExt, StreamExt};
use herald::{
    auth::Secret,
    load::{
        self, LoadError,
        plan::{Path as WritePath, Plan, Receiver},
        target::{Target, Trust},
    },
    postgres::Settings,
    tasks::Tasks,
};
use serde_json::Value;
use tokio::{
    net::{TcpListener, TcpStream},
    process::Command,
};
use tokio_tungstenite::{
    accept_hdr_async, connect_async,
    tungstenite::{
        Message,
        client::IntoClientRequest,
        handshake::server::{ErrorResponse, Request, Response},
    },
};
use tokio_util::sync::CancellationToken;

use crate::support::{gateway::SECRET, scene::Scene};

/// Runs it in this folder, and answers with its exit code and what it said on both ways out.
async fn run(folder: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_herald"))
        .arg("load")
        .args(arguments)
        .env_remove("DATABASE_URL")
        .envs(environment.iter().copied())
        .current_dir(folder)
        .output()
        .await
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code().unwrap(),
        text(output.stdout),
        text(output.stderr),
    )
}

fn report(folder: &Path, name: &str) -> Value {
    let text = std::fs::read_to_string(folder.join(name)).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[tokio::test]
async fn a_gateway_of_its_own_and_a_peer_are_loaded_side_by_side_and_reported() {
    let folder = tempfile::tempdir().unwrap();
    let peer = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/node/server.mjs");
    let arguments = [
        "--users=6",
        "--sessions=2",
        "--messages=120",
        "--rate=80",
        "--peer",
        peer,
        "--json=load.json",
        "--html=load.html",
    ];
    let (code, table, progress) = run(folder.path(), &arguments, &[]).await;
    assert_eq!(code, 0, "{table}\n{progress}");
    assert!(progress.contains("12 sessions"), "{progress}");
    let report = report(folder.path(), "load.json");
    let outcomes = report["outcomes"].as_array().unwrap();
    let names: Vec<&str> = outcomes
        .iter()
        .map(|outcome| outcome["target"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["herald", "node server"]);
    for outcome in outcomes {
        let (writing, delivery) = (&outcome["writing"], &outcome["delivery"]);
        assert_eq!(
            (&writing["messages"], &writing["failed"]),
            (&120.into(), &0.into()),
            "{outcome}"
        );
        // Each message is for two people with two sessions.
        assert_eq!(delivery["delivered"], 480, "{outcome}");
        for none in ["lost", "duplicates", "foreign"] {
            assert_eq!(delivery[none], 0, "{outcome}");
        }
        assert_eq!(delivery["from_due"]["count"], 480, "{outcome}");
        assert!(delivery["from_due"]["p50"].as_f64().unwrap() > 0.0, "{outcome}");
        assert!(
            outcome["process"]["empty_mib"].as_f64().unwrap() > 1.0,
            "{outcome}"
        );
        let sampled: u64 = outcome["samples"]
            .as_array()
            .unwrap()
            .iter()
            .map(|sample| sample["delivered"].as_u64().unwrap())
            .sum();
        assert_eq!(sampled, 480, "{outcome}");
    }
    let page = std::fs::read_to_string(folder.path().join("load.html")).unwrap();
    assert_eq!(page.matches("<svg").count(), 5);
    assert!(
        table.contains("herald") && table.contains("node server"),
        "{table}"
    );
}

#[tokio::test]
async fn a_gateway_that_runs_already_is_loaded_by_sql_and_by_http() {
    let scene = Scene::<3>::new().await;
    let folder = tempfile::tempdir().unwrap();
    let url = format!("--url=http://{}", scene.gateway.address());
    let database = scene.database.url();
    let environment = [("DATABASE_URL", database.as_str()), ("HERALD_JWT_SECRET", SECRET)];
    for (by, expected) in [("sql", 40), ("http", 40)] {
        let arguments = [
            &url,
            "--users=3",
            "--messages=20",
            "--rate=max",
            "--by",
            by,
            "--json=load.json",
        ];
        let (code, table, progress) = run(folder.path(), &arguments, &environment).await;
        assert_eq!(code, 0, "{table}\n{progress}");
        let report = report(folder.path(), "load.json");
        let outcome = &report["outcomes"][0];
        assert_eq!(outcome["delivery"]["delivered"], expected, "{outcome}");
        assert_eq!(outcome["process"], Value::Null, "{outcome}");
    }
    let too_many = [&url, "--users=4"];
    let (code, _, told) = run(folder.path(), &too_many, &environment).await;
    assert_eq!(code, 1);
    assert!(
        told.contains("has 3 people in `profiles`, and 4 are to write"),
        "{told}"
    );
    let (code, _, told) = run(
        folder.path(),
        &["--url=http://127.0.0.1:1", "--users=3"],
        &environment,
    )
    .await;
    assert_eq!(code, 1);
    assert!(told.contains("cannot be reached"), "{told}");
    let (code, _, told) = run(folder.path(), &["--users=none"], &environment).await;
    assert_eq!(code, 64);
    assert!(told.contains("--users: `none` is not a count"), "{told}");
    scene.gateway.stop().await;
}

/// What a proxy has done to what it passes on.
#[derive(Default)]
struct Done {
    frames: AtomicU64,
    dropped: AtomicU64,
    doubled: AtomicU64,
}

/// Passes on what a gateway says, but drops each fifth frame of events and says each seventh twice.
async fn deceive(client: TcpStream, gateway: SocketAddr, done: Arc<Done>) {
    let mut authorization = None;
    #[allow(clippy::result_large_err, reason = "the library asks for it")]
    let keep = |request: &Request, answer: Response| -> Result<Response, ErrorResponse> {
        authorization = request.headers().get("authorization").cloned();
        Ok(answer)
    };
    let mut client = accept_hdr_async(client, keep).await.unwrap();
    let mut request = format!("ws://{gateway}/v1/socket").into_client_request().unwrap();
    request
        .headers_mut()
        .insert("authorization", authorization.unwrap());
    let (mut upstream, _) = connect_async(request).await.unwrap();
    loop {
        tokio::select! {
            // Nothing but pongs and a close comes from here.
            said = client.next() => if !matches!(said, Some(Ok(Message::Pong(_)))) { return },
            said = upstream.next() => {
                let Some(Ok(said)) = said else { return };
                let events = said.to_text().unwrap_or_default().matches("\"content\":\"load-").count() as u64;
                let mut times = 1;
                if events > 0 {
                    let number = done.frames.fetch_add(1, Relaxed) + 1;
                    if number.is_multiple_of(5) {
                        done.dropped.fetch_add(events, Relaxed);
                        times = 0;
                    } else if number.is_multiple_of(7) {
                        done.doubled.fetch_add(events, Relaxed);
                        times = 2;
                    }
                }
                for _ in 0..times {
                    // The load may have ended meanwhile.
                    let _said = client.send(said.clone()).await;
                }
            }
        }
    }
}

/// A load of half a second.
fn plan() -> Plan {
    Plan {
        people: 3,
        sessions: 2,
        receiver: Receiver::Other,
        messages: 100,
        duration: Duration::from_secs(20),
        rate: NonZeroU32::new(200),
        path: WritePath::Sql {
            rows: NonZeroU32::MIN,
        },
        writers: NonZeroU32::MIN,
        content_bytes: 40,
        patience: Duration::from_secs(1),
    }
}

/// The people of a scene, told of messages by whoever listens here.
fn target(scene: &Scene<3>, address: SocketAddr) -> Target {
    Target {
        name: "a liar".to_owned(),
        url: format!("http://{address}").parse().unwrap(),
        database: Settings::parse(&scene.database.url()).unwrap(),
        process: Some(std::process::id()),
        people: scene.people.to_vec(),
        trust: Trust {
            secret: Secret::new(SECRET).unwrap(),
            audience: None,
            issuer: None,
        },
    }
}

#[tokio::test]
async fn what_is_lost_and_what_comes_twice_is_counted_to_the_last_one() {
    let scene = Scene::<3>::new().await;
    let (done, tasks) = (Arc::new(Done::default()), Tasks::new());
    let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = proxy.local_addr().unwrap();
    let (gateway, stopping) = (scene.gateway.address(), tasks.stopping());
    let (passed, each) = (Arc::clone(&done), tasks.clone());
    tasks.spawn("proxy", async move {
        while let Some(accepted) = stopping.run_until_cancelled(proxy.accept()).await {
            each.spawn(
                "deceiver",
                deceive(accepted.unwrap().0, gateway, Arc::clone(&passed)),
            );
        }
    });
    let target = target(&scene, address);
    let never = CancellationToken::new();
    let outcome = load::run(plan(), target, &never, |_| {}).await.unwrap();
    let (dropped, doubled) = (done.dropped.load(Relaxed), done.doubled.load(Relaxed));
    assert!(dropped > 0 && doubled > 0, "{dropped} {doubled}");
    assert_eq!(outcome.delivery.expected, 400);
    assert_eq!(outcome.delivery.lost, dropped);
    assert_eq!(outcome.delivery.delivered, 400 - dropped);
    assert_eq!(outcome.delivery.duplicates, doubled);
    assert_eq!(outcome.delivery.foreign, 0);
    assert!(!outcome.is_flawless());
    tasks.stop();
    tasks.finish(Duration::from_secs(10)).await.unwrap();
    scene.gateway.stop().await;
}

#[tokio::test]
async fn a_load_that_is_refused_or_told_to_end_says_so() {
    let scene = Scene::<3>::new().await;
    let target = target(&scene, scene.gateway.address());
    let never = CancellationToken::new();
    // A token that is not believed, and a load that is told to end.
    let stranger = Trust {
        secret: Secret::new("another secret for tests, long enough").unwrap(),
        ..target.trust.clone()
    };
    let strangers = Target {
        trust: stranger,
        ..target.clone()
    };
    let refused = load::run(plan(), strangers, &never, |_| {}).await.unwrap_err();
    assert!(
        matches!(refused, LoadError::Target { .. }) && refused.to_string().contains("401"),
        "{refused}"
    );
    never.cancel();
    let ended = load::run(plan(), target, &never, |_| {}).await.unwrap_err();
    assert!(matches!(ended, LoadError::Ended), "{ended}");
    scene.gateway.stop().await;
}
