//! The Autobahn cases against the gateway's own acceptor, upgrade and sessions, with an echo that only the test build has.
//! script/autobahn runs them.

use std::{
    path::Path,
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    extract::{Request, State},
    middleware::from_fn,
    response::Response,
    routing::get,
};
use tokio::{net::TcpListener, process::Command};
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

use super::{
    AddressConfig, Addresses, HandshakeLimits, Handshakes, Problem,
    acceptor::{Acceptor, Refusing},
    ceiling, door,
    identified::identified,
    websocket::{Dialect, Encoded, Socket, handshake, upgrade},
};
use crate::{metrics::Metrics, session::echo::echo, tasks::Tasks};

/// The largest message of the cases, in bytes. What the protocols allow is far less, and has tests of its own.
const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// More than the cases that are under way at once.
const CONNECTIONS_MAX: usize = 64;

static ECHO: Dialect<Message> = Dialect {
    name: "echo",
    client_frame_bytes_max: MESSAGE_BYTES_MAX,
    encode: Encoded::Message,
};

#[derive(Clone, Debug)]
struct Context {
    metrics: Arc<Metrics>,
    tasks: Tasks,
}

/// As the doors of the protocols, but for who is let in.
async fn open(State(context): State<Context>, mut request: Request) -> Result<Response, Problem> {
    let answer = handshake(request.headers())?;
    let upgrade = upgrade(&mut request)?;
    let log = door::log_context(request.extensions())?;
    let metrics = context.metrics;
    context.tasks.spawn("session", async move {
        if let Some(socket) = Socket::take_over(upgrade, &log, &ECHO).await {
            echo(&metrics, socket).await;
        }
    });
    Ok(answer)
}

/// All cases take seconds. One that hangs ends here.
const AT_MOST: Duration = Duration::from_secs(600);

/// Serves the echo for as long as a program runs that is given its address.
async fn run_against_echo(program: &mut Command) -> ExitStatus {
    let (metrics, tasks) = (Arc::new(Metrics::new()), Tasks::new());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let context = Context {
        metrics: Arc::clone(&metrics),
        tasks: tasks.clone(),
    };
    let acceptor = Acceptor {
        listener,
        router: Router::new()
            .route("/", get(open))
            .with_state(context)
            .layer(from_fn(identified)),
        refusing: Refusing::default(),
        ceiling: ceiling(None, &metrics).0,
        addresses: Addresses::new(&AddressConfig::within(CONNECTIONS_MAX), Arc::clone(&metrics)),
        handshakes: Arc::new(Handshakes::new(HandshakeLimits::default(), Arc::clone(&metrics))),
        tls: None,
        connections_max: CONNECTIONS_MAX,
        metrics,
        tasks: tasks.clone(),
        draining: CancellationToken::new(),
    };
    tasks.spawn("acceptor", acceptor.run());
    let program = program.arg(format!("ws://{address}/")).stdin(Stdio::null());
    let ended = tokio::time::timeout(AT_MOST, program.kill_on_drop(true).status()).await;
    ended
        .expect("the cases do not end")
        .expect("script/autobahn installs it")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "script/autobahn runs it, once it has installed what is needed"]
async fn the_autobahn_cases_pass() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut program = Command::new(root.join("target/autobahn/python/bin/python"));
    // Which cases are run it knows by the environment.
    program.arg(root.join("script/lib/autobahn.py"));
    let status = run_against_echo(&mut program).await;
    assert!(status.success(), "{status}");
}
