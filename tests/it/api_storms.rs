//! The promise over HTTP: who loads and connects with the cursor of the answer misses nothing and gets nothing twice, and who
//! repeats a send until it is answered has sent one message.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::future::join_all;
use herald::{
    protocol::{cursor::Cursor, snapshot::Transaction},
    tasks::Tasks,
    types::UserId,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::{
    caller::Caller,
    cutter::Cutter,
    gateway::token,
    scene::{Scene, content},
    socket::Socket,
};

/// People who load and connect, side by side.
const LOADERS: usize = 4;

/// How often each of them does.
const ROUNDS: usize = 250;

/// Connections that write.
const WRITERS: u64 = 4;

/// Messages of one pair of people, so that a page of 200 holds all of a conversation.
const ROOM: usize = 180;

/// Room for the messages of one round; a pair with less is left for a fresh one.
const ROOM_FOR_A_ROUND: usize = 60;

/// The writers add to the conversations of these. Each loader has its place.
type Pairs = Arc<Mutex<[Option<Arc<Pair>>; LOADERS]>>;

/// Two people, with a conversation about a product and one about none.
struct Pair {
    me: Uuid,
    other: Uuid,
    product: Uuid,
    room: AtomicUsize,
}

impl Pair {
    async fn fresh(client: &Client) -> Self {
        let statement = "insert into profiles (username) \
             select gen_random_uuid()::text from generate_series(1, 2) returning id";
        let people = client.query(statement, &[]).await.unwrap();
        let statement = "insert into products (title, price) values ('a thing', 1) returning id";
        Self {
            me: people[0].get(0),
            other: people[1].get(0),
            product: client.query_one(statement, &[]).await.unwrap().get(0),
            room: AtomicUsize::new(ROOM),
        }
    }

    /// Whether there is room for one more message.
    fn take(&self) -> bool {
        let less = |room: usize| room.checked_sub(1);
        self.room
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
            .is_ok()
    }

    /// All inserts of this pair that the log has.
    async fn logged(&self, client: &Client) -> Vec<Logged> {
        let statement = "select message_id, life, xid::text, receiver_id, product_id from herald.log \
             where op = 'i' and ((sender_id, receiver_id) = ($1, $2) or (sender_id, receiver_id) = ($2, $1))";
        let rows = client.query(statement, &[&self.me, &self.other]).await.unwrap();
        rows.iter()
            .map(|row| Logged {
                message: row.get(0),
                transaction: Transaction {
                    life: row.get::<_, i64>(1).try_into().unwrap(),
                    xid: row.get::<_, &str>(2).parse().unwrap(),
                },
                receiver: row.get(3),
                product: row.get(4),
            })
            .collect()
    }
}

struct Logged {
    message: Uuid,
    transaction: Transaction,
    receiver: Uuid,
    product: Option<Uuid>,
}

/// What happened in the rounds, so that it is known that something was tested.
#[derive(Default)]
struct Happened {
    loaded: usize,
    heard: usize,
    with_open_transactions: usize,
}

/// Writes until it is told to stop: one or two messages a transaction, which stays open for some milliseconds.
async fn write(client: Client, pairs: Pairs, seed: u64, enough: CancellationToken) {
    let mut random = StdRng::seed_from_u64(seed);
    while !enough.is_cancelled() {
        client.batch_execute("begin").await.unwrap();
        for _ in 0..random.random_range(1..=2) {
            let pair = pairs.lock().unwrap()[random.random_range(0..LOADERS)].clone();
            let Some(pair) = pair.filter(|pair| pair.take()) else {
                continue;
            };
            let (from, to) = if random.random() {
                (pair.me, pair.other)
            } else {
                (pair.other, pair.me)
            };
            let product = random.random::<bool>().then_some(pair.product);
            let statement = "insert into messages (sender_id, receiver_id, product_id, content) values ($1, $2, $3, 'hello')";
            client.execute(statement, &[&from, &to, &product]).await.unwrap();
            // The transaction is open for a while, as one of an application that does other things too.
            tokio::time::sleep(Duration::from_millis(random.random_range(0..8))).await;
        }
        client.batch_execute("commit").await.unwrap();
    }
}

/// One who loads and connects, again and again.
struct Loader<'a> {
    scene: &'a Scene<0>,
    client: Client,
    pairs: Pairs,
    place: usize,
    happened: Happened,
}

impl Loader<'_> {
    async fn run(mut self) -> Happened {
        let mut current: Option<(Arc<Pair>, Caller)> = None;
        for round in 0..ROUNDS {
            current = current.filter(|(pair, _)| pair.room.load(Ordering::Relaxed) >= ROOM_FOR_A_ROUND);
            if current.is_none() {
                let pair = Arc::new(Pair::fresh(&self.client).await);
                self.pairs.lock().unwrap()[self.place] = Some(Arc::clone(&pair));
                let caller = Caller::new(self.scene.gateway.address(), UserId(pair.me));
                current = Some((pair, caller));
            }
            let (pair, caller) = current.as_mut().unwrap();
            self.round(pair, caller, round).await;
        }
        self.happened
    }

    async fn round(&mut self, pair: &Pair, caller: &mut Caller, round: usize) {
        let conversation = format!("/v1/conversations/{}__general/messages", pair.other);
        let lists = round.is_multiple_of(2);
        let target = if lists { "/v1/conversations" } else { &conversation };
        let (status, page) = caller.get(&format!("{target}?limit=200")).await.unwrap();
        assert_eq!(status, 200, "{page}");
        assert!(page["next"].is_null(), "a page holds all: {page}");
        let cursor = page["cursor"].as_str().unwrap();
        let position: Cursor = cursor.parse().unwrap();
        self.happened.with_open_transactions += usize::from(!position.snapshot.in_progress().is_empty());
        let me = token(UserId(pair.me));
        let (mut socket, ready) = Socket::connect(self.scene.gateway.address(), &me, Some(cursor)).await;
        assert_eq!(ready["resumed"], true, "{ready}");
        let before = pair.logged(&self.client).await;

        // All that was committed before this message is heard before it.
        let last = Uuid::new_v4();
        // If the writers have left no room, a page still has some, and the next round has a fresh pair.
        pair.take();
        let body = json!({"id": last, "content": "the last one of this round"});
        let (status, sent) = caller.post(&conversation, &body).await.unwrap();
        assert_eq!(status, 201, "{sent}");
        let (heard, cursor) = hear_until(&mut socket, last).await;
        let distinct: BTreeSet<Uuid> = heard.iter().copied().collect();
        assert_eq!(distinct.len(), heard.len(), "heard more than once: {heard:?}");
        let rows = pair.logged(&self.client).await;
        let up_to_cursor = || rows.iter().filter(|row| cursor.snapshot.sees(row.transaction));
        if lists {
            // The list tells how many were received, since nobody has read any, and which conversations there are.
            let unread = unread(&page);
            let missing = up_to_cursor().filter(|row| !distinct.contains(&row.message));
            let loaded: Vec<_> = missing.collect();
            let received = loaded.iter().filter(|row| row.receiver == pair.me).count();
            assert_eq!(unread.values().sum::<u64>(), received as u64, "{page}");
            let shown: BTreeSet<_> = loaded.iter().map(|row| row.product).collect();
            assert!(unread.keys().eq(shown.iter()), "{page}");
            assert!(
                up_to_cursor().count() == loaded.len() + heard.len(),
                "heard what is not there"
            );
            self.happened.loaded += loaded.len();
        } else {
            let loaded: Vec<Uuid> = ids(page["messages"].as_array().unwrap());
            let about: BTreeMap<_, _> = rows.iter().map(|row| (row.message, row.product)).collect();
            let heard_here = heard.iter().filter(|id| about[*id].is_none());
            let mut all: Vec<Uuid> = loaded.iter().chain(heard_here).copied().collect();
            all.sort_unstable();
            let here = up_to_cursor().filter(|row| row.product.is_none());
            let mut expected: Vec<Uuid> = here.map(|row| row.message).collect();
            expected.sort_unstable();
            assert_eq!(all, expected, "loaded {loaded:?}, heard {heard:?}");
            let committed = before.iter().filter(|row| row.product.is_none());
            for row in committed {
                assert!(
                    all.binary_search(&row.message).is_ok(),
                    "{} is missing",
                    row.message
                );
            }
            self.happened.loaded += loaded.len();
        }
        self.happened.heard += heard.len() - 1;
    }
}

/// The number of unread messages of each conversation, by product.
fn unread(page: &Value) -> BTreeMap<Option<Uuid>, u64> {
    let listed = page["conversations"].as_array().unwrap().iter();
    listed
        .map(|conversation| {
            let product = conversation["product_id"].as_str();
            let product = product.map(|product| product.parse().unwrap());
            (product, conversation["unread_count"].as_u64().unwrap())
        })
        .collect()
}

fn ids(messages: &[Value]) -> Vec<Uuid> {
    let id = |message: &Value| message["id"].as_str().unwrap().parse().unwrap();
    messages.iter().map(id).collect()
}

/// Which messages were heard until the whole batch with the last one has come, and the cursor after it.
async fn hear_until(socket: &mut Socket, last: Uuid) -> (Vec<Uuid>, Cursor) {
    let mut heard = Vec::new();
    loop {
        let frame = socket.frame().await;
        for event in frame["events"].as_array().unwrap() {
            assert_eq!(event["op"], "insert", "{event}");
            heard.extend(ids(std::slice::from_ref(&event["message"])));
        }
        if let Some(cursor) = frame["cursor"].as_str()
            && heard.contains(&last)
        {
            return (heard, cursor.parse().unwrap());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_loads_and_connects_with_the_cursor_misses_nothing_and_gets_nothing_twice() {
    let scene = Scene::<0>::new().await;
    let (pairs, enough) = (Pairs::default(), CancellationToken::new());
    let (writing, seed) = (Tasks::new(), seed());
    for number in 0..WRITERS {
        let client = scene.database.connect().await;
        let writer = write(
            client,
            Arc::clone(&pairs),
            seed.wrapping_add(number),
            enough.clone(),
        );
        writing.spawn("writer", writer);
    }
    let mut loaders = Vec::new();
    for place in 0..LOADERS {
        let loader = Loader {
            scene: &scene,
            client: scene.database.connect().await,
            pairs: Arc::clone(&pairs),
            place,
            happened: Happened::default(),
        };
        loaders.push(loader.run());
    }
    let happened = join_all(loaders).await;
    enough.cancel();
    writing.finish(Duration::from_secs(10)).await.unwrap();
    let sum = |part: fn(&Happened) -> usize| happened.iter().map(part).sum::<usize>();
    let (loaded, heard) = (sum(|part| part.loaded), sum(|part| part.heard));
    let open = sum(|part| part.with_open_transactions);
    let rounds = LOADERS * ROUNDS;
    assert!(
        loaded > rounds && heard > rounds / 2 && open > rounds / 4,
        "in {rounds} rounds {loaded} loaded, {heard} heard, {open} with open transactions: no storm"
    );
    scene.gateway.stop().await;
}

/// People who send.
const SENDERS: usize = 8;

/// Messages of each of them.
const SENDS: usize = 250;

/// Attempts that a message may take. Half of them fail, about.
const ATTEMPTS_MAX: usize = 100;

/// How the sends went.
#[derive(Default)]
struct Attempts {
    all: usize,
    found_written: usize,
}

/// Sends messages, each until it is answered.
async fn send(caller: &mut Caller, sender: usize, receiver: UserId) -> Attempts {
    let target = format!("/v1/conversations/{receiver}__general/messages");
    let mut attempts = Attempts::default();
    for number in 0..SENDS {
        let body = json!({"id": Uuid::new_v4(), "content": format!("{sender} sends {number}")});
        let mut is_answered = false;
        for _ in 0..ATTEMPTS_MAX {
            attempts.all += 1;
            let Ok((status, answer)) = caller.post(&target, &body).await else {
                continue;
            };
            assert!(matches!(status, 200 | 201), "{status}: {answer}");
            assert_eq!(answer["message"]["id"], body["id"], "{answer}");
            assert_eq!(answer["message"]["content"], body["content"], "{answer}");
            attempts.found_written += usize::from(status == 200);
            is_answered = true;
            break;
        }
        assert!(is_answered, "no answer to {body}");
    }
    attempts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_sends_over_a_connection_that_breaks_at_random_are_two_thousand_messages() {
    let scene = Scene::<{ SENDERS + 1 }>::new().await;
    let (receiver, senders) = scene.people.split_last().unwrap();
    let cutter = Cutter::before(scene.gateway.address(), seed()).await;
    let (mut socket, _) = scene.connect(*receiver).await;
    let sending = async {
        let sending = senders.iter().enumerate().map(async |(number, sender)| {
            let mut caller = Caller::new(cutter.address, *sender);
            send(&mut caller, number, *receiver).await
        });
        let attempts = join_all(sending).await;
        scene.write(senders[0], *receiver, "the end").await;
        attempts
    };
    let hearing = async {
        let mut heard: BTreeMap<String, usize> = BTreeMap::new();
        while !heard.contains_key("the end") {
            for event in socket.frame().await["events"].as_array().unwrap() {
                *heard.entry(content(event).to_owned()).or_default() += 1;
            }
        }
        heard
    };
    let (attempts, heard) = tokio::join!(sending, hearing);
    cutter_was_busy(&cutter, &attempts);
    let expected: BTreeMap<String, usize> = (0..SENDERS)
        .flat_map(|sender| (0..SENDS).map(move |number| format!("{sender} sends {number}")))
        .chain(["the end".to_owned()])
        .map(|content| (content, 1))
        .collect();
    assert_eq!(heard, expected, "what the receiver heard");
    let counts = "select content, count(*) from public.messages group by content";
    let rows = scene.application.query(counts, &[]).await.unwrap();
    let count = |count: i64| usize::try_from(count).unwrap();
    let stored: BTreeMap<String, usize> = rows.iter().map(|row| (row.get(0), count(row.get(1)))).collect();
    assert_eq!(stored, expected, "what is stored");
    cutter.stop().await;
    scene.gateway.stop().await;
}

/// Messages were repeated, and some of them had been written although the answer was lost.
fn cutter_was_busy(cutter: &Cutter, attempts: &[Attempts]) {
    let all: usize = attempts.iter().map(|attempts| attempts.all).sum();
    let found: usize = attempts.iter().map(|attempts| attempts.found_written).sum();
    assert!(
        cutter.cuts() > 200 && all > SENDERS * SENDS + 200 && found > 20,
        "{} cuts, {all} attempts, {found} found written: the connection was good",
        cutter.cuts()
    );
}

/// The seed of a failed run replays its random decisions.
fn seed() -> u64 {
    let seed = rand::random();
    std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("seed {seed}\n")).unwrap();
    seed
}
