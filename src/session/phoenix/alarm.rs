//! What a channel's time brings: its token ends, or its client is asked to join again.

use std::{pin::Pin, task::Context};

use futures::FutureExt;
use tokio::time::{Instant, sleep_until};

use super::{channel::Channel, dialogue::Phoenix, leaving::Leaving};
use crate::types::ChannelNumber;

impl Phoenix<'_> {
    /// Sets the alarm to the first end of a token, or to when a client is asked to join again.
    pub(super) fn set_alarm(&mut self) {
        let first = self
            .channels
            .values()
            .flat_map(|channel| {
                let expires = channel.person.as_ref().map(|person| person.expires);
                [expires, channel.asked_again_at]
            })
            .flatten()
            .min();
        match (first, &mut self.alarm) {
            (None, alarm) => *alarm = None,
            (Some(first), Some(alarm)) if alarm.deadline() == first => {}
            (Some(first), Some(alarm)) => alarm.as_mut().reset(first),
            (Some(first), alarm) => *alarm = Some(Box::pin(sleep_until(first))),
        }
    }

    /// Ends the channels whose tokens have ended. Their clients join again, with a new token as soon as they have one.
    pub(super) fn poll_alarm(&mut self, context: &mut Context<'_>) {
        while let Some(alarm) = &mut self.alarm
            && Pin::new(alarm).poll_unpin(context).is_ready()
        {
            let now = Instant::now();
            let expired: Vec<ChannelNumber> = self
                .channels
                .iter()
                .filter(|(_, channel)| {
                    channel
                        .person
                        .as_ref()
                        .is_some_and(|person| person.expires <= now)
                })
                .map(|(number, _)| *number)
                .collect();
            for number in expired {
                self.fail(number, "Token has expired 0 seconds ago");
            }
            self.ask_again(now);
            self.set_alarm();
        }
    }

    /// Ends the channels whose clients may have a token by now and do not say so.
    fn ask_again(&mut self, now: Instant) {
        let is_due = |channel: &Channel| channel.asked_again_at.is_some_and(|at| at <= now);
        let due: Vec<ChannelNumber> = self
            .channels
            .iter()
            .filter(|(_, channel)| is_due(channel))
            .map(|(number, _)| *number)
            .collect();
        for number in due {
            if let Some(channel) = self.channels.get(&number) {
                self.outgoing.end(channel, "phx_error");
                if let Some(awaited) = self.awaited.get_mut(&channel.topic) {
                    awaited.asked_again += 1;
                }
            }
            self.remove(number, Leaving::Fails);
        }
    }
}
