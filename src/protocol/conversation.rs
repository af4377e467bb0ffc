//! The name of a conversation, as one of its two people sees it: `<other>__<product>` or `<other>__general`.
//!
//! `general` exists in this name only. In the database a message without a product has `NULL`, and this file is
//! the one place that turns one into the other.

use std::{fmt, str::FromStr};

use uuid::Uuid;

use crate::types::UserId;

/// Stands in the name where a message has no product.
const GENERAL: &str = "general";

/// One conversation from the point of view of one person.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conversation {
    /// The person at the other end; oneself for a note to oneself.
    pub other: UserId,
    /// What it is about, if anything.
    pub product: Option<Uuid>,
}

/// A text does not name a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a conversation: expected <user id>__<product id> or <user id>__general, ids in lower case")]
pub struct ConversationError;

impl fmt::Display for Conversation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.product {
            Some(product) => write!(formatter, "{}__{}", self.other, product.as_hyphenated()),
            None => write!(formatter, "{}__{GENERAL}", self.other),
        }
    }
}

impl FromStr for Conversation {
    type Err = ConversationError;

    fn from_str(text: &str) -> Result<Self, ConversationError> {
        let (other, product) = text.split_once("__").ok_or(ConversationError)?;
        let product = if product == GENERAL {
            None
        } else {
            Some(canonical_uuid(product)?)
        };
        Ok(Self {
            other: UserId(canonical_uuid(other)?),
            product,
        })
    }
}

/// Reads a UUID in the one form that is accepted: hyphens and lower case.
fn canonical_uuid(text: &str) -> Result<Uuid, ConversationError> {
    let uuid = Uuid::try_parse(text).map_err(|_| ConversationError)?;
    let mut buffer = Uuid::encode_buffer();
    if uuid.as_hyphenated().encode_lower(&mut buffer) == text {
        Ok(uuid)
    } else {
        Err(ConversationError)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_name_is_read_back_as_it_was(other: u128, product: Option<u128>) {
            let conversation = Conversation {
                other: UserId(Uuid::from_u128(other)),
                product: product.map(Uuid::from_u128),
            };
            prop_assert_eq!(conversation.to_string().parse(), Ok(conversation));
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in "\\PC{0,80}") {
            let _read: Result<Conversation, _> = text.parse();
        }
    }

    #[test]
    fn other_spellings_are_refused() {
        let id = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";
        for wrong in [
            id.to_owned(),
            format!("{id}_general"),
            format!("{id}__General"),
            format!("{}__general", id.to_uppercase()),
            format!("{{{id}}}__general"),
            format!("{id}__{id}__{id}"),
            format!("{id}__null"),
        ] {
            assert_eq!(wrong.parse::<Conversation>(), Err(ConversationError), "{wrong}");
        }
    }
}
