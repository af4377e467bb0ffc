//! What came of a run, and what was seen while it ran.

use std::collections::BTreeMap;

use serde::Serialize;

use super::latency::Percentiles;

/// What a second of the run was like.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Sample {
    /// Seconds since the beginning of the part that this is of.
    pub at: f64,
    /// Sessions that are open.
    pub sessions: u64,
    /// Messages that were committed in this time.
    pub written: u64,
    /// Deliveries in this time.
    pub delivered: u64,
    /// Half of the deliveries of this time took less, in milliseconds from when the message was due.
    pub p50: f64,
    /// 99 of 100 took less.
    pub p99: f64,
    /// The share of one processor that the target's process had, in percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processor_percent: Option<f64>,
    /// The memory of the target's process, in MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resident_mib: Option<f64>,
}

/// What came of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// What was put under load.
    pub target: String,
    /// Whether it was told to end before its time.
    pub is_cut_short: bool,
    /// How sessions opened.
    pub opening: Opening,
    /// How messages were written.
    pub writing: Writing,
    /// How they arrived.
    pub delivery: Delivery,
    /// What the target's process took, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<ProcessCost>,
    /// Second by second, from the first message on.
    pub samples: Vec<Sample>,
}

/// How sessions opened.
#[derive(Clone, Debug, Serialize)]
pub struct Opening {
    /// How many.
    pub sessions: u64,
    /// How many a second, with their tokens made here and checked there.
    pub per_second: f64,
    /// Why sessions ended that should not have, and how many.
    pub ended: BTreeMap<String, u64>,
}

/// How messages were written.
#[derive(Clone, Debug, Serialize)]
pub struct Writing {
    /// Messages that were confirmed.
    pub messages: u64,
    /// Messages that were not, or not for certain.
    pub failed: u64,
    /// Why the first of those was not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_failure: Option<String>,
    /// From the beginning until the last commit.
    pub seconds: f64,
    /// Messages a second in that time.
    pub per_second: f64,
}

/// How messages arrived.
#[derive(Clone, Debug, Serialize)]
pub struct Delivery {
    /// Deliveries that there had to be.
    pub expected: u64,
    /// Those that there were, each counted once.
    pub delivered: u64,
    /// Messages that sessions had to hear and did not.
    pub lost: u64,
    /// Deliveries that had been there before.
    pub duplicates: u64,
    /// Deliveries to somebody whom the message does not concern.
    pub foreign: u64,
    /// From the moment that a message was due to be written until it was at a session.
    pub from_due: Percentiles,
    /// From the moment that its writer knew that it was committed; what arrived before counts as zero.
    pub from_commit: Percentiles,
    /// From the last commit to the last delivery, in milliseconds.
    pub lag: f64,
}

/// What a process took.
#[derive(Clone, Debug, Serialize)]
pub struct ProcessCost {
    /// Processor time for each delivery, in microseconds.
    pub microseconds_per_delivery: f64,
    /// The share of one processor while messages were written, in percent.
    pub processor_percent: f64,
    /// Memory before the first session, in MiB.
    pub empty_mib: f64,
    /// Memory for each idle session, in KiB.
    pub kib_per_session: f64,
    /// The most memory that was seen, in MiB.
    pub peak_mib: f64,
}

impl Outcome {
    /// Whether everything arrived where it should, once, and everybody stayed.
    pub fn is_flawless(&self) -> bool {
        self.delivery.lost == 0
            && self.delivery.duplicates == 0
            && self.delivery.foreign == 0
            && self.writing.failed == 0
            && self.opening.ended.is_empty()
    }
}
