//! A stream of Server-Sent Events: however it is cut, the same events come out, and they are those of the standard (WHATWG HTML,
//! "Interpreting an event stream"); and what the gateway writes is read as it was.

#![no_main]

use herald_fuzz::{
    protocol::event_stream::{HEARTBEAT, Name, encode},
    tail::read_stream,
};
use libfuzzer_sys::fuzz_target;

/// So short that inputs meet it, in bytes.
const BYTES_MAX: usize = 40;

fuzz_target!(|data: &[u8]| {
    // The first byte says how long the pieces are.
    let Some((length, stream)) = data.split_first() else {
        return;
    };
    let pieces = |length: usize| stream.chunks(length.max(1));
    for bytes_max in [BYTES_MAX, usize::MAX] {
        let whole = read_stream([stream], bytes_max);
        assert_eq!(whole, read_stream(pieces(usize::from(*length)), bytes_max));
        assert_eq!(whole, read_stream(pieces(1), bytes_max));
        let (events, is_whole) = whole;
        if bytes_max == usize::MAX {
            assert!(is_whole);
            assert_eq!(events, expected(stream));
        }
        let kept = |(name, data): &(String, String)| name.len() + data.len() <= 3 * bytes_max.min(1 << 20);
        assert!(events.iter().all(kept), "{events:?}");
    }
    check_written(&String::from_utf8_lossy(stream), usize::from(*length));
});

/// What the standard makes of a stream, all at once.
fn expected(stream: &[u8]) -> Vec<(String, String)> {
    let text = String::from_utf8_lossy(stream);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let mut events = Vec::new();
    let (mut name, mut data) = (String::new(), String::new());
    let mut lines: Vec<&str> = text.split('\n').collect();
    // What stands behind the last line end is no line.
    lines.pop();
    for line in lines {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut name),
            "data" => {
                data.push_str(value);
                data.push('\n');
            }
            _ => {}
        }
        if line.is_empty() {
            // A line of data without a value is data too.
            if let Some(data) = data.strip_suffix('\n') {
                let name = if name.is_empty() { "message" } else { &name };
                events.push((name.to_owned(), data.to_owned()));
            }
            (name, data) = (String::new(), String::new());
        }
    }
    events
}

/// A text of any kind stays within its event, whatever stands around it.
fn check_written(text: &str, length: usize) {
    let mut stream = Vec::new();
    stream.extend(encode(Name::Ready, Some("e.1-4"), None, "{}"));
    stream.extend(HEARTBEAT);
    stream.extend(encode(Name::Events, None, None, text));
    stream.extend(encode(Name::Close, None, None, "{}"));
    let (events, is_whole) = read_stream(stream.chunks(length.max(1)), usize::MAX);
    assert!(is_whole);
    let written = [
        ("ready", "{}".to_owned()),
        ("events", text.replace('\r', "\n")),
        ("close", "{}".to_owned()),
    ];
    assert_eq!(events, written.map(|(name, data)| (name.to_owned(), data)));
}
