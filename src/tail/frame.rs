//! Frames from the gateway, as a client reads them.
//!
//! Of an event only what tells it from others is read here; the rest stays the text that came, so that it can be
//! handed on unchanged.

use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

/// The heartbeat that is assumed if the gateway names none, in seconds.
const HEARTBEAT_DEFAULT_S: u64 = 25;

/// What the gateway said.
#[derive(Clone, Debug)]
pub(super) enum ServerFrame {
    /// The session has begun.
    Ready(Ready),
    /// Something happened.
    Events(Events),
    /// The new token was accepted.
    Auth,
    /// Something this client sent was not understood.
    Error(String),
    /// Why the gateway ends the connection, where the connection itself cannot tell.
    Close(Close),
    /// A frame of another kind, for other clients or of a later version.
    Other,
}

/// The first frame.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub(super) struct Ready {
    pub(super) user: Uuid,
    pub(super) session: Uuid,
    pub(super) cursor: String,
    pub(super) resumed: Option<bool>,
    pub(super) reason: Option<String>,
    #[serde(default = "heartbeat_default")]
    pub(super) heartbeat_s: u64,
}

/// The last frame.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub(super) struct Close {
    pub(super) code: u16,
    #[serde(default)]
    pub(super) reason: String,
}

const fn heartbeat_default() -> u64 {
    HEARTBEAT_DEFAULT_S
}

/// Events, and the cursor behind them unless the batch goes on in a later frame.
#[derive(Clone, Debug)]
pub(super) struct Events {
    pub(super) cursor: Option<String>,
    pub(super) events: Vec<Event>,
}

/// What tells an event from every other of the same log.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventKey {
    /// The log's serial number. It comes first, so that the least key is the oldest.
    pub seq: i64,
    /// Which message.
    pub message: Uuid,
    /// What was done to it: `insert`, `update` or `delete`.
    pub op: Box<str>,
}

/// One event, as it was received.
#[derive(Clone, Debug)]
pub struct Event {
    /// What tells it from every other.
    pub key: EventKey,
    json: Box<str>,
}

impl Event {
    /// The event object as it was received, on one line.
    pub fn json(&self) -> &str {
        &self.json
    }
}

/// A frame that no gateway of this protocol sends.
#[derive(Debug, thiserror::Error)]
#[error("the gateway sent a frame that is not of the protocol: {0}")]
pub struct FrameError(#[from] serde_json::Error);

impl ServerFrame {
    /// Reads one text frame.
    pub(super) fn read(text: &str) -> Result<Self, FrameError> {
        #[derive(Deserialize)]
        struct Kind {
            r#type: String,
        }
        #[derive(Deserialize)]
        struct ErrorFields {
            #[serde(default)]
            message: String,
        }
        let kind: Kind = serde_json::from_str(text)?;
        Ok(match kind.r#type.as_str() {
            "ready" => Self::Ready(serde_json::from_str(text)?),
            "events" => Self::Events(Events::read(text)?),
            "auth" => Self::Auth,
            "close" => Self::Close(serde_json::from_str(text)?),
            "error" => Self::Error(serde_json::from_str::<ErrorFields>(text)?.message),
            _ => Self::Other,
        })
    }
}

impl Events {
    fn read(text: &str) -> Result<Self, FrameError> {
        #[derive(Deserialize)]
        struct Fields<'a> {
            cursor: Option<String>,
            #[serde(borrow)]
            events: Vec<&'a RawValue>,
        }
        let fields: Fields<'_> = serde_json::from_str(text)?;
        let events = fields.events.into_iter().map(|event| Event::read(event.get()));
        Ok(Self {
            cursor: fields.cursor,
            events: events.collect::<Result<_, _>>()?,
        })
    }
}

impl Event {
    pub(super) fn read(json: &str) -> Result<Self, FrameError> {
        #[derive(Deserialize)]
        struct Message {
            id: Uuid,
        }
        #[derive(Deserialize)]
        struct Fields {
            op: Box<str>,
            seq: i64,
            message: Message,
        }
        let fields: Fields = serde_json::from_str(json)?;
        Ok(Self {
            key: EventKey {
                seq: fields.seq,
                message: fields.message.id,
                op: fields.op,
            },
            // Within strings JSON escapes line ends, so these stand between values, where a space says the same.
            json: json.replace(['\n', '\r'], " ").into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";

    #[test]
    fn an_event_is_handed_on_as_it_came_and_on_one_line() {
        let event = format!(
            r#"{{"op":"insert","seq":9,"conversation":"c","message":{{"id":"{ID}","price":1.50,"extra":{{}}}}}}"#
        );
        let text = format!(r#"{{"type":"events","cursor":"e.1","events":[{event}]}}"#);
        let ServerFrame::Events(read) = ServerFrame::read(&text).unwrap() else {
            panic!("{text}");
        };
        assert_eq!(read.cursor.as_deref(), Some("e.1"));
        assert_eq!(read.events[0].json(), event);
        assert_eq!(
            (read.events[0].key.seq, read.events[0].key.op.as_ref()),
            (9, "insert")
        );
        let broken_lines = event.replace(":{}", ":{\r\n}");
        assert_eq!(
            Event::read(&broken_lines).unwrap().json(),
            event.replace(":{}", ":{  }")
        );
    }

    #[test]
    fn unknown_types_and_fields_are_ignored() {
        assert!(matches!(
            ServerFrame::read(r#"{"type":"presence","who":[]}"#).unwrap(),
            ServerFrame::Other
        ));
        let ready = format!(
            r#"{{"type":"ready","user":"{ID}","session":"{ID}","cursor":"e.1","expires_at":"…","later":1}}"#
        );
        let ServerFrame::Ready(ready) = ServerFrame::read(&ready).unwrap() else {
            panic!("{ready}");
        };
        assert_eq!((ready.resumed, ready.heartbeat_s), (None, 25));
    }

    #[test]
    fn what_is_not_of_the_protocol_is_an_error() {
        for wrong in [
            "",
            "[]",
            "{}",
            r#"{"type":"ready"}"#,
            r#"{"type":"events"}"#,
            r#"{"type":"events","events":[{"op":"insert","seq":1}]}"#,
            r#"{"type":"events","events":[{"op":"insert","seq":1,"message":{"id":"x"}}]}"#,
        ] {
            assert!(ServerFrame::read(wrong).is_err(), "{wrong}");
        }
    }
}
