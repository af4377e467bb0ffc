//! Hands the events of a batch to the sessions of the people they concern: encoded once per point of view, and only
//! for people who are here.
//!
//! It waits for nobody: a session whose outbox is full is closed as slow and resumes from its cursor. It only lets those go on to whom it has handed
//! something, some at a time.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use tokio::time::Instant;

use crate::{
    hub::{Delivery, Hub, Position, outbox::Push},
    metrics::{ByOperation, Metrics},
    protocol::{
        event::{Event, Operation},
        phoenix::change::Changes,
        server_frame::{EventsFrame, EventsFrameBuilder},
    },
    types::UserId,
};

/// How many sessions are handed something before they may go on. What they need is still in the processor's caches then; and a worker of tokio
/// keeps 256 tasks to itself, and puts more of them where all workers look, which costs twice.
const SESSIONS_AT_ONCE: usize = 100;

/// The fan-out of one gateway.
#[derive(Debug)]
pub struct Fanout {
    hub: Arc<Hub>,
    metrics: Arc<Metrics>,
}

/// One batch on its way out.
///
/// All events of a batch for one person go out in one frame with the batch's cursor, if they fit. A person who was
/// sent a frame without a cursor is owed one: it comes with the last frame, which may be without events.
#[derive(Debug)]
pub struct Outgoing {
    position: Arc<Position>,
    cursor: String,
    owed_a_cursor: HashSet<UserId>,
    /// Sessions that were handed something and may not have gone on yet.
    woken: usize,
}

impl Fanout {
    /// A fan-out to the sessions of this hub.
    pub const fn new(hub: Arc<Hub>, metrics: Arc<Metrics>) -> Self {
        Self { hub, metrics }
    }

    /// Publishes a batch's position. Sessions that attach from now on take the batch from the log.
    pub fn publish(&self, position: Position) -> Outgoing {
        let position = Arc::new(position);
        self.hub.position.publish(Arc::clone(&position));
        let cursor = position.cursor().to_string();
        Outgoing {
            position,
            cursor,
            owed_a_cursor: HashSet::new(),
            woken: 0,
        }
    }

    /// Hands over some events of a published batch, in the order given. With `is_last`, the batch ends here.
    /// `committed` is when the oldest of the events was committed.
    ///
    /// # Cancel safety
    /// Not safe: some may have been handed the events, and others not.
    pub async fn hand_over(
        &self,
        outgoing: &mut Outgoing,
        events: &[Event],
        committed: Instant,
        is_last: bool,
    ) {
        self.count(events);
        let mut builders: HashMap<UserId, EventsFrameBuilder> = HashMap::new();
        for event in events {
            for user in event.users().filter(|user| self.hub.registry.is_present(*user)) {
                let builder = builders.entry(user).or_default();
                if builder.is_full() {
                    let frame = std::mem::take(builder).finish(None);
                    self.deliver(outgoing, user, frame, committed).await;
                }
                builder.push(event, user);
            }
        }
        for (user, builder) in builders {
            let frame = builder.finish(is_last.then_some(&outgoing.cursor));
            self.deliver(outgoing, user, frame, committed).await;
        }
        if is_last {
            for user in std::mem::take(&mut outgoing.owed_a_cursor) {
                let frame = EventsFrameBuilder::new().finish(Some(&outgoing.cursor));
                self.deliver(outgoing, user, frame, committed).await;
            }
            self.hub.position.settle(Arc::clone(&outgoing.position));
        }
    }

    fn count(&self, events: &[Event]) {
        for operation in Operation::ALL {
            let count = events.iter().filter(|event| event.operation == operation).count() as u64;
            if count > 0 {
                let counter = self.metrics.events_read.get_or_create_owned(&ByOperation {
                    operation: operation.name(),
                });
                counter.inc_by(count);
            }
        }
    }

    async fn deliver(&self, outgoing: &mut Outgoing, user: UserId, frame: EventsFrame, committed: Instant) {
        if frame.carries_cursor() {
            outgoing.owed_a_cursor.remove(&user);
        } else {
            outgoing.owed_a_cursor.insert(user);
        }
        let delivery = Delivery {
            user,
            position: Arc::clone(&outgoing.position),
            frame,
            committed,
            changes: Changes::default(),
        };
        let delivery = Arc::new(delivery);
        let channel = self.hub.registry.channel(user);
        for outbox in channel.outboxes() {
            match outbox.push(Arc::clone(&delivery)) {
                Push::Queued => outgoing.woken += 1,
                Push::Overflowed => {
                    self.metrics.outbox_overflows.inc();
                }
                Push::Closed | Push::Passed => {}
            }
            if outgoing.woken >= SESSIONS_AT_ONCE {
                outgoing.woken = 0;
                tokio::task::yield_now().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use serde_json::Value;
    use uuid::Uuid;

    use super::*;
    use crate::{
        hub::{Outbox, Parcel, outbox::Next},
        protocol::{
            cursor::Epoch,
            event::Operation,
            snapshot::{Snapshot, Transaction},
        },
        types::{BatchNumber, SessionId},
    };

    fn user(number: u128) -> UserId {
        UserId(Uuid::from_u128(number))
    }

    fn event(seq: i64, sender: u128, receiver: u128, content: &str) -> Event {
        Event {
            seq,
            transaction: Transaction { life: 1, xid: 1 },
            logged_at: SystemTime::UNIX_EPOCH,
            operation: Operation::Insert,
            message: Uuid::from_u128(9),
            sender: user(sender),
            receiver: user(receiver),
            product: None,
            row: Some(format!(r#"{{"content":"{content}"}}"#).into()),
        }
    }

    fn position() -> Position {
        let snapshot = Arc::new(Snapshot::new(1, 9, 9, Vec::new()).unwrap());
        Position {
            epoch: Epoch::new("e").unwrap(),
            batch: BatchNumber(1),
            snapshot,
        }
    }

    struct Scene {
        fanout: Fanout,
        outboxes: Vec<Arc<Outbox>>,
    }

    /// Two sessions of user 1, one of user 2, nobody else.
    fn scene() -> Scene {
        let hub = Arc::new(Hub::new(8, Arc::new(Metrics::new())));
        let outboxes: Vec<_> = [1, 1, 2]
            .into_iter()
            .map(|number| {
                let outbox = Arc::new(Outbox::new(1 << 20));
                hub.registry
                    .join(user(number), SessionId::random(), Arc::clone(&outbox));
                outbox
            })
            .collect();
        Scene {
            fanout: Fanout::new(hub, Arc::new(Metrics::new())),
            outboxes,
        }
    }

    fn received(outbox: &Outbox) -> Vec<(Arc<Delivery>, Value)> {
        std::iter::from_fn(|| match outbox.take() {
            Some(Next::Parcel(Parcel::Events(delivery))) => {
                let text = serde_json::from_str(delivery.frame.text().as_str()).unwrap();
                Some((delivery, text))
            }
            _ => None,
        })
        .collect()
    }

    #[tokio::test]
    async fn each_point_of_view_is_encoded_once_and_shared_by_its_sessions() {
        let scene = scene();
        let mut outgoing = scene.fanout.publish(position());
        scene
            .fanout
            .hand_over(
                &mut outgoing,
                &[event(1, 1, 2, "x"), event(2, 1, 3, "y")],
                Instant::now(),
                true,
            )
            .await;
        let all: Vec<_> = scene.outboxes.iter().map(|outbox| received(outbox)).collect();
        assert!(Arc::ptr_eq(&all[0][0].0, &all[1][0].0));
        assert_eq!(all[0][0].1["events"].as_array().unwrap().len(), 2);
        assert_eq!(all[2][0].1["events"].as_array().unwrap().len(), 1);
        assert!(
            all.iter()
                .all(|frames| frames.len() == 1 && frames[0].1["cursor"] == "e.1-8")
        );
    }

    #[tokio::test]
    async fn a_message_to_oneself_is_delivered_once() {
        let scene = scene();
        let mut outgoing = scene.fanout.publish(position());
        scene
            .fanout
            .hand_over(&mut outgoing, &[event(1, 2, 2, "note")], Instant::now(), true)
            .await;
        let frames = received(&scene.outboxes[2]);
        assert_eq!(frames.len(), 1);
        assert_eq!(frames[0].1["events"].as_array().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_split_batch_carries_its_cursor_at_its_end_only_and_everybody_gets_it() {
        let scene = scene();
        let long = "x".repeat(40_000);
        let mut outgoing = scene.fanout.publish(position());
        let first: Vec<_> = (0..4)
            .map(|seq| event(seq, 1, 3, &long))
            .chain([event(4, 2, 3, "short")])
            .collect();
        scene
            .fanout
            .hand_over(&mut outgoing, &first, Instant::now(), false)
            .await;
        scene
            .fanout
            .hand_over(&mut outgoing, &[event(5, 1, 3, "end")], Instant::now(), true)
            .await;
        let frames = received(&scene.outboxes[0]);
        let cursors: Vec<bool> = frames
            .iter()
            .map(|(_, text)| text.get("cursor").is_some())
            .collect();
        assert_eq!(cursors, [false, false, true]);
        let counts: Vec<usize> = frames
            .iter()
            .map(|(delivery, _)| delivery.frame.events())
            .collect();
        assert_eq!(counts, [2, 2, 1]);
        // User 2 has nothing in the second part and is sent the cursor all the same.
        let frames = received(&scene.outboxes[2]);
        let counts: Vec<usize> = frames
            .iter()
            .map(|(delivery, _)| delivery.frame.events())
            .collect();
        assert_eq!(counts, [1, 0]);
        assert_eq!(frames[1].1["cursor"], "e.1-8");
    }
}
