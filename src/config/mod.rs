//! Settings: the only place that reads flags and the environment.
//!
//! Each command has a file with its flags as typed (clap's structs) and their checked form. Checking collects
//! every mistake before it answers, so that nobody mends them one start at a time.

use std::fmt;

mod caller;
mod database;
pub mod dev;
pub mod healthcheck;
mod limits;
pub mod load;
pub mod migrate;
pub mod quantity;
mod secret;
pub mod send;
pub mod serve;
mod setting;
pub mod tail;
pub mod tls;
pub mod token;
pub mod web;

/// All that is wrong with the settings of one command. Never empty when it is an error.
#[derive(Debug, Default)]
pub struct Mistakes(Vec<String>);

impl Mistakes {
    /// Nothing wrong so far.
    pub const fn none() -> Self {
        Self(Vec::new())
    }

    /// Notes what is wrong with a setting and what to do; `setting` is its variable, `HERALD_BIND` say.
    pub fn note(&mut self, setting: &str, problem: impl fmt::Display) {
        self.0.push(format!("{setting}: {problem}"));
    }

    /// Takes a checked value, or notes its problem and answers `None`.
    pub fn check<T, E: fmt::Display>(&mut self, setting: &str, checked: Result<T, E>) -> Option<T> {
        checked.map_err(|problem| self.note(setting, problem)).ok()
    }

    /// `Ok` if nothing was noted.
    ///
    /// # Errors
    /// The mistakes themselves.
    pub fn into_result(self) -> Result<(), Self> {
        if self.0.is_empty() { Ok(()) } else { Err(self) }
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "the settings cannot be used:")?;
        self.0
            .iter()
            .try_for_each(|mistake| writeln!(formatter, "  {mistake}"))
    }
}

impl std::error::Error for Mistakes {}
