//! What a process takes of the machine, as the kernel counts it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// Resident memory of a process, in bytes; 0 once it has ended.
pub fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: u64 = line.and_then(|value| value.split_whitespace().next()?.parse().ok()).unwrap_or(0);
    kib * 1024
}

/// How many files and sockets a process has open.
pub fn open_files(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// Raises the number of files that this process and those it starts may open as far as is allowed, and says how far that is.
pub async fn raise_open_files() -> u64 {
    let own = std::process::id().to_string();
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let hard = line.split_whitespace().nth(1).unwrap().to_owned();
    crate::program("prlimit", &["--pid", &own, &format!("--nofile={hard}:{hard}")], b"").await.succeeded();
    hard.parse().unwrap_or(u64::MAX)
}

/// Samples a process's resident memory over a run.
pub struct Sampler {
    pid: u32,
    baseline: u64,
    peak: Arc<AtomicU64>,
    samples: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Sampler {
    /// Starts from what the process takes now.
    pub fn start(pid: u32) -> Self {
        let (peak, samples) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (highest, taken) = (Arc::clone(&peak), Arc::clone(&samples));
        let task = tokio::spawn(async move {
            loop {
                highest.fetch_max(resident_bytes(pid), Ordering::Relaxed);
                taken.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        Self { pid, baseline: resident_bytes(pid), peak, samples, task }
    }

    /// How many samples were taken so far.
    pub fn samples(&self) -> u64 {
        self.samples.load(Ordering::Relaxed)
    }

    /// How far above the start it has been, in bytes.
    pub fn growth(&self) -> u64 {
        self.peak.load(Ordering::Relaxed).max(resident_bytes(self.pid)).saturating_sub(self.baseline)
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.task.abort();
    }
}
