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

use arc_swap::ArcSwap;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{net::TcpListener, sync::Notify};
use tracing_subscriber::{EnvFilter, filter::LevelFilter};
use waypost_conf::{AccessTarget, Bootstrap, DEFAULT_DIGEST_CHECK_MS, LogFormat, Name, ProcessLimits};
use waypost_policy::{Hints, parking::Parking, table::Example};
use waypost_watcher::{GoldPlace, Settings, Watcher, files::why, fleet::Reports};

use super::print;
use crate::{
    access_log::AccessLog,
    admin::{self, Door},
    cli::RunArgs,
    clock::Clock,
    failure::{Failed, Outcome},
    gold::{self, BootstrapFile},
    guard::Guard,
    metrics::Metrics,
    recent::Recent,
    reload::Reload,
    server::{self, Background, Bound, Ended, Process, Terms},
    state::{Shared, Tunable},
    tls::{Certificates, Upstreams},
    upgrade::{self, Meeting, Taken, Waiting},
};

/// How long the process's end waits for the last lines of the access log.
pub(super) const LOG_FLUSH_LIMIT: Duration = Duration::from_secs(2);
/// What the process's own log says if `RUST_LOG` does not.
const DEFAULT_LOG: &str = "info,pingora_core=error,pingora_core::protocols::http::v2=off,pingora_proxy=error,rustls=error";
/// Libraries that below `info` show the heads of requests, and with them what clients prove themselves by.
const INDISCREET: [&str; 9] =
    ["etcd_client", "h2", "hyper", "pingora_cache", "pingora_core", "pingora_http", "pingora_proxy", "rustls", "tonic"];

/// Runs the command.
pub(crate) fn run(args: RunArgs) -> Outcome {
    let BootstrapFile { path, content: mut bootstrap } = gold::bootstrap(&args.gold)?;
    let mut reload = Reload::new(path.clone(), &bootstrap, args.access_log.as_ref(), args.admin_token_file.as_ref());
    let door = door(args.admin, args.admin_token_file.as_ref(), &mut bootstrap)?;
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
    let snapshot = args.snapshot.clone().or_else(|| bootstrap.snapshot.path.clone());
    let snapshot = snapshot.unwrap_or_else(|| state_directory().join(format!("{id}.snapshot")));
    let meeting = args.upgrade_socket.clone().or_else(|| bootstrap.upgrade.socket.clone());
    let meeting = Meeting::at(meeting.unwrap_or_else(|| snapshot.with_extension("upgrade")));
    if !is_file {
        make_directory(&snapshot, "the snapshot", "--snapshot")?;
    }
    if args.upgrade {
        make_directory(meeting.path(), "the socket of an upgrade", "--upgrade-socket")?;
    }
    let snapshot = (!is_file).then_some(snapshot);
    start_logging(bootstrap.log.format)?;
    let (runtime, threads) = runtime(args.threads)?;
    let access_log = AccessLog::open(&access, bootstrap.log.format, threads).map_err(|error| cannot_open_log(&access, &error))?;
    runtime.block_on(async move {
        server::outlast().map_err(|error| Failed::not_done(format!("signals can't be listened for: {error}")))?;
        let mut taken = if args.upgrade { Some(take_over(&meeting, &id, &bootstrap).await?) } else { None };
        let (listeners, admin, certificates) = match bind(&bootstrap, taken.as_mut()) {
            Ok(bound) => bound,
            Err(failed) => return Err(decline(taken, failed).await),
        };
        let admin_address = admin.local_addr().unwrap_or(bootstrap.admin.address);
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
        let reported = match &place {
            GoldPlace::Etcd(place) if gold.is_none_or(|gold| gold.fleet_report) => Some(place.clone()),
            _ => None,
        };
        let watcher = waypost_watcher::start(Settings {
            allow_empty: gold.is_some_and(|gold| gold.allow_empty),
            most_records: usize::try_from(bootstrap.limits.records.get()).unwrap_or(usize::MAX),
            digest_check_every: Duration::from_millis(gold.map_or(DEFAULT_DIGEST_CHECK_MS, |gold| gold.digest_check_ms).into()),
            snapshot,
            snapshot_inherited: args.upgrade,
            on_publish: Some(Arc::new(move |report| {
                if let Some(shared) = publishes.get() {
                    shared.metrics.published(report.took);
                }
            })),
            ..Settings::new(place, fastrand::u64(..), clock.origin())
        });
        let watcher = match watcher.map_err(|why| if is_file { Failed::unusable(why) } else { Failed::not_done(why) }) {
            Ok(watcher) => Arc::new(watcher),
            Err(failed) => return Err(decline(taken, failed).await),
        };
        let shared = shared(&id, clock, &watcher, Opened { access_log, admin: door, certificates }, &bootstrap, None);
        let _ = told.set(Arc::clone(&shared));
        let background = Background::start(&shared);
        if let Some(taken) = &mut taken {
            let known = taken.known.clone();
            taken.ready(upgrade::can_serve(&shared, &known)).await.map_err(Failed::not_done)?;
        }
        let reports = |place| Arc::new(Reports::start(place, watcher.view.clone(), &id, env!("CARGO_PKG_VERSION"), fastrand::u64(..)));
        let reports = reported.map(reports);
        announce(&listeners, admin_address, &shared);
        reload.listeners = listeners.iter().map(Bound::terms).collect();
        let leaves = (Arc::clone(&watcher), reports.clone());
        let process = Process {
            meeting: Some(meeting),
            taken,
            handed_over: Box::new(move || {
                leaves.0.leave_snapshot();
                leaves.1.iter().for_each(|reports| reports.leave());
            }),
            reload,
            has_express: !args.no_express,
        };
        let ended = server::run(Arc::clone(&shared), background, listeners, admin, threads, process).await;
        let reported = async {
            if let Some(reports) = reports.and_then(Arc::into_inner) {
                reports.end().await;
            }
        };
        let watched = async {
            if let Some(watcher) = Arc::into_inner(watcher) {
                watcher.stop().await;
            }
        };
        tokio::join!(reported, watched);
        shared.access_log.flush(LOG_FLUSH_LIMIT);
        outcome(ended)
    })
}

/// Who may ask the admin endpoints. What flags say of where they are is in the settings afterwards.
pub(super) fn door(address: Option<SocketAddr>, token_file: Option<&PathBuf>, bootstrap: &mut Bootstrap) -> Result<Door, Failed> {
    let admin = &mut bootstrap.admin;
    admin.address = address.unwrap_or(admin.address);
    let door = Door::new(token_file.or(admin.token_file.as_ref())).map_err(Failed::unusable)?;
    admin::check_address(admin.address, door.is_guarded(), admin.insecure).map_err(Failed::unusable)?;
    Ok(door)
}

/// The sockets of the process that is to be replaced.
async fn take_over(meeting: &Meeting, id: &Name, bootstrap: &Bootstrap) -> Result<Taken, Failed> {
    let waiting = Waiting::at(meeting).map_err(Failed::not_done)?;
    eprintln!("waypost: waiting at {} for the sockets of the running process; SIGQUIT makes it hand them over", meeting.path().display());
    let taken = waiting.sockets(id.as_ref(), upgrade_limit(bootstrap)).await.map_err(Failed::not_done)?;
    eprintln!("waypost: the sockets of process {} have come; it serves until this one can", taken.pid);
    Ok(taken)
}

/// Tells the old process, where there is one, that nothing comes of it.
async fn decline(taken: Option<Taken>, failed: Failed) -> Failed {
    if let Some(taken) = taken {
        taken.decline(&failed.message).await;
    }
    failed
}

/// Listens where the settings say: on the old process's sockets where it has them, on new ones elsewhere.
fn bind(bootstrap: &Bootstrap, mut taken: Option<&mut Taken>) -> Result<(Vec<Bound>, TcpListener, Arc<Certificates>), Failed> {
    let admin = bootstrap.admin.address;
    let mut socket = |address| taken.as_mut().and_then(|taken| taken.socket(address)).map(TcpListener::from_std).transpose();
    let handed = |what: &str, address, error: &std::io::Error| cannot_listen(what, "another address", address, error);
    let admin = match socket(admin).map_err(|error| handed("the admin endpoints", admin, &error))? {
        Some(taken) => taken,
        None => admin::bind(admin).map_err(|error| cannot_listen("the admin endpoints", "--admin", admin, &error))?,
    };
    let certificates = Arc::<Certificates>::default();
    let mut listeners = Vec::new();
    for listener in &bootstrap.listeners {
        let terms = Terms::of(listener, &certificates).map_err(Failed::unusable)?;
        listeners.push(match socket(listener.address).map_err(|error| handed("clients", listener.address, &error))? {
            Some(taken) => Bound::on(taken, terms),
            None => Bound::bind(listener.address, terms).map_err(|error| cannot_listen("clients", "--listen", listener.address, &error))?,
        });
    }
    for address in taken.map(Taken::close_rest).unwrap_or_default() {
        eprintln!("waypost: {address}, on which the old process listens, is none of this one's addresses: it is closed when that ends");
    }
    Ok((listeners, admin, certificates))
}

/// How long a handover of the sockets may take.
fn upgrade_limit(bootstrap: &Bootstrap) -> Duration {
    Duration::from_millis(bootstrap.upgrade.limit_ms.get().into())
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
pub(crate) fn access_target(flag: Option<&str>, written: &AccessTarget) -> AccessTarget {
    match flag {
        None => written.clone(),
        Some("stdout") => AccessTarget::Stdout,
        Some("off") => AccessTarget::Off,
        Some(file) => AccessTarget::File(file.into()),
    }
}

/// The runtime of all but connections, which have threads of their own; and how many of those.
pub(super) fn runtime(threads: Option<u16>) -> Result<(tokio::runtime::Runtime, usize), Failed> {
    let threads = threads.map_or_else(|| std::thread::available_parallelism().map_or(1, usize::from), usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name("waypost").enable_all().build();
    let runtime = runtime.map_err(|error| Failed::not_done(format!("the threads could not be started: {error}")))?;
    Ok((runtime, threads))
}

pub(super) fn cannot_open_log(target: &AccessTarget, error: &std::io::Error) -> Failed {
    let (file, why) = (target_name(target), why(error));
    Failed::not_done(format!("the access log {file} can't be opened: {why}; choose another with --access-log, or off"))
}

/// What is opened before anything runs.
pub(super) struct Opened {
    pub(super) access_log: AccessLog,
    pub(super) admin: Door,
    pub(super) certificates: Arc<Certificates>,
}

/// What the requests of a process share; nothing has been asked of it yet.
pub(super) fn shared(
    id: &Name,
    clock: Clock,
    watcher: &Watcher,
    opened: Opened,
    bootstrap: &Bootstrap,
    guard: Option<Guard>,
) -> Arc<Shared> {
    let Opened { access_log, admin, certificates } = opened;
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
        admin,
        draining: false.into(),
        watchers: Arc::new(tokio::sync::Semaphore::new(admin::MAX_WATCHERS)),
        record_readers: Arc::new(tokio::sync::Semaphore::new(admin::MAX_READERS)),
        tunable: ArcSwap::from_pointee(tunable(bootstrap)),
        bootstrap_warnings: bootstrap.inactive.iter().map(|said| said.message.clone()).collect(),
        guard,
    })
}

/// What can be changed while the process runs.
pub(crate) fn tunable(bootstrap: &Bootstrap) -> Tunable {
    Tunable { limits: limits(bootstrap.limits), drain: bootstrap.drain, upgrade_limit: upgrade_limit(bootstrap) }
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

/// Makes the directory that a path is in.
fn make_directory(path: &Path, what: &str, flag: &str) -> Outcome {
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    std::fs::create_dir_all(directory).map_err(|error| {
        let (directory, why) = (directory.display(), why(&error));
        Failed::not_done(format!("the directory {directory} for {what} can't be made: {why}; choose another place with {flag}"))
    })
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
    EnvFilter::try_new(&wanted).map_err(wrong)?;
    EnvFilter::try_new(discreet(&wanted)).map_err(wrong)
}

/// With those who would tell what they carry kept from it, unless they are named.
fn discreet(wanted: &str) -> String {
    let parts = || wanted.split(',').map(str::trim);
    let is_verbose = parts().filter_map(|part| part.parse().ok()).next_back().is_some_and(|level: LevelFilter| level > LevelFilter::INFO);
    let kept = INDISCREET.iter().filter(|name| is_verbose && !parts().any(|part| part.starts_with(**name)));
    kept.fold(wanted.to_owned(), |all, name| format!("{all},{name}=info"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_that_show_what_they_carry_speak_only_when_they_are_named() {
        for plain in ["info", "off", "waypost=trace", "waypost_watcher=debug,info"] {
            assert_eq!(discreet(plain), plain);
        }
        let all = discreet("trace");
        assert!(INDISCREET.iter().all(|name| all.contains(&format!(",{name}=info"))), "{all}");
        let named = discreet("h2=trace, debug");
        assert!(!named.contains("h2=info") && named.contains("pingora_proxy=info"), "{named}");
    }
}
