//! Outcomes side by side, as a table for people.

use std::fmt::Write;

use super::super::{Outcome, Percentiles, ProcessCost};

/// One line of the table: what it tells, and of each outcome how it is.
struct Line(&'static str, Box<dyn Fn(&Outcome) -> String>);

/// The table.
pub fn text(outcomes: &[Outcome]) -> String {
    let mut table = String::new();
    let columns: Vec<usize> = outcomes
        .iter()
        .map(|outcome| outcome.target.len().max(12))
        .collect();
    let mut row = |name: &str, cells: Vec<String>| {
        // Writing to a string does not fail.
        let _written = write!(table, "{name:<44}");
        for (cell, width) in cells.iter().zip(&columns) {
            let _written = write!(table, "  {cell:>width$}");
        }
        table.push('\n');
    };
    row(
        "",
        outcomes.iter().map(|outcome| outcome.target.clone()).collect(),
    );
    for Line(name, cell) in lines() {
        row(name, outcomes.iter().map(&cell).collect());
    }
    for outcome in outcomes {
        let target = &outcome.target;
        if outcome.is_cut_short {
            let _written = writeln!(table, "{target}: ended before its time");
        }
        if let Some(failure) = &outcome.writing.first_failure {
            let _written = writeln!(table, "{target}: the first message that failed: {failure}");
        }
        for (why, count) in &outcome.opening.ended {
            let _written = writeln!(table, "{target}: {count} sessions ended: {why}");
        }
    }
    table
}

fn lines() -> Vec<Line> {
    let line = |name, cell: fn(&Outcome) -> String| Line(name, Box::new(cell));
    let mut lines = vec![
        line("sessions", |outcome| outcome.opening.sessions.to_string()),
        line("opened a second", |outcome| {
            format!("{:.0}", outcome.opening.per_second)
        }),
        line("messages written", |outcome| outcome.writing.messages.to_string()),
        line("written a second", |outcome| {
            format!("{:.0}", outcome.writing.per_second)
        }),
        line("failed", |outcome| outcome.writing.failed.to_string()),
        line("deliveries", |outcome| outcome.delivery.delivered.to_string()),
        line("lost", |outcome| outcome.delivery.lost.to_string()),
        line("twice", |outcome| outcome.delivery.duplicates.to_string()),
        line("at the wrong person", |outcome| {
            outcome.delivery.foreign.to_string()
        }),
        line("last commit to last delivery, ms", |outcome| {
            format!("{:.1}", outcome.delivery.lag)
        }),
    ];
    lines.extend(times(
        [
            "due to delivered, ms, median",
            "  90 of 100 below",
            "  99 of 100 below",
            "  999 of 1,000 below",
            "  longest",
        ],
        |outcome| &outcome.delivery.from_due,
    ));
    lines.extend(times(
        [
            "commit confirmed to delivered, ms, median",
            "  90 of 100 below",
            "  99 of 100 below",
            "  999 of 1,000 below",
            "  longest",
        ],
        |outcome| &outcome.delivery.from_commit,
    ));
    let cost = |name, cell: fn(&ProcessCost) -> String| {
        Line(
            name,
            Box::new(move |outcome| {
                outcome
                    .process
                    .as_ref()
                    .map_or_else(|| "not known".to_owned(), cell)
            }),
        )
    };
    lines.extend([
        cost("processor time a delivery, µs", |cost| {
            format!("{:.2}", cost.microseconds_per_delivery)
        }),
        cost("share of one processor, %", |cost| {
            format!("{:.0}", cost.processor_percent)
        }),
        cost("memory before the first session, MiB", |cost| {
            format!("{:.1}", cost.empty_mib)
        }),
        cost("memory an idle session, KiB", |cost| {
            format!("{:.1}", cost.kib_per_session)
        }),
        cost("most memory, MiB", |cost| format!("{:.1}", cost.peak_mib)),
    ]);
    lines
}

fn times(names: [&'static str; 5], of: fn(&Outcome) -> &Percentiles) -> Vec<Line> {
    let percentile: [fn(&Percentiles) -> f64; 5] = [
        |times| times.p50,
        |times| times.p90,
        |times| times.p99,
        |times| times.p999,
        |times| times.max,
    ];
    names
        .into_iter()
        .zip(percentile)
        .map(|(name, percentile)| {
            Line(
                name,
                Box::new(move |outcome| format!("{:.2}", percentile(of(outcome)))),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{super::tests::outcome, *};

    #[test]
    fn each_target_has_a_column_and_troubles_are_told() {
        let mut other = outcome("node");
        other.delivery.lost = 7;
        other.process = None;
        other.opening.ended.insert("closed with 1006".to_owned(), 3);
        other.writing.first_failure = Some("no room".to_owned());
        let table = text(&[outcome("herald"), other]);
        let line = |name: &str| {
            table
                .lines()
                .find(|line| line.starts_with(name))
                .unwrap()
                .split_whitespace()
                .last()
                .unwrap()
                .to_owned()
        };
        assert_eq!(line("lost"), "7");
        assert_eq!(line("processor time"), "known");
        assert!(
            table.contains("node: 3 sessions ended: closed with 1006"),
            "{table}"
        );
        assert!(
            table.contains("node: the first message that failed: no room"),
            "{table}"
        );
        assert!(table.lines().next().unwrap().contains("herald"), "{table}");
    }
}
