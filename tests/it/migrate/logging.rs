//! What the triggers log, and when they ring.

use bytes::Bytes;
use futures::SinkExt;
use tokio::time::Instant;
use uuid::Uuid;

use super::{Logged, install, send, take_log, take_operations};
use crate::support::database::{Database, people};

#[tokio::test]
async fn a_statement_of_many_rows_is_logged_row_by_row_in_order_and_rings_once() {
    let database = Database::with_application().await;
    install(&database).await;
    let client = database.connect().await;
    let [alice, bob] = people(&client).await;
    let mut bell = database.sleep_and_listen().await;

    client
        .execute(
            "insert into messages (id, sender_id, receiver_id, content)
             select ('00000000-0000-4000-8000-' || lpad(number::text, 12, '0'))::uuid, $1, $2, 'number ' || number
               from generate_series(1, 1000) as number",
            &[&alice, &bob],
        )
        .await
        .unwrap();
    let expected: Vec<Logged> = (1..=1000)
        .map(|number| Logged::new("i", numbered(number), alice, bob))
        .collect();
    assert_eq!(take_log(&client).await, expected);
    assert_eq!(bell.heard_so_far().await, 1);

    client
        .execute("update messages set is_read = true", &[])
        .await
        .unwrap();
    let logged = take_log(&client).await;
    assert_eq!(logged.len(), 1000);
    assert!(logged.iter().all(|logged| logged.op == "u"));
    client.execute("delete from messages", &[]).await.unwrap();
    assert_eq!(take_operations(&client).await, "d".repeat(1000));
    assert_eq!(bell.heard_so_far().await, 2);

    client
        .batch_execute(&format!(
            "begin;
             insert into messages (sender_id, receiver_id, content) values ('{alice}', '{bob}', 'one');
             insert into messages (sender_id, receiver_id, content) values ('{bob}', '{alice}', 'two');
             commit"
        ))
        .await
        .unwrap();
    assert_eq!(bell.heard_so_far().await, 1);
}

fn numbered(number: u128) -> Uuid {
    // The digits of the decimal number stand in the last group as they are.
    format!("00000000-0000-4000-8000-{number:012}").parse().unwrap()
}

#[tokio::test]
async fn rows_that_are_copied_in_are_logged() {
    let database = Database::with_application().await;
    install(&database).await;
    let client = database.connect().await;
    let [alice, bob] = people(&client).await;
    let sink = client
        .copy_in("copy messages (sender_id, receiver_id, content) from stdin")
        .await
        .unwrap();
    let mut sink = Box::pin(sink);
    for number in 0..3 {
        sink.send(Bytes::from(format!("{alice}\t{bob}\tcopied {number}\n")))
            .await
            .unwrap();
    }
    assert_eq!(sink.as_mut().finish().await.unwrap(), 3);
    assert_eq!(take_operations(&client).await, "iii");
}

#[tokio::test]
async fn upserts_and_merges_are_logged_as_what_they_did() {
    let database = Database::with_application().await;
    install(&database).await;
    let client = database.connect().await;
    let [alice, bob] = people(&client).await;
    let known = send(&client, alice, bob, "known").await;
    let new = Uuid::new_v4();
    take_log(&client).await;

    client
        .execute(
            "insert into messages (id, sender_id, receiver_id, content)
             values ($1, $3, $4, 'edited'), ($2, $3, $4, 'new')
             on conflict (id) do update set content = excluded.content",
            &[&known, &new, &alice, &bob],
        )
        .await
        .unwrap();
    let mut logged = take_log(&client).await;
    logged.sort();
    assert_eq!(
        logged,
        [
            Logged::new("i", new, alice, bob),
            Logged::new("u", known, alice, bob)
        ]
    );

    client
        .execute(
            "merge into messages using (values ($1::uuid), ($2::uuid)) as wanted (id) on messages.id = wanted.id
             when matched and messages.content = 'new' then delete
             when matched then update set content = 'merged'",
            &[&known, &new],
        )
        .await
        .unwrap();
    let mut logged = take_log(&client).await;
    logged.sort();
    assert_eq!(
        logged,
        [
            Logged::new("d", new, alice, bob),
            Logged::new("u", known, alice, bob)
        ]
    );
}

#[tokio::test]
async fn an_update_that_shows_nothing_new_is_neither_logged_nor_rung() {
    let database = Database::with_application().await;
    let client = database.connect().await;
    client
        .batch_execute("alter table messages add column search_terms text, add column draft json")
        .await
        .unwrap();
    install(&database).await;
    let [alice, bob] = people(&client).await;
    send(&client, alice, bob, "hello").await;
    take_log(&client).await;
    let mut bell = database.sleep_and_listen().await;

    client
        .batch_execute(
            "update messages set is_read = is_read, content = content;
             update messages set search_terms = 'hello', draft = '{}';
             update messages set is_read = true where false;
             insert into messages select * from messages where false;
             delete from messages where false",
        )
        .await
        .unwrap();
    assert_eq!(take_operations(&client).await, "");
    assert_eq!(bell.heard_so_far().await, 0);

    client
        .batch_execute("update messages set delivered_at = now()")
        .await
        .unwrap();
    assert_eq!(take_operations(&client).await, "u");
    assert_eq!(bell.heard_so_far().await, 1);
}

#[tokio::test]
async fn a_message_that_moves_leaves_its_old_people_and_reaches_the_new() {
    let database = Database::with_application().await;
    install(&database).await;
    let client = database.connect().await;
    let [alice, bob, carol] = people(&client).await;
    let message = send(&client, alice, bob, "for whom").await;
    take_log(&client).await;

    client
        .execute("update messages set receiver_id = $1", &[&carol])
        .await
        .unwrap();
    assert_eq!(
        take_log(&client).await,
        [
            Logged::new("d", message, alice, bob),
            Logged::new("i", message, alice, carol)
        ]
    );

    let mut expected = Vec::new();
    for _ in 0..20 {
        let message = send(&client, alice, bob, "one of many").await;
        expected.push(Logged::new("d", message, alice, bob));
        expected.push(Logged::new("i", message, alice, carol));
    }
    take_log(&client).await;
    client
        .execute(
            "update messages set receiver_id = $1 where receiver_id = $2",
            &[&carol, &bob],
        )
        .await
        .unwrap();
    assert_eq!(take_log(&client).await, expected);
    client
        .execute("delete from messages where id <> $1", &[&message])
        .await
        .unwrap();
    take_log(&client).await;

    let renamed = Uuid::new_v4();
    client
        .execute("update messages set id = $1", &[&renamed])
        .await
        .unwrap();
    let mut logged = take_log(&client).await;
    logged.sort();
    assert_eq!(
        logged,
        [
            Logged::new("d", message, alice, carol),
            Logged::new("i", renamed, alice, carol)
        ]
    );
}

#[tokio::test]
async fn deleting_a_product_updates_its_messages() {
    let database = Database::with_application().await;
    install(&database).await;
    let client = database.connect().await;
    let [alice, bob] = people(&client).await;
    let message = send(&client, alice, bob, "still there?").await;
    client
        .batch_execute(
            "insert into products (title, price) values ('lamp', 12);
             update messages set product_id = (select id from products)",
        )
        .await
        .unwrap();
    take_log(&client).await;
    client.execute("delete from products", &[]).await.unwrap();
    assert_eq!(take_log(&client).await, [Logged::new("u", message, alice, bob)]);
}

#[tokio::test]
async fn deleting_a_person_with_all_messages_is_logged() {
    let database = Database::with_application().await;
    let client = database.connect().await;
    client
        .batch_execute(
            "alter table messages drop constraint messages_sender_id_fkey,
               add constraint messages_sender_id_fkey foreign key (sender_id) references profiles (id) on delete cascade",
        )
        .await
        .unwrap();
    install(&database).await;
    let [alice, bob] = people(&client).await;
    let message = send(&client, alice, bob, "goodbye").await;
    take_log(&client).await;
    client
        .execute("delete from profiles where id = $1", &[&alice])
        .await
        .unwrap();
    assert_eq!(take_log(&client).await, [Logged::new("d", message, alice, bob)]);
}

#[tokio::test]
async fn a_message_that_lost_one_of_its_people_is_the_other_ones() {
    let database = Database::with_application().await;
    let client = database.connect().await;
    client
        .batch_execute("alter table messages alter column sender_id drop not null, alter column receiver_id drop not null")
        .await
        .unwrap();
    install(&database).await;
    let [alice, bob] = people(&client).await;
    let message = send(&client, alice, bob, "hello").await;
    take_log(&client).await;

    client
        .batch_execute("update messages set sender_id = null")
        .await
        .unwrap();
    assert_eq!(
        take_log(&client).await,
        [
            Logged::new("d", message, alice, bob),
            Logged::new("i", message, bob, bob)
        ]
    );
    client
        .batch_execute("update messages set receiver_id = null")
        .await
        .unwrap();
    assert_eq!(take_log(&client).await, [Logged::new("d", message, bob, bob)]);
    client
        .batch_execute("insert into messages (content) values ('nobody''s'); delete from messages")
        .await
        .unwrap();
    assert_eq!(take_log(&client).await, []);
}

#[tokio::test]
async fn what_is_rolled_back_is_not_logged() {
    let database = Database::with_application().await;
    install(&database).await;
    let client = database.connect().await;
    let [alice, bob] = people(&client).await;
    client
        .batch_execute(&format!(
            "begin;
             insert into messages (sender_id, receiver_id, content) values ('{alice}', '{bob}', 'kept');
             savepoint here;
             insert into messages (sender_id, receiver_id, content) values ('{alice}', '{bob}', 'regretted');
             rollback to here;
             commit;"
        ))
        .await
        .unwrap();
    assert_eq!(take_operations(&client).await, "i");
}

/// A limit that the documentation names: Postgres shows no rows to a trigger on TRUNCATE.
#[tokio::test]
async fn truncating_works_and_is_not_logged() {
    let database = Database::with_application().await;
    install(&database).await;
    let client = database.connect().await;
    let [alice, bob] = people(&client).await;
    send(&client, alice, bob, "hello").await;
    take_log(&client).await;
    client.batch_execute("truncate messages").await.unwrap();
    assert_eq!(take_operations(&client).await, "");
}

#[tokio::test]
async fn a_large_update_after_many_small_ones_in_one_session_stays_fast() {
    let database = Database::with_application().await;
    install(&database).await;
    let client = database.connect().await;
    let [alice, bob] = people(&client).await;
    client
        .execute(
            "insert into messages (sender_id, receiver_id, content) select $1, $2, 'x' from generate_series(1, 20000)",
            &[&alice, &bob],
        )
        .await
        .unwrap();
    take_log(&client).await;
    // After a few executions Postgres keeps the plan it made for one row.
    for _ in 0..10 {
        client
            .execute("update messages set content = content || '!' where id = (select min(id::text)::uuid from messages)", &[])
            .await
            .unwrap();
    }
    take_log(&client).await;
    let started = Instant::now();
    client
        .execute("update messages set is_read = true", &[])
        .await
        .unwrap();
    // Comparing every row with every other would take minutes.
    assert!(started.elapsed().as_secs() < 10, "{:?}", started.elapsed());
    assert_eq!(take_log(&client).await.len(), 20_000);
}
