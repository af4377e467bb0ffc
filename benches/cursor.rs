//! What reading and writing a cursor costs: the feed writes one for each batch, and each client that comes back brings
//! one.
//!
//! Measured: the time to write and to read one cursor, of a quiet database and of one in which 200 transactions were
//! running.
//!
//! Peer: the text that Postgres itself gives a snapshot, written and read by the same program.
#![allow(
    clippy::unwrap_used,
    reason = "a benchmark that cannot be set up has nothing to tell"
)]

mod support;

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use herald::protocol::{cursor::Cursor, snapshot::Snapshot};

use support::samples::position;

fn codec(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("cursor");
    for (name, running) in [("quiet", 0), ("200 running", 200)] {
        let cursor = position(1, running).cursor();
        let snapshot = &cursor.snapshot;
        let (text, plain) = (cursor.to_string(), snapshot.to_string());
        let name = format!("{name}, {} B and {} B as pg_snapshot", text.len(), plain.len());
        group.bench_function(format!("{name}/write"), |bencher| {
            bencher.iter(|| black_box(&cursor).to_string());
        });
        group.bench_function(format!("{name}/write as pg_snapshot"), |bencher| {
            bencher.iter(|| black_box(snapshot).to_string());
        });
        group.bench_function(format!("{name}/read"), |bencher| {
            bencher.iter(|| black_box(&text).parse::<Cursor>().unwrap());
        });
        group.bench_function(format!("{name}/read as pg_snapshot"), |bencher| {
            bencher.iter(|| Snapshot::read(snapshot.life(), black_box(&plain)).unwrap());
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = support::brisk();
    targets = codec
}
criterion_main!(benches);
