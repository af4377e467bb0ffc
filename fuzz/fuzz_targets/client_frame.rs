//! A frame of the native protocol from a client: it means what the members of its object say, whatever else is in it, and is answered
//! with JSON.

#![no_main]

use std::{collections::HashMap, fmt};

use herald_fuzz::protocol::{
    client_frame::{ClientFrame, ClientFrameError},
    server_frame::{encode_error, encode_pong},
};
use libfuzzer_sys::{Corpus, fuzz_target};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::{Value, json, value::RawValue};

/// The longest reference that is given back, in bytes (PROTOCOL.md).
const REFERENCE_BYTES_MAX: usize = 256;

fuzz_target!(|data: &[u8]| -> Corpus {
    let Ok(text) = str::from_utf8(data) else {
        return Corpus::Reject;
    };
    let read = ClientFrame::read(text);
    assert_eq!(read, expected(text));
    match read {
        Ok(ClientFrame::Auth { token }) => {
            let again = json!({"type": "auth", "token": token}).to_string();
            assert_eq!(ClientFrame::read(&again), Ok(ClientFrame::Auth { token }));
        }
        Ok(ClientFrame::Ping { reference }) => {
            let answer: Value = serde_json::from_str(&encode_pong(reference.as_deref())).unwrap();
            match reference {
                Some(reference) => assert_eq!(answer, json!({"type": "pong", "ref": reference})),
                None => assert_eq!(answer, json!({"type": "pong"})),
            }
        }
        Err(error) => {
            let answer: Value = serde_json::from_str(&encode_error(&error.to_string())).unwrap();
            assert_eq!(answer["message"], error.to_string());
        }
    }
    Corpus::Keep
});

/// What a frame means, by its members one after the other.
fn expected(text: &str) -> Result<ClientFrame, ClientFrameError> {
    let Members(members) = serde_json::from_str(text).map_err(|_| ClientFrameError::Malformed)?;
    let mut known: HashMap<&str, Value> = HashMap::new();
    for (name, value) in &members {
        if !["type", "token", "ref"].contains(&name.as_str()) {
            continue;
        }
        // As deep as it stands in the frame.
        let [value] = serde_json::from_str::<[Value; 1]>(&format!("[{}]", value.get()))
            .map_err(|_| ClientFrameError::Malformed)?;
        // Who reads the other one would hear something else.
        if known.insert(name, value).is_some() {
            return Err(ClientFrameError::Malformed);
        }
    }
    let Some(Value::String(kind)) = known.remove("type") else {
        return Err(ClientFrameError::Malformed);
    };
    match (kind.as_str(), known.remove("token"), known.remove("ref")) {
        ("auth", Some(Value::String(token)), _) => Ok(ClientFrame::Auth { token }),
        ("ping", _, None | Some(Value::Null)) => Ok(ClientFrame::Ping { reference: None }),
        ("ping", _, Some(Value::String(reference))) if reference.len() <= REFERENCE_BYTES_MAX => {
            Ok(ClientFrame::Ping {
                reference: Some(reference),
            })
        }
        ("auth" | "ping", _, _) => Err(ClientFrameError::InvalidField),
        _ => Err(ClientFrameError::UnknownType),
    }
}

/// The members of an object, also those that occur twice.
struct Members(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Members(Vec::new()))
    }
}

impl<'de> Visitor<'de> for Members {
    type Value = Self;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Self, A::Error> {
        while let Some(member) = map.next_entry()? {
            self.0.push(member);
        }
        Ok(self)
    }
}
