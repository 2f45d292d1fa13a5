//! `waypost run`: settings from flags, environment and bootstrap file, then the proxy until a signal ends it.
//!
//! Everything that can be wrong in the settings is found before anything starts. Sockets are bound before the gold copy is
//! asked, so that a port in use is said at once.

use std::{
    io::IsTerminal,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::Notify;
use tracing_subscriber::EnvFilter;
use waypost_conf::{AccessTarget, Bootstrap, DEFAULT_DIGEST_CHECK_MS, LogFormat, Name, ProcessLimits};
use waypost_policy::{Hints, parking::Parking, table::Example};
use waypost_watcher::{GoldPlace, Settings, Watcher, files::why};

use super::print;
use crate::{
    access_log::AccessLog,
    admin,
    cli::RunArgs,
    clock::Clock,
    failure::{Failed, Outcome},
    gold::{self, BootstrapFile},
    guard::Guard,
    metrics::Metrics,
    recent::Recent,
    server::{self, Bound, Ended},
    state::Shared,
    tls::{Certificates, Handshake, Upstreams},
};

/// How long the process's end waits for the last lines of the access log.
pub(super) const LOG_FLUSH_LIMIT: Duration = Duration::from_secs(2);
/// What the process's own log says if `RUST_LOG` does not.
const DEFAULT_LOG: &str = "info,pingora_core=error,pingora_proxy=error";

/// Runs the command.
pub(crate) fn run(args: RunArgs) -> Outcome {
    let BootstrapFile { path, content: mut bootstrap } = gold::bootstrap(&args.gold)?;
    let place = gold::place(&args.gold, &bootstrap)?;
    if let Some(listen) = args.listen {
        // The flag replaces the addresses; what the file says of trust stays with the first listener.
        bootstrap.listeners.truncate(1);
        if let Some(listener) = bootstrap.listeners.first_mut() {
            listener.address = listen;
        }
    }
    let id = args.id.clone().map_or_else(host_name, Ok)?;
    let id = Name::try_from(id.as_str()).map_err(|fault| Failed::unusable(format!("--id: {fault}")))?;
    let access = access_target(args.access_log.as_deref(), &bootstrap.log.access);
    let is_file = matches!(place, GoldPlace::File(_));
    let snapshot = match &place {
        GoldPlace::File(_) => None,
        GoldPlace::Etcd(_) => Some(snapshot_path(args.snapshot.clone().or_else(|| bootstrap.snapshot.path.clone()), &id)?),
    };
    start_logging(bootstrap.log.format)?;
    let (runtime, threads) = runtime(args.threads)?;
    let access_log = AccessLog::open(&access, bootstrap.log.format).map_err(|error| cannot_open_log(&access, &error))?;
    runtime.block_on(async move {
        let admin_address = args.admin.unwrap_or(bootstrap.admin.address);
        let admin =
            admin::bind(admin_address).await.map_err(|error| cannot_listen("the admin endpoints", "--admin", admin_address, &error))?;
        let admin_address = admin.local_addr().unwrap_or(admin_address);
        let certificates = Arc::<Certificates>::default();
        let mut listeners = Vec::new();
        for listener in &bootstrap.listeners {
            let tls = listener.tls.then(|| Handshake::new(Arc::clone(&certificates), listener)).transpose();
            let tls = tls.map_err(|why| Failed::unusable(format!("the listener on {}: {why}", listener.address)))?;
            let bound = Bound::bind(listener.address, &listener.trusted, tls, listener.proxy_protocol, listener.h2c);
            listeners.push(bound.map_err(|error| cannot_listen("clients", "--listen", listener.address, &error))?);
        }
        if let Some(path) = &path {
            eprintln!("waypost: settings from {}", path.display());
        }
        for warning in &bootstrap.inactive {
            eprintln!("waypost: {warning}");
        }
        let clock = Clock::start();
        let told: Arc<OnceLock<Arc<Shared>>> = Arc::default();
        let publishes = Arc::clone(&told);
        let gold = bootstrap.gold.as_ref();
        let watcher = waypost_watcher::start(Settings {
            allow_empty: gold.is_some_and(|gold| gold.allow_empty),
            most_records: usize::try_from(bootstrap.limits.records.get()).unwrap_or(usize::MAX),
            digest_check_every: Duration::from_millis(gold.map_or(DEFAULT_DIGEST_CHECK_MS, |gold| gold.digest_check_ms).into()),
            snapshot,
            on_publish: Some(Arc::new(move |report| {
                if let Some(shared) = publishes.get() {
                    shared.metrics.published(report.took);
                }
            })),
            ..Settings::new(place, fastrand::u64(..), clock.origin())
        })
        .map_err(|why| if is_file { Failed::unusable(why) } else { Failed::not_done(why) })?;
        let shared = shared(&id, clock, &watcher, access_log, certificates, &bootstrap, None);
        let _ = told.set(Arc::clone(&shared));
        announce(&listeners, admin_address, &shared);
        let ended = server::run(Arc::clone(&shared), listeners, admin, threads).await;
        watcher.stop().await;
        shared.access_log.flush(LOG_FLUSH_LIMIT);
        outcome(ended)
    })
}

/// What the command came to.
pub(super) fn outcome(ended: std::io::Result<Ended>) -> Outcome {
    match ended {
        Ok(Ended::Drained) => Ok(()),
        Ok(Ended::Interrupted) => Err(Failed::said(130)),
        Err(error) => Err(Failed::not_done(format!("signals can't be handled: {error}"))),
    }
}

/// Where the access log goes: what the flag says, else the bootstrap file.
pub(super) fn access_target(flag: Option<&str>, written: &AccessTarget) -> AccessTarget {
    match flag {
        None => written.clone(),
        Some("stdout") => AccessTarget::Stdout,
        Some("off") => AccessTarget::Off,
        Some(file) => AccessTarget::File(file.into()),
    }
}

/// The runtime that requests are served on, and how many threads it has.
pub(super) fn runtime(threads: Option<u16>) -> Result<(tokio::runtime::Runtime, usize), Failed> {
    let threads = threads.map_or_else(|| std::thread::available_parallelism().map_or(1, usize::from), usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).thread_name("waypost").enable_all().build();
    let runtime = runtime.map_err(|error| Failed::not_done(format!("the worker threads could not be started: {error}")))?;
    Ok((runtime, threads))
}

pub(super) fn cannot_open_log(target: &AccessTarget, error: &std::io::Error) -> Failed {
    let (file, why) = (target_name(target), why(error));
    Failed::not_done(format!("the access log {file} can't be opened: {why}; choose another with --access-log, or off"))
}

/// What the requests of a process share; nothing has been asked of it yet.
pub(super) fn shared(
    id: &Name,
    clock: Clock,
    watcher: &Watcher,
    access_log: AccessLog,
    certificates: Arc<Certificates>,
    bootstrap: &Bootstrap,
    guard: Option<Guard>,
) -> Arc<Shared> {
    Arc::new(Shared {
        cdn_id: format!("waypost-{id}"),
        id: id.to_string(),
        clock,
        view: watcher.view.clone(),
        asker: watcher.asker.clone(),
        hints: Hints::default(),
        parking: Parking::default(),
        someone_parked: Notify::new(),
        freezes: Mutex::default(),
        metrics: Metrics::new(access_log.dropped()),
        access_log,
        recent: Recent::default(),
        certificates,
        upstreams: Upstreams::default(),
        draining: false.into(),
        watchers: Arc::new(tokio::sync::Semaphore::new(admin::MAX_WATCHERS)),
        record_readers: Arc::new(tokio::sync::Semaphore::new(admin::MAX_READERS)),
        limits: limits(bootstrap.limits),
        bootstrap_warnings: bootstrap.inactive.iter().map(|said| said.message.clone()).collect(),
        guard,
    })
}

/// The limits with defaults filled in. The process may open as many files as it is ever allowed to: a proxy's files are its connections.
fn limits(written: ProcessLimits) -> ProcessLimits {
    let allowed = getrlimit(Resource::Nofile);
    // A limit that can't be raised stays as it is.
    let raised = setrlimit(Resource::Nofile, Rlimit { current: allowed.maximum, maximum: allowed.maximum });
    let open_files = if raised.is_ok() { allowed.maximum } else { allowed.current };
    let open_files = open_files.unwrap_or(u64::MAX);
    let open_files = u32::try_from(open_files).unwrap_or(u32::MAX);
    if written.connections > open_files {
        tracing::warn!(
            connections = written.connections,
            open_files,
            "limits.connections is more than the files that this process may open; raise the limit (ulimit -n, LimitNOFILE=)"
        );
    }
    let connections = if written.connections == 0 { open_files / 2 } else { written.connections };
    ProcessLimits { connections, ..written }
}

/// Where it listens, and a line that works.
fn announce(listeners: &[Bound], admin: SocketAddr, shared: &Shared) {
    let addresses: Vec<SocketAddr> = listeners.iter().filter_map(|bound| bound.address().ok()).collect();
    for address in &addresses {
        eprintln!("waypost: listening on {address}");
    }
    eprintln!("waypost: admin on {admin}");
    if let Some(first) = addresses.first() {
        let reachable = if first.ip().is_unspecified() { SocketAddr::new([127, 0, 0, 1].into(), first.port()) } else { *first };
        eprintln!("waypost: try   {}", example(shared, reachable));
    }
}

/// A request to a service of the table in force; without one, to the admin endpoints, which answer in any case.
fn example(shared: &Shared, listen: SocketAddr) -> String {
    let table = shared.view.load_full();
    let service = table.as_ref().and_then(|table| table.services().iter().find_map(|service| table.example(service)));
    match service {
        None => format!("curl -i http://{listen}/"),
        Some(Example { host, path, header }) => {
            let host = host.map(|host| format!(" -H 'Host: {host}'")).unwrap_or_default();
            let header = header.map(|(name, key)| format!(" -H '{name}: {key}'")).unwrap_or_default();
            format!("curl -i{host}{header} http://{listen}{path}")
        }
    }
}

pub(super) fn cannot_listen(for_whom: &str, flag: &str, address: SocketAddr, error: &std::io::Error) -> Failed {
    let why = match error.kind() {
        std::io::ErrorKind::AddrInUse => "the port is in use; stop what uses it or choose another".to_owned(),
        std::io::ErrorKind::AddrNotAvailable => "this machine has no such address; choose another".to_owned(),
        std::io::ErrorKind::PermissionDenied => "not allowed; ports below 1024 need a privilege, or choose another".to_owned(),
        _ => error.to_string(),
    };
    Failed::not_done(format!("can't listen on {address} for {for_whom}: {why} with {flag}"))
}

fn target_name(target: &AccessTarget) -> String {
    match target {
        AccessTarget::File(path) => path.display().to_string(),
        AccessTarget::Stdout => "stdout".to_owned(),
        AccessTarget::Off => "off".to_owned(),
    }
}

/// The host's name, cut to what a proxy's name may be.
pub(super) fn host_name() -> Result<String, Failed> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name: String = name.trim().chars().filter(|c| c.is_ascii_alphanumeric() || "._-".contains(*c)).take(128).collect();
    Ok(if name.starts_with(|c: char| c.is_ascii_alphanumeric()) { name } else { "waypost".to_owned() })
}

/// The snapshot's path; its directory is made.
fn snapshot_path(given: Option<PathBuf>, id: &Name) -> Result<PathBuf, Failed> {
    let path = given.unwrap_or_else(|| state_directory().join(format!("{id}.snapshot")));
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    std::fs::create_dir_all(directory).map_err(|error| {
        Failed::not_done(format!(
            "the directory {} for the snapshot can't be made: {}; choose another place with --snapshot",
            directory.display(),
            why(&error)
        ))
    })?;
    Ok(path)
}

/// Where a process keeps its state: systemd's, the user's by XDG, the user's by habit.
fn state_directory() -> PathBuf {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("STATE_DIRECTORY")
        .or_else(|| variable("XDG_STATE_HOME").map(|state| state.join("waypost")))
        .or_else(|| variable("HOME").map(|home| home.join(".local/state/waypost")))
        .unwrap_or_else(|| PathBuf::from("."))
}

/// The process's own log goes to stderr, as text where a person reads it; `RUST_LOG` says how much.
pub(super) fn start_logging(format: LogFormat) -> Outcome {
    let filter = log_filter()?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let by_a_person = std::io::stderr().is_terminal();
    let is_coloured = print::is_coloured(&std::io::stderr());
    let started = match format {
        LogFormat::Json if !by_a_person => log.json().try_init(),
        _ => log.with_ansi(is_coloured).try_init(),
    };
    if started.is_err() {
        eprintln!("waypost: the log was started twice; this one stays silent");
    }
    Ok(())
}

fn log_filter() -> Result<EnvFilter, Failed> {
    let wanted = std::env::var("RUST_LOG").ok().filter(|wanted| !wanted.is_empty());
    let Some(wanted) = wanted else { return Ok(EnvFilter::new(DEFAULT_LOG)) };
    let wrong = |error| Failed::unusable(format!("RUST_LOG={wanted}: {error}; info, debug or waypost_watcher=debug would be right"));
    EnvFilter::try_new(&wanted).map_err(wrong)
}
