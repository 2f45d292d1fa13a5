//! A process with its children and theirs: stopped, woken and weighed as one.

use std::collections::BTreeMap;

use rustix::process::{Pid, Signal, kill_process};
use waypost_bench::processes::{Told, memory_of};

/// The process and all below it.
fn members(root: u32) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        // The name may hold spaces and brackets; it ends with the last bracket, and the parent is two fields behind it.
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        if let Some(parent) = parent {
            children.entry(parent).or_default().push(pid);
        }
    }
    let (mut found, mut next) = (vec![root], 0);
    while let Some(pid) = found.get(next) {
        let below = children.get(pid).cloned().unwrap_or_default();
        found.extend(below);
        next += 1;
    }
    found
}

/// Sends a signal to all of them. One that has ended meanwhile needs none.
pub(crate) fn signal(root: u32, signal: Signal) {
    for pid in members(root) {
        let _ = i32::try_from(pid).ok().and_then(Pid::from_raw).map(|pid| kill_process(pid, signal));
    }
}

/// Ends all that are below a process, whatever they are doing.
pub(crate) fn end_below(root: u32) {
    for pid in members(root).into_iter().skip(1) {
        let _ = i32::try_from(pid).ok().and_then(Pid::from_raw).map(|pid| kill_process(pid, Signal::KILL));
    }
}

/// Resident memory of all of them, in bytes.
pub(crate) fn memory(root: u32) -> Told<u64> {
    let (own, _) = memory_of(root)?;
    Ok(own + members(root).into_iter().skip(1).filter_map(|pid| memory_of(pid).ok()).map(|(resident, _)| resident).sum::<u64>())
}
