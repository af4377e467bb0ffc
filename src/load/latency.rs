//! How long deliveries took, in a histogram of high dynamic range (`HdrHistogram`), which keeps every value to three digits and takes the same
//! room however many there are.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// The longest time that is told from a longer one, in microseconds: ten minutes.
const LONGEST: u64 = 600_000_000;

/// Times in microseconds.
#[derive(Clone, Debug)]
pub(super) struct Latencies(Histogram<u32>);

/// Some times of many, in milliseconds.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Percentiles {
    /// How many there were.
    pub count: u64,
    /// Half of them are below.
    pub p50: f64,
    /// Nine of ten are below.
    pub p90: f64,
    /// 99 of 100 are below.
    pub p99: f64,
    /// 999 of 1,000 are below.
    pub p999: f64,
    /// The longest.
    pub max: f64,
    /// More of them for a curve: the share that is below, in percent, and the time.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub curve: Vec<(f64, f64)>,
}

impl Latencies {
    /// None so far.
    pub(super) fn new() -> Self {
        // The bounds are constants that the library takes.
        let histogram = Histogram::new_with_bounds(1, LONGEST, 3);
        Self(histogram.unwrap_or_else(|_| unreachable!("1 and {LONGEST} are bounds of a histogram")))
    }

    /// Adds one.
    pub(super) fn add(&mut self, time: Duration) {
        let microseconds = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.0.saturating_record(microseconds);
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.0.reset();
    }

    /// Some of them, without a curve.
    pub(super) fn percentiles(&self) -> Percentiles {
        let at = |percentile: f64| milliseconds(self.0.value_at_percentile(percentile));
        Percentiles {
            count: self.0.len(),
            p50: at(50.0),
            p90: at(90.0),
            p99: at(99.0),
            p999: at(99.9),
            max: milliseconds(self.0.max()),
            curve: Vec::new(),
        }
    }

    /// The same with a curve.
    pub(super) fn curve(&self) -> Percentiles {
        let points = self.0.iter_quantiles(4);
        Percentiles {
            curve: points
                .map(|point| {
                    (
                        point.quantile_iterated_to() * 100.0,
                        milliseconds(point.value_iterated_to()),
                    )
                })
                .collect(),
            ..self.percentiles()
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "a time of ten minutes is exact")]
fn milliseconds(microseconds: u64) -> f64 {
    microseconds as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_kept_to_three_digits_whatever_the_times_are() {
        let mut latencies = Latencies::new();
        for millisecond in 1..=1000 {
            latencies.add(Duration::from_millis(millisecond));
        }
        let told = latencies.curve();
        let close = |value: f64, expected: f64| (value / expected - 1.0).abs() < 0.002;
        assert_eq!(told.count, 1000);
        for (value, expected) in [
            (told.p50, 500.0),
            (told.p90, 900.0),
            (told.p99, 990.0),
            (told.max, 1000.0),
        ] {
            assert!(close(value, expected), "{value} for {expected}");
        }
        assert!(
            told.curve.is_sorted_by(|(a, x), (b, y)| a <= b && x <= y),
            "{:?}",
            told.curve
        );
        latencies.add(Duration::MAX);
        assert!(close(latencies.percentiles().max, 600_000.0));
        latencies.clear();
        assert_eq!(latencies.percentiles().count, 0);
    }
}
