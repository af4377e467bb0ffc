//! Where the channels of Supabase's client are kept that went: by whom they are found, and what they outlive.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use herald::{
    dev::cluster::{Cluster, Stop},
    hub::{Delivery, Hub, Outbox, Position},
    metrics::Metrics,
    postgres::{Settings, pool},
    protocol::{
        cursor::{Cursor, Epoch},
        phoenix::change::Changes,
        server_frame::EventsFrameBuilder,
        snapshot::Snapshot,
    },
    store::parking::{Key, Parking, ParkingError, Standing, Wanted, parking},
    tasks::Tasks,
    types::{BatchNumber, ChannelId, ChannelNumber, SessionId, UserId},
};
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    processes::until,
    support::{
        APPLICATION,
        database::{AT_MOST, Database, ask, execute},
        gateway::{metric_in, migrate},
    },
};

/// Long enough for every test, and short enough that a time before it can be written down.
const WINDOW: Duration = Duration::from_secs(120);

fn position(number: u64) -> Position {
    Position {
        epoch: Epoch::new("e").unwrap(),
        batch: BatchNumber(number),
        snapshot: Arc::new(Snapshot::new(1, number, number, Vec::new()).unwrap()),
    }
}

fn cursor(number: u64) -> Cursor {
    position(number).cursor()
}

fn delivery(number: u64) -> Arc<Delivery> {
    Arc::new(Delivery {
        user: UserId(Uuid::nil()),
        position: Arc::new(position(number)),
        frame: EventsFrameBuilder::new().finish(None),
        committed: Instant::now(),
        changes: Changes::default(),
    })
}

/// A database with Herald in it.
async fn migrated() -> Database {
    let database = Database::with_application().await;
    migrate(&database.url()).await;
    database
}

/// The most sessions of one user.
const SESSIONS_PER_USER: usize = 8;

/// One run of a gateway, as far as parking goes.
struct Run {
    parking: Parking,
    hub: Arc<Hub>,
    metrics: Arc<Metrics>,
    tasks: Tasks,
}

impl Run {
    /// Starts; its feed is at position 1.
    fn start(url: &str) -> Self {
        let pool = pool(&Settings::parse(url).unwrap(), 4, Duration::from_secs(2)).unwrap();
        let (hub, metrics) = (
            Arc::new(Hub::new(SESSIONS_PER_USER, Arc::new(Metrics::new()))),
            Arc::new(Metrics::new()),
        );
        let (parking, attendant) = parking(
            pool,
            Arc::clone(&hub),
            Arc::clone(&metrics),
            WINDOW,
            Uuid::new_v4(),
        );
        let tasks = Tasks::new();
        let stopping = tasks.stopping();
        tasks.spawn("attendant", async move {
            let _killed = stopping.run_until_cancelled(attendant.run()).await;
        });
        let run = Self {
            parking,
            hub,
            metrics,
            tasks,
        };
        run.reach(1);
        run
    }

    /// The feed reads, and hands over, everything up to here.
    fn reach(&self, number: u64) {
        self.hub.position.publish(Arc::new(position(number)));
        self.hub.position.settle(Arc::new(position(number)));
    }

    /// Ends it as a drain does.
    async fn stop(self) {
        drop(self.parking);
        self.tasks.finish(AT_MOST).await.unwrap();
    }

    /// Ends it as `kill -9` does: nothing more is written.
    async fn kill(self) {
        self.tasks.stop();
        self.tasks.finish(AT_MOST).await.unwrap();
    }

    fn queries(&self) -> f64 {
        metric_in(&self.metrics.render().unwrap(), "parking_queries_total")
    }

    fn dropped(&self) -> f64 {
        metric_in(&self.metrics.render().unwrap(), "parking_dropped_total")
    }

    /// Where a new session that joins this topic is continued.
    async fn rejoin(&self, key: &Arc<Key>, reference: u64) -> Option<Cursor> {
        self.rejoin_as(channel(), key, reference).await
    }

    async fn rejoin_as(&self, channel: ChannelId, key: &Arc<Key>, reference: u64) -> Option<Cursor> {
        let found = self.parking.find(vec![wanted(channel, key, reference)]).await;
        let [found] = found.unwrap().try_into().unwrap();
        found
    }

    /// Waits until everything noted so far is written.
    async fn written(&self) {
        self.rejoin(&anybody(), 1).await;
    }
}

fn wanted(channel: ChannelId, key: &Arc<Key>, reference: u64) -> Wanted {
    Wanted {
        channel,
        key: Arc::clone(key),
        reference: Some(reference),
        joined_at: Some(cursor(9)),
    }
}

/// A channel of a session of its own.
fn channel() -> ChannelId {
    ChannelId {
        session: SessionId::random(),
        number: ChannelNumber(0),
    }
}

/// A topic of somebody who is nobody else.
fn anybody() -> Arc<Key> {
    Arc::new(Key::new(UserId(Uuid::new_v4()), "realtime:messages", ""))
}

fn user_of(user: UserId, topic: &str, device: &str) -> Arc<Key> {
    Arc::new(Key::new(user, topic, device))
}

/// A live session with one channel.
struct Session {
    channel: ChannelId,
    outbox: Arc<Outbox>,
    standing: Standing,
}

impl Session {
    /// Joins; the client has all that there is.
    fn join(run: &Run, key: &Arc<Key>) -> Self {
        let (channel, outbox) = (channel(), Arc::new(Outbox::new(1 << 20)));
        let standing = run.parking.enter(channel.session, Arc::clone(&outbox));
        standing.idle();
        run.parking.live(channel, Arc::clone(key), Some(1));
        Self {
            channel,
            outbox,
            standing,
        }
    }
}

/// The rows of channels as text: cursor, whether parked, whether taken.
async fn rows(database: &Database) -> Vec<(Option<String>, bool, bool)> {
    let client = database.connect().await;
    let rows = client
        .query(
            "select cursor, parked_at is not null, taken_by is not null from herald.channel order by cursor",
            &[],
        )
        .await
        .unwrap();
    rows.iter()
        .map(|row| (row.get(0), row.get(1), row.get(2)))
        .collect()
}

/// The cursor in the only gateway's row, or an empty text.
async fn gateway_cursor(database: &Database) -> String {
    ask(
        &database.url(),
        "select coalesce((select string_agg(cursor, ' ') from herald.gateway), '')",
    )
    .await
}

async fn until_the_gateway_says(database: &Database, number: u64) {
    let told = cursor(number).to_string();
    until("the gateway's row", async || {
        gateway_cursor(database).await == told
    })
    .await;
}

#[tokio::test]
async fn a_channel_that_went_is_continued_once_and_told_again_to_whoever_comes_next() {
    let database = migrated().await;
    for url in [database.url(), database.pooled_url().await] {
        let run = Run::start(&url);
        let key = anybody();
        assert_eq!(run.rejoin(&key, 1).await, None);
        let first = channel();
        run.parking.live(first, Arc::clone(&key), Some(1));
        run.parking.park(first, Arc::clone(&key), cursor(5), Some(3));
        let second = channel();
        assert_eq!(run.rejoin_as(second, &key, 4).await, Some(cursor(5)));
        // It asks once more, which brings nothing twice.
        assert_eq!(run.rejoin_as(second, &key, 5).await, None);
        // Another one may be the owner of what the second one took.
        assert_eq!(run.rejoin(&key, 4).await, Some(cursor(5)));
        // A page that was loaded anew is none.
        assert_eq!(run.rejoin(&key, 1).await, None);
        run.parking.live(second, Arc::clone(&key), Some(5));
        run.parking.park(second, Arc::clone(&key), cursor(8), Some(6));
        assert_eq!(run.rejoin(&key, 7).await, Some(cursor(8)));
        run.stop().await;
    }
}

/// Its connection was half-open: it is found dead in the moment in which its client has come back by another one.
#[tokio::test]
async fn a_live_channel_that_is_taken_and_goes_at_once_stays_taken() {
    let database = migrated().await;
    let run = Run::start(&database.url());
    let key = anybody();
    let dead = Session::join(&run, &key);
    run.written().await;
    dead.standing.busy();
    let other = channel();
    assert_eq!(run.rejoin_as(other, &key, 2).await, Some(cursor(1)));
    run.parking
        .park(dead.channel, Arc::clone(&key), cursor(1), Some(1));
    run.parking.park(other, Arc::clone(&key), cursor(5), Some(3));
    assert_eq!(run.rejoin(&key, 4).await, Some(cursor(5)));
    run.stop().await;
}

/// A client that comes back again before its last connection is known to have ended is continued from where that one was, and
/// not from all that it ever left.
#[tokio::test]
async fn a_channel_stands_where_it_was_told_until_more_is_known_of_it() {
    let database = migrated().await;
    let run = Run::start(&database.url());
    let key = anybody();
    let sessions = [(); 4].map(|()| {
        let channel = channel();
        let outbox = Arc::new(Outbox::new(1 << 20));
        (channel, run.parking.enter(channel.session, outbox))
    });
    let [(first, _), (second, _), (third, _), (fourth, _)] = sessions.each_ref();
    // It was not here before, and stands where it was joined.
    assert_eq!(run.rejoin_as(*first, &key, 1).await, None);
    assert_eq!(run.rejoin_as(*second, &key, 2).await, Some(cursor(9)));
    run.parking.park(*first, Arc::clone(&key), cursor(9), Some(1));
    run.parking.park(*second, Arc::clone(&key), cursor(12), Some(3));
    assert_eq!(run.rejoin_as(*third, &key, 4).await, Some(cursor(12)));
    assert_eq!(run.rejoin_as(*fourth, &key, 5).await, Some(cursor(12)));
    // It is known now that the third one had no more, which is not told again.
    run.parking.park(*third, Arc::clone(&key), cursor(12), Some(4));
    run.parking.park(*fourth, Arc::clone(&key), cursor(15), Some(6));
    assert_eq!(run.rejoin(&key, 7).await, Some(cursor(15)));
    drop(sessions);
    run.stop().await;
}

#[tokio::test]
async fn a_channel_is_found_by_the_device_that_it_was_last() {
    let database = migrated().await;
    let run = Run::start(&database.url());
    let (user, live) = (UserId(Uuid::new_v4()), channel());
    let [before, now] = ["before", "now"].map(|device| user_of(user, "realtime:messages", device));
    run.parking.live(live, before, Some(1));
    run.written().await;
    run.parking.park(live, Arc::clone(&now), cursor(5), Some(3));
    assert_eq!(run.rejoin(&now, 4).await, Some(cursor(5)));
    run.stop().await;
}

#[tokio::test]
async fn a_question_that_was_given_up_takes_nothing() {
    let database = migrated().await;
    let run = Run::start(&database.url());
    let (key, joining) = (anybody(), channel());
    run.parking.park(channel(), Arc::clone(&key), cursor(5), Some(3));
    run.written().await;
    let lock = database.connect().await;
    lock.batch_execute("begin; lock table herald.channel in access exclusive mode")
        .await
        .unwrap();
    let asked = run.queries();
    let given_up = run.rejoin_as(joining, &key, 4);
    let is_asked = until("the question is under way", async || run.queries() > asked);
    tokio::select! {
        found = given_up => panic!("{found:?}"),
        () = is_asked => {}
    }
    lock.batch_execute("rollback").await.unwrap();
    // The same session asks again.
    assert_eq!(run.rejoin_as(joining, &key, 5).await, Some(cursor(5)));
    run.stop().await;
}

#[tokio::test]
async fn users_topics_and_devices_are_told_apart() {
    let database = migrated().await;
    let run = Run::start(&database.url());
    let user = UserId(Uuid::new_v4());
    let parked = user_of(user, "realtime:messages", "phone");
    run.parking
        .park(channel(), Arc::clone(&parked), cursor(5), Some(3));
    for other in [
        user_of(user, "realtime:messages", "laptop"),
        user_of(user, "realtime:others", "phone"),
        user_of(UserId(Uuid::new_v4()), "realtime:messages", "phone"),
    ] {
        assert_eq!(run.rejoin(&other, 4).await, None);
    }
    assert_eq!(run.rejoin(&parked, 4).await, Some(cursor(5)));
    // Names that Postgres would not take as they are.
    let odd = user_of(user, &format!("nul\0{}", "x".repeat(10_000)), "\0");
    run.parking.park(channel(), Arc::clone(&odd), cursor(6), None);
    assert_eq!(run.rejoin(&odd, 1).await, Some(cursor(6)));
    run.stop().await;
}

#[tokio::test]
async fn the_questions_of_one_batch_see_what_each_other_takes() {
    let database = migrated().await;
    let run = Run::start(&database.url());
    let key = anybody();
    for (reference, number) in [(10, 30), (20, 20), (30, 10)] {
        run.parking
            .park(channel(), Arc::clone(&key), cursor(number), Some(reference));
    }
    let joins = [31, 21, 11].map(|reference| wanted(channel(), &key, reference));
    let found = run.parking.find(joins.to_vec()).await.unwrap();
    assert_eq!(found, [Some(cursor(10)), Some(cursor(20)), Some(cursor(30))]);
    run.stop().await;
    let are_taken = rows(&database).await.into_iter().map(|(_, _, is_taken)| is_taken);
    assert_eq!(are_taken.collect::<Vec<_>>(), [true; 3]);
}

#[tokio::test]
async fn a_channel_that_was_left_on_purpose_is_not_continued() {
    let database = migrated().await;
    let run = Run::start(&database.url());
    let (key, left) = (anybody(), channel());
    run.parking.live(left, Arc::clone(&key), Some(1));
    run.written().await;
    run.parking.leave(left);
    assert_eq!(run.rejoin(&key, 2).await, None);
    // In one batch, too.
    run.parking.park(left, Arc::clone(&key), cursor(5), Some(1));
    run.parking.leave(left);
    assert_eq!(run.rejoin(&key, 2).await, None);
    run.stop().await;
    assert_eq!(rows(&database).await, []);
}

#[tokio::test]
async fn what_waits_at_the_end_is_written_before_the_attendant_ends() {
    const CHANNELS: usize = 20_000;

    let database = migrated().await;
    let run = Run::start(&database.pooled_url().await);
    let key = anybody();
    for _ in 0..CHANNELS {
        let channel = channel();
        run.parking.live(channel, Arc::clone(&key), Some(1));
        run.parking.park(channel, Arc::clone(&key), cursor(5), Some(1));
    }
    let metrics = Arc::clone(&run.metrics);
    run.stop().await;
    let parked = "select count(*)::text from herald.channel where parked_at is not null";
    assert_eq!(ask(&database.url(), parked).await, CHANNELS.to_string());
    let page = metrics.render().unwrap();
    assert_eq!(metric_in(&page, "parked_total"), 20_000.0);
    assert_eq!(metric_in(&page, "parking_dropped_total"), 0.0);
}

#[tokio::test]
async fn the_channels_of_a_killed_gateway_are_found_where_it_last_said_they_were() {
    let database = migrated().await;
    for url in [database.url(), database.pooled_url().await] {
        execute(&database.url(), "delete from herald.gateway").await;
        let (killed, other) = (Run::start(&url), Run::start(&url));
        let keys: [_; 3] = std::array::from_fn(|_| anybody());
        let _up_to_date = Session::join(&killed, &keys[0]);
        let behind = Session::join(&killed, &keys[1]);
        killed.written().await;
        // What is live here went nowhere.
        assert_eq!(killed.rejoin(&keys[0], 2).await, None);

        // The client of the second session has everything up to 4; 7 is on its way.
        behind.standing.busy();
        behind.standing.acknowledged(keys[1].user(), cursor(4));
        behind.outbox.push(delivery(7));
        // A third one is being replayed to, from 2 on.
        let replayed = channel();
        let standing = killed
            .parking
            .enter(replayed.session, Arc::new(Outbox::new(1 << 20)));
        standing.acknowledged(keys[2].user(), cursor(2));
        killed.parking.live(replayed, Arc::clone(&keys[2]), Some(1));
        killed.written().await;
        killed.reach(7);
        until_the_gateway_says(&database, 7).await;
        killed.kill().await;

        let mut found = Vec::new();
        for key in &keys {
            found.push(other.rejoin(key, 2).await);
        }
        assert_eq!(found, [Some(cursor(7)), Some(cursor(4)), Some(cursor(2))]);
        other.stop().await;
    }
}

#[tokio::test]
async fn a_session_that_has_caught_up_needs_no_cursor_of_its_own() {
    let database = migrated().await;
    let run = Run::start(&database.url());
    let session = Session::join(&run, &anybody());
    run.written().await;
    assert_eq!(rows(&database).await, [(None, false, false)]);
    until_the_gateway_says(&database, 1).await;

    session.outbox.push(delivery(2));
    run.reach(2);
    until_the_gateway_says(&database, 2).await;
    let own = Some(cursor(1).to_string());
    assert_eq!(rows(&database).await, [(own, false, false)]);

    session.standing.busy();
    assert!(session.outbox.take().is_some());
    session.standing.idle();
    run.reach(3);
    until_the_gateway_says(&database, 3).await;
    assert_eq!(rows(&database).await, [(None, false, false)]);

    // What the channel is parked with is its own, whatever the gateway says later.
    run.parking.park(session.channel, anybody(), cursor(2), None);
    drop(session);
    let _another = Session::join(&run, &anybody());
    run.reach(4);
    until_the_gateway_says(&database, 4).await;
    let parked = (Some(cursor(2).to_string()), true, false);
    assert_eq!(rows(&database).await, [parked, (None, false, false)]);
    run.stop().await;
}

#[tokio::test]
async fn what_is_out_of_the_window_is_not_found() {
    let database = migrated().await;
    let (gone, run) = (Run::start(&database.url()), Run::start(&database.url()));
    let (parked, live) = (anybody(), anybody());
    run.parking
        .park(channel(), Arc::clone(&parked), cursor(5), Some(1));
    run.written().await;
    let _session = Session::join(&gone, &live);
    gone.written().await;
    until_the_gateway_says(&database, 1).await;
    gone.kill().await;
    execute(
        &database.url(),
        "update herald.channel set parked_at = parked_at - interval '121 s';
         update herald.gateway set seen_at = seen_at - interval '121 s'",
    )
    .await;
    assert_eq!(run.rejoin(&parked, 2).await, None);
    assert_eq!(run.rejoin(&live, 2).await, None);
    execute(
        &database.url(),
        "update herald.channel set parked_at = parked_at + interval '60 s';
         update herald.gateway set seen_at = seen_at + interval '60 s'",
    )
    .await;
    assert_eq!(run.rejoin(&parked, 2).await, Some(cursor(5)));
    assert_eq!(run.rejoin(&live, 2).await, Some(cursor(1)));
    run.stop().await;
}

#[tokio::test]
async fn thousands_who_come_back_cost_a_few_dozen_statements() {
    const USERS: u64 = 2_000;

    let database = migrated().await;
    let run = Run::start(&database.pooled_url().await);
    let keys: Vec<_> = (0..USERS).map(|_| anybody()).collect();
    for (number, key) in (1..).zip(&keys) {
        run.parking
            .park(channel(), Arc::clone(key), cursor(number), Some(1));
    }
    run.written().await;
    let before = run.queries();
    let begun = Instant::now();
    let joins = (1..).zip(&keys).map(|(number, key)| {
        let run = &run;
        async move {
            // Spread over a second, each at its own moment.
            tokio::time::sleep_until(begun + Duration::from_micros(number * 500)).await;
            assert_eq!(run.rejoin(key, 2).await, Some(cursor(number)));
        }
    });
    join_all(joins).await;
    let queries = run.queries() - before;
    assert!(queries < 100.0, "{queries} statements for {USERS} questions");
    run.stop().await;
    let free = "select count(*)::text from herald.channel where taken_by is null";
    assert_eq!(ask(&database.url(), free).await, "0");
}

#[tokio::test]
async fn what_is_noted_while_the_database_is_away_is_written_once_it_is_back() {
    let cluster = Cluster::temporary().await.unwrap();
    let url = cluster.url("postgres");
    execute(&url, APPLICATION).await;
    migrate(&url).await;
    let run = Run::start(&url);
    let (before, meanwhile) = (anybody(), anybody());
    run.parking
        .park(channel(), Arc::clone(&before), cursor(5), Some(1));
    run.written().await;
    for how in [Stop::Fast, Stop::Immediate] {
        // A checkpoint, because commits of the last moments before a crash may be lost.
        execute(&url, "checkpoint").await;
        cluster.stop(how).await.unwrap();
        run.parking
            .park(channel(), Arc::clone(&meanwhile), cursor(6), Some(1));
        let asked = run
            .parking
            .find(vec![wanted(channel(), &meanwhile, 2)])
            .await
            .unwrap_err();
        assert!(matches!(asked, ParkingError::Deadline(_)), "{asked}");
        cluster.start_again().await.unwrap();
        assert_eq!(run.rejoin(&meanwhile, 2).await, Some(cursor(6)));
        assert_eq!(run.rejoin(&before, 2).await, Some(cursor(5)));
    }
    assert_eq!(run.dropped(), 0.0);
    // A connection that is cut in the middle costs an attempt and nothing else.
    for number in 10..20 {
        let key = anybody();
        run.parking
            .park(channel(), Arc::clone(&key), cursor(number), Some(1));
        let terminate =
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'herald pool'";
        let (found, ()) = tokio::join!(run.rejoin(&key, 2), execute(&url, terminate));
        assert_eq!(found, Some(cursor(number)));
    }
    run.stop().await;
}

#[tokio::test]
async fn a_gateway_that_ends_does_not_wait_for_a_database_for_ever() {
    let database = migrated().await;
    let run = Run::start(&database.url());
    let (key, metrics) = (anybody(), Arc::clone(&run.metrics));
    run.written().await;
    // Nothing that is written is taken any more.
    execute(&database.url(), "drop table herald.channel").await;
    run.parking.park(channel(), key, cursor(5), Some(1));
    run.stop().await;
    assert_eq!(
        metric_in(&metrics.render().unwrap(), "parking_dropped_total"),
        1.0
    );
}

#[tokio::test]
async fn what_is_out_of_bounds_is_pruned_and_everything_else_stays() {
    let database = migrated().await;
    execute(
        &database.url(),
        "insert into herald.gateway values
           ('00000000-0000-4000-8000-000000000001', 'e.1-1', now() - interval '121 s'),
           ('00000000-0000-4000-8000-000000000002', 'e.1-1', now());
         insert into herald.channel (session, number, gateway, user_id, topic, device)
           select gen_random_uuid(), 0, ('00000000-0000-4000-8000-00000000000' || gateway)::uuid, gen_random_uuid(), 'live', gateway
             from unnest(array['1', '2', '3']) as gateway;
         insert into herald.channel (session, number, gateway, user_id, topic, device, cursor, parked_at)
           select gen_random_uuid(), 0, gen_random_uuid(), gen_random_uuid(), 'outdated', '', 'e.1-1', now() - interval '121 s'
             from generate_series(1, 7000);
         insert into herald.channel (session, number, gateway, user_id, topic, device, cursor, parked_at)
           select gen_random_uuid(), number, gen_random_uuid(), '00000000-0000-4000-8000-0000000000aa', 'many', '', 'e.1-1',
             now() - interval '1 ms' * number
             from generate_series(1, 300) as number;
         insert into herald.channel (session, number, gateway, user_id, topic, device, cursor, parked_at)
           values (gen_random_uuid(), 0, gen_random_uuid(), gen_random_uuid(), 'one', '', 'e.1-1', now())",
    )
    .await;
    let run = Run::start(&database.pooled_url().await);
    run.written().await;
    let kept = "select string_agg(topic || ' ' || count || ' ' || device, ', ' order by topic, device)
                  from (select topic, device, count(*) from herald.channel group by topic, device) as kept";
    // Four for each session that the user may have.
    assert_eq!(SESSIONS_PER_USER, 8);
    until("pruning", async || {
        ask(&database.url(), kept).await == "live 1 2, many 32 , one 1 "
    })
    .await;
    let newest = "select max(number)::text from herald.channel where topic = 'many'";
    assert_eq!(ask(&database.url(), newest).await, "32");
    let gateways = "select coalesce(string_agg(right(id::text, 1), ''), '') from herald.gateway";
    until("the end of the gateway without channels", async || {
        ask(&database.url(), gateways).await == "2"
    })
    .await;
    run.stop().await;
}
