//! A client's position in the log: the log's epoch and a snapshot, in a compact text that is safe in a URL.
//!
//! The form is `<epoch>.<life>-<age>[-<length>[-<step>…]]`, numbers in base 36: `age` is `xmin - life`, `length` is
//! `xmax - xmin`, and each step leads from one running transaction to the next, beginning at `xmin`. It is opaque to
//! clients. Each position has exactly one text, so that two cursors are equal when their texts are.

use std::{fmt, str::FromStr, sync::Arc};

use super::snapshot::Snapshot;

/// The longest text that is looked at, in bytes. A snapshot with 5,000 running transactions needs less; anything
/// longer did not come from here.
pub const CURSOR_BYTES_MAX: usize = 32 * 1024;

/// The longest epoch that is accepted, in bytes; the gateway makes 16.
const EPOCH_BYTES_MAX: usize = 32;

/// Names one life of one log: a cursor of another epoch says nothing about this log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Epoch(Arc<str>);

impl Epoch {
    /// Takes the text that the database gives its log.
    ///
    /// # Errors
    /// [`CursorError`] unless the text is 1 to 32 lower-case letters and digits.
    pub fn new(text: &str) -> Result<Self, CursorError> {
        let plain = text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase());
        if text.is_empty() || text.len() > EPOCH_BYTES_MAX || !plain {
            return Err(CursorError);
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A position in the log that a client may come back with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cursor {
    /// Which log.
    pub epoch: Epoch,
    /// What had been seen of it.
    pub snapshot: Arc<Snapshot>,
}

/// A text is not a cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the cursor is malformed: send one exactly as it was received, or none")]
pub struct CursorError;

impl fmt::Display for Cursor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let snapshot = &self.snapshot;
        write!(formatter, "{}.", self.epoch)?;
        write_base36(formatter, snapshot.life())?;
        formatter.write_str("-")?;
        write_base36(formatter, snapshot.xmin() - snapshot.life())?;
        if snapshot.xmax() == snapshot.xmin() {
            return Ok(());
        }
        formatter.write_str("-")?;
        write_base36(formatter, snapshot.xmax() - snapshot.xmin())?;
        let mut previous = snapshot.xmin();
        for xid in snapshot.in_progress() {
            formatter.write_str("-")?;
            write_base36(formatter, xid - previous)?;
            previous = *xid;
        }
        Ok(())
    }
}

impl FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        if text.len() > CURSOR_BYTES_MAX {
            return Err(CursorError);
        }
        let (epoch, position) = text.split_once('.').ok_or(CursorError)?;
        let epoch = Epoch::new(epoch)?;
        let mut numbers = position.split('-').map(read_base36);
        let life = numbers.next().ok_or(CursorError)??;
        let age = numbers.next().ok_or(CursorError)??;
        let xmin = life.checked_add(age).ok_or(CursorError)?;
        let Some(length) = numbers.next() else {
            let snapshot = Snapshot::new(life, xmin, xmin, Vec::new()).map_err(|_| CursorError)?;
            return Ok(Self {
                epoch,
                snapshot: Arc::new(snapshot),
            });
        };
        // A length of zero would be a second text for the position without one.
        let length = length?;
        let xmax = xmin
            .checked_add(length)
            .filter(|_| length > 0)
            .ok_or(CursorError)?;
        let mut in_progress = Vec::new();
        let mut previous = xmin;
        for step in numbers {
            previous = previous.checked_add(step?).ok_or(CursorError)?;
            in_progress.push(previous);
        }
        let snapshot = Snapshot::new(life, xmin, xmax, in_progress).map_err(|_| CursorError)?;
        Ok(Self {
            epoch,
            snapshot: Arc::new(snapshot),
        })
    }
}

fn write_base36(formatter: &mut fmt::Formatter<'_>, mut number: u64) -> fmt::Result {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    // 2^64 has 13 digits in base 36.
    let mut text = [0u8; 13];
    let mut start = text.len();
    loop {
        start -= 1;
        // A remainder of 36 always indexes the table and fits a usize.
        text[start] = DIGITS[usize::try_from(number % 36).unwrap_or(0)];
        number /= 36;
        if number == 0 {
            break;
        }
    }
    text[start..]
        .iter()
        .try_for_each(|digit| fmt::Write::write_char(formatter, char::from(*digit)))
}

fn read_base36(text: &str) -> Result<u64, CursorError> {
    // Leading zeros, signs and capitals would give one position several texts.
    let canonical = text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase())
        && (text == "0" || !text.starts_with('0'));
    if !canonical {
        return Err(CursorError);
    }
    u64::from_str_radix(text, 36).map_err(|_| CursorError)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::snapshot::tests::any_snapshot, *};

    fn cursor(snapshot: Snapshot) -> Cursor {
        Cursor {
            epoch: Epoch::new("0123456789abcdef").unwrap(),
            snapshot: Arc::new(snapshot),
        }
    }

    proptest! {
        #[test]
        fn a_cursor_is_read_back_as_it_was(snapshot in any_snapshot(), shift in 0u64..u64::MAX / 2) {
            let moved = Snapshot::new(
                snapshot.life() + shift,
                snapshot.xmin() + shift,
                snapshot.xmax() + shift,
                snapshot.in_progress().iter().map(|xid| xid + shift).collect(),
            );
            let cursor = cursor(moved.unwrap());
            prop_assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }

        #[test]
        fn a_position_has_one_text_only(text in "[0-9a-z]{1,3}\\.[0-9a-z]{1,3}-[0-9a-z]{1,2}(-[0-9a-z]{1,2}){0,4}") {
            if let Ok(cursor) = text.parse::<Cursor>() {
                prop_assert_eq!(cursor.to_string(), text);
            }
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in "\\PC{0,60}") {
            let _read: Result<Cursor, _> = text.parse();
        }

        #[test]
        fn the_text_is_safe_in_a_url(snapshot in any_snapshot()) {
            let text = cursor(snapshot).to_string();
            prop_assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte)));
        }
    }

    #[test]
    fn a_quiet_database_has_a_short_cursor() {
        let quiet = cursor(Snapshot::read(46_000, "46656:46656:").unwrap());
        assert_eq!(quiet.to_string(), "0123456789abcdef.zhs-i8");
        let busy = cursor(Snapshot::read(46_000, "46656:46700:46656,46657,46690").unwrap());
        assert_eq!(busy.to_string(), "0123456789abcdef.zhs-i8-18-0-1-x");
    }

    #[test]
    fn what_did_not_come_from_here_is_malformed() {
        for wrong in [
            "",
            ".",
            "e.",
            "e",
            ".1-1",
            "E.1-1",
            "e.1",
            "e.01-1",
            "e.1-1-0",
            "e.1-1-2-2",
            "e.1-1-3-1-0",
            "e.0-0",
            "e.1-zzzzzzzzzzzzzz",
            "e.+1-1",
            "e.1--1",
        ] {
            assert_eq!(wrong.parse::<Cursor>(), Err(CursorError), "{wrong}");
        }
        assert_eq!(
            format!("e.1-1{}", "-1".repeat(CURSOR_BYTES_MAX)).parse::<Cursor>(),
            Err(CursorError)
        );
    }
}
