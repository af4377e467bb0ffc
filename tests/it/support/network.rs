//! A network that misbehaves when it is told to: it stands between two who talk by TCP, gateway and Postgres or client and gateway.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use herald::tasks::Tasks;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// Bytes that are carried at once.
const CHUNK: usize = 16 * 1024;

/// Where the near side connects. Dropped, it ends all connections.
pub(crate) struct Network {
    pub(crate) address: SocketAddr,
    far: Arc<Mutex<SocketAddr>>,
    weather: watch::Sender<Weather>,
    tasks: Tasks,
}

/// What connections live through. Those of before a cut or a loss end by it, and later ones do not.
#[derive(Clone, Copy, Default)]
struct Weather {
    cuts: u64,
    losses: u64,
    carriage: Carriage,
}

#[derive(Clone, Copy, Default)]
enum Carriage {
    #[default]
    Prompt,
    /// Each chunk comes so much later.
    Delayed(Duration),
    /// Half of each chunk comes, and the connection ends in the middle of what was said.
    Halved,
    /// Nothing comes until the weather is fair again.
    Held,
}

enum End {
    Closed,
    Cut,
    Lost,
}

impl Network {
    /// Leads to this address.
    pub(crate) async fn before(far: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, tasks) = (listener.local_addr().unwrap(), Tasks::new());
        let far = Arc::new(Mutex::new(far));
        let weather = watch::Sender::new(Weather::default());
        tasks.spawn("network", {
            let (connections, stopping) = (tasks.clone(), tasks.stopping());
            let (far, weather) = (Arc::clone(&far), weather.subscribe());
            async move {
                while let Some(Ok((near, _))) = stopping.run_until_cancelled(listener.accept()).await {
                    let far = *far.lock().unwrap();
                    let (stopping, weather) = (stopping.clone(), weather.clone());
                    connections.spawn("carried connection", async move {
                        // Both ends close, however far it is.
                        let _carried = stopping.run_until_cancelled(connection(near, far, weather)).await;
                    });
                }
            }
        });
        Self {
            address,
            far,
            weather,
            tasks,
        }
    }

    /// Leads to the Postgres of this URL; also answers with the URL that leads through here.
    pub(crate) async fn before_database(url: &str) -> (Self, String) {
        let (server, database) = url.rsplit_once('/').unwrap();
        let (start, port) = server.rsplit_once(':').unwrap();
        let network = Self::before(SocketAddr::from(([127, 0, 0, 1], port.parse().unwrap()))).await;
        let through = format!("{start}:{}/{database}", network.address.port());
        (network, through)
    }

    /// Later connections lead elsewhere.
    pub(crate) fn lead_to(&self, far: SocketAddr) {
        *self.far.lock().unwrap() = far;
    }

    /// Resets the connections that there are.
    pub(crate) fn cut(&self) {
        self.weather.send_modify(|weather| weather.cuts += 1);
    }

    /// Loses the connections that there are: they carry nothing any more, and neither side is told.
    pub(crate) fn lose(&self) {
        self.weather.send_modify(|weather| weather.losses += 1);
    }

    /// Everything takes so much longer.
    pub(crate) fn delay(&self, by: Duration) {
        self.carry(Carriage::Delayed(by));
    }

    /// Whatever is said is cut off in its middle.
    pub(crate) fn halve(&self) {
        self.carry(Carriage::Halved);
    }

    /// Carries nothing, also of new connections, until [`Network::clear`]; then it all comes.
    pub(crate) fn hold(&self) {
        self.carry(Carriage::Held);
    }

    /// Carries everything at once again.
    pub(crate) fn clear(&self) {
        self.carry(Carriage::Prompt);
    }

    fn carry(&self, carriage: Carriage) {
        self.weather.send_modify(|weather| weather.carriage = carriage);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

async fn connection(mut near: TcpStream, far: SocketAddr, mut weather: watch::Receiver<Weather>) {
    let born = *weather.borrow_and_update();
    let Ok(mut far) = TcpStream::connect(far).await else {
        return;
    };
    for stream in [&near, &far] {
        stream.set_nodelay(true).unwrap();
    }
    let (mut from_near, mut to_near) = near.split();
    let (mut from_far, mut to_far) = far.split();
    let carried = weather.clone();
    let disturbed = async {
        let now = weather.wait_for(|now| now.cuts != born.cuts || now.losses != born.losses);
        match now.await {
            Ok(now) if now.losses != born.losses => End::Lost,
            _ => End::Cut,
        }
    };
    let end = tokio::select! {
        biased;
        end = disturbed => end,
        end = carry(&mut from_near, &mut to_far, carried.clone()) => end,
        end = carry(&mut from_far, &mut to_near, carried.clone()) => end,
    };
    match end {
        End::Closed => {}
        End::Cut => {
            for stream in [&near, &far] {
                SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
            }
        }
        // Both are kept open and unread.
        End::Lost => std::future::pending().await,
    }
}

async fn carry(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    mut weather: watch::Receiver<Weather>,
) -> End {
    let mut buffer = vec![0; CHUNK];
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else {
            return End::Closed;
        };
        let fair = weather.wait_for(|weather| !matches!(weather.carriage, Carriage::Held));
        let Ok(carriage) = fair.await.map(|weather| weather.carriage) else {
            return End::Cut;
        };
        let share = match carriage {
            Carriage::Prompt | Carriage::Held => read,
            Carriage::Delayed(by) => {
                tokio::time::sleep(by).await;
                read
            }
            Carriage::Halved => read / 2,
        };
        if to.write_all(&buffer[..share]).await.is_err() {
            return End::Closed;
        }
        if share < read {
            return End::Cut;
        }
    }
}
