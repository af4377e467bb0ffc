//! What is told of outcomes: as a table on a terminal, and as a page with plots. As JSON they tell themselves.

mod page;
mod plot;
mod text;

pub use self::{page::page, text::text};

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::{Delivery, Opening, Outcome, Percentiles, ProcessCost, Sample, Writing};

    /// An outcome in which everything arrived.
    pub(super) fn outcome(target: &str) -> Outcome {
        let times = Percentiles {
            count: 20,
            p50: 1.2,
            p90: 2.0,
            p99: 3.0,
            p999: 3.5,
            max: 4.0,
            curve: vec![(0.0, 0.5), (50.0, 1.2), (100.0, 4.0)],
        };
        let sample = |at: f64| Sample {
            at,
            sessions: 2,
            written: 5,
            delivered: 10,
            p50: 1.2,
            p99: 3.0,
            processor_percent: Some(12.0),
            resident_mib: Some(20.0),
        };
        Outcome {
            target: target.to_owned(),
            is_cut_short: false,
            opening: Opening {
                sessions: 2,
                per_second: 1000.0,
                ended: BTreeMap::new(),
            },
            writing: Writing {
                messages: 10,
                failed: 0,
                first_failure: None,
                seconds: 2.0,
                per_second: 5.0,
            },
            delivery: Delivery {
                expected: 20,
                delivered: 20,
                lost: 0,
                duplicates: 0,
                foreign: 0,
                from_due: times.clone(),
                from_commit: times,
                lag: 1.0,
            },
            process: Some(ProcessCost {
                microseconds_per_delivery: 9.0,
                processor_percent: 10.0,
                empty_mib: 12.0,
                kib_per_session: 5.2,
                peak_mib: 20.0,
            }),
            samples: vec![sample(1.0), sample(2.0)],
        }
    }
}
