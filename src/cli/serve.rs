//! `herald serve`: the gateway, from its settings to its drained end.

use std::{io, net::SocketAddr, process::ExitCode};

use super::{EXIT_USAGE, fail, signals::Signals};
use crate::{
    app::{App, StartError},
    config::serve::{ServeConfig, ServeFlags},
    edge::acceptor,
    telemetry,
};

/// Why the gateway does not run.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error("{address} is in use by another process: end that one, or choose another with HERALD_BIND")]
    AddressTaken { address: SocketAddr },
    #[error("cannot listen on {address}: {error}; choose an address of this machine with HERALD_BIND")]
    Bind { address: SocketAddr, error: io::Error },
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("{0}")]
    Refused(String),
    #[error("the process cannot be set up: {0}")]
    Process(io::Error),
    #[error("ended at once by a second signal")]
    EndedAtOnce,
}

/// Runs the gateway until a signal ends it; the answer is the process's exit code.
pub(super) fn run(flags: ServeFlags) -> ExitCode {
    let config = match flags.check() {
        Ok(config) => config,
        Err(mistakes) => return fail("serve", &mistakes, EXIT_USAGE),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail("serve", &ServeError::Process(error), 1),
    };
    let served = runtime.block_on(serve(config));
    // What had to end has ended, or was reported; nothing that is left deserves waiting for.
    runtime.shutdown_background();
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail("serve", &error, 1),
    }
}

async fn serve(config: ServeConfig) -> Result<(), ServeError> {
    telemetry::start(config.log);
    let mut signals = Signals::receive().map_err(ServeError::Process)?;
    let listener = acceptor::bind(config.bind).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => ServeError::AddressTaken { address: config.bind },
        _ => ServeError::Bind {
            address: config.bind,
            error,
        },
    })?;
    let app = App::start(config.app, listener).await?;
    tracing::info!(address = %app.address(), version = env!("CARGO_PKG_VERSION"), "the gateway is running");
    tokio::select! {
        reason = app.refused() => return Err(ServeError::Refused(reason)),
        () = signals.next() => {}
    }
    tracing::info!("stopping; a second signal ends the process at once");
    tokio::select! {
        drained = app.drain(config.shutdown_grace) => {
            match drained {
                Ok(()) => tracing::info!("stopped"),
                Err(left) => tracing::warn!(?left, "stopped, with tasks that had not ended within the grace"),
            }
            Ok(())
        }
        () = signals.next() => Err(ServeError::EndedAtOnce),
    }
}
