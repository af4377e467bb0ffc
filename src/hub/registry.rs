//! Who is here: for every user the sessions that are open, and for every session its outbox.
//!
//! A user's sessions are an immutable list behind an `Arc`, replaced whole when somebody joins or leaves. So the
//! fan-out copies one pointer out of the map and pushes with no shard locked, and thousands who leave in the same
//! moment wait for nothing but each other's pointer swaps. No guard of the map leaves a function of this file.

use std::sync::Arc;

use dashmap::{DashMap, Entry};

use super::outbox::Outbox;
use crate::{
    protocol::close::CloseCode,
    types::{SessionId, UserId},
};

/// One open session of a user.
#[derive(Clone, Debug)]
struct Member {
    session: SessionId,
    outbox: Arc<Outbox>,
}

/// The sessions of a user as they were at one moment.
#[derive(Clone, Debug, Default)]
pub struct Channel(Option<Arc<[Member]>>);

impl Channel {
    /// The outbox of each.
    pub fn outboxes(&self) -> impl Iterator<Item = &Outbox> {
        self.0
            .iter()
            .flat_map(|members| members.iter())
            .map(|member| &*member.outbox)
    }
}

/// All open sessions, by user.
#[derive(Debug)]
pub struct Registry {
    channels: DashMap<UserId, Arc<[Member]>>,
    sessions_per_user: usize,
}

impl Registry {
    /// Nobody is here. A user may have `sessions_per_user` sessions, of which there is at least one.
    pub fn new(sessions_per_user: usize) -> Self {
        Self {
            channels: DashMap::new(),
            sessions_per_user: sessions_per_user.max(1),
        }
    }

    /// The most sessions of one user.
    pub const fn sessions_per_user(&self) -> usize {
        self.sessions_per_user
    }

    /// Lets a session in. If the user has as many as allowed, the oldest is closed as replaced. Answers whether the user
    /// was not here before.
    pub fn join(&self, user: UserId, session: SessionId, outbox: Arc<Outbox>) -> bool {
        let member = Member { session, outbox };
        let replaced = match self.channels.entry(user) {
            Entry::Vacant(vacant) => {
                vacant.insert(Arc::new([member]));
                None
            }
            Entry::Occupied(mut occupied) => {
                let members = occupied.get();
                let surplus = (members.len() + 1).saturating_sub(self.sessions_per_user);
                let replaced: Vec<_> = members[..surplus].to_vec();
                let stay = members[surplus..].iter().cloned().chain([member]).collect();
                occupied.insert(stay);
                Some(replaced)
            }
        };
        let is_new = replaced.is_none();
        for member in replaced.into_iter().flatten() {
            member.outbox.close(CloseCode::Replaced);
        }
        is_new
    }

    /// Lets a session in unless the user has as many as allowed: for clients that would come back at once, whatever they are
    /// told, and so push each other out for ever. Answers whether the user was not here before; `None` if there is no room.
    pub fn join_if_room(&self, user: UserId, session: SessionId, outbox: Arc<Outbox>) -> Option<bool> {
        let member = Member { session, outbox };
        match self.channels.entry(user) {
            Entry::Vacant(vacant) => {
                vacant.insert(Arc::new([member]));
                Some(true)
            }
            Entry::Occupied(mut occupied) => {
                let members = occupied.get();
                if members.len() >= self.sessions_per_user {
                    return None;
                }
                let all = members.iter().cloned().chain([member]).collect();
                occupied.insert(all);
                Some(false)
            }
        }
    }

    /// Lets a session go: exactly that one, and with the last one its user. Leaving twice changes nothing. Answers whether
    /// the user is gone with it.
    pub fn leave(&self, user: UserId, session: SessionId) -> bool {
        let emptied = self.channels.remove_if_mut(&user, |_, members| {
            if members.iter().any(|member| member.session == session) {
                *members = members
                    .iter()
                    .filter(|member| member.session != session)
                    .cloned()
                    .collect();
            }
            members.is_empty()
        });
        emptied.is_some()
    }

    /// Whether a user has any session. Encoding for somebody who is not here would be wasted.
    pub fn is_present(&self, user: UserId) -> bool {
        self.channels.contains_key(&user)
    }

    /// The sessions of a user.
    pub fn channel(&self, user: UserId) -> Channel {
        Channel(self.channels.get(&user).map(|members| Arc::clone(&members)))
    }

    /// How many users have a session.
    pub fn users(&self) -> usize {
        self.channels.len()
    }

    /// How many sessions there are. It visits every user and is meant for shutdown and tests.
    pub fn sessions(&self) -> usize {
        self.channels.iter().map(|channel| channel.len()).sum()
    }

    /// The outboxes of all sessions at this moment, for closing them one after another.
    pub fn outboxes(&self) -> Vec<Arc<Outbox>> {
        let collect = |members: &[Member]| {
            members
                .iter()
                .map(|member| Arc::clone(&member.outbox))
                .collect::<Vec<_>>()
        };
        self.channels
            .iter()
            .flat_map(|channel| collect(channel.value()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;
    use uuid::Uuid;

    use super::{
        super::outbox::{Push, tests::delivery},
        *,
    };

    fn user(number: u8) -> UserId {
        UserId(Uuid::from_u128(u128::from(number)))
    }

    fn session(number: u8) -> SessionId {
        SessionId(Uuid::from_u128(u128::from(number)))
    }

    fn outbox() -> Arc<Outbox> {
        Arc::new(Outbox::new(1 << 20))
    }

    /// How many take it.
    fn deliver(registry: &Registry, user: UserId) -> usize {
        let channel = registry.channel(user);
        let taken = channel.outboxes().map(|outbox| outbox.push(delivery(1)));
        taken.filter(|push| *push == Push::Queued).count()
    }

    #[test]
    fn the_oldest_session_goes_when_there_are_too_many() {
        let registry = Registry::new(2);
        let outboxes: Vec<_> = (0..3).map(|_| outbox()).collect();
        for (number, outbox) in (0..).zip(&outboxes) {
            registry.join(user(1), session(number), Arc::clone(outbox));
        }
        let closed: Vec<_> = outboxes.iter().map(|outbox| outbox.closed()).collect();
        assert_eq!(closed, [Some(CloseCode::Replaced), None, None]);
        registry.leave(user(1), session(0));
        assert_eq!(registry.sessions(), 2);
    }

    #[test]
    fn whoever_would_come_back_at_once_is_let_in_only_if_there_is_room() {
        let registry = Registry::new(2);
        let enter = |number| registry.join_if_room(user(1), session(number), outbox());
        assert_eq!([enter(1), enter(2), enter(3)], [Some(true), Some(false), None]);
        registry.leave(user(1), session(1));
        assert_eq!(enter(3), Some(false));
        assert_eq!(registry.sessions(), 2);
    }

    #[test]
    fn one_user_is_delivered_to_and_the_other_is_not() {
        let registry = Registry::new(8);
        registry.join(user(1), session(1), outbox());
        registry.join(user(1), session(2), outbox());
        registry.join(user(2), session(3), outbox());
        assert_eq!(deliver(&registry, user(1)), 2);
        assert_eq!(deliver(&registry, user(3)), 0);
    }

    #[test]
    fn thousands_who_leave_at_once_leave_nothing_behind() {
        let registry = Registry::new(64);
        let everyone: Vec<(UserId, SessionId)> = (0..5_000u128)
            .map(|number| {
                (
                    UserId(Uuid::from_u128(number / 2)),
                    SessionId(Uuid::from_u128(number)),
                )
            })
            .collect();
        for (user, session) in &everyone {
            registry.join(*user, *session, outbox());
        }
        assert_eq!((registry.users(), registry.sessions()), (2_500, 5_000));
        let registry = &registry;
        std::thread::scope(|scope| {
            for part in everyone.chunks(625) {
                scope.spawn(move || {
                    for (user, session) in part {
                        registry.leave(*user, *session);
                    }
                });
            }
        });
        assert_eq!((registry.users(), registry.sessions()), (0, 0));
        assert!(registry.channels.is_empty());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Join(u8, u8),
        Leave(u8, u8),
        Deliver(u8),
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0u8..4, 0u8..12).prop_map(|(user, session)| Step::Join(user, session)),
            (0u8..4, 0u8..12).prop_map(|(user, session)| Step::Leave(user, session)),
            (0u8..4).prop_map(Step::Deliver),
        ]
    }

    proptest! {
        #[test]
        fn the_registry_agrees_with_a_plain_map(steps in proptest::collection::vec(any_step(), 0..120)) {
            let registry = Registry::new(usize::MAX);
            let mut model: HashMap<u8, Vec<u8>> = HashMap::new();
            for step in steps {
                match step {
                    Step::Join(who, which) if !model.get(&who).is_some_and(|list| list.contains(&which)) => {
                        registry.join(user(who), session(which), outbox());
                        model.entry(who).or_default().push(which);
                    }
                    Step::Join(..) => {}
                    Step::Leave(who, which) => {
                        registry.leave(user(who), session(which));
                        if let Some(list) = model.get_mut(&who) {
                            list.retain(|one| *one != which);
                        }
                        model.retain(|_, list| !list.is_empty());
                    }
                    Step::Deliver(who) => {
                        let expected = model.get(&who).map_or(0, Vec::len);
                        prop_assert_eq!(deliver(&registry, user(who)), expected);
                    }
                }
                prop_assert_eq!(registry.users(), model.len());
                prop_assert_eq!(registry.sessions(), model.values().map(Vec::len).sum::<usize>());
                for who in 0..4 {
                    prop_assert_eq!(registry.is_present(user(who)), model.contains_key(&who));
                }
            }
        }
    }
}
