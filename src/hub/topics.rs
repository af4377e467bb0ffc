//! What is said on topics, beside the committed changes: broadcasts and presence. Who has joined which topic, who is
//! present there, and handing over to all of them.
//!
//! A topic lives from its first member to its last, in this gateway alone: nothing of it is kept, and another gateway has a
//! topic of its own under the same key.
//!
//! Whatever happens on a topic happens under its lock, pushes into outboxes included, so that all members see it in the same
//! order: the state that a member is given and the diffs after it fit exactly. Nothing waits under the lock, a push neither,
//! and how long it is held is bounded by the number of members. The lock of a topic may be held while the map is locked for a
//! moment, and never the other way round. No guard, of the map or of a topic, leaves a function of this file.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use dashmap::DashMap;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::{
    delivery::Parcel,
    outbox::{Outbox, Push},
    presence::{self, Fields, Presence, PresenceError, References},
};
use crate::{
    metrics::Metrics,
    protocol::{phoenix::message::Content, topic::TopicKey},
    quota::Rate,
    types::ChannelId,
};

/// What is said on a topic, made once for all who hear it.
#[derive(Debug)]
pub enum TopicMessage {
    /// One member says something to the others.
    Broadcast {
        /// What kind of thing, as its sender calls it.
        event: Box<str>,
        /// What is said.
        content: Content,
    },
    /// Who came and who went: a JSON object with `joins` and `leaves`.
    PresenceDiff(Box<str>),
}

impl TopicMessage {
    /// What it counts against an outbox's bound: its text and this structure around it.
    pub fn cost_bytes(&self) -> usize {
        let text = match self {
            Self::Broadcast { event, content } => {
                event.len()
                    + match content {
                        Content::Json(json) => json.get().len(),
                        Content::Binary(bytes) => bytes.len(),
                    }
            }
            Self::PresenceDiff(diff) => diff.len(),
        };
        text + size_of::<Self>()
    }
}

/// What is allowed on each topic.
#[derive(Clone, Copy, Debug)]
pub struct TopicLimits {
    /// Members at once.
    pub members: usize,
    /// Broadcasts and changes of presence a second, all members together; as many may come at once.
    pub messages_per_second: u32,
    /// Tracks and untracks a second of one channel, of which those of half a minute may come at once.
    pub presence_calls_per_second: u32,
}

/// How long a channel may save up its tracks and untracks. A page that has just been opened may track a few times in a row.
const PRESENCE_BURST: Duration = Duration::from_secs(30);

/// How long a topic may save up its messages: it bounds what reaches an outbox in one moment.
const MESSAGES_BURST: Duration = Duration::from_secs(1);

impl Default for TopicLimits {
    fn default() -> Self {
        Self {
            // Every message is pushed to each of them, and each who goes is told to all others: half a million pushes if all
            // go at once. A conversation has two people with a few pages each, and a lobby is no stadium.
            members: 1000,
            // To a thousand members that is a million pushes a second, of which a gateway should not do many more beside its
            // true work.
            messages_per_second: 1000,
            // A person who changes what is told of him or her with every other second is not stopped; Supabase's free plan
            // stops at 5 in 30 seconds.
            presence_calls_per_second: 2,
        }
    }
}

/// A channel that joins a topic.
#[derive(Clone, Debug)]
pub struct Member {
    /// Which channel it is.
    pub channel: ChannelId,
    /// What its session takes from.
    pub outbox: Arc<Outbox>,
    /// Whether it is told who is present.
    pub hears_presence: bool,
}

/// The topic has as many members as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("The topic has as many members as it may have")]
pub struct TopicFull;

/// More is said on the topic than may be. The sentence is that of Supabase's server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Too many messages per second")]
pub struct TooManyMessages;

/// All topics that have members.
#[derive(Debug)]
pub struct Topics {
    by_key: DashMap<TopicKey, Arc<Mutex<Topic>>>,
    members_max: usize,
    messages: Rate,
    presence_calls: Rate,
    references: References,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct Topic {
    seats: HashMap<ChannelId, Seat>,
    /// The bucket of its messages.
    full_at: Instant,
    /// Its last member has left, and it is no longer in the map.
    is_over: bool,
}

#[derive(Debug)]
struct Seat {
    outbox: Arc<Outbox>,
    hears_presence: bool,
    presence: Option<Presence>,
    /// The bucket of its tracks and untracks.
    full_at: Instant,
}

impl Topics {
    /// Nobody has joined any.
    pub fn new(limits: TopicLimits, metrics: Arc<Metrics>) -> Self {
        Self {
            by_key: DashMap::new(),
            members_max: limits.members.max(1),
            messages: Rate::new(limits.messages_per_second, MESSAGES_BURST),
            presence_calls: Rate::new(limits.presence_calls_per_second, PRESENCE_BURST),
            references: References::new(),
            metrics,
        }
    }

    /// Lets a channel in, which stays until it leaves. One that hears presence is answered with the state, which is to reach its
    /// client before anything that is taken from the outbox after this: the diffs that follow begin where it ends.
    ///
    /// A channel that is in already leaves first.
    ///
    /// # Errors
    /// [`TopicFull`].
    pub fn join(&self, key: &TopicKey, member: Member) -> Result<Option<String>, TopicFull> {
        loop {
            let topic = self.find_or_begin(key);
            let mut topic = lock(&topic);
            // Another turn only if the topic ended since it was found, so that each turn is somebody else's whole stay.
            if !topic.is_over {
                return self.seat(&mut topic, member);
            }
        }
    }

    fn seat(&self, topic: &mut Topic, member: Member) -> Result<Option<String>, TopicFull> {
        if let Some(before) = topic.seats.remove(&member.channel) {
            self.gone(topic, before);
        }
        if topic.seats.len() >= self.members_max {
            self.metrics.refuse_topic("full");
            return Err(TopicFull);
        }
        let seat = Seat {
            outbox: member.outbox,
            hears_presence: member.hears_presence,
            presence: None,
            full_at: Instant::now(),
        };
        topic.seats.insert(member.channel, seat);
        self.metrics.topic_members.inc();
        Ok(member.hears_presence.then(|| topic.state()))
    }

    /// Lets a channel go, and its presence with it, which the others are told. Leaving twice changes nothing.
    pub fn leave(&self, key: &TopicKey, channel: ChannelId) {
        let Some(topic) = self.find(key) else { return };
        let mut topic = lock(&topic);
        let Some(seat) = topic.seats.remove(&channel) else {
            return;
        };
        self.gone(&topic, seat);
        if topic.seats.is_empty() {
            // It had a member until now, so that it is the one in the map.
            topic.is_over = true;
            self.by_key.remove(key);
            self.metrics.topics.dec();
        }
    }

    /// Counts and tells that a member is gone.
    fn gone(&self, topic: &Topic, seat: Seat) {
        self.metrics.topic_members.dec();
        if let Some(left) = seat.presence {
            self.tell(topic, None, Some(&left));
        }
    }

    /// Hands a message to all members, and to the channel it comes `from` only if it wants its own (`to_self`); what comes over
    /// HTTP comes from none. Answers how many outboxes took it. A session may find it after its channel has left.
    ///
    /// # Errors
    /// [`TooManyMessages`]: nobody was handed anything.
    pub fn broadcast(
        &self,
        key: &TopicKey,
        from: Option<ChannelId>,
        to_self: bool,
        message: &Arc<TopicMessage>,
    ) -> Result<usize, TooManyMessages> {
        let Some(topic) = self.find(key) else {
            // Nobody listens. The sender's own quota bounds how often this is asked.
            self.metrics.broadcasts.inc();
            return Ok(0);
        };
        let mut topic = lock(&topic);
        if !self.messages.take(&mut topic.full_at, 1, Instant::now()) {
            self.metrics.refuse_topic("messages");
            return Err(TooManyMessages);
        }
        self.metrics.broadcasts.inc();
        Ok(self.push(&topic, message, |channel, _| to_self || from != Some(channel)))
    }

    /// Says who a channel's person is, under a key that several channels may share; a channel that has said so already
    /// takes that back with it. Members that hear presence are told, the channel itself among them.
    ///
    /// A channel that did not hear presence does from now on, and is answered with the state: see [`Self::join`].
    ///
    /// # Errors
    /// [`PresenceError`]: nothing has changed.
    pub fn track(
        &self,
        key: &TopicKey,
        channel: ChannelId,
        presence_key: &str,
        meta: &RawValue,
    ) -> Result<Option<String>, PresenceError> {
        let fields = Fields::read(presence_key, meta);
        self.count(self.call(key, channel, |topic| {
            let fields = fields?;
            let seat = topic.seats.get_mut(&channel).ok_or(PresenceError::NotJoined)?;
            let before = seat.presence.as_ref();
            if !before.is_some_and(|before| before.says(presence_key, &fields)) {
                if !self.messages.take(&mut topic.full_at, 1, Instant::now()) {
                    return Err(PresenceError::TooManyOnTopic);
                }
                let now = Presence::new(presence_key, fields, before, &self.references);
                let before = seat.presence.replace(now.clone());
                self.tell(topic, Some(&now), before.as_ref());
            }
            Ok(topic.begin_to_hear(channel))
        }))
    }

    /// Takes back who a channel's person is, if it has said so; the members that hear presence are told.
    ///
    /// # Errors
    /// [`PresenceError`]: nothing has changed.
    pub fn untrack(&self, key: &TopicKey, channel: ChannelId) -> Result<(), PresenceError> {
        self.count(self.call(key, channel, |topic| {
            let seat = topic.seats.get_mut(&channel).ok_or(PresenceError::NotJoined)?;
            if let Some(left) = seat.presence.take() {
                self.tell(topic, None, Some(&left));
            }
            Ok(())
        }))
    }

    /// Who is present: a JSON object of presence keys, each with its `metas`.
    pub fn state(&self, key: &TopicKey) -> String {
        self.find(key)
            .map_or_else(|| "{}".to_owned(), |topic| lock(&topic).state())
    }

    /// How many topics have members.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether no topic has any.
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// How many members a topic has.
    pub fn members(&self, key: &TopicKey) -> usize {
        self.find(key).map_or(0, |topic| lock(&topic).seats.len())
    }

    /// What a channel asks about its presence, if it has not asked too often.
    fn call<T>(
        &self,
        key: &TopicKey,
        channel: ChannelId,
        act: impl FnOnce(&mut Topic) -> Result<T, PresenceError>,
    ) -> Result<T, PresenceError> {
        let topic = self.find(key).ok_or(PresenceError::NotJoined)?;
        let mut topic = lock(&topic);
        let seat = topic.seats.get_mut(&channel).ok_or(PresenceError::NotJoined)?;
        if self.presence_calls.take(&mut seat.full_at, 1, Instant::now()) {
            act(&mut topic)
        } else {
            Err(PresenceError::TooManyOfChannel)
        }
    }

    fn count<T>(&self, outcome: Result<T, PresenceError>) -> Result<T, PresenceError> {
        outcome.inspect_err(|error| {
            self.metrics.refuse_topic(match error {
                PresenceError::TooManyOfChannel | PresenceError::TooManyOnTopic => "presence_rate",
                PresenceError::NotJoined
                | PresenceError::TooLarge
                | PresenceError::NotAnObject
                | PresenceError::KeyTooLong => "presence_payload",
            });
        })
    }

    fn tell(&self, topic: &Topic, joins: Option<&Presence>, leaves: Option<&Presence>) {
        if topic.seats.values().any(|seat| seat.hears_presence) {
            let diff = Arc::new(TopicMessage::PresenceDiff(presence::diff(joins, leaves)));
            self.push(topic, &diff, |_, seat| seat.hears_presence);
        }
    }

    fn push(
        &self,
        topic: &Topic,
        message: &Arc<TopicMessage>,
        hears: impl Fn(ChannelId, &Seat) -> bool,
    ) -> usize {
        let mut queued = 0;
        for (channel, seat) in &topic.seats {
            if !hears(*channel, seat) {
                continue;
            }
            match seat.outbox.push(Parcel::Topic {
                channel: channel.number,
                message: Arc::clone(message),
            }) {
                Push::Queued => queued += 1,
                // It has closed itself, and its session will leave.
                Push::Overflowed => {
                    self.metrics.outbox_overflows.inc();
                }
                Push::Closed | Push::Passed => {}
            }
        }
        queued
    }

    fn find(&self, key: &TopicKey) -> Option<Arc<Mutex<Topic>>> {
        self.by_key.get(key).map(|topic| Arc::clone(&topic))
    }

    fn find_or_begin(&self, key: &TopicKey) -> Arc<Mutex<Topic>> {
        self.find(key).unwrap_or_else(|| {
            let begin = || {
                self.metrics.topics.inc();
                Arc::new(Mutex::new(Topic {
                    seats: HashMap::new(),
                    full_at: Instant::now(),
                    is_over: false,
                }))
            };
            Arc::clone(&self.by_key.entry(key.clone()).or_insert_with(begin))
        })
    }
}

impl Topic {
    fn state(&self) -> String {
        presence::state(self.seats.values().filter_map(|seat| seat.presence.as_ref()))
    }

    /// The state for a member that has not heard of presence before, and will from now on.
    fn begin_to_hear(&mut self, channel: ChannelId) -> Option<String> {
        let seat = self.seats.get_mut(&channel)?;
        let begins = !std::mem::replace(&mut seat.hears_presence, true);
        begins.then(|| self.state())
    }
}

fn lock(topic: &Mutex<Topic>) -> MutexGuard<'_, Topic> {
    // No code that can panic runs under the lock, so that a poisoned topic is still whole.
    topic.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::{Value, json};
    use uuid::Uuid;

    use super::{super::outbox::Next, *};
    use crate::{
        protocol::{close::CloseCode, topic::TopicRule},
        types::{ChannelNumber, SessionId, UserId},
    };

    fn key(name: &str) -> TopicKey {
        let everything = TopicRule::parse("*").unwrap();
        everything.resolve(name, false, UserId(Uuid::nil())).unwrap()
    }

    fn channel(number: u8) -> ChannelId {
        ChannelId {
            session: SessionId(Uuid::from_u128(number.into())),
            number: ChannelNumber(number.into()),
        }
    }

    fn topics(limits: TopicLimits) -> Topics {
        Topics::new(limits, Arc::new(Metrics::new()))
    }

    /// Limits that no test meets by chance.
    fn wide() -> TopicLimits {
        TopicLimits {
            members: 1000,
            messages_per_second: 1_000_000,
            presence_calls_per_second: 1_000_000,
        }
    }

    fn broadcast(text: &str) -> Arc<TopicMessage> {
        Arc::new(TopicMessage::Broadcast {
            event: "said".into(),
            content: Content::Json(raw(&Value::from(text).to_string())),
        })
    }

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    /// A member as its client sees things: by the state it was given and the diffs that it was told since.
    struct Client {
        channel: ChannelId,
        outbox: Arc<Outbox>,
        present: Option<Value>,
        said: Vec<String>,
    }

    impl Client {
        fn join(topics: &Topics, name: &str, number: u8, hears_presence: bool) -> Self {
            let (channel, outbox) = (channel(number), Arc::new(Outbox::new(1 << 30)));
            let member = Member {
                channel,
                outbox: Arc::clone(&outbox),
                hears_presence,
            };
            let state = topics.join(&key(name), member).unwrap();
            assert_eq!(state.is_some(), hears_presence);
            Self {
                channel,
                outbox,
                present: state.map(|state| serde_json::from_str(&state).unwrap()),
                said: Vec::new(),
            }
        }

        fn track(&mut self, topics: &Topics, name: &str, presence_key: &str, meta: &Value) {
            let meta = raw(&meta.to_string());
            let state = topics
                .track(&key(name), self.channel, presence_key, &meta)
                .unwrap();
            if let Some(state) = state {
                assert!(self.present.is_none(), "a second state");
                self.present = Some(serde_json::from_str(&state).unwrap());
            }
        }

        /// Takes what waits, as the JavaScript client does.
        fn read(&mut self) {
            while let Some(Next::Parcel(parcel)) = self.outbox.take() {
                let Parcel::Topic { channel, message } = parcel else {
                    panic!("no topic")
                };
                assert_eq!(channel, self.channel.number);
                match &*message {
                    TopicMessage::Broadcast { content, .. } => {
                        let Content::Json(payload) = content else {
                            panic!("bytes")
                        };
                        self.said.push(serde_json::from_str(payload.get()).unwrap());
                    }
                    TopicMessage::PresenceDiff(diff) => {
                        let present = self.present.as_mut().expect("a diff before any state");
                        apply(present, &serde_json::from_str(diff).unwrap());
                    }
                }
            }
        }
    }

    fn metas(presence: &Value) -> Vec<Value> {
        presence["metas"].as_array().unwrap().clone()
    }

    /// What a client does with a diff. A ref that comes twice, or goes without having come, is a mistake of the gateway's.
    fn apply(present: &mut Value, diff: &Value) {
        let present = present.as_object_mut().unwrap();
        for (key, joined) in diff["joins"].as_object().unwrap() {
            let entry = present.entry(key).or_insert_with(|| json!({"metas": []}));
            for meta in metas(joined) {
                let is_new = |known: &Value| known["phx_ref"] != meta["phx_ref"];
                assert!(metas(entry).iter().all(is_new), "{diff}");
                entry["metas"].as_array_mut().unwrap().push(meta);
            }
        }
        for (key, left) in diff["leaves"].as_object().unwrap() {
            let entry = present.get_mut(key).expect("a stranger left");
            let stays = |known: &Value| metas(left).iter().all(|meta| meta["phx_ref"] != known["phx_ref"]);
            let kept: Vec<Value> = metas(entry).into_iter().filter(stays).collect();
            assert_eq!(kept.len() + metas(left).len(), metas(entry).len(), "{diff}");
            if kept.is_empty() {
                present.remove(key);
            } else {
                entry["metas"] = kept.into();
            }
        }
    }

    fn state(topics: &Topics, name: &str) -> Value {
        serde_json::from_str(&topics.state(&key(name))).unwrap()
    }

    fn has_metric(topics: &Topics, line: &str) -> bool {
        let page = topics.metrics.render().unwrap();
        page.lines().any(|known| known == line)
    }

    #[test]
    fn a_broadcast_reaches_the_members_and_its_sender_only_if_asked() {
        let topics = topics(wide());
        let join = |number| Client::join(&topics, "t", number, number == 0);
        let mut clients: Vec<_> = (0..3).map(join).collect();
        let mut stranger = Client::join(&topics, "other", 9, true);
        let from = Some(channel(0));
        let say = |name, from, to_self, text| topics.broadcast(&key(name), from, to_self, &broadcast(text));
        assert_eq!(say("t", from, false, "one"), Ok(2));
        assert_eq!(say("t", from, true, "two"), Ok(3));
        assert_eq!(say("t", None, false, "three"), Ok(3));
        assert_eq!(say("nobody's", None, false, "four"), Ok(0));
        clients.iter_mut().for_each(Client::read);
        stranger.read();
        let said: Vec<_> = clients.iter().map(|client| client.said.join(" ")).collect();
        assert_eq!(said, ["two three", "one two three", "one two three"]);
        assert!(stranger.said.is_empty());
        assert!(has_metric(&topics, "herald_broadcasts_total 4"));
    }

    #[test]
    fn who_leaves_is_gone_and_with_the_last_the_topic() {
        let topics = topics(wide());
        for number in [1, 2] {
            Client::join(&topics, "t", number, false);
        }
        assert!(has_metric(&topics, "herald_topics 1") && has_metric(&topics, "herald_topic_members 2"));
        for _ in 0..2 {
            topics.leave(&key("t"), channel(1));
            topics.leave(&key("other"), channel(2));
        }
        assert_eq!((topics.members(&key("t")), topics.len()), (1, 1));
        topics.leave(&key("t"), channel(2));
        assert!(topics.is_empty());
        assert!(has_metric(&topics, "herald_topics 0") && has_metric(&topics, "herald_topic_members 0"));
        let again = Client::join(&topics, "t", 1, true);
        assert_eq!(again.present, Some(json!({})));
    }

    #[test]
    fn a_topic_takes_as_many_members_as_it_may() {
        let topics = topics(TopicLimits { members: 2, ..wide() });
        let join = |number| {
            let member = Member {
                channel: channel(number),
                outbox: Arc::new(Outbox::new(1)),
                hears_presence: false,
            };
            topics.join(&key("t"), member)
        };
        for number in [1, 2, 2, 1] {
            assert_eq!(join(number), Ok(None));
        }
        assert_eq!(join(3), Err(TopicFull));
        topics.leave(&key("t"), channel(1));
        assert_eq!(join(3), Ok(None));
        assert!(has_metric(
            &topics,
            "herald_topic_refusals_total{reason=\"full\"} 1"
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn messages_of_a_topic_are_bounded_and_another_topic_has_a_bound_of_its_own() {
        let topics = topics(TopicLimits {
            messages_per_second: 10,
            ..wide()
        });
        Client::join(&topics, "t", 1, false);
        Client::join(&topics, "other", 2, false);
        let say = |name| topics.broadcast(&key(name), None, false, &broadcast("x"));
        assert!((0..10).all(|_| say("t") == Ok(1)));
        assert_eq!(say("t"), Err(TooManyMessages));
        assert_eq!(say("other"), Ok(1));
        let tracked = topics.track(&key("t"), channel(1), "k", &raw("{}"));
        assert_eq!(tracked, Err(PresenceError::TooManyOnTopic));
        tokio::time::advance(Duration::from_millis(100)).await;
        assert_eq!((say("t"), say("t")), (Ok(1), Err(TooManyMessages)));
    }

    #[tokio::test(start_paused = true)]
    async fn tracks_of_a_channel_are_bounded_and_what_it_said_stays() {
        let topics = topics(TopicLimits::default());
        let mut one = Client::join(&topics, "t", 1, true);
        let mut other = Client::join(&topics, "t", 2, true);
        for number in 0..60 {
            one.track(&topics, "t", "k", &json!({"number": number}));
        }
        let refused = topics.track(&key("t"), one.channel, "k", &raw("{}"));
        assert_eq!(refused, Err(PresenceError::TooManyOfChannel));
        let untrack = || topics.untrack(&key("t"), one.channel);
        assert_eq!(untrack(), Err(PresenceError::TooManyOfChannel));
        other.track(&topics, "t", "k", &json!({}));
        assert_eq!(metas(&state(&topics, "t")["k"]).len(), 2);
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!(untrack(), Ok(()));
        other.read();
        assert_eq!(other.present, Some(state(&topics, "t")));
        assert_eq!(metas(&state(&topics, "t")["k"]).len(), 1);
    }

    #[test]
    fn what_is_tracked_again_has_a_new_ref_and_names_the_one_before() {
        let topics = topics(wide());
        let mut client = Client::join(&topics, "t", 1, true);
        client.track(&topics, "t", "k", &json!({"at": 1}));
        let tracked = || metas(&state(&topics, "t")["k"]).remove(0);
        let first = tracked()["phx_ref"].clone();
        client.track(&topics, "t", "k", &json!({"at": 1}));
        assert_eq!(tracked()["phx_ref"], first, "nothing has changed");
        client.track(&topics, "t", "k", &json!({"at": 2}));
        assert_ne!(tracked()["phx_ref"], first);
        assert_eq!(tracked()["phx_ref_prev"], first);
        let track = |name, number| topics.track(&key(name), channel(number), "k", &raw("{}"));
        assert_eq!(track("t", 2), Err(PresenceError::NotJoined));
        assert_eq!(track("other", 1), Err(PresenceError::NotJoined));
    }

    #[test]
    fn a_member_that_does_not_read_is_closed_as_slow_and_the_others_hear_on() {
        let topics = topics(wide());
        let outbox = Arc::new(Outbox::new(200));
        let slow = Member {
            channel: channel(1),
            outbox: Arc::clone(&outbox),
            hears_presence: false,
        };
        topics.join(&key("t"), slow).unwrap();
        let mut other = Client::join(&topics, "t", 2, false);
        let say = || topics.broadcast(&key("t"), None, false, &broadcast("x")).unwrap();
        while outbox.closed().is_none() {
            say();
            other.read();
            assert!(other.said.len() < 100);
        }
        assert_eq!(outbox.closed(), Some(CloseCode::Slow));
        assert_eq!(say(), 1);
        assert!(has_metric(&topics, "herald_outbox_overflows_total 1"));
    }

    #[test]
    fn many_who_come_and_go_at_once_see_no_gap_and_leave_nothing_behind() {
        let topics = topics(wide());
        let topics = &topics;
        let come_and_go = |number: u8| {
            for round in 0..200 {
                let mut client = Client::join(topics, "t", number, round % 3 > 0);
                client.track(topics, "t", "shared", &json!({ "round": round }));
                client.read();
                let from = Some(client.channel);
                topics.broadcast(&key("t"), from, false, &broadcast("x")).unwrap();
                let own = number.to_string();
                client.track(topics, "t", &own, &json!({}));
                client.read();
                assert_eq!(metas(&client.present.as_ref().unwrap()[&own]).len(), 1);
                topics.leave(&key("t"), client.channel);
            }
        };
        std::thread::scope(|scope| {
            for number in 0..8 {
                scope.spawn(move || come_and_go(number));
            }
        });
        assert!(topics.is_empty());
        assert!(has_metric(topics, "herald_topics 0") && has_metric(topics, "herald_topic_members 0"));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Join(u8, bool),
        Leave(u8),
        Track(u8, u8, u8),
        Untrack(u8),
        Say(u8, bool),
        Read(u8),
    }

    fn any_step() -> impl Strategy<Value = Step> {
        let who = || 0u8..6;
        prop_oneof![
            2 => (who(), any::<bool>()).prop_map(|(who, hears)| Step::Join(who, hears)),
            1 => who().prop_map(Step::Leave),
            3 => (who(), 0u8..3, 0u8..3).prop_map(|(who, key, meta)| Step::Track(who, key, meta)),
            1 => who().prop_map(Step::Untrack),
            1 => (who(), any::<bool>()).prop_map(|(who, to_self)| Step::Say(who, to_self)),
            1 => who().prop_map(Step::Read),
        ]
    }

    /// Which descriptions stand under which key, in no order, and without refs.
    fn told(state: &Value) -> BTreeMap<String, Vec<u64>> {
        let said = |presence: &Value| {
            let mut said: Vec<u64> = metas(presence)
                .iter()
                .map(|meta| meta["at"].as_u64().unwrap())
                .collect();
            said.sort_unstable();
            said
        };
        let state = state.as_object().unwrap();
        state
            .iter()
            .map(|(key, presence)| (key.clone(), said(presence)))
            .collect()
    }

    /// The same of those who are present.
    fn expected(present: &BTreeMap<u8, (String, u64)>) -> BTreeMap<String, Vec<u64>> {
        let mut expected: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for (key, meta) in present.values() {
            expected.entry(key.clone()).or_default().push(*meta);
        }
        for said in expected.values_mut() {
            said.sort_unstable();
        }
        expected
    }

    proptest! {
        #[test]
        fn what_each_member_pieces_together_is_the_state(steps in proptest::collection::vec(any_step(), 0..80)) {
            let topics = topics(wide());
            let mut clients: BTreeMap<u8, Client> = BTreeMap::new();
            let mut present: BTreeMap<u8, (String, u64)> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Join(who, hears) => {
                        present.remove(&who);
                        clients.insert(who, Client::join(&topics, "t", who, hears));
                    }
                    Step::Leave(who) => {
                        topics.leave(&key("t"), channel(who));
                        present.remove(&who);
                        clients.remove(&who);
                    }
                    Step::Track(who, presence_key, meta) => {
                        if let Some(client) = clients.get_mut(&who) {
                            let presence_key = presence_key.to_string();
                            client.track(&topics, "t", &presence_key, &json!({"at": meta}));
                            present.insert(who, (presence_key, meta.into()));
                        }
                    }
                    Step::Untrack(who) => {
                        let outcome = topics.untrack(&key("t"), channel(who));
                        prop_assert_eq!(outcome.is_ok(), clients.contains_key(&who));
                        present.remove(&who);
                    }
                    Step::Say(who, to_self) => {
                        let without = usize::from(clients.contains_key(&who) && !to_self);
                        let heard = topics.broadcast(&key("t"), Some(channel(who)), to_self, &broadcast("x"));
                        prop_assert_eq!(heard, Ok(clients.len() - without));
                    }
                    Step::Read(who) => clients.get_mut(&who).into_iter().for_each(Client::read),
                }
                let state = state(&topics, "t");
                prop_assert_eq!(told(&state), expected(&present));
                // Some read at once and some only when it is their turn.
                for client in clients.range_mut(..3).map(|(_, client)| client) {
                    client.read();
                    prop_assert!(client.present.as_ref().is_none_or(|pieced| *pieced == state));
                }
            }
            let state = state(&topics, "t");
            for client in clients.values_mut() {
                client.read();
                prop_assert!(client.present.as_ref().is_none_or(|pieced| *pieced == state));
            }
            prop_assert_eq!(topics.members(&key("t")), clients.len());
        }
    }
}
