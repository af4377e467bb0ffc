//! A network between the gateway and Postgres that goes silent without closing anything: packets vanish, as behind a
//! firewall that forgot its connections. The feed has to find that out by itself.

use std::time::Duration;

use herald::{feed::FeedConfig, postgres::Settings};

use crate::support::{
    gateway::{Gateway, as_gateway, config, token},
    network::Network,
    scene::{Scene, content},
    socket::Socket,
    wait_until,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_falls_silent_is_found_out_and_nothing_is_lost() {
    let scene = Scene::<1>::new().await;
    let [alice] = scene.people;
    let url = scene.database.url();
    let (network, through) = Network::before_database(&as_gateway(&url)).await;
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
        network.lose();
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
}

#[test]
fn by_default_a_silent_connection_is_found_out_within_fifteen_seconds() {
    let config = FeedConfig::default();
    assert!(config.idle_tick + config.deadline < Duration::from_secs(15));
}
