//! Joins: how a channel comes to be.

use std::time::Duration;

use serde_json::value::RawValue;
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    TokenPrint,
    channel::{Channel, Person, Presence, Subscription},
    dialogue::Phoenix,
    tokens::Purpose,
};
use crate::{
    auth::Identity,
    hub::presence::{PRESENCE_KEY_BYTES_MAX, PresenceError},
    protocol::{
        cursor::Cursor,
        phoenix::{
            join::{
                self, BINDINGS_MAX, BINDINGS_OF_CONNECTION_MAX, Binding, BindingError,
                EXPRESSIONS_OF_CONNECTION_MAX, Join, PATTERNS_OF_CONNECTION_MAX,
            },
            message::{Message, Payload, Reference, Status, encode_reply},
        },
        topic::TopicKey,
    },
};

/// What every topic begins with, on the wire and not in the pages that name it.
pub(super) const TOPIC_PREFIX: &str = "realtime:";

/// Channels of one connection, as many as Supabase allows.
const CHANNELS_MAX: usize = 100;

/// A client sends its join before it has a token if it has to ask for one, and, if the token is there when the answer arrives, never
/// sends it. It joins again with the token if its channel ends with an error, which is done after these times: the first is enough
/// for a token that is fetched, which the client then sends by itself, and adds little to the second that the client waits
/// before it joins again. It may be that there is no person, and then it is left alone.
const ASKED_AGAIN_AFTER: [Duration; 2] = [Duration::from_millis(400), Duration::from_secs(10)];

/// What a client is told that may not hear or say anything on a topic.
pub(super) const UNAUTHORIZED: &str =
    "Unauthorized: this topic is not open to you; the operator's HERALD_ALLOWED_TOPICS decides which are";

/// What a client is told before the feed has begun.
pub(super) const NOT_BEGUN: &str =
    "InitializingProjectConnection: the database has not been reached yet; join again";

/// What a client is told whose person has no room for another session.
pub(super) const TOO_MANY_SESSIONS: &str = "ConnectionRateLimitReached: this person has as many sessions as the operator's \
     HERALD_SESSIONS_PER_USER allows; close another page first";

/// A topic that was joined, and waits for a person or for its channel's place.
#[derive(Debug)]
pub(super) struct Awaited {
    /// Where the feed was.
    pub(super) since: Cursor,
    /// How often the client was asked to join again.
    pub(super) asked_again: usize,
}

/// What the bindings of a connection need together.
#[derive(Debug, Default)]
struct BindingsUsage {
    bindings: usize,
    patterns: usize,
    expressions: usize,
}

impl BindingsUsage {
    fn add(&mut self, binding: &Binding) {
        self.bindings += 1;
        self.patterns += binding.filter.patterns();
        self.expressions += binding.filter.expressions();
    }

    const fn is_too_much(&self) -> bool {
        self.bindings > BINDINGS_OF_CONNECTION_MAX
            || self.patterns > PATTERNS_OF_CONNECTION_MAX
            || self.expressions > EXPRESSIONS_OF_CONNECTION_MAX
    }
}

impl Phoenix<'_> {
    pub(super) fn join(&mut self, message: Message) {
        let Payload::Json(payload) = &message.payload else {
            return self.refuse(&message, "unknown event");
        };
        match message.topic.strip_prefix(TOPIC_PREFIX) {
            None => return self.refuse(&message, "unmatched topic"),
            Some("") => {
                return self.refuse(&message, "TopicNameRequired: name the channel");
            }
            Some(_) => {}
        }
        let join = Join::read(payload);
        if self.channels.len() >= CHANNELS_MAX {
            let reason = format!(
                "ChannelRateLimitReached: a connection may have {CHANNELS_MAX} channels; leave one first"
            );
            return self.refuse(&message, &reason);
        }
        let token = join.token.clone();
        self.judge(Purpose::Join(Box::new((message, join))), token);
    }

    /// Makes a channel of a join, if all that is asked for can be had.
    pub(super) fn admit(
        &mut self,
        message: &Message,
        join: &Join,
        token: TokenPrint,
        identity: Option<Identity>,
    ) {
        let bindings = match self.read_bindings(&join.bindings) {
            Ok(Some(bindings)) => bindings,
            Ok(None) => {
                return self.refuse(message, NOT_BEGUN);
            }
            Err(error) => return self.refuse(message, &error.to_string()),
        };
        if join.database.replay {
            let reason = "UnableToReplayMessages: broadcasts are not kept here; join without `replay`";
            return self.refuse(message, reason);
        }
        if join.presence.key.len() > PRESENCE_KEY_BYTES_MAX {
            let reason = format!("{}: choose a shorter one", PresenceError::KeyTooLong);
            return self.refuse(message, &reason);
        }
        let person = identity.map(|identity| self.person(&message.topic, &identity));
        let key = person
            .as_ref()
            .and_then(|person| self.topic_key(&message.topic, join.private, person));
        // A channel that only hears changes may have any name. One that is for nothing but what is said there has to be
        // allowed to a person, as soon as there is one.
        let needs_topic = bindings.is_empty() || join.private || join.presence.enabled == Some(true);
        if person.is_some() && key.is_none() && needs_topic {
            return self.refuse(message, UNAUTHORIZED);
        }
        // The hub is entered before the answer is given: a join that is refused for want of room was never answered with ok.
        if let Some(person) = &person
            && !bindings.is_empty()
            && !self.enter_user(person.user)
        {
            return self.refuse(message, TOO_MANY_SESSIONS);
        }
        let asked_again_at = match &person {
            Some(_) => {
                if !bindings.is_empty() {
                    self.note_joined(&message.topic);
                }
                None
            }
            None => self.await_person(&message.topic, join.token.is_none()),
        };
        let channel = Channel {
            asked_again_at,
            ..channel(message, join, bindings, token, person)
        };
        self.begin(message, join, channel, key);
    }

    /// Answers a join, and begins its channel.
    fn begin(&mut self, message: &Message, join: &Join, mut channel: Channel, key: Option<TopicKey>) {
        let identifiers: Vec<u64> = channel
            .bindings
            .iter()
            .map(|(identifier, _)| *identifier)
            .collect();
        let response = join::encode_bindings(&join.bindings, &identifiers);
        if join.wait && channel.is_subscribed() {
            let (join_reference, reference) = (channel.join_reference.as_ref(), message.reference.as_ref());
            channel.deferred = Some(encode_reply(
                self.opening.serializer,
                join_reference,
                reference,
                &message.topic,
                Status::Ok,
                &response,
            ));
        } else {
            self.reply(message, Status::Ok, &response);
        }
        if join.database.replication_ready {
            self.outgoing
                .system(&channel, "system", "ok", "Replication connection established");
        }
        self.last_channel.0 += 1;
        let number = self.last_channel;
        self.by_topic.insert(channel.topic.clone(), number);
        self.channels.insert(number, Box::new(channel));
        if let Some(key) = key {
            self.enter_topic(number, key);
        }
        self.set_alarm();
    }

    /// Notes from where on nothing may be missed on a topic that was joined without a person. Answers when the client is asked to
    /// join again, if it has brought no token at all.
    fn await_person(&mut self, topic: &str, without_token: bool) -> Option<Instant> {
        let awaited = self.note_joined(topic)?;
        let pause = ASKED_AGAIN_AFTER
            .get(awaited.asked_again)
            .filter(|_| without_token)?;
        Some(Instant::now() + *pause)
    }

    /// Notes that nothing may be missed on a topic from now on. Its channel may wait for its place while those before it are
    /// given theirs, and its client has been told that it has joined.
    pub(super) fn note_joined(&mut self, topic: &str) -> Option<&mut Awaited> {
        let position = self.sessions.hub.position.newest()?;
        self.note_since(topic, position.cursor())
    }

    /// Notes that nothing may be missed on a topic from there on, unless an earlier place has been noted.
    pub(super) fn note_since(&mut self, topic: &str, since: Cursor) -> Option<&mut Awaited> {
        if !self.awaited.contains_key(topic) && self.awaited.len() >= CHANNELS_MAX {
            return None;
        }
        let begin = || Awaited {
            since,
            asked_again: 0,
        };
        Some(self.awaited.entry(topic.into()).or_insert_with(begin))
    }

    /// Reads what changes are asked for; `None` while it is not known which can be told.
    fn read_bindings(
        &mut self,
        bindings: &[Box<RawValue>],
    ) -> Result<Option<Vec<(u64, Binding)>>, BindingError> {
        if bindings.len() > BINDINGS_MAX {
            return Err(BindingError::TooMany);
        }
        if bindings.is_empty() {
            return Ok(Some(Vec::new()));
        }
        let Some(relation) = self.sessions.hub.relation.load_full() else {
            return Ok(None);
        };
        let mut usage = BindingsUsage::default();
        for (_, binding) in self.channels.values().flat_map(|channel| &channel.bindings) {
            usage.add(binding);
        }
        let mut read = Vec::with_capacity(bindings.len());
        for binding in bindings {
            self.last_identifier += 1;
            let binding = Binding::read(binding, &relation)?;
            usage.add(&binding);
            if usage.is_too_much() {
                return Err(BindingError::TooManyOfConnection);
            }
            read.push((self.last_identifier, binding));
        }
        Ok(Some(read))
    }
}

/// The channel that a join asks for.
fn channel(
    message: &Message,
    join: &Join,
    bindings: Vec<(u64, Binding)>,
    token: TokenPrint,
    person: Option<Person>,
) -> Channel {
    let is_subscribed = person.is_some() && !bindings.is_empty();
    let join_reference = message.join_reference.as_ref().or(message.reference.as_ref());
    Channel {
        topic: message.topic.clone(),
        join_reference: join_reference.cloned(),
        asked_by: message.reference.as_ref().and_then(Reference::number),
        bindings: bindings.into(),
        broadcast: join.broadcast,
        is_private: join.private,
        presence_key: presence_key(&join.presence.key),
        presence: if join.presence.enabled == Some(false) {
            Presence::Unheard
        } else {
            Presence::Heard
        },
        token,
        asked_again_at: None,
        person,
        subscription: if is_subscribed {
            Subscription::Fresh
        } else {
            Subscription::Silent
        },
        key: None,
        deferred: None,
    }
}

/// The key that a client has chosen to be present under, or one that nobody else has.
fn presence_key(chosen: &str) -> Box<str> {
    if chosen.is_empty() {
        Uuid::new_v4().to_string().into()
    } else {
        chosen.into()
    }
}
