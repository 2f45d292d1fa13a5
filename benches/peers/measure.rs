//! One row of one peer in one round.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use waypost_bench::{
    Keys, Pace, Plan, Protocol, Report, Target, Trust,
    processes::{Told, stand_back},
    run,
};

use crate::{
    client::Client,
    figures::Sample,
    instance::Instance,
    options::Size,
    peer::Peer,
    rows::{Load, Row, What},
    stage::Stage,
    table::{Move, OWNERS, TENANT},
    tree,
};

/// Routes are moved so many at once, that many times less often: one transaction, or one line.
const MOVES_AT_ONCE: u64 = 10;
/// How long the effect of one update is waited for.
const EFFECT_LIMIT: Duration = Duration::from_secs(90);
/// Memory is at rest when it has not changed by a hundredth for so long; how long it may take.
const REST: Duration = Duration::from_millis(500);
/// How long connections have had no request before it is looked what they take: who needs less for those has noticed by then.
const IDLE_FOR: Duration = Duration::from_secs(3);
const REST_LIMIT: Duration = Duration::from_secs(10);

/// What a measurement knows of its round.
pub(crate) struct Round<'a> {
    pub(crate) stage: &'a Stage,
    pub(crate) size: &'a Size,
    pub(crate) seed: u64,
    /// Requests a second that the peer reached in closed loop, if that has been measured.
    pub(crate) peak: Option<f64>,
    /// p50 of one connection to an owner.
    pub(crate) direct_us: f64,
}

impl Round<'_> {
    /// Measures a row; the instance is awake, and is that which the row needs.
    pub(crate) fn measure(&self, peer: &dyn Peer, row: &Row, instance: &Instance) -> Told<Sample> {
        match &row.what {
            What::Load(load) => self.load(row, load, instance, Pace::Closed),
            What::HalfOfPeak => {
                let peak = match self.peak {
                    Some(peak) => peak,
                    None => self.load(row, &Load::usual(self.size), instance, Pace::Closed)?.requests_per_second,
                };
                self.load(row, &Load::usual(self.size), instance, Pace::Open { requests_per_second: (peak / 2.0).max(1.0) })
            }
            What::Rate(rate) => self.load(row, &Load::usual(self.size), instance, Pace::Open { requests_per_second: *rate }),
            What::Updates(a_second) => self.beside_updates(peer, row, instance, *a_second),
            What::Added => {
                let mut sample = self.load(row, &Load { connections: 1, ..Load::usual(self.size) }, instance, Pace::Closed)?;
                sample.value = sample.p50_us - self.direct_us;
                Ok(sample)
            }
            What::Idle(connections) => idle(instance, *connections),
            What::Effect(count) => self.effect(peer, instance, *count),
        }
    }

    /// p50 of one connection to an owner, without a proxy.
    pub(crate) fn direct(stage: &Stage, size: &Size) -> Told<f64> {
        let target = Target { address: stage.owners.first(), tls: false, host: "bench.example.com".to_owned(), path: "/".to_owned() };
        let plan = Plan { connections: 1, duration: size.duration, warm_up: size.warm_up, ..Plan::to(target) };
        Ok(run(&plan)?.latency.p50_us as f64)
    }

    fn load(&self, row: &Row, load: &Load, instance: &Instance, pace: Pace) -> Told<Sample> {
        let (prefix, keys) = load.keys(row.setup.table);
        let place = &instance.place;
        let is_http2 = !matches!(load.protocol, Protocol::Http1);
        let address = match (load.is_tls, is_http2) {
            (true, _) => place.tls,
            (false, true) => place.h2c,
            (false, false) => place.plain,
        };
        let plan = Plan {
            protocol: load.protocol,
            trust: Trust::Anyone,
            method: load.method.to_owned(),
            headers: vec![("x-tenant".to_owned(), "{key}".to_owned())],
            body: load.body,
            keys: Keys { prefix: prefix.to_owned(), range: 0..keys },
            pace,
            connections: load.connections,
            new_connections: load.is_new,
            duration: self.size.duration,
            warm_up: load.warm_up,
            seed: self.seed,
            watch_pids: vec![instance.pid()],
            ..Plan::to(Target { address, tls: load.is_tls, host: "bench.example.com".to_owned(), path: "/".to_owned() })
        };
        Ok(sample(run(&plan)?))
    }

    /// Routes are moved, ten at once, while requests come; the store stands back, as one on a machine of its own would not be in the way.
    fn beside_updates(&self, peer: &dyn Peer, row: &Row, instance: &Instance, a_second: u64) -> Told<Sample> {
        let mut updates = peer.updates(&instance.place, instance.pid())?;
        stand_back(self.stage.etcd_pid())?;
        let tenants = row.setup.table.tenants;
        let every = Duration::from_secs_f64(MOVES_AT_ONCE as f64 / a_second as f64);
        let is_over = AtomicBool::new(false);
        let mut rng = fastrand::Rng::with_seed(self.seed);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let (began, mut moved) = (Instant::now(), 0_u64);
                let mut due = began;
                while !is_over.load(Ordering::Relaxed) {
                    let moves: Vec<Move> = (0..MOVES_AT_ONCE).map(|_| (rng.u64(..tenants), rng.u64(..OWNERS))).collect();
                    updates.move_to(&distinct(moves))?;
                    moved += MOVES_AT_ONCE;
                    due += every;
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                }
                Ok::<_, String>(moved as f64 / began.elapsed().as_secs_f64())
            });
            let loaded = self.load(row, &Load::usual(self.size), instance, Pace::Closed);
            is_over.store(true, Ordering::Relaxed);
            let moved = writer.join().map_err(|_| "the writer of updates panicked".to_owned())??;
            let mut sample = loaded?;
            if moved < 0.95 * a_second as f64 {
                sample.note = Some(format!("took {moved:.0} updates a second"));
            }
            Ok(sample)
        })
    }

    /// Asks for a key without a pause, and moves it: from the handing over to the first answer of the new owner.
    fn effect(&self, peer: &dyn Peer, instance: &Instance, count: usize) -> Told<Sample> {
        let mut updates = peer.updates(&instance.place, instance.pid())?;
        let mut client = Client::new(instance.place.plain);
        let mut rng = fastrand::Rng::with_seed(self.seed);
        let ends = Instant::now() + self.size.effects_limit;
        let mut took_ms = Vec::new();
        while took_ms.len() <= count && (took_ms.is_empty() || Instant::now() < ends) {
            let tenant = rng.u64(..instance.place.setup.table.tenants);
            let key = format!("{TENANT}{tenant}");
            let before = client.get(&key)?.owner().ok_or("an answer does not name its owner")?;
            let to = (before + 1 + rng.u64(..OWNERS - 1)) % OWNERS;
            let (handed_over, seen) = std::thread::scope(|scope| {
                let writer = scope.spawn(|| updates.move_to(&[(tenant, to)]));
                let since = Instant::now();
                let seen = loop {
                    if client.get(&key)?.owner() == Some(to) {
                        break Instant::now();
                    }
                    if since.elapsed() > EFFECT_LIMIT {
                        return Err(format!("an update had no effect within {} s", EFFECT_LIMIT.as_secs()));
                    }
                };
                let handed_over = writer.join().map_err(|_| "the writer of an update panicked".to_owned())??;
                Ok((handed_over, seen))
            })?;
            took_ms.push(seen.saturating_duration_since(handed_over).as_secs_f64() * 1000.0);
        }
        // The first meets a process that has been stopped for minutes; where it is the only one, it has to do.
        if took_ms.len() > 1 {
            took_ms.remove(0);
        }
        let spread = crate::figures::Spread::of(took_ms.iter().copied()).ok_or("no update was made")?;
        let note = match took_ms.len() {
            1 => "one update".to_owned(),
            count => format!("{count} updates, {:.2} to {:.2} ms", spread.least, spread.most),
        };
        Ok(Sample { value: spread.median, note: Some(note), ..Sample::default() })
    }
}

/// A transaction may name a key only once.
fn distinct(mut moves: Vec<Move>) -> Vec<Move> {
    moves.sort_unstable();
    moves.dedup_by_key(|(tenant, _)| *tenant);
    moves
}

fn sample(report: Report) -> Sample {
    Sample {
        requests_per_second: report.requests_per_second,
        per_cpu: report.requests_per_cpu_second.unwrap_or(0.0),
        p50_us: report.latency.p50_us as f64,
        p99_us: report.latency.p99_us as f64,
        value: 0.0,
        failed: report.failed,
        note: report.failures.first.clone(),
        report: Some(report),
    }
}

/// What memory grows by for each of so many connections that have had one request, in KB.
fn idle(instance: &Instance, connections: usize) -> Told<Sample> {
    // What a first connection leads to is not what a connection costs, nor what is kept of the last requests, which is bounded and full by then. There
    // are so many of both because memory is got from the system in pieces of up to 2 MB.
    let key = format!("{TENANT}0");
    let mut first = Client::new(instance.place.plain);
    let mut work = || (0..2 * connections).try_for_each(|_| first.get(&key).map(|_| ()));
    work()?;
    let before = at_rest(instance.pid())?;
    let mut clients = Vec::with_capacity(connections);
    for _ in 0..connections {
        let mut client = Client::new(instance.place.plain);
        client.get(&key)?;
        clients.push(client);
    }
    std::thread::sleep(IDLE_FOR);
    // What is free by then is given back to the system at work, if at all.
    work()?;
    let after = at_rest(instance.pid())?;
    let closed = clients.iter().filter(|client| !client.is_open()).count();
    let note = (closed > 0).then(|| format!("{closed} of {connections} were closed"));
    let value = (after as f64 - before as f64) / 1024.0 / connections as f64;
    Ok(Sample { value, note, ..Sample::default() })
}

fn at_rest(pid: u32) -> Told<u64> {
    let ends = Instant::now() + REST_LIMIT;
    let mut last = (tree::memory(pid)?, Instant::now());
    loop {
        std::thread::sleep(Duration::from_millis(50));
        let now = tree::memory(pid)?;
        if now.abs_diff(last.0) > last.0 / 1000 {
            last = (now, Instant::now());
        } else if last.1.elapsed() > REST || Instant::now() > ends {
            return Ok(now);
        }
    }
}
