//! How long it takes until everybody has what a batch brought.
//!
//! Measured: the time from the moment a batch of events has been read until every outbox is empty again: finding who is
//! here, encoding, queueing, and waking the sessions, which are real tasks on two threads, each taking from its own
//! outbox. Once for one user with 1, 100 and 10,000 sessions who is sent one event, and once for as many users with one
//! session each, of whom each two are sent one event. The throughput counts deliveries. Sessions write to no socket here.
//!
//! Peer: the same tasks, each behind a `tokio::sync::mpsc` of its own, into which one finished text is sent: waking that
//! many tasks and nothing else.
#![allow(
    clippy::unwrap_used,
    reason = "a benchmark that cannot be set up has nothing to tell"
)]

mod support;

use std::{
    future::poll_fn,
    hint::black_box,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use herald::{
    fanout::Fanout,
    hub::{Hub, Outbox, Parcel, outbox::Next},
    metrics::Metrics,
    protocol::{close::CloseCode, event::Event},
    tasks::Tasks,
    types::SessionId,
};
use tokio::{
    runtime::Runtime,
    sync::{Notify, mpsc},
    time::Instant,
};

use support::{
    people::user,
    samples::{event, position},
};

/// The default bound of a gateway.
const OUTBOX_BYTES: usize = 1 << 20;

/// As many events as the feed hands over at once.
const CHUNK: usize = 512;

const CONTENT_BYTES: usize = 50;

/// Counts deliveries that have yet to be taken.
#[derive(Default)]
struct Awaited {
    left: AtomicUsize,
    none: Notify,
}

impl Awaited {
    fn expect(&self, count: usize) {
        self.left.store(count, Ordering::Release);
    }

    fn note(&self) {
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.none.notify_one();
        }
    }
}

/// Sessions that take what comes, and nothing else.
struct Scene {
    hub: Arc<Hub>,
    fanout: Fanout,
    awaited: Arc<Awaited>,
    tasks: Tasks,
}

impl Scene {
    /// `users` users with `sessions` sessions each.
    fn new(runtime: &Runtime, users: u32, sessions: usize) -> Self {
        let hub = Arc::new(Hub::new(sessions, Arc::new(Metrics::new())));
        let scene = Self {
            fanout: Fanout::new(Arc::clone(&hub), Arc::new(Metrics::new())),
            hub,
            awaited: Arc::default(),
            tasks: Tasks::new(),
        };
        let _entered = runtime.enter();
        for number in 0..users {
            for _ in 0..sessions {
                let outbox = Arc::new(Outbox::new(OUTBOX_BYTES));
                let registry = &scene.hub.registry;
                registry.join(user(number), SessionId::random(), Arc::clone(&outbox));
                scene
                    .tasks
                    .spawn("session", session(outbox, Arc::clone(&scene.awaited)));
            }
        }
        scene
    }

    async fn rounds(&self, rounds: u64, events: &[Event], deliveries: usize) -> Duration {
        let mut total = Duration::ZERO;
        for batch in 1..=rounds {
            total += self.round(batch, events, deliveries).await;
        }
        total
    }

    /// One batch, from having been read to having been taken by everybody.
    async fn round(&self, batch: u64, events: &[Event], deliveries: usize) -> Duration {
        let position = position(batch, 0);
        self.awaited.expect(deliveries);
        let began = Instant::now();
        let mut outgoing = self.fanout.publish(position);
        let mut chunks = events.chunks(CHUNK).peekable();
        while let Some(chunk) = chunks.next() {
            let is_last = chunks.peek().is_none();
            self.fanout.hand_over(&mut outgoing, chunk, began, is_last).await;
            if !is_last {
                tokio::task::yield_now().await;
            }
        }
        self.awaited.none.notified().await;
        began.elapsed()
    }

    async fn end(&self) {
        for outbox in self.hub.registry.outboxes() {
            outbox.close(CloseCode::GoingAway);
        }
        self.tasks.finish(Duration::from_secs(30)).await.unwrap();
    }
}

async fn session(outbox: Arc<Outbox>, awaited: Arc<Awaited>) {
    while let Next::Parcel(Parcel::Events(delivery)) = poll_fn(|context| {
        outbox.register(context);
        outbox.take().map_or(Poll::Pending, Poll::Ready)
    })
    .await
    {
        black_box(delivery.frame.text());
        drop(delivery);
        awaited.note();
    }
}

fn fanout(criterion: &mut Criterion) {
    let runtime = support::runtime();
    let mut group = criterion.benchmark_group("fan-out");
    for count in [1u32, 100, 10_000] {
        let deliveries = count as usize;
        group.throughput(Throughput::Elements(count.into()));
        // What the receiver and nobody else is here for, so that deliveries and sessions agree.
        let one: Arc<[Event]> = [event(0, user(u32::MAX), user(0), CONTENT_BYTES)].into();
        let pairs: Arc<[Event]> = (0..count.div_ceil(2))
            .map(|pair| event(pair, user(2 * pair), user(2 * pair + 1), CONTENT_BYTES))
            .collect();
        for (shape, users, sessions, events) in [
            ("sessions of one user", 1, deliveries, one),
            ("users with one session", count, 1, pairs),
        ] {
            let scene = Arc::new(Scene::new(&runtime, users, sessions));
            group.bench_function(format!("{count} {shape}"), |bencher| {
                bencher.iter_custom(|rounds| {
                    let (scene, events) = (Arc::clone(&scene), Arc::clone(&events));
                    on_a_worker(&runtime, async move {
                        scene.rounds(rounds, &events, deliveries).await
                    })
                });
            });
            runtime.block_on(scene.end());
        }
        group.bench_function(format!("{count} bare tasks"), |bencher| {
            bencher.iter_custom(|rounds| on_a_worker(&runtime, bare(rounds, deliveries)));
        });
    }
    group.finish();
}

/// Runs where the gateway's feed runs: on a thread that also runs sessions.
fn on_a_worker(runtime: &Runtime, work: impl Future<Output = Duration> + Send + 'static) -> Duration {
    runtime.block_on(runtime.spawn(work)).unwrap()
}

/// The peer.
async fn bare(rounds: u64, count: usize) -> Duration {
    let (awaited, tasks) = (Arc::new(Awaited::default()), Tasks::new());
    let mut senders = Vec::new();
    for _ in 0..count {
        let (sender, mut receiver) = mpsc::channel::<Arc<str>>(64);
        let awaited = Arc::clone(&awaited);
        senders.push(sender);
        tasks.spawn("bare", async move {
            while let Some(text) = receiver.recv().await {
                black_box(text);
                awaited.note();
            }
        });
    }
    let text: Arc<str> = "a text that everybody gets".into();
    let mut total = Duration::ZERO;
    for _ in 0..rounds {
        awaited.expect(count);
        let began = Instant::now();
        for sender in &senders {
            sender.try_send(Arc::clone(&text)).unwrap();
        }
        awaited.none.notified().await;
        total += began.elapsed();
    }
    drop(senders);
    tasks.finish(Duration::from_secs(30)).await.unwrap();
    total
}

criterion_group! {
    name = benches;
    config = support::brisk();
    targets = fanout
}
criterion_main!(benches);
