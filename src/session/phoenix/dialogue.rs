//! The gateway's side of a session of Phoenix channels: what arrives, what takes time, and what is written next.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    future::Future,
    pin::Pin,
    sync::Arc,
    task::Context,
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use tokio::time::{Instant, Sleep, timeout};
use tokio_util::sync::WaitForCancellationFuture;

use super::{
    Frame, Opening,
    acknowledgement::Acknowledgements,
    answered_ping,
    channel::{Channel, Subscription},
    joining::Awaited,
    leaving::Leaving,
    outgoing::{Outgoing, Step},
    placing::{Placed, place},
    telling::Owed,
    tokens::Judging,
};
use crate::{
    hub::{Delivery, Outbox, Parcel, outbox::Next},
    protocol::{close::CloseCode, cursor::Cursor, phoenix::message::Message},
    session::{
        End, Farewell, Inbound, Sessions,
        dialogue::{Dialogue, Written},
        rhythm::Rhythm,
    },
    store::parking::Standing,
    types::{ChannelId, ChannelNumber, UserId},
};

/// Messages that wait for a blocked transport. Nothing more is read from a client until they are written.
const WAITING_MAX: usize = 256;

/// Deliveries that are written before a ping is sent in any case; otherwise one is sent when there is nothing left to write.
const DELIVERIES_PER_PING: usize = 64;

/// How long the place of a channel may still be looked for after its client has gone, so that it can be parked there. It is as
/// long as looking for it may take.
const PLACING_DEADLINE: Duration = Duration::from_secs(20);

/// Bytes of messages that wait for a blocked transport, for the same purpose: the answer to a join repeats what was asked for, and
/// the state of a topic tells of all who are present.
const WAITING_BYTES_MAX: usize = 1 << 20;

/// A session of Phoenix channels.
pub(super) struct Phoenix<'a> {
    pub(super) sessions: &'a Sessions,
    pub(super) opening: &'a Opening,
    pub(super) outbox: Arc<Outbox>,
    /// Boxed, because a node of the map has room for eleven, and most sessions have one channel.
    pub(super) channels: BTreeMap<ChannelNumber, Box<Channel>>,
    pub(super) by_topic: HashMap<Box<str>, ChannelNumber>,
    pub(super) last_channel: ChannelNumber,
    pub(super) last_identifier: u64,
    /// The highest reference that the client has used.
    pub(super) reference: Option<u64>,
    pub(super) outgoing: Outgoing,
    pub(super) judging: Option<Judging<'a>>,
    /// When the first token of a channel ends, or a client is asked to join again.
    pub(super) alarm: Option<Pin<Box<Sleep>>>,
    /// The topics that were joined and whose channels have no place yet, and from where on nothing may be missed there.
    pub(super) awaited: HashMap<Box<str>, Awaited>,
    pub(super) owed: VecDeque<Owed>,
    /// What the live stream has brought while places are looked for, once for all channels that hold it.
    pub(super) held: Vec<Arc<Delivery>>,
    /// The bytes of what is held, until it is written.
    pub(super) held_bytes: usize,
    pub(super) finding: Option<BoxFuture<'a, Placed>>,
    acknowledgements: Acknowledgements,
    pub(super) deliveries_unpinged: usize,
    /// The users under whom the session is in the hub.
    users: Vec<UserId>,
    standing: Standing,
    draining: Pin<Box<WaitForCancellationFuture<'a>>>,
}

impl<'a> Phoenix<'a> {
    pub(super) fn new(sessions: &'a Sessions, opening: &'a Opening, outbox: Arc<Outbox>) -> Self {
        Self {
            sessions,
            opening,
            standing: sessions.parking.enter(opening.session(), Arc::clone(&outbox)),
            outbox,
            channels: BTreeMap::new(),
            by_topic: HashMap::new(),
            last_channel: ChannelNumber(0),
            last_identifier: 0,
            reference: None,
            outgoing: Outgoing::new(opening.serializer),
            judging: None,
            alarm: None,
            awaited: HashMap::new(),
            owed: VecDeque::new(),
            held: Vec::new(),
            held_bytes: 0,
            finding: None,
            acknowledgements: Acknowledgements::default(),
            deliveries_unpinged: 0,
            users: Vec::new(),
            draining: Box::pin(sessions.draining.cancelled()),
        }
    }

    pub(super) const fn id(&self, number: ChannelNumber) -> ChannelId {
        ChannelId {
            session: self.opening.session(),
            number,
        }
    }

    /// Leaves the hub, so that nothing more is handed over.
    pub(super) fn leave_hub(&mut self) {
        // Said before nothing more arrives: until its channels are parked, which takes as long as the peer takes to say goodbye,
        // nobody may take the silence for a client that has everything.
        self.standing.busy();
        for user in std::mem::take(&mut self.users) {
            self.leave_user(user);
        }
        for (number, channel) in &mut self.channels {
            if let Some(key) = channel.key.take() {
                let id = ChannelId {
                    session: self.opening.session(),
                    number: *number,
                };
                self.sessions.hub.topics.leave(&key, id);
            }
        }
    }

    /// The connection has ended; what its end proves is noted, and what is still being looked for is waited for.
    ///
    /// # Cancel safety
    /// Safe: a channel whose place is being looked for counts as taken then, and is told again to the next session.
    pub(super) async fn note_farewell(&mut self, farewell: Farewell) {
        if farewell == Farewell::Confirmed {
            let events = self.acknowledgements.answer_all();
            self.sessions.metrics.events_acknowledged.inc_by(events);
        }
        let sessions = self.sessions;
        let placing = async {
            // Nothing is written any more, so that each channel stays where its client was.
            if let Some(finding) = self.finding.take() {
                let placed = finding.await;
                self.settle(placed);
            }
            // Those whose turn has not come have been told that they are joined, too. The hub is not entered for them.
            while let Some((_, numbers)) = self.fresh()
                && let Some(position) = self.sessions.hub.position.newest()
            {
                let wanted = self.seek(numbers, &position);
                // Boxed, because the questions to the database are large, and a session keeps room for them as long as it lives.
                let placed = place(self.sessions, wanted, position).boxed().await;
                self.settle(placed);
            }
        };
        tokio::select! {
            _placed_or_given_up = timeout(PLACING_DEADLINE, placing) => {}
            () = sessions.last_words() => {}
        }
    }

    fn leave_user(&self, user: UserId) {
        if self.sessions.hub.registry.leave(user, self.opening.session()) {
            self.sessions.metrics.users.dec();
        }
    }

    /// Enters the hub under a user, unless it is there already. Answers whether it is there now.
    pub(super) fn enter_user(&mut self, user: UserId) -> bool {
        if self.users.contains(&user) {
            return true;
        }
        let registry = &self.sessions.hub.registry;
        let outbox = Arc::clone(&self.outbox);
        let Some(is_new) = registry.join_if_room(user, self.opening.session(), outbox) else {
            return false;
        };
        // Either the shutdown finds this session in the hub, or this session finds that it has begun.
        if self.sessions.draining.is_cancelled() {
            self.outbox.close(CloseCode::GoingAway);
        }
        if is_new {
            self.sessions.metrics.users.inc();
        }
        self.users.push(user);
        true
    }

    /// Leaves the hub under users who have no channel any more that hears changes.
    pub(super) fn forget_users(&mut self) {
        let channels = &self.channels;
        let has_channel = |user: &UserId| {
            channels
                .values()
                .any(|channel| channel.is_subscribed() && channel.user() == Some(*user))
        };
        let (stay, gone): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.users).into_iter().partition(has_channel);
        self.users = stay;
        for user in gone {
            self.acknowledgements.forget(user);
            self.leave_user(user);
        }
    }

    /// Gives back the room that what was told has taken: there are many sessions, and most of them are idle.
    fn give_back(&mut self) {
        self.owed = VecDeque::new();
        self.outgoing.give_back();
        self.acknowledgements.give_back();
        if self.awaited.is_empty() {
            self.awaited = HashMap::new();
        }
    }

    /// Where a channel stands that goes, if it heard anything that could be missed.
    pub(super) fn position(&self, channel: &Channel) -> Option<Cursor> {
        channel.position(&self.acknowledgements)
    }

    /// Whether the client surely knows that this channel is live.
    pub(super) fn is_proved(&self, channel: &Channel) -> bool {
        matches!(&channel.subscription, Subscription::Live(place)
            if place.proof.is_some_and(|proof| self.acknowledgements.is_answered(proof)))
    }

    /// What is proved by an answer to a ping.
    fn note_answer(&mut self) {
        for (user, cursor) in self.acknowledgements.all_acknowledged() {
            self.standing.acknowledged(*user, cursor.clone());
        }
        let session = self.opening.session();
        for (number, channel) in &mut self.channels {
            let (Subscription::Live(place), Some(person)) = (&mut channel.subscription, &channel.person)
            else {
                continue;
            };
            if !place.is_proved
                && place
                    .proof
                    .is_some_and(|proof| self.acknowledgements.is_answered(proof))
            {
                place.is_proved = true;
                let id = ChannelId {
                    session,
                    number: *number,
                };
                self.sessions
                    .parking
                    .live(id, Arc::clone(&person.key), self.reference);
            }
        }
    }

    /// Nothing has happened for a while: then what the client has reaches to where the feed is.
    fn reach_the_feed(&mut self) {
        // The settled position is read before the outbox is looked at: then whatever it covers has been taken already.
        let Some(settled) = self.sessions.hub.position.settled() else {
            return;
        };
        let is_finding = self
            .channels
            .values()
            .any(|channel| matches!(channel.subscription, Subscription::Finding { .. }));
        let has_written = self.outgoing.len() == 0 && self.owed.is_empty() && !is_finding;
        if has_written && self.outbox.is_empty() && self.outbox.closed().is_none() {
            for user in &self.users {
                self.acknowledgements.reach_at_least(*user, settled.cursor());
            }
        }
    }
}

impl Dialogue for Phoenix<'_> {
    type Frame = Frame;

    fn has_room(&self) -> bool {
        let has_room = self.outgoing.len() < WAITING_MAX && self.outgoing.bytes() < WAITING_BYTES_MAX;
        has_room && self.judging.is_none()
    }

    fn hear(&mut self, inbound: Inbound, rhythm: &mut Rhythm) -> Result<(), CloseCode> {
        let now = Instant::now();
        if let Inbound::Pong(bytes) = &inbound
            && let Some(ping) = answered_ping(bytes)
            && let Some(events) = self.acknowledgements.answer(ping)
        {
            // An answer that was asked for is not counted against the client.
            rhythm.hear(now);
            self.sessions.metrics.events_acknowledged.inc_by(events);
            self.note_answer();
            return Ok(());
        }
        rhythm.count_frame(now, inbound.bytes())?;
        let message = match inbound {
            Inbound::Alive | Inbound::Pong(_) => return Ok(()),
            Inbound::Unreadable(code) => return Err(code),
            Inbound::Text(text) => Message::read_text(self.opening.serializer, &text),
            Inbound::Binary(bytes) => Message::read_binary(self.opening.serializer, &bytes),
        };
        match message {
            Ok(message) => self.take(message),
            Err(error) => {
                self.opening
                    .log
                    .debug(format_args!("a frame was not understood: {error}"));
                rhythm.count_mistake()?;
            }
        }
        Ok(())
    }

    fn poll_work(&mut self, _rhythm: &mut Rhythm, context: &mut Context<'_>) -> Result<(), End> {
        self.poll_judging(context);
        self.poll_alarm(context);
        self.poll_finding(context);
        // A drain finds those sessions by itself that are in the hub under a user.
        if self.users.is_empty() && self.draining.as_mut().poll(context).is_ready() {
            return Err(End::Closed(CloseCode::GoingAway));
        }
        Ok(())
    }

    fn beat(&mut self) {
        self.reach_the_feed();
        let ping = self.acknowledgements.beat();
        self.outgoing.write(Frame::Ping(ping));
    }

    fn next_frame(&mut self, _now: Instant) -> Result<Option<Written<Frame>>, End> {
        loop {
            match self.outgoing.pop() {
                Some(Step::Write(written)) => {
                    self.acknowledgements.count(written.events);
                    return Ok(Some(written));
                }
                Some(Step::Reached(user, cursor)) => {
                    if self.users.contains(&user) {
                        self.acknowledgements.reach(user, cursor);
                    }
                    continue;
                }
                Some(Step::CaughtUp(number)) => {
                    let proof = self.acknowledgements.call();
                    if let Some(Channel {
                        subscription: Subscription::Live(place),
                        ..
                    }) = self.channels.get_mut(&number).map(Box::as_mut)
                    {
                        place.proof = Some(proof);
                    }
                    continue;
                }
                None => {}
            }
            if self.pay() {
                continue;
            }
            if self.deliveries_unpinged >= DELIVERIES_PER_PING {
                self.deliveries_unpinged = 0;
                if let Some(ping) = self.acknowledgements.ping() {
                    return Ok(Some(Written::plain(Frame::Ping(ping))));
                }
            }
            // Said before something is taken, so that nobody who finds the outbox empty takes the session for idle.
            self.standing.busy();
            match self.outbox.take() {
                Some(Next::Closed(code)) => return Err(End::Closed(code)),
                Some(Next::Parcel(Parcel::Events(delivery))) => self.deliver(delivery)?,
                Some(Next::Parcel(Parcel::Topic { channel, message })) => self.relay(channel, &message),
                None => {
                    self.deliveries_unpinged = 0;
                    if let Some(ping) = self.acknowledgements.ping() {
                        return Ok(Some(Written::plain(Frame::Ping(ping))));
                    }
                    if self.acknowledgements.is_clear() {
                        self.standing.idle();
                        self.give_back();
                    }
                    return Ok(None);
                }
            }
        }
    }
}

impl Drop for Phoenix<'_> {
    fn drop(&mut self) {
        self.leave_hub();
        for number in self.channels.keys().copied().collect::<Vec<_>>() {
            self.part(number, Leaving::Fails);
        }
    }
}
