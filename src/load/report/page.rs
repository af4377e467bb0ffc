//! Outcomes as a page of its own, with plots, that asks nothing of any server.

use std::fmt::Write;

use super::{
    super::{Outcome, Sample},
    plot::{Along, Curve, plot},
    text,
};

/// Colours that the page has.
const COLOURS: usize = 3;

/// A curve of one outcome: its name, and its points.
type Named = (&'static str, Vec<(f64, f64)>);

/// The page. `plan` tells in words what was done, and `machine` where.
pub fn page(plan: &str, machine: &str, outcomes: &[Outcome]) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><title>Load</title><style>{}</style></head>\
         <body><h1>Load</h1><p>{}</p><p>{}</p><pre>{}</pre>",
        include_str!("page.css"),
        escaped(plan),
        escaped(machine),
        escaped(&text(outcomes))
    );
    for picture in pictures(outcomes) {
        page.push_str(&picture);
    }
    page.push_str("</body></html>\n");
    page
}

fn pictures(outcomes: &[Outcome]) -> Vec<String> {
    let latencies = curves(outcomes, |outcome| {
        vec![
            ("from when it was due", outcome.delivery.from_due.curve.clone()),
            ("from its commit", outcome.delivery.from_commit.curve.clone()),
        ]
    });
    let mut pictures = vec![plot(
        "Time until delivered, by share of deliveries",
        "ms",
        &Along::Percentiles,
        &latencies,
    )];
    let mut over_time = |title: &str, unit: &str, of: fn(&Outcome) -> Vec<Named>| {
        let curves = curves(outcomes, of);
        if curves.iter().any(|curve| !curve.points.is_empty()) {
            pictures.push(plot(title, unit, &Along::Seconds, &curves));
        }
    };
    over_time("Time until delivered", "ms", |outcome| {
        vec![
            (
                "median",
                points(outcome, |sample| (sample.delivered > 0).then_some(sample.p50)),
            ),
            (
                "99 of 100 below",
                points(outcome, |sample| (sample.delivered > 0).then_some(sample.p99)),
            ),
        ]
    });
    over_time("Throughput", "a second", |outcome| {
        vec![
            ("deliveries", by_second(outcome, |sample| sample.delivered)),
            ("messages", by_second(outcome, |sample| sample.written)),
        ]
    });
    over_time("Processor", "% of one", |outcome| {
        vec![("processor", points(outcome, |sample| sample.processor_percent))]
    });
    over_time("Memory", "MiB", |outcome| {
        vec![("memory", points(outcome, |sample| sample.resident_mib))]
    });
    pictures
}

/// The curves of all outcomes: each outcome has a colour, and its second curve is dashed.
fn curves(outcomes: &[Outcome], of: fn(&Outcome) -> Vec<Named>) -> Vec<Curve> {
    let mut curves = Vec::new();
    for (number, outcome) in outcomes.iter().enumerate() {
        for (place, (name, points)) in of(outcome).into_iter().enumerate() {
            curves.push(Curve {
                name: format!("{}, {name}", outcome.target),
                colour: number % COLOURS,
                is_dashed: place > 0,
                points,
            });
        }
    }
    curves
}

fn points(outcome: &Outcome, of: impl Fn(&Sample) -> Option<f64>) -> Vec<(f64, f64)> {
    let samples = outcome.samples.iter();
    samples
        .filter_map(|sample| Some((sample.at, of(sample)?)))
        .collect()
}

/// Counts of samples as a rate: the last sample is mostly longer than a second.
#[allow(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn by_second(outcome: &Outcome, of: impl Fn(&Sample) -> u64) -> Vec<(f64, f64)> {
    let mut before = 0.0;
    let rate = |sample: &Sample| {
        let took = sample.at - std::mem::replace(&mut before, sample.at);
        (sample.at, of(sample) as f64 / took.max(0.001))
    };
    outcome.samples.iter().map(rate).collect()
}

/// Text that is nothing but text in HTML.
pub(super) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            // Writing to a string does not fail.
            _ => drop(write!(escaped, "{letter}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::{super::tests::outcome, *};

    #[test]
    fn the_page_has_five_plots_and_nothing_of_others_in_its_markup() {
        let page = page(
            "10 <people>",
            "2 cores & more",
            &[outcome("herald"), outcome("<script>")],
        );
        assert_eq!(page.matches("<svg").count(), 5);
        assert!(page.contains("10 &lt;people&gt;") && page.contains("2 cores &amp; more"));
        assert!(page.contains("&lt;script&gt;, memory") && !page.contains("<script>"));
        assert!(!page.contains("http"), "it asks nothing of any server");
        let unknown = Outcome {
            samples: Vec::new(),
            ..outcome("herald")
        };
        assert!(super::page("", "", &[unknown]).contains("<svg"));
    }
}
