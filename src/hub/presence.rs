//! How presence is written: the description that a channel gives of its person, the state of a topic, and what changes it.
//!
//! The form is that of Phoenix.Presence: under each presence key a list `metas`, of which every description has a
//! `phx_ref` of its own. A client puts a state and the diffs after it together by these refs: it adds the descriptions of
//! `joins`, and then removes those of `leaves`. So a description that replaces another is a join and a leave in one diff, and
//! has the ref of the one before as `phx_ref_prev`.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use serde_json::value::RawValue;
use uuid::Uuid;

/// The most bytes of a description. It is sent to all members and kept for those to come: room for a name, a picture's
/// address and what the person is doing, and no place for content.
pub const META_BYTES_MAX: usize = 4 * 1024;

/// The longest presence key, in bytes. Keys are ids, or names of people.
pub const PRESENCE_KEY_BYTES_MAX: usize = 255;

/// The fields that Phoenix adds by itself. A description may not bring them: clients go by them.
const RESERVED: [&str; 2] = ["phx_ref", "phx_ref_prev"];

/// A tracked presence was not taken, or not let go. Supabase's server ends the channel over some of these; here each is an answer,
/// and the channel stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PresenceError {
    /// The channel is no member of the topic.
    #[error("The channel has not joined this topic")]
    NotJoined,
    /// The channel tracks and untracks too often.
    #[error("Client presence rate limit exceeded")]
    TooManyOfChannel,
    /// The topic's members track too often together.
    #[error("Too many presence messages per second")]
    TooManyOnTopic,
    /// The description is longer than [`META_BYTES_MAX`].
    #[error("Track message size exceeded")]
    TooLarge,
    /// The description is no JSON object.
    #[error("Presence track payload must be a map")]
    NotAnObject,
    /// The presence key is longer than [`PRESENCE_KEY_BYTES_MAX`].
    #[error("The presence key is longer than 255 bytes")]
    KeyTooLong,
}

/// Where the `phx_ref`s come from. A client keeps what it knows over a reconnection and compares refs, perhaps with those of
/// another gateway; so they are unique among all processes and not only in this one.
#[derive(Debug)]
pub(super) struct References {
    process: u64,
    next: AtomicU64,
}

impl References {
    pub(super) fn new() -> Self {
        Self {
            process: Uuid::new_v4().as_u64_pair().0,
            next: AtomicU64::new(0),
        }
    }

    fn next(&self) -> Reference {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let text = format!("{:016x}.{number}", self.process).into();
        Reference { number, text }
    }
}

/// The `phx_ref` of one description.
#[derive(Clone, Debug)]
struct Reference {
    /// Those of one process are in the order of their numbers.
    number: u64,
    text: Arc<str>,
}

/// A description without its braces and without refs: its fields in the order of their names, so that two that say the same
/// are the same text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fields(Box<str>);

impl Fields {
    /// Checks a presence key and what was said under it.
    pub(super) fn read(key: &str, meta: &RawValue) -> Result<Self, PresenceError> {
        if key.len() > PRESENCE_KEY_BYTES_MAX {
            return Err(PresenceError::KeyTooLong);
        }
        let text = meta.get();
        if text.len() > META_BYTES_MAX {
            return Err(PresenceError::TooLarge);
        }
        let mut fields: BTreeMap<String, &RawValue> =
            serde_json::from_str(text).map_err(|_| PresenceError::NotAnObject)?;
        for name in RESERVED {
            fields.remove(name);
        }
        let mut written = String::with_capacity(text.len());
        for (name, value) in fields {
            push_name(&mut written, &name);
            written.push_str(value.get());
            written.push(',');
        }
        Ok(Self(written.into()))
    }
}

/// One channel's presence.
#[derive(Clone, Debug)]
pub(super) struct Presence {
    key: Box<str>,
    fields: Fields,
    reference: Reference,
    previous: Option<Arc<str>>,
}

impl Presence {
    /// A presence that comes in the place of the channel's `previous` one, if it had any.
    pub(super) fn new(key: &str, fields: Fields, previous: Option<&Self>, references: &References) -> Self {
        Self {
            key: key.into(),
            fields,
            reference: references.next(),
            previous: previous.map(|previous| Arc::clone(&previous.reference.text)),
        }
    }

    /// Whether it says the same already.
    pub(super) fn says(&self, key: &str, fields: &Fields) -> bool {
        *self.key == *key && self.fields == *fields
    }

    fn write(&self, text: &mut String) {
        text.push('{');
        text.push_str(&self.fields.0);
        // Writing to a string cannot fail.
        let _written = write!(text, "\"phx_ref\":\"{}\"", self.reference.text);
        if let Some(previous) = &self.previous {
            let _written = write!(text, ",\"phx_ref_prev\":\"{previous}\"");
        }
        text.push('}');
    }
}

/// Presences as a JSON object: `{"<key>":{"metas":[…]},…}`. The oldest description of a key comes first, as it does at a client
/// that has seen them come.
pub(super) fn state<'a>(presences: impl Iterator<Item = &'a Presence>) -> String {
    let mut by_key: BTreeMap<&str, Vec<&Presence>> = BTreeMap::new();
    for presence in presences {
        by_key.entry(&presence.key).or_default().push(presence);
    }
    let mut text = String::from("{");
    for (number, (key, mut presences)) in by_key.into_iter().enumerate() {
        presences.sort_unstable_by_key(|presence| presence.reference.number);
        if number > 0 {
            text.push(',');
        }
        push_name(&mut text, key);
        text.push_str("{\"metas\":[");
        for (number, presence) in presences.into_iter().enumerate() {
            if number > 0 {
                text.push(',');
            }
            presence.write(&mut text);
        }
        text.push_str("]}");
    }
    text.push('}');
    text
}

/// What changes a state: `{"joins":{…},"leaves":{…}}`.
pub(super) fn diff(joins: Option<&Presence>, leaves: Option<&Presence>) -> Box<str> {
    let (joins, leaves) = (state(joins.into_iter()), state(leaves.into_iter()));
    format!("{{\"joins\":{joins},\"leaves\":{leaves}}}").into()
}

/// A field's name and its colon.
fn push_name(text: &mut String, name: &str) {
    // A string value writes itself as JSON.
    let _written = write!(text, "{}:", serde_json::Value::from(name));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    fn presence(key: &str, meta: &str, previous: Option<&Presence>, references: &References) -> Presence {
        Presence::new(key, Fields::read(key, &raw(meta)).unwrap(), previous, references)
    }

    #[test]
    fn states_and_diffs_have_the_form_that_clients_read() {
        let references = References::new();
        let first = presence(
            "a \"key\"",
            r#"{"at":1,"phx_ref":"forged","phx_ref_prev":0}"#,
            None,
            &references,
        );
        let second = presence("a \"key\"", "{ }", None, &references);
        let after = presence("other", r#"{"at" : [2, "é"]}"#, Some(&first), &references);
        let told: Value = serde_json::from_str(&state([&first, &second].into_iter())).unwrap();
        assert_eq!(
            told,
            json!({"a \"key\"": {"metas": [
                {"at": 1, "phx_ref": *first.reference.text}, {"phx_ref": *second.reference.text},
            ]}})
        );
        let told: Value = serde_json::from_str(&diff(Some(&after), Some(&first))).unwrap();
        assert_eq!(
            told,
            json!({
                "joins": {"other": {"metas": [
                    {"at": [2, "é"], "phx_ref": *after.reference.text, "phx_ref_prev": *first.reference.text},
                ]}},
                "leaves": {"a \"key\"": {"metas": [{"at": 1, "phx_ref": *first.reference.text}]}},
            })
        );
        assert_eq!(state(std::iter::empty()), "{}");
    }

    #[test]
    fn what_is_no_description_is_refused() {
        let read = |key: &str, meta: &str| Fields::read(key, &raw(meta));
        for wrong in ["1", "null", "[]", "[1]", "\"text\""] {
            assert_eq!(read("", wrong), Err(PresenceError::NotAnObject), "{wrong}");
        }
        let of_size = |bytes: usize| format!("{{\"x\":\"{}\"}}", "y".repeat(bytes - 8));
        assert!(read("", &of_size(META_BYTES_MAX)).is_ok());
        assert_eq!(
            read("", &of_size(META_BYTES_MAX + 1)),
            Err(PresenceError::TooLarge)
        );
        let long = "k".repeat(PRESENCE_KEY_BYTES_MAX + 1);
        assert_eq!(read(&long, "{}"), Err(PresenceError::KeyTooLong));
    }

    #[test]
    fn two_descriptions_that_say_the_same_are_the_same() {
        let read = |meta: &str| Fields::read("", &raw(meta)).unwrap();
        assert_eq!(read(r#"{"a":1, "b":2}"#), read(r#"{ "b":2,"a":1 }"#));
        assert_ne!(read(r#"{"a":1}"#), read(r#"{"a":2}"#));
    }

    proptest! {
        #[test]
        fn every_object_comes_back_with_its_fields(key in ".{0,20}", names in proptest::collection::btree_map(".{0,8}", any::<i64>(), 0..6)) {
            let references = References::new();
            let meta = serde_json::to_string(&names).unwrap();
            let presence = presence(&key, &meta, None, &references);
            let mut told: Value = serde_json::from_str(&state([&presence].into_iter())).unwrap();
            let mut expected = json!({&key: {"metas": [names]}});
            expected[&key]["metas"][0]["phx_ref"] = json!(*presence.reference.text);
            prop_assert_eq!(told.take(), expected);
        }
    }
}
