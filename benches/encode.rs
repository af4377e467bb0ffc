//! What it costs to encode events for the two people they concern.
//!
//! Measured: the time to build finished frames of 1, 10 and 100 events with content of 50 B and 10 KB, once for the
//! sender and once for the receiver; the throughput counts events, each of which is encoded twice. A frame takes no more
//! events once it has 64 KiB, as in the fan-out, so that large events fill several frames.
//!
//! Peer: `serde_json` writing the same frames, byte for byte the same meaning, from rows that it has parsed before the
//! clock starts. A gateway that handles rows as values instead of as text would parse each of them too.
#![allow(
    clippy::unwrap_used,
    reason = "a benchmark that cannot be set up has nothing to tell"
)]

mod support;

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use herald::{
    protocol::{
        event::Event,
        server_frame::{EventsFrame, EventsFrameBuilder},
    },
    types::UserId,
};
use serde::Serialize;
use serde_json::Value;

use support::{
    people::user,
    samples::{event, position},
};

const SENDER: UserId = user(1);
const RECEIVER: UserId = user(2);

/// One event as a gateway would keep it that has parsed its row.
struct Parsed {
    event: Event,
    row: Value,
}

#[derive(Serialize)]
struct PeerFrame<'a> {
    r#type: &'a str,
    events: Vec<PeerEvent<'a>>,
    cursor: Option<&'a str>,
}

#[derive(Serialize)]
struct PeerEvent<'a> {
    op: &'a str,
    seq: i64,
    conversation: String,
    message: &'a Value,
}

fn encode(criterion: &mut Criterion) {
    let cursor = position(1, 3).cursor().to_string();
    let mut group = criterion.benchmark_group("encode for both people");
    for content_bytes in [50, 10_000] {
        for count in [1, 10, 100] {
            let events: Vec<Event> = (0..count)
                .map(|number| event(number, SENDER, RECEIVER, content_bytes))
                .collect();
            let parsed: Vec<Parsed> = events.iter().map(parse).collect();
            assert_same(&events, &parsed, &cursor);
            group.throughput(Throughput::Elements(count.into()));
            let name = format!("{count} events of {content_bytes} B");
            group.bench_function(format!("{name}/herald"), |bencher| {
                // What was encoded is dropped outside the clock, here and below.
                bencher.iter_batched(
                    || (),
                    |()| herald(black_box(&events), &cursor),
                    BatchSize::SmallInput,
                );
            });
            group.bench_function(format!("{name}/serde_json"), |bencher| {
                bencher.iter_batched(
                    || (),
                    |()| peer(black_box(&parsed), &cursor),
                    BatchSize::SmallInput,
                );
            });
        }
    }
    group.finish();
}

/// Frames for both people, as the fan-out builds them.
fn herald(events: &[Event], cursor: &str) -> Vec<EventsFrame> {
    let mut frames = Vec::new();
    for viewer in [SENDER, RECEIVER] {
        let mut builder = EventsFrameBuilder::new();
        for event in events {
            if builder.is_full() {
                frames.push(std::mem::take(&mut builder).finish(None));
            }
            builder.push(event, viewer);
        }
        frames.push(builder.finish(Some(cursor)));
    }
    frames
}

/// One frame for each person: the peer is spared the division.
fn peer(events: &[Parsed], cursor: &str) -> Vec<String> {
    let frame = |viewer: UserId| {
        let events = events.iter().map(|parsed| PeerEvent {
            op: parsed.event.operation.name(),
            seq: parsed.event.seq,
            conversation: parsed.event.conversation(viewer).to_string(),
            message: &parsed.row,
        });
        let frame = PeerFrame {
            r#type: "events",
            events: events.collect(),
            cursor: Some(cursor),
        };
        serde_json::to_string(&frame).unwrap()
    };
    [SENDER, RECEIVER].map(frame).into()
}

fn parse(event: &Event) -> Parsed {
    Parsed {
        row: serde_json::from_str(event.row.as_deref().unwrap()).unwrap(),
        event: event.clone(),
    }
}

/// Both ways tell the same events, or the comparison would be worth nothing.
fn assert_same(events: &[Event], parsed: &[Parsed], cursor: &str) {
    let all = |text: &str| -> Vec<Value> {
        let frame: Value = serde_json::from_str(text).unwrap();
        frame["events"].as_array().unwrap().clone()
    };
    let ours: Vec<Value> = herald(events, cursor)
        .iter()
        .flat_map(|frame| all(frame.text().as_str()))
        .collect();
    let theirs: Vec<Value> = peer(parsed, cursor).iter().flat_map(|text| all(text)).collect();
    assert_eq!(ours, theirs);
}

criterion_group! {
    name = benches;
    config = support::brisk();
    targets = encode
}
criterion_main!(benches);
