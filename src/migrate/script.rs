//! The SQL, in the order in which it runs: for [`super::install`] piece by piece, for `--print` as one script.
//!
//! Both use the same texts from `sql/`, so that what is printed is what is run.

use std::fmt::Write as _;

use super::{GatewayRole, SCHEMA_VERSION};

/// Raises error `HR001` with all that keeps Herald from being installed.
pub(super) const CHECK: &str = include_str!("../../sql/check.sql");
/// Takes the lock that creating triggers needs.
pub(super) const LOCK: &str = include_str!("../../sql/lock.sql");
/// Takes the lock that dropping triggers needs.
pub(super) const UNLINK: &str = include_str!("../../sql/unlink.sql");

/// What brings the tables from each version to the next; the first element makes version 1 out of nothing.
pub(super) const TABLES: [&str; 3] = [
    include_str!("../../sql/schema.sql"),
    include_str!("../../sql/schema_2.sql"),
    include_str!("../../sql/schema_3.sql"),
];

/// The query of `sql/previews.sql` as a text in the database, for the body of the public function.
const PREVIEWS_QUERY: &str = concat!(
    "-- The conversations of one person; the gateway runs the same text.\n",
    "create or replace function herald.previews_query() returns text\n",
    "language sql immutable\n",
    "set search_path = pg_catalog, pg_temp\n",
    "as $herald$\nselect $query$\n",
    include_str!("../../sql/previews.sql"),
    "$query$::text\n$herald$;\n",
);

/// Takes from everybody what functions are open to everybody with.
pub(super) const PRIVATE: &str = include_str!("../../sql/private.sql");

/// What makes the role of the gateway. It is also run by itself: where a version was installed before a role was asked for.
pub(super) const GATEWAY_ROLE: &str = include_str!("../../sql/gateway_role.sql");

/// The functions, which are replaced as a whole with every version.
pub(super) const FUNCTIONS: [&str; 12] = [
    include_str!("../../sql/life.sql"),
    include_str!("../../sql/epoch.sql"),
    include_str!("../../sql/doorbell.sql"),
    include_str!("../../sql/triggers.sql"),
    include_str!("../../sql/view.sql"),
    PREVIEWS_QUERY,
    include_str!("../../sql/functions.sql"),
    include_str!("../../sql/send.sql"),
    include_str!("../../sql/indexes.sql"),
    GATEWAY_ROLE,
    include_str!("../../sql/uninstall.sql"),
    PRIVATE,
];

/// What is called, after tables and functions are there, before the lock on `messages` is asked for. Each answers
/// with rows for the report.
pub(super) const BEFORE_LOCK: [&str; 6] = [
    "herald.forget_foreign_log()",
    "herald.check_row_security()",
    "herald.check_times()",
    "herald.install_view()",
    "herald.install_functions()",
    "herald.install_indexes()",
];

/// What is called under the lock.
pub(super) const UNDER_LOCK: [&str; 1] = ["herald.install_triggers()"];

/// Lets functions be made in a database from which the application's tables are gone.
pub(super) const UNCHECKED_SETTINGS: &str = "set local check_function_bodies = off;\n";

/// What is called under the lock that [`UNLINK`] takes.
pub(super) const UNLINKED: [&str; 4] = [
    "herald.remove_gateway_roles()",
    "herald.remove_triggers()",
    "herald.remove_functions()",
    "herald.remove_view()",
];

/// Names the statements that remove what an older version made of the indexes; to be run before [`INDEX_STATEMENTS`] is
/// asked.
pub(super) const OUTDATED_INDEX_STATEMENTS: &str = "herald.outdated_index_statements()";
/// Names the statements that are still needed for the indexes.
pub(super) const INDEX_STATEMENTS: &str = "herald.index_statements()";
/// Names the statements that are still needed to be rid of the indexes.
pub(super) const INDEX_REMOVAL_STATEMENTS: &str = "herald.index_removal_statements()";

/// Settings of every transaction: names are looked up nowhere but where they are said to be, and a lock is waited for
/// no longer than writers can be made to wait behind it.
pub(super) const TRANSACTION_SETTINGS: &str = "\
set local search_path = pg_catalog, pg_temp;
set local client_min_messages = warning;
set local lock_timeout = '250ms';
set local statement_timeout = 0;
";

/// Bounds the lock on `messages` together with its partitions, each of which may be waited for by itself.
pub(super) const LOCK_SETTINGS: &str = "set local statement_timeout = '500ms';\n";
/// Ends [`LOCK_SETTINGS`].
pub(super) const LOCKED_SETTINGS: &str = "set local statement_timeout = 0;\n";

/// Removes the schema. The tables go first and without CASCADE, so that a view somebody built on them is not lost
/// without a word; only Herald's own functions are left to cascade to. An installation that was never upgraded lacks the
/// tables of later versions.
pub(super) const DROP_SCHEMA: &str = "\
drop table if exists herald.channel, herald.gateway;
drop table herald.log, herald.mark, herald.state, herald.installed;
drop schema herald cascade;
";

/// Notes which version the tables and functions now have.
pub(super) fn note_version() -> String {
    format!(
        "update herald.state set schema_version = {SCHEMA_VERSION} where schema_version <> {SCHEMA_VERSION};\n"
    )
}

/// The SQL that [`super::install`] runs on a database that has no Herald yet, as a script for `psql`.
///
/// It is safe to repeat. It does not try again when a lock is not to be had within its bound: it stops there, having
/// changed nothing, and can be run again.
pub fn script() -> String {
    let mut script = header("Installs what Herald needs", "herald migrate");
    script += "begin;\n";
    script += TRANSACTION_SETTINGS;
    for text in [CHECK].into_iter().chain(TABLES).chain(FUNCTIONS) {
        section(&mut script, text);
    }
    section(&mut script, &note_version());
    calls(&mut script, &BEFORE_LOCK);
    section(&mut script, LOCK_SETTINGS);
    script += LOCK;
    script += LOCKED_SETTINGS;
    calls(&mut script, &UNDER_LOCK);
    script += "commit;\n";
    each_statement(&mut script, OUTDATED_INDEX_STATEMENTS);
    each_statement(&mut script, INDEX_STATEMENTS);
    script
}

/// What [`super::install_gateway_role`] runs after that, as a further script for `psql`.
pub fn gateway_role_script(role: &GatewayRole) -> String {
    let mut script = "\n-- The role of the gateway.\nbegin;\n".to_owned();
    script += TRANSACTION_SETTINGS;
    let (name, of_users) = (literal(&role.name), literal(&role.of_users));
    calls(
        &mut script,
        &[&format!("herald.install_gateway_role({name}, {of_users})")],
    );
    script += "commit;\n";
    script
}

/// A text as SQL writes it (`standard_conforming_strings` is on by default).
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// The SQL that [`super::uninstall`] runs, as a script for `psql`.
pub fn uninstall_script() -> String {
    let mut script = header(
        "Removes Herald and leaves the application as it was",
        "herald migrate uninstall",
    );
    script += "begin;\n";
    script += TRANSACTION_SETTINGS;
    script += UNCHECKED_SETTINGS;
    for text in FUNCTIONS {
        section(&mut script, text);
    }
    section(&mut script, LOCK_SETTINGS);
    script += UNLINK;
    script += LOCKED_SETTINGS;
    calls(&mut script, &UNLINKED);
    script += "commit;\n";
    each_statement(&mut script, INDEX_REMOVAL_STATEMENTS);
    script += "begin;\n";
    script += TRANSACTION_SETTINGS;
    script += DROP_SCHEMA;
    script += "commit;\n";
    script
}

fn header(purpose: &str, command: &str) -> String {
    format!(
        "-- {purpose}: what `{command}` of herald {version} (schema version {SCHEMA_VERSION}) runs.\n\
         -- For psql, on a direct connection to the primary.\n\
         \\set ON_ERROR_STOP on\n\n",
        version = env!("CARGO_PKG_VERSION"),
    )
}

fn section(script: &mut String, text: &str) {
    script.push('\n');
    script.push_str(text);
}

fn calls(script: &mut String, functions: &[&str]) {
    script.push('\n');
    for function in functions {
        // Writing to a string cannot fail.
        let _written = writeln!(script, "select * from {function};");
    }
}

fn each_statement(script: &mut String, function: &str) {
    let _written = write!(
        script,
        "\n-- Each statement by itself: concurrent work on indexes cannot be part of a transaction.\n\
         select statement from {function} \\gexec\n\n"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_have_one_step_for_every_schema_version() {
        assert_eq!(TABLES.len(), usize::try_from(SCHEMA_VERSION).unwrap());
    }

    #[test]
    fn a_role_is_made_by_the_script_whatever_its_name() {
        let role = GatewayRole {
            name: "o'gateway".to_owned(),
            of_users: "authenticated".to_owned(),
        };
        let script = gateway_role_script(&role);
        assert!(script.contains("herald.install_gateway_role('o''gateway', 'authenticated');"));
    }

    #[test]
    fn every_text_ends_its_last_line() {
        for text in [CHECK, LOCK, UNLINK].into_iter().chain(TABLES).chain(FUNCTIONS) {
            assert!(text.ends_with(";\n") || text.ends_with("$herald$;\n"), "{text}");
        }
    }
}
