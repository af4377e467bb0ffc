//! The patterns of `like` and `ilike`.

use super::letters::fold;

/// A pattern in which `%` stands for any text, `_` for any one character, and `\` makes the next character
/// literal.
///
/// A text is matched from left to right and never over again from an earlier place: what is between two `%`
/// is looked for once, where it first occurs. A part without `_` and with case is found in linear time, any
/// other in the product of the lengths at worst.
#[derive(Debug, Clone)]
pub(super) struct Pattern {
    /// What must begin the text. Without any `%` in the pattern it must be the text.
    start: Part,
    /// What must follow, each part somewhere behind the previous; none of them is empty.
    middle: Box<[Part]>,
    /// What must end the text, if the pattern has a `%`.
    end: Option<Part>,
    case: Case,
}

/// Whether the case of letters counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Case {
    Sensitive,
    Insensitive,
}

/// A stretch of a pattern without `%`.
#[derive(Debug, Clone, Default)]
struct Part {
    /// One entry a character, nothing for `_`.
    characters: Vec<Option<char>>,
    /// The same as a text, if there is no `_` in it.
    literal: Option<Box<str>>,
}

impl Pattern {
    /// Reads a pattern. Nothing if it ends with a backslash that makes nothing literal, as Postgres refuses
    /// it.
    pub(super) fn parse(text: &str, case: Case) -> Option<Self> {
        let mut parts = vec![Part::default()];
        let mut characters = text.chars();
        while let Some(character) = characters.next() {
            let entry = match character {
                '%' => {
                    parts.push(Part::default());
                    continue;
                }
                '_' => None,
                '\\' => Some(characters.next()?),
                literal => Some(literal),
            };
            if let Some(part) = parts.last_mut() {
                part.characters.push(entry.map(|literal| case.apply(literal)));
            }
        }
        for part in &mut parts {
            part.literal = part
                .characters
                .iter()
                .copied()
                .collect::<Option<String>>()
                .map(Into::into);
        }
        let end = (parts.len() > 1).then(|| parts.pop()).flatten();
        let mut parts = parts.into_iter();
        Some(Self {
            start: parts.next()?,
            middle: parts.filter(|part| !part.characters.is_empty()).collect(),
            end,
            case,
        })
    }

    /// Whether a text is as the pattern says.
    pub(super) fn matches(&self, text: &str) -> bool {
        let Some(mut rest) = self.start.after(text, self.case) else {
            return false;
        };
        let Some(end) = &self.end else {
            return rest.is_empty();
        };
        for part in &self.middle {
            match part.find(rest, self.case) {
                Some(behind) => rest = behind,
                None => return false,
            }
        }
        end.ends(rest, self.case)
    }
}

impl Case {
    fn apply(self, character: char) -> char {
        match self {
            Self::Sensitive => character,
            Self::Insensitive => fold(character),
        }
    }
}

impl Part {
    /// What follows this part at the beginning of a text; nothing if the text begins otherwise.
    fn after<'text>(&self, text: &'text str, case: Case) -> Option<&'text str> {
        let mut rest = text.chars();
        for expected in &self.characters {
            let found = rest.next()?;
            if expected.is_some_and(|literal| literal != case.apply(found)) {
                return None;
            }
        }
        Some(rest.as_str())
    }

    /// What follows the first occurrence of this part.
    fn find<'text>(&self, text: &'text str, case: Case) -> Option<&'text str> {
        if let (Some(literal), Case::Sensitive) = (&self.literal, case) {
            return text.find(&**literal).map(|start| &text[start + literal.len()..]);
        }
        text.char_indices()
            .find_map(|(start, _)| self.after(&text[start..], case))
    }

    /// Whether a text ends with this part.
    fn ends(&self, text: &str, case: Case) -> bool {
        let Some(last) = self.characters.len().checked_sub(1) else {
            return true;
        };
        text.char_indices()
            .rev()
            .nth(last)
            .is_some_and(|(start, _)| self.after(&text[start..], case).is_some())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition, which takes exponential time.
    fn naive(pattern: &[char], text: &[char]) -> bool {
        match pattern {
            [] => text.is_empty(),
            ['%', rest @ ..] => (0..=text.len()).any(|skipped| naive(rest, &text[skipped..])),
            ['_', rest @ ..] => !text.is_empty() && naive(rest, &text[1..]),
            ['\\', literal, rest @ ..] | [literal, rest @ ..] => {
                text.first() == Some(literal) && naive(rest, &text[1..])
            }
        }
    }

    fn like(pattern: &str, text: &str) -> bool {
        Pattern::parse(pattern, Case::Sensitive).unwrap().matches(text)
    }

    fn ilike(pattern: &str, text: &str) -> bool {
        Pattern::parse(pattern, Case::Insensitive).unwrap().matches(text)
    }

    #[test]
    fn patterns_match_whole_texts() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("", "a", false),
            ("%", "", true),
            ("%%", "", true),
            ("a", "a", true),
            ("a", "ab", false),
            ("a%", "a", true),
            ("%a", "ba", true),
            ("%a", "ab", false),
            ("a%a", "a", false),
            ("a%a", "aa", true),
            ("_", "é", true),
            ("_", "", false),
            ("%_", "", false),
            ("_%_", "é", false),
            ("%ab%ab%", "abab", true),
            ("%ab%ab%", "aba", false),
            ("%ab%b", "ab", false),
            (r"100\%", "100%", true),
            (r"100\%", "1000", false),
            (r"\_", "_", true),
            (r"\_", "a", false),
            (r"\\", r"\", true),
            ("a%", "a\nb", true),
            ("A%", "abc", false),
        ] {
            assert_eq!(like(pattern, text), expected, "{text} like {pattern}");
        }
        assert!(Pattern::parse(r"a\", Case::Sensitive).is_none());
    }

    #[test]
    fn case_is_ignored_beyond_ascii() {
        assert!(ilike("HEL%", "hello"));
        assert!(ilike("%ÄRGER", "großer Ärger"));
        assert!(ilike(r"\É_", "éx"));
        assert!(!ilike("a", "b"));
    }

    #[test]
    fn a_malicious_pattern_takes_no_longer_than_the_product() {
        let pattern = format!("{}b", "%a_".repeat(160));
        assert!(!like(&pattern, &"a".repeat(20_000)));
    }

    proptest! {
        #[test]
        fn the_matcher_agrees_with_the_definition(pattern in r"([abé%_]|\\[ab%_\\é]){0,9}", text in "[abé%_]{0,9}") {
            let [by_character, characters] = [&pattern, &text].map(|text| text.chars().collect::<Vec<_>>());
            let expected = naive(&by_character, &characters);
            prop_assert_eq!(like(&pattern, &text), expected);
            prop_assert_eq!(ilike(&pattern.to_uppercase(), &text), expected);
        }

        #[test]
        fn nothing_makes_the_matcher_panic(pattern in "\\PC{0,20}", text in "\\PC{0,20}") {
            for case in [Case::Sensitive, Case::Insensitive] {
                let _matched = Pattern::parse(&pattern, case).map(|pattern| pattern.matches(&text));
            }
        }
    }
}
