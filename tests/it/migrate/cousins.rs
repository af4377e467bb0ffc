//! Applications that differ from the plain one: row-level security, other triggers, partitions, more columns, a view
//! and indexes of their own.

use herald::migrate::{MigrateError, Outcome, Report};
use tokio_postgres::Client;

use super::{
    Logged, install, install_error, is_valid, send, take_log, take_operations, uninstall, unwatched,
};
use crate::support::{
    APPLICATION,
    database::{Database, people},
};

const INDEXES: [&str; 3] = [
    "public.idx_messages_conversation_lookup",
    "public.idx_messages_user_product_time",
    "public.idx_messages_unread",
];

/// The columns of the index of received messages.
const RECEIVED: &str = "(receiver_id, sender_id, product_id, created_at desc, id desc)";

#[tokio::test]
async fn a_role_without_rights_in_herald_writes_under_row_level_security() {
    let database = Database::with_application().await;
    install(&database).await;
    let owner = database.connect().await;
    let [alice, bob, carol] = people(&owner).await;
    let other = send(&owner, bob, carol, "not for alice").await;
    take_log(&owner).await;

    let client = database.connect().await;
    client
        .batch_execute(&format!(
            "set role authenticated; set request.jwt.claims = '{{\"sub\": \"{alice}\"}}';
             insert into messages (sender_id, receiver_id, content) values ('{alice}', '{bob}', 'hello')"
        ))
        .await
        .unwrap();
    // The view obeys the policies of whoever reads it.
    let seen = client
        .query("select content, sender_username from messages_realtime_view", &[])
        .await
        .unwrap();
    assert_eq!(seen.len(), 1);
    assert_eq!(
        (seen[0].get::<_, &str>(0), seen[0].get::<_, &str>(1)),
        ("hello", "person 0")
    );
    for forbidden in [
        "select * from herald.log",
        "insert into herald.log (op, message_id, sender_id, receiver_id) select 'i', gen_random_uuid(), gen_random_uuid(), gen_random_uuid()",
        "select herald.epoch()",
        "select * from herald.unwatched()",
    ] {
        let error = client.batch_execute(forbidden).await.unwrap_err();
        assert_eq!(
            error.code(),
            Some(&tokio_postgres::error::SqlState::INSUFFICIENT_PRIVILEGE),
            "{forbidden}"
        );
    }
    // Not even if somebody lets all roles into the schema.
    let open: i64 = owner
        .query_one(
            "select count(*) from pg_proc
              where pronamespace = 'herald'::regnamespace and has_function_privilege('authenticated', oid, 'execute')",
            &[],
        )
        .await
        .unwrap()
        .get(0);
    assert_eq!(open, 0);

    // What a policy refuses is not logged, and neither is another's message.
    let forged = format!(
        "insert into messages (sender_id, receiver_id, content) values ('{bob}', '{alice}', 'forged')"
    );
    assert!(client.batch_execute(&forged).await.is_err());
    assert_eq!(
        client
            .execute("update messages set is_read = true where id = $1", &[&other])
            .await
            .unwrap(),
        0
    );

    let logged = take_log(&owner).await;
    assert_eq!(logged.len(), 1);
    assert_eq!((logged[0].sender, logged[0].receiver), (alice, bob));
}

#[tokio::test]
async fn names_in_the_sessions_search_path_do_not_lead_the_trigger_astray() {
    let database = Database::with_application().await;
    install(&database).await;
    let client = database.connect().await;
    let [alice, bob] = people(&client).await;
    let session = database.connect().await;
    session
        .batch_execute(
            "create temp table new_rows (id uuid); create temp table log (id uuid);
             create function pg_temp.coalesce(uuid, uuid) returns uuid language sql as 'select null::uuid';
             set search_path = pg_temp, public",
        )
        .await
        .unwrap();
    let message = send(&session, alice, bob, "hello").await;
    assert_eq!(take_log(&client).await, [Logged::new("i", message, alice, bob)]);
}

#[tokio::test]
async fn a_gateway_that_row_level_security_would_blind_is_warned_of() {
    let database = Database::with_application().await;
    let owner = database.role("owner");
    let superuser = database.connect().await;
    superuser
        .batch_execute(&format!(
            "create role {owner} login; grant all on schema public to {owner};
             do $$ begin execute format('grant create on database %I to {owner}', current_database()); end $$;
             alter table messages owner to {owner}; alter table profiles owner to {owner}; alter table products owner to {owner};
             alter table messages force row level security"
        ))
        .await
        .unwrap();
    let mut client = database.connect_as(&owner).await;
    let report = herald::migrate::install(&mut client, super::PATIENCE)
        .await
        .unwrap();
    assert!(
        warnings(&report).contains("row-level security on public.messages"),
        "{report}"
    );
    drop(client);
    superuser
        .batch_execute(&format!("drop owned by {owner} cascade; drop role {owner}"))
        .await
        .unwrap();
}

#[tokio::test]
async fn the_applications_own_triggers_go_on_working() {
    let database = Database::with_application().await;
    let client = database.connect().await;
    client
        .batch_execute(
            "create table public.counts (kind text, rows bigint);
             create function public.tidy() returns trigger language plpgsql as
               $$ begin new.content := btrim(new.content); return new; end $$;
             create trigger tidy before insert or update on messages for each row execute function public.tidy();
             create function public.count_rows() returns trigger language plpgsql as
               $$ begin insert into public.counts select tg_op, count(*) from new_rows; return null; end $$;
             create trigger count_inserted after insert on messages referencing new table as new_rows
               for each statement execute function public.count_rows();
             create trigger zz_count_inserted after insert on messages referencing new table as new_rows
               for each statement execute function public.count_rows();
             create function public.deliver() returns trigger language plpgsql as
               $$ begin update public.messages set delivered_at = now() where id = new.id; return null; end $$;
             create trigger deliver after insert on messages for each row execute function public.deliver();
             create function public.refuse() returns trigger language plpgsql as
               $$ begin if new.content = 'refused' then raise exception 'no'; end if; return null; end $$;
             create constraint trigger zz_refuse after insert on messages deferrable initially deferred
               for each row execute function public.refuse()",
        )
        .await
        .unwrap();
    let before = database.dump();
    install(&database).await;
    let [alice, bob] = people(&client).await;
    send(&client, alice, bob, "  hello  ").await;
    let mut operations: Vec<char> = take_operations(&client).await.chars().collect();
    operations.sort_unstable();
    assert_eq!(operations, ['i', 'u']);
    let row = client
        .query_one("select count(*), sum(rows)::bigint from counts", &[])
        .await
        .unwrap();
    assert_eq!((row.get(0), row.get(1)), (2_i64, 2_i64));

    let refused = client
        .execute(
            "insert into messages (sender_id, receiver_id, content) values ($1, $2, 'refused')",
            &[&alice, &bob],
        )
        .await;
    assert!(refused.is_err());
    assert_eq!(take_operations(&client).await, "");

    client
        .batch_execute("delete from messages; delete from profiles; delete from counts")
        .await
        .unwrap();
    uninstall(&database).await;
    assert_eq!(database.dump(), before);
}

/// Turns the application's table into one that is partitioned by month, one month by day.
pub(super) async fn partition(client: &Client) {
    client
        .batch_execute(
            "drop table public.messages;
             create table public.messages (
               id uuid not null default gen_random_uuid(), sender_id uuid not null, receiver_id uuid not null,
               product_id uuid references products (id) on delete set null, content text not null,
               created_at timestamptz not null default now(),
               is_read boolean not null default false, delivered_at timestamptz, primary key (id, created_at)
             ) partition by range (created_at);
             create table public.messages_old partition of messages for values from (minvalue) to ('2024-01-01');
             create table public.messages_january partition of messages
               for values from ('2024-01-01') to ('2024-02-01') partition by range (created_at);
             create schema attic;
             create table attic.\"January, first half\" partition of messages_january
               for values from ('2024-01-01') to ('2024-01-16');
             create table public.messages_rest partition of messages default",
        )
        .await
        .unwrap();
}

#[tokio::test]
async fn a_partitioned_table_is_logged_once_whichever_way_it_is_written() {
    let database = Database::with_application().await;
    let client = database.connect().await;
    partition(&client).await;
    install(&database).await;
    let [alice, bob] = people(&client).await;
    let write = async |table: &str, day: &str| {
        let statement = format!(
            "insert into {table} (sender_id, receiver_id, content, created_at) values ($1, $2, 'x', '{day}')"
        );
        client.execute(&statement, &[&alice, &bob]).await.unwrap();
    };
    write("messages", "2020-01-01").await;
    write("messages", "2024-01-10").await;
    assert_eq!(take_operations(&client).await, "ii");
    write("messages_old", "2020-01-02").await;
    write("messages_january", "2024-01-11").await;
    write("attic.\"January, first half\"", "2024-01-12").await;
    assert_eq!(take_operations(&client).await, "iii");

    client
        .execute("update messages set is_read = true", &[])
        .await
        .unwrap();
    assert_eq!(take_operations(&client).await, "uuuuu");
    client
        .execute("update messages_january set is_read = false", &[])
        .await
        .unwrap();
    assert_eq!(take_operations(&client).await, "uuu");
    // To another partition: the row is deleted here and inserted there, and yet it is one message that changed.
    client
        .execute(
            "update messages set created_at = '2030-01-01' where created_at = '2020-01-01'",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(take_operations(&client).await, "u");

    // Referential actions write the partitions through the parent.
    client
        .batch_execute(
            "insert into products (title, price) values ('lamp', 12);
             update messages set product_id = (select id from products)",
        )
        .await
        .unwrap();
    take_log(&client).await;
    client.execute("delete from products", &[]).await.unwrap();
    assert_eq!(take_operations(&client).await, "uuuuu");

    client.execute("delete from messages_rest", &[]).await.unwrap();
    client.execute("delete from messages", &[]).await.unwrap();
    assert_eq!(take_operations(&client).await, "ddddd");
}

#[tokio::test]
async fn partitions_that_come_and_go_are_followed_by_the_next_run() {
    let database = Database::with_application().await;
    let client = database.connect().await;
    partition(&client).await;
    install(&database).await;
    let [alice, bob] = people(&client).await;
    client
        .batch_execute(
            "create table public.messages_july partition of messages for values from ('2024-07-01') to ('2024-08-01');
             create table public.messages_august (like messages including defaults including constraints);
             alter table messages attach partition messages_august for values from ('2024-08-01') to ('2024-09-01');
             alter table messages detach partition messages_old;
             alter table messages_rest disable trigger herald_delete",
        )
        .await
        .unwrap();
    assert_eq!(
        unwatched(&client).await,
        ["messages_rest", "messages_july", "messages_august"]
    );

    let report = install(&database).await;
    assert!(report.changed());
    assert!(
        warnings(&report).contains("alter table public.messages_rest enable trigger herald_delete"),
        "{report}"
    );
    assert_eq!(unwatched(&client).await, ["messages_rest"]);
    for table in ["messages_july", "messages_august", "messages_old"] {
        client
            .execute(
                &format!(
                    "insert into {table} (sender_id, receiver_id, content, created_at) values ($1, $2, 'x', '2024-0{}-05')",
                    if table == "messages_july" { 7 } else { 8 }
                ),
                &[&alice, &bob],
            )
            .await
            .unwrap();
    }
    // The detached one holds no messages any more.
    assert_eq!(take_operations(&client).await, "ii");
}

#[tokio::test]
async fn a_partitioned_table_gets_its_indexes_partition_by_partition_and_loses_them_again() {
    let database = Database::with_application().await;
    let client = database.connect().await;
    partition(&client).await;
    let before = database.dump();
    let report = install(&database).await;
    for index in INDEXES {
        assert!(is_valid(&client, index).await, "{index}");
    }
    // Built concurrently, so never as a whole.
    let built: Vec<&str> = report
        .items()
        .iter()
        .map(|item| item.subject.as_str())
        .filter(|subject| subject.starts_with("create index"))
        .collect();
    assert_eq!(
        built
            .iter()
            .filter(|statement| statement.contains(" concurrently "))
            .count(),
        9,
        "{report}"
    );
    assert_eq!(
        built
            .iter()
            .filter(|statement| statement.contains(" on only "))
            .count(),
        6,
        "{report}"
    );
    assert!(!install(&database).await.changed());
    uninstall(&database).await;
    assert_eq!(database.dump(), before);
}

#[tokio::test]
async fn an_interrupted_build_on_partitions_is_finished() {
    let database = Database::with_application().await;
    let client = database.connect().await;
    partition(&client).await;
    let before = database.dump();
    let oid: u32 = client
        .query_one("select 'messages_old'::regclass::oid", &[])
        .await
        .unwrap()
        .get(0);
    // As if the connection had been lost after the first partition, or during the second.
    client
        .batch_execute(&format!(
            "create index idx_messages_user_product_time on only messages {RECEIVED};
             create index idx_messages_user_product_time_{oid} on messages_old {RECEIVED}"
        ))
        .await
        .unwrap();
    leave_invalid_index(
        &database,
        "messages_rest",
        "idx_messages_conversation_lookup_{oid}",
        "(sender_id, receiver_id, product_id, created_at desc, id desc)",
    )
    .await;
    install(&database).await;
    for index in INDEXES {
        assert!(is_valid(&client, index).await, "{index}");
    }
    assert_eq!(invalid_indexes(&client).await, 0);
    client
        .batch_execute("drop index idx_messages_user_product_time")
        .await
        .unwrap();
    uninstall(&database).await;
    assert_eq!(database.dump(), before);
}

#[tokio::test]
async fn tables_that_inherit_from_messages_are_watched_too() {
    let database = Database::with_application().await;
    let client = database.connect().await;
    client
        .batch_execute("create table public.archived_messages () inherits (public.messages)")
        .await
        .unwrap();
    let before = database.dump();
    install(&database).await;
    let [alice, bob] = people(&client).await;
    client
        .execute(
            "insert into archived_messages (sender_id, receiver_id, content) values ($1, $2, 'old')",
            &[&alice, &bob],
        )
        .await
        .unwrap();
    client
        .execute("update messages set is_read = true", &[])
        .await
        .unwrap();
    client.execute("delete from messages", &[]).await.unwrap();
    assert_eq!(take_operations(&client).await, "iud");
    client.batch_execute("delete from profiles").await.unwrap();
    uninstall(&database).await;
    assert_eq!(database.dump(), before);
}

/// A view that the application made, with more columns than Herald needs and tables of its own below it.
const RICHER_VIEW: &str = "
    alter table public.messages add column reactions json, add column internal_note text;
    alter table public.profiles rename to accounts;
    drop table public.products cascade;
    create view public.decorated as select id, reactions::text as reactions from public.messages;
    create view public.messages_realtime_view as
      select m.id, m.sender_id, m.receiver_id, m.product_id, m.content, m.created_at, m.is_read, m.delivered_at,
             s.username as sender_username, s.avatar_url as sender_avatar,
             r.username as receiver_username, r.avatar_url as receiver_avatar,
             null::text as product_title, null::numeric as product_price, d.reactions
        from public.messages m join public.accounts s on s.id = m.sender_id join public.accounts r on r.id = m.receiver_id
        join public.decorated d on d.id = m.id";

#[tokio::test]
async fn a_richer_view_of_the_application_is_used_as_it_is() {
    let database = Database::with_application().await;
    let client = database.connect().await;
    client.batch_execute(RICHER_VIEW).await.unwrap();
    let before = database.dump();
    let report = install(&database).await;
    assert!(report.items().iter().any(|item| {
        item.outcome == Outcome::Found && item.subject == "view public.messages_realtime_view"
    }));
    assert!(warnings(&report).contains("security_invoker"), "{report}");

    client
        .batch_execute(
            "insert into accounts (username) values ('alice');
             insert into messages (sender_id, receiver_id, content) select id, id, 'to myself' from accounts;
             update messages set internal_note = 'flagged';
             update messages set reactions = '[1]'",
        )
        .await
        .unwrap();
    // The reactions show through the view below the view; the note does not.
    assert_eq!(take_operations(&client).await, "iu");
    client
        .batch_execute("delete from messages; delete from accounts")
        .await
        .unwrap();
    let report = uninstall(&database).await;
    assert!(report.items().iter().any(|item| item.outcome == Outcome::Kept));
    assert_eq!(database.dump(), before);
}

#[tokio::test]
async fn a_view_that_gains_a_column_is_watched_anew_by_the_next_run() {
    let database = Database::with_application().await;
    let client = database.connect().await;
    client.batch_execute(RICHER_VIEW).await.unwrap();
    install(&database).await;
    client
        .batch_execute(
            "insert into accounts (username) values ('alice');
             insert into messages (sender_id, receiver_id, content) select id, id, 'to myself' from accounts;
             create or replace view public.decorated as
               select id, to_jsonb(messages)::text as reactions from public.messages",
        )
        .await
        .unwrap();
    assert!(install(&database).await.changed());
    take_log(&client).await;
    client
        .batch_execute("update messages set internal_note = 'flagged'")
        .await
        .unwrap();
    assert_eq!(take_operations(&client).await, "u");
}

#[tokio::test]
async fn a_view_that_lacks_columns_is_refused_and_they_are_named() {
    let database = Database::with_application().await;
    let client = database.connect().await;
    client
        .batch_execute(
            "create view public.messages_realtime_view as
             select id::text, sender_id, receiver_id, product_id, content, created_at, is_read, delivered_at,
                    '' as sender_username, '' as receiver_username, '' as product_title, 0 as product_price from public.messages",
        )
        .await
        .unwrap();
    let before = database.dump();
    let MigrateError::Unsuitable(problems) = install_error(&database).await else {
        panic!("it was installed")
    };
    assert_eq!(
        problems,
        [
            "the column id of the view public.messages_realtime_view has the type text, but uuid is needed",
            "the view public.messages_realtime_view lacks the column receiver_avatar; add it, or drop or rename the view",
            "the view public.messages_realtime_view lacks the column sender_avatar; add it, or drop or rename the view",
        ]
    );
    assert_eq!(database.dump(), before);
}

#[tokio::test]
async fn an_index_of_the_application_by_that_name_stays_and_is_warned_of_if_it_cannot_do_the_same() {
    let database = Database::with_application().await;
    let client = database.connect().await;
    // The plan's own definition, one that can do more than Herald's, and one with another condition.
    client
        .batch_execute(
            "create index idx_messages_conversation_lookup on messages (sender_id, receiver_id, product_id, created_at desc);
             create index idx_messages_user_product_time on messages
               (receiver_id, sender_id, product_id, created_at desc, id desc, is_read) include (content);
             create index idx_messages_unread on messages (receiver_id, sender_id, product_id) where delivered_at is null",
        )
        .await
        .unwrap();
    let before = database.dump();
    let report = install(&database).await;
    assert_eq!(
        report
            .items()
            .iter()
            .filter(|item| item.outcome == Outcome::Found)
            .count(),
        3,
        "{report}"
    );
    let expected = [
        "To have Herald's: drop index concurrently public.idx_messages_conversation_lookup, then run herald migrate again",
        "To have Herald's: drop index concurrently public.idx_messages_unread, then run herald migrate again",
    ];
    // It is said again by every run, and by every run nothing is changed.
    for report in [report, install(&database).await] {
        let warnings = warnings(&report);
        for text in expected {
            assert!(warnings.contains(text), "{report}");
        }
        assert!(!warnings.contains("user_product_time"), "{report}");
    }
    assert!(!install(&database).await.changed());

    // What the warning says leads to what it promises.
    client
        .batch_execute("drop index concurrently public.idx_messages_unread")
        .await
        .unwrap();
    assert!(install(&database).await.changed());
    assert!(!warnings(&install(&database).await).contains("idx_messages_unread"));
    uninstall(&database).await;
    client
        .batch_execute(
            "create index idx_messages_unread on messages (receiver_id, sender_id, product_id) where delivered_at is null",
        )
        .await
        .unwrap();
    assert_eq!(database.dump(), before);
}

#[tokio::test]
async fn an_invalid_index_of_the_application_that_is_defined_otherwise_is_not_touched() {
    let database = Database::with_application().await;
    let client = database.connect().await;
    leave_invalid_index(&database, "messages", "idx_messages_unread", "(receiver_id)").await;
    let before = database.dump();
    let report = install(&database).await;
    assert!(
        report.to_string().contains("it is not valid, and stays"),
        "{report}"
    );
    assert!(warnings(&report).contains("idx_messages_unread"), "{report}");
    assert!(!is_valid(&client, INDEXES[2]).await);
    uninstall(&database).await;
    assert_eq!(database.dump(), before);
}

#[tokio::test]
async fn columns_of_domain_types_get_indexes_that_later_runs_recognise() {
    let database = Database::with_application().await;
    let client = database.connect().await;
    client
        .batch_execute(
            "create domain flag as boolean;
             alter table messages drop column is_read, add column is_read flag not null default false",
        )
        .await
        .unwrap();
    install(&database).await;
    for index in INDEXES {
        assert!(is_valid(&client, index).await, "{index}");
    }
    let repeated = install(&database).await;
    assert!(repeated.items().is_empty(), "{repeated}");
}

#[tokio::test]
async fn a_time_that_may_be_null_is_warned_of() {
    let database = Database::with_application().await;
    let client = database.connect().await;
    client
        .batch_execute("alter table messages alter column created_at drop not null")
        .await
        .unwrap();
    assert!(warnings(&install(&database).await).contains("a message without a time is not listed"));
    client
        .batch_execute("alter table messages alter column created_at set not null")
        .await
        .unwrap();
    assert_eq!(warnings(&install(&database).await), "");
}

#[tokio::test]
async fn an_invalid_index_that_the_application_left_is_repaired_and_stays_its_own() {
    let database = Database::with_application().await;
    let client = database.connect().await;
    leave_invalid_index(&database, "messages", "idx_messages_user_product_time", RECEIVED).await;
    let report = install(&database).await;
    assert!(report.to_string().contains("it is not valid"), "{report}");
    assert!(is_valid(&client, INDEXES[1]).await);
    uninstall(&database).await;
    assert!(is_valid(&client, INDEXES[1]).await);
    assert!(!is_valid(&client, INDEXES[0]).await);
}

#[tokio::test]
async fn an_invalid_index_left_by_an_interrupted_build_is_built_anew() {
    let database = Database::with_application().await;
    let client = database.connect().await;
    let before = database.dump();
    // Herald's own first: it is installed, and the second index breaks.
    install(&database).await;
    client
        .batch_execute("drop index idx_messages_user_product_time")
        .await
        .unwrap();
    leave_invalid_index(&database, "messages", "idx_messages_user_product_time", RECEIVED).await;
    let report = install(&database).await;
    let done: Vec<Outcome> = report.items().iter().map(|item| item.outcome).collect();
    assert_eq!(done, [Outcome::Removed, Outcome::Installed], "{report}");
    assert!(is_valid(&client, INDEXES[1]).await);
    assert_eq!(invalid_indexes(&client).await, 0);
    uninstall(&database).await;
    assert_eq!(database.dump(), before);
}

/// Interrupts a concurrent build as it happens in life: it waits for an open transaction and is cancelled meanwhile.
/// `{oid}` in the name stands for the table's.
async fn leave_invalid_index(database: &Database, table: &str, name: &str, columns: &str) {
    let writer = database.connect().await;
    writer
        .batch_execute(&format!("begin; lock table {table} in row exclusive mode"))
        .await
        .unwrap();
    let builder = database.connect().await;
    let oid: u32 = builder
        .query_one(&format!("select '{table}'::regclass::oid"), &[])
        .await
        .unwrap()
        .get(0);
    let name = name.replace("{oid}", &oid.to_string());
    builder.batch_execute("set lock_timeout = '50ms'").await.unwrap();
    let interrupted = builder
        .batch_execute(&format!("create index concurrently {name} on {table} {columns}"))
        .await;
    assert!(interrupted.is_err());
    writer.batch_execute("rollback").await.unwrap();
    assert_eq!(
        invalid_indexes(&builder).await,
        1 + i64::from(name.ends_with(&oid.to_string()))
    );
}

/// How many indexes of plain tables and partitioned ones are not valid.
async fn invalid_indexes(client: &Client) -> i64 {
    client
        .query_one("select count(*) from pg_index where not indisvalid", &[])
        .await
        .unwrap()
        .get(0)
}

#[tokio::test]
async fn a_publication_for_all_tables_lets_every_table_be_written() {
    let database = Database::with_application().await;
    let client = database.connect().await;
    client
        .batch_execute("create publication everything for all tables")
        .await
        .unwrap();
    install(&database).await;
    let [alice, bob] = people(&client).await;
    send(&client, alice, bob, "hello").await;
    client
        .batch_execute(
            "update messages set is_read = true;
             delete from messages;
             insert into herald.mark (life, snapshot) values (1, pg_current_snapshot());
             delete from herald.mark;
             delete from herald.log;
             insert into herald.gateway values (gen_random_uuid(), '', now());
             update herald.gateway set seen_at = now();
             delete from herald.gateway;
             insert into herald.channel (session, number, gateway, user_id, topic, device)
             values (gen_random_uuid(), 0, gen_random_uuid(), gen_random_uuid(), '', '');
             update herald.channel set reference = 1;
             delete from herald.channel;
             update herald.state set pruned_before = pg_snapshot_xmin(pg_current_snapshot())",
        )
        .await
        .unwrap();
    uninstall(&database).await;
}

#[tokio::test]
async fn the_view_may_be_read_by_whoever_may_read_messages() {
    let database = Database::empty().await;
    let client = database.connect().await;
    let (reader, writer) = (database.role("reader"), database.role("writer"));
    client.batch_execute(APPLICATION).await.unwrap();
    client
        .batch_execute(&format!(
            "create role {reader}; create role \"{writer}, too\";
             grant select on messages to {reader}; grant insert on messages to \"{writer}, too\""
        ))
        .await
        .unwrap();
    install(&database).await;
    let may_read = async |role: &str| -> bool {
        client
            .query_one(
                "select has_table_privilege($1, 'messages_realtime_view', 'select')",
                &[&role],
            )
            .await
            .unwrap()
            .get(0)
    };
    assert!(may_read("authenticated").await && may_read(&reader).await);
    assert!(!may_read(&format!("{writer}, too")).await);
    uninstall(&database).await;
    client
        .batch_execute(&format!(
            "drop owned by {reader}, \"{writer}, too\"; drop role {reader}; drop role \"{writer}, too\""
        ))
        .await
        .unwrap();
}

fn warnings(report: &Report) -> String {
    let warnings = report
        .items()
        .iter()
        .filter(|item| item.outcome == Outcome::Warning);
    warnings.map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
