//! A connection that breaks at random: it stands between clients and the gateway, and cuts each connection after some
//! bytes of either direction or after some time, with or without a reset.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use herald::tasks::Tasks;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// The most bytes that one direction of a connection carries: some requests, or a part of one.
const BYTES_MAX: usize = 4000;

/// The longest time that a connection lives, in milliseconds.
const LIFE_MAX_MS: u64 = 400;

/// Where clients connect.
pub(crate) struct Cutter {
    pub(crate) address: SocketAddr,
    tasks: Tasks,
    cuts: Arc<AtomicUsize>,
}

impl Cutter {
    /// Stands before this gateway. Its random decisions come from the seed.
    pub(crate) async fn before(gateway: SocketAddr, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, tasks) = (listener.local_addr().unwrap(), Tasks::new());
        let cuts = Arc::new(AtomicUsize::new(0));
        tasks.spawn("cutter", {
            let (connections, stopping) = (tasks.clone(), tasks.stopping());
            let cuts = Arc::clone(&cuts);
            let mut random = StdRng::seed_from_u64(seed);
            async move {
                while let Some(Ok((client, _))) = stopping.run_until_cancelled(listener.accept()).await {
                    let random = StdRng::seed_from_u64(random.random());
                    connections.spawn(
                        "cut connection",
                        connection(client, gateway, random, Arc::clone(&cuts)),
                    );
                }
            }
        });
        Self { address, tasks, cuts }
    }

    /// How many connections were cut so far.
    pub(crate) fn cuts(&self) -> usize {
        self.cuts.load(Ordering::Relaxed)
    }

    /// Lets nobody in any more, and waits for the end of all connections.
    pub(crate) async fn stop(self) {
        self.tasks.stop();
        self.tasks.finish(Duration::from_secs(10)).await.unwrap();
    }
}

async fn connection(mut client: TcpStream, gateway: SocketAddr, mut random: StdRng, cuts: Arc<AtomicUsize>) {
    let mut server = TcpStream::connect(gateway).await.unwrap();
    let life = Duration::from_millis(random.random_range(1..LIFE_MAX_MS));
    let (up, down) = (
        random.random_range(1..BYTES_MAX),
        random.random_range(1..BYTES_MAX),
    );
    for stream in [&client, &server] {
        if random.random() {
            SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
    }
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let is_cut = tokio::select! {
        is_cut = carry(&mut from_client, &mut to_server, up) => is_cut,
        is_cut = carry(&mut from_server, &mut to_client, down) => is_cut,
        () = tokio::time::sleep(life) => true,
    };
    cuts.fetch_add(usize::from(is_cut), Ordering::Relaxed);
}

/// Carries so many bytes; answers whether it was the last of them that ended it, and not one of the two sides.
async fn carry(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    bytes: usize,
) -> bool {
    let mut left = bytes;
    let mut buffer = [0; BYTES_MAX];
    while left > 0 {
        match from.read(&mut buffer[..left]).await {
            Ok(read) if read > 0 && to.write_all(&buffer[..read]).await.is_ok() => left -= read,
            _ => return false,
        }
    }
    true
}
