//! The command `herald migrate` as a process.

use std::process::{Command, Output};

use crate::support::database::Database;

fn herald(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_herald"))
        .args(arguments)
        .env_remove("DATABASE_URL")
        .env_remove("HERALD_FEED_DATABASE_URL")
        .envs(variables.iter().copied())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn the_command_installs_repeats_and_removes() {
    let database = Database::with_application().await;
    let url = database.url();
    let before = database.dump();
    // The direct connection is preferred; the pooler's would lead nowhere.
    let variables = [
        ("HERALD_FEED_DATABASE_URL", url.as_str()),
        ("DATABASE_URL", "postgres://nobody@127.0.0.1:1/none"),
    ];

    let first = herald(&["migrate"], &variables);
    assert!(first.status.success(), "{}", text(&first.stderr));
    assert!(text(&first.stdout).contains("trigger herald_insert on public.messages"));
    let second = herald(&["migrate"], &variables);
    assert_eq!(
        text(&second.stdout),
        "Nothing to do: Herald's schema version 3 is installed.\n"
    );
    let removed = herald(&["migrate", "uninstall", "--feed-database-url", &url], &[]);
    assert!(removed.status.success(), "{}", text(&removed.stderr));
    assert!(text(&removed.stdout).ends_with("Herald is removed.\n"));
    assert_eq!(database.dump(), before);
    let again = herald(&["migrate", "uninstall"], &variables);
    assert_eq!(again.status.code(), Some(1));
}

#[test]
fn settings_that_cannot_be_used_end_with_64_and_no_password_is_shown() {
    let none = herald(&["migrate"], &[]);
    assert_eq!(none.status.code(), Some(64));
    assert!(text(&none.stderr).contains("DATABASE_URL"));
    for wrong in ["postgres://a:secret@host:port/x", "secret"] {
        let output = herald(&["migrate"], &[("DATABASE_URL", wrong)]);
        assert_eq!(output.status.code(), Some(64), "{}", text(&output.stderr));
        assert!(
            !text(&output.stderr).contains("secret"),
            "{}",
            text(&output.stderr)
        );
    }
    assert_eq!(
        herald(&["migrate", "--patience", "soon"], &[]).status.code(),
        Some(64)
    );
    let help = herald(
        &["migrate", "--help"],
        &[("DATABASE_URL", "postgres://a:secret@b/c")],
    );
    assert!(help.status.success() && !text(&help.stdout).contains("secret"));
}

#[test]
fn a_database_that_cannot_be_reached_ends_with_1() {
    let output = herald(
        &["migrate", "--database-url", "postgres://nobody@127.0.0.1:1/none"],
        &[],
    );
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("127.0.0.1:1"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn printing_needs_no_database() {
    let output = herald(&["migrate", "--print"], &[]);
    assert!(output.status.success());
    assert!(text(&output.stdout) == herald::migrate::script());
    let output = herald(&["migrate", "uninstall", "--print"], &[]);
    assert!(text(&output.stdout) == herald::migrate::uninstall_script());
}
