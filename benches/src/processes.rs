//! The processes that a bench starts, pins, asks and ends: each with a log of its own, ended by its own pid when its handle goes.
//!
//! Everything is on loopback and on ports that were free a moment before.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, getpriority_process, kill_process, setpriority_process};

/// How long anything may take to start, or to come to what it is waited for.
pub const LIMIT: Duration = Duration::from_secs(60);
/// How often it is looked at meanwhile. A start is measured by it, so it is short.
const POLL: Duration = Duration::from_millis(2);
/// Some thirty times less of a contended core.
const STANDING_BACK: i32 = 15;
/// How long an answer of an admin endpoint may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// What a bench's step gives, or a sentence.
pub type Told<T> = Result<T, String>;

/// A process of ours, ended with its handle.
#[derive(Debug)]
pub struct Running(Child);

impl Running {
    /// Starts a program; what it says goes to `<name>.log` in the folder.
    ///
    /// # Errors
    /// If it can't be started.
    pub fn start(command: &mut Command, folder: &Path, name: &str) -> Told<Self> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(folder.join(format!("{name}.log"))).map_err(say)?;
        command.stdin(Stdio::null()).stdout(log.try_clone().map_err(say)?).stderr(log);
        command.spawn().map(Self).map_err(|error| format!("{name} could not be started: {error}; `make bench` installs what is missing"))
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.0.try_wait(), Ok(None))
    }

    /// Asks it to end (SIGTERM), and waits until it has.
    ///
    /// # Errors
    /// If it does not end in time.
    pub fn end(mut self) -> Told<()> {
        kill_process(Pid::from_child(&self.0), Signal::TERM).map_err(say)?;
        wait_until("a process to end", || Ok(self.has_ended()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts one etcd member with its data in the folder; it listens when this returns.
///
/// # Errors
/// If it does not come up.
pub fn start_etcd(folder: &Path, data: &str, client: SocketAddr, more: &[&str]) -> Told<Running> {
    let peer = format!("http://{}", free_address()?);
    let client_url = format!("http://{client}");
    let mut command = Command::new(std::env::var_os("ETCD_BIN").unwrap_or_else(|| "etcd".into()));
    command.arg("--data-dir").arg(folder.join(data));
    command.args(["--name", "bench", "--listen-client-urls", &client_url, "--advertise-client-urls", &client_url]);
    command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
    command.args(["--initial-cluster", &format!("bench={peer}")]).args(more);
    let mut etcd = Running::start(&mut command, folder, "etcd")?;
    wait_until(
        "etcd to listen",
        || {
            if etcd.has_ended() { Err("etcd has ended".to_owned()) } else { Ok(TcpStream::connect(client).is_ok()) }
        },
    )?;
    Ok(etcd)
}

/// The built binary: the one that `WAYPOST_BIN` names, or the one beside this program.
///
/// # Errors
/// If there is none.
pub fn waypost_binary() -> Told<PathBuf> {
    if let Some(named) = std::env::var_os("WAYPOST_BIN") {
        return Ok(named.into());
    }
    let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.join("waypost")));
    beside.filter(|path| path.exists()).ok_or_else(|| "waypost is not built beside this program; name it in WAYPOST_BIN".to_owned())
}

/// Keeps all threads of a process on these cores, `0` or `0,1`.
///
/// # Errors
/// If there is no such core, or no `taskset`.
pub fn pin(pid: u32, cores: &str) -> Told<()> {
    let pinned = Command::new("taskset").args(["-a", "-p", "-c", cores, &pid.to_string()]).stdout(Stdio::null()).status();
    match pinned {
        Ok(status) if status.success() => Ok(()),
        _ => Err("taskset failed; this comparison needs two cores and util-linux".to_owned()),
    }
}

/// From now on all threads of a process stand back from the others of the bench.
///
/// # Errors
/// If there is no such process.
pub fn stand_back(pid: u32) -> Told<()> {
    for thread in std::fs::read_dir(format!("/proc/{pid}/task")).map_err(say)? {
        let thread = thread.map_err(say)?.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        // One that has ended meanwhile is in nobody's way.
        let _ = thread.map(|thread| setpriority_process(Some(thread), standing_back()));
    }
    Ok(())
}

/// From now on the calling thread, and those that it starts, stand back from the others of the bench.
///
/// # Errors
/// If the system does not let it.
pub fn thread_stands_back() -> Told<()> {
    setpriority_process(None, standing_back()).map_err(say)
}

/// A niceness far above this process's own: who has it runs where the others don't want to.
fn standing_back() -> i32 {
    let own = getpriority_process(Some(rustix::process::getpid())).unwrap_or(0);
    (own + STANDING_BACK).min(19)
}

/// An address that is free now.
///
/// # Errors
/// If there is none.
pub fn free_address() -> Told<SocketAddr> {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).map_err(say)
}

/// Waits for a condition, but not for ever; `what` names it in the error.
///
/// # Errors
/// If it does not hold in time, or can't be looked at.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> Told<bool>) -> Told<()> {
    let ends = Instant::now() + LIMIT;
    while !holds()? {
        if Instant::now() > ends {
            return Err(format!("waited {LIMIT:?} for {what}"));
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

/// Asks an admin endpoint: the status and the body; `None` if there is no answer.
pub fn http_get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(ANSWER_LIMIT)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// Memory of a process in bytes: resident now, and the most that ever was.
///
/// # Errors
/// If there is no such process.
pub fn memory_of(pid: u32) -> Told<(u64, u64)> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).map_err(|_| format!("there is no process {pid}"))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim_start_matches(':').split_whitespace().next()?.parse::<u64>().ok()
    };
    Ok((field("VmRSS").unwrap_or(0) * 1024, field("VmHWM").unwrap_or(0) * 1024))
}

/// An error's sentence.
pub fn say(error: impl std::fmt::Display) -> String {
    error.to_string()
}
