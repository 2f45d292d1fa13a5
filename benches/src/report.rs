//! What a load showed: counts, latencies, seconds one by one, and requests a CPU-second of the processes that were watched.
//!
//! As JSON it has all of it, with the plan and the version; as text what fits a screen; as a picture its latencies ([`svg`]).

mod svg;
mod table;

use std::{collections::BTreeMap, time::Duration};

use hdrhistogram::Histogram;
use serde::Serialize;

pub use svg::{Scale, svg};

use crate::{
    plan::Plan,
    tally::{ClassTally, Tally},
};

/// How many points a curve of percentiles has each time that what is left of it halves.
const POINTS: u32 = 5;

/// The result of a load.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The version of the generator.
    pub version: &'static str,
    /// What was asked for.
    pub plan: Plan,
    /// Requests that were answered, whatever the status.
    pub requests: u64,
    /// Answers by status.
    pub by_status: BTreeMap<u16, u64>,
    /// Requests that were not answered, by kind; and answers that were wrong.
    pub failures: Failures,
    /// Requests that failed, were answered 500 or above, or whose answer was called wrong.
    pub failed: u64,
    /// In an open loop: requests that were due and could not be sent before the end, since all before them had not been answered.
    pub unsent: u64,
    /// Requests under way when the load ended. They are in no latency.
    pub unfinished: u64,
    /// How long was measured.
    pub seconds: f64,
    /// Answered requests a second.
    pub requests_per_second: f64,
    /// Bytes of answers, heads included, before TLS.
    pub bytes_in: u64,
    /// Bytes of the requests that they answer, the same.
    pub bytes_out: u64,
    /// Connections made while it was measured.
    pub connections_made: u64,
    /// How long requests took; in an open loop from when each was due, if its lane was busy then.
    pub latency: Latencies,
    /// In an open loop: the same from when each was sent.
    pub service: Option<Latencies>,
    /// With a share of stale keys: the others.
    pub fresh: Option<Class>,
    /// With a share of stale keys: those.
    pub stale: Option<Class>,
    /// CPU seconds, user and system, of the watched processes.
    pub cpu_seconds: Option<f64>,
    /// Answered requests divided by those.
    pub requests_per_cpu_second: Option<f64>,
    /// CPU seconds of the generator's own threads. With nearly `seconds` a thread it is the generator that was measured.
    pub generator_cpu_seconds: f64,
    /// Second by second.
    pub series: Vec<Second>,
}

/// Why requests were not answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Failures {
    /// Connections that could not be made.
    pub not_connected: u64,
    /// Handshakes of TLS that failed.
    pub tls: u64,
    /// Connections that broke.
    pub broken: u64,
    /// Streams that were reset (HTTP/2).
    pub reset: u64,
    /// Answers that were none.
    pub protocol: u64,
    /// Requests not answered within ten seconds.
    pub timed_out: u64,
    /// Answers that a check called wrong; 0 without one.
    pub wrong_answers: u64,
    /// What the first of them was.
    pub first: Option<String>,
}

/// A kind of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailureKind {
    NotConnected,
    Tls,
    Broken,
    Reset,
    Protocol,
    TimedOut,
}

/// How long requests took, in microseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Latencies {
    /// How many requests.
    pub count: u64,
    /// The fastest.
    pub min_us: u64,
    /// The mean.
    pub mean_us: f64,
    /// Half were at most this slow.
    pub p50_us: u64,
    /// Nine in ten.
    pub p90_us: u64,
    /// 99 in a hundred.
    pub p99_us: u64,
    /// 999 in a thousand.
    pub p999_us: u64,
    /// 9,999 in ten thousand.
    pub p9999_us: u64,
    /// The slowest.
    pub max_us: u64,
    /// The whole curve, from the fastest to the slowest.
    pub percentiles: Vec<Percentile>,
}

/// A point of a curve.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Percentile {
    /// 0 to 100.
    pub percentile: f64,
    /// So many in a hundred requests were at most this slow.
    pub us: u64,
    /// How many requests that are.
    pub count: u64,
}

/// One kind of key.
#[derive(Clone, Debug, Serialize)]
pub struct Class {
    /// Requests that were answered.
    pub requests: u64,
    /// As in [`Report::failed`].
    pub failed: u64,
    /// How long they took, counted as in [`Report::latency`].
    pub latency: Latencies,
}

/// One second of a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Second {
    /// Its number, from 0.
    pub second: usize,
    /// Requests that were answered in it.
    pub requests: u64,
    /// As in [`Report::failed`].
    pub failed: u64,
    /// Half were at most this slow.
    pub p50_us: u64,
    /// 99 in a hundred.
    pub p99_us: u64,
    /// The slowest.
    pub max_us: u64,
    /// Bytes of answers.
    pub bytes_in: u64,
    /// Bytes of requests.
    pub bytes_out: u64,
}

/// What is known beside the counts.
pub(crate) struct Beside {
    pub(crate) cpu_seconds: Option<f64>,
    pub(crate) generator_cpu_seconds: f64,
    pub(crate) series: Vec<Second>,
}

impl Report {
    pub(crate) fn new(plan: &Plan, total: &Tally, beside: Beside) -> Self {
        let by_status = total.by_status();
        let requests: u64 = by_status.values().sum();
        let seconds = plan.duration.as_secs_f64();
        let Beside { cpu_seconds, generator_cpu_seconds, mut series } = beside;
        series.retain(|second| Duration::from_secs(second.second as u64) < plan.duration);
        let mut classes = total.classes.iter().map(Class::new);
        let (fresh, stale) = if plan.stale.is_some() { (classes.next(), classes.next()) } else { (None, None) };
        Self {
            version: env!("CARGO_PKG_VERSION"),
            plan: plan.clone(),
            requests,
            by_status,
            failures: total.failures.clone(),
            failed: total.failed(),
            unsent: total.unsent,
            unfinished: total.unfinished,
            seconds,
            requests_per_second: requests as f64 / seconds,
            bytes_in: total.bytes_in,
            bytes_out: total.bytes_out,
            connections_made: total.connections_made,
            latency: Latencies::new(&total.latency_us()),
            service: total.service_us.as_ref().map(Latencies::new),
            fresh,
            stale,
            cpu_seconds,
            requests_per_cpu_second: cpu_seconds.filter(|cpu| *cpu > 0.0).map(|cpu| requests as f64 / cpu),
            generator_cpu_seconds,
            series,
        }
    }

    /// Requests that failed, were answered 500 or above, or whose answer was called wrong; of the warm-up only the last.
    pub fn failed(&self) -> u64 {
        self.failed.max(self.failures.wrong_answers)
    }
}

impl Failures {
    /// Requests that were not answered.
    pub fn unanswered(&self) -> u64 {
        self.not_connected + self.tls + self.broken + self.reset + self.protocol + self.timed_out
    }
}

impl Latencies {
    pub(crate) fn new(of: &Histogram<u64>) -> Self {
        let at = |quantile| of.value_at_quantile(quantile);
        let mut seen = 0;
        let points = of.iter_quantiles(POINTS).map(|step| {
            seen += step.count_since_last_iteration();
            Percentile { percentile: step.quantile_iterated_to() * 100.0, us: step.value_iterated_to().min(of.max()), count: seen }
        });
        Self {
            count: of.len(),
            min_us: of.min(),
            mean_us: of.mean(),
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            p9999_us: at(0.9999),
            max_us: of.max(),
            percentiles: points.collect(),
        }
    }
}

impl Class {
    fn new(tally: &ClassTally) -> Self {
        Self { requests: tally.latency_us.len(), failed: tally.failed, latency: Latencies::new(&tally.latency_us) }
    }
}

impl Second {
    pub(crate) fn new(second: usize, tally: &Tally) -> Self {
        let latency = tally.latency_us();
        let at = |quantile| latency.value_at_quantile(quantile);
        Self {
            second,
            requests: latency.len(),
            failed: tally.failed(),
            p50_us: at(0.5),
            p99_us: at(0.99),
            max_us: latency.max(),
            bytes_in: tally.bytes_in,
            bytes_out: tally.bytes_out,
        }
    }
}
