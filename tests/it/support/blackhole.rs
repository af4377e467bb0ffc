//! A network that loses connections without a word: it stands between clients and the gateway, and from one moment on carries
//! nothing more, in either direction, of the connections that it has; neither side sees an end.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use herald::tasks::Tasks;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;

/// Where clients connect. Dropped, it ends all connections.
pub(crate) struct Blackhole {
    pub(crate) address: SocketAddr,
    tasks: Tasks,
    /// Cancelled when the connections that there are now are lost.
    lost: Arc<Mutex<CancellationToken>>,
}

impl Blackhole {
    /// Stands before this gateway.
    pub(crate) async fn before(gateway: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, tasks) = (listener.local_addr().unwrap(), Tasks::new());
        let lost = Arc::new(Mutex::new(CancellationToken::new()));
        tasks.spawn("blackhole", {
            let (connections, stopping) = (tasks.clone(), tasks.stopping());
            let lost = Arc::clone(&lost);
            async move {
                while let Some(Ok((client, _))) = stopping.run_until_cancelled(listener.accept()).await {
                    let lost = lost.lock().unwrap().clone();
                    let carried = connection(client, gateway, lost, stopping.clone());
                    connections.spawn("lossy connection", carried);
                }
            }
        });
        Self { address, tasks, lost }
    }

    /// Loses the connections that there are; new ones are carried.
    pub(crate) fn lose(&self) {
        let lost = std::mem::take(&mut *self.lost.lock().unwrap());
        lost.cancel();
    }
}

impl Drop for Blackhole {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

async fn connection(
    mut client: TcpStream,
    gateway: SocketAddr,
    lost: CancellationToken,
    stopping: CancellationToken,
) {
    let mut server = TcpStream::connect(gateway).await.unwrap();
    for stream in [&client, &server] {
        stream.set_nodelay(true).unwrap();
    }
    tokio::select! {
        biased;
        () = stopping.cancelled() => return,
        () = lost.cancelled() => {}
        _ended = copy_bidirectional(&mut client, &mut server) => return,
    }
    // Both are kept open and unread.
    stopping.cancelled().await;
}
