//! The program itself: how it starts with a certificate, how it is asked how it is, and its clients.

use std::process::Stdio;

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
    time::timeout,
};

use super::{NAME, NO_DATABASE, Stage};
use crate::{
    processes,
    support::{
        database::{AT_MOST, Database, people},
        gateway::{self, SECRET, token},
        process::Process,
        scene::{Scene, content},
    },
};

const HERALD: &str = env!("CARGO_BIN_EXE_herald");

impl Stage {
    fn variables(&self) -> [(&'static str, String); 2] {
        let path = |name| self.path(name).to_str().unwrap().to_owned();
        [
            ("HERALD_TLS_CERT", path("cert.pem")),
            ("HERALD_TLS_KEY", path("key.pem")),
        ]
    }

    fn serve(&self, database: &str) -> Process {
        let variables = self.variables();
        let variables: Vec<_> = variables
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        Process::serve(database, &variables)
    }
}

/// Runs it with these variables and no other ones, and answers with its exit code and everything it said.
async fn run(arguments: &[&str], variables: &[(&str, &str)]) -> (i32, String) {
    let output = Command::new(HERALD)
        .args(arguments)
        .env_clear()
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(AT_MOST, output).await.expect("it does not end").unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(said).unwrap())
}

#[tokio::test]
async fn a_gateway_with_a_certificate_starts_serves_and_drains() {
    let stage = Stage::new();
    let database = Database::with_application().await;
    gateway::migrate(&database.url()).await;
    let [alice] = people::<1>(&database.connect().await).await;
    let alice = herald::types::UserId(alice);
    let mut process = stage.serve(&database.url());
    let address = process.address().await;
    let client = stage.client();
    processes::until("the gateway to be ready", async || {
        client.fetch(address, "/readyz").await.status == 200
    })
    .await;
    let (mut socket, _) = client.session(address, alice).await;
    process.signal("TERM");
    assert_eq!(socket.close_code().await, 1001);
    assert_eq!(process.ended().await.code(), Some(0), "{}", process.log());
    let log = process.log();
    assert!(
        log.contains("serving a TLS certificate") && log.contains("\"stopped\""),
        "{log}"
    );
    let key = std::fs::read_to_string(stage.path("key.pem")).unwrap();
    assert!(key.lines().all(|line| !log.contains(line)), "{log}");
}

#[tokio::test]
async fn a_pair_that_cannot_be_used_ends_the_start_with_all_that_is_wrong() {
    let stage = Stage::new();
    stage.replace("cert.pem", "no certificate");
    stage.replace("key.pem", "no key");
    let mut process = stage.serve(NO_DATABASE);
    assert_eq!(process.ended().await.code(), Some(64));
    let told = process.log();
    for expected in [
        "HERALD_TLS_CERT: ",
        "cert.pem holds no certificate",
        "HERALD_TLS_KEY: ",
        "key.pem holds no private key",
    ] {
        assert!(told.contains(expected), "{told}");
    }
    let [certificate, key] = stage.variables();
    for (given, missing) in [
        (&certificate, "HERALD_TLS_KEY: not set"),
        (&key, "HERALD_TLS_CERT: not set"),
    ] {
        let mut process = Process::serve(NO_DATABASE, &[(given.0, &given.1)]);
        assert_eq!(process.ended().await.code(), Some(64));
        assert!(process.log().contains(missing), "{}", process.log());
    }
}

#[tokio::test]
async fn a_healthcheck_asks_its_own_gateway_by_tls_whatever_the_certificate_names() {
    let stage = Stage::new();
    let scene: Scene<0> = stage.scene().await;
    let bind = format!("0.0.0.0:{}", scene.gateway.address().port());
    let [certificate, key] = stage.variables();
    let own = [
        ("HERALD_BIND", bind.as_str()),
        (certificate.0, &certificate.1),
        (key.0, &key.1),
    ];
    assert_eq!(run(&["healthcheck"], &own).await, (0, "alive\n".to_owned()));
    assert_eq!(
        run(&["healthcheck", "--ready"], &own).await,
        (0, "ready\n".to_owned())
    );

    let (code, said) = run(&["healthcheck"], &[("HERALD_BIND", &bind)]).await;
    assert_eq!(code, 1);
    assert!(said.contains("speaks TLS"), "{said}");
    scene.gateway.stop().await;
}

#[tokio::test]
async fn clients_reach_it_by_the_root_that_the_system_is_told_to_trust_and_not_without() {
    let stage = Stage::new();
    stage.install(&stage.authority.issue(&[NAME, "localhost"]));
    stage.replace("root.pem", &stage.authority.certificate);
    let scene: Scene<2> = stage.scene().await;
    let [alice, bob] = scene.people;
    let url = format!("https://localhost:{}", scene.gateway.address().port());
    let root = stage.path("root.pem");
    let trusting = ("SSL_CERT_FILE", root.to_str().unwrap());
    let secret = ("HERALD_JWT_SECRET", SECRET);

    let asked = ["healthcheck", "--url", &url];
    assert_eq!(run(&asked, &[trusting]).await, (0, "alive\n".to_owned()));
    stage.replace(
        "other.pem",
        &crate::support::authority::Authority::new("another").certificate,
    );
    let other = stage.path("other.pem");
    let (code, said) = run(&asked, &[("SSL_CERT_FILE", other.to_str().unwrap())]).await;
    assert_eq!(code, 1);
    assert!(
        said.contains("TLS with localhost") && said.contains("UnknownIssuer"),
        "{said}"
    );

    let token = token(alice);
    for carrier in [&[][..], &["--sse"]] {
        let mut tail = Command::new(HERALD)
            .args(["tail", "--json", "--url", &url])
            .args(carrier)
            .env_clear()
            .envs([trusting, ("HERALD_TOKEN", &token)])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let sessions = || {
            let of = |protocol| {
                scene
                    .gateway
                    .metric(&format!("sessions{{protocol=\"{protocol}\"}}"))
            };
            of("native") + of("sse")
        };
        crate::support::wait_until("the tail is there", || sessions() == 1.0).await;
        let (alice, bob) = (alice.to_string(), bob.to_string());
        let arguments = ["send", "--as", &bob, "--to", &alice, "--url", &url, "by https"];
        let (code, said) = run(&arguments, &[trusting, secret]).await;
        assert_eq!(code, 0, "{said}");
        let mut lines = BufReader::new(tail.stdout.take().unwrap()).lines();
        let line = timeout(AT_MOST, lines.next_line())
            .await
            .expect("nothing came")
            .unwrap();
        let event = serde_json::from_str(&line.unwrap()).unwrap();
        assert_eq!(content(&event), "by https");
        tail.kill().await.unwrap();
        crate::support::wait_until("the tail is gone", || sessions() == 0.0).await;
    }
    scene.gateway.stop().await;
}
