//! Every metric, named once. `README.md` lists them for operators.
//!
//! The registry is a value and not a global, so that several gateways can live in one process (the tests do that).
//! Gauges move through guards, so that a panic or a cancelled task cannot leave them wrong.

use std::{fmt, sync::atomic::AtomicU64, time::Duration};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

/// The media type of [`Metrics::render`]: OpenMetrics 1.0, which Prometheus reads.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// One label whose values are known at compile time.
macro_rules! label {
    ($name:ident, $field:ident, $doc:literal) => {
        #[doc = $doc]
        #[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
        pub struct $name {
            /// The label's value.
            pub $field: &'static str,
        }
    };
}

label!(
    ByProtocol,
    protocol,
    "Told apart by the protocol a session speaks."
);
label!(
    ByOperation,
    operation,
    "Told apart by what was done to the message."
);
label!(ByOutcome, outcome, "Told apart by how it ended.");
label!(ByReason, reason, "Told apart by why it happened.");
label!(ByState, state, "Told apart by the state something is in.");
label!(ByTask, task, "Told apart by the name of the task.");

/// Told apart by the call of the HTTP API and the status of its answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByRequest {
    /// The call.
    pub operation: &'static str,
    /// The status code.
    pub status: u16,
}

/// Not told apart. A family of one metric has no value before its first one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct NoLabels {}

/// Told apart by what was agreed on in the handshake.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByHandshake {
    /// The version of TLS.
    pub version: &'static str,
    /// Whether an earlier session was resumed.
    pub kind: &'static str,
}

/// The states of the feed, as `herald_feed_state` names them.
pub const FEED_STATES: [&str; 4] = ["connecting", "listening", "waiting", "refused"];

/// All metrics of one gateway.
pub struct Metrics {
    registry: Registry,
    /// Open TCP connections, whatever they are used for.
    pub connections: Gauge,
    /// The memory that the process has, in bytes.
    pub resident_memory: Family<NoLabels, Gauge>,
    /// The memory beyond which no connection is taken in, in bytes.
    pub memory_limit: Family<NoLabels, Gauge>,
    /// Connections whose peer has begun to say what it wants, and has not come to the end.
    pub handshakes: Gauge,
    /// Handshakes that were given up, by why.
    pub handshakes_given_up: Family<ByReason, Counter>,
    /// Live sessions by protocol.
    pub sessions: Family<ByProtocol, Gauge>,
    /// Users with at least one session.
    pub users: Gauge,
    /// Sessions that ended, by close code or by who left.
    pub sessions_closed: Family<ByReason, Counter>,
    /// Requests for a session that were refused before it began.
    pub sessions_refused: Family<ByReason, Counter>,
    /// Refusals that were held back, because their address had too many.
    pub refusals_delayed: Counter,
    /// Events read from the log.
    pub events_read: Family<ByOperation, Counter>,
    /// Log rows whose message was gone before it was read; its delete follows.
    pub events_vanished: Counter,
    /// Events written to sessions: one event to three sessions counts three times.
    pub events_delivered: Counter,
    /// Events that Supabase's clients have surely received, as answers to pings prove.
    pub events_acknowledged: Counter,
    /// Batches that held at least one event.
    pub batches: Counter,
    /// Reads of the log, of which each is one query of the view.
    pub feed_reads: Counter,
    /// Events in a batch.
    pub batch_size: Histogram,
    /// Time from asking Postgres for a batch until its last row has arrived.
    pub enrich_duration: Histogram,
    /// Time from the commit (or the log row, if the database keeps no commit times) until the socket took the event.
    pub delivery_latency: Histogram,
    /// Sessions closed because their outbox was full.
    pub outbox_overflows: Counter,
    /// Cursors that were brought, by what became of them.
    pub replays: Family<ByOutcome, Counter>,
    /// Questions to the database for what was missed; short gaps are told without.
    pub replay_queries: Counter,
    /// Events sent again to sessions that came back.
    pub events_replayed: Counter,
    /// Channels that went and whose position is kept for a while.
    pub parked: Counter,
    /// Statements that keep and find the positions of channels.
    pub parking_queries: Counter,
    /// Positions of channels that were lost because the database was away for too long.
    pub parking_dropped: Counter,
    /// One for the state the feed is in, zero for the others.
    pub feed_state: Family<ByState, Gauge>,
    /// Seconds since the log was last read to its end.
    pub feed_silence: Gauge,
    /// Tasks that panicked.
    pub task_panics: Family<ByTask, Counter>,
    /// 1 while the feed waits for a ring, and those who write have to ring.
    pub feed_asleep: Gauge,
    /// Times that changes came faster than the feed read, so that it reads without being rung for until they are fewer.
    pub feed_rushes: Counter,
    /// Connections of the feed after the first.
    pub feed_reconnects: Counter,
    /// Times that the feed had to begin anew because the log could not tell what it had missed.
    pub feed_discontinuities: Counter,
    /// Rows in the log, as Postgres estimates them.
    pub log_rows: Gauge,
    /// Bytes that the log and its indexes take.
    pub log_bytes: Gauge,
    /// Log rows removed because they were older than the retention.
    pub log_pruned: Counter,
    /// Rounds of marking, pruning and measuring the log that failed.
    pub log_upkeep_failures: Counter,
    /// Share of Postgres's notification queue in use, from 0 to 1.
    pub notification_queue_usage: Gauge<f64, AtomicU64>,
    /// Requests whose token was missing or refused.
    pub auth_failures: Family<ByReason, Counter>,
    /// Calls of the HTTP API.
    pub requests: Family<ByRequest, Counter>,
    /// Time from a call's headers until its answer.
    pub request_duration: Histogram,
    /// Topics with at least one member.
    pub topics: Gauge,
    /// Channels that have joined a topic.
    pub topic_members: Gauge,
    /// Broadcasts that were taken: one to three members counts once.
    pub broadcasts: Counter,
    /// What was refused on topics, by what was wrong.
    pub topic_refusals: Family<ByReason, Counter>,
    /// Handshakes of TLS that were made.
    pub tls_handshakes: Family<ByHandshake, Counter>,
    /// Handshakes of TLS that were not made, by why.
    pub tls_handshake_failures: Family<ByReason, Counter>,
    /// When the certificate in service ends, in seconds since 1970. Without TLS it has no value, so that nothing looks ended.
    pub tls_certificate_expiry: Family<NoLabels, Gauge>,
    /// New contents of the certificate's files, by whether they were taken into service.
    pub tls_reloads: Family<ByOutcome, Counter>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Metrics")
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All metrics at zero.
    pub fn new() -> Self {
        // From 100 µs, which a local Postgres cannot beat, doubling to 3.3 s, when a person has long noticed.
        let seconds = || exponential_buckets(0.0001, 2.0, 16);
        let metrics = Self {
            registry: Registry::with_prefix("herald"),
            connections: Gauge::default(),
            resident_memory: Family::default(),
            memory_limit: Family::default(),
            handshakes: Gauge::default(),
            handshakes_given_up: Family::default(),
            sessions: Family::default(),
            users: Gauge::default(),
            sessions_closed: Family::default(),
            sessions_refused: Family::default(),
            refusals_delayed: Counter::default(),
            events_read: Family::default(),
            events_vanished: Counter::default(),
            events_delivered: Counter::default(),
            events_acknowledged: Counter::default(),
            batches: Counter::default(),
            feed_reads: Counter::default(),
            batch_size: Histogram::new(exponential_buckets(1.0, 2.0, 15)),
            enrich_duration: Histogram::new(seconds()),
            delivery_latency: Histogram::new(seconds()),
            outbox_overflows: Counter::default(),
            replays: Family::default(),
            replay_queries: Counter::default(),
            events_replayed: Counter::default(),
            parked: Counter::default(),
            parking_queries: Counter::default(),
            parking_dropped: Counter::default(),
            feed_state: Family::default(),
            feed_silence: Gauge::default(),
            task_panics: Family::default(),
            feed_asleep: Gauge::default(),
            feed_rushes: Counter::default(),
            feed_reconnects: Counter::default(),
            feed_discontinuities: Counter::default(),
            log_rows: Gauge::default(),
            log_bytes: Gauge::default(),
            log_pruned: Counter::default(),
            log_upkeep_failures: Counter::default(),
            notification_queue_usage: Gauge::default(),
            auth_failures: Family::default(),
            requests: Family::default(),
            request_duration: Histogram::new(seconds()),
            topics: Gauge::default(),
            topic_members: Gauge::default(),
            broadcasts: Counter::default(),
            topic_refusals: Family::default(),
            tls_handshakes: Family::default(),
            tls_handshake_failures: Family::default(),
            tls_certificate_expiry: Family::default(),
            tls_reloads: Family::default(),
        };
        metrics.enter_feed_state("connecting");
        metrics.registered()
    }

    fn registered(mut self) -> Self {
        let registry = &mut self.registry;
        registry.register("sessions", "Live sessions by protocol", self.sessions.clone());
        registry.register("users", "Users with at least one session", self.users.clone());
        registry.register(
            "sessions_closed",
            "Sessions that ended, by reason",
            self.sessions_closed.clone(),
        );
        registry.register(
            "events_delivered",
            "Events written to sessions",
            self.events_delivered.clone(),
        );
        registry.register(
            "events_acknowledged",
            "Events that Supabase clients proved to have",
            self.events_acknowledged.clone(),
        );
        registry.register(
            "outbox_overflows",
            "Sessions closed for a full outbox",
            self.outbox_overflows.clone(),
        );
        registry.register("replays", "Cursors brought, by outcome", self.replays.clone());
        registry.register(
            "replay_queries",
            "Questions to the database for what was missed",
            self.replay_queries.clone(),
        );
        registry.register(
            "events_replayed",
            "Events sent out of the log",
            self.events_replayed.clone(),
        );
        registry.register(
            "auth_failures",
            "Tokens missing or refused, by reason",
            self.auth_failures.clone(),
        );
        registry.register(
            "requests",
            "Calls of the HTTP API, by status",
            self.requests.clone(),
        );
        registry.register_with_unit(
            "request_duration",
            "From a call's headers until its answer",
            Unit::Seconds,
            self.request_duration.clone(),
        );
        registry.register_with_unit(
            "delivery_latency",
            "From commit until the socket took the event",
            Unit::Seconds,
            self.delivery_latency.clone(),
        );
        self.register_connections();
        self.register_parking();
        self.register_feed();
        self.register_upkeep();
        self.register_topics();
        self.register_tls();
        self
    }

    fn register_connections(&mut self) {
        let registry = &mut self.registry;
        registry.register("connections", "Open TCP connections", self.connections.clone());
        registry.register(
            "sessions_refused",
            "Sessions refused before they began",
            self.sessions_refused.clone(),
        );
        registry.register(
            "refusals_delayed",
            "Requests refused later than they could have been, because their address had too many refused",
            self.refusals_delayed.clone(),
        );
        registry.register_with_unit(
            "resident_memory",
            "Memory that the process has",
            Unit::Bytes,
            self.resident_memory.clone(),
        );
        registry.register_with_unit(
            "memory_limit",
            "Memory beyond which no connection is taken in",
            Unit::Bytes,
            self.memory_limit.clone(),
        );
        registry.register(
            "handshakes",
            "Connections that have begun to say what they want",
            self.handshakes.clone(),
        );
        registry.register(
            "handshakes_given_up",
            "Handshakes that were given up, by reason",
            self.handshakes_given_up.clone(),
        );
    }

    fn register_parking(&mut self) {
        let registry = &mut self.registry;
        registry.register(
            "parked",
            "Channels that went and may come back",
            self.parked.clone(),
        );
        registry.register(
            "parking_queries",
            "Statements that keep and find positions of channels",
            self.parking_queries.clone(),
        );
        registry.register(
            "parking_dropped",
            "Positions of channels that were lost",
            self.parking_dropped.clone(),
        );
    }

    fn register_topics(&mut self) {
        let registry = &mut self.registry;
        registry.register("topics", "Topics with at least one member", self.topics.clone());
        registry.register(
            "topic_members",
            "Channels that have joined a topic",
            self.topic_members.clone(),
        );
        registry.register(
            "broadcasts",
            "Broadcasts that were taken",
            self.broadcasts.clone(),
        );
        registry.register(
            "topic_refusals",
            "What was refused on topics, by reason",
            self.topic_refusals.clone(),
        );
    }

    fn register_tls(&mut self) {
        let registry = &mut self.registry;
        registry.register(
            "tls_handshakes",
            "TLS handshakes made, by version and kind",
            self.tls_handshakes.clone(),
        );
        registry.register(
            "tls_handshake_failures",
            "TLS handshakes not made, by reason",
            self.tls_handshake_failures.clone(),
        );
        registry.register_with_unit(
            "tls_certificate_expiry_timestamp",
            "When the certificate in service ends, since 1970",
            Unit::Seconds,
            self.tls_certificate_expiry.clone(),
        );
        registry.register(
            "tls_reloads",
            "New contents of the certificate's files, by outcome",
            self.tls_reloads.clone(),
        );
    }

    fn register_feed(&mut self) {
        let registry = &mut self.registry;
        registry.register(
            "events_read",
            "Events read from the log, by operation",
            self.events_read.clone(),
        );
        registry.register(
            "events_vanished",
            "Log rows whose message was gone",
            self.events_vanished.clone(),
        );
        registry.register("batches", "Batches with at least one event", self.batches.clone());
        registry.register(
            "feed_reads",
            "Reads of the log, each one query of the view",
            self.feed_reads.clone(),
        );
        registry.register("batch_size", "Events in a batch", self.batch_size.clone());
        registry.register_with_unit(
            "enrich_duration",
            "From asking for a batch until its last row",
            Unit::Seconds,
            self.enrich_duration.clone(),
        );
        registry.register(
            "feed_state",
            "One for the state the feed is in",
            self.feed_state.clone(),
        );
        registry.register_with_unit(
            "feed_silence",
            "Since the log was last read to its end",
            Unit::Seconds,
            self.feed_silence.clone(),
        );
        registry.register(
            "feed_asleep",
            "1 while the feed waits for a ring, and those who write have to ring",
            self.feed_asleep.clone(),
        );
        registry.register(
            "feed_rushes",
            "Times that changes came faster than reads, so that the feed read without being rung for",
            self.feed_rushes.clone(),
        );
        registry.register(
            "feed_reconnects",
            "Connections of the feed after the first",
            self.feed_reconnects.clone(),
        );
        registry.register(
            "feed_discontinuities",
            "Times the feed had to begin anew",
            self.feed_discontinuities.clone(),
        );
    }

    fn register_upkeep(&mut self) {
        let registry = &mut self.registry;
        registry.register("task_panics", "Tasks that panicked", self.task_panics.clone());
        registry.register("log_rows", "Rows in the log, estimated", self.log_rows.clone());
        registry.register_with_unit("log_size", "Log and indexes", Unit::Bytes, self.log_bytes.clone());
        registry.register(
            "log_pruned",
            "Log rows removed by retention",
            self.log_pruned.clone(),
        );
        registry.register(
            "log_upkeep_failures",
            "Rounds of pruning and measuring that failed",
            self.log_upkeep_failures.clone(),
        );
        registry.register(
            "notification_queue_usage",
            "Share of Postgres's notification queue in use",
            self.notification_queue_usage.clone(),
        );
    }

    /// Notes the state that the feed is in now, one of [`FEED_STATES`].
    pub fn enter_feed_state(&self, state: &'static str) {
        for known in FEED_STATES {
            self.feed_state
                .get_or_create(&ByState { state: known })
                .set(i64::from(known == state));
        }
    }

    /// Counts a panic of a task of this name.
    pub fn count_panic(&self, task: &'static str) {
        self.task_panics.get_or_create(&ByTask { task }).inc();
    }

    /// Counts a session of this protocol for as long as the guard lives.
    pub fn count_session(&self, protocol: &'static str) -> GaugeGuard {
        GaugeGuard::enter(self.sessions.get_or_create_owned(&ByProtocol { protocol }))
    }

    /// Counts a connection for as long as the guard lives.
    pub fn count_connection(&self) -> GaugeGuard {
        GaugeGuard::enter(self.connections.clone())
    }

    /// How many connections there are.
    pub fn open_connections(&self) -> usize {
        usize::try_from(self.connections.get()).unwrap_or_default()
    }

    /// Sets the memory that the process has, in bytes.
    pub fn set_resident_memory(&self, bytes: u64) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.resident_memory.get_or_create(&NoLabels {}).set(bytes);
    }

    /// Sets the memory beyond which no connection is taken in, in bytes.
    pub fn set_memory_limit(&self, bytes: u64) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.memory_limit.get_or_create(&NoLabels {}).set(bytes);
    }

    /// Counts a peer that begins to say what it wants; the guard ends it.
    pub fn count_handshake_under_way(&self) -> GaugeGuard {
        GaugeGuard::enter(self.handshakes.clone())
    }

    /// Counts a handshake that was given up.
    pub fn give_up_handshake(&self, reason: &'static str) {
        self.handshakes_given_up.get_or_create(&ByReason { reason }).inc();
    }

    /// Counts a request for a session that was refused before it began.
    pub fn refuse(&self, reason: &'static str) {
        self.sessions_refused.get_or_create(&ByReason { reason }).inc();
    }

    /// Counts something that was refused on a topic: a join or a broadcast that the topics' rule does not allow (`rule`), one
    /// member too many (`full`), and what goes beyond a topic's limits.
    pub fn refuse_topic(&self, reason: &'static str) {
        self.topic_refusals.get_or_create(&ByReason { reason }).inc();
    }

    /// Counts a handshake of TLS: its version (`1.2`, `1.3`), and whether it was `full` or `resumed`.
    pub fn count_handshake(&self, version: &'static str, kind: &'static str) {
        self.tls_handshakes
            .get_or_create(&ByHandshake { version, kind })
            .inc();
    }

    /// Counts a handshake of TLS that was not made.
    pub fn fail_handshake(&self, reason: &'static str) {
        self.tls_handshake_failures
            .get_or_create(&ByReason { reason })
            .inc();
    }

    /// Notes when the certificate in service ends, in seconds since 1970.
    pub fn set_certificate_end(&self, seconds: i64) {
        self.tls_certificate_expiry
            .get_or_create(&NoLabels {})
            .set(seconds);
    }

    /// Counts new contents of the certificate's files: `loaded` or `refused`.
    pub fn count_tls_reload(&self, outcome: &'static str) {
        self.tls_reloads.get_or_create(&ByOutcome { outcome }).inc();
    }

    /// The page for `/metrics`, of type [`CONTENT_TYPE`].
    ///
    /// # Errors
    /// Only if a metric cannot be formatted, which would be a defect of the metrics library.
    pub fn render(&self) -> Result<String, fmt::Error> {
        let mut page = String::new();
        encode(&mut page, &self.registry)?;
        Ok(page)
    }
}

/// Holds a gauge one higher until it is dropped.
#[derive(Debug)]
pub struct GaugeGuard(Gauge);

impl GaugeGuard {
    fn enter(gauge: Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A histogram observes seconds; this is the one place that converts.
pub fn observe(histogram: &Histogram, duration: Duration) {
    histogram.observe(duration.as_secs_f64());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guard_takes_its_count_back() {
        let metrics = Metrics::new();
        let first = metrics.count_session("native");
        let second = metrics.count_session("native");
        drop(first);
        assert!(
            metrics
                .render()
                .unwrap()
                .contains("herald_sessions{protocol=\"native\"} 1\n")
        );
        drop(second);
        assert!(
            metrics
                .render()
                .unwrap()
                .contains("herald_sessions{protocol=\"native\"} 0\n")
        );
    }

    #[test]
    fn the_feed_is_in_one_state_at_a_time() {
        let metrics = Metrics::new();
        metrics.enter_feed_state("listening");
        let page = metrics.render().unwrap();
        assert!(
            page.contains("herald_feed_state{state=\"listening\"} 1\n"),
            "{page}"
        );
        assert!(
            page.contains("herald_feed_state{state=\"connecting\"} 0\n"),
            "{page}"
        );
    }
}
