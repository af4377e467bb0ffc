//! `herald healthcheck`: asks a gateway how it is, for places that have no other client, such as a container.

use std::{
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use http::{Request, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{InvalidDnsNameError, ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::{EXIT_USAGE, fail};
use crate::{
    client::{Escaped, TrustError, believing_anybody, trusted},
    config::healthcheck::{HealthcheckFlags, HealthcheckSettings, Security},
};

/// How long everything may take. A gateway gives its database two seconds for `/readyz`.
const DEADLINE: Duration = Duration::from_secs(4);

/// The longest answer that is read; a gateway's is one line.
const ANSWER_BYTES_MAX: usize = 16 * 1024;

/// Why the gateway does not count as well.
#[derive(Debug, thiserror::Error)]
enum HealthcheckError {
    #[error("no answer from {authority} within {DEADLINE:?}")]
    Deadline { authority: String },
    #[error("{authority} cannot be reached: {error}")]
    Unreachable { authority: String, error: io::Error },
    #[error("{host} can be named in no certificate: {error}")]
    Name {
        host: String,
        error: InvalidDnsNameError,
    },
    #[error("TLS: {0}")]
    Trust(#[from] TrustError),
    #[error("TLS with {authority}: {error}")]
    Tls { authority: String, error: io::Error },
    #[error("the request cannot be made: {0}")]
    Request(#[from] http::Error),
    #[error("the answer cannot be read: {0}")]
    Answer(String),
    #[error("{status}: {answer}")]
    Unwell {
        status: http::StatusCode,
        answer: String,
    },
    #[error("the process cannot be set up: {0}")]
    Process(io::Error),
}

/// Asks once. The answer is 0 if the gateway is well, and 1 if not.
pub(super) fn run(flags: HealthcheckFlags) -> ExitCode {
    let settings = match flags.check() {
        Ok(settings) => settings,
        Err(mistakes) => return fail("healthcheck", &mistakes, EXIT_USAGE),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail("healthcheck", &HealthcheckError::Process(error), 1),
    };
    let asked = runtime.block_on(async {
        timeout(DEADLINE, ask(&settings)).await.unwrap_or_else(|_| {
            let authority = settings.authority.clone();
            Err(HealthcheckError::Deadline { authority })
        })
    });
    // Looking up a name may be under way still.
    runtime.shutdown_background();
    match asked {
        Ok(answer) => {
            // Where standard output is closed, the exit code tells.
            let _told = writeln!(io::stdout(), "{answer}");
            ExitCode::SUCCESS
        }
        Err(error) => fail("healthcheck", &error, 1),
    }
}

async fn ask(settings: &HealthcheckSettings) -> Result<String, HealthcheckError> {
    let HealthcheckSettings {
        authority,
        host,
        security,
        ..
    } = settings;
    let stream = TcpStream::connect(authority)
        .await
        .map_err(|error| HealthcheckError::Unreachable {
            authority: authority.clone(),
            error,
        })?;
    let config = match security {
        Security::None => return ask_on(stream, settings).await,
        Security::Unchecked => believing_anybody()?,
        Security::Checked => trusted()?,
    };
    let name = ServerName::try_from(host.clone()).map_err(|error| HealthcheckError::Name {
        host: host.clone(),
        error,
    })?;
    let stream = TlsConnector::from(config).connect(name, stream).await;
    let stream = stream.map_err(|error| HealthcheckError::Tls {
        authority: authority.clone(),
        error,
    })?;
    ask_on(stream, settings).await
}

async fn ask_on(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    settings: &HealthcheckSettings,
) -> Result<String, HealthcheckError> {
    let request = Request::get(&settings.path)
        .header(header::HOST, &settings.authority)
        .body(Empty::<Bytes>::new())?;
    let failed = |error: hyper::Error| HealthcheckError::Answer(error.to_string());
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(failed)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await;
        let body = body.map_err(|error| HealthcheckError::Answer(error.to_string()))?;
        let answer = Escaped(String::from_utf8_lossy(&body.to_bytes()).trim()).to_string();
        if status.is_success() {
            Ok(answer)
        } else {
            Err(HealthcheckError::Unwell { status, answer })
        }
    };
    tokio::pin!(connection);
    tokio::pin!(exchange);
    tokio::select! {
        answered = &mut exchange => answered,
        // Once the connection has carried everything, what is left is to read it; if it broke, the exchange says so.
        _carried = &mut connection => exchange.await,
    }
}
