//! What is said on topics, beside the committed changes: broadcasts and presence.

use bytes::Bytes;
use serde_json::value::RawValue;

/// What is said on a topic, made once for all who hear it.
#[derive(Debug)]
pub enum TopicMessage {
    /// One member says something to the others.
    Broadcast {
        /// What kind of thing, as its sender calls it.
        event: Box<str>,
        /// What is said.
        payload: BroadcastPayload,
    },
    /// Who came and who went: a JSON object with `joins` and `leaves`.
    PresenceDiff(Box<str>),
}

/// What a broadcast says.
#[derive(Clone, Debug)]
pub enum BroadcastPayload {
    /// JSON, as its sender wrote it.
    Json(Box<RawValue>),
    /// Bytes that nobody here looks into.
    Binary(Bytes),
}

impl TopicMessage {
    /// What it counts against an outbox's bound: its text and this structure around it.
    pub fn cost_bytes(&self) -> usize {
        let text = match self {
            Self::Broadcast { event, payload } => {
                event.len()
                    + match payload {
                        BroadcastPayload::Json(json) => json.get().len(),
                        BroadcastPayload::Binary(bytes) => bytes.len(),
                    }
            }
            Self::PresenceDiff(diff) => diff.len(),
        };
        text + size_of::<Self>()
    }
}
