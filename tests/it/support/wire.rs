//! A connection that breaks on command: it stands between clients and the gateway.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use herald::tasks::Tasks;
use socket2::SockRef;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// Where clients connect.
pub(crate) struct Wire {
    pub(crate) address: SocketAddr,
    tasks: Tasks,
    state: Arc<State>,
}

struct State {
    /// Changes when all connections are to be cut.
    cuts: watch::Sender<usize>,
    /// Changes when all connections are to carry nothing any more.
    stalls: watch::Sender<usize>,
    refuses: AtomicBool,
    open: AtomicUsize,
}

impl Wire {
    /// Stands before this gateway, which need not be there at all times.
    pub(crate) async fn before(gateway: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, tasks) = (listener.local_addr().unwrap(), Tasks::new());
        let state = Arc::new(State {
            cuts: watch::Sender::new(0),
            stalls: watch::Sender::new(0),
            refuses: AtomicBool::new(false),
            open: AtomicUsize::new(0),
        });
        tasks.spawn("wire", {
            let (connections, stopping) = (tasks.clone(), tasks.stopping());
            let state = Arc::clone(&state);
            async move {
                while let Some(Ok((client, _))) = stopping.run_until_cancelled(listener.accept()).await {
                    if state.refuses.load(Ordering::SeqCst) {
                        reset(&client);
                        continue;
                    }
                    connections.spawn("wire connection", connection(client, gateway, Arc::clone(&state)));
                }
            }
        });
        Self {
            address,
            tasks,
            state,
        }
    }

    /// Resets all connections, to both sides.
    pub(crate) fn cut(&self) {
        self.state.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// From now on whoever connects is reset.
    pub(crate) fn refuse(&self) {
        self.state.refuses.store(true, Ordering::SeqCst);
    }

    /// From now on whoever connects is let through again.
    pub(crate) fn allow(&self) {
        self.state.refuses.store(false, Ordering::SeqCst);
    }

    /// From now on the connections that are open carry nothing, as when a phone has left the network: neither side is told. Those
    /// that are opened later are not concerned. A cut still ends them.
    pub(crate) fn stall(&self) {
        self.state.stalls.send_modify(|stalls| *stalls += 1);
    }

    /// How many connections are open.
    pub(crate) fn open(&self) -> usize {
        self.state.open.load(Ordering::SeqCst)
    }

    /// Lets nobody in any more, cuts what is open, and waits for the end of all connections.
    pub(crate) async fn stop(self) {
        self.tasks.stop();
        self.cut();
        self.tasks.finish(Duration::from_secs(10)).await.unwrap();
    }
}

async fn connection(mut client: TcpStream, gateway: SocketAddr, state: Arc<State>) {
    let mut cuts = state.cuts.subscribe();
    let mut stalls = state.stalls.subscribe();
    let Ok(mut server) = TcpStream::connect(gateway).await else {
        reset(&client);
        return;
    };
    state.open.fetch_add(1, Ordering::SeqCst);
    tokio::select! {
        _ended = copy_bidirectional(&mut client, &mut server) => {}
        _cut = cuts.changed() => {
            reset(&client);
            reset(&server);
        }
        _stalled = stalls.changed() => {
            let _cut = cuts.changed().await;
        }
    }
    state.open.fetch_sub(1, Ordering::SeqCst);
}

/// Has the kernel send a reset when this stream is dropped.
fn reset(stream: &TcpStream) {
    SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
}
