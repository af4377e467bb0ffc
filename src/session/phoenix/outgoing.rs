//! What waits to be written: messages in order, and between them the notes on how far a client is once they are.

use std::collections::VecDeque;

use tokio::time::Instant;

use super::{
    Frame,
    channel::{Channel, Place},
};
use crate::{
    protocol::{
        cursor::Cursor,
        phoenix::{
            change::Change,
            message::{self, Reference, Serializer, Status, quoted},
            relation::Relation,
        },
    },
    session::dialogue::Written,
    types::{ChannelNumber, UserId},
};

/// The event under which changes are told.
const POSTGRES_CHANGES: &str = "postgres_changes";

/// One step of what is written.
#[derive(Debug)]
pub(super) enum Step {
    /// A message.
    Write(Written<Frame>),
    /// Everything that was delivered to a user up to here has been written.
    Reached(UserId, Cursor),
    /// Everything that a channel had missed has been written.
    CaughtUp(ChannelNumber),
}

impl Step {
    fn bytes(&self) -> usize {
        match self {
            Self::Write(written) => match &written.frame {
                Frame::Text(text) => text.len(),
                Frame::Binary(bytes) => bytes.len(),
                Frame::Ping(_) => 0,
            },
            Self::Reached(..) | Self::CaughtUp(_) => 0,
        }
    }
}

/// What waits to be written in a session.
#[derive(Debug)]
pub(super) struct Outgoing {
    serializer: Serializer,
    steps: VecDeque<Step>,
    bytes: usize,
}

impl Outgoing {
    pub(super) const fn new(serializer: Serializer) -> Self {
        Self {
            serializer,
            steps: VecDeque::new(),
            bytes: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.steps.len()
    }

    /// The bytes of all messages that wait.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn pop(&mut self) -> Option<Step> {
        let step = self.steps.pop_front();
        self.bytes -= step.as_ref().map_or(0, Step::bytes);
        step
    }

    /// Gives back the room that what was written has taken, if nothing waits.
    pub(super) fn give_back(&mut self) {
        if self.steps.is_empty() {
            self.steps = VecDeque::new();
        }
    }

    pub(super) fn push(&mut self, step: Step) {
        self.bytes += step.bytes();
        self.steps.push_back(step);
    }

    pub(super) fn write(&mut self, frame: Frame) {
        self.push(Step::Write(Written::plain(frame)));
    }

    /// Answers a message of the client.
    pub(super) fn reply(
        &mut self,
        join_reference: Option<&Reference>,
        reference: Option<&Reference>,
        topic: &str,
        status: Status,
        response: &str,
    ) {
        let text = message::encode_reply(
            self.serializer,
            join_reference,
            reference,
            topic,
            status,
            response,
        );
        self.write(Frame::Text(text));
    }

    /// Refuses what a message of the client asks for, and says why.
    pub(super) fn refuse(
        &mut self,
        join_reference: Option<&Reference>,
        reference: Option<&Reference>,
        topic: &str,
        reason: &str,
    ) {
        let response = format!(r#"{{"reason":{}}}"#, quoted(reason));
        self.reply(join_reference, reference, topic, Status::Error, &response);
    }

    /// Tells a channel something that it has not asked for.
    pub(super) fn push_message(&mut self, channel: &Channel, event: &str, payload: &str) {
        let join_reference = channel.join_reference.as_ref();
        let text = message::encode_push(self.serializer, join_reference, &channel.topic, event, &[payload]);
        self.write(Frame::Text(text));
    }

    /// Tells a channel something that concerns everybody on its topic.
    pub(super) fn say(&mut self, topic: &str, event: &str, payload: &[&str]) {
        let text = message::encode_push(self.serializer, None, topic, event, payload);
        self.write(Frame::Text(text));
    }

    /// A broadcast of bytes. Clients that speak version 1.0.0 have no form for it.
    pub(super) fn say_bytes(&mut self, topic: &str, event: &str, content: &[u8]) {
        if self.serializer == Serializer::Arrays
            && let Some(frame) = message::encode_binary_broadcast(topic, event, content)
        {
            self.write(Frame::Binary(frame));
        }
    }

    /// Tells how something about a channel stands.
    pub(super) fn system(&mut self, channel: &Channel, extension: &str, status: &str, message: &str) {
        let name = channel.topic.strip_prefix(super::joining::TOPIC_PREFIX);
        let payload = format!(
            r#"{{"message":{},"status":"{status}","extension":"{extension}","channel":{}}}"#,
            quoted(message),
            quoted(name.unwrap_or(&channel.topic)),
        );
        self.push_message(channel, "system", &payload);
    }

    /// Ends a channel; `event` says whether its client is to come back.
    pub(super) fn end(&mut self, channel: &Channel, event: &str) {
        let text = message::encode_end(
            self.serializer,
            channel.join_reference.as_ref(),
            &channel.topic,
            event,
        );
        self.write(Frame::Text(text));
    }

    /// Tells a channel of a change, if it hears it and has not seen it yet. `committed` is when the oldest of those that came
    /// with it was committed, if it is live.
    pub(super) fn change(
        &mut self,
        channel: &Channel,
        place: &Place,
        relation: &Relation,
        change: &Change,
        committed: Option<Instant>,
    ) {
        let seen = place.ahead.as_ref();
        if seen.is_some_and(|seen| seen.sees(change.transaction)) {
            return;
        }
        // One message for all bindings that want the whole row, and one for each that wants a part of it.
        let mut whole = String::new();
        let mut parts = Vec::new();
        for (identifier, binding) in &channel.bindings {
            if !change.is_for(binding) {
                continue;
            }
            if let Some(select) = &binding.select {
                parts.push((identifier, select));
            } else {
                if !whole.is_empty() {
                    whole.push(',');
                }
                whole.push_str(&identifier.to_string());
            }
        }
        if !whole.is_empty() {
            self.push_change(channel, &whole, change.data(), committed);
        }
        for (identifier, select) in parts {
            let data = change.data_of(relation, select);
            self.push_change(channel, &identifier.to_string(), &data, committed);
        }
    }

    fn push_change(&mut self, channel: &Channel, identifiers: &str, data: &str, committed: Option<Instant>) {
        let payload = [r#"{"ids":["#, identifiers, r#"],"data":"#, data, "}"];
        let text = message::encode_push(self.serializer, None, &channel.topic, POSTGRES_CHANGES, &payload);
        self.push(Step::Write(Written {
            frame: Frame::Text(text),
            events: 1,
            committed,
        }));
    }
}
