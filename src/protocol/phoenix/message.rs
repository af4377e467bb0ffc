//! Messages of Phoenix channels in both serialisations that Supabase's clients speak, in and out.
//!
//! Source: the wire as the clients `@supabase/realtime-js` write and read it. Version 1.0.0 has JSON objects; version 2.0.0 has
//! JSON arrays, and binary frames for broadcasts, in which each length takes one byte.

use std::fmt::Write as _;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

/// The largest frame that a client may send, in bytes: a broadcast of a small picture fits, and a thousand of them do not hurt.
pub const PHOENIX_FRAME_BYTES_MAX: usize = 256 * 1024;

/// The longest topic, in bytes. The clients' own binary frames hold 255.
pub const TOPIC_BYTES_MAX: usize = 512;

/// The longest event name, in bytes; as with topics.
const EVENT_BYTES_MAX: usize = 256;

/// The longest reference, in bytes of JSON. The clients count from one.
const REFERENCE_BYTES_MAX: usize = 64;

/// What the first byte of a binary broadcast from a client is.
const KIND_BROADCAST_PUSH: u8 = 3;

/// What the first byte of a binary broadcast to a client is.
const KIND_BROADCAST: u8 = 4;

/// What the byte for the encoding says where the payload is JSON.
const ENCODING_JSON: u8 = 1;

/// How messages are written, as the query parameter `vsn` asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Serializer {
    /// Version 1.0.0: objects.
    Objects,
    /// Version 2.0.0: arrays, and binary broadcasts.
    Arrays,
}

impl Serializer {
    /// Reads `vsn`. Without one it is version 1.0.0, as Phoenix has it.
    pub fn from_version(version: Option<&str>) -> Option<Self> {
        match version.map(|version| version.split('.').next()) {
            None | Some(Some("1")) => Some(Self::Objects),
            Some(Some("2")) => Some(Self::Arrays),
            Some(_) => None,
        }
    }
}

/// What a client calls one of its messages: JSON, kept as it came, because it is given back verbatim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference(Box<str>);

impl Reference {
    fn read(value: Option<&RawValue>) -> Result<Option<Self>, MessageError> {
        let Some(text) = value.map(RawValue::get).filter(|text| *text != "null") else {
            return Ok(None);
        };
        let is_plain = text.starts_with('"') || text.bytes().all(|byte| byte.is_ascii_digit());
        if is_plain && text.len() <= REFERENCE_BYTES_MAX {
            Ok(Some(Self(text.into())))
        } else {
            Err(MessageError::Reference)
        }
    }

    fn of_bytes(bytes: &[u8]) -> Result<Option<Self>, MessageError> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| MessageError::Reference)?;
        let quoted = serde_json::to_string(text).map_err(|_| MessageError::Reference)?;
        Ok(Some(Self(quoted.into())))
    }

    /// Its place in the client's count, if it is a number. A client counts on when it connects again, and from one when its
    /// page is loaded again.
    pub fn number(&self) -> Option<u64> {
        self.0.trim_matches('"').parse().ok()
    }

    fn json(reference: Option<&Self>) -> &str {
        reference.map_or("null", |reference| &reference.0)
    }
}

/// What a message carries.
#[derive(Clone, Debug)]
pub enum Payload {
    /// JSON, not yet read.
    Json(Box<RawValue>),
    /// A broadcast that came in a binary frame.
    Broadcast {
        /// What kind of thing, as its sender calls it.
        event: Box<str>,
        /// What is said.
        content: Content,
    },
}

/// What a broadcast says.
#[derive(Clone, Debug)]
pub enum Content {
    /// JSON, as its sender wrote it.
    Json(Box<RawValue>),
    /// Bytes that nobody here looks into.
    Binary(Bytes),
}

/// One message from a client.
#[derive(Clone, Debug)]
pub struct Message {
    /// The reference of the join that the message belongs to.
    pub join_reference: Option<Reference>,
    /// The message's own.
    pub reference: Option<Reference>,
    /// The topic, as the client calls it.
    pub topic: Box<str>,
    /// What is asked for.
    pub event: Box<str>,
    /// More about it.
    pub payload: Payload,
}

/// Why a frame is no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// It is no JSON of the version's shape.
    #[error("the frame is not a message of this `vsn`")]
    Malformed,
    /// A reference is neither a short string nor a whole number.
    #[error("a reference of the frame is neither a short string nor a whole number")]
    Reference,
    /// Topic or event are too long.
    #[error("the topic or the event of the frame is too long")]
    TooLong,
    /// A binary frame of another kind, or with lengths that do not fit it.
    #[error("the binary frame is not a broadcast of version 2.0.0")]
    Binary,
}

#[derive(Deserialize)]
struct Object<'a> {
    topic: String,
    event: String,
    #[serde(borrow, default)]
    payload: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "ref")]
    reference: Option<&'a RawValue>,
    #[serde(borrow, default)]
    join_ref: Option<&'a RawValue>,
}

impl Message {
    /// Reads a text frame.
    ///
    /// # Errors
    /// [`MessageError`].
    pub fn read_text(serializer: Serializer, text: &str) -> Result<Self, MessageError> {
        let malformed = |_| MessageError::Malformed;
        let object = match serializer {
            // Serde would also take an array for an object, member by member.
            Serializer::Objects if !text.trim_ascii_start().starts_with('{') => {
                return Err(MessageError::Malformed);
            }
            Serializer::Objects => serde_json::from_str(text).map_err(malformed)?,
            Serializer::Arrays => {
                type Array<'a> = (&'a RawValue, &'a RawValue, String, String, Option<&'a RawValue>);
                let (join_ref, reference, topic, event, payload): Array<'_> =
                    serde_json::from_str(text).map_err(malformed)?;
                Object {
                    topic,
                    event,
                    payload,
                    reference: Some(reference),
                    join_ref: Some(join_ref),
                }
            }
        };
        let payload = match object.payload {
            Some(payload) => payload.to_owned(),
            None => RawValue::from_string("{}".to_owned()).map_err(malformed)?,
        };
        Self {
            join_reference: Reference::read(object.join_ref)?,
            reference: Reference::read(object.reference)?,
            topic: object.topic.into(),
            event: object.event.into(),
            payload: Payload::Json(payload),
        }
        .bounded()
    }

    /// Reads a binary frame, which only version 2.0.0 has: kind, the lengths of join reference, reference, topic, event and
    /// metadata, the encoding, and then these in the same order, and the payload up to the end.
    ///
    /// # Errors
    /// [`MessageError`].
    pub fn read_binary(serializer: Serializer, frame: &Bytes) -> Result<Self, MessageError> {
        let (Serializer::Arrays, Some((head, mut rest))) = (serializer, frame.split_first_chunk::<7>())
        else {
            return Err(MessageError::Binary);
        };
        let [kind, join_reference, reference, topic, event, metadata, encoding] = *head;
        if kind != KIND_BROADCAST_PUSH {
            return Err(MessageError::Binary);
        }
        let mut part = |length: u8| {
            let (part, after) = rest.split_at_checked(length.into()).ok_or(MessageError::Binary)?;
            rest = after;
            Ok(part)
        };
        let text = |bytes| std::str::from_utf8(bytes).map_err(|_| MessageError::Binary);
        let join_reference = Reference::of_bytes(part(join_reference)?)?;
        let reference = Reference::of_bytes(part(reference)?)?;
        let topic = text(part(topic)?)?;
        let event = text(part(event)?)?;
        let _not_used = part(metadata)?;
        let content = if encoding == ENCODING_JSON {
            let json = serde_json::from_slice::<Box<RawValue>>(rest).map_err(|_| MessageError::Binary)?;
            Content::Json(json)
        } else {
            Content::Binary(frame.slice_ref(rest))
        };
        Self {
            join_reference,
            reference,
            topic: topic.into(),
            event: "broadcast".into(),
            payload: Payload::Broadcast {
                event: event.into(),
                content,
            },
        }
        .bounded()
    }

    fn bounded(self) -> Result<Self, MessageError> {
        if self.topic.len() > TOPIC_BYTES_MAX || self.event.len() > EVENT_BYTES_MAX {
            return Err(MessageError::TooLong);
        }
        Ok(self)
    }
}

/// Whether a push was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It was.
    Ok,
    /// It was not.
    Error,
}

/// The answer to a push. `response` is a JSON object.
pub fn encode_reply(
    serializer: Serializer,
    join_reference: Option<&Reference>,
    reference: Option<&Reference>,
    topic: &str,
    status: Status,
    response: &str,
) -> String {
    let status = match status {
        Status::Ok => "ok",
        Status::Error => "error",
    };
    let payload = format!(r#"{{"status":"{status}","response":{response}}}"#);
    encode(
        serializer,
        join_reference,
        reference,
        topic,
        "phx_reply",
        &[&payload],
    )
}

/// A message that answers nothing. The parts of `payload` together are a JSON object.
pub fn encode_push(
    serializer: Serializer,
    join_reference: Option<&Reference>,
    topic: &str,
    event: &str,
    payload: &[&str],
) -> String {
    encode(serializer, join_reference, None, topic, event, payload)
}

/// The end of a channel, which is `phx_close` for good and `phx_error` for a client that is to join again.
pub fn encode_end(
    serializer: Serializer,
    join_reference: Option<&Reference>,
    topic: &str,
    event: &str,
) -> String {
    encode(serializer, join_reference, join_reference, topic, event, &["{}"])
}

fn encode(
    serializer: Serializer,
    join_reference: Option<&Reference>,
    reference: Option<&Reference>,
    topic: &str,
    event: &str,
    payload: &[&str],
) -> String {
    let (join_reference, reference) = (Reference::json(join_reference), Reference::json(reference));
    let length: usize = payload.iter().map(|part| part.len()).sum();
    // Names of members, references and escapes take less than this.
    let mut text = String::with_capacity(length + topic.len() + event.len() + 128);
    // Writing into a string cannot fail.
    let _written = match serializer {
        Serializer::Objects => write!(
            text,
            r#"{{"topic":{},"event":{},"ref":{reference},"join_ref":{join_reference},"payload":"#,
            quoted(topic),
            quoted(event),
        ),
        Serializer::Arrays => write!(
            text,
            "[{join_reference},{reference},{},{},",
            quoted(topic),
            quoted(event)
        ),
    };
    text.extend(payload.iter().copied());
    text.push(match serializer {
        Serializer::Objects => '}',
        Serializer::Arrays => ']',
    });
    text
}

/// A text as a JSON string.
pub fn quoted(text: &str) -> String {
    // A string into memory cannot fail; the fallback keeps the signature honest without a panic.
    serde_json::to_string(text).unwrap_or_else(|_| r#""""#.to_owned())
}

/// A broadcast of bytes, for version 2.0.0; nothing if topic or event do not fit the lengths of one byte.
pub fn encode_binary_broadcast(topic: &str, event: &str, content: &[u8]) -> Option<Bytes> {
    let (topic_length, event_length) = (u8::try_from(topic.len()).ok()?, u8::try_from(event.len()).ok()?);
    let head = [KIND_BROADCAST, topic_length, event_length, 0, 0];
    Some(
        [&head, topic.as_bytes(), event.as_bytes(), content]
            .concat()
            .into(),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn parse(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn both_serialisations_say_the_same() {
        let array = r#"["6","7","realtime:room","phx_join",{"config":{}}]"#;
        let object = r#"{"topic":"realtime:room","event":"phx_join","payload":{"config":{}},"ref":"7","join_ref":"6"}"#;
        for (serializer, text) in [(Serializer::Arrays, array), (Serializer::Objects, object)] {
            let message = Message::read_text(serializer, text).unwrap();
            assert_eq!(&*message.topic, "realtime:room");
            assert_eq!(
                message.join_reference.as_ref().and_then(Reference::number),
                Some(6)
            );
            let Payload::Json(payload) = &message.payload else {
                panic!()
            };
            assert_eq!(payload.get(), r#"{"config":{}}"#);
            let reply = encode_reply(
                serializer,
                message.join_reference.as_ref(),
                message.reference.as_ref(),
                &message.topic,
                Status::Ok,
                "{}",
            );
            let expected = match serializer {
                Serializer::Arrays => {
                    json!(["6", "7", "realtime:room", "phx_reply", {"status": "ok", "response": {}}])
                }
                Serializer::Objects => json!({"topic": "realtime:room", "event": "phx_reply", "ref": "7",
                    "join_ref": "6", "payload": {"status": "ok", "response": {}}}),
            };
            assert_eq!(parse(&reply), expected);
        }
    }

    #[test]
    fn a_payload_of_null_is_an_empty_one_in_both_serialisations() {
        let array = r#"[null,null,"phoenix","heartbeat",null]"#;
        let object = r#"{"topic":"phoenix","event":"heartbeat","payload":null}"#;
        for (serializer, text) in [(Serializer::Arrays, array), (Serializer::Objects, object)] {
            let message = Message::read_text(serializer, text).unwrap();
            assert!(matches!(message.payload, Payload::Json(payload) if payload.get() == "{}"));
        }
        let without = r#"[null,null,"phoenix","heartbeat"]"#;
        assert!(Message::read_text(Serializer::Arrays, without).is_err());
    }

    #[test]
    fn a_captured_binary_broadcast_is_read() {
        let frame = Bytes::from_static(b"\x03\x01\x01\x0f\x02\x00\x0167realtime:room-1hi{\"a\":1}");
        let message = Message::read_binary(Serializer::Arrays, &frame).unwrap();
        assert_eq!(
            (&*message.topic, &*message.event),
            ("realtime:room-1", "broadcast")
        );
        let Payload::Broadcast {
            event,
            content: Content::Json(json),
        } = message.payload
        else {
            panic!()
        };
        assert_eq!((&*event, json.get()), ("hi", r#"{"a":1}"#));
        assert_eq!(
            Message::read_binary(Serializer::Objects, &frame).unwrap_err(),
            MessageError::Binary
        );
    }

    #[test]
    fn a_binary_broadcast_is_written_as_the_clients_read_it() {
        let frame = encode_binary_broadcast("realtime:a", "hi", &[1, 2]).unwrap();
        assert_eq!(&frame[..], b"\x04\x0a\x02\x00\x00realtime:ahi\x01\x02");
        assert!(encode_binary_broadcast(&"t".repeat(256), "hi", &[]).is_none());
    }

    #[test]
    fn versions_are_known_by_their_first_number() {
        assert_eq!(Serializer::from_version(None), Some(Serializer::Objects));
        assert_eq!(Serializer::from_version(Some("1.0.0")), Some(Serializer::Objects));
        assert_eq!(Serializer::from_version(Some("2.0.0")), Some(Serializer::Arrays));
        assert_eq!(Serializer::from_version(Some("3.0.0")), None);
        assert_eq!(Serializer::from_version(Some("")), None);
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "\\PC{0,200}") {
            let _objects = Message::read_text(Serializer::Objects, &text);
            let _arrays = Message::read_text(Serializer::Arrays, &text);
        }

        #[test]
        fn no_bytes_make_the_reader_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..80), kind: bool) {
            if kind && let Some(first) = bytes.first_mut() {
                *first = KIND_BROADCAST_PUSH;
            }
            let _read = Message::read_binary(Serializer::Arrays, &bytes.into());
        }

        #[test]
        fn topics_and_events_are_escaped(topic in "\\PC{0,40}", event in "\\PC{0,20}") {
            for serializer in [Serializer::Objects, Serializer::Arrays] {
                let text = encode_push(serializer, None, &topic, &event, &["{", "}"]);
                let message = Message::read_text(serializer, &text).unwrap();
                prop_assert_eq!((&*message.topic, &*message.event), (topic.as_str(), event.as_str()));
            }
        }
    }
}
