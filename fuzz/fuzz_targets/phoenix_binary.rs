//! A binary frame of version 2.0.0: what is read is what stands in it, and can be passed on in either version.

#![no_main]

use bytes::Bytes;
use herald_fuzz::protocol::phoenix::message::{
    Content, Message, Payload, Serializer, Status, encode_binary_broadcast, encode_reply,
};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, value::RawValue};

fuzz_target!(|data: &[u8]| {
    let frame = Bytes::copy_from_slice(data);
    assert!(Message::read_binary(Serializer::Objects, &frame).is_err());
    let Ok(message) = Message::read_binary(Serializer::Arrays, &frame) else {
        return;
    };
    let Payload::Broadcast { event, content } = &message.payload else {
        panic!("a binary frame is a broadcast");
    };
    let [join_reference, reference, topic, _, metadata] = [1, 2, 3, 4, 5].map(|at| usize::from(data[at]));
    let parts = &data[7..];
    let behind_topic = join_reference + reference + topic;
    let behind_event = behind_topic + event.len();
    assert_eq!(
        message.topic.as_bytes(),
        &parts[behind_topic - topic..behind_topic]
    );
    assert_eq!(event.as_bytes(), &parts[behind_topic..behind_event]);
    match content {
        Content::Binary(bytes) => {
            assert_eq!(bytes, &parts[behind_event + metadata..]);
            let head = [4, data[3], data[4], 0, 0];
            let written = [&head[..], message.topic.as_bytes(), event.as_bytes(), bytes].concat();
            assert_eq!(
                encode_binary_broadcast(&message.topic, event, bytes).as_deref(),
                Some(&written[..])
            );
        }
        Content::Json(json) => {
            let again: &RawValue = serde_json::from_slice(&parts[behind_event + metadata..]).unwrap();
            assert_eq!(again.get(), json.get());
        }
    }
    let reply = encode_reply(
        Serializer::Arrays,
        message.join_reference.as_ref(),
        message.reference.as_ref(),
        &message.topic,
        Status::Ok,
        "{}",
    );
    let reply: Vec<Value> = serde_json::from_str(&reply).unwrap();
    let said = |part: &[u8]| match part {
        [] => Value::Null,
        part => str::from_utf8(part).unwrap().into(),
    };
    assert_eq!(reply[0], said(&parts[..join_reference]));
    assert_eq!(reply[1], said(&parts[join_reference..join_reference + reference]));
});
