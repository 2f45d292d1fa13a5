//! What a load showed: counts, percentiles, and requests a CPU-second of the process that was watched.

use std::{collections::BTreeMap, fmt, time::Duration};

use hdrhistogram::Histogram;
use serde::Serialize;

/// The largest latency that is told apart, in microseconds.
const MAX_US: u64 = 60_000_000;

/// Why a request got no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    Connect,
    Io,
    Timeout,
}

/// Counts of one connection, or of all.
#[derive(Debug)]
pub(crate) struct Tally {
    latencies_us: Histogram<u64>,
    by_status: BTreeMap<u16, u64>,
    connect: u64,
    io: u64,
    timeout: u64,
    wrong: u64,
    bytes: u64,
}

impl Default for Tally {
    fn default() -> Self {
        // Three digits; bounds that are constants can't be wrong.
        let latencies_us = Histogram::new_with_bounds(1, MAX_US, 3).unwrap_or_else(|_| unreachable!("the bounds are constants"));
        Self { latencies_us, by_status: BTreeMap::new(), connect: 0, io: 0, timeout: 0, wrong: 0, bytes: 0 }
    }
}

impl Tally {
    pub(crate) fn answered(&mut self, status: u16, bytes: usize, latency: Duration) {
        *self.by_status.entry(status).or_default() += 1;
        self.bytes += bytes as u64;
        self.latencies_us.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(MAX_US).max(1));
    }

    pub(crate) fn checked(&mut self, is_right: bool) {
        self.wrong += u64::from(!is_right);
    }

    pub(crate) fn failed(&mut self, failure: Failure) {
        *match failure {
            Failure::Connect => &mut self.connect,
            Failure::Io => &mut self.io,
            Failure::Timeout => &mut self.timeout,
        } += 1;
    }

    pub(crate) fn add(&mut self, other: &Self) {
        // Same bounds everywhere: adding can't fail.
        let _ = self.latencies_us.add(&other.latencies_us);
        for (status, count) in &other.by_status {
            *self.by_status.entry(*status).or_default() += count;
        }
        self.connect += other.connect;
        self.io += other.io;
        self.timeout += other.timeout;
        self.wrong += other.wrong;
        self.bytes += other.bytes;
    }
}

/// The result of a load. Latencies in microseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Requests that were answered, whatever the status.
    pub requests: u64,
    /// Answers by status.
    pub by_status: BTreeMap<u16, u64>,
    /// Connections that could not be made.
    pub connect_failures: u64,
    /// Connections that broke.
    pub io_failures: u64,
    /// Requests not answered within ten seconds.
    pub timeouts: u64,
    /// Answers that a check called wrong; 0 without one.
    pub wrong_answers: u64,
    /// How long was measured.
    pub seconds: f64,
    /// Answered requests a second.
    pub requests_per_second: f64,
    /// Bytes of answers.
    pub bytes: u64,
    /// The fastest.
    pub min_us: u64,
    /// Half were at most this slow.
    pub p50_us: u64,
    /// Nine in ten.
    pub p90_us: u64,
    /// 99 in a hundred.
    pub p99_us: u64,
    /// 999 in a thousand.
    pub p999_us: u64,
    /// The slowest.
    pub max_us: u64,
    /// CPU seconds, user and system, of the watched process.
    pub cpu_seconds: Option<f64>,
    /// Answered requests divided by those.
    pub requests_per_cpu_second: Option<f64>,
}

impl Report {
    pub(crate) fn new(total: &Tally, measured: Duration, cpu_seconds: Option<f64>) -> Self {
        let requests: u64 = total.by_status.values().sum();
        let at = |quantile| total.latencies_us.value_at_quantile(quantile);
        Self {
            requests,
            by_status: total.by_status.clone(),
            connect_failures: total.connect,
            io_failures: total.io,
            timeouts: total.timeout,
            wrong_answers: total.wrong,
            seconds: measured.as_secs_f64(),
            requests_per_second: requests as f64 / measured.as_secs_f64(),
            bytes: total.bytes,
            min_us: total.latencies_us.min(),
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: total.latencies_us.max(),
            cpu_seconds,
            requests_per_cpu_second: cpu_seconds.filter(|cpu| *cpu > 0.0).map(|cpu| requests as f64 / cpu),
        }
    }

    /// Requests that failed, were answered 500 or above, or whose answer was called wrong.
    pub fn failed(&self) -> u64 {
        let errors: u64 = self.by_status.range(500..).map(|(_, count)| count).sum();
        errors + self.connect_failures + self.io_failures + self.timeouts + self.wrong_answers
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "requests   {} in {:.1} s: {:.0} a second", self.requests, self.seconds, self.requests_per_second)?;
        if let (Some(cpu), Some(rate)) = (self.cpu_seconds, self.requests_per_cpu_second) {
            writeln!(out, "cpu        {cpu:.2} s of the watched process: {rate:.0} requests a CPU-second")?;
        }
        let statuses: Vec<String> = self.by_status.iter().map(|(status, count)| format!("{status}: {count}")).collect();
        writeln!(out, "answers    {}", if statuses.is_empty() { "none".to_owned() } else { statuses.join(", ") })?;
        if self.connect_failures + self.io_failures + self.timeouts > 0 {
            let Self { connect_failures, io_failures, timeouts, .. } = self;
            writeln!(out, "failures   {connect_failures} not connected, {io_failures} broken, {timeouts} timed out")?;
        }
        let Self { min_us, p50_us, p90_us, p99_us, p999_us, max_us, .. } = self;
        write!(out, "latency    min {min_us} µs, p50 {p50_us}, p90 {p90_us}, p99 {p99_us}, p99.9 {p999_us}, max {max_us}")
    }
}

/// User and system CPU seconds of a process, all threads, from `/proc/<pid>/stat`.
///
/// # Errors
/// A sentence, if there is no such process.
pub fn cpu_seconds_of(pid: u32) -> Result<f64, String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).map_err(|_| format!("there is no process {pid} to watch"))?;
    // The second field, the name, may hold spaces and brackets; it ends with the last bracket.
    let fields: Vec<&str> = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default();
    let ticks = |at: usize| fields.get(at).and_then(|ticks| ticks.parse::<u64>().ok()).unwrap_or(0);
    // utime and stime are fields 14 and 15; the kernel reports them in ticks of 1/100 s on every Linux (USER_HZ).
    Ok((ticks(11) + ticks(12)) as f64 / 100.0)
}
