//! A network between the gateway and Postgres that goes silent without closing anything: packets vanish, as behind a
//! firewall that forgot its connections. The feed has to find that out by itself.

use std::{net::SocketAddr, time::Duration};

use herald::{feed::FeedConfig, postgres::Settings, tasks::Tasks};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
};

use crate::support::{
    gateway::{Gateway, config, token},
    scene::{Scene, content},
    socket::Socket,
    wait_until,
};

/// Carries TCP connections to Postgres until it is told to let all that are open fall silent.
struct Proxy {
    address: SocketAddr,
    /// Connections of an earlier generation carry nothing any more.
    generation: watch::Sender<u64>,
    tasks: Tasks,
}

impl Proxy {
    async fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let generation = watch::Sender::new(0);
        let tasks = Tasks::new();
        let (carried, generations) = (tasks.clone(), generation.subscribe());
        tasks.spawn("proxy", async move {
            while let Ok((near, _)) = listener.accept().await {
                let generations = generations.clone();
                carried.spawn("carried connection", carry(near, to, generations));
            }
        });
        Self {
            address,
            generation,
            tasks,
        }
    }

    /// From now on the open connections carry nothing, and neither side is told. New ones are carried.
    fn silence(&self) {
        self.generation.send_modify(|generation| *generation += 1);
    }
}

async fn carry(mut near: TcpStream, to: SocketAddr, mut generations: watch::Receiver<u64>) {
    let born = *generations.borrow_and_update();
    let mut far = TcpStream::connect(to).await.unwrap();
    tokio::select! {
        _ended = copy_bidirectional(&mut near, &mut far) => return,
        _silenced = generations.wait_for(|generation| *generation != born) => {}
    }
    // Both ends stay open and hear nothing, until the test is over.
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_falls_silent_is_found_out_and_nothing_is_lost() {
    let scene = Scene::<1>::new().await;
    let [alice] = scene.people;
    let url = scene.database.url();
    let (_, port) = url.rsplit_once(':').unwrap();
    let port: u16 = port.split_once('/').unwrap().0.parse().unwrap();
    let proxy = Proxy::start(SocketAddr::from(([127, 0, 0, 1], port))).await;
    let through = url.replace(&format!(":{port}/"), &format!(":{}/", proxy.address.port()));
    assert_ne!(url, through);
    let mut config = config(&url);
    config.feed_settings = Settings::parse(&through).unwrap();
    config.feed = FeedConfig {
        idle_tick: Duration::from_millis(300),
        deadline: Duration::from_secs(1),
        ..FeedConfig::default()
    };
    let gateway = Gateway::start_with(config).await;
    let (mut socket, ready) = Socket::connect(gateway.address(), &token(alice), None).await;
    for round in 1..=3 {
        scene.write(alice, alice, "before").await;
        assert_eq!(content(&socket.events(1).await.0[0]), "before");
        let reconnects = gateway.metric("feed_reconnects_total");
        proxy.silence();
        scene.write(alice, alice, "into the silence").await;
        assert_eq!(
            content(&socket.events(1).await.0[0]),
            "into the silence",
            "round {round}"
        );
        assert!(gateway.metric("feed_reconnects_total") > reconnects);
    }
    wait_until("the feed listens again", || {
        gateway.metric("feed_state{state=\"listening\"}") == 1.0
    })
    .await;
    assert_eq!(gateway.metric("feed_discontinuities_total"), 0.0);
    let (mut again, _) = Socket::connect(gateway.address(), &token(alice), ready["cursor"].as_str()).await;
    assert_eq!(again.events(6).await.0.len(), 6);
    gateway.stop().await;
    scene.gateway.stop().await;
    assert!(proxy.tasks.running()["carried connection"] >= 3);
}

#[test]
fn by_default_a_silent_connection_is_found_out_within_fifteen_seconds() {
    let config = FeedConfig::default();
    assert!(config.idle_tick + config.deadline < Duration::from_secs(15));
}
