//! A text frame in both serialisations, and the join and the bindings in it: whatever is written back is JSON, and says of the
//! client's own what the client said.

#![no_main]

use std::{
    collections::BTreeMap,
    sync::LazyLock,
    time::{Duration, SystemTime},
};

use herald_fuzz::{
    protocol::{
        event::{Event, Operation},
        phoenix::{
            change::{Change, Changes},
            join::{BINDINGS_MAX, Binding, Join, encode_bindings, read_token},
            message::{Message, Payload, Serializer, Status, encode_end, encode_push, encode_reply},
            relation::Relation,
        },
        server_frame::{EventsFrame, EventsFrameBuilder},
        snapshot::Transaction,
    },
    table,
    types::UserId,
};
use libfuzzer_sys::{Corpus, fuzz_target};
use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

static RELATION: LazyLock<Relation> = LazyLock::new(table::relation);
static FRAME: LazyLock<EventsFrame> = LazyLock::new(frame);
static CHANGES: LazyLock<Changes> = LazyLock::new(Changes::default);

fuzz_target!(|data: &[u8]| -> Corpus {
    let Ok(text) = str::from_utf8(data) else {
        return Corpus::Reject;
    };
    for serializer in [Serializer::Objects, Serializer::Arrays] {
        if let Ok(message) = Message::read_text(serializer, text) {
            let Payload::Json(payload) = &message.payload else {
                panic!("a text frame carries JSON");
            };
            check_answers(&message, payload);
            check_join(payload);
        }
    }
    Corpus::Keep
});

/// What is written for a message, in either version, is read as the same.
fn check_answers(message: &Message, payload: &RawValue) {
    let (join_reference, reference) = (message.join_reference.as_ref(), message.reference.as_ref());
    for serializer in [Serializer::Objects, Serializer::Arrays] {
        let read = |text: &str| Message::read_text(serializer, text).unwrap();
        let reply = read(&encode_reply(
            serializer,
            join_reference,
            reference,
            &message.topic,
            Status::Error,
            "{}",
        ));
        assert_eq!(
            (&reply.join_reference, &reply.reference),
            (&message.join_reference, &message.reference)
        );
        assert_eq!((&reply.topic, &*reply.event), (&message.topic, "phx_reply"));
        let push = read(&encode_push(
            serializer,
            join_reference,
            &message.topic,
            &message.event,
            &[payload.get()],
        ));
        assert_eq!(
            (&push.join_reference, push.reference),
            (&message.join_reference, None)
        );
        assert_eq!((&push.topic, &push.event), (&message.topic, &message.event));
        assert!(matches!(push.payload, Payload::Json(pushed) if pushed.get() == payload.get()));
        let end = read(&encode_end(
            serializer,
            join_reference,
            &message.topic,
            "phx_close",
        ));
        assert_eq!(
            (&end.join_reference, &end.reference),
            (&message.join_reference, &message.join_reference)
        );
    }
}

/// Every binding that is understood is given back with what its client wrote, and hears changes that are JSON.
fn check_join(payload: &RawValue) {
    let join = Join::read(payload);
    assert_eq!(join.token, read_token(payload));
    let mut understood = Vec::new();
    for binding in join.bindings.iter().take(BINDINGS_MAX) {
        if let Ok(read) = Binding::read(binding, &RELATION) {
            understood.push(binding.clone());
            CHANGES
                .of(&FRAME, &RELATION)
                .iter()
                .for_each(|change| check_change(change, &read));
        }
    }
    let identifiers: Vec<u64> = (1000..).take(understood.len()).collect();
    let response = encode_bindings(&understood, &identifiers);
    let response: Response<'_> = serde_json::from_str(&response).unwrap();
    assert_eq!(response.postgres_changes.len(), understood.len());
    for ((answered, binding), identifier) in
        response.postgres_changes.iter().zip(&understood).zip(identifiers)
    {
        let (mut expected, identifier) = (members(binding), identifier.to_string());
        expected.insert("id".to_owned(), &identifier);
        assert_eq!(members(answered), expected);
    }
}

#[derive(Deserialize)]
struct Response<'a> {
    #[serde(borrow)]
    postgres_changes: Vec<&'a RawValue>,
}

/// A binding's members, each with its value as it is written. It may be nested deeper than serde reads values.
fn members(binding: &RawValue) -> BTreeMap<String, &str> {
    let members: BTreeMap<String, &RawValue> = serde_json::from_str(binding.get()).unwrap();
    members
        .into_iter()
        .map(|(name, value)| (name, value.get()))
        .collect()
}

#[derive(Deserialize)]
struct Data<'a> {
    #[serde(borrow)]
    columns: Vec<&'a RawValue>,
    #[serde(borrow)]
    record: BTreeMap<&'a str, &'a RawValue>,
}

fn check_change(change: &Change, binding: &Binding) {
    assert_eq!(change.is_for(binding), change.is_for(binding));
    if let Some(select) = &binding.select {
        let data = change.data_of(&RELATION, select);
        let data: Data<'_> = serde_json::from_str(&data).unwrap();
        let selected = RELATION
            .columns()
            .iter()
            .filter(|column| select.contains(&column.name))
            .count();
        assert_eq!((data.columns.len(), data.record.len()), (selected, selected));
    }
}

/// The insertions of those rows of the table that have columns.
fn frame() -> EventsFrame {
    let mut builder = EventsFrameBuilder::new();
    for (seq, row) in (1..).zip(table::rows()) {
        let members: Vec<String> = row
            .iter()
            .map(|(name, value)| format!(r#""{name}":{value}"#))
            .collect();
        if members.is_empty() {
            continue;
        }
        let event = Event {
            seq,
            transaction: Transaction { life: 1, xid: 1 },
            logged_at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
            operation: Operation::Insert,
            message: Uuid::from_u128(7),
            sender: UserId(Uuid::from_u128(1)),
            receiver: UserId(Uuid::from_u128(2)),
            product: None,
            row: Some(format!("{{{}}}", members.join(",")).into()),
        };
        builder.push(&event, event.sender);
    }
    builder.finish(None)
}
