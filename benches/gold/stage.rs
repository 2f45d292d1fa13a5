//! What all scenes share: a real etcd with the routes in it, owners behind them, and the built binary as a process.
//!
//! After [`Stage::share_out`] the proxy has core 0 to itself, and everything else core 1.

use std::{
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;
use waypost_bench::{
    Keys, Pace, Plan, Target,
    processes::{LIMIT, Running, Told, free_address, http_get, pin, say, stand_back, start_etcd, wait_until, waypost_binary},
    serve_owner,
};

use crate::{
    Size,
    machine::{self, Moment, Others},
    store::{self, PREFIX},
};

/// How many owners there are.
pub(crate) const OWNERS: u64 = 10;
/// Of a million routes, all their history and what is written meanwhile: more than etcd's default of 2 GB.
const QUOTA: &str = "--quota-backend-bytes=8000000000";
/// Connections that requests come over.
const CONNECTIONS: usize = 32;

/// The stage.
pub(crate) struct Stage {
    pub(crate) size: Size,
    folder: TempDir,
    etcd_address: SocketAddr,
    etcd: Mutex<Option<Running>>,
    /// Who owns each route, as it was written last.
    owners: Mutex<Vec<u8>>,
    cores: usize,
}

/// How a proxy is started.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) gold: String,
    pub(crate) prefix: &'static str,
    pub(crate) snapshot: PathBuf,
    /// With one worker, on core 0.
    pub(crate) on_one_core: bool,
}

/// A running proxy.
pub(crate) struct Proxy {
    process: Running,
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    /// From the process's start to the first `/readyz` 200.
    pub(crate) ready_after: Duration,
}

impl Stage {
    /// Starts everything, and writes the routes.
    pub(crate) fn open(size: Size) -> Told<Self> {
        let folder = tempfile::tempdir().map_err(say)?;
        let etcd_address = free_address()?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let etcd = start_etcd(folder.path(), "etcd", etcd_address, &[QUOTA])?;
        let owners = (0..size.routes).map(|number| (number % OWNERS) as u8).collect();
        let stage = Self { size, folder, etcd_address, etcd: Mutex::new(Some(etcd)), owners: Mutex::new(owners), cores };
        let since = Instant::now();
        let addresses = start_owners()?;
        store::block_on(store::load(&stage.gold(), &addresses, &stage.owners()))?;
        say_done(&format!("{} routes written in {:.1} s", size.routes, since.elapsed().as_secs_f64()));
        Ok(stage)
    }

    /// Where the store is.
    pub(crate) fn gold(&self) -> String {
        format!("http://{}", self.etcd_address)
    }

    pub(crate) fn etcd_address(&self) -> SocketAddr {
        self.etcd_address
    }

    /// Who owns each route; whoever writes routes changes it.
    pub(crate) fn owners(&self) -> MutexGuard<'_, Vec<u8>> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a snapshot.
    pub(crate) fn snapshot(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.snapshot"))
    }

    /// From now on everything but the proxy stays on core 1.
    pub(crate) fn share_out(&self) -> Told<()> {
        if self.cores < 2 {
            return if self.size.is_judged { Err("two cores are needed".to_owned()) } else { Ok(()) };
        }
        pin(std::process::id(), "1")?;
        self.etcd_pid().map_or(Ok(()), |pid| pin(pid, "1"))
    }

    /// From now on etcd runs where the load generator, the measure of everything, does not want to.
    pub(crate) fn etcd_stands_back(&self) -> Told<()> {
        self.etcd_pid().map_or(Ok(()), stand_back)
    }

    fn etcd_pid(&self) -> Option<u32> {
        self.etcd.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(Running::pid)
    }

    /// Ends the store.
    pub(crate) fn end_store(&self) -> Told<()> {
        let etcd = self.etcd.lock().unwrap_or_else(PoisonError::into_inner).take();
        etcd.map_or(Ok(()), Running::end)
    }

    /// A load over all routes.
    pub(crate) fn plan(&self, proxy: &Proxy, requests_per_second: f64, duration: Duration) -> Plan {
        Plan {
            headers: vec![("x-tenant".to_owned(), "{key}".to_owned())],
            keys: Keys { prefix: "tenant-".to_owned(), range: 0..self.size.routes },
            pace: Pace::Open { requests_per_second },
            connections: CONNECTIONS,
            duration,
            watch_pids: vec![proxy.pid()],
            ..Plan::to(Target { address: proxy.address, tls: false, host: "bench.example.com".to_owned(), path: "/".to_owned() })
        }
    }

    /// What is compared with [`Stage::others_since`] later.
    pub(crate) fn moment(&self, proxy: Option<&Proxy>) -> Told<Moment> {
        let ours: Vec<u32> = self.etcd_pid().into_iter().chain(proxy.map(Proxy::pid)).collect();
        Moment::now(&ours)
    }

    /// What the machine did beside us.
    pub(crate) fn others_since(&self, earlier: &Moment, proxy: Option<&Proxy>) -> Told<Others> {
        Ok(self.moment(proxy)?.others_since(earlier))
    }

    /// The last lines that the processes said.
    pub(crate) fn show_logs(&self) {
        for name in ["etcd", "waypost"] {
            let log = std::fs::read_to_string(self.folder.path().join(format!("{name}.log"))).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            lines.iter().skip(lines.len().saturating_sub(8)).for_each(|line| eprintln!("{name}: {line}"));
        }
    }

    /// Starts a proxy and waits until it is ready.
    pub(crate) fn start(&self, asked: &Asked) -> Told<Proxy> {
        let (address, admin) = (free_address()?, free_address()?);
        let binary = waypost_binary()?;
        let pinned = asked.on_one_core && self.cores > 1;
        let mut command = Command::new(if pinned { "taskset".into() } else { binary.clone() });
        if pinned {
            command.args(["-c", "0"]).arg(binary);
        }
        command.args(["run", "--id", "bench", "--access-log", "off", "--gold", &asked.gold, "--prefix", asked.prefix]);
        command.args(["--listen", &address.to_string(), "--admin", &admin.to_string(), "--snapshot"]).arg(&asked.snapshot);
        if asked.on_one_core {
            command.args(["--threads", "1"]);
        }
        let since = Instant::now();
        let mut process = Running::start(&mut command, self.folder.path(), "waypost")?;
        wait_until(
            "the proxy to be ready",
            || {
                if process.has_ended() { Err("the proxy has ended".to_owned()) } else { Ok(is_ready(admin)) }
            },
        )?;
        Ok(Proxy { process, address, admin, ready_after: since.elapsed() })
    }

    /// A proxy of the routes, as most scenes need it.
    pub(crate) fn asked(&self, snapshot: &str) -> Asked {
        Asked { gold: self.gold(), prefix: PREFIX, snapshot: self.snapshot(snapshot), on_one_core: true }
    }

    /// Proves that a proxy's table is the store's, by the product's own command.
    pub(crate) fn check_against(&self, proxy: &Proxy) -> Told<String> {
        let mut check = Command::new(waypost_binary()?);
        check.args(["check", "--against", &proxy.admin.to_string(), "--gold", &self.gold(), "--prefix", PREFIX]);
        let checked = check.output().map_err(say)?;
        let said = String::from_utf8_lossy(&checked.stderr).trim().trim_start_matches("waypost: ").to_owned();
        if checked.status.success() { Ok(said) } else { Err(format!("the table is not the store's: {said}")) }
    }
}

impl Proxy {
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// `/status`
    pub(crate) fn status(&self) -> Told<Value> {
        let (_, body) = http_get(self.admin, "/status").ok_or("the proxy does not answer /status")?;
        serde_json::from_str(&body).map_err(say)
    }

    /// The revision in force.
    pub(crate) fn revision(&self) -> Told<u64> {
        Ok(self.status()?["gold"][0]["revision"].as_u64().unwrap_or(0))
    }

    /// Waits until a revision is in force.
    pub(crate) fn reaches(&self, revision: u64) -> Told<()> {
        wait_until(&format!("revision {revision} to be in force"), || Ok(self.revision()? >= revision))
    }

    /// Waits until what is in force is in the snapshot.
    pub(crate) fn is_saved(&self) -> Told<()> {
        let ends = Instant::now() + LIMIT;
        loop {
            let status = self.status()?;
            let gold = &status["gold"][0];
            if gold["snapshot"]["revision"].as_u64().is_some_and(|saved| Some(saved) >= gold["revision"].as_u64()) {
                return Ok(());
            }
            if Instant::now() > ends {
                return Err("the snapshot was not written in time".to_owned());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Ends it, as a person would; its snapshot is written.
    pub(crate) fn end(self) -> Told<()> {
        self.process.end()
    }
}

fn is_ready(admin: SocketAddr) -> bool {
    http_get(admin, "/readyz").is_some_and(|(status, _)| status == 200)
}

/// The owners' servers, all on one thread: where each listens.
fn start_owners() -> Told<Vec<SocketAddr>> {
    let bind = |_| {
        let listener = TcpListener::bind("127.0.0.1:0").map_err(say)?;
        listener.set_nonblocking(true).map_err(say)?;
        Ok(listener)
    };
    let listeners: Vec<TcpListener> = (0..OWNERS).map(bind).collect::<Told<_>>()?;
    let addresses = listeners.iter().map(|listener| listener.local_addr().map_err(say)).collect();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut owners = tokio::task::JoinSet::new();
            for (number, listener) in listeners.into_iter().enumerate() {
                owners.spawn(serve_owner(tokio::net::TcpListener::from_std(listener)?, number));
            }
            owners.join_all().await;
            Ok::<_, std::io::Error>(())
        })
    });
    addresses
}

/// Tells whoever waits what has been done, and how busy the machine is.
pub(crate) fn say_done(what: &str) {
    eprintln!("{what} (load {})", machine::load());
}
