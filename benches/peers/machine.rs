//! What a reader of figures has to know of the machine and the programs.

use std::{
    process::Command,
    time::{Instant, SystemTime},
};

use waypost_bench::{
    cpu_seconds_of,
    processes::{Told, say},
};

use crate::{peer::PEERS, running::Results};

/// Processor, cores, kernel and day, in a line.
pub(crate) fn describe() -> String {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field =
        |name: &str| cpus.lines().find(|line| line.starts_with(name)).and_then(|line| Some(line.split_once(':')?.1.trim().to_owned()));
    let cores = cpus.lines().filter(|line| line.starts_with("processor")).count();
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    // Numbers only: what stands behind them is often the machine's owner's.
    let kernel = kernel.split('-').next().unwrap_or_default().trim();
    let day = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = memory.lines().next().and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or(0) / 1024 / 1024;
    format!(
        "{}, {cores} cores, {memory} GB, Linux {kernel}, {}",
        field("model name").unwrap_or_else(|| "a processor without a name".to_owned()),
        day.split('T').next().unwrap_or_default()
    )
}

/// A peer's name and version; `None` if it was not there.
pub(crate) fn version(peer: usize, results: &Results) -> Option<String> {
    let program = results.programs.get(peer)?.as_ref()?;
    let ran = Command::new(program).args(PEERS[peer].version_arguments()).output().ok()?;
    let said = format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    Some(format!("{} {}", PEERS[peer].name(), PEERS[peer].version_in(&said).unwrap_or_else(|| "of an unknown version".to_owned())))
}

/// The store's.
pub(crate) fn etcd_version() -> String {
    let etcd = std::env::var_os("ETCD_BIN").unwrap_or_else(|| "etcd".into());
    let said =
        Command::new(etcd).arg("--version").output().map(|ran| String::from_utf8_lossy(&ran.stdout).into_owned()).unwrap_or_default();
    format!("etcd {}", said.split_whitespace().nth(2).unwrap_or("of an unknown version"))
}

/// What had been used up to a moment, in CPU seconds: by all processes of the machine, and by this one with all that it has started.
pub(crate) struct Moment {
    at: Instant,
    all: f64,
    ours: f64,
}

impl Moment {
    pub(crate) fn now() -> Told<Self> {
        let stat = std::fs::read_to_string("/proc/stat").map_err(say)?;
        // user, nice and system, in ticks of 1/100 s on every Linux (USER_HZ).
        let ticks = stat.lines().next().unwrap_or_default().split_whitespace().skip(1).take(3);
        let all = ticks.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0;
        Ok(Self { at: Instant::now(), all, ours: cpu_seconds_of(std::process::id())? })
    }

    /// What others have used since then, in cores.
    pub(crate) fn others_since(&self) -> Told<f64> {
        let now = Self::now()?;
        let seconds = (now.at - self.at).as_secs_f64().max(0.001);
        Ok((((now.all - self.all) - (now.ours - self.ours)) / seconds).max(0.0))
    }
}
