//! From schema version 1, which had two indexes of other columns and no functions, and from version 2, which parked no
//! channels, to this one.

use std::time::Duration;

use herald::migrate::{self, MigrateError, Outcome, SCHEMA_VERSION, script, uninstall_script};
use tokio_postgres::Client;

use super::{install, is_valid, uninstall};
use crate::support::database::Database;

/// The indexes as version 1 built them, and the plan before it.
const OLD_INDEXES: [(&str, &str); 2] = [
    (
        "idx_messages_conversation_lookup",
        "(sender_id, receiver_id, product_id, created_at desc)",
    ),
    (
        "idx_messages_user_product_time",
        "(receiver_id, product_id, created_at desc)",
    ),
];

/// What the functions of version 1 were called by, where this version has them with other names of columns.
const OLD_FUNCTIONS: &str = "
    drop function herald.indexes(), herald.index_serves, herald.own_indexes, herald.index_removal, herald.public_functions,
      herald.outdated_index_statements, herald.install_functions, herald.remove_functions, herald.previews_query,
      herald.check_times, herald.plain_index_statements, herald.partition_index_statements;
    create function herald.indexes() returns table (name name, key_columns text) language sql as
      $$ values ('idx_messages_conversation_lookup'::name, ''::text) $$;
    create function herald.plain_index_statements(relation regclass, index_name text, key_columns text)
      returns table (statement text, brief boolean) language sql as $$ select '', false $$;
    create function herald.partition_index_statements(parent regclass, parent_index text, name name, key_columns text)
      returns table (statement text, brief boolean) language sql as $$ select '', false $$;
    drop function public.get_user_conversation_previews, public.mark_messages_as_read;
    delete from herald.installed where kind = 'function' or name = 'public.idx_messages_unread';
    alter table herald.installed drop constraint installed_kind_check;
    alter table herald.installed add constraint installed_kind_check check (kind in ('view', 'index'));
    drop table herald.channel, herald.gateway;
    update herald.state set schema_version = 1";

/// Turns an installation into one of version 2. The body of the one function that differs is replaced by the upgrade.
const BEFORE_PARKING: &str = "
    drop table herald.channel, herald.gateway;
    create or replace function herald.forget_foreign_log() returns table (outcome text, subject text, note text)
      language plpgsql as $$ begin end $$;
    update herald.state set schema_version = 2";

/// Turns an installation into one of version 1. Its indexes are left to [`old_indexes`].
async fn turn_back(client: &Client) {
    client
        .batch_execute(
            "drop index idx_messages_conversation_lookup, idx_messages_user_product_time, idx_messages_unread",
        )
        .await
        .unwrap();
    client.batch_execute(OLD_FUNCTIONS).await.unwrap();
}

async fn old_indexes(client: &Client) {
    for (name, columns) in OLD_INDEXES {
        client
            .batch_execute(&format!("create index {name} on public.messages {columns}"))
            .await
            .unwrap();
    }
}

/// The definitions of the indexes on `messages` that Herald has to do with, without what is the same for all.
async fn definitions(client: &Client) -> Vec<String> {
    let rows = client
        .query(
            "select regexp_replace(pg_get_indexdef(indexrelid), '^.* USING btree ', '') from pg_index
              where indrelid = 'public.messages'::regclass and indisvalid
                and indexrelid::regclass::text like 'idx_messages%'
              order by indexrelid::regclass::text",
            &[],
        )
        .await
        .unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

const NEW_DEFINITIONS: [&str; 3] = [
    "(sender_id, receiver_id, product_id, created_at DESC, id DESC)",
    "(receiver_id, sender_id, product_id) WHERE (NOT is_read)",
    "(receiver_id, sender_id, product_id, created_at DESC, id DESC)",
];

#[tokio::test]
async fn the_indexes_of_version_1_are_replaced_and_the_functions_are_made() {
    let database = Database::with_application().await;
    let before = database.dump();
    install(&database).await;
    let fresh = database.dump_with(&["--schema-only"]);
    let client = database.connect().await;
    turn_back(&client).await;
    old_indexes(&client).await;

    let report = install(&database).await;
    let removed: Vec<&str> = report
        .items()
        .iter()
        .filter(|item| item.outcome == Outcome::Removed)
        .map(|item| item.subject.as_str())
        .collect();
    assert_eq!(
        removed,
        [
            "drop index concurrently public.idx_messages_conversation_lookup",
            "drop index concurrently public.idx_messages_user_product_time",
        ]
    );
    assert_eq!(definitions(&client).await, NEW_DEFINITIONS);
    assert_eq!(database.dump_with(&["--schema-only"]), fresh);
    assert!(!install(&database).await.changed());
    uninstall(&database).await;
    assert_eq!(database.dump(), before);
}

#[tokio::test]
async fn the_printed_script_brings_version_1_to_the_same() {
    let database = Database::with_application().await;
    install(&database).await;
    let fresh = database.dump_with(&["--schema-only"]);
    let client = database.connect().await;
    turn_back(&client).await;
    old_indexes(&client).await;
    database.psql(&script());
    assert_eq!(database.dump_with(&["--schema-only"]), fresh);
}

#[tokio::test]
async fn version_1_can_be_removed_without_being_upgraded_first() {
    let database = Database::with_application().await;
    let before = database.dump();
    for printed in [false, true] {
        install(&database).await;
        let client = database.connect().await;
        turn_back(&client).await;
        old_indexes(&client).await;
        if printed {
            database.psql(&uninstall_script());
        } else {
            uninstall(&database).await;
        }
        assert_eq!(database.dump(), before, "printed: {printed}");
    }
}

#[tokio::test]
async fn an_upgrade_that_is_interrupted_between_the_indexes_is_finished_by_the_next_run() {
    let database = Database::with_application().await;
    install(&database).await;
    let client = database.connect().await;
    turn_back(&client).await;
    old_indexes(&client).await;

    // It has a snapshot and has read another table, so that it is in the way of concurrent work on indexes alone.
    let sleeper = database.connect().await;
    sleeper
        .batch_execute("begin isolation level repeatable read; select * from profiles")
        .await
        .unwrap();
    let result = migrate::install(&mut database.connect().await, Duration::from_millis(500)).await;
    assert!(
        matches!(result, Err(MigrateError::IndexLocked { .. })),
        "{result:?}"
    );
    // The functions are there, and the indexes are somewhere on the way.
    let version: i32 = client
        .query_one("select schema_version from herald.state", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(version, SCHEMA_VERSION);
    assert_ne!(definitions(&client).await, NEW_DEFINITIONS);
    sleeper.batch_execute("rollback").await.unwrap();

    install(&database).await;
    assert_eq!(definitions(&client).await, NEW_DEFINITIONS);
    assert!(!install(&database).await.changed());
}

#[tokio::test]
async fn on_a_partitioned_table_whole_trees_of_old_indexes_are_replaced() {
    let database = Database::with_application().await;
    let client = database.connect().await;
    super::cousins::partition(&client).await;
    let before = database.dump();
    install(&database).await;
    let fresh = database.dump_with(&["--schema-only"]);
    turn_back(&client).await;
    old_indexes(&client).await;
    // As an interrupted run of version 1 leaves it: built, and not yet attached.
    let (name, columns) = OLD_INDEXES[1];
    client
        .batch_execute(&format!(
            "drop index {name};
             create index {name} on only public.messages {columns};
             do $$ begin execute format('create index {name}_%s on messages_old {columns}', 'messages_old'::regclass::oid); end $$;
             do $$ begin execute format('create index {name}_%s on only messages_january {columns}', 'messages_january'::regclass::oid); end $$"
        ))
        .await
        .unwrap();

    install(&database).await;
    assert_eq!(definitions(&client).await, NEW_DEFINITIONS);
    for index in ["conversation_lookup", "user_product_time", "unread"] {
        assert!(
            is_valid(&client, &format!("public.idx_messages_{index}")).await,
            "{index}"
        );
    }
    assert_eq!(database.dump_with(&["--schema-only"]), fresh);
    assert!(!install(&database).await.changed());
    uninstall(&database).await;
    assert_eq!(database.dump(), before);
}

#[tokio::test]
async fn an_index_that_version_1_found_stays_and_is_now_warned_of() {
    let database = Database::with_application().await;
    install(&database).await;
    let client = database.connect().await;
    turn_back(&client).await;
    old_indexes(&client).await;
    client
        .batch_execute(
            "update herald.installed set origin = 'found' where name = 'public.idx_messages_conversation_lookup'",
        )
        .await
        .unwrap();
    let report = install(&database).await;
    let warnings: Vec<String> = report
        .items()
        .iter()
        .filter(|item| item.outcome == Outcome::Warning)
        .map(ToString::to_string)
        .collect();
    assert!(
        warnings.len() == 1
            && warnings[0].contains("drop index concurrently public.idx_messages_conversation_lookup"),
        "{report}"
    );
    assert_eq!(
        definitions(&client).await[0],
        "(sender_id, receiver_id, product_id, created_at DESC)"
    );
}

#[tokio::test]
async fn version_2_gets_the_tables_for_parked_channels() {
    for printed in [false, true] {
        let database = Database::with_application().await;
        install(&database).await;
        let fresh = database.dump_with(&["--schema-only"]);
        let client = database.connect().await;
        client.batch_execute(BEFORE_PARKING).await.unwrap();
        if printed {
            database.psql(&script());
        } else {
            assert!(install(&database).await.changed());
        }
        assert_eq!(
            database.dump_with(&["--schema-only"]),
            fresh,
            "printed: {printed}"
        );
        assert!(!install(&database).await.changed());
    }
}

#[tokio::test]
async fn version_2_can_be_removed_without_being_upgraded_first() {
    let database = Database::with_application().await;
    let before = database.dump();
    for printed in [false, true] {
        install(&database).await;
        let client = database.connect().await;
        client.batch_execute(BEFORE_PARKING).await.unwrap();
        if printed {
            database.psql(&uninstall_script());
        } else {
            uninstall(&database).await;
        }
        assert_eq!(database.dump(), before, "printed: {printed}");
    }
}

#[tokio::test]
async fn nobody_but_the_owner_has_rights_on_the_tables_for_parked_channels() {
    let database = Database::with_application().await;
    install(&database).await;
    let client = database.connect().await;
    for table in ["herald.gateway", "herald.channel"] {
        for right in ["select", "insert", "update", "delete", "truncate"] {
            let may = "select has_table_privilege('authenticated', $1, $2)";
            let may: bool = client.query_one(may, &[&table, &right]).await.unwrap().get(0);
            assert!(!may, "{right} on {table}");
        }
    }
}
