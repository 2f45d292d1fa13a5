//! The metrics of INTERFACE.md: what they are called, what they count, and how they are rendered.
//!
//! No routing key is ever a label: there are millions. What only matters when asked for (the table's size, the store's age) is
//! read when `/metrics` is.

use std::{
    collections::HashMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicI64, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use waypost_policy::{
    Code,
    exchange::StaleOutcome,
    table::{ServiceId, UpstreamId},
    wire::StaleState,
};

use crate::{access_log::Line, state::Shared};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    service: String,
    upstream: String,
    status: u16,
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ServiceLabel {
    service: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CertificateLabel {
    certificate: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

/// The only gold copy there is today.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ShardLabel {
    shard: &'static str,
}

const SHARD: ShardLabel = ShardLabel { shard: "default" };

type Seconds = Gauge<f64, AtomicU64>;

/// Why a store is listed beside the live table.
const RESYNC_REASONS: [&str; 10] =
    ["compacted", "unproven", "incarnation", "digest", "contradicted", "late", "history", "full", "stuck", "lapsed"];
/// Every state that a stale answer can have.
const STALE_STATES: [StaleState; 5] = [StaleState::Moved, StaleState::Handoff, StaleState::Behind, StaleState::Ask, StaleState::Unknown];
/// Every way in which a request that met a stale answer can end.
const STALE_OUTCOMES: [StaleOutcome; 3] = [StaleOutcome::Followed, StaleOutcome::Redirected, StaleOutcome::Unhealed];

/// Which series a request counts in: numbers stand for the same names for as long as the process runs.
type SeriesKey = (Option<ServiceId>, Option<UpstreamId>, u16, Option<Code>);

/// The series of a request, found once and kept: finding them by their labels costs a copy and a hash of each label.
#[derive(Clone, Debug)]
struct Series {
    requests: Counter,
    durations: Histogram,
}

/// All metrics of the process.
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    series: RwLock<HashMap<SeriesKey, Series, ahash::RandomState>>,
    durations: Family<ServiceLabel, Histogram, fn() -> Histogram>,
    overhead: Histogram,
    connects: Histogram,
    in_flight: Gauge,
    in_flight_now: Arc<AtomicI64>,
    connections: Family<StateLabel, Gauge>,
    connections_now: Arc<Connections>,
    table_revision: Family<ShardLabel, Gauge>,
    gold_age: Family<ShardLabel, Seconds>,
    gold_connected: Family<ShardLabel, Gauge>,
    gold_other_history: Family<ShardLabel, Gauge>,
    table_routes: Gauge,
    publishes: Counter,
    publish_seconds: Histogram,
    quarantined: Gauge,
    held_back: Gauge,
    snapshot_age: Seconds,
    snapshot_failed: Gauge,
    resyncs: Family<ReasonLabel, Counter>,
    digest_checks: Family<OutcomeLabel, Counter>,
    watcher_stalled: Seconds,
    certificate_ends: Family<CertificateLabel, Seconds>,
    handshakes_failed: Counter,
    stale: Family<StateLabel, Counter>,
    stale_outcomes: Family<OutcomeLabel, Counter>,
    hops: Histogram,
    hints: Gauge,
    parked: Gauge,
    retries: Counter,
    budget_exhausted: Counter,
    started: Seconds,
}

/// How many connections of clients there are.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    open: AtomicU32,
    resting: AtomicUsize,
}

impl Connections {
    /// One more, if there are fewer than `most`.
    pub(crate) fn opens(&self, most: u32) -> bool {
        self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| (open < most).then_some(open + 1)).is_ok()
    }

    /// One has ended.
    pub(crate) fn ends(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// One of those that are open has nothing but its socket from now on.
    pub(crate) fn rests(&self) {
        self.resting.fetch_add(1, Ordering::Relaxed);
    }

    /// So many have a task again, or are about to end.
    pub(crate) fn rests_no_more(&self, count: usize) {
        self.resting.fetch_sub(count, Ordering::Relaxed);
    }

    /// How many are open.
    pub(crate) fn open(&self) -> u32 {
        self.open.load(Ordering::Relaxed)
    }
}

/// A request under way; ends when dropped.
pub(crate) struct InFlight(Arc<AtomicI64>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// From 50 µs to some 26 s, doubling.
fn latency_buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.000_05, 2.0, 20))
}

impl Metrics {
    /// Registers everything.
    pub(crate) fn new(log_lines_dropped: &Counter) -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("waypost"),
            requests: Family::default(),
            series: RwLock::default(),
            durations: Family::new_with_constructor(latency_buckets),
            overhead: Histogram::new(exponential_buckets(0.000_005, 2.0, 18)),
            connects: latency_buckets(),
            in_flight: Gauge::default(),
            in_flight_now: Arc::default(),
            connections: Family::default(),
            connections_now: Arc::default(),
            table_revision: Family::default(),
            gold_age: Family::default(),
            gold_connected: Family::default(),
            gold_other_history: Family::default(),
            table_routes: Gauge::default(),
            publishes: Counter::default(),
            publish_seconds: Histogram::new(exponential_buckets(0.000_005, 2.0, 18)),
            quarantined: Gauge::default(),
            held_back: Gauge::default(),
            snapshot_age: Seconds::default(),
            snapshot_failed: Gauge::default(),
            resyncs: Family::default(),
            digest_checks: Family::default(),
            watcher_stalled: Seconds::default(),
            certificate_ends: Family::default(),
            handshakes_failed: Counter::default(),
            stale: Family::default(),
            stale_outcomes: Family::default(),
            hops: Histogram::new([0.0, 1.0, 2.0, 3.0, 4.0]),
            hints: Gauge::default(),
            parked: Gauge::default(),
            retries: Counter::default(),
            budget_exhausted: Counter::default(),
            started: Seconds::default(),
        };
        metrics.register(log_lines_dropped);
        metrics.exist_from_the_start();
        metrics
    }

    /// A series that is not there can't be alerted on: what has fixed labels is 0 before it first counts.
    fn exist_from_the_start(&self) {
        for reason in RESYNC_REASONS {
            let _ = self.resyncs.get_or_create(&ReasonLabel { reason });
        }
        for outcome in ["equal", "different"] {
            let _ = self.digest_checks.get_or_create(&OutcomeLabel { outcome });
        }
        for state in STALE_STATES {
            let _ = self.stale.get_or_create(&StateLabel { state: state.as_str() });
        }
        for outcome in STALE_OUTCOMES {
            let _ = self.stale_outcomes.get_or_create(&OutcomeLabel { outcome: outcome.as_str() });
        }
        let started = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        self.started.set(started.as_secs_f64());
    }

    fn register(&mut self, log_lines_dropped: &Counter) {
        let registry = &mut self.registry;
        registry.register(
            "requests",
            "Requests that have ended, by service, owner, status and the proxy's own reason",
            self.requests.clone(),
        );
        registry.register("request_duration_seconds", "From a request's head to the end of its answer", self.durations.clone());
        registry.register("proxy_overhead_seconds", "Of that, the time in which no owner was being waited for", self.overhead.clone());
        registry.register("upstream_connect_seconds", "Making a new connection to an endpoint", self.connects.clone());
        registry.register("in_flight", "Requests under way", self.in_flight.clone());
        registry.register(
            "connections",
            "Connections of clients that are open, by state: active, or resting, which have been quiet for some seconds",
            self.connections.clone(),
        );
        registry.register("table_revision", "The store's revision that the table in force reflects", self.table_revision.clone());
        registry.register("gold_age_seconds", "How long ago the store was last known to have nothing newer", self.gold_age.clone());
        registry.register("gold_connected", "1 while the watch on the gold copy stands, else 0", self.gold_connected.clone());
        registry.register(
            "gold_other_history",
            "1 while the store's history is not the one in force, so that nothing of it is taken, else 0",
            self.gold_other_history.clone(),
        );
        registry.register("table_routes", "Routes in the table in force", self.table_routes.clone());
        registry.register("table_publishes", "Tables put in force", self.publishes.clone());
        registry.register("table_publish_seconds", "Making the next table out of the last", self.publish_seconds.clone());
        registry.register("records_quarantined", "Records whose value in the store is bad", self.quarantined.clone());
        registry.register("records_held_back", "Routes in force although the store has deleted them", self.held_back.clone());
        registry.register("snapshot_age_seconds", "Since the snapshot on disk was written", self.snapshot_age.clone());
        registry.register("snapshot_failed", "1 while the snapshot can't be written, else 0", self.snapshot_failed.clone());
        registry.register("resyncs", "Lists of the whole store beside the live table, by reason", self.resyncs.clone());
        registry.register(
            "digest_checks",
            "Comparisons of the table with all that the store holds, by outcome: equal or different",
            self.digest_checks.clone(),
        );
        registry.register(
            "watcher_stalled_seconds",
            "Since the loop that applies changes last came round; more than some seconds: it is stuck",
            self.watcher_stalled.clone(),
        );
        registry.register(
            "certificate_end_seconds",
            "When the certificate in force of a record ends, since the Unix epoch; 0: none is in force",
            self.certificate_ends.clone(),
        );
        registry.register("tls_handshakes_failed", "TLS handshakes with clients that failed", self.handshakes_failed.clone());
        registry.register("stale", "Stale answers of backends, by state", self.stale.clone());
        registry.register("stale_outcome", "How requests that met a stale answer ended", self.stale_outcomes.clone());
        registry.register("hops", "Dispatches to another owner or at a newer epoch, a request", self.hops.clone());
        registry.register("hints", "Hints laid over the table", self.hints.clone());
        registry.register("parked", "Requests waiting for an owner to change", self.parked.clone());
        registry.register("retries", "Requests sent again to the same owner", self.retries.clone());
        registry.register("retry_budget_exhausted", "Repeats that a retry budget refused", self.budget_exhausted.clone());
        registry.register(
            "access_log_lines_dropped",
            "Access log lines lost because their reader stalled or they could not be written",
            log_lines_dropped.clone(),
        );
        registry.register("start_time_seconds", "When the process started, since the Unix epoch", self.started.clone());
    }

    /// Counts a request as under way.
    pub(crate) fn enter(&self) -> InFlight {
        self.in_flight_now.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(&self.in_flight_now))
    }

    /// How many requests are under way.
    pub(crate) fn in_flight(&self) -> i64 {
        self.in_flight_now.load(Ordering::Relaxed)
    }

    /// Where connections of clients are counted.
    pub(crate) fn connections(&self) -> &Arc<Connections> {
        &self.connections_now
    }

    /// Counts a new connection to an endpoint.
    pub(crate) fn connect_seconds(&self, took: Duration) {
        self.connects.observe(took.as_secs_f64());
    }

    /// Counts a TLS handshake that failed.
    pub(crate) fn handshake_failed(&self) {
        self.handshakes_failed.inc();
    }

    /// Counts a table put in force.
    pub(crate) fn published(&self, took: Duration) {
        self.publishes.inc();
        self.publish_seconds.observe(took.as_secs_f64());
    }

    /// Counts a request that has ended.
    pub(crate) fn finished(&self, line: &Line<'_>) {
        self.count(line);
        self.overhead.observe(line.duration.saturating_sub(line.upstream).as_secs_f64());
        self.retries.inc_by(u64::from(line.trace.retries));
        if line.trace.budget_exhausted {
            self.budget_exhausted.inc();
        }
        self.hops.observe(f64::from(line.trace.hops));
        for state in &line.trace.stale {
            self.stale.get_or_create(&StateLabel { state: state.as_str() }).inc();
        }
        if let Some(outcome) = line.trace.outcome {
            self.stale_outcomes.get_or_create(&OutcomeLabel { outcome: outcome.as_str() }).inc();
        }
    }

    fn count(&self, line: &Line<'_>) {
        let count_in = |series: &Series| {
            series.requests.inc();
            series.durations.observe(line.duration.as_secs_f64());
        };
        let (service, upstream) = (line.trace.service.as_ref(), line.trace.upstream.as_ref());
        let key = (service.map(|service| service.id), upstream.map(|upstream| upstream.id), line.status, line.reason);
        if let Some(series) = self.series.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return count_in(series);
        }
        let service = service.map(|service| service.name.to_string()).unwrap_or_default();
        let upstream = upstream.map(|upstream| upstream.name.to_string()).unwrap_or_default();
        let durations = self.durations.get_or_create_owned(&ServiceLabel { service: service.clone() });
        let labels = RequestLabels { service, upstream, status: line.status, reason: line.reason.map_or("", Code::as_str) };
        let series = Series { requests: self.requests.get_or_create_owned(&labels), durations };
        count_in(&series);
        self.series.write().unwrap_or_else(PoisonError::into_inner).insert(key, series);
    }

    /// Renders everything in Prometheus' text format.
    pub(crate) fn render(&self, shared: &Shared) -> String {
        let table = shared.view.load_full();
        let status = shared.view.status();
        self.in_flight.set(self.in_flight());
        let resting = self.connections_now.resting.load(Ordering::Relaxed);
        let active = (self.connections_now.open() as usize).saturating_sub(resting);
        for (state, count) in [("active", active), ("resting", resting)] {
            self.connections.get_or_create(&StateLabel { state }).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        self.gold_connected.get_or_create(&SHARD).set(i64::from(status.connected));
        self.gold_other_history.get_or_create(&SHARD).set(i64::from(status.is_other_history));
        // Never in this process: at least as long as it has run.
        let age_seconds = status.age_ms.map_or_else(|| shared.clock.origin().elapsed().as_secs_f64(), |ms| ms as f64 / 1000.0);
        self.gold_age.get_or_create(&SHARD).set(age_seconds);
        let revision = table.as_ref().map_or(0, |table| table.revision());
        self.table_revision.get_or_create(&SHARD).set(i64::try_from(revision).unwrap_or(i64::MAX));
        self.table_routes.set(table.map_or(0, |table| i64::try_from(table.route_count()).unwrap_or(i64::MAX)));
        let (certificates, upstreams) = (shared.certificates.told(), shared.upstreams.told());
        self.certificate_ends.clear();
        for told in certificates.iter().chain(upstreams.iter().filter(|told| told.shows_certificate)) {
            let ends = told.not_after.and_then(|ends| ends.duration_since(std::time::UNIX_EPOCH).ok()).unwrap_or_default();
            self.certificate_ends.get_or_create_owned(&CertificateLabel { certificate: told.label().to_owned() }).set(ends.as_secs_f64());
        }
        let quarantined =
            status.quarantined.len() + certificates.iter().chain(upstreams.iter()).filter(|told| told.fault.is_some()).count();
        self.quarantined.set(i64::try_from(quarantined).unwrap_or(i64::MAX));
        self.held_back.set(i64::try_from(status.held_back_count).unwrap_or(i64::MAX));
        self.snapshot_failed.set(i64::from(status.snapshot.as_ref().is_some_and(|snapshot| snapshot.error.is_some())));
        // One that was never written is as old as the process.
        let snapshot_age = status.snapshot.map(|snapshot| match snapshot.written {
            Some((_, at)) => at.elapsed().unwrap_or_default(),
            None => shared.clock.origin().elapsed(),
        });
        self.snapshot_age.set(snapshot_age.unwrap_or_default().as_secs_f64());
        for (reason, count) in &status.resyncs {
            let counter = self.resyncs.get_or_create_owned(&ReasonLabel { reason });
            counter.inc_by(count.saturating_sub(counter.get()));
        }
        for (outcome, count) in &status.digest_checks {
            let counter = self.digest_checks.get_or_create_owned(&OutcomeLabel { outcome });
            counter.inc_by(count.saturating_sub(counter.get()));
        }
        self.watcher_stalled.set(shared.view.stalled().as_secs_f64());
        self.parked.set(i64::try_from(shared.parking.len()).unwrap_or(i64::MAX));
        self.hints.set(i64::try_from(shared.hints.len()).unwrap_or(i64::MAX));
        let mut text = String::new();
        if let Err(error) = encode(&mut text, &self.registry) {
            tracing::error!(%error, "the metrics could not be rendered");
        }
        text
    }
}

#[cfg(test)]
mod tests;
