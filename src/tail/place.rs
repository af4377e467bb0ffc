//! How far a client has come: its cursor, and what it has shown that no cursor covers yet.
//!
//! An `events` frame without a cursor is provisional: it has been shown, but whoever comes back with the cursor before it
//! is sent its events again. They are recognised and left out, exactly once each. The bookkeeping does not ask when they
//! come: in the replay, or live from another gateway that is behind the first.
//!
//! Pure: no connection, no clock.

use std::collections::BTreeSet;

use super::frame::EventKey;

/// Events that are remembered at once. A gateway replays a thousand by default and says `too_far` beyond, so that this
/// is reached only where its bound was raised. Beyond it an event may be shown twice; none is lost.
const REMEMBERED_MAX: usize = 65_536;

/// How far a client has come.
#[derive(Debug, Default)]
pub(super) struct Place {
    cursor: Option<String>,
    /// Received on this connection since the last cursor.
    provisional: BTreeSet<EventKey>,
    /// Shown on earlier connections, and to come again on this one.
    to_come_again: BTreeSet<EventKey>,
}

impl Place {
    pub(super) fn new(cursor: Option<String>) -> Self {
        Self {
            cursor,
            ..Self::default()
        }
    }

    /// Where to continue.
    pub(super) fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }

    /// A session has begun. If it does not continue the last one, nothing of that one comes again.
    pub(super) fn begin(&mut self, cursor: String, continues: bool) {
        if !continues {
            self.to_come_again.clear();
        }
        self.reach(cursor);
    }

    /// An event has arrived; answers whether it is new. It counts as shown from now on.
    pub(super) fn admit(&mut self, key: &EventKey) -> bool {
        let is_new = !self.to_come_again.remove(key);
        remember(&mut self.provisional, key.clone());
        is_new
    }

    /// Everything that arrived on this connection lies before this cursor.
    pub(super) fn reach(&mut self, cursor: String) {
        self.cursor = Some(cursor);
        self.provisional.clear();
    }

    /// The connection was lost: what no cursor covers comes again.
    pub(super) fn lose(&mut self) {
        for key in std::mem::take(&mut self.provisional) {
            remember(&mut self.to_come_again, key);
        }
    }
}

/// Remembers a key, and forgets the oldest if there are too many. What never comes again, because its message is gone,
/// is forgotten this way in time.
fn remember(keys: &mut BTreeSet<EventKey>, key: EventKey) {
    keys.insert(key);
    if keys.len() > REMEMBERED_MAX {
        keys.pop_first();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn key(seq: i64) -> EventKey {
        EventKey {
            seq,
            message: Uuid::from_u128(1),
            op: "insert".into(),
        }
    }

    #[test]
    fn what_was_shown_before_a_cursor_came_is_not_shown_again() {
        let mut place = Place::new(None);
        place.begin("c0".to_owned(), false);
        assert!(place.admit(&key(1)));
        place.reach("c1".to_owned());
        assert!(place.admit(&key(2)) && place.admit(&key(3)));
        place.lose();
        assert_eq!(place.cursor(), Some("c1"));
        place.begin("c1".to_owned(), true);
        let shown: Vec<i64> = (2..=5).filter(|seq| place.admit(&key(*seq))).collect();
        assert_eq!(shown, [4, 5]);
        place.reach("c2".to_owned());
        place.lose();
        assert!(place.admit(&key(6)));
    }

    #[test]
    fn an_event_that_a_slower_gateway_brings_after_the_next_cursor_is_still_recognised() {
        let mut place = Place::new(Some("c0".to_owned()));
        assert!(place.admit(&key(7)));
        place.lose();
        place.begin("c1-without-7".to_owned(), true);
        assert!(place.admit(&key(6)));
        place.reach("c2-without-7".to_owned());
        assert!(!place.admit(&key(7)));
    }

    #[test]
    fn after_a_gap_nothing_is_left_out() {
        let mut place = Place::new(Some("c0".to_owned()));
        assert!(place.admit(&key(7)));
        place.lose();
        place.begin("other-log".to_owned(), false);
        assert!(place.admit(&key(7)));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut place = Place::new(None);
        let many = i64::try_from(REMEMBERED_MAX).unwrap() + 10;
        for seq in 0..many {
            place.admit(&key(seq));
        }
        place.lose();
        assert_eq!(place.to_come_again.len(), REMEMBERED_MAX);
        assert!(!place.admit(&key(many - 1)) && place.admit(&key(0)));
    }

    proptest! {
        /// A gateway sends events in order with a cursor behind some of them; connections are lost anywhere, and each
        /// new one begins behind the cursor.
        #[test]
        fn wherever_connections_are_lost_every_event_is_shown_once(
            cursors in proptest::collection::vec(any::<bool>(), 1..40),
            lost_after in proptest::collection::vec(0usize..12, 0..20),
        ) {
            let mut place = Place::new(Some("0".to_owned()));
            let mut shown = Vec::new();
            let bounds = lost_after.into_iter().map(Some).chain([None]);
            for bound in bounds {
                let cursor = place.cursor().unwrap().to_owned();
                let start: usize = cursor.parse().unwrap();
                place.begin(cursor, true);
                let end = bound.map_or(cursors.len(), |bound| start + bound);
                for (seq, is_followed_by_cursor) in cursors.iter().enumerate().take(end).skip(start) {
                    if place.admit(&key(i64::try_from(seq).unwrap())) {
                        shown.push(seq);
                    }
                    if *is_followed_by_cursor {
                        place.reach((seq + 1).to_string());
                    }
                }
                place.lose();
            }
            prop_assert_eq!(shown, (0..cursors.len()).collect::<Vec<_>>());
        }
    }
}
