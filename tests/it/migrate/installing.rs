//! Installing, repeating, upgrading and removing.

use herald::migrate::{MigrateError, Outcome, SCHEMA_VERSION, script, uninstall_script};

use super::{install, install_error, is_valid, send, uninstall, unwatched};
use crate::support::{
    APPLICATION,
    database::{Database, people},
};

const COLUMNS: [&str; 14] = [
    "id",
    "sender_id",
    "receiver_id",
    "product_id",
    "content",
    "created_at",
    "is_read",
    "delivered_at",
    "sender_username",
    "sender_avatar",
    "receiver_username",
    "receiver_avatar",
    "product_title",
    "product_price",
];

#[tokio::test]
async fn installing_brings_the_view_the_indexes_and_the_triggers() {
    let database = Database::with_application().await;
    let report = install(&database).await;
    assert!(report.changed());
    assert!(
        report
            .items()
            .iter()
            .all(|item| item.outcome == Outcome::Installed),
        "{report}"
    );

    let client = database.connect().await;
    let columns = client
        .query(
            "select attname::text from pg_attribute
              where attrelid = 'public.messages_realtime_view'::regclass and attnum > 0 order by attnum",
            &[],
        )
        .await
        .unwrap();
    let columns: Vec<String> = columns.iter().map(|row| row.get(0)).collect();
    assert_eq!(columns, COLUMNS);
    let options: Vec<String> = client
        .query_one(
            "select reloptions from pg_class where oid = 'public.messages_realtime_view'::regclass",
            &[],
        )
        .await
        .unwrap()
        .get(0);
    assert_eq!(options, ["security_invoker=true"]);
    assert!(is_valid(&client, "public.idx_messages_conversation_lookup").await);
    assert!(is_valid(&client, "public.idx_messages_user_product_time").await);
    assert!(is_valid(&client, "public.idx_messages_unread").await);
    assert!(unwatched(&client).await.is_empty());
}

#[tokio::test]
async fn installing_again_changes_nothing_and_says_so() {
    let database = Database::with_application().await;
    install(&database).await;
    let client = database.connect().await;
    // Each change of a catalog row or of Herald's own rows gives it another xmin.
    let fingerprint = async || -> String {
        client
            .query_one(
                "select string_agg(line, E'\n' order by line) from (
                   select 'class ' || oid || ' ' || xmin from pg_class where relnamespace in ('herald'::regnamespace, 'public'::regnamespace)
                   union all select 'function ' || oid || ' ' || xmin from pg_proc
                             where pronamespace in ('herald'::regnamespace, 'public'::regnamespace)
                   union all select 'trigger ' || oid || ' ' || xmin from pg_trigger
                   union all select 'state ' || xmin from herald.state
                   union all select 'installed ' || xmin from herald.installed) as lines (line)",
                &[],
            )
            .await
            .unwrap()
            .get(0)
    };
    let before = fingerprint().await;
    let report = install(&database).await;
    assert!(!report.changed() && report.items().is_empty(), "{report}");
    assert_eq!(fingerprint().await, before);
}

#[tokio::test]
async fn uninstalling_leaves_the_application_exactly_as_it_was() {
    let database = Database::with_application().await;
    let client = database.connect().await;
    let [alice, bob] = people(&client).await;
    send(&client, alice, bob, "before").await;
    let before = database.dump();
    install(&database).await;
    assert_ne!(database.dump(), before);
    let report = uninstall(&database).await;
    assert!(report.changed());
    assert_eq!(database.dump(), before);
    assert!(matches!(
        herald::migrate::uninstall(&mut database.connect().await, super::PATIENCE).await,
        Err(MigrateError::NotInstalled)
    ));
}

#[tokio::test]
async fn what_is_printed_does_what_is_run() {
    let run = Database::with_application().await;
    let before = run.dump();
    install(&run).await;

    let printed = Database::with_application().await;
    printed.psql(&script());
    let schema_only = ["--schema-only"];
    assert_eq!(printed.dump_with(&schema_only), run.dump_with(&schema_only));
    let repeated = install(&printed).await;
    assert!(!repeated.changed(), "{repeated}");

    printed.psql(&script());
    assert_eq!(printed.dump_with(&schema_only), run.dump_with(&schema_only));
    printed.psql(&uninstall_script());
    assert_eq!(printed.dump(), before);
}

#[tokio::test]
async fn all_that_is_missing_is_named_at_once_and_nothing_is_changed() {
    let database = Database::empty().await;
    let client = database.connect().await;
    client
        .batch_execute(
            "create table public.profiles (id uuid primary key, username text);
             create table public.messages (id bigint primary key, sender_id uuid, receiver_id uuid, content text,
                                           created_at timestamp, is_read boolean, delivered_at timestamptz)",
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
            "table public.products is missing",
            "column public.messages.created_at has the type timestamp without time zone, but timestamptz is needed",
            "column public.messages.id has the type bigint, but uuid is needed",
            "column public.messages.product_id is missing",
            "column public.profiles.avatar_url is missing",
        ]
    );
    assert_eq!(database.dump(), before);
}

#[tokio::test]
async fn an_empty_database_lacks_all_three_tables() {
    let database = Database::empty().await;
    let error = install_error(&database).await.to_string();
    for table in ["public.messages", "public.profiles", "public.products"] {
        assert!(error.contains(&format!("table {table} is missing")), "{error}");
    }
}

#[tokio::test]
async fn names_that_something_else_has_taken_are_refused_and_nothing_is_changed() {
    let database = Database::with_application().await;
    let client = database.connect().await;
    client
        .batch_execute(
            "create schema herald;
             create table public.messages_realtime_view (id uuid);
             create index idx_messages_conversation_lookup on public.products (title);
             create table public.idx_messages_unread (id uuid)",
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
            "a schema named herald exists that Herald did not make; rename or drop it",
            "public.idx_messages_conversation_lookup exists and is no index on public.messages; Herald needs that name for one",
            "public.idx_messages_unread exists and is no index on public.messages; Herald needs that name for one",
            "public.messages_realtime_view is a table; Herald needs that name for a view",
        ]
    );
    assert_eq!(database.dump(), before);
}

#[tokio::test]
async fn the_owner_of_the_tables_can_install_without_being_a_superuser() {
    let database = Database::empty().await;
    let owner = database.role("owner");
    let superuser = database.connect().await;
    superuser
        .batch_execute(&format!(
            "create role {owner} login; grant create on schema public to {owner}; grant all on schema public to {owner}"
        ))
        .await
        .unwrap();
    // Another test may be creating the role that all clusters of this application share, so a superuser makes it.
    superuser.batch_execute(APPLICATION).await.unwrap();
    superuser
        .batch_execute(&format!(
            "alter table messages owner to {owner}; alter table profiles owner to {owner}; alter table products owner to {owner}"
        ))
        .await
        .unwrap();

    let mut client = database.connect_as(&owner).await;
    let error = herald::migrate::install(&mut client, super::PATIENCE)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("may not create a schema; run this once as a superuser: grant create on database"),
        "{error}"
    );

    superuser
        .batch_execute(&format!(
            "do $$ begin execute format('grant create on database %I to {owner}', current_database()); end $$"
        ))
        .await
        .unwrap();
    let before = database.dump();
    herald::migrate::install(&mut client, super::PATIENCE)
        .await
        .unwrap();
    let [alice, bob] = people(&client).await;
    send(&client, alice, bob, "hello").await;
    assert_eq!(super::take_operations(&client).await, "i");
    let epoch: String = client
        .query_one("select herald.epoch()", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(epoch.len(), 16);
    client
        .batch_execute("delete from messages; delete from profiles")
        .await
        .unwrap();
    herald::migrate::uninstall(&mut client, super::PATIENCE)
        .await
        .unwrap();
    assert_eq!(database.dump(), before);
    superuser
        .batch_execute(&format!("drop owned by {owner}; drop role {owner}"))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_role_that_owns_nothing_is_told_every_right_it_lacks() {
    let database = Database::with_application().await;
    let stranger = database.role("stranger");
    database
        .connect()
        .await
        .batch_execute(&format!("create role {stranger} login"))
        .await
        .unwrap();
    let mut client = database.connect_as(&stranger).await;
    let error = herald::migrate::install(&mut client, super::PATIENCE)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("may not create a schema"), "{error}");
    assert!(
        error.contains("may not create anything in the schema public"),
        "{error}"
    );
    assert!(
        error.contains("does not own public.messages; connect as its owner, postgres"),
        "{error}"
    );
    database
        .connect()
        .await
        .batch_execute(&format!("drop role {stranger}"))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_newer_schema_is_left_alone_by_an_older_build() {
    let database = Database::with_application().await;
    install(&database).await;
    let client = database.connect().await;
    client
        .execute("update herald.state set schema_version = schema_version + 1", &[])
        .await
        .unwrap();
    let before = database.dump();
    for result in [
        herald::migrate::install(&mut database.connect().await, super::PATIENCE).await,
        herald::migrate::uninstall(&mut database.connect().await, super::PATIENCE).await,
    ] {
        let Err(MigrateError::Newer { installed, known }) = result else {
            panic!("{result:?}")
        };
        assert_eq!((installed, known), (SCHEMA_VERSION + 1, SCHEMA_VERSION));
    }
    assert_eq!(database.dump(), before);
}

#[tokio::test]
async fn an_older_schema_is_brought_up_to_date() {
    let database = Database::with_application().await;
    install(&database).await;
    let client = database.connect().await;
    // The state an older build would leave: fewer functions, and a lower version.
    client
        .batch_execute("drop function herald.epoch(); update herald.state set schema_version = 0")
        .await
        .unwrap();
    assert!(install(&database).await.changed());
    let row = client
        .query_one("select schema_version, herald.epoch() from herald.state", &[])
        .await
        .unwrap();
    assert_eq!(row.get::<_, i32>(0), SCHEMA_VERSION);
}

#[tokio::test]
async fn the_epoch_stays_until_the_log_is_another_one() {
    let database = Database::with_application().await;
    install(&database).await;
    let epoch = async |database: &Database| -> String {
        database
            .connect()
            .await
            .query_one("select herald.epoch()", &[])
            .await
            .unwrap()
            .get(0)
    };
    let first = epoch(&database).await;
    assert!(
        first.len() == 16 && first.chars().all(|digit| digit.is_ascii_hexdigit()),
        "{first}"
    );
    assert_eq!(epoch(&database).await, first);
    install(&database).await;
    assert_eq!(epoch(&database).await, first);

    let restored = Database::empty().await;
    restored.psql(&database.dump());
    let second = epoch(&restored).await;
    assert_ne!(second, first);

    // The sessions above have been dropped; the copy waits until the server has noticed.
    let third = epoch(&database.copy().await).await;
    assert!(third != first && third != second);

    uninstall(&database).await;
    install(&database).await;
    assert!(![first, second, third].contains(&epoch(&database).await));
}

#[tokio::test]
async fn a_log_that_came_with_a_dump_of_another_cluster_is_emptied() {
    let database = Database::with_application().await;
    install(&database).await;
    let client = database.connect().await;
    let epoch = async || -> String {
        client
            .query_one("select herald.epoch()", &[])
            .await
            .unwrap()
            .get(0)
    };
    let before = epoch().await;
    // A transaction number that this cluster has not reached, as a busier one would have left it.
    client
        .batch_execute(
            "insert into herald.log (life, xid, op, message_id, sender_id, receiver_id)
             select 1, '900000000000', 'i', gen_random_uuid(), gen_random_uuid(), gen_random_uuid();
             insert into herald.mark (life, snapshot) values (1, '900000000000:900000000000:');
             insert into herald.gateway values (gen_random_uuid(), '0.0-900000000000', now());
             insert into herald.channel (session, number, gateway, user_id, topic, device)
             values (gen_random_uuid(), 0, gen_random_uuid(), gen_random_uuid(), '', '');
             select setval('herald.life', 900000000000);
             update herald.state set pruned_before = '800000000000'",
        )
        .await
        .unwrap();
    assert!(install(&database).await.changed());
    assert_ne!(epoch().await, before);
    let row = client
        .query_one(
            "select (select count(*) from herald.log), (select count(*) from herald.mark), \
               (select count(*) from herald.gateway), (select count(*) from herald.channel), pruned_before::text \
             from herald.state",
            &[],
        )
        .await
        .unwrap();
    let counts: [i64; 4] = std::array::from_fn(|column| row.get(column));
    assert_eq!((counts, row.get::<_, &str>(4)), ([0; 4], "0"));
}

#[tokio::test]
async fn the_state_is_one_row_and_no_more() {
    let database = Database::with_application().await;
    install(&database).await;
    let client = database.connect().await;
    for second in ["default", "false"] {
        let statement = format!("insert into herald.state (singleton, schema_version) values ({second}, 1)");
        assert!(client.batch_execute(&statement).await.is_err());
    }
}

#[tokio::test]
async fn what_the_application_built_on_the_view_keeps_it_from_being_removed() {
    let database = Database::with_application().await;
    install(&database).await;
    let client = database.connect().await;
    client
        .batch_execute("create view public.inbox as select id from public.messages_realtime_view")
        .await
        .unwrap();
    let before = database.dump();
    let error = herald::migrate::uninstall(&mut database.connect().await, super::PATIENCE)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("view inbox depends on view messages_realtime_view") || error.contains("public.inbox"),
        "{error}"
    );
    assert_eq!(database.dump(), before);
}

#[tokio::test]
async fn what_somebody_built_on_the_log_is_not_dropped_without_a_word() {
    let database = Database::with_application().await;
    install(&database).await;
    let client = database.connect().await;
    client
        .batch_execute("create view public.log_size as select count(*) from herald.log")
        .await
        .unwrap();
    let error = herald::migrate::uninstall(&mut database.connect().await, super::PATIENCE)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("log_size"), "{error}");
    client.batch_execute("drop view public.log_size").await.unwrap();
    assert!(uninstall(&database).await.changed());
}

#[tokio::test]
async fn herald_can_be_removed_after_the_application_dropped_its_tables() {
    let database = Database::with_application().await;
    install(&database).await;
    let client = database.connect().await;
    client
        .batch_execute("drop table public.messages cascade")
        .await
        .unwrap();
    let before = database.dump();
    uninstall(&database).await;
    let after = database.dump();
    assert!(before.contains("herald") && !after.contains("herald"), "{after}");
}
