//! How figures are summed up and printed.

use std::{fs, thread::available_parallelism};

/// The machine in one line, for those figures that mean nothing without it.
pub(crate) fn machine(postgres: &str) -> String {
    let cores = available_parallelism().map_or(0, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{cores} cores, Linux {}, PostgreSQL {postgres}", kernel.trim())
}

/// Measured times in milliseconds, sorted.
pub(crate) struct Times(Vec<f64>);

impl Times {
    pub(crate) fn new(mut milliseconds: Vec<f64>) -> Self {
        assert!(!milliseconds.is_empty(), "nothing was measured");
        milliseconds.sort_by(f64::total_cmp);
        Self(milliseconds)
    }

    /// The time below which this share of all times is, the share in thousandths.
    pub(crate) fn at(&self, thousandths: usize) -> f64 {
        self.0[((self.0.len() - 1) * thousandths).div_ceil(1000)]
    }

    pub(crate) fn median(&self) -> f64 {
        self.at(500)
    }

    /// One line of a table: count, median, 95th and 99th percentile, greatest.
    pub(crate) fn line(&self, name: &str) -> String {
        format!(
            "{name:<44}{:>8}{:>9.3}{:>9.3}{:>9.3}{:>9.3}",
            self.0.len(),
            self.median(),
            self.at(950),
            self.at(990),
            self.at(1000),
        )
    }

    /// The head of a table of such lines.
    pub(crate) fn head(name: &str) -> String {
        format!(
            "{name:<44}{:>8}{:>9}{:>9}{:>9}{:>9}",
            "count", "median", "p95", "p99", "max"
        )
    }
}
