//! Reads Server-Sent Events out of bytes (WHATWG HTML, "Parsing an event stream" and "Interpreting an event stream").
//!
//! Pure: bytes go in as they come, cut anywhere, and events come out. What a browser keeps of `id` and `retry` is passed
//! over here: the cursor is in the data too, and when to come back is decided in one place for all that carries frames.

use std::collections::VecDeque;

/// What some editors put before a text (Unicode Standard, §23.8).
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StreamEvent {
    /// What it is called; `message` if it was not said.
    pub(super) name: String,
    /// Its lines of data, joined by line ends.
    pub(super) data: String,
}

/// An event, or a line of one, is longer than allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event has more than {0} bytes")]
pub(super) struct TooLong(pub(super) usize);

/// What has been read of a stream.
#[derive(Debug)]
pub(super) struct EventStreamParser {
    bytes_max: usize,
    /// The line that has not ended yet.
    line: Vec<u8>,
    is_first_line: bool,
    /// Whether the last byte ended a line, so that a line feed behind it ends none.
    after_carriage_return: bool,
    name: String,
    data: Option<String>,
    events: VecDeque<StreamEvent>,
}

impl EventStreamParser {
    /// Nothing has been read. No event may have more bytes than this.
    pub(super) const fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            line: Vec::new(),
            is_first_line: true,
            after_carriage_return: false,
            name: String::new(),
            data: None,
            events: VecDeque::new(),
        }
    }

    /// Reads what has come.
    ///
    /// # Errors
    /// [`TooLong`]; the rest of the stream is of no use then.
    pub(super) fn read(&mut self, mut bytes: &[u8]) -> Result<(), TooLong> {
        while let Some(first) = bytes.first() {
            let ends_nothing = std::mem::take(&mut self.after_carriage_return) && *first == b'\n';
            if ends_nothing {
                bytes = &bytes[1..];
                continue;
            }
            let Some(end) = bytes.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else {
                return self.extend_line(bytes);
            };
            self.extend_line(&bytes[..end])?;
            self.after_carriage_return = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            self.end_line();
        }
        Ok(())
    }

    /// The oldest event that was read and not taken yet.
    pub(super) fn take(&mut self) -> Option<StreamEvent> {
        self.events.pop_front()
    }

    /// Whether there is no event to take.
    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    fn extend_line(&mut self, bytes: &[u8]) -> Result<(), TooLong> {
        let held = self.line.len() + self.name.len() + self.data.as_ref().map_or(0, String::len);
        if held + bytes.len() > self.bytes_max {
            return Err(TooLong(self.bytes_max));
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let mut text = line.as_slice();
        if std::mem::take(&mut self.is_first_line) {
            text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
        }
        if text.is_empty() {
            return self.end_event();
        }
        let (field, value) = match text.iter().position(|byte| *byte == b':') {
            Some(colon) => (&text[..colon], &text[colon + 1..]),
            None => (text, &[][..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"event" => self.name = String::from_utf8_lossy(value).into_owned(),
            b"data" => {
                let value = String::from_utf8_lossy(value);
                match &mut self.data {
                    Some(data) => {
                        data.push('\n');
                        data.push_str(&value);
                    }
                    none => *none = Some(value.into_owned()),
                }
            }
            // Comments, which have no name, and fields for others.
            _ => {}
        }
    }

    fn end_event(&mut self) {
        let name = std::mem::take(&mut self.name);
        let Some(data) = self.data.take() else { return };
        self.events.push_back(StreamEvent {
            name: if name.is_empty() {
                "message".to_owned()
            } else {
                name
            },
            data,
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;
    use crate::protocol::{
        close::CloseCode,
        event_stream::{HEARTBEAT, Name, encode, encode_close},
    };

    const MAX: usize = 1000;

    fn events(parser: &mut EventStreamParser) -> Vec<(String, String)> {
        std::iter::from_fn(|| parser.take())
            .map(|event| (event.name, event.data))
            .collect()
    }

    fn read(text: &[u8]) -> Vec<(String, String)> {
        let mut parser = EventStreamParser::new(MAX);
        parser.read(text).unwrap();
        events(&mut parser)
    }

    fn messages(data: &[&str]) -> Vec<(String, String)> {
        data.iter()
            .map(|data| ("message".to_owned(), (*data).to_owned()))
            .collect()
    }

    #[test]
    fn the_examples_of_the_standard_are_read_as_it_says() {
        assert_eq!(
            read(b"data: YHOO\ndata: +2\ndata: 10\n\n"),
            messages(&["YHOO\n+2\n10"])
        );
        let stream =
            b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n";
        assert_eq!(
            read(stream),
            messages(&["first event", "second event", " third event"])
        );
        // The last one is not complete.
        assert_eq!(read(b"data\n\ndata\ndata\n\ndata:"), messages(&["", "\n"]));
        assert_eq!(read(b"data:test\n\ndata: test\n\n"), messages(&["test", "test"]));
    }

    #[test]
    fn an_event_has_its_name_and_without_data_it_is_none() {
        let stream = b"event: ready\ndata: {}\n\nevent: nothing\n\ndata: x\n\n";
        assert_eq!(read(stream)[0], ("ready".to_owned(), "{}".to_owned()));
        assert_eq!(read(stream)[1..], messages(&["x"]));
    }

    #[test]
    fn what_others_need_is_passed_over() {
        let stream = b"retry: 1000\nretry: soon\nid: a\0b\nid\n:\n: comment: data: no\nunknown: x\nDATA: no\n data: no\ndata: yes\n\n";
        assert_eq!(read(stream), messages(&["yes"]));
    }

    #[test]
    fn a_byte_order_mark_is_passed_over_at_the_beginning_only() {
        assert_eq!(read(b"\xef\xbb\xbfdata: x\n\n"), messages(&["x"]));
        assert_eq!(read(b"\n\xef\xbb\xbfdata: x\n\n"), []);
        assert_eq!(read(b"\xef\xbb\xbf\n\xef\xbb\xbfdata: x\n\n"), []);
    }

    #[test]
    fn what_is_no_utf8_is_replaced() {
        assert_eq!(read(b"data: a\xffb\n\n"), messages(&["a\u{fffd}b"]));
    }

    #[test]
    fn lines_and_events_are_bounded() {
        let fails = |chunk: &[u8]| {
            let mut parser = EventStreamParser::new(MAX);
            (0..MAX).any(|_| parser.read(chunk) == Err(TooLong(MAX)))
        };
        assert!(fails(b"x") || EventStreamParser::new(MAX).read(&[b'x'; MAX + 1]).is_err());
        assert!(fails(b"data: 0123456789\n"));
        assert!(fails(b"data: 0123456789\r"));
        assert!(fails(b": comment without an end"));
        // Events that are complete do not count.
        assert!(!fails(b"data: 0123456789\n\n"));
        assert!(!fails(b": comment\n"));
    }

    proptest! {
        /// The same lines with any line ends, cut anywhere, are the same events.
        #[test]
        fn line_ends_and_cuts_do_not_matter(
            lines in proptest::collection::vec(
                prop_oneof![Just(String::new()), "(data|event|id|retry|): ?[a-zé😀\u{feff}:]{0,5}", "data", "[a-d:]{0,4}"], 0..20),
            ends in proptest::collection::vec(prop_oneof![Just("\n"), Just("\r\n"), Just("\r")], 20),
            cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..10),
        ) {
            let plain = lines.iter().map(String::as_str).chain([""]).collect::<Vec<_>>().join("\n");
            let mut mixed = String::new();
            for (line, end) in lines.iter().zip(&ends) {
                // A line feed behind a carriage return would belong to it.
                let joins = mixed.ends_with('\r') && line.is_empty() && end.starts_with('\n');
                mixed.push_str(line);
                mixed.push_str(if joins { "\r" } else { end });
            }
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(mixed.len() + 1)).chain([0, mixed.len()]).collect();
            at.sort_unstable();
            let mut parser = EventStreamParser::new(MAX);
            for piece in at.windows(2) {
                parser.read(&mixed.as_bytes()[piece[0]..piece[1]]).unwrap();
            }
            prop_assert_eq!(events(&mut parser), read(plain.as_bytes()));
        }

        /// What the gateway writes is read again, whatever the text.
        #[test]
        fn what_the_gateway_writes_is_read(texts in proptest::collection::vec("[^\r]{0,40}", 0..8), cut in 1usize..7) {
            let mut stream = Vec::new();
            let mut expected = Vec::new();
            for text in &texts {
                stream.extend(encode(Name::Events, Some("e.1-4"), None, text));
                stream.extend(HEARTBEAT);
                expected.push(("events".to_owned(), text.clone()));
            }
            stream.extend(encode_close(CloseCode::Slow, &mut StdRng::seed_from_u64(1)));
            let mut parser = EventStreamParser::new(MAX);
            for piece in stream.chunks(cut) {
                parser.read(piece).unwrap();
            }
            let mut found = events(&mut parser);
            let (name, close) = found.pop().unwrap();
            prop_assert_eq!(found, expected);
            prop_assert_eq!((name.as_str(), close.contains("4008")), ("close", true));
        }

        #[test]
        fn no_bytes_make_it_panic(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 0..20)) {
            let mut parser = EventStreamParser::new(MAX);
            for piece in pieces {
                parser.read(&piece).unwrap();
            }
        }
    }
}
