//! Makes text of strangers safe to show on a terminal.
//!
//! A message may hold the sequences that move a terminal's cursor, rewrite what stands above or set its title, and the
//! characters that turn the direction of writing so that a line reads as something else. All of them are shown as
//! what they are; everything else, emoji among it, stays as it is.

use std::fmt::{self, Write as _};

/// Shows a text on one line, with every character that could act on a terminal written out, as in Rust's literals.
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'a>(pub &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            if acts(character) {
                write!(formatter, "{}", character.escape_default())?;
            } else {
                formatter.write_char(character)?;
            }
        }
        Ok(())
    }
}

/// Whether a character does something other than being seen: control characters of both sets (ECMA-48, C0 and C1), line
/// and paragraph separators, and the marks that direct writing (Unicode Standard Annex #9).
fn acts(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_would_act_on_a_terminal_is_written_out() {
        let text = "a\u{1b}[2J\r\nb\u{9b}31m\u{7f}\u{202e}c\t";
        assert_eq!(
            Escaped(text).to_string(),
            r"a\u{1b}[2J\r\nb\u{9b}31m\u{7f}\u{202e}c\t"
        );
    }

    #[test]
    fn what_is_only_seen_stays_as_it_is() {
        let text = "Grüße, 世界 👩‍🚀 C:\\folder \"quoted\"";
        assert_eq!(Escaped(text).to_string(), text);
    }

    proptest! {
        #[test]
        fn nothing_that_acts_is_left(text in any::<String>()) {
            prop_assert!(!Escaped(&text).to_string().chars().any(acts));
        }
    }
}
