//! How frames are written as Server-Sent Events (WHATWG HTML, "Server-sent events").
//!
//! An event is lines and an empty line behind them: `event:` names it, `id:` is the cursor that a browser brings back as
//! `Last-Event-ID`, `data:` is the frame's text, and `retry:` says how long a browser waits before it connects again.
//! The frame's text is copied once, into the buffer that goes to the connection.

use std::{fmt::Write as _, time::Duration};

use bytes::Bytes;
use rand::{Rng, RngExt};

use super::{close::CloseCode, server_frame};

/// The media type of the answer.
pub const CONTENT_TYPE: &str = "text/event-stream";

/// A comment, which every reader passes over: it shows both sides that the connection carries something.
pub const HEARTBEAT: Bytes = Bytes::from_static(b":\n\n");

/// How long a browser waits after a connection that was lost without a word. Browsers' own defaults reach from three to
/// five seconds; the gateway takes a crowd that comes back within a second.
pub const RETRY: Duration = Duration::from_secs(1);

/// Clients of a gateway that shuts down come back spread over this time.
const GOING_AWAY_SPREAD: Duration = Duration::from_secs(5);

/// After too many frames.
const COOL_DOWN: Duration = Duration::from_secs(60);

/// Said to a client that should not come back. An `EventSource` cannot be told to stop once it was let in, so that it is
/// told to wait for longer than a page is open.
const NEVER: Duration = Duration::from_secs(24 * 3600);

/// The name, beside its text, of an event. It is the frame's `type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// The first one.
    Ready,
    /// What happened.
    Events,
    /// The last one, if the gateway ends the session.
    Close,
}

impl Name {
    const fn text(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Events => "events",
            Self::Close => "close",
        }
    }
}

/// One event: what it is called, the cursor behind it, how long to wait after a loss from now on, and its text.
///
/// A text may hold line ends, where the application's view has JSON that was written over several lines. Each of its
/// lines becomes a line of data, which the reader joins again; there line ends stand between values only.
pub fn encode(name: Name, cursor: Option<&str>, retry: Option<Duration>, text: &str) -> Bytes {
    // The fixed parts take less than 64 bytes.
    let mut event = String::with_capacity(text.len() + cursor.map_or(0, str::len) + 64);
    // Writing into a string cannot fail.
    if let Some(retry) = retry {
        let _written = writeln!(event, "retry: {}", retry.as_millis());
    }
    let _written = writeln!(event, "event: {}", name.text());
    if let Some(cursor) = cursor {
        let _written = writeln!(event, "id: {cursor}");
    }
    for line in text.split(['\r', '\n']) {
        let _written = writeln!(event, "data: {line}");
    }
    event.push('\n');
    event.into()
}

/// The last event of a session that the gateway ends. How long a browser waits before it comes back is drawn at random
/// where many are sent away in the same moment.
pub fn encode_close(code: CloseCode, random: &mut impl Rng) -> Bytes {
    let text = server_frame::encode_close(code);
    encode(Name::Close, None, Some(retry_after(code, random)), &text)
}

fn retry_after(code: CloseCode, random: &mut impl Rng) -> Duration {
    match code {
        CloseCode::GoingAway => GOING_AWAY_SPREAD.mul_f64(random.random::<f64>()),
        CloseCode::TooManyFrames => COOL_DOWN,
        // With an expired token the browser is refused, which ends its `EventSource` and tells the page.
        code if code.comes_back() => RETRY,
        _ => NEVER,
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    #[test]
    fn an_event_is_written_line_by_line() {
        let event = encode(Name::Ready, Some("e.1-4"), Some(RETRY), r#"{"type":"ready"}"#);
        assert_eq!(
            event,
            "retry: 1000\nevent: ready\nid: e.1-4\ndata: {\"type\":\"ready\"}\n\n"
        );
        let event = encode(Name::Events, None, None, "{}");
        assert_eq!(event, "event: events\ndata: {}\n\n");
    }

    #[test]
    fn a_text_of_several_lines_cannot_break_out_of_its_event() {
        let event = encode(Name::Events, None, None, "{\n\r\nid: x\r}");
        let event = std::str::from_utf8(&event).unwrap();
        assert_eq!(
            event,
            "event: events\ndata: {\ndata: \ndata: \ndata: id: x\ndata: }\n\n"
        );
    }

    #[test]
    fn who_should_come_back_is_told_when_and_who_should_not_waits_for_a_day() {
        let random = &mut StdRng::seed_from_u64(1);
        for code in CloseCode::ALL {
            let retry = retry_after(code, random);
            assert_eq!(code.comes_back(), retry <= COOL_DOWN, "{code:?}");
            let event = encode_close(code, random);
            let event = std::str::from_utf8(&event).unwrap();
            let (head, data) = event.split_once("event: close\ndata: ").unwrap();
            assert!(head.starts_with("retry: ") && head.ends_with('\n'), "{event}");
            assert_eq!(data.trim_end(), server_frame::encode_close(code));
        }
        let mut drawn: Vec<_> = (0..100)
            .map(|_| retry_after(CloseCode::GoingAway, random))
            .collect();
        drawn.sort_unstable();
        assert!(drawn[0] < Duration::from_secs(1) && drawn[99] > Duration::from_secs(4));
        assert!(drawn[99] <= GOING_AWAY_SPREAD);
    }
}
