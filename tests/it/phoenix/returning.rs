//! Clients that go in every way in which one can go, and come back: nothing is lost, and what surely arrived is not told again.

use std::time::Duration;

use futures::future::join_all;
use herald::app::AppConfig;
use serde_json::{Value, json};

use super::{
    Door, INBOX, NO_PLACES, Phoenix, acknowledged, again, contents, handed_over, hears_nothing, inbox,
    inbox_of, join_of, nobody_is_left, received_by,
};
use crate::support::{
    gateway::{Gateway, config, metric_in},
    http,
    phoenix::{Came, Version},
    process::Process,
    scene::{Scene, write},
    supabase::signed,
    wait_until,
};

async fn stage() -> (Scene<3>, Door) {
    stage_with(|_| {}).await
}

async fn stage_with(change: impl FnOnce(&mut AppConfig)) -> (Scene<3>, Door) {
    let scene = Scene::with(change).await;
    let door = Door::new(scene.gateway.address());
    (scene, door)
}

/// How a client goes.
#[derive(Clone, Copy, Debug)]
enum Going {
    Closes,
    Drops,
    Resets,
}

impl Going {
    const ALL: [Self; 3] = [Self::Closes, Self::Drops, Self::Resets];

    async fn go(self, client: Phoenix) {
        match self {
            Self::Closes => drop(client.close().await),
            Self::Drops => drop(client),
            Self::Resets => drop(client.reset().await),
        }
    }
}

#[tokio::test]
async fn what_is_written_while_a_client_is_away_comes_once_and_in_order_however_it_went() {
    let (scene, door) = stage().await;
    let [alice, bob, _] = scene.people;
    for version in Version::BOTH {
        let door = door.clone().version(version);
        let mut client = inbox(&door, bob).await;
        for going in Going::ALL.into_iter().cycle().take(6) {
            scene.write(alice, bob, "before").await;
            assert_eq!(client.contents(INBOX, 1).await, ["before"]);
            // Its answer to the ping that followed stands before the one to this.
            client.settled().await;
            let reference = client.reference;
            going.go(client).await;
            nobody_is_left(&scene.gateway).await;
            for content in ["one", "two", "three"] {
                scene.write(alice, bob, content).await;
            }
            client = door.open().await.counting_from(reference);
            let joined = client.push_join(INBOX, &inbox_of(bob)).await;
            // Between the join and its answer.
            scene.write(alice, bob, "four").await;
            client.reply(&joined).await.response("ok");
            scene.write(alice, bob, "five").await;
            assert_eq!(
                client.contents(INBOX, 5).await,
                ["one", "two", "three", "four", "five"],
                "{going:?}"
            );
            client.live(INBOX).await;
            hears_nothing(&scene, &mut client).await;
        }
        client.close().await;
        nobody_is_left(&scene.gateway).await;
        scene.execute("delete from herald.channel").await;
    }
}

/// What a client has not acknowledged is told again; it may have arrived or not.
#[tokio::test]
async fn what_was_not_acknowledged_is_told_again() {
    let (scene, door) = stage().await;
    let [alice, bob, _] = scene.people;
    let mut client = inbox(&door, bob).await;
    scene.write(alice, bob, "acknowledged").await;
    assert_eq!(client.contents(INBOX, 1).await, ["acknowledged"]);
    client.settled().await;
    client.leave_pings_unanswered();
    scene.write(alice, bob, "perhaps").await;
    assert_eq!(client.contents(INBOX, 1).await, ["perhaps"]);
    let reference = client.reference;
    drop(client);
    nobody_is_left(&scene.gateway).await;
    let mut client = again(&door, bob, reference).await;
    assert_eq!(client.contents(INBOX, 1).await, ["perhaps"]);
    hears_nothing(&scene, &mut client).await;
}

#[tokio::test]
async fn a_gateway_that_is_drained_and_started_again_loses_and_doubles_nothing() {
    const CLIENTS: usize = 20;
    let (mut scene, door) = stage().await;
    let [alice, bob, _] = scene.people;
    let opened = (0..CLIENTS).map(|number| {
        let door = door
            .clone()
            .device(&number.to_string())
            .version(Version::BOTH[number % 2]);
        async move { (inbox(&door, bob).await, door) }
    });
    let mut clients = join_all(opened).await;
    let address = door.address;
    for round in 0..3 {
        // The drain begins in the middle of these.
        let writes = async {
            for number in 0..30 {
                write(&scene.application, alice, bob, &format!("{round} {number:02}")).await;
            }
        };
        let drained = async {
            wait_until("some have been written to all", || {
                scene.gateway.metric("events_delivered_total") >= 20.0
            })
            .await;
            scene.gateway.app.drain(Duration::from_secs(10)).await.unwrap();
        };
        let gone = join_all(clients.into_iter().map(async |(mut client, door)| {
            let (code, said) = client.closed().await;
            assert_eq!(code, 1001);
            (contents(&said), client.reference, door)
        }));
        let ((), (), gone) = tokio::join!(writes, drained, gone);
        scene.gateway = Gateway::start_on(address, config(&scene.database.url())).await;
        wait_until("the feed listens", || {
            scene.gateway.app.hub().position.settled().is_some()
        })
        .await;
        let expected: Vec<String> = (0..30).map(|number| format!("{round} {number:02}")).collect();
        clients = join_all(gone.into_iter().map(async |(heard, reference, door)| {
            let mut client = again(&door, bob, reference).await;
            let missed = client.contents(INBOX, expected.len() - heard.len()).await;
            assert_eq!([heard, missed].concat(), expected);
            (client, door)
        }))
        .await;
        handed_over(&scene.application, &scene.gateway).await;
        for (client, _) in &mut clients {
            client.no_more_changes().await;
        }
    }
}

/// What is heard until there were so many ends.
async fn until_the_end(client: &mut Phoenix, ends: usize) -> Vec<String> {
    let (mut told, mut ended) = (Vec::new(), 0);
    while ended < ends {
        let content = client.next(INBOX, "postgres_changes").await.content();
        if content == "the end" {
            ended += 1;
        } else {
            told.push(content);
        }
    }
    told
}

async fn serve(database: &str, bind: &str, more: &[(&str, &str)]) -> (Process, Door) {
    let process = Process::serve(database, &[&[("HERALD_BIND", bind)], more].concat());
    let door = Door::new(process.ready().await);
    (process, door)
}

/// Where each channel stood is written down once a second; what came since may be told again.
#[tokio::test]
async fn a_gateway_that_is_killed_loses_nothing_and_doubles_the_last_second_at_most() {
    const CLIENTS: usize = 10;
    let (scene, _) = stage().await;
    let [alice, bob, _] = scene.people;
    let url = scene.database.url();
    let (mut process, door) = serve(&url, "127.0.0.1:0", &[]).await;
    let doors: Vec<Door> = (0..CLIENTS)
        .map(|number| {
            door.clone()
                .device(&number.to_string())
                .version(Version::BOTH[number % 2])
        })
        .collect();
    let mut clients = join_all(doors.iter().map(|door| inbox(door, bob))).await;
    for number in 0..5 {
        scene.write(alice, bob, &format!("old {number}")).await;
    }
    for client in &mut clients {
        client.contents(INBOX, 5).await;
        client.settled().await;
    }
    // Two rounds more, of which the second one began after all that was acknowledged.
    let seen_at = "select seen_at::text from herald.gateway order by seen_at desc limit 1";
    for _ in 0..2 {
        let before: String = scene.application.query_one(seen_at, &[]).await.unwrap().get(0);
        crate::processes::until("another round of the gateway", async || {
            scene
                .application
                .query_one(seen_at, &[])
                .await
                .unwrap()
                .get::<_, String>(0)
                != before
        })
        .await;
    }
    // These reach the clients at the last moment, and some of them perhaps not.
    for number in 0..5 {
        scene.write(alice, bob, &format!("last {number}")).await;
    }
    process.signal("KILL");
    let mut gone = Vec::new();
    for mut client in clients {
        let mut heard = Vec::new();
        while let Came::Said(said) = client.came().await {
            heard.push(*said);
        }
        gone.push((contents(&heard), client.reference));
    }
    process.ended().await;
    for number in 0..5 {
        scene
            .write(alice, bob, &format!("while it was away {number}"))
            .await;
    }
    let (_process, _) = serve(&url, &door.address.to_string(), &[]).await;
    let mut expected: Vec<String> = Vec::new();
    for kind in ["last", "while it was away"] {
        expected.extend((0..5).map(|number| format!("{kind} {number}")));
    }
    let mut ends = 0;
    for (door, (heard, reference)) in doors.iter().zip(gone) {
        let mut client = again(door, bob, reference).await;
        scene.write(alice, bob, "the end").await;
        ends += 1;
        let told = until_the_end(&mut client, ends).await;
        // In order, and from where everything before has surely come.
        assert!(expected.ends_with(&told), "{told:?}");
        assert!(
            heard.len() + told.len() >= expected.len(),
            "{heard:?} and {told:?}"
        );
        assert_eq!(heard[..], expected[..heard.len()]);
    }
}

/// One row for all channels of a gateway is enough; that the gateway has gone for longer than the window is seen in it.
#[tokio::test]
async fn who_comes_back_after_the_window_is_told_nothing_of_before() {
    let (scene, door) = stage_with(|config| config.rejoin_window = Duration::from_secs(1)).await;
    let [alice, bob, _] = scene.people;
    let client = inbox(&door, bob).await;
    let reference = client.reference;
    client.close().await;
    nobody_is_left(&scene.gateway).await;
    scene.write(alice, bob, "missed").await;
    let parked = "select count(*) from herald.channel where parked_at > now() - interval '1 second'";
    crate::processes::until("the window to be over", async || {
        scene
            .application
            .query_one(parked, &[])
            .await
            .unwrap()
            .get::<_, i64>(0)
            == 0
            && scene
                .application
                .query_one("select count(*) from herald.channel", &[])
                .await
                .unwrap()
                .get::<_, i64>(0)
                > 0
    })
    .await;
    let mut client = again(&door, bob, reference).await;
    scene.write(alice, bob, "live").await;
    assert_eq!(client.contents(INBOX, 1).await, ["live"]);
    hears_nothing(&scene, &mut client).await;
}

#[tokio::test]
async fn who_missed_too_much_is_told_so_and_hears_what_is_live() {
    let (scene, door) = stage_with(|config| config.replay_events = 5).await;
    let [alice, bob, _] = scene.people;
    let client = inbox(&door, bob).await;
    let reference = client.reference;
    client.close().await;
    nobody_is_left(&scene.gateway).await;
    for _ in 0..6 {
        scene.write(alice, bob, "missed").await;
    }
    // What the feed has not read yet would come by the live stream.
    handed_over(&scene.application, &scene.gateway).await;
    let mut client = door.open().await.counting_from(reference);
    let joined = client.push_join(INBOX, &inbox_of(bob)).await;
    client.reply(&joined).await.response("ok");
    let system = client.next(INBOX, "system").await;
    assert_eq!(system.payload["status"], "error", "{}", system.text);
    assert_eq!(system.payload["extension"], "postgres_changes");
    assert!(
        system.payload["message"].as_str().unwrap().contains("too many"),
        "{}",
        system.text
    );
    client.live(INBOX).await;
    scene.write(alice, bob, "live").await;
    assert_eq!(client.contents(INBOX, 1).await, ["live"]);
    hears_nothing(&scene, &mut client).await;

    // It has been told once, and what it misses from now on is counted from here.
    client.settled().await;
    let reference = client.reference;
    client.close().await;
    nobody_is_left(&scene.gateway).await;
    scene.write(alice, bob, "one").await;
    let mut client = again(&door, bob, reference).await;
    assert_eq!(client.contents(INBOX, 1).await, ["one"]);
    hears_nothing(&scene, &mut client).await;
}

/// A token with the claim that tells one sign-in from another.
fn inbox_of_session(user: herald::types::UserId, session: &str) -> Value {
    let claims = json!({"sub": user.to_string(), "role": "authenticated", "exp": 4_000_000_000_u64, "session_id": session});
    join_of(&[received_by(user)], Some(&signed(&claims)))
}

#[tokio::test]
async fn devices_that_are_told_apart_each_get_exactly_their_own() {
    let (scene, door) = stage().await;
    let [alice, bob, _] = scene.people;
    let by_parameter = ["phone", "desk"].map(|device| (door.clone().device(device), inbox_of(bob)));
    let by_claim = ["s1", "s2"].map(|session| (door.clone(), inbox_of_session(bob, session)));
    for devices in [by_parameter, by_claim] {
        let open = async |index: usize, reference: u64| {
            let (door, payload) = &devices[index];
            let mut client = door.open().await.counting_from(reference);
            client.join_live(INBOX, payload).await;
            client
        };
        // The references cross, which alone would tell them apart wrongly.
        let (mut first, mut second) = (open(0, 100).await, open(1, 1).await);
        for round in 0..3 {
            for client in [&mut first, &mut second] {
                client.settled().await;
            }
            let reference = first.reference;
            first.close().await;
            scene.write(alice, bob, &format!("{round} one")).await;
            assert_eq!(second.contents(INBOX, 1).await, [format!("{round} one")]);
            second.settled().await;
            let other = second.reference;
            second.close().await;
            nobody_is_left(&scene.gateway).await;
            scene.write(alice, bob, &format!("{round} two")).await;
            second = open(1, other).await;
            assert_eq!(second.contents(INBOX, 1).await, [format!("{round} two")]);
            first = open(0, reference).await;
            assert_eq!(
                first.contents(INBOX, 2).await,
                [format!("{round} one"), format!("{round} two")]
            );
            hears_nothing(&scene, &mut first).await;
            hears_nothing(&scene, &mut second).await;
        }
        first.close().await;
        second.close().await;
        nobody_is_left(&scene.gateway).await;
    }
}

#[tokio::test]
async fn a_client_that_comes_back_to_another_gateway_is_told_what_it_missed_there() {
    let (scene, door) = stage().await;
    let [alice, bob, _] = scene.people;
    let other = Gateway::start(&scene.database.url()).await;
    let doors = [door, Door::new(other.address())];
    let mut client = inbox(&doors[0], bob).await;
    for round in 0..6 {
        client.settled().await;
        let reference = client.reference;
        client.close().await;
        nobody_is_left([&scene.gateway, &other][round % 2]).await;
        scene.write(alice, bob, &format!("{round} missed")).await;
        client = again(&doors[(round + 1) % 2], bob, reference).await;
        scene.write(alice, bob, &format!("{round} live")).await;
        assert_eq!(
            client.contents(INBOX, 2).await,
            [format!("{round} missed"), format!("{round} live")]
        );
        client.no_more_changes().await;
    }
    other.stop().await;
}

/// A client that reads nothing is closed, and what it had not read is told when it returns.
#[tokio::test]
async fn a_client_that_reads_too_slowly_is_closed_and_misses_nothing() {
    /// Written by one statement, and far fewer than the outbox holds.
    const ROWS: usize = 20;
    let (scene, door) = stage_with(|config| {
        config.outbox_bytes = 256 * 1024;
        config.replay_events = 10_000;
    })
    .await;
    let [alice, bob, _] = scene.people;
    let mut client = inbox(&door, bob).await;
    scene.write(alice, bob, "0").await;
    assert_eq!(client.contents(INBOX, 1).await, ["0"]);
    client.settled().await;
    let reference = client.reference;
    client.stop_reading();
    let mut expected = Vec::new();
    while scene.gateway.metric("outbox_overflows_total") < 1.0 {
        let first = expected.len();
        scene
            .execute(&format!(
                "insert into messages (sender_id, receiver_id, content) \
                 select '{alice}', '{bob}', number || repeat(' ', 3000) || '.' \
                 from generate_series({first}, {first} + {ROWS} - 1) as number"
            ))
            .await;
        expected.extend((first..first + ROWS).map(|number| format!("{number}{:3000}.", "")));
        handed_over(&scene.application, &scene.gateway).await;
        assert!(expected.len() < 8_000, "it is never closed");
    }
    client.read_on();
    let mut heard = Vec::new();
    loop {
        match client.came().await {
            Came::Said(said) => heard.push(*said),
            Came::Closed(code) => {
                assert_eq!(code, 4008);
                break;
            }
            Came::Ended => panic!("without a word"),
        }
    }
    nobody_is_left(&scene.gateway).await;
    let heard = contents(&heard);
    assert_eq!(heard[..], expected[..heard.len()]);
    let mut client = again(&door, bob, reference).await;
    scene.write(alice, bob, "the end").await;
    let told = until_the_end(&mut client, 1).await;
    assert!(expected.ends_with(&told));
    assert!(
        heard.len() + told.len() >= expected.len(),
        "{} and {} of {}",
        heard.len(),
        told.len(),
        expected.len()
    );
}

/// The database answers where a channel stood, and not what it missed: then the channel fails, and its client is told
/// everything when it joins again, on the same connection.
#[tokio::test]
async fn a_join_that_fails_for_the_database_takes_nothing_away_from_the_next() {
    let (scene, door) = stage().await;
    let [alice, bob, _] = scene.people;
    let mut client = inbox(&door, bob).await;
    client.settled().await;
    let reference = client.reference;
    client.close().await;
    nobody_is_left(&scene.gateway).await;
    scene.write(alice, bob, "missed").await;
    handed_over(&scene.application, &scene.gateway).await;
    // One that has told it remembers it; another one has to ask.
    let other = Gateway::start(&scene.database.url()).await;
    scene
        .execute("alter function herald.epoch() rename to epoch_away")
        .await;
    let mut client = Door::new(other.address()).open().await.counting_from(reference);
    for _ in 0..2 {
        client.join(INBOX, &inbox_of(bob)).await.response("ok");
        let system = client.next(INBOX, "system").await;
        assert_eq!(system.payload["status"], "error", "{}", system.text);
        client.next(INBOX, "phx_error").await;
    }
    scene
        .execute("alter function herald.epoch_away() rename to epoch")
        .await;
    client.join_live(INBOX, &inbox_of(bob)).await;
    assert_eq!(client.contents(INBOX, 1).await, ["missed"]);
    hears_nothing(&scene, &mut client).await;
}

/// It has been told that it has joined, and so misses nothing from there on, although nobody could say where it had stood.
#[tokio::test]
async fn a_channel_whose_connection_breaks_while_it_waits_for_its_place_is_told_what_came_meanwhile() {
    let (scene, door) = stage().await;
    let [alice, bob, _] = scene.people;
    let lock = scene.database.connect().await;
    lock.batch_execute(NO_PLACES).await.unwrap();
    let mut client = door.open().await;
    let topics = ["realtime:one", "realtime:other"];
    for topic in topics {
        client.join(topic, &inbox_of(bob)).await.response("ok");
    }
    let reference = client.reference;
    drop(client);
    wait_until("the session has left", || scene.gateway.metric("users") == 0.0).await;
    scene.write(alice, bob, "meanwhile").await;
    handed_over(&scene.application, &scene.gateway).await;
    lock.batch_execute("rollback").await.unwrap();
    wait_until("both channels are parked", || {
        scene.gateway.metric("parked_total") == 2.0
    })
    .await;
    let mut client = door.open().await.counting_from(reference);
    for topic in topics {
        client.join_live(topic, &inbox_of(bob)).await;
        assert_eq!(client.contents(topic, 1).await, ["meanwhile"]);
    }
    hears_nothing(&scene, &mut client).await;
}

#[tokio::test]
async fn what_arrived_is_counted_once() {
    let (scene, door) = stage().await;
    let [alice, bob, _] = scene.people;
    let mut client = inbox(&door, bob).await;
    for number in 0..10 {
        scene.write(alice, bob, &number.to_string()).await;
    }
    client.contents(INBOX, 10).await;
    acknowledged(&scene.gateway, 10).await;
    let page = http::fetch(door.address, "/metrics").await.body;
    for name in ["events_acknowledged_total", "events_delivered_total"] {
        assert_eq!(metric_in(&page, name), 10.0, "{name}");
    }
}
