//! The people of the demo, what they sell, and what they talk about. Plain data: the history and the chatter both speak from it.

use uuid::Uuid;

/// Somebody in the demo.
#[derive(Clone, Copy, Debug)]
pub struct Person {
    /// The number behind the id; ids are fixed, so that a command that names one works in every demo.
    number: u8,
    /// As the application shows it.
    pub username: &'static str,
    /// The colour of the avatar, six hexadecimal digits.
    colour: &'static str,
}

impl Person {
    /// `profiles.id`, and `sub` in a token.
    pub const fn id(self) -> Uuid {
        Uuid::from_u128(0xaaaa_aaaa_0000_4000_8000_0000_0000_0000 + self.number as u128)
    }

    /// A picture that needs no server: a disc with the initial, as a data URI.
    pub fn avatar_url(self) -> String {
        let initial = self.username[..1].to_uppercase();
        format!(
            "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 40 40'%3E%3Ccircle cx='20' cy='20' r='20' \
             fill='%23{}'/%3E%3Ctext x='20' y='27' font-size='20' font-family='sans-serif' text-anchor='middle' \
             fill='white'%3E{initial}%3C/text%3E%3C/svg%3E",
            self.colour
        )
    }
}

/// Something that somebody sells.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    number: u8,
    seller: usize,
    /// As the application shows it.
    pub title: &'static str,
    /// The price in cents.
    pub cents: i64,
}

impl Product {
    /// `products.id`.
    pub const fn id(self) -> Uuid {
        Uuid::from_u128(0xbbbb_bbbb_0000_4000_8000_0000_0000_0000 + self.number as u128)
    }

    /// Who sells it.
    pub const fn seller(self) -> Person {
        PEOPLE[self.seller]
    }
}

const fn person(number: u8, username: &'static str, colour: &'static str) -> Person {
    Person {
        number,
        username,
        colour,
    }
}

const fn product(number: u8, seller: usize, title: &'static str, cents: i64) -> Product {
    Product {
        number,
        seller,
        title,
        cents,
    }
}

/// The dozen.
pub const PEOPLE: [Person; 12] = [
    person(1, "alice", "b5533c"),
    person(2, "bob", "3c6eb5"),
    person(3, "carol", "4b8f4b"),
    person(4, "dmitri", "8a5fb0"),
    person(5, "esther", "b08a2e"),
    person(6, "farid", "2e8f8f"),
    person(7, "grace", "b0486f"),
    person(8, "hiroshi", "5a6472"),
    person(9, "ines", "c06a2b"),
    person(10, "jonas", "3f7d5b"),
    person(11, "kavita", "7a4ea0"),
    person(12, "liam", "46619e"),
];

/// Everything that is for sale.
pub const PRODUCTS: [Product; 15] = [
    product(1, 0, "Oak bookshelf", 12_000),
    product(2, 1, "Road bike, 56 cm", 34_000),
    product(3, 2, "Espresso machine", 18_500),
    product(4, 3, "Chess set, walnut", 6_500),
    product(5, 4, "Sewing machine", 14_000),
    product(6, 5, "Acoustic guitar", 22_000),
    product(7, 6, "Bread oven stone", 3_500),
    product(8, 7, "Film camera", 27_500),
    product(9, 8, "Camping tent for four", 9_900),
    product(10, 9, "Desk lamp", 2_450),
    product(11, 10, "Atlas of 1962", 4_800),
    product(12, 11, "Rain barrel, 200 l", 4_000),
    product(13, 0, "Piano stool", 5_500),
    product(14, 4, "Wool yarn, twelve balls", 2_990),
    product(15, 7, "Tripod", 3_900),
];

/// Who says a line of a talk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaker {
    /// The one who began.
    First,
    /// The other one; in a talk about a product, the seller.
    Second,
}

/// A short dialogue between two people.
#[derive(Clone, Copy, Debug)]
pub struct Talk {
    /// Whether it is about something that the second speaker sells.
    pub about_product: bool,
    /// What is said, in order.
    pub lines: &'static [(Speaker, &'static str)],
}

use Speaker::{First, Second};

/// Everything that people in the demo have to say to each other.
pub const TALKS: [Talk; 14] = [
    Talk {
        about_product: true,
        lines: &[
            (First, "Hi! Is this still available?"),
            (Second, "Hello, yes it is."),
            (First, "Great. Could I have a look at it on Saturday?"),
            (Second, "Saturday suits me, any time after ten."),
            (First, "Then I will be there at eleven. What is the address?"),
            (
                Second,
                "Mill Lane 4, the green door. The bell does not work, please knock.",
            ),
            (First, "Will do, thank you!"),
        ],
    },
    Talk {
        about_product: true,
        lines: &[
            (First, "Would you take a little less for it?"),
            (Second, "How much less are you thinking of?"),
            (First, "Ten per cent, and I come and fetch it today."),
            (Second, "Today would be good for me. Agreed."),
            (First, "On my way in an hour."),
        ],
    },
    Talk {
        about_product: true,
        lines: &[
            (First, "Are there any scratches or other damage?"),
            (
                Second,
                "One small scratch at the back. You only see it if you know.",
            ),
            (Second, "I can send you a photo tonight."),
            (First, "That would help, thank you."),
            (Second, "Sent it by mail. Tell me if it does not open."),
            (First, "Got it. That does not bother me at all, I take it."),
        ],
    },
    Talk {
        about_product: true,
        lines: &[
            (First, "How old is it?"),
            (Second, "Four years. I have the receipt somewhere."),
            (
                First,
                "No need for the receipt. Can you keep it for me until Friday?",
            ),
            (Second, "Friday is fine."),
        ],
    },
    Talk {
        about_product: true,
        lines: &[
            (First, "Could you also ship it?"),
            (Second, "I can, for the price of the postage."),
            (First, "What would that be?"),
            (Second, "I have just looked it up: 8.90."),
            (First, "Fine with me. I transfer the money now."),
            (Second, "It has arrived. The parcel goes out tomorrow morning."),
            (First, "Wonderful, thanks for the quick answer."),
        ],
    },
    Talk {
        about_product: true,
        lines: &[
            (
                First,
                "Mine arrived today, and it is even nicer than in the picture.",
            ),
            (Second, "I am glad to hear that. Enjoy it!"),
        ],
    },
    Talk {
        about_product: true,
        lines: &[
            (
                First,
                "I am afraid I cannot come today after all. The train is cancelled.",
            ),
            (Second, "No problem. Tomorrow at the same time?"),
            (First, "Tomorrow works. Sorry again!"),
        ],
    },
    Talk {
        about_product: false,
        lines: &[
            (First, "Are you coming to the market on Sunday?"),
            (Second, "I think so, if the weather holds."),
            (First, "They say it will be sunny. ☀️"),
            (Second, "Then count me in. Shall I bring the folding table?"),
            (First, "Yes please, ours has a broken leg."),
        ],
    },
    Talk {
        about_product: false,
        lines: &[
            (First, "Did you see the message from the association?"),
            (Second, "Not yet, what do they want?"),
            (First, "They look for people to help with the summer fair."),
            (Second, "I could do an hour at the coffee stand."),
            (First, "I will put your name on the list."),
        ],
    },
    Talk {
        about_product: false,
        lines: &[
            (First, "Thank you for the soup yesterday!"),
            (Second, "You are welcome. There is some left if you want it."),
            (First, "Never say that twice. 😄"),
        ],
    },
    Talk {
        about_product: false,
        lines: &[
            (First, "Could you water my plants next week?"),
            (Second, "Of course. Which days?"),
            (First, "Tuesday and Friday would be enough."),
            (Second, "Leave the key with the baker, then."),
            (First, "You are a treasure."),
        ],
    },
    Talk {
        about_product: false,
        lines: &[
            (First, "What was the name of that book you talked about?"),
            (Second, "\"The Summer Book\", by Tove Jansson."),
            (First, "That one. I order it right now."),
        ],
    },
    Talk {
        about_product: false,
        lines: &[
            (
                First,
                "My bike has a flat tyre. Do you still have that repair kit?",
            ),
            (Second, "It hangs in the shed. Take it whenever you need it."),
            (First, "Bringing it back tonight."),
            (Second, "Keep it until the weekend, I am away."),
        ],
    },
    Talk {
        about_product: false,
        lines: &[
            (First, "Happy birthday! 🎂"),
            (Second, "Oh, you remembered! Thank you so much."),
            (First, "See you at seven?"),
            (Second, "At seven. There will be far too much cake."),
        ],
    },
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_and_names_are_unique_and_every_product_has_a_seller() {
        let ids: HashSet<Uuid> = PEOPLE
            .iter()
            .map(|person| person.id())
            .chain(PRODUCTS.iter().map(|product| product.id()))
            .collect();
        assert_eq!(ids.len(), PEOPLE.len() + PRODUCTS.len());
        assert_eq!(
            PEOPLE
                .iter()
                .map(|person| person.username)
                .collect::<HashSet<_>>()
                .len(),
            PEOPLE.len()
        );
        assert!(
            PRODUCTS
                .iter()
                .all(|product| PEOPLE.iter().any(|person| person.id() == product.seller().id()))
        );
        assert_eq!(PEOPLE[0].id().to_string(), "aaaaaaaa-0000-4000-8000-000000000001");
    }

    #[test]
    fn both_speak_in_every_talk() {
        for talk in TALKS {
            assert!(
                [First, Second]
                    .iter()
                    .all(|who| talk.lines.iter().any(|(speaker, _)| speaker == who)),
                "{talk:?}"
            );
        }
    }
}
