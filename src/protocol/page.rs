//! Where a page of a list ends, as an opaque token that leads to the next one.
//!
//! A token is a position among rows (RFC 4648 §5 base64url of fixed length) and not a number of rows, so that paging stays
//! exact while rows are added, and where many have the same time. Every text of the right length and alphabet is a token;
//! a made-up one leads to some place in the caller's own list, which harms nobody.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use uuid::Uuid;

/// The earliest and the latest moment that Postgres knows, in microseconds since 2000 (`MIN_TIMESTAMP` and `END_TIMESTAMP`
/// in its `datatype/timestamp.h`). The two outermost integers stand for minus and plus infinity.
const MOMENTS: std::ops::Range<i64> = -211_813_488_000_000_000..9_223_371_331_200_000_000;

/// The place of a message in a list that is ordered by time and, where times are equal, by id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Microseconds since 2000-01-01 UTC, as Postgres counts them.
    pub time: i64,
    /// The message.
    pub id: Uuid,
}

impl Place {
    const BYTES: usize = 24;

    fn write(self, bytes: &mut Vec<u8>) {
        bytes.extend(self.time.to_be_bytes());
        bytes.extend(self.id.as_bytes());
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (time, id) = bytes.split_first_chunk::<8>()?;
        let time = match i64::from_be_bytes(*time) {
            infinite @ (i64::MIN | i64::MAX) => infinite,
            finite => finite.clamp(MOMENTS.start, MOMENTS.end - 1),
        };
        let id = Uuid::from_slice(id).ok()?;
        Some(Self { time, id })
    }
}

/// A text is not a token of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a page: send `next` exactly as it was received")]
pub struct PageError;

/// Leads to older messages of one conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessagesBefore(
    /// The oldest message of the page before.
    pub Place,
);

/// Leads to conversations whose last message is older.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConversationsBefore {
    /// The place of the first conversation on the first page. What is sent later moves no conversation within the list.
    pub top: Place,
    /// The place of the last conversation on the page before.
    pub before: Place,
}

impl fmt::Display for MessagesBefore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_token(formatter, &[self.0])
    }
}

impl FromStr for MessagesBefore {
    type Err = PageError;

    fn from_str(text: &str) -> Result<Self, PageError> {
        let [place] = read_token(text)?;
        Ok(Self(place))
    }
}

impl fmt::Display for ConversationsBefore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_token(formatter, &[self.top, self.before])
    }
}

impl FromStr for ConversationsBefore {
    type Err = PageError;

    fn from_str(text: &str) -> Result<Self, PageError> {
        let [top, before] = read_token(text)?;
        Ok(Self { top, before })
    }
}

fn write_token(formatter: &mut fmt::Formatter<'_>, places: &[Place]) -> fmt::Result {
    let mut bytes = Vec::with_capacity(places.len() * Place::BYTES);
    for place in places {
        place.write(&mut bytes);
    }
    formatter.write_str(&URL_SAFE_NO_PAD.encode(bytes))
}

fn read_token<const PLACES: usize>(text: &str) -> Result<[Place; PLACES], PageError> {
    // A group of four letters is three bytes; the bound comes first, so that nothing long is decoded.
    if text.len() != PLACES * Place::BYTES / 3 * 4 {
        return Err(PageError);
    }
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| PageError)?;
    let places: Option<Vec<Place>> = bytes.chunks(Place::BYTES).map(Place::read).collect();
    places.and_then(|places| places.try_into().ok()).ok_or(PageError)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_place() -> impl Strategy<Value = Place> {
        let time = prop_oneof![MOMENTS, Just(i64::MIN), Just(i64::MAX)];
        (time, any::<u128>()).prop_map(|(time, id)| Place {
            time,
            id: Uuid::from_u128(id),
        })
    }

    proptest! {
        #[test]
        fn a_token_is_read_back_as_it_was(top in any_place(), before in any_place()) {
            let messages = MessagesBefore(before);
            prop_assert_eq!(messages.to_string().parse(), Ok(messages));
            let conversations = ConversationsBefore { top, before };
            prop_assert_eq!(conversations.to_string().parse(), Ok(conversations));
        }

        #[test]
        fn whatever_has_the_shape_of_a_token_is_a_moment_that_postgres_knows(text in "[A-Za-z0-9_-]{32}") {
            let MessagesBefore(place) = text.parse().unwrap();
            prop_assert!(MOMENTS.contains(&place.time) || [i64::MIN, i64::MAX].contains(&place.time));
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in "\\PC{0,70}") {
            let _read: (Result<MessagesBefore, _>, Result<ConversationsBefore, _>) = (text.parse(), text.parse());
        }
    }

    #[test]
    fn what_did_not_come_from_here_is_refused() {
        let place = Place {
            time: 0,
            id: Uuid::nil(),
        };
        let token = MessagesBefore(place).to_string();
        for wrong in [
            "",
            &token[1..],
            &format!("{token}A"),
            &token.replace('A', "+"),
            &token.replace('A', "="),
        ] {
            assert_eq!(wrong.parse::<MessagesBefore>(), Err(PageError), "{wrong}");
        }
        assert_eq!(token.parse::<ConversationsBefore>(), Err(PageError));
    }
}
