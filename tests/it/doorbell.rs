//! When writers ring and when they need not, and that no change is missed where the one becomes the other.
//!
//! No gateway here looks by itself: a change that nobody rang for, and that the gateway does not find before it sleeps, never comes.

use std::{cell::Cell, fmt::Debug, str::FromStr, time::Duration};

use futures::future::join_all;
use herald::types::UserId;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::time::timeout;
use tokio_postgres::Client;

use crate::support::{
    database::AT_MOST,
    gateway::{Gateway, config, token},
    scene::{Scene, content, write},
    socket::Socket,
};

/// Longer than any test.
const NEVER: Duration = Duration::from_secs(3600);

/// Connections that write at once: enough that their rings come faster than a gateway reads.
const WRITERS: usize = 8;

/// Rounds of writing; each wakes the gateways and lets them fall asleep again. `HERALD_DOORBELL_ROUNDS` asks for more.
const ROUNDS: u32 = 300;

async fn scene() -> Scene<2> {
    Scene::with(|config| config.feed.idle_tick = NEVER).await
}

/// How many sessions hold `asleep` and `silent`, of this database and as the statement's own transaction sees them.
async fn holders(client: &Client) -> [i64; 2] {
    let row = client
        .query_one(
            "select count(*) filter (where key = 5216701506134474756), count(*) filter (where key = 5216701506134474757)
               from (select classid::bigint << 32 | objid::bigint as key from pg_locks
                      where locktype = 'advisory' and granted
                        and database = (select oid from pg_database where datname = current_database())) as held",
            &[],
        )
        .await
        .unwrap();
    [row.get(0), row.get(1)]
}

/// Waits until so many sessions hold `asleep` and `silent`.
async fn until_held(client: &Client, expected: [i64; 2]) {
    let wait = async { while holders(client).await != expected {} };
    let waited = timeout(AT_MOST, wait).await;
    assert!(
        waited.is_ok(),
        "in vain it was waited until {expected:?} are held"
    );
}

#[tokio::test]
async fn writers_ring_while_somebody_sleeps_and_are_spared_while_nobody_does() {
    let scene = scene().await;
    let [ada, bob] = scene.people;
    let mut bell = scene.database.listen().await;
    scene.gateway.asleep().await;
    scene.write(ada, bob, "to a gateway that sleeps").await;
    assert_eq!(bell.heard_so_far().await, 1);
    scene.gateway.stop().await;
    until_held(&scene.application, [0, 0]).await;
    write(&scene.application, ada, bob, "to nobody").await;
    assert_eq!(bell.heard_so_far().await, 0);
}

#[tokio::test]
async fn a_gateway_that_sleeps_is_woken_by_every_message() {
    let scene = scene().await;
    let [ada, bob] = scene.people;
    let (mut socket, _) = scene.connect(bob).await;
    for number in 0..20 {
        scene.gateway.asleep().await;
        scene.write(ada, bob, &format!("number {number}")).await;
        let (events, _) = socket.events(1).await;
        assert_eq!(content(&events[0]), format!("number {number}"));
    }
    assert_eq!(scene.gateway.metric("feed_rushes_total"), 0.0);
    scene.gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_did_not_ring_and_ends_after_the_gateway_lay_down_is_found() {
    let scene = scene().await;
    let [ada, bob] = scene.people;
    let (mut socket, _) = scene.connect(bob).await;
    let mut bell = scene.database.listen().await;
    let late = scene.database.connect().await;
    let writers = join_all((0..WRITERS).map(|_| scene.database.connect())).await;
    let insert = |content: &str| {
        format!(
            "insert into public.messages (sender_id, receiver_id, content) values ('{}', '{}', '{content}')",
            ada.0, bob.0
        )
    };
    let rush = insert("rush");
    // Whether a gateway was awake when a transaction looked is known only afterwards: if so, it does not ring.
    for _ in 0..50 {
        let begun = Cell::new(false);
        let rushing = async {
            let mut count = 0;
            while !begun.get() {
                for end in join_all(writers.iter().map(|writer| writer.batch_execute(&rush))).await {
                    end.unwrap();
                    count += 1;
                }
            }
            count
        };
        let beginning = async {
            while holders(&late).await[0] > 0 {}
            let begin = format!("begin; {}", insert("late"));
            late.batch_execute(&begin).await.unwrap();
            begun.set(true);
        };
        let (rushed, ()) = tokio::join!(rushing, beginning);
        assert_eq!(socket.events(rushed).await.0.len(), rushed);
        until_held(&scene.application, [1, 1]).await;
        bell.heard_so_far().await;
        late.batch_execute("commit").await.unwrap();
        assert_eq!(content(&socket.events(1).await.0[0]), "late");
        scene.gateway.asleep().await;
        if bell.heard_so_far().await == 0 {
            return scene.gateway.stop().await;
        }
    }
    panic!("every transaction has rung, so that nothing was tested");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_missed_while_gateways_fall_asleep_and_wake_again_and_again() {
    let rounds = asked_for("HERALD_DOORBELL_ROUNDS").unwrap_or(ROUNDS);
    let seed = asked_for("HERALD_DOORBELL_SEED").unwrap_or_else(rand::random);
    say(&format!("HERALD_DOORBELL_SEED={seed}"));
    let mut random = StdRng::seed_from_u64(seed);
    let scene = scene().await;
    let [ada, bob] = scene.people;
    let mut other_config = config(&scene.database.url());
    other_config.feed.idle_tick = NEVER;
    let other = Gateway::start_with(other_config).await;
    let (here, _) = scene.connect(bob).await;
    let (there, _) = Socket::connect(other.address(), &token(bob), None).await;
    let mut sockets = [here, there];
    let writers = join_all((0..WRITERS).map(|_| scene.database.connect())).await;
    for round in 0..rounds {
        let scripts: Vec<(String, usize)> = writers.iter().map(|_| script(&mut random, ada, bob)).collect();
        let written: usize = scripts.iter().map(|(_, committed)| committed).sum();
        let ends = writers
            .iter()
            .zip(&scripts)
            .map(|(writer, (script, _))| writer.batch_execute(script));
        for end in join_all(ends).await {
            end.unwrap();
        }
        for socket in &mut sockets {
            assert_eq!(socket.events(written).await.0.len(), written, "round {round}");
        }
        // Every second one begins while the gateways are still awake, or just about to sleep.
        if round % 2 == 0 {
            scene.gateway.asleep().await;
            other.asleep().await;
        }
    }
    let switches = scene.gateway.metric("feed_rushes_total") + other.metric("feed_rushes_total");
    say(&format!("{switches} rushes in {rounds} rounds"));
    assert!(
        switches * 8.0 >= f64::from(rounds),
        "only {switches} times in {rounds} rounds was a gateway woken by a rush"
    );
    scene.gateway.stop().await;
    other.stop().await;
}

/// A number from the environment, for a run that is longer or is a replay.
#[allow(clippy::disallowed_methods, reason = "no setting of the product")]
fn asked_for<T: FromStr<Err: Debug>>(variable: &str) -> Option<T> {
    std::env::var(variable).ok().map(|value| value.parse().unwrap())
}

/// Shown by the test harness if the test fails.
fn say(line: &str) {
    std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("{line}\n")).unwrap();
}

/// Some transactions in a row, and how many messages they commit.
fn script(random: &mut StdRng, sender: UserId, receiver: UserId) -> (String, usize) {
    let insert = format!(
        "insert into public.messages (sender_id, receiver_id, content) values ('{}', '{}', 'hello')",
        sender.0, receiver.0
    );
    let mut committed = 0;
    let mut script = String::new();
    for _ in 0..random.random_range(0..12) {
        let pause = format!("select pg_sleep({:.4})", random.random_range(0.0..0.004));
        let (text, count) = match random.random_range(0..10) {
            0 => (format!("begin; {insert}; {pause}; {insert}; commit"), 2),
            1 => (format!("begin; {insert}; {pause}; rollback"), 0),
            2 => (
                format!("begin; savepoint s; {insert}; rollback to s; {pause}; {insert}; commit"),
                1,
            ),
            3 => (
                format!("begin; savepoint s; {insert}; release s; {pause}; commit"),
                1,
            ),
            4 => (format!("{pause}; {insert}"), 1),
            _ => (insert.clone(), 1),
        };
        // A transaction of its own each, although they are sent together.
        let text = if text.starts_with("begin") {
            text
        } else {
            format!("begin; {text}; commit")
        };
        script.push_str(&text);
        script.push(';');
        committed += count;
    }
    (script, committed)
}
