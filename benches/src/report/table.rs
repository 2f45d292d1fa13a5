//! A report for a person: what fits a screen.

use std::fmt;

use super::{Latencies, Report, Second};
use crate::plan::Pace;

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requests, seconds, requests_per_second, failures, .. } = self;
        writeln!(out, "requests   {requests} in {seconds:.1} s: {requests_per_second:.0} a second")?;
        if let Pace::Open { requests_per_second: wanted } = self.plan.pace
            && self.unsent > self.plan.lanes() as u64
        {
            let Self { unsent, unfinished, .. } = self;
            writeln!(
                out,
                "           {wanted:.0} a second were due: {unsent} could not be sent before the end, {unfinished} were not answered by then"
            )?;
        }
        if let (Some(cpu), Some(rate)) = (self.cpu_seconds, self.requests_per_cpu_second) {
            writeln!(out, "cpu        {cpu:.2} s of the watched processes: {rate:.0} requests a CPU-second")?;
        }
        writeln!(out, "generator  {:.2} s of CPU on {} threads", self.generator_cpu_seconds, self.plan.threads)?;
        writeln!(out, "bytes      {} in, {} out; {} connections made", Bytes(self.bytes_in), Bytes(self.bytes_out), self.connections_made)?;
        let statuses: Vec<String> = self.by_status.iter().map(|(status, count)| format!("{status}: {count}")).collect();
        writeln!(out, "answers    {}", if statuses.is_empty() { "none".to_owned() } else { statuses.join(", ") })?;
        let kinds = [
            (failures.not_connected, "not connected"),
            (failures.tls, "without TLS"),
            (failures.broken, "broken"),
            (failures.reset, "reset"),
            (failures.protocol, "no HTTP"),
            (failures.timed_out, "timed out"),
            (failures.wrong_answers, "wrong"),
        ];
        let kinds: Vec<String> = kinds.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
        if !kinds.is_empty() {
            let first = failures.first.as_ref().map(|first| format!("; the first: {first}")).unwrap_or_default();
            writeln!(out, "failures   {}{first}", kinds.join(", "))?;
        }
        write!(
            out,
            "{:<10} {:>10} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}",
            "µs", "count", "min", "p50", "p90", "p99", "p99.9", "p99.99", "max"
        )?;
        row(out, "latency", &self.latency)?;
        let others = [("service", self.service.as_ref()), ("fresh", self.fresh.as_ref().map(|class| &class.latency))];
        let stale = ("stale", self.stale.as_ref().map(|class| &class.latency));
        for (name, latencies) in others.into_iter().chain([stale]) {
            if let Some(latencies) = latencies {
                row(out, name, latencies)?;
            }
        }
        Ok(())
    }
}

fn row(out: &mut fmt::Formatter<'_>, name: &str, latencies: &Latencies) -> fmt::Result {
    let Latencies { count, min_us, p50_us, p90_us, p99_us, p999_us, p9999_us, max_us, .. } = latencies;
    write!(out, "\n{name:<10} {count:>10} {min_us:>8} {p50_us:>8} {p90_us:>8} {p99_us:>8} {p999_us:>8} {p9999_us:>8} {max_us:>8}")
}

/// A line of live progress.
impl fmt::Display for Second {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requests, failed, p50_us, p99_us, max_us, .. } = self;
        write!(out, "{:>4} s {requests:>9} requests, p50 {p50_us} µs, p99 {p99_us}, max {max_us}, {failed} failed", self.second + 1)
    }
}

/// A number of bytes as a person reads it.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(1_u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        match units.iter().find(|(size, _)| self.0 >= *size) {
            Some((size, unit)) => write!(out, "{:.1} {unit}", self.0 as f64 / *size as f64),
            None => write!(out, "{} B", self.0),
        }
    }
}
