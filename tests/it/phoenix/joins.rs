//! Joins: what is answered, to the letter, and what is heard after it.

use herald::types::UserId;
use serde_json::{Value, json};

use super::{
    Door, INBOX, NO_PLACES, Phoenix, again, binding, contents, handed_over, hears_nothing, inbox, inbox_of,
    join_of, nobody_is_left, received_by,
};
use crate::support::{
    gateway::token,
    phoenix::{Came, Version},
    scene::Scene,
    supabase::signed,
};

async fn stage() -> (Scene<3>, Door) {
    let scene = Scene::new().await;
    let door = Door::new(scene.gateway.address());
    (scene, door)
}

/// The clients hold the answer against what they asked for, and hear nothing, for ever, if it differs: by index, each of event,
/// schema, table and filter as a string. Old ones take null for something else than nothing.
#[tokio::test]
async fn bindings_are_given_back_to_the_letter_in_their_order_with_an_identifier_each() {
    let (scene, door) = stage().await;
    let [alice, bob, _] = scene.people;
    let bob = bob.to_string();
    let bindings = [
        format!(
            r#"{{"event":"INSERT","schema":"public","table":"messages","filter":"receiver_id=eq.{bob}"}}"#
        ),
        // As the page wrote it: case, spaces, order of members, and what nobody here knows.
        format!(
            r#"{{ "filter" : "receiver_id=eq.{}", "table":"messages","schema":"public","event":"insert" }}"#,
            bob.to_uppercase()
        ),
        r#"{"event":"*","schema":"public"}"#.to_owned(),
        r#"{"event":"*","schema":"*"}"#.to_owned(),
        r#"{"event":"UPDATE","schema":"public","table":"messages","filter":""}"#.to_owned(),
        r#"{"event":"UPDATE","schema":"public","table":"messages","filter":null,"later":{"a":[1,2]}}"#
            .to_owned(),
        format!(
            r#"{{"event":"*","schema":"public","table":"messages","filter":"receiver_id=in.({bob}, {bob})"}}"#
        ),
        // Twice the same, and with an id of its own.
        r#"{"event":"*","schema":"public"}"#.to_owned(),
        r#"{"id":0,"event":"DELETE","schema":"public","table":"messages"}"#.to_owned(),
    ];
    for version in Version::BOTH {
        let mut client = door.clone().version(version).open().await;
        let payload: Value = serde_json::from_str(&format!(
            r#"{{"config":{{"postgres_changes":[{}]}},"access_token":"{}"}}"#,
            bindings.join(","),
            token(scene.people[1])
        ))
        .unwrap();
        let reply = client.join(INBOX, &payload).await;
        assert_eq!(reply.join_reference.as_deref(), Some("1"));
        let answered = reply.response("ok")["postgres_changes"]
            .as_array()
            .unwrap()
            .clone();
        assert_eq!(answered.len(), bindings.len());
        let mut identifiers = Vec::new();
        for (asked, mut answered) in bindings.iter().zip(answered) {
            let identifier = answered.as_object_mut().unwrap().remove("id").unwrap();
            identifiers.push(identifier.as_u64().filter(|identifier| *identifier > 0).unwrap());
            let mut asked: Value = serde_json::from_str(asked).unwrap();
            asked.as_object_mut().unwrap().remove("id");
            assert_eq!(answered, asked);
        }
        client.live(INBOX).await;
        // A change is marked with the very numbers, and with none of a binding that does not hear it.
        scene.write(alice, scene.people[1], "hello").await;
        let change = client.next(INBOX, "postgres_changes").await;
        let hear = [0, 1, 2, 3, 6, 7].map(|index: usize| identifiers[index]);
        assert_eq!(change.payload["ids"], json!(hear), "{}", change.text);
        identifiers.sort_unstable();
        identifiers.dedup();
        assert_eq!(identifiers.len(), bindings.len(), "each has its own");
    }
}

#[tokio::test]
async fn the_answer_always_has_bindings_and_comes_before_anything_else() {
    let (scene, door) = stage().await;
    let [alice, bob, _] = scene.people;
    let topic = format!("realtime:of {bob}");
    for bindings in [json!([]), json!(null), json!([null])] {
        let mut client = door.open().await;
        let payload = json!({"config": {"postgres_changes": bindings}, "access_token": token(bob)});
        let reply = client.join(&topic, &payload).await;
        assert_eq!(
            reply.response("ok"),
            &json!({"postgres_changes": []}),
            "{bindings}"
        );
    }
    // Whatever is written meanwhile comes behind it.
    let mut client = door.open().await;
    let reference = client.push_join(INBOX, &inbox_of(bob)).await;
    let writes = async {
        for number in 0..50 {
            scene.write(alice, bob, &number.to_string()).await;
        }
    };
    let first = async {
        let Came::Said(first) = client.came().await else {
            panic!("an answer was expected")
        };
        first
    };
    let ((), first) = tokio::join!(writes, first);
    assert_eq!(
        (first.event.as_str(), first.reference.as_deref()),
        ("phx_reply", Some(reference.as_str()))
    );
    client.live(INBOX).await;
}

/// Clients in other languages write booleans as texts and keys as numbers, and newer ones say what nobody here knows.
#[tokio::test]
async fn options_of_every_spelling_are_understood_and_unknown_ones_are_passed_over() {
    let (scene, door) = stage().await;
    let [_, bob, _] = scene.people;
    let topic = format!("realtime:of {bob}");
    for version in Version::BOTH {
        let door = door.clone().version(version);
        for (spelling, is_set) in [
            (json!(true), true),
            (json!("true"), true),
            (json!("True"), true),
            (json!(false), false),
            (json!("False"), false),
            (json!(null), false),
            (json!({"a": 1}), false),
        ] {
            let mut client = door.open().await;
            let payload = json!({
                "config": {
                    "broadcast": {"self": spelling, "ack": spelling, "later": 1},
                    "presence": {"key": 7, "enabled": spelling, "later": {}},
                    "private": spelling,
                    "later": [],
                },
                "version": "realtime-js/2.119.1",
                "access_token": token(bob),
            });
            let joined = client.push_join(&topic, &payload).await;
            let reply = client.reply(&joined).await;
            assert_eq!(reply.response("ok"), &json!({"postgres_changes": []}));
            let said = json!({"type": "broadcast", "event": "e", "payload": {}});
            let pushed = client.push(Some(&joined), &topic, "broadcast", &said).await;
            if is_set {
                client.reply(&pushed).await.response("ok");
                assert_eq!(client.next(&topic, "broadcast").await.payload, said);
            }
            assert!(client.rest("broadcast").await.is_empty(), "{spelling}");
            assert!(client.rest("phx_reply").await.is_empty(), "{spelling}");
            let present = json!({"type": "presence", "event": "track", "payload": {}});
            let pushed = client.push(Some(&joined), &topic, "presence", &present).await;
            client.reply(&pushed).await.response("ok");
            // Who asked not to hear of others is told the state once there is one of its own.
            let state = client.rest("presence_state").await;
            let diff = client.rest("presence_diff").await;
            let of_state = state.iter().map(|said| &said.payload);
            let of_diff = diff.iter().map(|said| &said.payload["joins"]);
            let mut told = of_state.chain(of_diff);
            assert!(told.any(|told| told.get("7").is_some()), "{spelling}");
        }
    }
}

#[tokio::test]
async fn what_cannot_be_joined_is_refused_with_a_reason_and_the_socket_goes_on() {
    let (scene, door) = stage().await;
    let [alice, bob, carol] = scene.people;
    let expired = signed(&json!({"sub": bob.to_string(), "role": "authenticated", "exp": 1_000_000_000}));
    let own = [received_by(bob)];
    let bobs = token(bob);
    let forged = bobs.clone() + "x";
    let private = json!({"config": {"private": true, "postgres_changes": []}, "access_token": bobs});
    let of_table = |table: &str| {
        join_of(
            &[json!({"event": "*", "schema": "public", "table": table})],
            Some(&bobs),
        )
    };
    let of_filter = |filter: &str| join_of(&[binding("*", filter)], Some(&bobs));
    let replay = json!({"config": {"broadcast": {"replay": {"since": 1}}}, "access_token": bobs});
    let too_many = vec![received_by(bob); 101];
    for version in Version::BOTH {
        let mut client = door.clone().version(version).open().await;
        for (topic, payload, reason) in [
            (
                INBOX,
                join_of(&own, Some(&expired)),
                "InvalidJWTToken: Token has expired",
            ),
            (INBOX, join_of(&own, Some(&forged)), "JwtSignatureError"),
            (INBOX, join_of(&own, Some("nonsense")), "MalformedJWT"),
            (INBOX, of_filter("receiver_id=resembles.x"), "resembles"),
            (INBOX, of_filter("no_such_column=eq.x"), "no_such_column"),
            (INBOX, of_filter("receiver_id=eq.no-uuid"), "no-uuid"),
            (INBOX, of_table("profiles"), "profiles"),
            (
                INBOX,
                join_of(&[json!({"schema": "public", "select": ["secret"]})], Some(&bobs)),
                "secret",
            ),
            (
                INBOX,
                join_of(&[json!("everything")], Some(&bobs)),
                "postgres_changes",
            ),
            (INBOX, join_of(&too_many, Some(&bobs)), "bindings"),
            (INBOX, replay.clone(), "UnableToReplayMessages"),
            ("realtime:", join_of(&own, Some(&bobs)), "TopicNameRequired"),
            ("messages", join_of(&own, Some(&bobs)), "unmatched topic"),
            ("phoenix", join_of(&own, Some(&bobs)), "unmatched topic"),
            ("realtime:everybody", private.clone(), "Unauthorized"),
            ("realtime:everybody", join_of(&[], Some(&bobs)), "Unauthorized"),
            (
                &format!("realtime:typing:{carol}"),
                private.clone(),
                "Unauthorized",
            ),
        ] {
            let reply = client.join(topic, &payload).await;
            assert!(reply.reason().contains(reason), "{payload}: {}", reply.text);
            assert_eq!(reply.topic, topic);
            // It was not joined.
            let reference = client
                .push(None, topic, "broadcast", &json!({"event": "x", "payload": {}}))
                .await;
            assert_eq!(client.reply(&reference).await.reason(), "unmatched topic");
        }
        client.join_live(INBOX, &inbox_of(bob)).await;
        scene.write(alice, bob, "hello").await;
        assert_eq!(client.contents(INBOX, 1).await, ["hello"]);
    }
}

#[tokio::test]
async fn leaving_is_answered_and_closes_and_what_was_not_joined_can_be_left() {
    let (scene, door) = stage().await;
    let [alice, bob, _] = scene.people;
    for version in Version::BOTH {
        let mut client = door.clone().version(version).open().await;
        let joined = client.join_live(INBOX, &inbox_of(bob)).await;
        let left = client.push(Some(&joined), INBOX, "phx_leave", &json!({})).await;
        let reply = client.reply(&left).await;
        assert_eq!(reply.response("ok"), &json!({}));
        assert_eq!(reply.join_reference.as_deref(), Some(joined.as_str()));
        let close = client.next(INBOX, "phx_close").await;
        assert_eq!(close.join_reference.as_deref(), Some(joined.as_str()));
        assert_eq!(
            (close.reference.as_deref(), &close.payload),
            (Some(joined.as_str()), &json!({}))
        );
        for topic in [INBOX, "realtime:never joined", "nonsense"] {
            let reference = client.push(None, topic, "phx_leave", &json!({})).await;
            assert_eq!(client.reply(&reference).await.response("ok"), &json!({}));
            for event in ["broadcast", "access_token", "presence", "whatever"] {
                let reference = client.push(None, topic, event, &json!({})).await;
                assert_eq!(client.reply(&reference).await.reason(), "unmatched topic");
            }
        }
        scene.write(alice, bob, "nobody's").await;
        hears_nothing(&scene, &mut client).await;
    }
}

/// A late leave of an earlier join, which the clients send when they have waited for too long, is not taken for the new one's.
#[tokio::test]
async fn a_leave_of_an_earlier_join_leaves_the_new_one_alone() {
    let (scene, door) = stage().await;
    let [alice, bob, _] = scene.people;
    let mut client = door.open().await;
    let first = client.join_live(INBOX, &inbox_of(bob)).await;
    client.join_live(INBOX, &inbox_of(bob)).await;
    let leave = client.push(Some(&first), INBOX, "phx_leave", &json!({})).await;
    client.reply(&leave).await.response("ok");
    scene.write(alice, bob, "hello").await;
    assert_eq!(client.contents(INBOX, 1).await, ["hello"]);
}

/// The answer to the join comes when changes are heard, and not before.
#[tokio::test]
async fn a_join_that_waits_is_answered_when_it_is_live() {
    let (scene, door) = stage().await;
    let [alice, bob, _] = scene.people;
    let mut client = door.open().await;
    let lock = scene.database.connect().await;
    lock.batch_execute(NO_PLACES).await.unwrap();
    let mut payload = inbox_of(bob);
    payload["config"]["postgres_changes_options"] = json!({"wait": true, "timeout": 15000});
    let reference = client.push_join(INBOX, &payload).await;
    let other = client.join("realtime:other", &inbox_of(bob)).await;
    other.response("ok");
    scene.write(alice, bob, "meanwhile").await;
    client.settled().await;
    lock.batch_execute("rollback").await.unwrap();
    let reply = client.reply(&reference).await;
    assert_eq!(
        reply.response("ok")["postgres_changes"][0]["filter"],
        received_by(bob)["filter"]
    );
    client.live(INBOX).await;
    client.live("realtime:other").await;
    assert_eq!(client.contents(INBOX, 1).await, ["meanwhile"]);
    assert_eq!(client.contents("realtime:other", 1).await, ["meanwhile"]);
}

/// While the place of one channel is looked for, another one is joined, whose turn comes after it.
#[tokio::test]
async fn a_channel_that_has_to_wait_for_its_place_misses_nothing_meanwhile() {
    let (scene, door) = stage().await;
    let [alice, bob, _] = scene.people;
    let lock = scene.database.connect().await;
    lock.batch_execute(NO_PLACES).await.unwrap();
    let mut client = door.open().await;
    let topics = ["realtime:one", "realtime:other"];
    for topic in topics {
        client.join(topic, &inbox_of(bob)).await.response("ok");
    }
    scene.write(alice, bob, "meanwhile").await;
    handed_over(&scene.application, &scene.gateway).await;
    lock.batch_execute("rollback").await.unwrap();
    for topic in topics {
        assert_eq!(client.contents(topic, 1).await, ["meanwhile"]);
    }
    scene.write(alice, bob, "after").await;
    for topic in topics {
        assert_eq!(client.contents(topic, 1).await, ["after"]);
    }
    hears_nothing(&scene, &mut client).await;
}

#[tokio::test]
async fn only_messages_that_one_sends_or_receives_are_heard_whatever_the_filter() {
    let (scene, door) = stage().await;
    let [alice, bob, carol] = scene.people;
    let bindings = [
        json!({"event": "*", "schema": "*"}),
        json!({"event": "*", "schema": "public", "table": "messages"}),
        received_by(bob),
        binding("*", &format!("sender_id=eq.{alice}")),
        binding("*", &format!("sender_id=neq.{carol}")),
        binding("*", &format!("receiver_id=in.({alice},{bob},{carol})")),
        binding("*", "content=like.%to%"),
        binding("*", "content=not.is.null"),
    ];
    let mut client = door.open().await;
    for (number, binding) in bindings.iter().enumerate() {
        let payload = join_of(std::slice::from_ref(binding), Some(&token(carol)));
        client.join_live(&format!("realtime:{number}"), &payload).await;
    }
    let id = scene.write(alice, bob, "between Alice and Bob").await;
    scene
        .execute(&format!(
            "update messages set is_read = true where id = '{id}'; delete from messages where id = '{id}'"
        ))
        .await;
    hears_nothing(&scene, &mut client).await;
    // And her own is heard by those that it passes through.
    scene.write(alice, carol, "to Carol").await;
    handed_over(&scene.application, &scene.gateway).await;
    let heard = client.rest("postgres_changes").await;
    let heard: Vec<&str> = heard.iter().map(|said| said.topic.as_str()).collect();
    assert_eq!(
        heard,
        [
            "realtime:0",
            "realtime:1",
            "realtime:3",
            "realtime:4",
            "realtime:5",
            "realtime:6",
            "realtime:7"
        ]
    );
}

#[tokio::test]
async fn a_deleted_message_is_told_by_its_key_and_filtered_by_its_people() {
    let (scene, door) = stage().await;
    let [alice, bob, _] = scene.people;
    let filters = [
        (
            "realtime:all",
            json!({"event": "DELETE", "schema": "public", "table": "messages"}),
            true,
        ),
        (
            "realtime:from",
            binding("DELETE", &format!("sender_id=eq.{alice}")),
            true,
        ),
        (
            "realtime:to",
            binding("DELETE", &format!("receiver_id=eq.{bob}")),
            true,
        ),
        (
            "realtime:both",
            binding("*", &format!("sender_id=eq.{alice},receiver_id=eq.{bob}")),
            true,
        ),
        (
            "realtime:back",
            binding("DELETE", &format!("sender_id=eq.{bob}")),
            false,
        ),
        ("realtime:content", binding("DELETE", "content=eq.hello"), false),
        ("realtime:other", binding("DELETE", "content=neq.hello"), false),
    ];
    for version in Version::BOTH {
        let mut client = door.clone().version(version).open().await;
        for (topic, binding, _) in &filters {
            client
                .join_live(topic, &join_of(std::slice::from_ref(binding), Some(&token(bob))))
                .await;
        }
        let id = scene.write(alice, bob, "hello").await;
        scene
            .execute(&format!("delete from messages where id = '{id}'"))
            .await;
        handed_over(&scene.application, &scene.gateway).await;
        let heard = client.rest("postgres_changes").await;
        for (topic, _, hears) in &filters {
            let deletes: Vec<&Value> = heard
                .iter()
                .filter(|said| said.topic == *topic && said.payload["data"]["type"] == "DELETE")
                .map(|said| &said.payload["data"])
                .collect();
            assert_eq!(deletes.len(), usize::from(*hears), "{topic}");
            for data in deletes {
                assert_eq!(data["old_record"], json!({"id": id.to_string()}));
                assert!(data.get("record").is_none(), "{data}");
                assert!(
                    data["columns"]
                        .as_array()
                        .is_some_and(|columns| !columns.is_empty()),
                    "{data}"
                );
            }
        }
    }
}

/// One change comes once to all bindings that want the whole row, and once to each that wants a part.
#[tokio::test]
async fn a_selection_is_told_its_columns_and_the_key() {
    let (scene, door) = stage().await;
    let [alice, bob, _] = scene.people;
    let mut part = received_by(bob);
    part["select"] = json!(["content", "is_read"]);
    let mut client = door.open().await;
    let bindings = [
        received_by(bob),
        part,
        json!({"event": "INSERT", "schema": "public"}),
    ];
    let reference = client
        .push_join(INBOX, &join_of(&bindings, Some(&token(bob))))
        .await;
    let reply = client.reply(&reference).await;
    let identifiers: Vec<u64> = reply.response("ok")["postgres_changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|binding| binding["id"].as_u64().unwrap())
        .collect();
    client.live(INBOX).await;
    let id = scene.write(alice, bob, "hello").await;
    let whole = client.next(INBOX, "postgres_changes").await;
    assert_eq!(
        (whole.join_reference.as_deref(), whole.reference.as_deref()),
        (None, None)
    );
    assert_eq!(whole.payload["ids"], json!([identifiers[0], identifiers[2]]));
    let data = &whole.payload["data"];
    assert_eq!((&data["type"], &data["errors"]), (&json!("INSERT"), &json!(null)));
    assert!(data.get("old_record").is_none(), "{data}");
    assert_eq!(data["record"]["sender_id"], alice.to_string());
    let part = client.next(INBOX, "postgres_changes").await;
    assert_eq!(part.payload["ids"], json!([identifiers[1]]));
    assert_eq!(
        part.payload["data"]["record"],
        json!({"id": id.to_string(), "content": "hello", "is_read": false})
    );
    assert_eq!(part.payload["data"]["columns"].as_array().unwrap().len(), 3);
    hears_nothing(&scene, &mut client).await;
}

async fn hears(client: &mut Phoenix, scene: &Scene<3>, sender: UserId, receiver: UserId, content: &str) {
    scene.write(sender, receiver, content).await;
    assert_eq!(client.contents(INBOX, 1).await, [content]);
}

/// The old join is closed by its own reference, by which clients know that it is not the new one.
#[tokio::test]
async fn a_topic_that_is_joined_twice_loses_and_doubles_nothing() {
    let (scene, door) = stage().await;
    let [alice, bob, _] = scene.people;
    for version in Version::BOTH {
        let door = door.clone().version(version);
        let mut client = door.open().await;
        let mut joined = client.join_live(INBOX, &inbox_of(bob)).await;
        for round in 0..3 {
            hears(&mut client, &scene, alice, bob, &format!("before {round}")).await;
            // Its answer to the ping that followed stands before its next join.
            client.settled().await;
            let reference = client.push_join(INBOX, &inbox_of(bob)).await;
            scene.write(alice, bob, "while it joins").await;
            let close = client.next(INBOX, "phx_close").await;
            assert_eq!(close.join_reference.as_deref(), Some(joined.as_str()));
            client.reply(&reference).await.response("ok");
            assert_eq!(client.contents(INBOX, 1).await, ["while it joins"]);
            joined = reference;
            hears(&mut client, &scene, alice, bob, &format!("after {round}")).await;
            client.live(INBOX).await;
            hears_nothing(&scene, &mut client).await;
        }
        // What the earlier joins have left is not told when the client comes back.
        let reference = client.reference;
        assert!(
            client
                .close()
                .await
                .iter()
                .all(|said| said.event != "postgres_changes")
        );
        nobody_is_left(&scene.gateway).await;
        scene.write(alice, bob, "while it was away").await;
        let mut client = again(&door, bob, reference).await;
        assert_eq!(client.contents(INBOX, 1).await, ["while it was away"]);
        hears_nothing(&scene, &mut client).await;
    }
}

/// What is not known to have arrived is told again, which a client that joins again in the same moment cannot be spared.
#[tokio::test]
async fn an_inbox_that_is_joined_again_and_again_without_waiting_loses_nothing() {
    let (scene, door) = stage().await;
    let [alice, bob, _] = scene.people;
    let mut client = inbox(&door, bob).await;
    let mut expected = Vec::new();
    for number in 10..40 {
        client.push_join(INBOX, &inbox_of(bob)).await;
        let content = number.to_string();
        scene.write(alice, bob, &content).await;
        expected.push(content);
    }
    let last = client.reference.to_string();
    client.reply(&last).await.response("ok");
    // What was missed stands before this.
    while client.next(INBOX, "system").await.join_reference.as_ref() != Some(&last) {}
    handed_over(&scene.application, &scene.gateway).await;
    let mut heard = contents(&client.rest("postgres_changes").await);
    heard.sort();
    heard.dedup();
    assert_eq!(heard, expected);
}
