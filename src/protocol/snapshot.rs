//! A Postgres snapshot: which transactions a statement could see.
//!
//! The text form and its meaning are those of `pg_snapshot` (PostgreSQL documentation, "Transaction ID and Snapshot
//! Information Functions"): `xmin:xmax:xip,…`, where every transaction below `xmin` has ended, none from `xmax` on
//! is visible, and `xip` lists those between them that were still running.

use std::{fmt, str::FromStr};

/// A transaction's 64-bit identifier (`xid8`), which never wraps around.
pub type TransactionId = u64;

/// Which transactions were visible at one moment. Of one primary, snapshots are ordered by inclusion.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Snapshot {
    xmin: TransactionId,
    xmax: TransactionId,
    /// Ascending, without repetition, all within `xmin..xmax`.
    in_progress: Box<[TransactionId]>,
}

/// A text is not a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a snapshot: expected xmin:xmax:xip,… with xmin <= xip < xmax in ascending order")]
pub struct SnapshotError;

impl Snapshot {
    /// Builds a snapshot from its three parts.
    ///
    /// # Errors
    /// [`SnapshotError`] if the parts contradict each other.
    pub fn new(
        xmin: TransactionId,
        xmax: TransactionId,
        in_progress: Vec<TransactionId>,
    ) -> Result<Self, SnapshotError> {
        let ascending = in_progress.windows(2).all(|pair| pair[0] < pair[1]);
        let within = in_progress.iter().all(|xid| (xmin..xmax).contains(xid));
        if xmin == 0 || xmin > xmax || !ascending || !within {
            return Err(SnapshotError);
        }
        Ok(Self {
            xmin,
            xmax,
            in_progress: in_progress.into_boxed_slice(),
        })
    }

    /// Every transaction below this one had ended.
    pub const fn xmin(&self) -> TransactionId {
        self.xmin
    }

    /// No transaction from this one on is visible.
    pub const fn xmax(&self) -> TransactionId {
        self.xmax
    }

    /// The transactions between the two bounds that were still running, ascending.
    pub fn in_progress(&self) -> &[TransactionId] {
        &self.in_progress
    }

    /// Whether what a committed transaction wrote is visible.
    pub fn sees(&self, xid: TransactionId) -> bool {
        xid < self.xmax && self.in_progress.binary_search(&xid).is_err()
    }

    /// Whether everything that `other` sees is seen here too.
    pub fn covers(&self, other: &Self) -> bool {
        // What `other` sees from this snapshot's end on would be missing here: all of it must be running there.
        let beyond = other.xmax.saturating_sub(self.xmax);
        let beyond_running = other.in_progress.iter().filter(|xid| **xid >= self.xmax).count();
        if u64::try_from(beyond_running) != Ok(beyond) {
            return false;
        }
        self.in_progress.iter().all(|xid| !other.sees(*xid))
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}:", self.xmin, self.xmax)?;
        for (index, xid) in self.in_progress.iter().enumerate() {
            let separator = if index == 0 { "" } else { "," };
            write!(formatter, "{separator}{xid}")?;
        }
        Ok(())
    }
}

impl FromStr for Snapshot {
    type Err = SnapshotError;

    fn from_str(text: &str) -> Result<Self, SnapshotError> {
        let mut parts = text.split(':');
        let (Some(xmin), Some(xmax), Some(running), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(SnapshotError);
        };
        let number = |text: &str| text.parse::<TransactionId>().map_err(|_| SnapshotError);
        let in_progress = if running.is_empty() {
            Vec::new()
        } else {
            running.split(',').map(number).collect::<Result<_, _>>()?
        };
        Self::new(number(xmin)?, number(xmax)?, in_progress)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Small numbers, so that bounds and running transactions of two snapshots meet often.
    pub(crate) fn any_snapshot() -> impl Strategy<Value = Snapshot> {
        (1u64..30, 0u64..12, any::<u16>()).prop_map(|(xmin, length, running)| {
            let in_progress = (xmin..xmin + length)
                .filter(|xid| running >> (xid - xmin) & 1 == 1)
                .collect();
            Snapshot::new(xmin, xmin + length, in_progress).unwrap()
        })
    }

    proptest! {
        #[test]
        fn covering_is_seeing_whatever_the_other_sees(one in any_snapshot(), other in any_snapshot()) {
            let by_definition = (0..64).all(|xid| !other.sees(xid) || one.sees(xid));
            prop_assert_eq!(one.covers(&other), by_definition);
        }

        #[test]
        fn the_text_is_read_back_as_it_was(snapshot in any_snapshot()) {
            prop_assert_eq!(snapshot.to_string().parse(), Ok(snapshot));
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in ".{0,40}") {
            let _read: Result<Snapshot, _> = text.parse();
        }
    }

    #[test]
    fn the_form_of_postgres_is_read() {
        let snapshot: Snapshot = "10:20:10,14,15".parse().unwrap();
        assert!(snapshot.sees(9) && snapshot.sees(11) && snapshot.sees(19));
        assert!(!snapshot.sees(10) && !snapshot.sees(14) && !snapshot.sees(20));
    }

    #[test]
    fn a_contradiction_is_not_a_snapshot() {
        for wrong in [
            "", "1:2", "1:2:3:4", "5:4:", "0:4:", "1:9:3,3", "1:9:4,3", "1:9:9", "4:9:3", "1:9:,", "a:b:",
        ] {
            assert_eq!(wrong.parse::<Snapshot>(), Err(SnapshotError), "{wrong}");
        }
    }
}
