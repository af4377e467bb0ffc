//! The documents name what is there: every setting, every metric, every close code.

use clap::CommandFactory;
use herald::{cli::Cli, metrics::Metrics, protocol::close::CloseCode};

const README: &str = include_str!("../../README.md");
const PROTOCOL: &str = include_str!("../../PROTOCOL.md");

#[test]
fn the_readme_names_every_command_and_every_setting_with_its_default() {
    let herald = Cli::command();
    for command in herald.get_subcommands().filter(|command| !command.is_hide_set()) {
        let name = command.get_name();
        assert!(
            README.contains(&format!("`herald {name}")),
            "`herald {name}` is missing"
        );
        for flag in command.get_arguments() {
            let Some(variable) = flag.get_env() else { continue };
            let variable = variable.to_str().unwrap();
            let row = README
                .lines()
                .find(|line| line.starts_with(&format!("| `{variable}`")))
                .unwrap_or_else(|| panic!("{variable} of `herald {name}` is missing"));
            for default in flag.get_default_values() {
                let default = default.to_str().unwrap();
                assert!(
                    row.contains(&format!("| `{default}` |")),
                    "{variable} has the default {default}: {row}"
                );
            }
        }
    }
}

#[test]
fn the_readme_names_every_metric_and_no_other() {
    let metrics = Metrics::new();
    // A family is on the page once it has a value.
    metrics.refuse("origin");
    drop(metrics.count_session("native"));
    let page = metrics.render().unwrap();
    let mut known = vec![
        "herald_sessions_closed".to_owned(),
        "herald_handshakes_given_up".to_owned(),
        "herald_resident_memory_bytes".to_owned(),
        "herald_memory_limit_bytes".to_owned(),
        "herald_events_read".to_owned(),
        "herald_replays".to_owned(),
        "herald_auth_failures".to_owned(),
        "herald_requests".to_owned(),
        "herald_topic_refusals".to_owned(),
        "herald_tls_handshakes".to_owned(),
        "herald_tls_handshake_failures".to_owned(),
        "herald_tls_certificate_expiry_timestamp_seconds".to_owned(),
        "herald_tls_reloads".to_owned(),
        "herald_task_panics".to_owned(),
    ];
    known.extend(page.lines().filter_map(|line| {
        let family = line.strip_prefix("# TYPE ")?.split(' ').next()?;
        Some(family.to_owned())
    }));
    for family in &known {
        let named = README
            .lines()
            .any(|line| line.strip_prefix("| `").is_some_and(|row| names(row, family)));
        assert!(named, "{family} is missing");
    }
    for row in README.lines().filter_map(|line| line.strip_prefix("| `herald_")) {
        let row = format!("herald_{row}");
        assert!(
            known.iter().any(|family| names(&row, family)),
            "there is no such metric: {row}"
        );
    }
}

/// Whether a table's row begins with this metric, with the suffix of a counter and labels or without.
fn names(row: &str, family: &str) -> bool {
    row.strip_prefix(family)
        .map(|rest| rest.strip_prefix("_total").unwrap_or(rest))
        .is_some_and(|rest| rest.starts_with(['{', '`']))
}

#[test]
fn the_protocol_names_every_close_code_and_whether_to_come_back() {
    for code in CloseCode::ALL {
        let row = PROTOCOL
            .lines()
            .find(|line| line.starts_with(&format!("| {} |", code.number())))
            .unwrap_or_else(|| panic!("{code:?} is missing"));
        assert_eq!(row.contains("| yes, "), code.comes_back(), "{row}");
        assert_eq!(row.ends_with("| no |"), !code.comes_back(), "{row}");
    }
}
