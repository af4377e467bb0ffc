//! Frames to a client, as text that is made once and cheap to clone.
//!
//! A row stays the text that Postgres made: it is copied into the frame and neither parsed nor written anew.

use std::{
    fmt::Write as _,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use serde::Serialize;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use uuid::Uuid;

use super::{
    client_frame::UNKNOWN_TYPE,
    close::CloseCode,
    cursor::Cursor,
    event::{Event, Operation},
    snapshot::{Snapshot, Transaction},
    text_frame::{TextFrame, TextFrameBuilder},
};
use crate::types::{SessionId, UserId};

/// A frame takes no further event once it is this long, in bytes; its last event may reach beyond.
///
/// A session's socket buffers keep the capacity of the largest frame they held, so that a larger frame costs
/// memory for as long as the connection lasts; a smaller one splits batches that would have arrived whole.
pub const EVENTS_FRAME_BYTES_MAX: usize = 64 * 1024;

/// Why a cursor cannot be continued, and the client has to reload over HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Discontinuity {
    /// The cursor belongs to another life of the log.
    UnknownEpoch,
    /// The log has been pruned past the cursor.
    Expired,
    /// The cursor has seen what this database has not: a failover lost commits.
    Ahead,
    /// More would have to be replayed than the gateway replays.
    TooFar,
    /// The text is no cursor.
    Malformed,
}

impl Discontinuity {
    /// The `reason` on the wire, and the label in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::UnknownEpoch => "unknown_epoch",
            Self::Expired => "expired",
            Self::Ahead => "ahead",
            Self::TooFar => "too_far",
            Self::Malformed => "malformed",
        }
    }
}

/// The first frame of every session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// Whose session it is.
    pub user: UserId,
    /// Which session it is.
    pub session: SessionId,
    /// Where the session stands before anything else is sent.
    pub cursor: Cursor,
    /// What became of the cursor that was brought; `None` if none was.
    pub resumed: Option<Result<(), Discontinuity>>,
    /// When the token ends.
    pub expires_at: SystemTime,
    /// Seconds between the gateway's pings.
    pub heartbeat_s: u64,
}

/// A moment as RFC 3339 text, in UTC and whole seconds.
pub fn rfc3339(moment: SystemTime) -> String {
    // Years above 9999 have no RFC 3339 form; such a moment is shown as the last one that has.
    let latest = SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_799);
    humantime::format_rfc3339_seconds(moment.min(latest)).to_string()
}

impl Ready {
    /// The frame's text.
    pub fn encode(&self) -> String {
        #[derive(Serialize)]
        struct Frame<'a> {
            r#type: &'a str,
            user: String,
            session: String,
            cursor: String,
            #[serde(skip_serializing_if = "Option::is_none")]
            resumed: Option<bool>,
            #[serde(skip_serializing_if = "Option::is_none")]
            reason: Option<&'a str>,
            expires_at: String,
            heartbeat_s: u64,
        }
        to_json(&Frame {
            r#type: "ready",
            user: self.user.to_string(),
            session: self.session.to_string(),
            cursor: self.cursor.to_string(),
            resumed: self.resumed.map(|resumed| resumed.is_ok()),
            reason: self.resumed.and_then(Result::err).map(Discontinuity::name),
            expires_at: rfc3339(self.expires_at),
            heartbeat_s: self.heartbeat_s,
        })
    }
}

/// The answer to a token that was accepted, and when it ends.
pub fn encode_auth(expires_at: SystemTime) -> String {
    to_json(&serde_json::json!({"type": "auth", "expires_at": rfc3339(expires_at)}))
}

/// The answer to a client's ping.
pub fn encode_pong(reference: Option<&str>) -> String {
    match reference {
        Some(reference) => to_json(&serde_json::json!({"type": "pong", "ref": reference})),
        None => r#"{"type":"pong"}"#.to_owned(),
    }
}

/// The answer to a frame that was not understood.
pub fn encode_error(message: &str) -> String {
    to_json(&serde_json::json!({"type": "error", "code": UNKNOWN_TYPE, "message": message}))
}

/// Why the gateway ends the session, where the transport has no close codes of its own.
pub fn encode_close(code: CloseCode) -> String {
    to_json(&serde_json::json!({"type": "close", "code": code.number(), "reason": code.reason()}))
}

fn to_json(value: &impl Serialize) -> String {
    // Strings and numbers into memory cannot fail; the fallback keeps the signature honest without a panic.
    serde_json::to_string(value).unwrap_or_default()
}

/// Where one event stands in a frame's text, and what else is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    about: About,
    start: usize,
    /// Where the row begins; it ends one byte before the piece does.
    row: usize,
    end: usize,
}

/// What is known of an event beside its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct About {
    /// The transaction that made the change.
    pub transaction: Transaction,
    /// When it was logged.
    pub logged_at: SystemTime,
    /// What was done.
    pub operation: Operation,
    /// Which message.
    pub message: Uuid,
    /// Who wrote it.
    pub sender: UserId,
    /// Whom it was written to.
    pub receiver: UserId,
    /// What it is about, if anything.
    pub product: Option<Uuid>,
}

impl About {
    const fn of(event: &Event) -> Self {
        Self {
            transaction: event.transaction,
            logged_at: event.logged_at,
            operation: event.operation,
            message: event.message,
            sender: event.sender,
            receiver: event.receiver,
            product: event.product,
        }
    }
}

/// A finished `events` frame of one person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventsFrame {
    text: TextFrame,
    pieces: Box<[Piece]>,
    carries_cursor: bool,
}

impl EventsFrame {
    /// The text to be sent. Clones share one allocation.
    pub fn text(&self) -> Utf8Bytes {
        self.text.text()
    }

    /// The WebSocket frame with this text, as a server writes it, of the same allocation.
    pub fn websocket_frame(&self) -> Bytes {
        self.text.frame()
    }

    /// Bytes on the wire, without the WebSocket header.
    pub fn len(&self) -> usize {
        self.text.len()
    }

    /// Whether there is no event in it.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// How many events are in it.
    pub fn events(&self) -> usize {
        self.pieces.len()
    }

    /// Whether a client may continue from this frame.
    pub const fn carries_cursor(&self) -> bool {
        self.carries_cursor
    }

    /// The cursor that the frame carries, as a part of its text.
    pub fn cursor(&self) -> Option<&str> {
        // It is the last string of the text, and needs no escaping, so that it stands between the last two quotes.
        let mut from_end = self.text.rsplitn(3, '"').skip(1);
        from_end.next().filter(|_| self.carries_cursor)
    }

    /// Its events in order, each with its row: the view's, or of a delete the identifier alone.
    pub fn rows(&self) -> impl Iterator<Item = (&About, &str)> {
        self.pieces
            .iter()
            .map(|piece| (&piece.about, &self.text[piece.row..piece.end - 1]))
    }

    /// The frame without the events that `seen` already sees, and with this cursor if any.
    ///
    /// It is for a client whose cursor is ahead of this gateway's feed (it came from an HTTP answer or another gateway).
    #[must_use]
    pub fn unseen_by(&self, seen: &Snapshot, cursor: Option<&str>) -> Self {
        let mut rest = EventsFrameBuilder::new();
        for piece in self
            .pieces
            .iter()
            .filter(|piece| !seen.sees(piece.about.transaction))
        {
            rest.push_encoded(
                piece.about,
                &self.text[piece.start..piece.end],
                piece.row - piece.start,
            );
        }
        rest.finish(cursor)
    }
}

/// Collects the events of one person into one frame.
#[derive(Debug)]
pub struct EventsFrameBuilder {
    text: TextFrameBuilder,
    pieces: Vec<Piece>,
}

const OPENING: &str = r#"{"type":"events","events":["#;

impl Default for EventsFrameBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl EventsFrameBuilder {
    /// A frame without events.
    pub fn new() -> Self {
        Self {
            text: TextFrameBuilder::new(OPENING),
            pieces: Vec::new(),
        }
    }

    /// Appends one event from the viewer's point of view.
    pub fn push(&mut self, event: &Event, viewer: UserId) {
        let row = event.row.as_deref();
        // Fixed parts, a serial number and two identifiers take less than 160 bytes.
        self.text.reserve(row.map_or(48, str::len) + 160);
        let start = self.begin_piece();
        // Writing into a string cannot fail.
        let _written = write!(
            self.text,
            r#"{{"op":"{}","seq":{},"conversation":"{}","message":"#,
            event.operation.name(),
            event.seq,
            event.conversation(viewer),
        );
        let row_start = self.text.len();
        match row {
            Some(row) => self.text.push_str(row),
            None => {
                let _written = write!(self.text, r#"{{"id":"{}"}}"#, event.message.as_hyphenated());
            }
        }
        self.text.push_str("}");
        self.end_piece(About::of(event), start, row_start);
    }

    fn push_encoded(&mut self, about: About, encoded: &str, row: usize) {
        let start = self.begin_piece();
        self.text.push_str(encoded);
        self.end_piece(about, start, start + row);
    }

    fn begin_piece(&mut self) -> usize {
        if !self.pieces.is_empty() {
            self.text.push_str(",");
        }
        self.text.len()
    }

    fn end_piece(&mut self, about: About, start: usize, row: usize) {
        self.pieces.push(Piece {
            about,
            start,
            row,
            end: self.text.len(),
        });
    }

    /// Whether the frame is large enough to be sent before another event is added.
    pub const fn is_full(&self) -> bool {
        self.text.len() >= EVENTS_FRAME_BYTES_MAX
    }

    /// Closes the frame. With a cursor, the client may continue from it; without, the batch goes on in the next frame.
    pub fn finish(mut self, cursor: Option<&str>) -> EventsFrame {
        self.text.push_str("]");
        if let Some(cursor) = cursor {
            // A cursor consists of letters, digits, dots and hyphens, so that it needs no escaping.
            let _written = write!(self.text, r#","cursor":"{cursor}""#);
        }
        self.text.push_str("}");
        EventsFrame {
            text: self.text.finish(),
            pieces: self.pieces.into_boxed_slice(),
            carries_cursor: cursor.is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::{super::cursor::Epoch, *};

    fn event(seq: i64, xid: u64, row: Option<&str>) -> Event {
        Event {
            seq,
            transaction: Transaction { life: 1, xid },
            logged_at: SystemTime::UNIX_EPOCH,
            operation: if row.is_some() {
                Operation::Insert
            } else {
                Operation::Delete
            },
            message: Uuid::from_u128(7),
            sender: UserId(Uuid::from_u128(1)),
            receiver: UserId(Uuid::from_u128(2)),
            product: None,
            row: row.map(Into::into),
        }
    }

    fn parse(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn the_two_people_know_the_conversation_under_two_names() {
        let event = event(4711, 9, Some(r#"{"id":"x","content":"hé 😀"}"#));
        let text = |viewer: u128| {
            let mut builder = EventsFrameBuilder::new();
            builder.push(&event, UserId(Uuid::from_u128(viewer)));
            parse(builder.finish(Some("e.1")).text().as_str())
        };
        let expected = |other: &str| {
            json!({"type": "events", "cursor": "e.1", "events": [{
                "op": "insert", "seq": 4711, "conversation": format!("{other}__general"),
                "message": {"id": "x", "content": "hé 😀"},
            }]})
        };
        assert_eq!(text(1), expected("00000000-0000-0000-0000-000000000002"));
        assert_eq!(text(2), expected("00000000-0000-0000-0000-000000000001"));
    }

    #[test]
    fn a_delete_carries_the_identifier_only() {
        let mut builder = EventsFrameBuilder::new();
        builder.push(&event(1, 1, None), UserId(Uuid::from_u128(1)));
        let frame = parse(builder.finish(None).text().as_str());
        assert_eq!(frame["events"][0]["op"], "delete");
        assert_eq!(
            frame["events"][0]["message"],
            json!({"id": "00000000-0000-0000-0000-000000000007"})
        );
        assert!(frame.get("cursor").is_none());
    }

    #[test]
    fn rows_are_found_in_the_text_also_after_filtering() {
        let mut builder = EventsFrameBuilder::new();
        builder.push(&event(1, 1, Some(r#"{"id":"a"}"#)), UserId(Uuid::from_u128(1)));
        builder.push(&event(2, 5, Some(r#"{"id":"b"}"#)), UserId(Uuid::from_u128(1)));
        builder.push(&event(3, 6, None), UserId(Uuid::from_u128(1)));
        let frame = builder.finish(Some("e.1"));
        let rows = |frame: &EventsFrame| frame.rows().map(|(_, row)| row.to_owned()).collect::<Vec<_>>();
        let deleted = r#"{"id":"00000000-0000-0000-0000-000000000007"}"#;
        assert_eq!(rows(&frame), [r#"{"id":"a"}"#, r#"{"id":"b"}"#, deleted]);
        let seen = Snapshot::new(1, 5, 5, Vec::new()).unwrap();
        assert_eq!(rows(&frame.unseen_by(&seen, None)), [r#"{"id":"b"}"#, deleted]);
    }

    #[test]
    fn ready_says_what_became_of_the_cursor() {
        let ready = |resumed| Ready {
            user: UserId(Uuid::from_u128(1)),
            session: SessionId(Uuid::from_u128(2)),
            cursor: Cursor {
                epoch: Epoch::new("e").unwrap(),
                snapshot: Arc::new(Snapshot::read(1, "5:5:").unwrap()),
            },
            resumed,
            expires_at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
            heartbeat_s: 25,
        };
        assert_eq!(
            parse(&ready(None).encode()),
            json!({"type": "ready", "user": "00000000-0000-0000-0000-000000000001",
                "session": "00000000-0000-0000-0000-000000000002", "cursor": "e.1-4",
                "expires_at": "2023-11-14T22:13:20Z", "heartbeat_s": 25}),
        );
        assert_eq!(parse(&ready(Some(Ok(()))).encode())["resumed"], json!(true));
        let lost = parse(&ready(Some(Err(Discontinuity::TooFar))).encode());
        assert_eq!(
            (&lost["resumed"], &lost["reason"]),
            (&json!(false), &json!("too_far"))
        );
    }

    #[test]
    fn the_cursor_is_found_in_the_text_if_there_is_one() {
        let tricky = event(1, 1, Some(r#"{"id":"x","content":"\"cursor\":\"no\""}"#));
        let mut with = EventsFrameBuilder::new();
        with.push(&tricky, UserId(Uuid::from_u128(1)));
        let mut without = EventsFrameBuilder::new();
        without.push(&tricky, UserId(Uuid::from_u128(1)));
        assert_eq!(with.finish(Some("e.1-4-2")).cursor(), Some("e.1-4-2"));
        assert_eq!(without.finish(None).cursor(), None);
        assert_eq!(
            EventsFrameBuilder::new().finish(Some("e.1")).cursor(),
            Some("e.1")
        );
    }

    #[test]
    fn a_close_says_its_code_and_its_reason() {
        let close = parse(&encode_close(CloseCode::Slow));
        assert_eq!(
            close,
            json!({"type": "close", "code": 4008, "reason": CloseCode::Slow.reason()})
        );
    }

    #[test]
    fn a_reference_is_escaped_and_a_far_expiry_is_still_a_date() {
        assert_eq!(parse(&encode_pong(Some("a\"b\n")))["ref"], "a\"b\n");
        assert_eq!(
            parse(&encode_auth(
                SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40)
            ))["expires_at"],
            "9999-12-31T23:59:59Z"
        );
    }

    proptest! {
        #[test]
        fn what_is_left_after_filtering_is_what_was_not_seen(xids in proptest::collection::vec(1u64..20, 0..12), xmax in 1u64..20) {
            let seen = Snapshot::new(1, xmax, xmax, Vec::new()).unwrap();
            let viewer = UserId(Uuid::from_u128(1));
            let (mut all, mut expected) = (EventsFrameBuilder::new(), EventsFrameBuilder::new());
            for (seq, xid) in (0..).zip(&xids) {
                let event = event(seq, *xid, Some(r#"{"id":1}"#));
                all.push(&event, viewer);
                if *xid >= xmax {
                    expected.push(&event, viewer);
                }
            }
            prop_assert_eq!(all.finish(Some("e.1")).unseen_by(&seen, None), expected.finish(None));
        }
    }
}
