//! How a channel ends: what it heard is parked or forgotten, and its client is told.

use std::sync::Arc;

use super::{channel::Subscription, dialogue::Phoenix};
use crate::types::ChannelNumber;

/// How a channel ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaving {
    /// Its client wants no more of it.
    Left,
    /// Something else ended it, and its client may come back.
    Fails,
}

impl Phoenix<'_> {
    /// Whoever joins a topic again has given the earlier join up.
    pub(super) fn give_up_earlier_join(&mut self, topic: &str) {
        if let Some(number) = self.by_topic.get(topic).copied() {
            if let Some(channel) = self.channels.get(&number) {
                self.outgoing.end(channel, "phx_close");
            }
            self.remove(number, Leaving::Fails);
        }
    }

    /// Ends a channel in a way that makes its client join again.
    pub(super) fn fail(&mut self, number: ChannelNumber, reason: &str) {
        if let Some(channel) = self.channels.get(&number) {
            self.outgoing.system(channel, "system", "error", reason);
            self.outgoing.end(channel, "phx_error");
        }
        self.remove(number, Leaving::Fails);
    }

    /// Parts a channel from its person: what it heard until now is parked or forgotten.
    pub(super) fn part(&mut self, number: ChannelNumber, leaving: Leaving) {
        let id = self.id(number);
        let Some(channel) = self.channels.get(&number) else {
            return;
        };
        if let (Some(person), true) = (&channel.person, channel.is_subscribed()) {
            // A client that leaves what it does not know to be live has given up waiting, and joins again.
            let is_over = leaving == Leaving::Left && self.is_proved(channel);
            match self.position(channel) {
                Some(cursor) if !is_over => {
                    let key = Arc::clone(&person.key);
                    self.sessions.parking.park(id, key, cursor, self.reference);
                }
                _ => self.sessions.parking.leave(id),
            }
        }
        if let Some(channel) = self.channels.get_mut(&number) {
            channel.subscription = Subscription::Silent;
            channel.person = None;
            if let Some(key) = channel.key.take() {
                self.sessions.hub.topics.leave(&key, id);
            }
        }
        self.forget_users();
    }

    /// Ends a channel. What its client is told about it has been said.
    pub(super) fn remove(&mut self, number: ChannelNumber, leaving: Leaving) {
        self.part(number, leaving);
        let Some(channel) = self.channels.remove(&number) else {
            return;
        };
        if leaving == Leaving::Left {
            self.awaited.remove(&channel.topic);
        }
        if self.by_topic.get(&channel.topic) == Some(&number) {
            self.by_topic.remove(&channel.topic);
        }
        self.set_alarm();
    }
}
