//! Writers in every way in which applications write, and clients that come and go meanwhile: nothing is lost, and nothing comes
//! twice that was acknowledged.

use std::{collections::BTreeMap, time::Duration};

use futures::future::join_all;
use herald::{tasks::Tasks, types::UserId};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{Door, handed_over, join_of, write};
use crate::support::{
    database::AT_MOST,
    gateway::token,
    phoenix::{Phoenix, Said, Version},
    scene::Scene,
    writers,
};

const CLIENTS: usize = 20;
const WRITERS: u64 = 4;
const TRANSACTIONS: usize = 120;
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

    /// Comes and goes until it is enough; it is connected when it is done.
    async fn run(&mut self, mut client: Phoenix, going: Going, enough: CancellationToken) -> Phoenix {
        while !enough.is_cancelled() {
            let stay = Duration::from_millis(self.random.random_range(0..250));
            let _enough = tokio::time::timeout(stay, enough.cancelled()).await;
            self.reference = client.reference;
            let said = match going {
                Going::Cleanly => client.close().await,
                Going::Hard => client.reset().await,
            };
            self.note(&said);
            // A client's own pause, and nothing that is waited for. Supabase's clients come back after a second at the earliest; this
            // is longer than it takes to note where the channel stood.
            sleep(Duration::from_millis(self.random.random_range(150..300))).await;
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

impl Device {
    /// Checks what came against what was written, and answers with how much came more than once.
    fn check(&self, expected: &BTreeMap<(String, String), usize>, going: Going) -> f64 {
        let heard = counted(&self.heard);
        assert!(
            heard.keys().eq(expected.keys()),
            "something else came than was logged"
        );
        if going == Going::Cleanly {
            assert_eq!(heard, *expected, "something came twice");
            assert!(self.ordered.is_sorted(), "{:?}", self.ordered);
        }
        // The first time that each of them came.
        let mut firsts: Vec<&String> = Vec::new();
        for number in &self.ordered {
            if !firsts.contains(&number) {
                firsts.push(number);
            }
        }
        assert!(firsts.is_sorted(), "{firsts:?}");
        let surplus = heard.values().sum::<usize>() - expected.values().sum::<usize>();
        f64::from(u32::try_from(surplus).unwrap())
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
async fn logged(scene: &Scene<4>, user: UserId) -> BTreeMap<(String, String), usize> {
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

/// Half of the devices are told apart by their names, and half by their topics.
fn devices(scene: &Scene<4>) -> Vec<Device> {
    let device = |number: usize| {
        let door = Door::new(scene.gateway.address()).version(Version::BOTH[number % 2]);
        let (door, topic) = match number % 4 {
            0 | 1 => (
                door.device(&format!("device-{number}")),
                "realtime:all".to_owned(),
            ),
            _ => (door, format!("realtime:all {number}")),
        };
        Device {
            door,
            topic,
            user: scene.people[number % scene.people.len()],
            random: StdRng::seed_from_u64(SEED ^ number as u64),
            reference: 0,
            heard: Vec::new(),
            ordered: Vec::new(),
            came_back: 0,
        }
    };
    (0..CLIENTS).map(device).collect()
}

/// Writes messages one after the other for as long as the writers write.
async fn write_in_order(scene: &Scene<4>, writing: &Tasks) {
    let mut number = 0;
    while number < 100 || writing.running().contains_key("writer") {
        let [sender, receiver] = [number % 4, (number + 1) % 4].map(|index| scene.people[index]);
        let content = format!("{ORDERED}{number:06}");
        write(&scene.application, sender, receiver, &content).await;
        number += 1;
        sleep(Duration::from_millis(5)).await;
    }
    writing.finish(AT_MOST).await.expect("the writers did not end");
}

async fn storm(going: Going) {
    let scene = Scene::<4>::new().await;
    let mut devices = devices(&scene);
    let mut clients = Vec::new();
    for device in &mut devices {
        let mut client = device.connect().await;
        client.live(&device.topic).await;
        // That it is live is proved by now: what is written from here on is the client's.
        client.settled().await;
        clients.push(client);
    }
    let (writing, enough) = (Tasks::new(), CancellationToken::new());
    let ids = scene.people.map(|person| person.0);
    writers::start(&writing, &scene.database.url(), &ids, WRITERS, TRANSACTIONS, SEED);
    let ordered = async {
        write_in_order(&scene, &writing).await;
        enough.cancel();
    };
    let coming_and_going = join_all(
        devices
            .iter_mut()
            .zip(clients)
            .map(|(device, client)| device.run(client, going, enough.clone())),
    );
    let ((), mut clients) = tokio::join!(ordered, coming_and_going);
    for (device, client) in devices.iter_mut().zip(&mut clients) {
        let expected = logged(&scene, device.user).await;
        assert!(expected.len() > 100, "{} changes are no storm", expected.len());
        device.finish(client, &expected).await;
        let came_back = device.came_back;
        assert!(came_back > 3, "it came back {came_back} times only");
    }
    handed_over(&scene.application, &scene.gateway).await;
    let mut doubled = 0.0;
    for (device, client) in devices.iter_mut().zip(&mut clients) {
        let said = client.rest("postgres_changes").await;
        device.note(&said);
        doubled += device.check(&logged(&scene, device.user).await, going);
    }
    let gateway = &scene.gateway;
    let unacknowledged =
        gateway.metric("events_delivered_total") - gateway.metric("events_acknowledged_total");
    assert!(
        doubled <= unacknowledged,
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
