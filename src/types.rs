//! The identifiers that every layer shares. They carry no behaviour beyond being told apart by the compiler.

use std::fmt;

use uuid::Uuid;

/// A person, as the application's `profiles.id` and a token's `sub` name him or her.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(pub Uuid);

impl fmt::Display for UserId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(formatter)
    }
}

/// One connection of one user, for as long as it lasts. It is also the request id in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub Uuid);

impl SessionId {
    /// A new random identifier.
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(formatter)
    }
}

/// The number of a batch that this gateway's feed has read, counted from zero at the start of the process.
///
/// It orders what one gateway publishes and means nothing to another gateway, so it never leaves the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct BatchNumber(pub u64);

impl BatchNumber {
    /// The number of the batch after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A channel of one session: a topic that it has joined, counted from one.
///
/// A topic that is joined again is another channel, so that what was meant for the first is not taken for the second's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelNumber(pub u64);

/// One channel among those of all sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelId {
    /// The session that has joined it.
    pub session: SessionId,
    /// Which of the session's channels.
    pub number: ChannelNumber,
}
