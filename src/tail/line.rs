//! An event as a line for people.
//!
//! The line holds the message's time in UTC, the direction, the other person, the product and the content. Everything that
//! was written by people is escaped, see [`Escaped`]; an update and a delete say so.

use std::fmt;

use serde_json::Value;
use uuid::Uuid;

use super::Event;
use crate::client::Escaped;

/// Whether lines are coloured, by the sequences of ECMA-48 (SGR).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colours {
    /// For a terminal.
    On,
    /// For a file, a pipe, or somebody who set `NO_COLOR`.
    Off,
}

/// The colours that are used; their numbers are those of SGR.
#[derive(Clone, Copy)]
enum Colour {
    Faint,
    Incoming,
    Outgoing,
    Product,
    Updated,
    Deleted,
}

impl Colour {
    const fn number(self) -> u8 {
        match self {
            Self::Faint => 2,
            Self::Deleted => 31,
            Self::Incoming => 32,
            Self::Updated => 33,
            Self::Product => 35,
            Self::Outgoing => 36,
        }
    }
}

/// A part of a line in its colour.
struct Painted<T> {
    colours: Colours,
    colour: Colour,
    part: T,
}

impl<T: fmt::Display> fmt::Display for Painted<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.colours {
            Colours::Off => self.part.fmt(formatter),
            Colours::On => write!(
                formatter,
                "\u{1b}[{}m{}\u{1b}[0m",
                self.colour.number(),
                self.part
            ),
        }
    }
}

/// The line of an event as this user sees it, without a line end.
pub fn line(event: &Event, viewer: Uuid, colours: Colours) -> String {
    // An event that was read is JSON; the fallback keeps the signature honest without a panic.
    let fields: Value = serde_json::from_str(event.json()).unwrap_or_default();
    let row = Row {
        fields: &fields,
        viewer: viewer.as_hyphenated().to_string(),
        colours,
    };
    match event.key.op.as_ref() {
        "insert" => row.message(None),
        "update" => row.message(Some("updated")),
        "delete" => row.deleted(),
        other => row.message(Some(other)),
    }
}

/// The line of a gap.
pub fn gap_line(reason: &str, colours: Colours) -> String {
    let text = format!(
        "--- messages may be missing here: the gateway could not continue from the cursor ({}); what follows is new ---",
        Escaped(reason)
    );
    Painted {
        colours,
        colour: Colour::Deleted,
        part: text,
    }
    .to_string()
}

/// The gap as a line of JSON.
pub fn gap_json(reason: &str) -> String {
    serde_json::json!({"type": "gap", "reason": reason}).to_string()
}

struct Row<'a> {
    fields: &'a Value,
    viewer: String,
    colours: Colours,
}

impl Row<'_> {
    fn text(&self, column: &str) -> Option<&str> {
        self.fields.get("message")?.get(column)?.as_str()
    }

    fn paint<T>(&self, colour: Colour, part: T) -> Painted<T> {
        Painted {
            colours: self.colours,
            colour,
            part,
        }
    }

    /// `2026-07-01 12:34:56Z ← bob [Bookcase, oak] (updated, read) Hi!`
    fn message(&self, change: Option<&str>) -> String {
        let time = self.text("created_at").map_or_else(String::new, moment);
        let sent = self.text("sender_id") == Some(&self.viewer);
        let received = self.text("receiver_id") == Some(&self.viewer);
        let (arrow, side, colour) = match (sent, received) {
            (true, true) => ("↺", "receiver", Colour::Outgoing),
            (true, false) => ("→", "receiver", Colour::Outgoing),
            (false, _) => ("←", "sender", Colour::Incoming),
        };
        let other = self
            .text(&format!("{side}_username"))
            .or_else(|| self.text(&format!("{side}_id")))
            .unwrap_or("somebody");
        let mut line = format!(
            "{} {}",
            self.paint(Colour::Faint, Escaped(&time)),
            self.paint(colour, format_args!("{arrow} {}", Escaped(other))),
        );
        if let Some(title) = self.text("product_title") {
            let title = format!(" [{}]", Escaped(title));
            line.push_str(&self.paint(Colour::Product, title).to_string());
        }
        if let Some(change) = change {
            let is_read = self.fields["message"]["is_read"] == Value::Bool(true);
            let read = if is_read { ", read" } else { "" };
            let mark = format!(" ({}{read})", Escaped(change));
            line.push_str(&self.paint(Colour::Updated, mark).to_string());
        }
        line.push(' ');
        line.push_str(&Escaped(self.text("content").unwrap_or_default()).to_string());
        line
    }

    /// A delete carries the message's id only, and the conversation tells who the other person is.
    fn deleted(&self) -> String {
        let conversation = self.fields["conversation"].as_str().unwrap_or_default();
        let other = conversation.split("__").next().unwrap_or_default();
        let id = self.text("id").unwrap_or_default();
        let mark = format!("(deleted) message {} with {}", Escaped(id), Escaped(other));
        self.paint(Colour::Deleted, mark).to_string()
    }
}

/// `2026-07-01T12:34:56.789+00:00`, as Postgres writes it, as `2026-07-01 12:34:56Z`. Another form stays as it is.
fn moment(text: &str) -> String {
    let Some((seconds, rest)) = text.split_at_checked(19) else {
        return text.to_owned();
    };
    let offset = rest.trim_start_matches(|character: char| character == '.' || character.is_ascii_digit());
    let zone = if offset == "+00:00" { "Z" } else { offset };
    format!("{}{zone}", seconds.replacen('T', " ", 1))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ALICE: Uuid = Uuid::from_u128(1);
    const BOB: Uuid = Uuid::from_u128(2);

    fn shown(op: &str, viewer: Uuid, change: &Value) -> String {
        let mut message = json!({
            "id": Uuid::from_u128(9), "sender_id": ALICE, "receiver_id": BOB, "content": "Hello",
            "created_at": "2026-07-01T12:34:56.789012+00:00", "is_read": false, "sender_username": "alice",
            "receiver_username": "bob", "product_title": null,
        });
        for (column, value) in change.as_object().unwrap() {
            message[column] = value.clone();
        }
        let event =
            json!({"op": op, "seq": 1, "conversation": format!("{BOB}__general"), "message": message});
        line(&Event::read(&event.to_string()).unwrap(), viewer, Colours::Off)
    }

    #[test]
    fn a_message_is_one_line_from_each_point_of_view() {
        assert_eq!(
            shown("insert", ALICE, &json!({})),
            "2026-07-01 12:34:56Z → bob Hello"
        );
        assert_eq!(
            shown("insert", BOB, &json!({"product_title": "Bookcase, oak"})),
            "2026-07-01 12:34:56Z ← alice [Bookcase, oak] Hello"
        );
        let to_oneself = json!({"receiver_id": ALICE, "receiver_username": "alice"});
        assert_eq!(
            shown("insert", ALICE, &to_oneself),
            "2026-07-01 12:34:56Z ↺ alice Hello"
        );
    }

    #[test]
    fn an_update_and_a_delete_say_so() {
        assert_eq!(
            shown("update", BOB, &json!({"is_read": true})),
            "2026-07-01 12:34:56Z ← alice (updated, read) Hello"
        );
        assert_eq!(
            shown("delete", ALICE, &json!({})),
            format!("(deleted) message {} with {BOB}", Uuid::from_u128(9))
        );
        assert!(shown("merge", ALICE, &json!({})).contains("(merge) Hello"));
    }

    #[test]
    fn nothing_that_people_wrote_acts_on_the_terminal() {
        let hostile = "\u{1b}]0;owned\u{7}\n";
        let change = json!({
            "content": hostile, "sender_username": hostile, "product_title": hostile, "created_at": hostile,
        });
        let line = shown("insert", BOB, &change);
        assert!(!line.contains(char::is_control), "{line:?}");
        assert_eq!(line.matches(r"\u{1b}]0;owned\u{7}\n").count(), 4, "{line:?}");
        assert!(!gap_line(hostile, Colours::Off).contains(char::is_control));
    }

    #[test]
    fn a_row_without_names_or_of_another_shape_is_still_shown() {
        let change = json!({"sender_username": null, "content": 5, "created_at": "yesterday"});
        assert_eq!(shown("insert", BOB, &change), format!("yesterday ← {ALICE} "));
    }

    #[test]
    fn colours_are_there_only_if_wanted_and_end_where_they_should() {
        let event = json!({"op": "insert", "seq": 1, "message": {"id": BOB, "sender_username": "eve", "content": "hi"}});
        let event = Event::read(&event.to_string()).unwrap();
        assert_eq!(
            line(&event, ALICE, Colours::On),
            "\u{1b}[2m\u{1b}[0m \u{1b}[32m← eve\u{1b}[0m hi"
        );
        assert_eq!(line(&event, ALICE, Colours::Off), " ← eve hi");
    }

    #[test]
    fn the_zone_is_kept_if_it_is_not_utc() {
        assert_eq!(moment("2026-07-01T12:34:56+02:00"), "2026-07-01 12:34:56+02:00");
        assert_eq!(moment("2026-07-01T12:34:56"), "2026-07-01 12:34:56");
        assert_eq!(moment("ä".repeat(10).as_str()), "ä".repeat(10));
    }

    #[test]
    fn a_gap_is_a_json_object_of_its_own() {
        assert_eq!(
            serde_json::from_str::<Value>(&gap_json("too_\"far")).unwrap(),
            json!({"type": "gap", "reason": "too_\"far"})
        );
    }
}
