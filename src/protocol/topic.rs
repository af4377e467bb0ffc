//! Who may join a topic, and which topic a client's name means.
//!
//! One conversation has two names (`protocol::conversation`): Alice says `typing:<Bob>__<product>` where Bob says
//! `typing:<Alice>__<product>`. So a name in which a conversation stands is *translated*: in the [`TopicKey`] its place is
//! taken by the two people in the order of their ids, and by the product. Both meet there; and Carol, for whom
//! `typing:<Bob>__<product>` is a conversation of hers with Bob, is elsewhere, because her own id is in every key that a
//! name of hers is translated to. Every other name is taken as it stands.
//!
//! Pure: it knows neither members nor messages.

use std::ops::Range;

use uuid::Uuid;

use super::conversation::Conversation;
use crate::types::UserId;

/// What precedes a topic's name on the wire.
const WIRE_PREFIX: &str = "realtime:";

/// The longest name of a topic, in bytes: a binary frame gives the length of `realtime:<name>` in one byte.
pub const TOPIC_NAME_BYTES_MAX: usize = u8::MAX as usize - WIRE_PREFIX.len();

/// The most patterns of a rule. It bounds what judging one name costs, and no application has as many kinds of topics.
const PATTERNS_MAX: usize = 32;

/// The rule of a gateway that is told none: whatever carries the person's own id, or a conversation of the person's.
pub const TOPIC_RULE_DEFAULT: &str = "*{user}*,*{conversation}*";

/// The length of a UUID as it is written.
const UUID_BYTES: usize = uuid::fmt::Hyphenated::LENGTH;

/// Which topics a person may join. It is made of patterns: `*` stands for any run of characters, `{user}` for the person's
/// own id, `{conversation}` for a conversation of the person's; everything else for itself.
///
/// A name is judged in this order, and the first that admits it decides:
/// 1. each conversation *with another person* that stands in the name, from the left, by the patterns with
///    `{conversation}`: the name is translated;
/// 2. the other patterns: the name is taken literally;
/// 3. each note to oneself (`<own id>__…`) in the name, as with 1.
///
/// Where the own id stands in the place of the product it is none: then two ids stand side by side, `<one>__<other>`, which
/// both people take literally and so meet.
///
/// The translation comes first because a name that both people may write can be meant in one way only: under `*` and
/// `{conversation}` together, a literal reading of `<Bob>__general` would let Carol hear what Alice says to Bob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicRule {
    of_conversations: Vec<ConversationPattern>,
    literal: Vec<Glob>,
}

/// A pattern with `{conversation}`: what stands around it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ConversationPattern {
    before: Glob,
    after: Glob,
}

/// What stands between the stars of a pattern, so that there is one piece more than there are stars.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Glob(Vec<Vec<Part>>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Box<str>),
    User,
}

/// A topic inside the gateway. Two names lead to the same key only if they are meant to meet: private and public topics,
/// translated and literal names are told apart by its structure and not by any letters, so that they cannot collide.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TopicKey {
    is_private: bool,
    place: Place,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Place {
    Literal(Box<str>),
    Conversation {
        before: Box<str>,
        /// In ascending order.
        people: [UserId; 2],
        product: Option<Uuid>,
        after: Box<str>,
    },
}

impl Default for TopicRule {
    /// The rule of [`TOPIC_RULE_DEFAULT`].
    fn default() -> Self {
        let around = || ConversationPattern {
            before: Glob::anything(),
            after: Glob::anything(),
        };
        Self {
            of_conversations: vec![around()],
            literal: vec![Glob(vec![vec![], vec![Part::User], vec![]])],
        }
    }
}

impl TopicRule {
    /// Reads the setting: patterns separated by commas, for the topics' names without `realtime:`.
    ///
    /// # Errors
    /// A sentence that says what to write.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut rule = Self {
            of_conversations: Vec::new(),
            literal: Vec::new(),
        };
        for pattern in text
            .split(',')
            .map(str::trim)
            .filter(|pattern| !pattern.is_empty())
        {
            rule.add(pattern)?;
        }
        let count = rule.of_conversations.len() + rule.literal.len();
        match count {
            0 => Err(format!(
                "no pattern; write {TOPIC_RULE_DEFAULT}, or lobby:* beside it"
            )),
            1..=PATTERNS_MAX => Ok(rule),
            _ => Err(format!(
                "{count} patterns; write at most {PATTERNS_MAX}, with * where they differ"
            )),
        }
    }

    fn add(&mut self, pattern: &str) -> Result<(), String> {
        if pattern.len() > TOPIC_NAME_BYTES_MAX {
            return Err(format!(
                "a pattern of {} bytes; write at most {TOPIC_NAME_BYTES_MAX}, since no topic's name is longer",
                pattern.len()
            ));
        }
        if let Some(name) = pattern.strip_prefix(WIRE_PREFIX) {
            return Err(format!(
                "`{pattern}` begins with what clients write by themselves; write `{name}`"
            ));
        }
        let mut around = pattern.split("{conversation}");
        let before = Glob::parse(around.next().unwrap_or_default(), pattern)?;
        match (around.next(), around.next()) {
            (None, _) => self.literal.push(before),
            (Some(after), None) => {
                let after = Glob::parse(after, pattern)?;
                self.of_conversations.push(ConversationPattern { before, after });
            }
            (Some(_), Some(_)) => {
                return Err(format!(
                    "`{pattern}` has {{conversation}} twice; write it once, and * for the rest"
                ));
            }
        }
        Ok(())
    }

    /// The topic that this person means by this name, which has no `realtime:`; `None` if the person may not join it.
    /// Ids in names are in lower case with hyphens, or no ids.
    pub fn resolve(&self, name: &str, private: bool, user: UserId) -> Option<TopicKey> {
        if name.is_empty() || name.len() > TOPIC_NAME_BYTES_MAX {
            return None;
        }
        let own = user.to_string();
        let (notes, with_others): (Vec<_>, Vec<_>) =
            conversations_in(name).into_iter().partition(|(_, conversation)| {
                conversation.other == user || conversation.product == Some(user.0)
            });
        let translated = |found: &[(Range<usize>, Conversation)]| {
            found.iter().find_map(|(place, conversation)| {
                let (before, after) = (&name[..place.start], &name[place.end..]);
                let is_admitted = |pattern: &ConversationPattern| {
                    pattern.before.matches(before, &own) && pattern.after.matches(after, &own)
                };
                let is_admitted = self.of_conversations.iter().any(is_admitted);
                is_admitted.then(|| Place::Conversation {
                    before: before.into(),
                    people: [user.min(conversation.other), user.max(conversation.other)],
                    product: conversation.product,
                    after: after.into(),
                })
            })
        };
        let literal = || {
            let is_admitted = self.literal.iter().any(|pattern| pattern.matches(name, &own));
            is_admitted.then(|| Place::Literal(name.into()))
        };
        let place = translated(&with_others)
            .or_else(literal)
            .or_else(|| translated(&notes))?;
        Some(TopicKey {
            is_private: private,
            place,
        })
    }
}

/// Every conversation that stands in a name, and where, from the left. Where they stand depends on the shape of the ids only
/// and not on which ids they are, so that both people find theirs in the same place.
fn conversations_in(name: &str) -> Vec<(Range<usize>, Conversation)> {
    let bytes = name.as_bytes();
    let separators = (UUID_BYTES..bytes.len()).filter(|at| bytes[*at..].starts_with(b"__"));
    let at = |separator: usize| {
        let start = separator - UUID_BYTES;
        let rest = separator + "__".len();
        // A product's id has no `g` in it, so that at most one of the two lengths fits.
        [UUID_BYTES, "general".len()].into_iter().find_map(|length| {
            let place = start..rest + length;
            let conversation = name.get(place.clone())?.parse().ok()?;
            Some((place, conversation))
        })
    };
    separators.filter_map(at).collect()
}

impl Glob {
    /// What `*` is.
    fn anything() -> Self {
        Self(vec![vec![], vec![]])
    }

    /// Reads a pattern, or what stands on one side of `{conversation}` in it; the `whole` is for the error's sentence.
    fn parse(text: &str, whole: &str) -> Result<Self, String> {
        let piece = |piece: &str| {
            let texts: Vec<&str> = piece.split("{user}").collect();
            if texts.iter().any(|text| text.contains(['{', '}'])) {
                return Err(format!(
                    "`{whole}` has braces around something else; write {{user}} or {{conversation}}"
                ));
            }
            let mut parts = Vec::new();
            for (number, text) in texts.into_iter().enumerate() {
                if number > 0 {
                    parts.push(Part::User);
                }
                if !text.is_empty() {
                    parts.push(Part::Text(text.into()));
                }
            }
            Ok(parts)
        };
        text.split('*').map(piece).collect::<Result<_, _>>().map(Self)
    }

    /// Whether the whole text is what the pattern describes. Each piece between two stars is taken where it first occurs,
    /// which leaves the most to those behind it; so nothing is tried twice.
    fn matches(&self, text: &str, own: &str) -> bool {
        let mut pieces: Vec<String> = self.0.iter().map(|piece| written(piece, own)).collect();
        let Some(last) = pieces.pop() else { return false };
        if pieces.is_empty() {
            return text == last;
        }
        let first = pieces.remove(0);
        let Some(mut rest) = text
            .strip_prefix(first.as_str())
            .and_then(|rest| rest.strip_suffix(last.as_str()))
        else {
            return false;
        };
        for piece in &pieces {
            match rest.split_once(piece.as_str()) {
                Some((_, behind)) => rest = behind,
                None => return false,
            }
        }
        true
    }
}

/// A piece of a pattern, with the person's own id in the places of it.
fn written(piece: &[Part], own: &str) -> String {
    piece
        .iter()
        .map(|part| match part {
            Part::Text(text) => text,
            Part::User => own,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn person(number: u8) -> UserId {
        UserId(Uuid::from_u128(u128::from(number) << 64 | 0xabc))
    }

    fn id(number: u8) -> String {
        person(number).to_string()
    }

    fn rule(text: &str) -> TopicRule {
        TopicRule::parse(text).unwrap()
    }

    /// A name, with `A`, `B`, `C` for the ids of three people and `P` for that of a product.
    fn name(short: &str) -> String {
        short
            .replace('A', &id(1))
            .replace('B', &id(2))
            .replace('C', &id(3))
            .replace('P', &id(9))
    }

    fn resolved(rule: &TopicRule, short: &str, who: u8) -> Option<TopicKey> {
        rule.resolve(&name(short), false, person(who))
    }

    fn is_translated(key: &TopicKey) -> bool {
        matches!(key.place, Place::Conversation { .. })
    }

    #[test]
    fn the_default_is_what_its_text_says() {
        assert_eq!(rule(TOPIC_RULE_DEFAULT), TopicRule::default());
    }

    #[test]
    fn both_people_of_a_conversation_meet_and_a_third_is_elsewhere() {
        let rule = TopicRule::default();
        for (hers, his) in [
            ("typing:B__P", "typing:A__P"),
            ("B__general", "A__general"),
            ("B__generally", "A__generally"),
            ("a_B__P:A", "a_A__P:A"),
        ] {
            let key = resolved(&rule, hers, 1).unwrap();
            assert!(is_translated(&key), "{hers}");
            assert_eq!(resolved(&rule, his, 2), Some(key.clone()), "{hers}");
            for third in [hers, his] {
                let elsewhere = resolved(&rule, third, 3);
                assert!(elsewhere.is_some_and(|elsewhere| elsewhere != key), "{third}");
            }
        }
        assert_ne!(resolved(&rule, "B__P", 1), resolved(&rule, "B__general", 1));
    }

    #[test]
    fn two_ids_side_by_side_are_a_topic_of_both() {
        let rule = TopicRule::default();
        let key = resolved(&rule, "room:A__B", 1).unwrap();
        assert!(!is_translated(&key));
        assert_eq!(resolved(&rule, "room:A__B", 2), Some(key.clone()));
        assert_ne!(resolved(&rule, "room:A__B", 3), Some(key));
    }

    #[test]
    fn a_note_to_oneself_is_nobody_elses() {
        let rule = TopicRule::default();
        let note = resolved(&rule, "typing:A__general", 1).unwrap();
        assert!(!is_translated(&note));
        let of_conversations = TopicRule::parse("chat:{conversation}").unwrap();
        assert!(is_translated(
            &resolved(&of_conversations, "chat:A__P", 1).unwrap()
        ));
        for who in [2, 3] {
            assert_ne!(resolved(&rule, "typing:A__general", who), Some(note.clone()));
        }
    }

    #[test]
    fn a_conversation_with_another_person_comes_before_a_note_and_before_a_literal_reading() {
        let rule = rule("*,*{user}*,*{conversation}*");
        let key = resolved(&rule, "A__general/B__P", 1).unwrap();
        let Place::Conversation { people, product, .. } = key.place else {
            panic!("not translated");
        };
        assert_eq!(people, [person(1), person(2)]);
        assert_eq!(product, Some(person(9).0));
        assert!(!is_translated(&resolved(&rule, "lobby", 1).unwrap()));
    }

    #[test]
    fn a_conversation_that_no_pattern_admits_may_still_be_admitted_literally() {
        let rule = rule("chat:{conversation},pair:*{user}*");
        assert!(is_translated(&resolved(&rule, "chat:B__P", 1).unwrap()));
        assert_eq!(resolved(&rule, "chat:B__P:more", 1), None);
        assert!(!is_translated(&resolved(&rule, "pair:A__B", 1).unwrap()));
        assert_eq!(resolved(&rule, "pair:A__B", 1), resolved(&rule, "pair:A__B", 2));
        assert_eq!(resolved(&rule, "pair:A__B", 3), None);
    }

    #[test]
    fn patterns_mean_what_they_say() {
        for (pattern, short, who, admitted) in [
            ("lobby:*", "lobby:1", 1, true),
            ("lobby:*", "lobby:", 1, true),
            ("lobby:*", "lobby", 1, false),
            ("lobby:*", "the lobby:1", 1, false),
            ("a*b*c", "abc", 1, true),
            ("a*b*c", "axxbxxbxc", 1, true),
            ("a*b*c", "acb", 1, false),
            ("ab*ba", "aba", 1, false),
            ("*aab*", "aaab", 1, true),
            ("**", "x", 1, true),
            ("user:{user}", "user:A", 1, true),
            ("user:{user}", "user:A", 2, false),
            ("user:{user}", "user:A1", 1, false),
            ("{user}:{user}", "A:A", 1, true),
            ("{user}:{user}", "A:B", 1, false),
            ("x*{conversation}", "x:B__P", 1, true),
            ("x*{conversation}", "y:B__P", 1, false),
            ("x*{conversation}", "x:B__P:", 1, false),
            ("{user}:{conversation}", "A:B__P", 1, true),
            ("{user}:{conversation}", "A:B__P", 2, false),
            (" one , two ", "two", 1, true),
        ] {
            assert_eq!(
                resolved(&rule(pattern), short, who).is_some(),
                admitted,
                "{pattern} {short}"
            );
        }
    }

    #[test]
    fn other_spellings_of_an_id_and_names_out_of_bounds_are_refused() {
        let rule = TopicRule::default();
        let letters = UserId(Uuid::from_u128(0xabc_def0));
        let spelled = letters.to_string().to_uppercase();
        let longest =
            |extra: usize| "x".repeat(TOPIC_NAME_BYTES_MAX - UUID_BYTES + extra) + &letters.to_string();
        assert_eq!(rule.resolve(&spelled, false, letters), None);
        assert_eq!(
            rule.resolve(&format!("{spelled}__general"), false, person(1)),
            None
        );
        assert_eq!(
            rule.resolve(&format!("{}__General", id(2)), false, person(1)),
            None
        );
        assert!(rule.resolve(&longest(0), false, letters).is_some());
        assert_eq!(rule.resolve(&longest(1), false, letters), None);
        assert_eq!(self::rule("*").resolve("", false, letters), None);
    }

    #[test]
    fn mistakes_in_a_rule_are_told_with_what_to_write() {
        let (long, many) = (
            "x".repeat(TOPIC_NAME_BYTES_MAX + 1),
            "x,".repeat(PATTERNS_MAX + 1),
        );
        for (wrong, told) in [
            ("", "*{user}*"),
            (" , ", "*{user}*"),
            ("realtime:lobby", "write `lobby`"),
            ("user:{me}", "write {user}"),
            ("user:{user", "write {user}"),
            ("{}", "write {user}"),
            ("{conversation}{conversation}", "once"),
            (long.as_str(), "at most 246"),
            (many.as_str(), "at most 32"),
        ] {
            let sentence = TopicRule::parse(wrong).unwrap_err();
            assert!(sentence.contains(told), "{wrong}: {sentence}");
        }
    }

    /// Names in which ids, separators and words meet in every way.
    fn any_name() -> impl Strategy<Value = String> {
        let word = prop_oneof![
            Just("A"),
            Just("B"),
            Just("C"),
            Just("P"),
            Just("__"),
            Just("_"),
            Just("-"),
            Just("general"),
            Just(":"),
            Just("typing"),
            Just("é"),
            Just("0"),
            Just("f"),
        ];
        let names = proptest::collection::vec(word, 0..12);
        names.prop_map(|words| words.iter().map(|word| name(word)).collect::<String>())
    }

    fn any_rule() -> impl Strategy<Value = TopicRule> {
        prop_oneof![
            Just(TopicRule::default()),
            Just(rule("*,{conversation}")),
            Just(rule("*{user}*")),
            Just(rule("typing*{conversation}*,*{user}")),
            Just(rule("*{conversation}*,lobby:*")),
        ]
    }

    proptest! {
        #[test]
        fn a_conversations_key_is_shared_by_its_two_people_only(
            rule in any_rule(), names in [any_name(), any_name()], people in [1u8..4, 1u8..4], private: [bool; 2],
        ) {
            let key = |one: usize| rule.resolve(&names[one], private[one], person(people[one]));
            if let (Some(first), Some(second)) = (key(0), key(1)) && first == second {
                prop_assert_eq!(private[0], private[1]);
                match &first.place {
                    Place::Literal(_) => prop_assert_eq!(&names[0], &names[1]),
                    Place::Conversation { people: both, .. } => {
                        prop_assert!(both.contains(&person(people[0])) && both.contains(&person(people[1])));
                    }
                }
                if people[0] == people[1] {
                    prop_assert_eq!(&names[0], &names[1]);
                }
            }
        }

        #[test]
        fn both_people_always_meet(
            before in "[0-9a-f_:-]{0,60}", after in "[0-9a-f_:-]{0,60}", product: Option<u128>, one: u128, other: u128, private: bool,
        ) {
            prop_assume!(one != other);
            let (one, other) = (UserId(Uuid::from_u128(one)), UserId(Uuid::from_u128(other)));
            let key = |who: UserId, other: UserId| {
                let conversation = Conversation { other, product: product.map(Uuid::from_u128) };
                TopicRule::default().resolve(&format!("{before}{conversation}{after}"), private, who)
            };
            prop_assert!(key(one, other).is_some());
            prop_assert_eq!(key(one, other), key(other, one));
            let third = UserId(Uuid::from_u128(one.0.as_u128() ^ other.0.as_u128() ^ 1 << 127));
            if third != one && third != other {
                prop_assert_ne!(key(third, other), key(one, other));
                prop_assert_ne!(key(third, one), key(one, other));
            }
        }

        #[test]
        fn a_pattern_matches_as_its_definition_says(pattern in "[ab*]{1,8}", text in "[ab]{0,8}") {
            fn defined(pattern: &[u8], text: &[u8]) -> bool {
                match pattern.split_first() {
                    None => text.is_empty(),
                    Some((b'*', rest)) => (0..=text.len()).any(|taken| defined(rest, &text[taken..])),
                    Some((letter, rest)) => text.split_first().is_some_and(|(first, behind)| first == letter && defined(rest, behind)),
                }
            }
            let glob = Glob::parse(&pattern, &pattern).unwrap();
            prop_assert_eq!(glob.matches(&text, ""), defined(pattern.as_bytes(), text.as_bytes()));
        }

        #[test]
        fn no_text_makes_it_panic(rule in "\\PC{0,60}", braces in "[{}user*,é]{0,20}", name in "\\PC{0,120}", mixed in any_name()) {
            for rule in [TopicRule::parse(&rule), TopicRule::parse(&braces), Ok(TopicRule::default())].into_iter().flatten() {
                let _key = rule.resolve(&name, false, person(1));
                let _key = rule.resolve(&mixed, true, person(1));
                let _key = rule.resolve(&format!("{mixed}{name}"), true, person(1));
            }
        }
    }
}
