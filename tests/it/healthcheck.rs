//! `herald healthcheck` against gateways that are well, waiting for their database, and not there.

use std::net::SocketAddr;

use tokio::{net::TcpListener, process::Command};

use crate::support::{
    database::Database,
    gateway::{self, Gateway},
};

/// Runs it, and answers with its exit code and everything it said.
async fn ask(flags: &[&str], bind: &str) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_herald"))
        .arg("healthcheck")
        .args(flags)
        .env("HERALD_BIND", bind)
        .output()
        .await
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(said).unwrap())
}

/// The port at every address of this machine, as a gateway in a container listens.
fn everywhere(address: SocketAddr) -> String {
    format!("0.0.0.0:{}", address.port())
}

#[tokio::test]
async fn a_gateway_that_is_well_is_found_by_where_it_was_told_to_listen() {
    let database = Database::with_application().await;
    gateway::migrate(&database.url()).await;
    let gateway = Gateway::start(&database.url()).await;
    let bind = everywhere(gateway.address());
    assert_eq!(ask(&[], &bind).await, (0, "alive\n".to_owned()));
    assert_eq!(ask(&["--ready"], &bind).await, (0, "ready\n".to_owned()));
    let url = format!("--url=http://{}", gateway.address());
    assert_eq!(ask(&[&url], "127.0.0.1:1").await, (0, "alive\n".to_owned()));
    let (code, said) = ask(&[&format!("{url}/elsewhere")], "").await;
    assert_eq!(code, 1);
    assert!(said.contains("404 Not Found"), "{said}");
    gateway.stop().await;
}

#[tokio::test]
async fn a_gateway_without_its_database_is_alive_and_not_ready() {
    // A socket that is bound and does not listen refuses every connection, and keeps the port from others.
    let nobody = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    nobody
        .bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into())
        .unwrap();
    let port = nobody.local_addr().unwrap().as_socket().unwrap().port();
    let config = gateway::config(&format!("postgres://somebody@127.0.0.1:{port}/app"));
    let gateway = Gateway::start_on("127.0.0.1:0".parse().unwrap(), config).await;
    let bind = everywhere(gateway.address());
    assert_eq!(ask(&[], &bind).await, (0, "alive\n".to_owned()));
    let (code, said) = ask(&["--ready"], &bind).await;
    assert_eq!(code, 1);
    assert!(
        said.contains("503 Service Unavailable: not ready: the feed"),
        "{said}"
    );
    gateway.stop().await;
}

#[tokio::test]
async fn who_does_not_answer_is_not_well() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (code, said) = ask(&[], &silent.local_addr().unwrap().to_string()).await;
    assert_eq!(code, 1);
    assert!(said.contains("no answer from 127.0.0.1"), "{said}");
    let (code, said) = ask(&[], "4000").await;
    assert_eq!(code, 64);
    assert!(said.contains("HERALD_BIND"), "{said}");
}
