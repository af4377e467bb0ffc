//! A text that is written to many WebSockets, with the header of its frame already before it.
//!
//! A server's frames are not masked (RFC 6455, section 5.1), so that the same bytes go to everybody: as one slice, without a copy for any of them.

use std::{fmt, io::Cursor, ops::Deref};

use bytes::Bytes;
use tokio_tungstenite::tungstenite::{
    Utf8Bytes,
    protocol::frame::{
        FrameHeader,
        coding::{Data, OpCode},
    },
};

/// The longest header of a frame that is not masked, in bytes: two, and eight for a long payload's length (RFC 6455, section 5.2).
const HEADER_BYTES_MAX: usize = 10;

/// What stands where the header will be, until the length of the text is known.
const ROOM: &str = "          ";

/// A text under construction. It is read as the text alone.
#[derive(Debug)]
pub(super) struct TextFrameBuilder(String);

impl TextFrameBuilder {
    /// A frame whose text begins like this.
    pub(super) fn new(opening: &str) -> Self {
        Self([ROOM, opening].concat())
    }

    /// How long the text is, in bytes.
    pub(super) const fn len(&self) -> usize {
        self.0.len() - HEADER_BYTES_MAX
    }

    /// Appends to the text.
    pub(super) fn push_str(&mut self, text: &str) {
        self.0.push_str(text);
    }

    /// Makes room for so many bytes more.
    pub(super) fn reserve(&mut self, bytes: usize) {
        self.0.reserve(bytes);
    }

    /// The frame, with no room to spare: frames wait in outboxes, where every session would pay for it.
    pub(super) fn finish(self) -> TextFrame {
        let text_bytes = self.len() as u64;
        let mut bytes = self.0.into_bytes();
        bytes.shrink_to_fit();
        let header = FrameHeader {
            opcode: OpCode::Data(Data::Text),
            ..FrameHeader::default()
        };
        let mut written = Cursor::new([0; HEADER_BYTES_MAX]);
        // It has room for every header without a mask.
        let _written = header.format(text_bytes, &mut written);
        let header_bytes = usize::try_from(written.position()).unwrap_or(HEADER_BYTES_MAX);
        let begin = HEADER_BYTES_MAX - header_bytes;
        bytes[begin..HEADER_BYTES_MAX].copy_from_slice(&written.into_inner()[..header_bytes]);
        let all = Bytes::from(bytes);
        TextFrame {
            // What was put together from text is text.
            text: Utf8Bytes::try_from(all.slice(HEADER_BYTES_MAX..)).unwrap_or_default(),
            frame: all.slice(begin..),
        }
    }
}

impl fmt::Write for TextFrameBuilder {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.push_str(text);
        Ok(())
    }
}

/// A text, and the frame that it is the payload of. Clones share one allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TextFrame {
    text: Utf8Bytes,
    frame: Bytes,
}

impl TextFrame {
    /// The text alone.
    pub(super) fn text(&self) -> Utf8Bytes {
        self.text.clone()
    }

    /// The whole frame, as a server writes it.
    pub(super) fn frame(&self) -> Bytes {
        self.frame.clone()
    }
}

impl Deref for TextFrame {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio_tungstenite::tungstenite::{Message, WebSocket, protocol::Role};

    use super::*;

    proptest! {
        #[test]
        fn it_is_what_tungstenite_would_write(
            word in "[a-zü😀]{1,9}",
            count in prop_oneof![4 => 0usize..30, 1 => 7_000usize..7_400],
        ) {
            let text = word.repeat(count);
            let mut builder = TextFrameBuilder::new("{");
            builder.push_str(&text);
            prop_assert_eq!(builder.len(), text.len() + 1);
            let frame = builder.finish();
            let mut websocket = WebSocket::from_raw_socket(Cursor::new(Vec::new()), Role::Server, None);
            websocket.send(Message::text(["{", &text].concat())).unwrap();
            prop_assert_eq!(&frame.frame()[..], &websocket.get_ref().get_ref()[..]);
            prop_assert_eq!(&frame[1..], text);
            let shared = frame.text();
            prop_assert_eq!(shared.as_str(), &*frame);
        }
    }
}
