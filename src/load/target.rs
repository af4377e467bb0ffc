//! What is put under load, and as whom.

use std::time::Duration;

use crate::{
    auth::{self, IssueError, Secret, Token},
    client::GatewayUrl,
    postgres::Settings,
    types::UserId,
};

/// A server that tells people of messages, its database, and the people.
#[derive(Clone, Debug)]
pub struct Target {
    /// What it is called in reports.
    pub name: String,
    /// Where it listens.
    pub url: GatewayUrl,
    /// Where messages are written.
    pub database: Settings,
    /// Its process, if it is one of this machine whose processor time and memory are wanted.
    pub process: Option<u32>,
    /// Who listens and writes.
    pub people: Vec<UserId>,
    /// What it believes people by.
    pub trust: Trust,
}

/// How tokens are made that the target accepts.
#[derive(Clone, Debug)]
pub struct Trust {
    /// The secret that it has, too.
    pub secret: Secret,
    /// The claim `aud`, if it is checked.
    pub audience: Option<String>,
    /// The claim `iss`, if it is checked.
    pub issuer: Option<String>,
}

impl Target {
    /// A token of the person with this number, which lives so long.
    pub(super) fn token(&self, person: u32, lifetime: Duration) -> Result<Token, IssueError> {
        let Trust {
            secret,
            audience,
            issuer,
        } = &self.trust;
        auth::issue(
            secret,
            self.person(person),
            audience.as_deref(),
            issuer.as_deref(),
            lifetime,
        )
    }

    /// The person with this number.
    pub(super) fn person(&self, number: u32) -> UserId {
        self.people[number as usize]
    }
}
