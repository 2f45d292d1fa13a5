//! A resync after a compaction, with 1,000 differences, under requests whose every answer is checked.
//!
//! The proxy is cut off from the store; meanwhile routes are moved, deleted and made, and the history is compacted away. Then it may reach
//! the store again, and has to list it beside the live table. A fifth of the requests go to the keys that differ. An answer is wrong
//! if its owner is neither the one before nor the one after, if it is the one before although the one after was seen already or
//! the new table is known to be in force, or if a route that there was throughout is missing.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use etcd_client::{CompactionOptions, Txn, TxnOp};
use waypost_bench::{
    Check, Hooks, Keys, Report, Seen,
    processes::{Told, say, wait_until},
};

use crate::{
    figures::{Figure, ms, percentile},
    relay::Relay,
    stage::{Asked, OWNERS, Proxy, Stage, say_done},
    store::{self, BATCH, PREFIX, key, record},
};

/// How many routes are moved, deleted and made.
const MOVED: u64 = 500;
const DELETED: u64 = 250;
const MADE: u64 = 250;
/// So long behind the new table in force requests still count as beside the resync.
const AFTERWARDS: Duration = Duration::from_secs(2);
/// One request in so many is to a key that differs.
const ONE_IN: f64 = 5.0;
const NEVER: u64 = u64::MAX;

/// What is known of the keys, and what has been seen of them.
struct World {
    origin: Instant,
    /// Before; the changed ones are the last of these.
    owners: Vec<u8>,
    /// For each changed key, when an answer by the new table was whole first, in nanoseconds since the origin.
    new_since: Vec<AtomicU64>,
    /// When the new table was known to be in force.
    in_force_at: AtomicU64,
    counts: AtomicBool,
    latencies_us: Mutex<Vec<u64>>,
    by_new_table: AtomicU64,
}

/// Both figures.
pub(crate) fn after_compaction(stage: &Stage) -> Told<Vec<Figure>> {
    stage.etcd_stands_back()?;
    let relay = Relay::start(stage.etcd_address())?;
    let proxy = stage.start(&Asked { gold: relay.url(), ..stage.asked("main") })?;
    wait_until("the proxy to watch the store", || Ok(proxy.status()?["gold"][0]["connected"] == true))?;
    let world = Arc::new(World::new(stage));
    let before = stage.moment(Some(&proxy))?;
    let quiet = requests(stage, &proxy, &world, stage.size.quiet, || Ok(()))?;
    let quiet = (quiet.0, world.take_latencies());
    relay.cut(true);
    wait_until("the proxy to notice the cut", || Ok(proxy.status()?["gold"][0]["connected"] == false))?;
    let revision = store::block_on(differ(stage, &world))?;
    world.counts.store(false, Ordering::Relaxed);
    let resync = requests(stage, &proxy, &world, stage.size.resync, || resync(&proxy, &world, &relay, revision))?;
    let others = stage.others_since(&before, Some(&proxy))?;
    let (reports, took) = resync;
    if stage.size.is_judged && took + AFTERWARDS > stage.size.resync {
        return Err(format!("the resync took {took:?}, longer than requests were sent; is the machine busy?"));
    }
    let equal = stage.check_against(&proxy)?;
    proxy.end()?;
    let routes_now = stage.size.routes - DELETED + MADE;
    if routes_now != stage.size.routes {
        return Err("as many routes are to be made as are deleted".to_owned());
    }
    let wrong: u64 = quiet.0.iter().chain(&reports).map(Report::failed).sum();
    let answers: u64 = reports.iter().map(|report| report.requests).sum();
    let (mut quiet, mut during) = (quiet.1, world.take_latencies());
    let (quiet_p99, p99) = (percentile(&mut quiet, 0.99), percentile(&mut during, 0.99));
    let ratio = p99 as f64 / quiet_p99.max(1) as f64;
    say_done(&format!("resync in {:.1} s: {wrong} wrong answers of {answers}, p99 {ratio:.2} of the quiet one", took.as_secs_f64()));
    let right = Figure {
        name: "resync after compaction, 1,000 differences",
        measured: format!("{wrong} wrong of {answers} answers"),
        target: "none wrong",
        is_met: wrong == 0,
        others,
        note: format!(
            "{MOVED} routes moved, {DELETED} deleted, {MADE} made while the proxy was cut off; in force {:.1} s after the store could be reached \
             again; {} answers about them were by the new table; check --against: {equal}",
            took.as_secs_f64(),
            world.by_new_table.load(Ordering::Relaxed)
        ),
    };
    let unchanged = Figure {
        name: "requests' p99 during the resync ÷ quiet",
        measured: format!("{ratio:.2} ({p99} µs ÷ {quiet_p99} µs)"),
        target: "≤ 1.1",
        is_met: ratio <= 1.1,
        others,
        note: format!(
            "{:.0} requests/s; {} requests from the store's coming back to {} s behind the new table in force; p50 {} (quiet {}), p99.9 {} \
             (quiet {}), most {} (quiet {})",
            stage.size.requests,
            during.len(),
            AFTERWARDS.as_secs(),
            ms(percentile(&mut during, 0.5) as i64),
            ms(percentile(&mut quiet, 0.5) as i64),
            ms(percentile(&mut during, 0.999) as i64),
            ms(percentile(&mut quiet, 0.999) as i64),
            ms(percentile(&mut during, 1.0) as i64),
            ms(percentile(&mut quiet, 1.0) as i64),
        ),
    };
    Ok(vec![right, unchanged])
}

/// Lets the proxy reach the store again, and waits until it has the new table; how long that took.
fn resync(proxy: &Proxy, world: &World, relay: &Relay, revision: u64) -> Told<Duration> {
    std::thread::sleep(Duration::from_secs(1));
    world.counts.store(true, Ordering::Relaxed);
    let since = Instant::now();
    relay.cut(false);
    wait_until("the resync", || {
        let status = proxy.status()?;
        let gold = &status["gold"][0];
        Ok(gold["resyncs_by_reason"]["compacted"].as_u64() > Some(0) && gold["revision"].as_u64() >= Some(revision))
    })?;
    let took = since.elapsed();
    world.in_force_at.store(world.nanos(Instant::now()), Ordering::Relaxed);
    std::thread::sleep(AFTERWARDS);
    world.counts.store(false, Ordering::Relaxed);
    Ok(took)
}

/// Does something beside two loads, one over the keys that stay and one over those that differ.
fn requests<T>(
    stage: &Stage,
    proxy: &Proxy,
    world: &Arc<World>,
    duration: Duration,
    other: impl FnOnce() -> Told<T>,
) -> Told<(Vec<Report>, T)> {
    let mut most = stage.plan(proxy, stage.size.requests * (1.0 - 1.0 / ONE_IN), duration);
    most.keys = Keys { range: 0..world.first_changed(), ..most.keys };
    let mut some = stage.plan(proxy, stage.size.requests / ONE_IN, duration);
    some.keys = Keys { range: world.first_changed()..stage.size.routes + MADE, ..some.keys };
    (some.connections, some.seed) = (some.connections / 4, 2);
    let check: Arc<Check> = {
        let world = Arc::clone(world);
        Arc::new(move |seen| world.is_right(seen))
    };
    std::thread::scope(|scope| {
        let loads = [&most, &some].map(|plan| {
            let hooks = Hooks { check: Some(Arc::clone(&check)), ..Hooks::default() };
            scope.spawn(move || waypost_bench::run_with(plan, hooks))
        });
        let other = other();
        let reports = loads.map(|load| load.join().unwrap_or_else(|_| Err("a load panicked".to_owned())));
        Ok((reports.into_iter().collect::<Told<_>>()?, other?))
    })
}

/// Moves, deletes and makes routes, and compacts the history away; the revision behind it.
async fn differ(stage: &Stage, world: &World) -> Told<u64> {
    let mut kv = store::connect(&stage.gold()).await?.kv_client();
    let first = world.first_changed();
    let moved = (first..first + MOVED).map(|number| TxnOp::put(key(PREFIX, number), record(world.after(number)), None));
    let deleted = (first + MOVED..first + MOVED + DELETED).map(|number| TxnOp::delete(key(PREFIX, number), None));
    let made =
        (stage.size.routes..stage.size.routes + MADE).map(|number| TxnOp::put(key(PREFIX, number), record(world.after(number)), None));
    let mut revision = 0;
    for part in moved.chain(deleted).chain(made).collect::<Vec<_>>().chunks(BATCH) {
        let done = kv.txn(Txn::new().and_then(part)).await.map_err(say)?;
        revision = done.header().map_or(0, |header| header.revision());
    }
    kv.compact(revision, Some(CompactionOptions::new())).await.map_err(say)?;
    Ok(revision as u64)
}

impl World {
    fn new(stage: &Stage) -> Self {
        let never = |_| AtomicU64::new(NEVER);
        Self {
            origin: Instant::now(),
            owners: stage.owners().clone(),
            new_since: (0..MOVED + DELETED + MADE).map(never).collect(),
            in_force_at: NEVER.into(),
            counts: true.into(),
            latencies_us: Mutex::default(),
            by_new_table: AtomicU64::default(),
        }
    }

    /// The first key that is moved; those that are deleted and made follow.
    fn first_changed(&self) -> u64 {
        self.owners.len() as u64 - MOVED - DELETED
    }

    fn nanos(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.origin).as_nanos() as u64
    }

    /// Who owned a key before.
    fn before(&self, number: u64) -> Option<u64> {
        self.owners.get(number as usize).map(|owner| u64::from(*owner))
    }

    /// Who owns it afterwards, where it is moved or made.
    fn after(&self, number: u64) -> u64 {
        (self.before(number).unwrap_or(number) + 1) % OWNERS
    }

    fn is_right(&self, seen: &Seen) -> bool {
        if self.counts.load(Ordering::Relaxed) {
            let latency = u64::try_from(seen.latency.as_micros()).unwrap_or(NEVER);
            self.latencies_us.lock().unwrap_or_else(PoisonError::into_inner).push(latency);
        }
        let given = (seen.status, seen.owner);
        let before = self.before(seen.key).map_or((404, None), |owner| (200, Some(owner)));
        let Some(place) = seen.key.checked_sub(self.first_changed()) else { return given == before };
        let is_deleted = (MOVED..MOVED + DELETED).contains(&place);
        let after = if is_deleted { (404, None) } else { (200, Some(self.after(seen.key))) };
        let Some(new_since) = self.new_since.get(place as usize) else { return false };
        if given == after {
            new_since.fetch_min(self.nanos(seen.ended), Ordering::Relaxed);
            self.by_new_table.fetch_add(1, Ordering::Relaxed);
            return true;
        }
        let latest = new_since.load(Ordering::Relaxed).min(self.in_force_at.load(Ordering::Relaxed));
        given == before && self.nanos(seen.sent) <= latest
    }

    fn take_latencies(&self) -> Vec<u64> {
        std::mem::take(&mut self.latencies_us.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
