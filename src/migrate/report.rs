//! What a migration did, found and warns of.

use std::fmt;

/// Everything worth telling about one migration, in the order in which it happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    items: Vec<Item>,
}

/// One thing that was done, found or is warned of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// What became of the subject.
    pub outcome: Outcome,
    /// An object of the database or a statement.
    pub subject: String,
    /// What else there is to know about it.
    pub note: Option<String>,
}

/// What became of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was made or replaced.
    Installed,
    /// It was taken away.
    Removed,
    /// The application has it already, so that it was left as it is and is the application's own.
    Found,
    /// It is the application's own and stays, though Herald goes.
    Kept,
    /// It needs somebody's attention.
    Warning,
}

impl Report {
    pub(super) fn add(&mut self, outcome: Outcome, subject: impl Into<String>, note: Option<String>) {
        self.items.push(Item {
            outcome,
            subject: subject.into(),
            note,
        });
    }

    /// Adds what a later step did.
    pub fn append(&mut self, mut later: Self) {
        self.items.append(&mut later.items);
    }

    /// All items, oldest first.
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// Whether anything in the database was changed.
    pub fn changed(&self) -> bool {
        self.items
            .iter()
            .any(|item| matches!(item.outcome, Outcome::Installed | Outcome::Removed))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.items
            .iter()
            .try_for_each(|item| writeln!(formatter, "{item}"))
    }
}

impl fmt::Display for Item {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:<9}  {}", self.outcome.as_str(), self.subject)?;
        match &self.note {
            Some(note) => write!(formatter, ": {note}"),
            None => Ok(()),
        }
    }
}

impl Outcome {
    /// The word that the SQL functions and the printed report use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Installed => "installed",
            Self::Removed => "removed",
            Self::Found => "found",
            Self::Kept => "kept",
            Self::Warning => "warning",
        }
    }

    /// Reads the word. What is unknown deserves somebody's attention.
    pub(super) fn parse(word: &str) -> Self {
        [Self::Installed, Self::Removed, Self::Found, Self::Kept]
            .into_iter()
            .find(|outcome| outcome.as_str() == word)
            .unwrap_or(Self::Warning)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_merely_found_or_warned_of_is_no_change() {
        let mut report = Report::default();
        report.add(Outcome::Found, "view", None);
        report.add(Outcome::Warning, "view", Some("look".into()));
        assert!(!report.changed());
        report.add(Outcome::Installed, "index", None);
        assert!(report.changed());
        assert_eq!(
            report.to_string(),
            "found      view\nwarning    view: look\ninstalled  index\n"
        );
    }
}
