//! `waypost guard`: the sidecar that speaks the stale-route protocol for a backend that knows nothing of it.
//!
//! It is the proxy with another decision: a request is judged by whether its upstream owns the key, and goes to the one backend behind it.
//! As in `run`, everything that can be wrong in the settings is found, and sockets are bound, before the gold copy is asked.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, OnceLock},
    time::Duration,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use tokio::sync::Notify;
use waypost_conf::{AccessTarget, Address, Name};
use waypost_watcher::{EtcdPlace, GoldPlace, Settings};

use super::run::{
    LOG_FLUSH_LIMIT, Opened, access_target, cannot_listen, cannot_open_log, door, host_name, outcome, runtime, shared, start_logging,
};
use crate::{
    access_log::AccessLog,
    admin,
    cli::GuardArgs,
    clock::Clock,
    failure::{Failed, Outcome},
    gold::{self, BootstrapFile},
    guard::Guard,
    reload::Reload,
    server::{self, Background, Bound, Ended, Process, Terms},
    state::Shared,
};

/// Runs the command.
pub(crate) fn run(args: GuardArgs) -> Outcome {
    let BootstrapFile { path, content: mut bootstrap } = gold::bootstrap(&args.gold)?;
    let reload = Reload::new(path.clone(), &bootstrap, args.access_log.as_ref(), args.admin_token_file.as_ref());
    let door = door(args.admin, args.admin_token_file.as_ref(), &mut bootstrap)?;
    let place = match gold::place(&args.gold, &bootstrap)? {
        GoldPlace::Etcd(place) => place,
        GoldPlace::File(path) => {
            let path = path.display();
            return Err(Failed::unusable(format!(
                "the gold copy is the file {path}, in which no owner can announce itself; name an etcd with --gold http://host:2379"
            )));
        }
    };
    let upstream = name("--upstream", &args.upstream)?;
    let id = match &args.id {
        Some(id) => name("--id", id)?,
        // Of two guards of one upstream on one machine each needs its own.
        None => name("--id", &format!("{}-{}", host_name()?, args.listen.port()))?,
    };
    let advertised = advertised(&args)?;
    let access: AccessTarget = access_target(args.access_log.as_deref(), &bootstrap.log.access);
    start_logging(bootstrap.log.format)?;
    let (runtime, threads) = runtime(args.threads)?;
    let access_log = AccessLog::open(&access, bootstrap.log.format, threads).map_err(|error| cannot_open_log(&access, &error))?;
    runtime.block_on(async move {
        let admin_address = bootstrap.admin.address;
        let admin = admin::bind(admin_address).map_err(|error| cannot_listen("the admin endpoints", "--admin", admin_address, &error))?;
        let admin_address = admin.local_addr().unwrap_or(admin_address);
        // What it hears of clients comes from proxies.
        let everybody =
            [IpNet::from(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0)), IpNet::from(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0))];
        let terms = Terms { trusted: everybody.into(), tls: None, proxy_protocol: false, h2c: true };
        let listener = Bound::bind(args.listen, terms).map_err(|error| cannot_listen("proxies", "--listen", args.listen, &error))?;
        let listen = listener.address().unwrap_or(args.listen);
        if args.to.as_str() == listen.to_string() {
            return Err(Failed::unusable(format!("--to {} is where the guard itself listens; name the backend's address", args.to)));
        }
        if let Some(path) = &path {
            eprintln!("waypost: settings from {}", path.display());
        }
        let clock = Clock::start();
        let told: Arc<OnceLock<Arc<Shared>>> = Arc::default();
        let publishes = Arc::clone(&told);
        // Never from a snapshot: what an owner judges by was read linearizably.
        let begins = Arc::new(Notify::new());
        let may_begin = Arc::clone(&begins);
        let settings = Settings {
            allow_empty: bootstrap.gold.as_ref().is_some_and(|gold| gold.allow_empty),
            most_records: usize::try_from(bootstrap.limits.records.get()).unwrap_or(usize::MAX),
            on_publish: Some(Arc::new(move |report| {
                if let Some(shared) = publishes.get() {
                    shared.metrics.published(report.took);
                }
            })),
            ..Settings::new(GoldPlace::Etcd(place.clone()), fastrand::u64(..), clock.origin())
        };
        let watcher = waypost_watcher::start_behind(settings, async move { may_begin.notified().await }).map_err(Failed::not_done)?;
        let guard = Guard::new(upstream.clone(), id.clone(), args.to.clone(), advertised, args.without_store);
        let shared =
            shared(&id, clock, &watcher, Opened { access_log, admin: door, certificates: Arc::default() }, &bootstrap, Some(guard));
        let _ = told.set(Arc::clone(&shared));
        eprintln!("waypost: listening on {listen} for {upstream} as {id}, before {}", args.to);
        eprintln!("waypost: admin on {admin_address}");
        let arriving = tokio::spawn(arrive(Arc::clone(&shared), begins, place, upstream));
        let process = Process { meeting: None, taken: None, handed_over: Box::new(|| {}), reload, has_express: false };
        let background = Background::start(&shared);
        let ended = server::run(Arc::clone(&shared), background, vec![listener], admin, threads, process).await;
        arriving.abort();
        if let (Ok(Ended::Drained), Some(guard)) = (&ended, &shared.guard) {
            guard.withdraw().await;
        }
        watcher.stop().await;
        shared.access_log.flush(LOG_FLUSH_LIMIT);
        outcome(ended)
    })
}

/// Announces the guard, and says when that is done. Until then every request is answered `not_ready`.
async fn arrive(shared: Arc<Shared>, begins: Arc<Notify>, gold: EtcdPlace, upstream: Name) {
    let Some(guard) = &shared.guard else { return };
    let view = &shared.view;
    let waiting = async {
        tokio::time::sleep(PATIENCE).await;
        eprintln!(
            "waypost: not announced yet: etcd must be reached, and take the announcement; until then requests are answered not_ready"
        );
        std::future::pending::<()>().await;
    };
    let arrived = tokio::select! {
        arrived = guard.arrive(view.clone(), shared.asker.clone(), &begins, gold) => arrived,
        () = waiting => return,
    };
    match arrived {
        Ok(()) => eprintln!("waypost: announced; requests for keys of {upstream} are served"),
        Err(why) => tracing::error!("the guard can't be announced: {why}"),
    }
    let is_known = view.load().as_ref().is_some_and(|table| table.upstream_named(&upstream).is_some());
    if !is_known {
        eprintln!("waypost: there is no upstreams/{upstream} yet; until it is put no proxy sends anything here");
    }
}

/// After how long without an announcement it is said that there is none.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where proxies are told to find it.
fn advertised(args: &GuardArgs) -> Result<Option<Address>, Failed> {
    let listen: SocketAddr = args.listen;
    match (&args.advertise, args.register) {
        (Some(address), true) => Ok(Some(address.clone())),
        (Some(_), false) => Err(Failed::unusable("--advertise is given without --register; both or neither would be right")),
        (None, false) => Ok(None),
        (None, true) if listen.ip().is_unspecified() || listen.port() == 0 => {
            Err(Failed::unusable(format!("--register: no proxy can reach {listen}; name where they can with --advertise host:port")))
        }
        (None, true) => {
            let address = Address::try_from(listen.to_string().as_str());
            Ok(Some(address.map_err(|fault| Failed::unusable(format!("--listen: {fault}")))?))
        }
    }
}

fn name(flag: &str, given: &str) -> Result<Name, Failed> {
    Name::try_from(given).map_err(|fault| Failed::unusable(format!("{flag}: {fault}")))
}
