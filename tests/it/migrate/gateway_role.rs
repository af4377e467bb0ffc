//! The role that `herald migrate` makes for the gateway: what it may, what it may not, and how it goes away.

use herald::migrate::{self, GatewayRole, Outcome, Report};
use tokio_postgres::{Client, error::SqlState};

use super::{PATIENCE, install, send, uninstall};
use crate::support::database::{Database, people};

const README: &str = include_str!("../../../README.md");
/// The role as README calls it.
const DOCUMENTED: &str = "herald_gateway";

async fn make(database: &Database, name: &str, of_users: &str) -> Report {
    let role = GatewayRole {
        name: name.to_owned(),
        of_users: of_users.to_owned(),
    };
    migrate::install_gateway_role(&mut database.connect().await, &role, PATIENCE)
        .await
        .unwrap()
}

/// All that a role was given in its database, and what it belongs to, one thing a line.
async fn rights(client: &Client, role: &str) -> Vec<String> {
    let rows = client
        .query(
            "with given (object, acl) as (
               select 'schema ' || nspname, nspacl from pg_namespace
               union all select 'relation ' || oid::regclass, relacl from pg_class
               union all select 'column ' || attrelid::regclass || '.' || attname, attacl from pg_attribute
               union all select 'function ' || oid::regprocedure, proacl from pg_proc
               union all select 'database', datacl from pg_database where datname = current_database())
             select object || ' ' || privilege_type || case when is_grantable then ' to others' else '' end as line
               from given, aclexplode(acl) join pg_roles on pg_roles.oid = grantee where rolname = $1
             union all
             select 'policy ' || polrelid::regclass || ' ' || polcmd::text || ' ' || pg_get_expr(polqual, polrelid)
                      || ' ' || coalesce(pg_get_expr(polwithcheck, polrelid), '')
               from pg_policy join pg_roles on pg_roles.oid = any (polroles) where rolname = $1
             union all
             select 'member of ' || roleid::regrole || case when admin_option then ' with admin' else '' end
               from pg_auth_members join pg_roles on pg_roles.oid = member where rolname = $1
             union all
             select format('login %s, inherits %s, superuser %s, creates roles %s, databases %s, replicates %s, bypasses %s',
                      rolcanlogin, rolinherit, rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls)
               from pg_roles where rolname = $1
             union all
             select 'owns ' || classid::regclass || ' ' || objid
               from pg_shdepend join pg_roles on pg_roles.oid = refobjid where rolname = $1 and deptype = 'o'
             order by line",
            &[&role],
        )
        .await
        .unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn the_role_has_what_the_readme_grants_and_nothing_else() {
    let documented = README
        .split("```sql\n")
        .map(|rest| rest.split("```").next().unwrap())
        .find(|block| block.contains("create role"))
        .unwrap();
    let by_hand = Database::with_application().await;
    let role = by_hand.role("by_hand");
    install(&by_hand).await;
    let client = by_hand.connect().await;
    // The policy keeps its name, by which Herald knows it.
    let statements = documented
        .replace(DOCUMENTED, &role)
        .replace(&format!("policy {role}"), "policy herald_gateway");
    client.batch_execute(&statements).await.unwrap();
    // To whom all was granted by hand, nothing is left to grant.
    let report = make(&by_hand, &role, "authenticated").await;
    assert!(!report.changed(), "{report}");
    let documented = rights(&client, &role).await;

    let database = Database::with_application().await;
    let role = database.role("made");
    install(&database).await;
    // As in databases where nobody may anything by being there.
    let harden = "revoke all on schema public from public";
    database.connect().await.batch_execute(harden).await.unwrap();
    let report = make(&database, &role, "authenticated").await;
    assert!(
        report.to_string().contains(&format!("\\password {role}")),
        "{report}"
    );
    assert_eq!(rights(&database.connect().await, &role).await, documented);
    let report = make(&database, &role, "authenticated").await;
    assert!(!report.changed(), "{report}");
}

#[tokio::test]
async fn the_role_can_neither_write_a_message_nor_read_what_no_event_shows() {
    let database = Database::with_application().await;
    let client = database.connect().await;
    client
        .batch_execute("alter table profiles add password_hash text")
        .await
        .unwrap();
    let [alice, bob] = people(&client).await;
    install(&database).await;
    let role = database.role("gateway");
    make(&database, &role, "authenticated").await;
    let message = send(&client, alice, bob, "hello").await;

    let gateway = database.connect_as(&role).await;
    let row = gateway
        .query_one(
            "select content, sender_username is not null from messages_realtime_view where id = $1",
            &[&message],
        )
        .await
        .unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, bool>(1)), ("hello", true));
    for refused in [
        "select password_hash from profiles",
        "select * from products",
        "insert into messages (sender_id, receiver_id, content) select sender_id, receiver_id, 'x' from messages",
        "update messages set is_read = true",
        "delete from messages",
        "truncate herald.log",
        "insert into herald.log default values",
        "update herald.state set epoch = gen_random_uuid()",
        "drop function herald.epoch()",
        "alter table messages disable trigger all",
        "create table public.mine ()",
        "create table herald.mine ()",
        "select herald.install_gateway_role('x', 'y')",
        "set role postgres",
    ] {
        let error = gateway.batch_execute(refused).await.unwrap_err();
        assert!(
            matches!(
                error.code(),
                Some(&SqlState::INSUFFICIENT_PRIVILEGE | &SqlState::INVALID_PARAMETER_VALUE)
            ),
            "{refused}: {error:?}"
        );
    }
    // What users may, it may as a user only.
    gateway
        .batch_execute("set role authenticated; select * from messages; select * from products")
        .await
        .unwrap();
}

#[tokio::test]
async fn removing_herald_takes_everything_back_from_each_role_of_a_gateway() {
    let database = Database::with_application().await;
    let before = database.dump();
    install(&database).await;
    let client = database.connect().await;
    let roles = [
        database.role("one"),
        database.role("another"),
        database.role("alone"),
    ];
    for (role, of_users) in roles.iter().zip(["authenticated", "authenticated", ""]) {
        make(&database, role, of_users).await;
    }
    // The policy is one, and each has it still.
    for role in &roles {
        let rights = rights(&client, role).await;
        assert!(
            rights.iter().any(|right| right.starts_with("policy messages *")),
            "{rights:?}"
        );
    }
    let report = uninstall(&database).await.to_string();
    for role in &roles {
        assert!(report.contains(&format!("drop role {role}")), "{report}");
        client.batch_execute(&format!("drop role {role}")).await.unwrap();
    }
    assert_eq!(database.dump(), before);
}

#[tokio::test]
async fn a_role_that_can_too_much_is_pointed_out_and_a_missing_one_of_users_too() {
    let database = Database::with_application().await;
    install(&database).await;
    let client = database.connect().await;
    let [all_powerful, inheriting, plain] =
        ["all_powerful", "inheriting", "plain"].map(|name| database.role(name));
    client
        .batch_execute(&format!(
            "create role {all_powerful} superuser login; create role {inheriting} login inherit"
        ))
        .await
        .unwrap();
    for (role, of_users, words) in [
        (&all_powerful, "authenticated", "superuser"),
        (&inheriting, "authenticated", "noinherit"),
        (&plain, "nobody_of_that_name", "no such role"),
    ] {
        let report = make(&database, role, of_users).await;
        let warned = report
            .items()
            .iter()
            .filter(|item| item.outcome == Outcome::Warning)
            .count();
        assert_eq!(warned, 1, "{report}");
        assert!(report.to_string().contains(words), "{report}");
    }
    assert!(
        !rights(&client, &all_powerful)
            .await
            .iter()
            .any(|right| right.contains("herald"))
    );
}

#[tokio::test]
async fn row_level_security_that_comes_later_is_seen_to_by_the_next_migration() {
    let database = Database::with_application().await;
    install(&database).await;
    let client = database.connect().await;
    let [alice, bob] = people(&client).await;
    let role = database.role("gateway");
    make(&database, &role, "authenticated").await;
    send(&client, alice, bob, "hello").await;
    client
        .batch_execute("alter table profiles enable row level security")
        .await
        .unwrap();
    let gateway = database.connect_as(&role).await;
    let names = async || -> Vec<Option<String>> {
        let rows = gateway
            .query("select sender_username from messages_realtime_view", &[])
            .await
            .unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    };
    assert_eq!(names().await, [None]);
    let report = make(&database, &role, "authenticated").await.to_string();
    assert!(
        report.contains("policy herald_gateway on public.profiles"),
        "{report}"
    );
    assert!(names().await[0].is_some());
}
