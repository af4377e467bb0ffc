//! What a reader has seen: a Postgres snapshot, and the life of the database in which it was taken.
//!
//! The text form and its meaning are those of `pg_snapshot` (PostgreSQL documentation, "Transaction ID and Snapshot
//! Information Functions"): `xmin:xmax:xip,…`, where every transaction below `xmin` has ended, none from `xmax` on
//! is visible, and `xip` lists those between them that were still running.
//!
//! A snapshot alone does not survive a crash of Postgres. Transactions that were rolled back shortly before leave no
//! trace on disk, and recovery gives their numbers out again: an old snapshot would take the new transaction for one
//! that it has seen, and its rows would be lost. So every transaction is told apart by the life it belongs to as
//! well, and whatever a later life wrote is unseen by a snapshot of an earlier one. See `sql/life.sql`.

use std::{cmp::Ordering, fmt};

/// A span between two crashes of the database, named by its first transaction; later lives have greater numbers.
pub type Life = u64;

/// A transaction, told apart from those of other lives that had the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Transaction {
    /// The life in which it ran.
    pub life: Life,
    /// Its 64-bit number (`xid8`), which never wraps around.
    pub xid: u64,
}

/// Which transactions were visible at one moment. Of one primary, snapshots are ordered by inclusion.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Snapshot {
    life: Life,
    xmin: u64,
    xmax: u64,
    /// Ascending, without repetition, all within `xmin..xmax`.
    in_progress: Box<[u64]>,
}

/// A text is not a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a snapshot: expected xmin:xmax:xip,… with life <= xmin <= xip < xmax in ascending order")]
pub struct SnapshotError;

impl Snapshot {
    /// Builds a snapshot from its parts.
    ///
    /// # Errors
    /// [`SnapshotError`] if the parts contradict each other.
    pub fn new(life: Life, xmin: u64, xmax: u64, in_progress: Vec<u64>) -> Result<Self, SnapshotError> {
        let ascending = in_progress.windows(2).all(|pair| pair[0] < pair[1]);
        let within = in_progress.iter().all(|xid| (xmin..xmax).contains(xid));
        if xmin == 0 || xmin < life || xmin > xmax || !ascending || !within {
            return Err(SnapshotError);
        }
        Ok(Self {
            life,
            xmin,
            xmax,
            in_progress: in_progress.into_boxed_slice(),
        })
    }

    /// Reads the text form of `pg_snapshot`, taken in this life.
    ///
    /// # Errors
    /// [`SnapshotError`] if it is none.
    pub fn read(life: Life, text: &str) -> Result<Self, SnapshotError> {
        let mut parts = text.split(':');
        let (Some(xmin), Some(xmax), Some(running), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(SnapshotError);
        };
        let number = |text: &str| text.parse::<u64>().map_err(|_| SnapshotError);
        let in_progress = if running.is_empty() {
            Vec::new()
        } else {
            running.split(',').map(number).collect::<Result<_, _>>()?
        };
        Self::new(life, number(xmin)?, number(xmax)?, in_progress)
    }

    /// The life in which it was taken.
    pub const fn life(&self) -> Life {
        self.life
    }

    /// Every transaction below this one had ended.
    pub const fn xmin(&self) -> u64 {
        self.xmin
    }

    /// No transaction from this one on is visible.
    pub const fn xmax(&self) -> u64 {
        self.xmax
    }

    /// The transactions between the two bounds that were still running, ascending.
    pub fn in_progress(&self) -> &[u64] {
        &self.in_progress
    }

    /// Whether what a committed transaction wrote is visible. All of an earlier life is, and nothing of a later one.
    pub fn sees(&self, transaction: Transaction) -> bool {
        match transaction.life.cmp(&self.life) {
            Ordering::Less => true,
            Ordering::Greater => false,
            Ordering::Equal => self.sees_of_its_life(transaction.xid),
        }
    }

    /// Whether everything that `other` sees is seen here too.
    pub fn covers(&self, other: &Self) -> bool {
        match other.life.cmp(&self.life) {
            Ordering::Less => true,
            Ordering::Greater => false,
            Ordering::Equal => {
                // What `other` sees from this snapshot's end on would be missing here: all of it must be running there.
                let beyond = other.xmax.saturating_sub(self.xmax);
                let beyond_running = other.in_progress.iter().filter(|xid| **xid >= self.xmax).count();
                u64::try_from(beyond_running) == Ok(beyond)
                    && self.in_progress.iter().all(|xid| !other.sees_of_its_life(*xid))
            }
        }
    }

    fn sees_of_its_life(&self, xid: u64) -> bool {
        xid < self.xmax && self.in_progress.binary_search(&xid).is_err()
    }
}

/// The text form of `pg_snapshot`, without the life.
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

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Small numbers, so that lives, bounds and running transactions of two snapshots meet often.
    pub(crate) fn any_snapshot() -> impl Strategy<Value = Snapshot> {
        (0u64..3, 1u64..30, 0u64..12, any::<u16>()).prop_map(|(life, xmin, length, running)| {
            let xmin = xmin.max(life);
            let in_progress = (xmin..xmin + length)
                .filter(|xid| running >> (xid - xmin) & 1 == 1)
                .collect();
            Snapshot::new(life, xmin, xmin + length, in_progress).unwrap()
        })
    }

    fn of_life_one(text: &str) -> Result<Snapshot, SnapshotError> {
        Snapshot::read(1, text)
    }

    proptest! {
        #[test]
        fn covering_is_seeing_whatever_the_other_sees(one in any_snapshot(), other in any_snapshot()) {
            // A later life has numbers that an earlier one never sees, and sees all of the earlier one.
            let transactions = (0..4).flat_map(|life| (0..64).map(move |xid| Transaction { life, xid }));
            let by_definition = transactions.into_iter().all(|one_of_them| !other.sees(one_of_them) || one.sees(one_of_them));
            prop_assert_eq!(one.covers(&other), by_definition);
        }

        #[test]
        fn the_text_is_read_back_as_it_was(snapshot in any_snapshot()) {
            prop_assert_eq!(Snapshot::read(snapshot.life, &snapshot.to_string()), Ok(snapshot));
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in ".{0,40}") {
            let _read = of_life_one(&text);
        }
    }

    #[test]
    fn the_form_of_postgres_is_read() {
        let snapshot = of_life_one("10:20:10,14,15").unwrap();
        let sees = |xid| snapshot.sees(Transaction { life: 1, xid });
        assert!(sees(9) && sees(11) && sees(19));
        assert!(!sees(10) && !sees(14) && !sees(20));
    }

    #[test]
    fn a_number_given_out_again_after_a_crash_is_another_transaction() {
        let before = of_life_one("10:20:").unwrap();
        assert!(before.sees(Transaction { life: 1, xid: 19 }));
        assert!(!before.sees(Transaction { life: 15, xid: 19 }));
        let after = Snapshot::read(15, "15:15:").unwrap();
        assert!(after.sees(Transaction { life: 1, xid: 19 }));
        assert!(after.covers(&before) && !before.covers(&after));
    }

    #[test]
    fn a_contradiction_is_not_a_snapshot() {
        for wrong in [
            "", "1:2", "1:2:3:4", "5:4:", "0:4:", "1:9:3,3", "1:9:4,3", "1:9:9", "4:9:3", "1:9:,", "a:b:",
        ] {
            assert_eq!(of_life_one(wrong), Err(SnapshotError), "{wrong}");
        }
        assert_eq!(
            Snapshot::read(7, "6:9:"),
            Err(SnapshotError),
            "a life begins with its first transaction"
        );
    }
}
