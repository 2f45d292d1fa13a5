//! What else the machine was doing while something was measured.

use std::time::Instant;

use waypost_bench::processes::{Told, say};

/// The kernel reports times in ticks of 1/100 s on every Linux (USER_HZ).
const TICKS_PER_SECOND: f64 = 100.0;

/// A moment, with what had been used up to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    at: Instant,
    all: f64,
    stolen: f64,
    ours: f64,
}

/// Between two moments, in cores: what processes that are not ours used, and what the machine's host took away.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Others {
    pub(crate) cores: f64,
    pub(crate) stolen: f64,
}

impl Moment {
    /// Now; `ours` are processes that are still running beside this one.
    pub(crate) fn now(ours: &[u32]) -> Told<Self> {
        let stat = std::fs::read_to_string("/proc/stat").map_err(say)?;
        let line = stat.lines().next().unwrap_or_default();
        let ticks: Vec<f64> = line.split_whitespace().skip(1).filter_map(|ticks| ticks.parse().ok()).collect();
        let at = |place: usize| ticks.get(place).copied().unwrap_or(0.0) / TICKS_PER_SECOND;
        // user, nice, system, (idle, iowait,) irq, softirq, steal
        let all = at(0) + at(1) + at(2) + at(5) + at(6);
        let children: f64 = ours.iter().map(|pid| used(*pid)).sum();
        Ok(Self { at: Instant::now(), all, stolen: at(7), ours: used(std::process::id()) + children })
    }

    /// What others used since an earlier moment.
    pub(crate) fn others_since(&self, earlier: &Self) -> Others {
        let seconds = (self.at - earlier.at).as_secs_f64().max(0.001);
        let (all, ours) = (self.all - earlier.all, self.ours - earlier.ours);
        Others { cores: ((all - ours) / seconds).max(0.0), stolen: (self.stolen - earlier.stolen) / seconds }
    }
}

/// Seconds that a process has used, with those of its children that have ended; 0 if it is not there.
fn used(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default();
    // utime, stime, cutime and cstime are fields 14 to 17; the first that is left is the third.
    let ticks: f64 = (11..15).filter_map(|place| fields.get(place)?.parse::<f64>().ok()).sum();
    ticks / TICKS_PER_SECOND
}

/// The load average of the last minute.
pub(crate) fn load() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ').next().unwrap_or_default().to_owned()
}
