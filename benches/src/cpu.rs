//! CPU time of processes with their children, from `/proc`.

use std::collections::{BTreeMap, BTreeSet};

/// The kernel reports times in ticks of 1/100 s on every Linux (USER_HZ).
const TICKS: f64 = 100.0;

/// User and system CPU seconds of a process, all threads, its children and theirs. Of children that have ended, it counts what their parent has
/// waited for.
///
/// # Errors
/// A sentence, if there is no such process.
pub fn cpu_seconds_of(pid: u32) -> Result<f64, String> {
    cpu_seconds_of_all(&[pid])
}

/// The same of several together; none is counted twice.
///
/// # Errors
/// A sentence, if one of them is not there.
pub fn cpu_seconds_of_all(pids: &[u32]) -> Result<f64, String> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    let all = std::fs::read_dir("/proc").map_err(|error| format!("/proc can't be read: {error}"))?;
    let mut ticks: BTreeMap<u32, u64> = BTreeMap::new();
    for pid in all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()) {
        // One that has ended meanwhile is in its parent's time.
        let Some(process) = Process::read(pid) else { continue };
        children.entry(process.parent).or_default().push(pid);
        ticks.insert(pid, process.ticks);
    }
    let (mut counted, mut left) = (BTreeSet::new(), Vec::new());
    for pid in pids {
        if !ticks.contains_key(pid) {
            return Err(format!("there is no process {pid} to watch"));
        }
        left.push(*pid);
    }
    while let Some(pid) = left.pop() {
        if counted.insert(pid) {
            left.extend(children.get(&pid).into_iter().flatten());
        }
    }
    let sum: u64 = counted.iter().filter_map(|pid| ticks.get(pid)).sum();
    Ok(sum as f64 / TICKS)
}

struct Process {
    parent: u32,
    /// Its own and those of children that it has waited for.
    ticks: u64,
}

impl Process {
    fn read(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field, the name, may hold spaces and brackets; it ends with the last bracket.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        // The parent is field 4; utime, stime, cutime and cstime are fields 14 to 17.
        let ticks = fields.get(11..15)?.iter().map(|ticks| ticks.parse::<i64>().map_or(0, i64::unsigned_abs)).sum();
        Some(Self { parent: fields.get(1)?.parse().ok()?, ticks })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn children_are_counted_while_they_run_and_when_they_have_ended() {
        let spin = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; echo done; read x";
        let nested = format!("sh -c '{spin}'; echo; read x");
        let mut parent = Command::new("sh").args(["-c", &nested]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = std::io::BufReader::new(parent.stdout.take().unwrap());
        let mut line = String::new();
        std::io::BufRead::read_line(&mut said, &mut line).unwrap();
        let running = cpu_seconds_of(parent.id()).unwrap();
        assert!(running > 0.0, "{running}");
        std::io::Write::write_all(parent.stdin.as_mut().unwrap(), b"x\n").unwrap();
        line.clear();
        std::io::BufRead::read_line(&mut said, &mut line).unwrap();
        let waited_for = cpu_seconds_of(parent.id()).unwrap();
        assert!(waited_for >= running, "{waited_for} {running}");
        assert_eq!(cpu_seconds_of_all(&[parent.id(), parent.id()]).unwrap(), waited_for);
        parent.kill().unwrap();
        parent.wait().unwrap();
        assert!(cpu_seconds_of(parent.id()).is_err());
    }
}
