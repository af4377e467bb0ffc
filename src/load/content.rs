//! The content of a load's messages: a mark that is one run's own, the message's number, and as much text as is wanted.
//!
//! The mark is found in whatever a server sends, so that servers of any protocol are measured by the same listener.

use std::fmt::Write;

/// What fills a message.
const FILLING: &str =
    " Is the old desk lamp still there? I could come by on Saturday, and bring the chairs along, too.";

/// The mark of one run.
#[derive(Clone, Debug)]
pub(super) struct Mark(String);

impl Mark {
    /// One that nobody else has.
    pub(super) fn random() -> Self {
        Self(format!("load-{:08x}-", rand::random::<u32>()))
    }

    /// The content of a message, of so many bytes, or of as many as its mark and number take.
    pub(super) fn content(&self, message: u32, bytes: usize) -> String {
        let mut content = self.0.clone();
        // Writing to a string does not fail.
        let _written = write!(content, "{message}");
        let filling = FILLING.chars().cycle().take(bytes.saturating_sub(content.len()));
        content.extend(filling);
        content
    }

    /// The numbers of the messages whose content a text holds.
    pub(super) fn messages_in<'a>(&'a self, text: &'a str) -> impl Iterator<Item = u32> + 'a {
        text.match_indices(&self.0).filter_map(|(at, mark)| {
            let rest = &text[at + mark.len()..];
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            rest[..digits].parse().ok()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_in_whatever_holds_them() {
        let mark = Mark::random();
        let content = mark.content(4_000_000_000, 80);
        assert_eq!(content.len(), 80);
        let frame = serde_json::json!({"events": [{"message": {"content": content}}, {"content": mark.content(7, 0)}]});
        let found: Vec<u32> = mark.messages_in(&frame.to_string()).collect();
        assert_eq!(found, [4_000_000_000, 7]);
        assert_eq!(mark.messages_in("load-x-5").count(), 0);
        assert_eq!(
            Mark("load-1-".to_owned())
                .messages_in("load-1-99999999999 load-1-")
                .count(),
            0
        );
    }
}
