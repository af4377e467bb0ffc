//! What the queue between the fan-out and a session costs.
//!
//! Measured: the time for one delivery to be pushed and taken, alone and as one of 64 that are pushed before they are
//! taken; no session waits meanwhile, so that nobody is woken.
//!
//! Peer: the same through `tokio::sync::mpsc`, which is bounded in items and not in bytes, and cannot be emptied by its
//! sender.
#![allow(
    clippy::unwrap_used,
    reason = "a benchmark that cannot be set up has nothing to tell"
)]

mod support;

use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use herald::{
    hub::{Delivery, Outbox, outbox::Push},
    protocol::server_frame::EventsFrameBuilder,
};
use tokio::{sync::mpsc, time::Instant};

use support::{
    people::user,
    samples::{event, position},
};

/// The default bound of a gateway.
const OUTBOX_BYTES: usize = 1 << 20;

fn outbox(criterion: &mut Criterion) {
    let delivery = delivery();
    let mut group = criterion.benchmark_group("outbox");
    for waiting in [1u32, 64] {
        group.throughput(Throughput::Elements(waiting.into()));
        group.bench_function(format!("{waiting} pushed and taken/herald"), |bencher| {
            let outbox = Outbox::new(OUTBOX_BYTES);
            bencher.iter(|| {
                for _ in 0..waiting {
                    assert_eq!(outbox.push(Arc::clone(&delivery)), Push::Queued);
                }
                for _ in 0..waiting {
                    outbox.take().unwrap();
                }
            });
        });
        group.bench_function(format!("{waiting} pushed and taken/mpsc"), |bencher| {
            let (sender, mut receiver) = mpsc::channel(64);
            bencher.iter(|| {
                for _ in 0..waiting {
                    sender.try_send(Arc::clone(&delivery)).unwrap();
                }
                for _ in 0..waiting {
                    receiver.try_recv().unwrap();
                }
            });
        });
    }
    group.finish();
}

fn delivery() -> Arc<Delivery> {
    let position = position(1, 0);
    let mut builder = EventsFrameBuilder::new();
    builder.push(&event(1, user(1), user(2), 50), user(1));
    Arc::new(Delivery {
        user: herald::types::UserId(uuid::Uuid::nil()),
        position: Arc::new(position),
        frame: builder.finish(None),
        committed: Instant::now(),
        changes: herald::protocol::phoenix::change::Changes::default(),
    })
}

criterion_group! {
    name = benches;
    config = support::brisk();
    targets = outbox
}
criterion_main!(benches);
