//! A rule of topics, and names that three people join by it. The first line of the input is the rule, the rest is a name. `A`,
//! `B` and `C` in it stand for the people's ids and `P` for that of a product, since no fuzzer finds a UUID.

#![no_main]

use std::collections::HashMap;

use herald_fuzz::{
    protocol::topic::{TOPIC_RULE_DEFAULT, TopicKey, TopicRule},
    types::UserId,
};
use libfuzzer_sys::{Corpus, fuzz_target};
use uuid::Uuid;

/// The people, and the product behind them, by their letters. The ids differ in places that are far from each other.
const IDS: [(char, Uuid); 4] = [
    ('A', Uuid::from_u128(1)),
    ('B', Uuid::from_u128(0xb << 124 | 1)),
    ('C', Uuid::from_u128(0xabcd_ef01_2345_6789_abcd_ef01_2345_6789)),
    ('P', Uuid::from_u128(0xffff << 112)),
];

/// How the letters of the people are exchanged, so that a name is met by the one that the other person has for the same.
const EXCHANGES: [[char; 3]; 6] = [
    ['A', 'B', 'C'],
    ['A', 'C', 'B'],
    ['B', 'A', 'C'],
    ['B', 'C', 'A'],
    ['C', 'A', 'B'],
    ['C', 'B', 'A'],
];

fuzz_target!(|data: &[u8]| -> Corpus {
    let Ok(text) = str::from_utf8(data) else {
        return Corpus::Reject;
    };
    let (rule, name) = text.split_once('\n').unwrap_or((TOPIC_RULE_DEFAULT, text));
    let translating = translating(rule);
    let Ok(rule) = TopicRule::parse(rule) else {
        return Corpus::Keep;
    };
    let mut topics: HashMap<TopicKey, Topic> = HashMap::new();
    for name in names(name) {
        for person in [IDS[0], IDS[1], IDS[2]].map(|(_, id)| UserId(id)) {
            for is_private in [false, true] {
                let Some(key) = rule.resolve(&name, is_private, person) else {
                    continue;
                };
                let translated = translating
                    .as_ref()
                    .and_then(|rule| rule.resolve(&name, is_private, person));
                let is_conversation = translated.as_ref() == Some(&key);
                let topic = topics.entry(key).or_default();
                topic.is_conversation |= is_conversation;
                topic.members.push((name.clone(), person, is_private));
            }
        }
    }
    topics.values().for_each(Topic::check);
    Corpus::Keep
});

/// Who meets under one key.
#[derive(Debug, Default)]
struct Topic {
    /// Whether the key is one of a conversation for some member, and not a name taken literally.
    is_conversation: bool,
    /// Each with the name, and whether the topic was to be a private one.
    members: Vec<(String, UserId, bool)>,
}

impl Topic {
    fn check(&self) {
        let [(first, _, is_private), ..] = &self.members[..] else {
            panic!("a topic without members");
        };
        let all_private = self.members.iter().all(|(_, _, private)| private == is_private);
        assert!(all_private, "private and public topics meet: {self:?}");
        if self.is_conversation {
            // Each of two people has one name for it, so that there is no room for a third.
            assert!(self.members.len() <= 2, "{self:?}");
            if let [(_, one, _), (_, other, _)] = &self.members[..] {
                assert_ne!(one, other, "{self:?}");
            }
        } else {
            assert!(self.members.iter().all(|(name, _, _)| name == first), "{self:?}");
        }
    }
}

/// The part of a rule by which no name is taken literally, if there is one.
fn translating(rule: &str) -> Option<TopicRule> {
    let patterns: Vec<&str> = rule
        .split(',')
        .filter(|pattern| pattern.contains("{conversation}"))
        .collect();
    TopicRule::parse(&patterns.join(",")).ok()
}

/// The name with the letters of people exchanged in each way, without repetition.
fn names(text: &str) -> Vec<String> {
    let mut names: Vec<String> = EXCHANGES
        .iter()
        .map(|exchanged| {
            let mut name = String::new();
            for letter in text.chars() {
                let place = ['A', 'B', 'C'].iter().position(|person| *person == letter);
                let letter = place.map_or(letter, |place| exchanged[place]);
                match IDS.iter().find(|(known, _)| *known == letter) {
                    Some((_, id)) => name.push_str(&id.to_string()),
                    None => name.push(letter),
                }
            }
            name
        })
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}
