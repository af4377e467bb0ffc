//! A certificate that is renewed while the gateway runs, in every way in which files are replaced.

use std::{fs, os::unix::fs::symlink};

use futures::future::join_all;
use herald::edge::{TlsSettings, tls::CertificateFiles};
use rcgen::KeyPair;
use tokio::time::Instant;

use super::{Client, NAME, NO_DATABASE, Stage, der};
use crate::support::{
    authority::Issued,
    database::AT_MOST,
    gateway::{self, Gateway},
    scene::{Scene, content},
    wait_until,
};

/// Waits until whoever connects is shown this certificate.
async fn until_shown(client: &Client, gateway: &Gateway, issued: &Issued) {
    let deadline = Instant::now() + AT_MOST;
    while client.shown(gateway.address()).await != der(issued) {
        assert!(Instant::now() < deadline, "the new certificate is not shown");
    }
}

fn reloads(gateway: &Gateway, outcome: &str) -> f64 {
    gateway.metric(&format!("tls_reloads_total{{outcome=\"{outcome}\"}}"))
}

async fn gateway(settings: TlsSettings) -> Gateway {
    let mut config = gateway::config(NO_DATABASE);
    config.tls = Some(settings);
    Gateway::start_on("127.0.0.1:0".parse().unwrap(), config).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_while_a_hundred_sessions_receive_drops_none_and_loses_nothing() {
    const SESSIONS: usize = 100;
    const ROUNDS: u32 = 5;
    let stage = Stage::new();
    let scene: Scene<2> = Scene::with(|config| {
        stage.configure(config);
        config.sessions_per_user = SESSIONS;
    })
    .await;
    let (people, address) = (scene.people, scene.gateway.address());
    let client = stage.client();
    let sessions = (0..SESSIONS).map(|number| client.session(address, people[number % 2]));
    let mut sessions = join_all(sessions).await;
    for round in 1..=ROUNDS {
        let renewed = stage.authority.issue(&[NAME]);
        stage.install(&renewed);
        let write = async {
            // Messages are written before, while and after the certificate changes.
            let mut written = 0;
            while reloads(&scene.gateway, "loaded") < f64::from(round) || written < 10 {
                scene
                    .write(people[0], people[1], &format!("{round}.{written}"))
                    .await;
                written += 1;
            }
            written
        };
        let (written, ()) = tokio::join!(write, until_shown(&client, &scene.gateway, &renewed));
        let hear = sessions.iter_mut().map(async |(session, _)| {
            let (events, _) = session.events(written).await;
            for (number, event) in events.iter().enumerate() {
                assert_eq!(content(event), format!("{round}.{number}"));
            }
        });
        join_all(hear).await;
    }
    assert_eq!(scene.gateway.metric("sessions{protocol=\"native\"}"), 100.0);
    scene.gateway.stop().await;
}

#[tokio::test]
async fn files_may_be_replaced_in_any_way() {
    let stage = Stage::new();
    // As Kubernetes lays out a mounted secret: files that lead through a folder, which is exchanged.
    let mounted = |name: &str, issued: &Issued| {
        fs::create_dir(stage.path(name)).unwrap();
        fs::write(stage.path(name).join("tls.crt"), &issued.certificate).unwrap();
        fs::write(stage.path(name).join("tls.key"), &issued.key).unwrap();
        symlink(name, stage.path("..data_tmp")).unwrap();
        fs::rename(stage.path("..data_tmp"), stage.path("..data")).unwrap();
    };
    let issue = || stage.authority.issue(&[NAME]);
    let first = issue();
    mounted("..1", &first);
    for name in ["tls.crt", "tls.key"] {
        symlink(format!("..data/{name}"), stage.path(name)).unwrap();
    }
    let files = CertificateFiles {
        certificate: stage.path("tls.crt"),
        key: stage.path("tls.key"),
    };
    let mut settings = TlsSettings::open(files).unwrap();
    settings.look_every = stage.settings().look_every;
    let (gateway, client) = (gateway(settings).await, stage.client());
    until_shown(&client, &gateway, &first).await;

    let second = issue();
    mounted("..2", &second);
    fs::remove_dir_all(stage.path("..1")).unwrap();
    until_shown(&client, &gateway, &second).await;

    // Written over, the modification time of before included.
    let (third, written) = (
        issue(),
        fs::File::options()
            .read(true)
            .open(stage.path("tls.crt"))
            .unwrap(),
    );
    let modified = written.metadata().unwrap().modified().unwrap();
    for (name, text) in [("tls.crt", &third.certificate), ("tls.key", &third.key)] {
        fs::write(stage.path(name), text).unwrap();
        let file = fs::File::options().write(true).open(stage.path(name)).unwrap();
        file.set_modified(modified).unwrap();
    }
    until_shown(&client, &gateway, &third).await;

    // As certbot does it: a new version beside the old one, and a link that leads to it.
    let fourth = issue();
    for (name, text) in [("tls.crt", &fourth.certificate), ("tls.key", &fourth.key)] {
        let version = format!("{name}.4");
        fs::write(stage.path(&version), text).unwrap();
        symlink(version, stage.path("link")).unwrap();
        fs::rename(stage.path("link"), stage.path(name)).unwrap();
    }
    until_shown(&client, &gateway, &fourth).await;
    assert!(reloads(&gateway, "loaded") >= 3.0);
    gateway.stop().await;
}

#[tokio::test]
async fn a_pair_of_which_half_was_replaced_is_kept_away_until_the_other_half_comes() {
    let stage = Stage::new();
    let (gateway, client) = (gateway(stage.settings()).await, stage.client());
    let old = client.shown(gateway.address()).await;
    for key_first in [false, true] {
        let (shown, refused) = (
            client.shown(gateway.address()).await,
            reloads(&gateway, "refused"),
        );
        let renewed = stage.authority.issue(&[NAME]);
        let mut halves = [("cert.pem", &renewed.certificate), ("key.pem", &renewed.key)];
        if key_first {
            halves.reverse();
        }
        stage.replace(halves[0].0, halves[0].1);
        wait_until("it is refused", || reloads(&gateway, "refused") > refused).await;
        assert_eq!(client.shown(gateway.address()).await, shown);
        stage.replace(halves[1].0, halves[1].1);
        until_shown(&client, &gateway, &renewed).await;
        // Each state is told once, however often it is seen.
        assert_eq!(reloads(&gateway, "refused"), refused + 1.0);
    }
    assert_ne!(client.shown(gateway.address()).await, old);
    assert_eq!(reloads(&gateway, "loaded"), 2.0);
    gateway.stop().await;
}

#[tokio::test]
async fn a_bad_pair_is_kept_away_and_the_old_one_goes_on() {
    let stage = Stage::new();
    let (gateway, client) = (gateway(stage.settings()).await, stage.client());
    let old = client.shown(gateway.address()).await;
    let (good_certificate, good_key) = (
        fs::read_to_string(stage.path("cert.pem")).unwrap(),
        fs::read_to_string(stage.path("key.pem")).unwrap(),
    );
    let key = KeyPair::from_pem(&good_key).unwrap();
    let dated = |from: i32, until: i32| {
        stage.authority.issue_with(&[NAME], &key, |params| {
            params.not_before = rcgen::date_time_ymd(from, 1, 1);
            params.not_after = rcgen::date_time_ymd(until, 1, 1);
        })
    };
    let (ended, early) = (dated(2000, 2001), dated(2900, 2901));
    let bad: [&dyn Fn(); 6] = [
        &|| fs::remove_file(stage.path("key.pem")).unwrap(),
        &|| stage.replace("cert.pem", ""),
        &|| stage.replace("cert.pem", &good_certificate[..good_certificate.len() / 2]),
        &|| stage.replace("key.pem", "-----BEGIN PRIVATE KEY-----\n"),
        &|| stage.replace("cert.pem", &ended.certificate),
        &|| stage.replace("cert.pem", &early.certificate),
    ];
    for (number, spoil) in bad.iter().enumerate() {
        let refused = reloads(&gateway, "refused");
        spoil();
        wait_until(&format!("the bad pair number {number} is refused"), || {
            reloads(&gateway, "refused") > refused
        })
        .await;
        assert_eq!(client.shown(gateway.address()).await, old);
        assert_eq!(client.fetch(gateway.address(), "/healthz").await.status, 200);
        // The good one again, which is the one in service: nothing has to be done.
        stage.replace("cert.pem", &good_certificate);
        stage.replace("key.pem", &good_key);
    }
    assert_eq!(reloads(&gateway, "loaded"), 0.0);
    let renewed = stage.authority.issue(&[NAME]);
    stage.install(&renewed);
    until_shown(&client, &gateway, &renewed).await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_certificate_that_has_ended_is_served_all_the_same_and_replaced_by_any_other() {
    let stage = Stage::new();
    let key = KeyPair::generate().unwrap();
    let dated = |until: i32| {
        stage.authority.issue_with(&[NAME], &key, |params| {
            params.not_before = rcgen::date_time_ymd(2000, 1, 1);
            params.not_after = rcgen::date_time_ymd(until, 1, 1);
        })
    };
    stage.install(&dated(2001));
    let gateway = gateway(stage.settings()).await;
    let end = || gateway.metric("tls_certificate_expiry_timestamp_seconds{}");
    wait_until("its end is told", || end() == 978_307_200.0).await;
    stage.install(&dated(2002));
    wait_until("the next one is served", || end() == 1_009_843_200.0).await;
    let good = stage.authority.issue(&[NAME]);
    stage.install(&good);
    until_shown_eventually(&stage.client(), &gateway, &good).await;
    gateway.stop().await;
}

/// As [`until_shown`], where the one in service may be one that clients refuse.
async fn until_shown_eventually(client: &Client, gateway: &Gateway, issued: &Issued) {
    let deadline = Instant::now() + AT_MOST;
    while client.try_connect(gateway.address()).await.is_err() {
        assert!(Instant::now() < deadline, "the new certificate is not shown");
    }
    until_shown(client, gateway, issued).await;
}
