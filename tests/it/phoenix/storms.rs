//! Writers in every way in which applications write, and clients that come and go meanwhile: nothing is lost, and nothing comes
//! twice that was acknowledged.

use std::{collections::BTreeMap, time::Duration};

use futures::future::join_all;
use herald::{tasks::Tasks, types::UserId};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{Door, handed_over, join_of};
use crate::support::{
    database::AT_MOST,
    gateway::token,
    phoenix::{Phoenix, Said, Version},
    scene::{Scene, write},
    writers,
};

/// Clients that come and go all the time.
const CLIENTS: usize = 20;
/// Clients that come back at once.
const CROWD: usize = 300;
const WRITERS: u64 = 4;
const TRANSACTIONS: usize = 60;
const SEED: u64 = 0x5eed_ab1e;

/// Messages of one connection, whose order everybody knows.
const ORDERED: &str = "in order ";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Going {
    /// By a close frame, in a moment in which everything is acknowledged.
    Cleanly,
    /// By a reset at any moment.
    Hard,
}

/// One client that comes and goes.
struct Device {
    door: Door,
    topic: String,
    user: UserId,
    random: StdRng,
    reference: u64,
    /// Message and kind of each change that came.
    heard: Vec<(String, String)>,
    /// Contents of the ordered ones, as they came.
    ordered: Vec<String>,
    came_back: usize,
}

impl Device {
    fn new(door: Door, topic: String, user: UserId, number: usize) -> Self {
        Self {
            door,
            topic,
            user,
            random: StdRng::seed_from_u64(SEED ^ number as u64),
            reference: 0,
            heard: Vec::new(),
            ordered: Vec::new(),
            came_back: 0,
        }
    }

    fn payload(&self) -> serde_json::Value {
        join_of(
            &[json!({"event": "*", "schema": "public", "table": "messages"})],
            Some(&token(self.user)),
        )
    }

    fn note(&mut self, said: &[Said]) {
        for said in said.iter().filter(|said| said.event == "postgres_changes") {
            let data = &said.payload["data"];
            let kind = data["type"].as_str().unwrap().to_owned();
            let row = if kind == "DELETE" {
                &data["old_record"]
            } else {
                &data["record"]
            };
            self.heard
                .push((row["id"].as_str().unwrap().to_owned(), kind.clone()));
            if let Some(content) = row["content"].as_str()
                && let Some(number) = content.strip_prefix(ORDERED)
                && kind == "INSERT"
            {
                self.ordered.push(number.to_owned());
            }
        }
    }

    async fn connect(&mut self) -> Phoenix {
        let mut client = self.door.open().await.counting_from(self.reference);
        let payload = self.payload();
        client.push_join(&self.topic, &payload).await;
        client
    }

    async fn leave(&mut self, client: Phoenix, going: Going) {
        self.reference = client.reference;
        let said = match going {
            Going::Cleanly => client.close().await,
            Going::Hard => client.reset().await,
        };
        self.note(&said);
    }

    /// Comes and goes until it is enough; it is connected when it is done.
    async fn run(&mut self, mut client: Phoenix, going: Going, enough: CancellationToken) -> Phoenix {
        while !enough.is_cancelled() {
            let stay = Duration::from_millis(self.random.random_range(0..250));
            let _enough = tokio::time::timeout(stay, enough.cancelled()).await;
            self.leave(client, going).await;
            // A client's own pause, and nothing that is waited for.
            sleep(Duration::from_millis(self.random.random_range(0..60))).await;
            client = self.connect().await;
            self.came_back += 1;
        }
        client
    }

    /// Goes on until as much has come as was written.
    async fn finish(&mut self, client: &mut Phoenix, expected: &BTreeMap<(String, String), usize>) {
        let deadline = Instant::now() + AT_MOST;
        loop {
            let said = client.rest("postgres_changes").await;
            self.note(&said);
            let heard = counted(&self.heard);
            if expected
                .iter()
                .all(|(change, count)| heard.get(change).is_some_and(|heard| heard >= count))
            {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{} of {} changes came, and {} are missing",
                heard.len(),
                expected.len(),
                expected
                    .keys()
                    .filter(|change| !heard.contains_key(change))
                    .count()
            );
            sleep(Duration::from_millis(20)).await;
        }
    }
}

fn counted(changes: &[(String, String)]) -> BTreeMap<(String, String), usize> {
    let mut counted = BTreeMap::new();
    for change in changes {
        *counted.entry(change.clone()).or_default() += 1;
    }
    counted
}

/// Every change of the log that concerns a user.
async fn logged<const PEOPLE: usize>(
    scene: &Scene<PEOPLE>,
    user: UserId,
) -> BTreeMap<(String, String), usize> {
    let rows = scene
        .application
        .query(
            "select message_id::text, case op when 'i' then 'INSERT' when 'u' then 'UPDATE' else 'DELETE' end \
             from herald.log where $1 in (sender_id, receiver_id)",
            &[&user.0],
        )
        .await
        .unwrap();
    counted(
        &rows
            .iter()
            .map(|row| (row.get(0), row.get(1)))
            .collect::<Vec<_>>(),
    )
}

fn devices(scene: &Scene<4>) -> Vec<Device> {
    let one = |number: usize| {
        let door = Door::new(scene.gateway.address()).version(Version::BOTH[number % 2]);
        // Half of them are told apart by their names, and half by their topics.
        let (door, topic) = match number % 4 {
            0 | 1 => (
                door.device(&format!("device-{number}")),
                "realtime:all".to_owned(),
            ),
            _ => (door, format!("realtime:all {number}")),
        };
        Device::new(door, topic, scene.people[number % scene.people.len()], number)
    };
    (0..CLIENTS).map(one).collect()
}

/// Connects all of them, until what is written from here on is known to be theirs.
async fn connected(devices: &mut [Device]) -> Vec<Phoenix> {
    let opened = devices.iter_mut().map(async |device| {
        let mut client = device.connect().await;
        client.live(&device.topic).await;
        client.settled().await;
        client
    });
    join_all(opened).await
}

/// Writes in all ways, and in an order that everybody knows, until all of it is written.
async fn write_all(scene: &Scene<4>) {
    let (writing, people) = (Tasks::new(), scene.people);
    let ids = people.map(|person| person.0);
    writers::start(&writing, &scene.database.url(), &ids, WRITERS, TRANSACTIONS, SEED);
    let mut number = 0;
    while number < 100 || writing.running().contains_key("writer") {
        let [sender, receiver] = [number, number + 1].map(|index| people[index % people.len()]);
        let content = format!("{ORDERED}{number:06}");
        write(&scene.application, sender, receiver, &content).await;
        number += 1;
        // A writer's own pace.
        sleep(Duration::from_millis(5)).await;
    }
    writing.finish(AT_MOST).await.expect("the writers did not end");
}

/// The first time that each of these came, in the order in which they came.
fn firsts(contents: &[String]) -> Vec<&String> {
    let mut firsts: Vec<&String> = Vec::new();
    for content in contents {
        if !firsts.contains(&content) {
            firsts.push(content);
        }
    }
    firsts
}

async fn storm(going: Going) {
    let scene = Scene::<4>::new().await;
    let mut devices = devices(&scene);
    let clients = connected(&mut devices).await;
    let enough = CancellationToken::new();
    let writing = async {
        write_all(&scene).await;
        enough.cancel();
    };
    let coming_and_going = join_all(
        devices
            .iter_mut()
            .zip(clients)
            .map(|(device, client)| device.run(client, going, enough.clone())),
    );
    let ((), mut clients) = tokio::join!(writing, coming_and_going);
    for (device, client) in devices.iter_mut().zip(&mut clients) {
        let expected = logged(&scene, device.user).await;
        assert!(expected.len() > 100, "{} changes are no storm", expected.len());
        device.finish(client, &expected).await;
        let times = device.came_back;
        assert!(times > 5, "it came back {times} times only");
    }
    handed_over(&scene.application, &scene.gateway).await;
    let mut doubled = 0;
    for (device, client) in devices.iter_mut().zip(&mut clients) {
        device.note(&client.rest("postgres_changes").await);
        let (expected, heard) = (logged(&scene, device.user).await, counted(&device.heard));
        assert!(
            heard.keys().eq(expected.keys()),
            "something else came than was logged"
        );
        doubled += heard.values().sum::<usize>() - expected.values().sum::<usize>();
        if going == Going::Cleanly {
            assert_eq!(heard, expected, "something came twice");
            assert!(device.ordered.is_sorted(), "{:?}", device.ordered);
        } else {
            let firsts = firsts(&device.ordered);
            assert!(firsts.is_sorted(), "{firsts:?}");
        }
    }
    let unacknowledged =
        scene.gateway.metric("events_delivered_total") - scene.gateway.metric("events_acknowledged_total");
    assert!(
        f64::from(u32::try_from(doubled).unwrap()) <= unacknowledged,
        "{doubled} came twice, and {unacknowledged} were not acknowledged"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_close_and_come_back_miss_nothing_and_hear_nothing_twice() {
    storm(Going::Cleanly).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_are_cut_off_miss_nothing_and_hear_nothing_twice_that_was_acknowledged() {
    storm(Going::Hard).await;
}

/// Hundreds who go in one moment and come back in the next, as after a restart of a proxy, while messages are written.
async fn crowd(going: Going) {
    let scene = Scene::<10>::with(|config| config.sessions_per_user = CROWD).await;
    let people = scene.people;
    let mut devices: Vec<Device> = (0..CROWD)
        .map(|number| {
            let door = Door::new(scene.gateway.address())
                .version(Version::BOTH[number % 2])
                .device(&format!("device-{number}"));
            Device::new(
                door,
                "realtime:all".to_owned(),
                people[number % people.len()],
                number,
            )
        })
        .collect();
    let mut clients = connected(&mut devices).await;
    for round in 0..3 {
        let writes = async {
            for (number, sender) in people.into_iter().enumerate() {
                let receiver = people[(number + 1) % people.len()];
                let content = format!("{ORDERED}{round}{number}");
                write(&scene.application, sender, receiver, &content).await;
            }
        };
        let returns = join_all(devices.iter_mut().zip(clients).map(async |(device, client)| {
            device.leave(client, going).await;
            device.connect().await
        }));
        ((), clients) = tokio::join!(writes, returns);
    }
    for (device, client) in devices.iter_mut().zip(&mut clients) {
        let expected = logged(&scene, device.user).await;
        assert_eq!(expected.len(), 6);
        device.finish(client, &expected).await;
    }
    handed_over(&scene.application, &scene.gateway).await;
    for (device, client) in devices.iter_mut().zip(&mut clients) {
        device.note(&client.rest("postgres_changes").await);
        let (expected, heard) = (logged(&scene, device.user).await, counted(&device.heard));
        match going {
            Going::Cleanly => assert_eq!(heard, expected),
            Going::Hard => assert!(heard.keys().eq(expected.keys())),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_who_close_and_come_back_at_once_miss_nothing_and_hear_nothing_twice() {
    crowd(Going::Cleanly).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_who_are_cut_off_and_come_back_at_once_miss_nothing() {
    crowd(Going::Hard).await;
}
