//! A frame of the native protocol from a gateway, as a client reads it: an event is handed on as it came and on one line; and what
//! the gateway writes is read as it was.

#![no_main]

use std::time::{Duration, SystemTime};

use herald_fuzz::{
    protocol::{
        event::{Event, Operation},
        server_frame::{EventsFrameBuilder, encode_auth, encode_error, encode_pong},
        snapshot::{Snapshot, Transaction},
    },
    tail::{Frame, read_event, read_frame},
    types::UserId,
};
use libfuzzer_sys::{Corpus, fuzz_target};
use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

const CURSOR: &str = "e.1-9";

/// What a client reads of a row.
#[derive(Deserialize)]
struct Row {
    id: Uuid,
}

fuzz_target!(|data: &[u8]| -> Corpus {
    let Ok(text) = str::from_utf8(data) else {
        return Corpus::Reject;
    };
    match read_frame(text) {
        Ok(Frame::Events(_, events)) => {
            for event in events {
                assert!(!event.json().contains(['\n', '\r']));
                let again = read_event(event.json()).unwrap();
                assert_eq!((&again.key, again.json()), (&event.key, event.json()));
            }
        }
        Ok(_) => {}
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    check_events(text);
    check_answers(text);
    Corpus::Keep
});

/// Events whose row the text is, if it can be one, and how they are read.
fn check_events(text: &str) {
    let Ok(row) = serde_json::from_str::<&RawValue>(text) else {
        return;
    };
    // A view has one column of a name. JSON with two of them is not refused by everybody who reads it, but by the client.
    let id = serde_json::from_str::<Row>(text).ok().map(|row| row.id);
    let mut builder = EventsFrameBuilder::new();
    let event = |seq, xid, operation, row: Option<&str>| Event {
        seq,
        transaction: Transaction { life: 1, xid },
        logged_at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        operation,
        message: Uuid::from_u128(7),
        sender: UserId(Uuid::from_u128(1)),
        receiver: UserId(Uuid::from_u128(2)),
        product: None,
        row: row.map(Into::into),
    };
    let events = [
        event(1, 5, Operation::Insert, Some(row.get())),
        event(2, 20, Operation::Delete, None),
        event(3, 5, Operation::Update, Some(row.get())),
    ];
    for event in &events {
        builder.push(event, event.sender);
    }
    let frame = builder.finish(Some(CURSOR));
    assert_eq!((frame.events(), frame.cursor()), (3, Some(CURSOR)));
    let rows: Vec<&str> = frame.rows().map(|(_, row)| row).collect();
    assert_eq!((rows[0], rows[2]), (row.get(), row.get()));
    // Of what a client has seen nothing is left, and the rest is what it was.
    let seen = Snapshot::new(1, 9, 9, Vec::new()).unwrap();
    let rest = frame.unseen_by(&seen, None);
    assert_eq!(rest.rows().map(|(_, row)| row).collect::<Vec<_>>(), [rows[1]]);
    assert_eq!(rest.cursor(), None);
    let [delete] = &keys(&rest.text())[..] else {
        panic!("one event is left");
    };
    assert_eq!(delete, &(2, Uuid::from_u128(7), "delete".to_owned()));
    // A row of the application's view names its message.
    if let Some(id) = id {
        let keys = keys(&frame.text());
        assert_eq!(keys[0], (1, id, "insert".to_owned()));
        assert_eq!(&keys[1], delete);
        assert_eq!(keys[2], (3, id, "update".to_owned()));
    }
}

/// What a client reads of the events in a frame.
fn keys(frame: &str) -> Vec<(i64, Uuid, String)> {
    let Ok(Frame::Events(_, events)) = read_frame(frame) else {
        panic!("a frame of events is read as one: {frame}");
    };
    let key = |event: &herald_fuzz::tail::Event| (event.key.seq, event.key.message, event.key.op.to_string());
    events.iter().map(key).collect()
}

/// Answers that carry the text.
fn check_answers(text: &str) {
    assert!(matches!(read_frame(&encode_error(text)), Ok(Frame::Error(said)) if said == text));
    assert!(matches!(read_frame(&encode_pong(Some(text))), Ok(Frame::Other)));
    assert!(matches!(
        read_frame(&encode_auth(SystemTime::UNIX_EPOCH)),
        Ok(Frame::Auth)
    ));
}
