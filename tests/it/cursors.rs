//! Coming back: with a cursor that leads on nothing is missed and nothing comes twice; with one that leads nowhere the
//! client is told why, before anything else, and nothing is half replayed.

use std::{sync::Arc, time::Duration};

use herald::{
    migrate,
    protocol::{
        cursor::{CURSOR_BYTES_MAX, Cursor, Epoch},
        snapshot::Snapshot,
    },
    types::UserId,
};
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::{
    processes::until,
    support::{
        database::{Database, ask, people},
        gateway::{self, Gateway, config, token},
        scene::{Scene, content},
        socket::Socket,
        wait_until,
    },
};

fn cursor_of(ready: &Value) -> &str {
    ready["cursor"].as_str().unwrap()
}

/// A cursor as the database gives it at this moment, as an answer over HTTP would carry it.
async fn cursor_by_sql(client: &Client) -> Cursor {
    // A life that begins within the statement may be newer than the statement's snapshot.
    client
        .batch_execute("select herald.current_life()")
        .await
        .unwrap();
    let row = client
        .query_one(
            "select herald.epoch(), herald.current_life(), pg_current_snapshot()::text",
            &[],
        )
        .await
        .unwrap();
    Cursor {
        epoch: Epoch::new(row.get(0)).unwrap(),
        snapshot: Arc::new(Snapshot::read(row.get::<_, i64>(1).try_into().unwrap(), row.get(2)).unwrap()),
    }
}

/// Comes back with a cursor that leads nowhere: the reason is told, nothing is replayed, and what happens from now on
/// comes.
async fn leads_nowhere<const PEOPLE: usize>(scene: &Scene<PEOPLE>, user: UserId, cursor: &str, reason: &str) {
    let counter = format!("replays_total{{outcome=\"{reason}\"}}");
    let before = scene.gateway.metric(&counter);
    let (mut socket, ready) = scene.come_back(user, cursor).await;
    assert_eq!(ready["resumed"], false, "{ready}");
    assert_eq!(ready["reason"], reason, "{ready}");
    assert_eq!(scene.gateway.metric(&counter), before + 1.0);
    scene.write(user, user, "live").await;
    let (events, _) = socket.events(1).await;
    assert_eq!(content(&events[0]), "live");
    // The cursor it was given instead is good.
    let (mut again, ready) = scene.come_back(user, cursor_of(&ready)).await;
    assert_eq!(ready["resumed"], true, "{ready}");
    assert_eq!(content(&again.events(1).await.0[0]), "live");
}

#[tokio::test]
async fn a_good_cursor_brings_what_was_missed_and_goes_on_live() {
    let scene = Scene::<3>::new().await;
    let [alice, bob, carol] = scene.people;
    let (socket, ready) = scene.connect(alice).await;
    socket.close().await;
    let mut expected = Vec::new();
    for number in 0..10 {
        let text = format!("missed {number}");
        scene.write(bob, alice, &text).await;
        scene.write(bob, carol, "not hers").await;
        expected.push(text);
    }
    scene
        .execute("update public.messages set is_read = true where content = 'missed 3'")
        .await;
    scene
        .execute("delete from public.messages where content = 'missed 4'")
        .await;
    scene.caught_up().await;
    let (mut again, ready) = scene.come_back(alice, cursor_of(&ready)).await;
    assert_eq!(ready["resumed"], true, "{ready}");
    scene.write(alice, bob, "live").await;
    // The insert of what is gone by now is left out, and its delete comes.
    let (events, cursor) = again.events(12).await;
    let told: Vec<_> = events
        .iter()
        .map(|event| {
            (
                event["op"].as_str().unwrap(),
                event["message"]["content"].as_str().unwrap_or(""),
            )
        })
        .collect();
    let inserted = expected
        .iter()
        .filter(|text| *text != "missed 4")
        .map(|text| ("insert", text.as_str()));
    let rest = [("update", "missed 3"), ("delete", ""), ("insert", "live")];
    assert_eq!(told, inserted.chain(rest).collect::<Vec<_>>());
    // The same cursor may be brought again, and the newest leaves nothing to replay.
    let (mut once_more, _) = scene.come_back(alice, cursor_of(&ready)).await;
    assert_eq!(once_more.events(12).await.0, events);
    let (mut newest, ready) = scene.come_back(alice, &cursor.unwrap()).await;
    assert_eq!(ready["resumed"], true);
    scene.write(alice, bob, "next").await;
    assert_eq!(content(&newest.events(1).await.0[0]), "next");
    scene.gateway.stop().await;
}

#[tokio::test]
async fn what_is_no_cursor_is_malformed() {
    let scene = Scene::<1>::new().await;
    let [alice] = scene.people;
    let (_socket, ready) = scene.connect(alice).await;
    let good = cursor_of(&ready);
    let too_long = format!("{good}{}", "-1".repeat(CURSOR_BYTES_MAX / 2));
    let (epoch, position) = good.split_once('.').unwrap();
    for wrong in [
        "",
        "nonsense",
        "%00",
        epoch,
        &format!("{epoch}."),
        &format!("{epoch}.0"),
        &format!("{}.{position}", epoch.to_uppercase() + "A"),
        &format!("{good}%20"),
        &format!("{epoch}.zzzzzzzzzzzzzzzzzzzz"),
        &too_long,
    ] {
        leads_nowhere(&scene, alice, wrong, "malformed").await;
    }
    scene.gateway.stop().await;
}

#[tokio::test]
async fn a_cursor_of_another_database_or_of_a_former_installation_is_of_an_unknown_epoch() {
    let scene = Scene::<1>::new().await;
    let [alice] = scene.people;
    let other = Database::with_application().await;
    gateway::migrate(&other.url()).await;
    let stranger = cursor_by_sql(&other.connect().await).await;
    leads_nowhere(&scene, alice, &stranger.to_string(), "unknown_epoch").await;

    let (mut open, ready) = scene.connect(alice).await;
    let mut client = scene.database.connect().await;
    migrate::uninstall(&mut client, Duration::from_secs(30))
        .await
        .unwrap();
    gateway::migrate(&scene.database.url()).await;
    // The feed is still connected, and has nothing but its next look to notice by.
    client.batch_execute("notify herald").await.unwrap();
    // Who was connected is told to come back, since it cannot be known what went past the log meanwhile.
    assert_eq!(open.close_code().await, 1001);
    leads_nowhere(&scene, alice, cursor_of(&ready), "unknown_epoch").await;
    assert_eq!(scene.gateway.metric("feed_discontinuities_total"), 1.0);
    scene.gateway.stop().await;
}

#[tokio::test]
async fn a_cursor_that_has_seen_what_the_database_has_not_is_ahead() {
    let scene = Scene::<1>::new().await;
    let [alice] = scene.people;
    let now = cursor_by_sql(&scene.application).await;
    let beyond = |snapshot: Snapshot| Cursor {
        epoch: now.epoch.clone(),
        snapshot: Arc::new(snapshot),
    };
    let (life, far) = (now.snapshot.life(), now.snapshot.xmax() + 1_000_000);
    for snapshot in [
        Snapshot::new(life, far, far, Vec::new()).unwrap(),
        Snapshot::new(far, far, far, Vec::new()).unwrap(),
        Snapshot::new(life, life, far, vec![life]).unwrap(),
        Snapshot::new(u64::MAX, u64::MAX, u64::MAX, Vec::new()).unwrap(),
    ] {
        leads_nowhere(&scene, alice, &beyond(snapshot).to_string(), "ahead").await;
    }
    scene.gateway.stop().await;
}

#[tokio::test]
async fn a_cursor_whose_part_of_the_log_is_gone_has_expired() {
    let scene = Scene::<1>::with(|config| config.log_retention = Duration::from_secs(1)).await;
    let [alice] = scene.people;
    let (_socket, ready) = scene.connect(alice).await;
    scene.write(alice, alice, "soon gone").await;
    wait_until("the log is pruned", || {
        scene.gateway.metric("log_pruned_total") >= 1.0
    })
    .await;
    // Which may be past the feed's last read, because it reads every five seconds only when nothing happens; it ends every session then.
    scene.caught_up().await;
    // A gateway that was there goes on with what it remembers; to another one it is lost.
    let other = Gateway::start(&scene.database.url()).await;
    let (mut socket, told) = Socket::connect(other.address(), &token(alice), Some(cursor_of(&ready))).await;
    assert_eq!(
        (&told["resumed"], &told["reason"]),
        (&json!(false), &json!("expired"))
    );
    scene.write(alice, alice, "live").await;
    assert_eq!(content(&socket.events(1).await.0[0]), "live");
    scene.gateway.stop().await;
}

#[tokio::test]
async fn a_cursor_that_is_too_far_behind_is_told_so_and_one_at_the_bound_is_not() {
    let scene = Scene::<2>::with(|config| config.replay_events = 5).await;
    let [alice, bob] = scene.people;
    let (_socket, ready) = scene.connect(alice).await;
    for number in 0..5 {
        scene.write(bob, alice, &number.to_string()).await;
        scene.write(bob, bob, "not hers").await;
    }
    let (mut again, told) = scene.come_back(alice, cursor_of(&ready)).await;
    assert_eq!(told["resumed"], true, "{told}");
    assert_eq!(again.events(5).await.0.len(), 5);
    scene.write(bob, alice, "one too many").await;
    scene.caught_up().await;
    leads_nowhere(&scene, alice, cursor_of(&ready), "too_far").await;
    scene.gateway.stop().await;
}

/// Ends the connections of all feeds of this database, and answers how many there were.
async fn end_feeds(client: &Client) -> usize {
    let feeds = "select pg_terminate_backend(pid) from pg_stat_activity \
                 where datname = current_database() and application_name = 'herald feed'";
    client.query(feeds, &[]).await.unwrap().len()
}

/// A gateway whose feed does not come back for a long while once it has lost its connection.
async fn frozen(database: &Database, client: &Client) -> Gateway {
    let mut config = config(&database.url());
    // The first delay is drawn evenly from this, so that one below the time of the test is one in thousands.
    config.feed.backoff_base = Duration::from_secs(24 * 3600);
    config.feed.backoff_cap = Duration::from_secs(24 * 3600);
    let gateway = Gateway::start_with(config).await;
    assert_eq!(end_feeds(client).await, 1);
    wait_until("the feed has lost its connection", || {
        gateway.metric("feed_state{state=\"waiting\"}") == 1.0
    })
    .await;
    gateway
}

#[tokio::test]
async fn a_cursor_ahead_of_the_feed_but_not_of_the_database_is_kept_and_nothing_comes_twice() {
    let database = Database::with_application().await;
    gateway::migrate(&database.url()).await;
    let client = database.connect().await;
    let [alice] = people::<1>(&client).await.map(UserId);
    let write = async |text: &str| {
        let statement = "insert into public.messages (sender_id, receiver_id, content) values ($1, $1, $2)";
        client.execute(statement, &[&alice.0, &text]).await.unwrap();
    };
    let lagging = frozen(&database, &client).await;
    let (_socket, ready) = Socket::connect(lagging.address(), &token(alice), None).await;
    let behind = cursor_of(&ready).to_owned();
    write("seen elsewhere").await;
    let ahead = cursor_by_sql(&client).await;
    write("not seen").await;

    // The gateway whose feed stands still takes the cursor, and does not send back an older one.
    let (_waits, ready) = Socket::connect(lagging.address(), &token(alice), Some(&ahead.to_string())).await;
    assert_eq!(ready["resumed"], true, "{ready}");
    assert_eq!(cursor_of(&ready), ahead.to_string());

    // A quick one brings what the cursor has not seen, and only that; so does the lagging one, as soon as it moves.
    let quick = Gateway::start(&database.url()).await;
    let (mut moved, _) = Socket::connect(quick.address(), &token(alice), Some(&ahead.to_string())).await;
    let (events, newest) = moved.events(1).await;
    assert_eq!(content(&events[0]), "not seen");
    let (mut from_behind, _) = Socket::connect(quick.address(), &token(alice), Some(&behind)).await;
    assert_eq!(from_behind.events(2).await.0.len(), 2);
    let (_stays, ready) = Socket::connect(lagging.address(), &token(alice), newest.as_deref()).await;
    assert_eq!(cursor_of(&ready), newest.unwrap());
    lagging.stop().await;
    quick.stop().await;
}

#[tokio::test]
async fn a_session_ahead_of_the_feed_drops_what_it_has_seen_once_the_feed_moves_on() {
    let database = Database::with_application().await;
    gateway::migrate(&database.url()).await;
    let client = database.connect().await;
    let [alice] = people::<1>(&client).await.map(UserId);
    let insert =
        format!("insert into public.messages (sender_id, receiver_id, content) values ('{alice}', '{alice}'");
    // A transaction that stays open makes what is seen and what is not lie on both sides of one another.
    let open = database.connect().await;
    open.batch_execute(&format!("begin; {insert}, 'late')"))
        .await
        .unwrap();
    let mut settings = config(&database.url());
    settings.feed.backoff_base = Duration::from_secs(3);
    settings.feed.backoff_cap = Duration::from_secs(3);
    let gateway = Gateway::start_with(settings).await;
    let (mut from_before, _) = Socket::connect(gateway.address(), &token(alice), None).await;
    // Tried until the feed draws a delay that is long enough for what has to happen meanwhile.
    let mut rounds = 0;
    let (mut socket, ahead) = loop {
        rounds += 1;
        assert!(rounds < 20, "the feed was always back too early");
        end_feeds(&client).await;
        wait_until("the feed has lost its connection", || {
            gateway.metric("feed_state{state=\"waiting\"}") == 1.0
        })
        .await;
        client
            .batch_execute(&format!("{insert}, 'seen {rounds}')"))
            .await
            .unwrap();
        let ahead = cursor_by_sql(&client).await;
        let (socket, ready) =
            Socket::connect(gateway.address(), &token(alice), Some(&ahead.to_string())).await;
        assert_eq!(ready["resumed"], true, "{ready}");
        let position = gateway.app.hub().position.newest().unwrap();
        if !position.snapshot.covers(&ahead.snapshot) {
            break (socket, ahead);
        }
    };
    open.batch_execute("commit").await.unwrap();
    client
        .batch_execute(&format!("{insert}, 'not seen')"))
        .await
        .unwrap();
    let (events, newest) = socket.events(2).await;
    let told: Vec<_> = events.iter().map(content).collect();
    assert_eq!(told, ["late", "not seen"]);
    let newest: Cursor = newest.unwrap().parse().unwrap();
    assert!(newest.snapshot.covers(&ahead.snapshot));
    assert_eq!(from_before.events(rounds + 2).await.0.len(), rounds + 2);
    gateway.stop().await;
}

#[tokio::test]
async fn a_feed_that_finds_rows_pruned_that_it_had_not_read_sends_everybody_to_reload() {
    // Nothing but a ring makes this feed look, as if the gateway had been suspended.
    let scene = Scene::<1>::with(|config| config.feed.idle_tick = Duration::from_secs(3600)).await;
    let [alice] = scene.people;
    scene.gateway.asleep().await;
    let (mut open, ready) = scene.connect(alice).await;
    let url = scene.database.url();
    let later = ask(&url, "select pg_current_xact_id()::text").await;
    // Other tests have transactions in the same cluster, before the oldest of which nothing is pruned.
    let is_over = format!("select (pg_snapshot_xmin(pg_current_snapshot()) > '{later}'::xid8)::text");
    until("everything to be over that runs now", async || {
        ask(&url, &is_over).await == "true"
    })
    .await;
    // What another gateway records when it prunes up to this moment.
    scene
        .execute("update herald.state set pruned_before = pg_snapshot_xmin(pg_current_snapshot())")
        .await;
    scene.execute("notify herald").await;
    assert_eq!(open.close_code().await, 1001);
    leads_nowhere(&scene, alice, cursor_of(&ready), "expired").await;
    assert_eq!(scene.gateway.metric("feed_discontinuities_total"), 1.0);
    scene.gateway.stop().await;
}
