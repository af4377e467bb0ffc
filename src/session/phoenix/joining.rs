//! Joins, tokens and leaves: how a channel comes to be, whose it is, and how it ends.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use futures::{FutureExt, future::BoxFuture};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use super::{
    KeyHolder, TokenPrint,
    channel::{Channel, Person, Presence, Subscription},
    dialogue::Phoenix,
};
use crate::{
    auth::{AuthError, Identity, Token},
    metrics::ByReason,
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
    session::dialogue::expiry,
    store::parking::Key,
    types::ChannelNumber,
};

/// What every topic begins with, on the wire and not in the pages that name it.
pub(super) const TOPIC_PREFIX: &str = "realtime:";

/// The topic of the socket itself.
const SOCKET_TOPIC: &str = "phoenix";

/// Channels of one connection, as many as Supabase allows.
const CHANNELS_MAX: usize = 100;

/// Keys that look like this are the application's own, and tell nothing of a person.
const APPLICATION_KEY_PREFIX: &str = "sb_";

/// The longest key of a presence that a client may choose, in bytes.
const PRESENCE_KEY_BYTES_MAX: usize = 256;

/// A client sends its join before it has a token if it has to ask for one, and, if the token is there when the answer arrives, never
/// sends it. It joins again with the token if its channel ends with an error, which is done after these times: the first is enough
/// for a token that is fetched, which the client then sends by itself, and adds little to the second that the client waits
/// before it joins again. It may be that there is no person, and then it is left alone.
const ASKED_AGAIN_AFTER: [Duration; 2] = [Duration::from_millis(400), Duration::from_secs(10)];

/// A topic that was joined, and waits for a person or for its channel's place.
#[derive(Debug)]
pub(super) struct Awaited {
    /// Where the feed was.
    pub(super) since: Cursor,
    /// How often the client was asked to join again.
    asked_again: usize,
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

/// How a channel ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaving {
    /// Its client wants no more of it.
    Left,
    /// Something else ended it, and its client may come back.
    Fails,
}

/// What a token is judged for.
enum Purpose {
    /// A join.
    Join(Box<(Message, Join)>),
    /// A channel that has another token from now on.
    Refresh(ChannelNumber),
}

/// Whom a token speaks for; nobody, if it is the application's own.
type Judged = Result<Option<Identity>, AuthError>;

/// A token that is being judged. Nothing more is heard from the client meanwhile.
pub(super) struct Judging<'a> {
    purpose: Purpose,
    token: TokenPrint,
    judged: BoxFuture<'a, Judged>,
}

impl Phoenix<'_> {
    /// Takes in a message.
    pub(super) fn take(&mut self, message: Message) {
        // Before the reference of the join counts: what is parked here has to be older than it.
        if &*message.event == "phx_join" {
            self.give_up_earlier_join(&message.topic);
        }
        let number = message.reference.as_ref().and_then(Reference::number);
        self.reference = self.reference.max(number);
        match (&*message.topic, &*message.event) {
            (SOCKET_TOPIC, "heartbeat") => self.reply(&message, Status::Ok, "{}"),
            (_, "phx_join") => self.join(message),
            _ => self.take_for_channel(&message),
        }
    }

    fn take_for_channel(&mut self, message: &Message) {
        let number = self.by_topic.get(&message.topic).copied().filter(|number| {
            // What was meant for an earlier join of the topic is not taken for this one's.
            let current = self.channels.get(number).map(|channel| &channel.join_reference);
            message.join_reference.is_none() || current == Some(&message.join_reference)
        });
        match (&*message.event, number) {
            ("phx_leave", None) => self.reply(message, Status::Ok, "{}"),
            ("phx_leave", Some(number)) => {
                self.reply(message, Status::Ok, "{}");
                if let Some(channel) = self.channels.get(&number) {
                    self.outgoing.end(channel, "phx_close");
                }
                self.remove(number, Leaving::Left);
            }
            (_, None) => self.refuse(message, "unmatched topic"),
            ("access_token", Some(number)) => self.refresh(number, message),
            ("broadcast", Some(number)) => self.broadcast(number, message),
            ("presence", Some(number)) => self.be_present(number, message),
            (_, Some(_)) => self.refuse(message, "unknown event"),
        }
    }

    pub(super) fn reply(&mut self, message: &Message, status: Status, response: &str) {
        let (join_reference, reference) = (message.join_reference.as_ref(), message.reference.as_ref());
        self.outgoing
            .reply(join_reference, reference, &message.topic, status, response);
    }

    pub(super) fn refuse(&mut self, message: &Message, reason: &str) {
        let (join_reference, reference) = (message.join_reference.as_ref(), message.reference.as_ref());
        self.outgoing
            .refuse(join_reference, reference, &message.topic, reason);
    }

    fn join(&mut self, message: Message) {
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

    /// Whoever joins a topic again has given the earlier join up.
    fn give_up_earlier_join(&mut self, topic: &str) {
        if let Some(number) = self.by_topic.get(topic).copied() {
            if let Some(channel) = self.channels.get(&number) {
                self.outgoing.end(channel, "phx_close");
            }
            self.remove(number, Leaving::Fails);
        }
    }

    fn refresh(&mut self, number: ChannelNumber, message: &Message) {
        let Payload::Json(payload) = &message.payload else {
            return;
        };
        let Some(token) = join::read_token(payload) else {
            return;
        };
        let known = self.channels.get(&number).map(|channel| channel.token);
        if token.starts_with(APPLICATION_KEY_PREFIX) || known == Some(TokenPrint::of(&token)) {
            return;
        }
        self.judge(Purpose::Refresh(number), Some(token));
    }

    /// Has a token judged, at once where that can be. Where there is none, the connection's key stands for it.
    fn judge(&mut self, purpose: Purpose, token: Option<String>) {
        let key = &self.opening.key;
        let own = token
            .filter(|token| !token.starts_with(APPLICATION_KEY_PREFIX) && TokenPrint::of(token) != key.print);
        let Some(token) = own.map(Token::new) else {
            let judged = match &key.holder {
                KeyHolder::Nobody => Ok(None),
                KeyHolder::Person(identity) if identity.expires_at > SystemTime::now() => {
                    Ok(Some(identity.clone()))
                }
                KeyHolder::Person(_) | KeyHolder::Expired => Err(AuthError::Expired),
            };
            return self.judged(purpose, key.print, judged);
        };
        let print = TokenPrint::of(token.expose());
        let verifier = &self.sessions.verifier;
        match verifier.recognise(&token) {
            // The key may be on its way.
            Err(AuthError::UnknownKey | AuthError::KeysUnavailable) => {
                self.judging = Some(Judging {
                    purpose,
                    token: print,
                    judged: async move { verifier.recognise_patiently(&token).await }.boxed(),
                });
            }
            judged => self.judged(purpose, print, judged),
        }
    }

    pub(super) fn poll_judging(&mut self, context: &mut Context<'_>) {
        let Some(judging) = &mut self.judging else { return };
        if let Poll::Ready(judged) = judging.judged.as_mut().poll(context)
            && let Some(Judging { purpose, token, .. }) = self.judging.take()
        {
            self.judged(purpose, token, judged);
        }
    }

    fn judged(&mut self, purpose: Purpose, token: TokenPrint, judged: Judged) {
        if let Err(error) = &judged {
            let reason = error.reason();
            self.sessions
                .metrics
                .auth_failures
                .get_or_create(&ByReason { reason })
                .inc();
            tracing::info!(reason, "a token was refused");
        }
        match purpose {
            Purpose::Join(join) => {
                let (message, join) = *join;
                match judged {
                    Ok(identity) => self.admit(&message, &join, token, identity),
                    Err(error) => self.refuse(&message, &refusal(error)),
                }
            }
            Purpose::Refresh(number) => match judged {
                Ok(identity) => self.hand_over_channel(number, token, identity),
                Err(error) => self.fail(number, &refusal(error)),
            },
        }
    }

    /// Makes a channel of a join, if all that is asked for can be had.
    fn admit(&mut self, message: &Message, join: &Join, token: TokenPrint, identity: Option<Identity>) {
        let bindings = match self.read_bindings(&join.bindings) {
            Ok(Some(bindings)) => bindings,
            Ok(None) => {
                let reason =
                    "InitializingProjectConnection: the database has not been reached yet; join again";
                return self.refuse(message, reason);
            }
            Err(error) => return self.refuse(message, &error.to_string()),
        };
        if join.database.replay {
            let reason = "UnableToReplayMessages: broadcasts are not kept here; join without `replay`";
            return self.refuse(message, reason);
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
    fn note_joined(&mut self, topic: &str) -> Option<&mut Awaited> {
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

    fn person(&self, topic: &str, identity: &Identity) -> Person {
        let session = claim_of_session(identity);
        let device = self.opening.device.as_deref().or(session.as_deref());
        Person {
            user: identity.user,
            expires: expiry(Instant::now(), identity.expires_at),
            key: Arc::new(Key::new(identity.user, topic, device.unwrap_or_default())),
        }
    }

    /// A channel has another token from now on, of the same person, of another, or of nobody.
    fn hand_over_channel(&mut self, number: ChannelNumber, token: TokenPrint, identity: Option<Identity>) {
        let Some(channel) = self.channels.get(&number) else {
            return;
        };
        let topic = channel.topic.clone();
        let (was, is_private) = (channel.user(), channel.is_private);
        let person = identity.map(|identity| self.person(&topic, &identity));
        if person.as_ref().map(|person| person.user) == was {
            let id = self.id(number);
            if let Some(channel) = self.channels.get_mut(&number) {
                channel.person = person;
                channel.token = token;
                // A new sign-in may be another device as far as its key goes, and is looked for as that.
                if let (Some(person), Subscription::Live(place)) = (&channel.person, &channel.subscription)
                    && place.is_proved
                {
                    let key = Arc::clone(&person.key);
                    self.sessions.parking.live(id, key, self.reference);
                }
            }
            return self.set_alarm();
        }
        // What the one before has parked is found by the channel's number, so that the other gets a new one.
        let number = if was.is_some() {
            self.renumber(number)
        } else {
            number
        };
        let key = person
            .as_ref()
            .and_then(|person| self.topic_key(&topic, is_private, person));
        if self
            .channels
            .get(&number)
            .is_some_and(|channel| !channel.bindings.is_empty())
        {
            self.note_joined(&topic);
        }
        let Some(channel) = self.channels.get_mut(&number) else {
            return;
        };
        let needs_topic = channel.bindings.is_empty() || is_private;
        let is_refused = person.is_some() && key.is_none() && needs_topic;
        channel.token = token;
        channel.asked_by = self.reference;
        channel.asked_again_at = None;
        channel.subscription = if person.is_some() && !channel.bindings.is_empty() {
            Subscription::Fresh
        } else {
            Subscription::Silent
        };
        channel.person = person;
        if is_refused {
            self.outgoing.system(channel, "system", "error", UNAUTHORIZED);
            self.outgoing.end(channel, "phx_close");
            return self.remove(number, Leaving::Left);
        }
        if let Some(key) = key {
            self.enter_topic(number, key);
        }
        self.set_alarm();
    }

    /// Parts a channel from its person, and answers with its new number.
    fn renumber(&mut self, number: ChannelNumber) -> ChannelNumber {
        self.part(number, Leaving::Fails);
        self.last_channel.0 += 1;
        let renumbered = self.last_channel;
        if let Some(channel) = self.channels.remove(&number) {
            self.by_topic.insert(channel.topic.clone(), renumbered);
            self.channels.insert(renumbered, channel);
        }
        renumbered
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

    /// Sets the alarm to the first end of a token, or to when a client is asked to join again.
    fn set_alarm(&mut self) {
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
}

impl Phoenix<'_> {
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

/// What a client is told that may not hear or say anything on a topic.
const UNAUTHORIZED: &str =
    "Unauthorized: this topic is not open to you; the operator's HERALD_ALLOWED_TOPICS decides which are";

/// A refusal in the words that Supabase's server has for it, and a sentence of what to do.
fn refusal(error: AuthError) -> String {
    let code = match error {
        AuthError::Expired => return "InvalidJWTToken: Token has expired 0 seconds ago".to_owned(),
        AuthError::Malformed | AuthError::TooLong => "MalformedJWT",
        AuthError::UnsupportedAlgorithm | AuthError::KeysUnavailable => "JwtSignerError",
        AuthError::UnknownKey | AuthError::BadSignature => "JwtSignatureError",
        _ => "InvalidJWTToken",
    };
    format!("{code}: {}", error.detail())
}

/// The claim `session_id`, which Supabase's identity provider gives each sign-in, and so each browser.
fn claim_of_session(identity: &Identity) -> Option<String> {
    #[derive(Deserialize)]
    struct Claims {
        session_id: Option<String>,
    }
    serde_json::from_str::<Claims>(&identity.claims).ok()?.session_id
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
    if chosen.is_empty() || chosen.len() > PRESENCE_KEY_BYTES_MAX {
        Uuid::new_v4().to_string().into()
    } else {
        chosen.into()
    }
}
