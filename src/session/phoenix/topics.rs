//! What is said on topics beside changes: broadcasts and presence, from a client to the topic and back.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    channel::{Person, Presence},
    dialogue::Phoenix,
    joining::TOPIC_PREFIX,
};
use crate::{
    hub::topics::{Member, TopicMessage},
    protocol::{
        phoenix::message::{Content, Message, Payload, Status, quoted},
        topic::TopicKey,
    },
    types::ChannelNumber,
};

/// What a client is told that says something where it may not.
const NOT_ON_TOPIC: &str = "Unauthorized: nothing can be said on this topic by you; the operator's HERALD_ALLOWED_TOPICS decides where it can";

/// A broadcast as a text frame brings it.
#[derive(Deserialize)]
struct BroadcastFields<'a> {
    event: Box<str>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
}

/// A call about presence.
#[derive(Deserialize)]
struct PresenceFields<'a> {
    event: Box<str>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
}

impl Phoenix<'_> {
    /// What a person's name for a topic means, if the rule lets the person join it.
    pub(super) fn topic_key(&self, topic: &str, is_private: bool, person: &Person) -> Option<TopicKey> {
        let name = topic.strip_prefix(TOPIC_PREFIX)?;
        self.sessions.topic_rule.resolve(name, is_private, person.user)
    }

    /// Joins what is said on a topic. A topic that is full is not joined, and its channel is told so.
    pub(super) fn enter_topic(&mut self, number: ChannelNumber, key: TopicKey) {
        let id = self.id(number);
        let Some(channel) = self.channels.get_mut(&number) else {
            return;
        };
        let member = Member {
            channel: id,
            outbox: Arc::clone(&self.outbox),
            hears_presence: channel.presence == Presence::Heard,
        };
        match self.sessions.hub.topics.join(&key, member) {
            Ok(state) => {
                channel.key = Some(key);
                if let Some(state) = state {
                    self.outgoing.push_message(channel, "presence_state", &state);
                }
            }
            Err(error) => {
                let reason = format!("ChannelRateLimitReached: {error}");
                self.outgoing.system(channel, "system", "error", &reason);
            }
        }
    }

    /// Hands a client's broadcast to the others on the topic.
    pub(super) fn broadcast(&mut self, number: ChannelNumber, message: &Message) {
        let Some(channel) = self.channels.get(&number) else {
            return;
        };
        let (options, key) = (channel.broadcast, channel.key.clone());
        let Some(key) = key else {
            return self.refuse(message, NOT_ON_TOPIC);
        };
        let Some((event, content)) = read_broadcast(&message.payload) else {
            return self.refuse(
                message,
                "a broadcast has to be an object with `event` and `payload`",
            );
        };
        let said = Arc::new(TopicMessage::Broadcast { event, content });
        let id = self.id(number);
        match self
            .sessions
            .hub
            .topics
            .broadcast(&key, Some(id), options.hears_itself, &said)
        {
            Ok(_) if options.acknowledges => self.reply(message, Status::Ok, "{}"),
            Ok(_) => {}
            Err(error) => self.refuse(message, &error.to_string()),
        }
    }

    /// Tells the others on the topic that a client is there, or is no more.
    pub(super) fn be_present(&mut self, number: ChannelNumber, message: &Message) {
        let Some(channel) = self.channels.get(&number) else {
            return;
        };
        let Some(key) = channel.key.clone() else {
            return self.refuse(message, NOT_ON_TOPIC);
        };
        let Payload::Json(payload) = &message.payload else {
            return;
        };
        let fields = serde_json::from_str::<PresenceFields<'_>>(payload.get());
        let (id, topics) = (self.id(number), &self.sessions.hub.topics);
        let done = match &fields {
            Ok(PresenceFields {
                event,
                payload: Some(meta),
            }) if &**event == "track" => topics.track(&key, id, &channel.presence_key, meta),
            Ok(PresenceFields { event, .. }) if &**event == "untrack" => {
                topics.untrack(&key, id).map(|()| None)
            }
            _ => {
                let reason = "a presence message has to be an object with `event` (track or untrack) and, to track, `payload`";
                return self.refuse(message, reason);
            }
        };
        match done {
            Ok(state) => {
                self.reply(message, Status::Ok, "{}");
                // A client that had not asked who is present is told from now on.
                if let (Some(state), Some(channel)) = (state, self.channels.get_mut(&number)) {
                    channel.presence = Presence::Heard;
                    self.outgoing.push_message(channel, "presence_state", &state);
                }
            }
            Err(error) => self.refuse(message, &error.to_string()),
        }
    }

    /// Takes what was said on a topic to the channel that has joined it.
    pub(super) fn relay(&mut self, number: ChannelNumber, message: &TopicMessage) {
        // It may have been left, or handed over to somebody else, since.
        let Some(channel) = self.channels.get(&number).filter(|channel| channel.key.is_some()) else {
            return;
        };
        match message {
            TopicMessage::PresenceDiff(diff) => self.outgoing.say(&channel.topic, "presence_diff", &[diff]),
            TopicMessage::Broadcast { event, content } => match content {
                Content::Binary(bytes) => self.outgoing.say_bytes(&channel.topic, event, bytes),
                Content::Json(json) => {
                    let event = quoted(event);
                    let payload = [
                        r#"{"type":"broadcast","event":"#,
                        &event,
                        r#","payload":"#,
                        json.get(),
                        "}",
                    ];
                    self.outgoing.say(&channel.topic, "broadcast", &payload);
                }
            },
        }
    }
}

fn read_broadcast(payload: &Payload) -> Option<(Box<str>, Content)> {
    match payload {
        Payload::Broadcast { event, content } => Some((event.clone(), content.clone())),
        Payload::Json(json) => {
            let fields: BroadcastFields<'_> = serde_json::from_str(json.get()).ok()?;
            let content = match fields.payload {
                Some(payload) => payload.to_owned(),
                None => RawValue::from_string("{}".to_owned()).ok()?,
            };
            Some((fields.event, Content::Json(content)))
        }
    }
}
