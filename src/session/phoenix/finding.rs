//! Channels that wait for their places, and what they find.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use futures::FutureExt;

use super::{
    Frame,
    channel::{Channel, Place, Subscription},
    dialogue::Phoenix,
    joining::{NOT_BEGUN, TOO_MANY_SESSIONS},
    placing::{Missed, Placed, Unplaced, place},
    telling::Owed,
};
use crate::{
    hub::Position,
    protocol::server_frame::Discontinuity,
    store::parking::Wanted,
    types::{ChannelId, ChannelNumber, UserId},
};

impl Phoenix<'_> {
    /// Begins to look for the places of channels that wait for it, those of one user at a time.
    fn begin_finding(&mut self) {
        while self.finding.is_none() {
            let Some((user, numbers)) = self.fresh() else {
                return;
            };
            // The hub is entered before the position is read, as the invariants of the hub ask for.
            let position = if self.enter_user(user) {
                self.sessions.hub.position.newest().ok_or(NOT_BEGUN)
            } else {
                Err(TOO_MANY_SESSIONS)
            };
            let position = match position {
                Ok(position) => position,
                Err(reason) => {
                    for number in numbers {
                        self.fail(number, reason);
                    }
                    continue;
                }
            };
            let wanted = self.seek(numbers, &position);
            self.finding = Some(place(self.sessions, wanted, position).boxed());
        }
    }

    /// The channels of some user that wait to be given a place.
    pub(super) fn fresh(&self) -> Option<(UserId, Vec<ChannelNumber>)> {
        let fresh = |channel: &Channel| matches!(channel.subscription, Subscription::Fresh);
        let user = self
            .channels
            .values()
            .find(|channel| fresh(channel))
            .and_then(|channel| channel.user())?;
        let numbers = self
            .channels
            .iter()
            .filter(|(_, channel)| fresh(channel) && channel.user() == Some(user))
            .map(|(number, _)| *number)
            .collect();
        Some((user, numbers))
    }

    /// Has the places of these channels looked for.
    pub(super) fn seek(&mut self, numbers: Vec<ChannelNumber>, position: &Position) -> Vec<Wanted> {
        let (session, reference) = (self.opening.session(), self.reference);
        let mut wanted = Vec::with_capacity(numbers.len());
        for number in numbers {
            let Some(channel) = self.channels.get_mut(&number) else {
                continue;
            };
            channel.subscription = Subscription::Finding {
                begins_after: position.batch,
            };
            if let Some(person) = &channel.person {
                let awaited = self.awaited.remove(&channel.topic);
                wanted.push(Wanted {
                    channel: ChannelId { session, number },
                    key: Arc::clone(&person.key),
                    reference: channel.asked_by.or(reference),
                    joined_at: awaited.map(|awaited| awaited.since),
                });
            }
        }
        wanted
    }

    pub(super) fn poll_finding(&mut self, context: &mut Context<'_>) {
        loop {
            self.begin_finding();
            let Some(finding) = &mut self.finding else { return };
            let Poll::Ready(placed) = finding.as_mut().poll(context) else {
                return;
            };
            self.finding = None;
            self.settle(placed);
        }
    }

    /// Gives channels their places.
    pub(super) fn settle(&mut self, placed: Placed) {
        let mut numbers = Vec::with_capacity(placed.len());
        for (wanted, placed) in placed {
            match placed {
                Ok(missed) => numbers.extend(self.settle_one(wanted, missed)),
                Err(unplaced) => self.fail_placing(wanted, unplaced),
            }
        }
        let numbers: Arc<[ChannelNumber]> = numbers.into();
        let held = std::mem::take(&mut self.held).into_iter();
        self.owed.extend(held.map(|delivery| Owed::Delivered {
            delivery,
            numbers: Arc::clone(&numbers),
            next: (0, 0),
            is_held: true,
        }));
        self.owed.extend(numbers.iter().copied().map(Owed::CaughtUp));
    }

    /// Gives a channel its place. Answers with its number, unless it has ended meanwhile.
    fn settle_one(&mut self, wanted: Wanted, missed: Missed) -> Option<ChannelNumber> {
        let number = wanted.channel.number;
        let Some(Channel {
            subscription,
            deferred,
            ..
        }) = self.channels.get_mut(&number).map(Box::as_mut)
        else {
            // The channel has ended meanwhile, and has taken what was parked: it is put back.
            let parking = &self.sessions.parking;
            parking.park(wanted.channel, wanted.key, missed.from, wanted.reference);
            return None;
        };
        let Subscription::Finding { begins_after } = *subscription else {
            return None;
        };
        if let Some(deferred) = deferred.take() {
            self.outgoing.write(Frame::Text(deferred));
        }
        if !missed.frames.is_empty() {
            self.owed.push_back(Owed::Missed {
                number,
                frames: missed.frames,
                next: (0, 0),
            });
        }
        *subscription = Subscription::Live(Place {
            begins_after,
            ahead: missed.ahead,
            from: missed.from,
            until: missed.until,
            proof: None,
            is_proved: false,
        });
        if let Some(reason) = missed.lost {
            let channel = &self.channels[&number];
            self.outgoing
                .system(channel, "postgres_changes", "error", discontinuity(reason));
        }
        Some(number)
    }

    fn fail_placing(&mut self, wanted: Wanted, unplaced: Unplaced) {
        let Unplaced { error, parked } = unplaced;
        self.opening.log.within(|| {
            tracing::warn!(%error, "a channel could not be attached; its client is asked to join again");
        });
        let number = wanted.channel.number;
        let topic = self.channels.get(&number).map(|channel| channel.topic.clone());
        self.fail(
            number,
            "UnableToConnectToProject: the database cannot be asked right now; join again",
        );
        // The client joins again in this very session, which is not told twice of what it has taken: it is put back.
        if let Some(from) = parked {
            let parking = &self.sessions.parking;
            parking.park(wanted.channel, wanted.key, from, wanted.reference);
        }
        if let (Some(topic), Some(since)) = (topic, wanted.joined_at) {
            self.note_since(&topic, since);
        }
    }
}

/// What a client is told whose channel cannot be told all that it missed.
const fn discontinuity(reason: Discontinuity) -> &'static str {
    match reason {
        Discontinuity::TooFar => "Changes before this join are too many to be told: load again what is shown",
        _ => "Changes before this join cannot be told any more: load again what is shown",
    }
}
