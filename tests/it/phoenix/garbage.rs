//! Frames that no client should send: an error or silence, or an end with a code; never a panic, and never what is somebody
//! else's.

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Value, json};

use super::{Door, INBOX, Phoenix, binding, hears_nothing, inbox, inbox_of, join_of};
use crate::support::{
    gateway::token,
    phoenix::{Came, Version, encode, opcode},
    scene::Scene,
};

const CASES: usize = 150;
const FRAMES_MAX: usize = 14;
const SEED: u64 = 0x6a12_ba6e;

/// What only Alice and Carol may know.
const SECRET: &str = "between Alice and Carol";

/// What may come of garbage: an answer, or an end with a code.
async fn answers_or_is_closed(client: &mut Phoenix) -> Option<u16> {
    let reference = client.push(None, "phoenix", "heartbeat", &json!({})).await;
    loop {
        match client.came().await {
            Came::Said(said) => {
                assert!(
                    !said.text.contains(SECRET) && !said.payload.to_string().contains(SECRET),
                    "{}",
                    said.text
                );
                if said.event == "phx_reply"
                    && said.reference.as_ref() == Some(&reference)
                    && said.topic == "phoenix"
                {
                    return None;
                }
            }
            Came::Closed(code) => return Some(code),
            Came::Ended => panic!("without a code"),
        }
    }
}

#[tokio::test]
async fn what_is_not_understood_is_passed_over_nine_times() {
    let scene = Scene::<2>::new().await;
    let [alice, bob] = scene.people;
    let of_both = [
        "",
        "{",
        "null",
        "7",
        "\"x\"",
        "[]",
        "{}",
        "[1,2,3]",
        "[null,null,null,null,null]",
    ];
    let of_arrays = [
        r#"{"topic":"phoenix","event":"heartbeat","payload":{},"ref":"1"}"#,
        r#"["1","1","phoenix","heartbeat"]"#,
        r#"["1","1","phoenix","heartbeat",{},1]"#,
        r#"[["1"],"1","phoenix","heartbeat",{}]"#,
        r#"[-1,"1","phoenix","heartbeat",{}]"#,
        r#"[null,null,7,"heartbeat",{}]"#,
    ];
    let of_objects = [
        r#"[null,"1","phoenix","heartbeat",{}]"#,
        r#"{"topic":"phoenix"}"#,
        r#"{"topic":7,"event":"heartbeat"}"#,
        r#"{"topic":"phoenix","event":"heartbeat","ref":{}}"#,
        r#"{"topic":"phoenix","event":"heartbeat","ref":1e5}"#,
    ];
    for (version, of_version) in [
        (Version::Arrays, &of_arrays[..]),
        (Version::Objects, &of_objects[..]),
    ] {
        let door = Door::new(scene.gateway.address()).version(version);
        for frame in of_both.iter().chain(of_version) {
            let mut client = inbox(&door, bob).await;
            for _ in 0..9 {
                client.send(opcode::TEXT, frame.as_bytes()).await;
            }
            scene.write(alice, bob, "hello").await;
            assert_eq!(client.contents(INBOX, 1).await, ["hello"], "{frame}");
            client.send(opcode::TEXT, frame.as_bytes()).await;
            assert_eq!(client.closed().await.0, 4010, "{frame}");
            scene.execute("delete from herald.channel").await;
        }
    }
}

#[tokio::test]
async fn payloads_of_another_shape_are_answered_or_passed_over() {
    let scene = Scene::<2>::new().await;
    let [alice, bob] = scene.people;
    let topic = format!("realtime:of {bob}");
    let odd = [
        json!(null),
        json!(7),
        json!("x"),
        json!([]),
        json!([{}]),
        json!({"config": null, "event": null, "payload": null, "access_token": {}, "type": 7}),
        json!({"config": [], "access_token": ["a"]}),
        json!({"config": {"postgres_changes": {}, "broadcast": 7, "presence": "x", "private": {}}}),
        json!({"config": {"presence": {"key": {"a": 1}, "enabled": 7}}}),
        json!({"event": "track", "payload": "x"}),
        json!({"event": {"a": 1}, "payload": {}}),
        json!({"event": "e".repeat(1000), "payload": {}}),
        json!({"event": "\u{0}", "payload": {"\u{0}": "\u{0}"}}),
    ];
    for version in Version::BOTH {
        let mut client = Door::new(scene.gateway.address()).version(version).open().await;
        for payload in &odd {
            let joined = client.join_live(&topic, &inbox_of(bob)).await;
            for event in [
                "broadcast",
                "presence",
                "access_token",
                "whatever",
                "phx_close",
                "phx_reply",
                "postgres_changes",
            ] {
                client.push(Some(&joined), &topic, event, payload).await;
            }
            client.push(None, "phoenix", "heartbeat", payload).await;
            client.settled().await;
            scene.write(alice, bob, "hello").await;
            assert_eq!(client.contents(&topic, 1).await, ["hello"], "{payload}");
            client.settled().await;
            client.push(Some(&joined), &topic, "phx_leave", payload).await;
            client.next(&topic, "phx_close").await;
            // A join of an odd shape is one that asks for nothing, by nobody.
            let reply = client.join(&topic, payload).await;
            if reply.payload["status"] == "ok" {
                assert_eq!(
                    reply.response("ok"),
                    &json!({"postgres_changes": []}),
                    "{payload}"
                );
            }
            client.push(None, &topic, "phx_leave", &json!({})).await;
            client.settled().await;
            client.rest("phx_close").await;
            client.rest("system").await;
        }
        hears_nothing(&scene, &mut client).await;
    }
}

#[tokio::test]
async fn frames_that_break_the_protocol_beneath_end_the_connection_with_a_code() {
    let scene = Scene::<2>::new().await;
    let [alice, bob] = scene.people;
    let door = Door::new(scene.gateway.address());
    let unmasked = [0x81, 2, b'{', b'}'];
    let reserved = encode(3, b"x");
    let not_text = encode(opcode::TEXT, &[0xff, 0xfe]);
    let long_ping = encode(opcode::PING, &[0; 126]);
    let continuation = encode(0, b"x");
    for (bytes, code) in [
        (&unmasked[..], 1002),
        (&reserved, 1002),
        (&not_text, 1007),
        (&long_ping, 1002),
        (&continuation, 1002),
    ] {
        let mut client = inbox(&door, bob).await;
        client.send_raw(bytes).await;
        assert_eq!(client.closed().await.0, code, "{bytes:?}");
    }
    let mut client = inbox(&door, bob).await;
    client.send(opcode::TEXT, &vec![b' '; 300 * 1024]).await;
    assert_eq!(client.closed().await.0, 1009);
    // Pings are answered beneath, and answers that nobody asked for prove nothing.
    let mut client = inbox(&door, bob).await;
    client.send(opcode::PING, b"x").await;
    for number in [0_u64, 1, 2, 1_000_000, u64::MAX] {
        client.send(opcode::PONG, &number.to_be_bytes()).await;
    }
    client.send(opcode::PONG, b"").await;
    scene.write(alice, bob, "hello").await;
    assert_eq!(client.contents(INBOX, 1).await, ["hello"]);
}

/// A broadcast as clients of version 2.0.0 write it: `03`, the lengths of join reference, reference, topic, event and metadata,
/// the encoding, and then these.
fn binary(lengths: [u8; 5], encoding: u8, rest: &[u8]) -> Vec<u8> {
    [&[3], &lengths[..], &[encoding], rest].concat()
}

#[tokio::test]
async fn binary_frames_that_are_no_broadcasts_are_mistakes() {
    let scene = Scene::<1>::new().await;
    let [bob] = scene.people;
    let topic = format!("realtime:of {bob}");
    let length = u8::try_from(topic.len()).unwrap();
    let topic_bytes = topic.as_bytes();
    let mut of_another_kind = binary([0, 0, length, 1, 0], 1, topic_bytes);
    of_another_kind[0] = 4;
    let wrong = [
        vec![],
        vec![3],
        vec![3; 7],
        binary([255; 5], 1, b"x"),
        binary([0, 0, length, 1, 200], 1, topic_bytes),
        of_another_kind,
        binary([0, 0, 1, 1, 0], 0, &[0xff, b'e']),
        binary([0, 0, length, 1, 0], 1, &[topic_bytes, b"e{not json"].concat()),
        vec![0; 1000],
    ];
    let door = Door::new(scene.gateway.address());
    let mut listener = door.open().await;
    listener.join_live(&topic, &inbox_of(bob)).await;
    for bytes in &wrong {
        let mut client = door.open().await;
        client.join_live(&topic, &inbox_of(bob)).await;
        for _ in 0..9 {
            client.send(opcode::BINARY, bytes).await;
        }
        client.settled().await;
        client.send(opcode::BINARY, bytes).await;
        assert_eq!(client.closed().await.0, 4010, "{bytes:?}");
    }
    // Version 1.0.0 has none at all.
    let good = binary([0, 0, length, 1, 2], 0, &[topic_bytes, b"e{}", &[7]].concat());
    let mut client = door.version(Version::Objects).open().await;
    for _ in 0..10 {
        client.send(opcode::BINARY, &good).await;
    }
    assert_eq!(client.closed().await.0, 4010);
    assert!(listener.rest("broadcast").await.is_empty());
}

#[tokio::test]
async fn binary_broadcasts_are_passed_on_as_bytes_or_as_json_to_everybody_else() {
    let scene = Scene::<1>::new().await;
    let [bob] = scene.people;
    let topic = format!("realtime:of {bob}");
    let length = u8::try_from(topic.len()).unwrap();
    let door = Door::new(scene.gateway.address());
    let mut listener = door.open().await;
    listener.join_live(&topic, &inbox_of(bob)).await;
    let mut client = door.open().await;
    client.join_live(&topic, &inbox_of(bob)).await;
    let bytes = [topic.as_bytes(), b"e{}", &[0, 255, 7]].concat();
    let json = [b"19", topic.as_bytes(), br#"e{"a":1}"#].concat();
    for (frame, payload) in [
        (binary([0, 0, length, 1, 2], 0, &bytes), json!([0, 255, 7])),
        (binary([1, 1, length, 1, 0], 1, &json), json!({"a": 1})),
    ] {
        client.send(opcode::BINARY, &frame).await;
        let said = listener.next(&topic, "broadcast").await;
        assert_eq!(
            said.payload,
            json!({"type": "broadcast", "event": "e", "payload": payload})
        );
    }
    assert!(
        client.rest("broadcast").await.is_empty(),
        "the sender hears its own only if it asked for that"
    );
}

/// Makes frames out of good ones and out of nothing.
struct Monkey {
    random: StdRng,
    version: Version,
    topics: Vec<String>,
    payloads: Vec<Value>,
}

impl Monkey {
    fn text(&mut self) -> String {
        let events = [
            "phx_join",
            "phx_leave",
            "heartbeat",
            "access_token",
            "broadcast",
            "presence",
            "system",
            "phx_close",
        ];
        let topic = self.topics.choose(&mut self.random).unwrap().clone();
        let event = *events.choose(&mut self.random).unwrap();
        let payload = self.payloads.choose(&mut self.random).unwrap().clone();
        let references = [
            json!("1"),
            json!(null),
            json!(7),
            json!("x"),
            json!({}),
            json!("9".repeat(100)),
            json!(-1),
        ];
        let reference = references.choose(&mut self.random).unwrap().clone();
        let join_reference = references.choose(&mut self.random).unwrap().clone();
        match self.version {
            Version::Objects => json!({"topic": topic, "event": event, "payload": payload, "ref": reference,
                "join_ref": join_reference}),
            Version::Arrays => json!([join_reference, reference, topic, event, payload]),
        }
        .to_string()
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        let length = self.random.random_range(0..most);
        (0..length).map(|_| self.random.random()).collect()
    }

    fn mutated(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        for _ in 0..self.random.random_range(1..4) {
            if bytes.is_empty() {
                break;
            }
            let index = self.random.random_range(0..bytes.len());
            match self.random.random_range(0..4) {
                0 => bytes[index] = self.random.random_range(0x20..0x7f),
                1 => bytes.truncate(index),
                2 => drop(bytes.remove(index)),
                _ => bytes.insert(index, *b"\"[]{},:\\0".choose(&mut self.random).unwrap()),
            }
        }
        bytes
    }

    /// A frame's kind and what is in it.
    fn frame(&mut self) -> (u8, Vec<u8>) {
        match self.random.random_range(0..10) {
            0..4 => (opcode::TEXT, self.text().into_bytes()),
            4..7 => {
                let text = self.text().into_bytes();
                (opcode::TEXT, self.mutated(text))
            }
            7 => (
                opcode::TEXT,
                String::from_utf8_lossy(&self.bytes(200))
                    .into_owned()
                    .into_bytes(),
            ),
            8 => {
                let mut bytes = self.bytes(300);
                if let Some(first) = bytes.first_mut() {
                    *first = 3;
                }
                (opcode::BINARY, bytes)
            }
            _ => (
                opcode::TEXT,
                "[".repeat(self.random.random_range(1..5_000)).into_bytes(),
            ),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_frames_come_a_session_answers_or_ends_with_a_code_and_tells_nothing_of_others() {
    let scene = Scene::<3>::new().await;
    let [alice, bob, carol] = scene.people;
    let door = Door::new(scene.gateway.address());
    // It is there all the time, and hears what is its own.
    let mut witness = inbox(&door.clone().device("witness"), alice).await;
    let everything = binding("*", "");
    let payloads = vec![
        json!({}),
        inbox_of(bob),
        join_of(std::slice::from_ref(&everything), Some(&token(bob))),
        join_of(
            &[
                everything.clone(),
                binding("*", &format!("receiver_id=eq.{carol}")),
            ],
            Some(&token(bob)),
        ),
        join_of(&[everything], None),
        json!({"access_token": token(bob)}),
        json!({"access_token": token(bob) + "x"}),
        json!({"type": "broadcast", "event": "e", "payload": {"a": 1}}),
        json!({"type": "presence", "event": "track", "payload": {"a": 1}}),
        json!({"config": {"private": true, "presence": {"enabled": true, "key": "k"}}, "access_token": token(bob)}),
    ];
    let conversation = format!("realtime:typing:{alice}__{carol}");
    let topics = [
        "phoenix",
        "realtime:",
        INBOX,
        "realtime:*",
        "",
        "realtime:\u{0}",
        &conversation,
    ];
    let own = format!("realtime:of {bob}");
    let topics: Vec<String> = topics
        .into_iter()
        .chain([own.as_str()])
        .map(str::to_owned)
        .collect();
    for case in 0..CASES {
        let mut monkey = Monkey {
            random: StdRng::seed_from_u64(SEED ^ case as u64),
            version: Version::BOTH[case % 2],
            topics: topics.clone(),
            payloads: payloads.clone(),
        };
        let mut client = door.clone().version(monkey.version).open().await;
        if case % 3 > 0 {
            client.join_live(INBOX, &inbox_of(bob)).await;
        }
        for _ in 0..monkey.random.random_range(1..FRAMES_MAX) {
            let (opcode, payload) = monkey.frame();
            client.send(opcode, &payload).await;
        }
        if case % 10 == 0 {
            scene.write(alice, carol, SECRET).await;
        }
        let code = answers_or_is_closed(&mut client).await;
        assert!(
            matches!(code, None | Some(4010 | 1002 | 1007 | 1009)),
            "case {case}: {code:?}"
        );
    }
    let mut bobs = inbox(&door.clone().device("last"), bob).await;
    scene.write(carol, bob, "hello").await;
    assert_eq!(bobs.contents(INBOX, 1).await, ["hello"]);
    scene.write(carol, alice, "hello").await;
    assert_eq!(witness.contents(INBOX, 1).await, ["hello"]);
}
