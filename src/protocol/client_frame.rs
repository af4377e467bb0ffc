//! Frames from a client. Reading one never panics and never trusts a length.

use serde::Deserialize;

/// The largest frame a client may send, in bytes. A token is the largest thing in the protocol and stays far below.
pub const CLIENT_FRAME_BYTES_MAX: usize = 64 * 1024;

/// The longest `ref` that is echoed, in bytes: the gateway is no mirror for large payloads.
const REFERENCE_BYTES_MAX: usize = 256;

/// What a client said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientFrame {
    /// A new token for the same user.
    Auth {
        /// The token, not yet checked.
        token: String,
    },
    /// A question whether anybody is there.
    Ping {
        /// Echoed in the answer.
        reference: Option<String>,
    },
}

/// The `code` of the answer to every frame that is not understood, whatever is wrong with it.
pub const UNKNOWN_TYPE: &str = "unknown_type";

/// Why a frame was not understood: a sentence for the developer of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientFrameError {
    /// The frame is not a JSON object with a `type`.
    #[error("the frame is not a JSON object with a string \"type\"")]
    Malformed,
    /// The `type` is none that this protocol has.
    #[error("the frame's \"type\" is none of auth, ping")]
    UnknownType,
    /// The `type` is known, but a field of it is missing, too long or of the wrong kind.
    #[error(
        "a field of the frame is missing, too long or not a string: auth has \"token\", ping may have \"ref\""
    )]
    InvalidField,
}

/// The frame with every field of every type optional, so that one pass reads it whatever it is.
#[derive(Deserialize)]
struct Fields {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    token: Option<serde_json::Value>,
    #[serde(default, rename = "ref")]
    reference: Option<serde_json::Value>,
}

impl ClientFrame {
    /// Reads one text frame.
    ///
    /// # Errors
    /// [`ClientFrameError`], which the session answers and counts.
    pub fn read(text: &str) -> Result<Self, ClientFrameError> {
        // Serde would also take an array for a struct, member by member.
        if !text.trim_ascii_start().starts_with('{') {
            return Err(ClientFrameError::Malformed);
        }
        let fields: Fields = serde_json::from_str(text).map_err(|_| ClientFrameError::Malformed)?;
        match fields.kind.as_str() {
            "auth" => match fields.token {
                Some(serde_json::Value::String(token)) => Ok(Self::Auth { token }),
                _ => Err(ClientFrameError::InvalidField),
            },
            "ping" => match fields.reference {
                None | Some(serde_json::Value::Null) => Ok(Self::Ping { reference: None }),
                Some(serde_json::Value::String(reference)) if reference.len() <= REFERENCE_BYTES_MAX => {
                    Ok(Self::Ping {
                        reference: Some(reference),
                    })
                }
                Some(_) => Err(ClientFrameError::InvalidField),
            },
            _ => Err(ClientFrameError::UnknownType),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "\\PC{0,200}") {
            let _read = ClientFrame::read(&text);
        }

        #[test]
        fn any_reference_of_a_fair_length_is_kept(reference in "\\PC{0,60}") {
            let text = serde_json::json!({"type": "ping", "ref": reference}).to_string();
            prop_assert_eq!(ClientFrame::read(&text), Ok(ClientFrame::Ping { reference: Some(reference) }));
        }
    }

    #[test]
    fn unknown_fields_are_ignored() {
        let read = ClientFrame::read(r#"{"type":"auth","token":"t","later":[1,2]}"#);
        assert_eq!(
            read,
            Ok(ClientFrame::Auth {
                token: "t".to_owned()
            })
        );
    }

    #[test]
    fn each_way_of_being_wrong_is_told_apart() {
        let error = |text: &str| ClientFrame::read(text).unwrap_err();
        for text in [
            "",
            "nonsense",
            "[]",
            r#"["ping"]"#,
            r#"["auth","t"]"#,
            "{}",
            r#"{"type":"ping","type":"auth"}"#,
            r#"{"type":5}"#,
            "\"ping\"",
            &"[".repeat(60_000),
        ] {
            assert_eq!(error(text), ClientFrameError::Malformed, "{text:.20}");
        }
        assert_eq!(error(r#"{"type":"subscribe"}"#), ClientFrameError::UnknownType);
        assert_eq!(error(r#"{"type":"auth"}"#), ClientFrameError::InvalidField);
        assert_eq!(
            error(r#"{"type":"ping","ref":7}"#),
            ClientFrameError::InvalidField
        );
        let long = format!(r#"{{"type":"ping","ref":"{}"}}"#, "x".repeat(257));
        assert_eq!(error(&long), ClientFrameError::InvalidField);
    }
}
