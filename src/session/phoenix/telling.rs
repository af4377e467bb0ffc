//! What a client is owed, told change by change.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    channel::{Channel, Subscription},
    dialogue::Phoenix,
    outgoing::Step,
    placing::MissedFrame,
};
use crate::{
    hub::Delivery,
    protocol::{close::CloseCode, phoenix::change::Changes, server_frame::EventsFrame},
    session::End,
    types::ChannelNumber,
};

/// What a client is owed. It is written change by change, so that many channels with many bindings cost no more memory than one.
#[derive(Debug)]
pub(super) enum Owed {
    /// What a channel missed, out of the log.
    Missed {
        number: ChannelNumber,
        frames: Arc<[MissedFrame]>,
        /// The next frame, and the next change in it.
        next: (usize, usize),
    },
    /// Something out of the live stream.
    Delivered {
        delivery: Arc<Delivery>,
        /// The channels that hear it.
        numbers: Arc<[ChannelNumber]>,
        /// The next of these, and the next change for it.
        next: (usize, usize),
        /// Whether it was held while the log was asked.
        is_held: bool,
    },
    /// That was all that a channel had missed.
    CaughtUp(ChannelNumber),
}

impl Phoenix<'_> {
    /// Takes in a delivery of the live stream: for the channels of its user that are live, and for those whose places are being
    /// looked for, all of which hold the same.
    pub(super) fn deliver(&mut self, delivery: Arc<Delivery>) -> Result<(), End> {
        let mut numbers = Vec::new();
        let mut is_held = false;
        for (number, channel) in &self.channels {
            if channel.user() != Some(delivery.user) {
                continue;
            }
            match &channel.subscription {
                Subscription::Finding { begins_after } => is_held |= delivery.position.batch > *begins_after,
                Subscription::Live(place) if delivery.position.batch > place.begins_after => {
                    numbers.push(*number);
                }
                _ => {}
            }
        }
        if is_held {
            self.held_bytes += delivery.cost_bytes();
            self.held.push(Arc::clone(&delivery));
            if self.held_bytes > self.sessions.outbox_bytes {
                return Err(End::Closed(CloseCode::Slow));
            }
        }
        self.owed.push_back(Owed::Delivered {
            delivery,
            numbers: numbers.into(),
            next: (0, 0),
            is_held: false,
        });
        self.deliveries_unpinged += 1;
        Ok(())
    }

    /// Writes the next part of what is owed. Answers whether there was any.
    pub(super) fn pay(&mut self) -> bool {
        let Some(mut owed) = self.owed.pop_front() else {
            return false;
        };
        let is_over = match &mut owed {
            Owed::Missed {
                number,
                frames,
                next: (frame, change),
            } => {
                let is_told = frames
                    .get(*frame)
                    .is_some_and(|missed| self.tell(*number, &missed.changes, &missed.events, *change, None));
                (*frame, *change) = if is_told {
                    (*frame, *change + 1)
                } else {
                    (*frame + 1, 0)
                };
                *frame >= frames.len()
            }
            Owed::Delivered {
                delivery,
                numbers,
                next: (member, change),
                is_held,
            } => {
                if let Some(number) = numbers.get(*member) {
                    let committed = Some(delivery.committed);
                    if self.tell(*number, &delivery.changes, &delivery.frame, *change, committed) {
                        *change += 1;
                    } else {
                        self.note_told(*number, delivery);
                        (*member, *change) = (*member + 1, 0);
                    }
                }
                let is_over = *member >= numbers.len();
                if is_over && *is_held {
                    self.held_bytes = self.held_bytes.saturating_sub(delivery.cost_bytes());
                } else if is_over {
                    self.note_delivered(delivery);
                }
                is_over
            }
            Owed::CaughtUp(number) => {
                if let Some(channel) = self.channels.get(number) {
                    self.outgoing
                        .system(channel, "postgres_changes", "ok", "Subscribed to PostgreSQL");
                    self.outgoing.push(Step::CaughtUp(*number));
                }
                true
            }
        };
        if !is_over {
            self.owed.push_front(owed);
        }
        true
    }

    /// Tells a channel one change of a frame. Answers whether the frame has it, and the channel is still there.
    fn tell(
        &mut self,
        number: ChannelNumber,
        changes: &Changes,
        frame: &EventsFrame,
        change: usize,
        committed: Option<Instant>,
    ) -> bool {
        let relation = self.sessions.hub.relation.load_full();
        let (Some(channel), Some(relation)) = (self.channels.get(&number), relation) else {
            return false;
        };
        let Subscription::Live(place) = &channel.subscription else {
            return false;
        };
        let Some(change) = changes.of(frame, &relation).get(change) else {
            return false;
        };
        self.outgoing.change(channel, place, &relation, change, committed);
        true
    }

    /// A channel has been told a whole delivery: the feed may have caught up with it.
    fn note_told(&mut self, number: ChannelNumber, delivery: &Delivery) {
        if let Some(Channel {
            subscription: Subscription::Live(place),
            ..
        }) = self.channels.get_mut(&number).map(Box::as_mut)
            && delivery.frame.carries_cursor()
            && place
                .ahead
                .as_ref()
                .is_some_and(|ahead| delivery.position.snapshot.covers(ahead))
        {
            place.ahead = None;
        }
    }

    /// All channels have been told a delivery.
    fn note_delivered(&mut self, delivery: &Delivery) {
        if delivery.frame.carries_cursor() {
            let cursor = delivery.position.cursor();
            self.outgoing.push(Step::Reached(delivery.user, cursor));
        }
    }
}
