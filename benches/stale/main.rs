//! What stale routes cost: one healed request beside one that meets no staleness, and ten thousand stale keys at once.
//!
//! A real etcd says that owner `a` has all keys; `a` refuses those that begin with `stale`, as an owner does that has handed them over. What is
//! measured, and how, is said in README.md. `--quick` does all of it in small; its figures mean nothing and are not judged.
#![allow(clippy::print_stdout, reason = "the table is what this program is for")]

mod client;
mod owners;

use std::{
    net::SocketAddr,
    process::Command,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use etcd_client::{Client, Txn, TxnOp};
use hdrhistogram::Histogram;
use tempfile::TempDir;
use waypost_bench::processes::{Running, Told, free_address, http_get, pin, say, start_etcd, wait_until, waypost_binary};

use client::{Answers, Connection, all_at_once};
use owners::{Owners, REFUSED};

const PREFIX: &str = "/waypost/v1";
/// Puts a transaction; etcd allows 128.
const BATCH: usize = 100;
/// Connections that ask for many stale keys at once.
const CONNECTIONS: usize = 256;
/// The target: so many times a normal request's time, and so much more.
const HEALED_FACTOR: f64 = 2.0;
const HEALED_MORE_US: f64 = 200.0;
/// A proxy's reads of the store for checks (STALE-ROUTES.md, "What a backend answers").
const READS_PER_SECOND: f64 = 200.0;
const READS_BURST: f64 = 50.0;
/// What the owner that refuses says is not what the store holds, which a proxy finds out when a hint is 5 s old; a scene has to end before.
const SCENE_LIMIT: Duration = Duration::from_secs(5);

struct Stage {
    etcd: SocketAddr,
    proxy: SocketAddr,
    owners: Owners,
    _running: [Running; 2],
    _folder: TempDir,
}

/// A line of the table.
struct Figure {
    name: &'static str,
    measured: String,
    target: String,
    is_met: Option<bool>,
}

fn main() -> Told<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (keys, is_judged) = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => (10_000, true),
        ["--quick"] => (500, false),
        _ => return Err(format!("{} is not understood; nothing, or --quick, would be right", arguments.join(" "))),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(say)?;
    let figures = runtime.block_on(async {
        let stage = Stage::open(keys).await?;
        let mut figures = vec![healed(&stage, keys / 2).await?];
        figures.extend(many(&stage, keys).await?);
        figures.push(unnamed(&stage, keys).await?);
        Ok::<_, String>(figures)
    })?;
    println!("\n| figure | measured | target | met |\n|---|---|---|---|");
    for Figure { name, measured, target, is_met } in figures {
        let met = match is_met.filter(|_| is_judged) {
            None => "–",
            Some(true) => "yes",
            Some(false) => "NO",
        };
        println!("| {name} | {measured} | {target} | {met} |");
    }
    if !is_judged {
        println!("\na quick run: these figures mean nothing");
    }
    Ok(())
}

impl Stage {
    /// Writes the records, and starts a proxy with one worker on core 0; everything else has core 1.
    async fn open(keys: usize) -> Told<Self> {
        let folder = tempfile::tempdir().map_err(say)?;
        let (etcd, proxy, admin) = (free_address()?, free_address()?, free_address()?);
        let store = start_etcd(folder.path(), "etcd", etcd, &[])?;
        let gold = format!("http://{etcd}");
        let owners = Owners::start().await?;
        write_records(&gold, &owners, keys).await?;
        let two_cores = std::thread::available_parallelism().is_ok_and(|cores| cores.get() > 1);
        let binary = waypost_binary()?;
        let mut command = Command::new(if two_cores { "taskset".into() } else { binary.clone() });
        if two_cores {
            pin(std::process::id(), "1")?;
            pin(store.pid(), "1")?;
            command.args(["-c", "0"]).arg(binary);
        }
        command.args(["run", "--id", "bench", "--threads", "1", "--access-log", "off", "--gold", &gold, "--listen", &proxy.to_string()]);
        command.args(["--admin", &admin.to_string(), "--snapshot"]).arg(folder.path().join("snapshot"));
        let running = Running::start(&mut command, folder.path(), "waypost")?;
        let is_ready = || Ok(http_get(admin, "/readyz").is_some_and(|(status, _)| status == 200));
        wait_until("the proxy to be ready", is_ready)?;
        Ok(Self { etcd, proxy, owners, _running: [running, store], _folder: folder })
    }

    /// How many reads the store has served.
    fn reads(&self) -> Told<f64> {
        let (_, metrics) = http_get(self.etcd, "/metrics").ok_or("etcd does not answer /metrics")?;
        let line = metrics.lines().find_map(|line| line.strip_prefix("etcd_debugging_mvcc_range_total "));
        line.and_then(|count| count.parse().ok()).ok_or_else(|| "etcd does not count its reads".to_owned())
    }
}

/// Keys that nobody refuses belong to `b`; those of each scene that `a` refuses, to `a`.
async fn write_records(gold: &str, owners: &Owners, keys: usize) -> Told<()> {
    let client = Client::connect([gold], None).await.map_err(say)?;
    let put = |key: String, value: String| TxnOp::put(format!("{PREFIX}/{key}"), value, None);
    let upstream = |address: SocketAddr| format!(r#"{{"endpoints":[{{"address":"{address}"}}]}}"#);
    let mut records = vec![
        put("services/orders".to_owned(), r#"{"match":[{}],"key":{"header":"x-tenant"}}"#.to_owned()),
        put("upstreams/a".to_owned(), upstream(owners.a)),
        put("upstreams/b".to_owned(), upstream(owners.b)),
    ];
    for scene in ["normal", "stale-one", "stale-all", "stale-unnamed"] {
        let owner = if scene == "normal" { "b" } else { "a" };
        records.extend((0..keys).map(|n| put(format!("routes/orders/{scene}-{n}"), format!(r#"{{"owner":"{owner}","epoch":5}}"#))));
    }
    for batch in records.chunks(BATCH) {
        client.kv_client().txn(Txn::new().and_then(batch)).await.map_err(say)?;
    }
    Ok(())
}

fn in_time(since: Instant) -> Told<()> {
    if since.elapsed() < SCENE_LIMIT {
        Ok(())
    } else {
        Err("the machine is too busy for this: a scene took longer than hints live".to_owned())
    }
}

/// One request after the other, in turn one that meets no staleness and one that is refused, told of the owner, and served there.
async fn healed(stage: &Stage, count: usize) -> Told<Figure> {
    let mut connection = Connection::open(stage.proxy).await?;
    let mut times = [Histogram::<u64>::new(3).map_err(say)?, Histogram::new(3).map_err(say)?];
    // The first few make the connections to both owners.
    let warm = count / 10;
    let began = Instant::now();
    for n in 0..count {
        in_time(began)?;
        for (scene, times) in ["normal", "stale-one"].into_iter().zip(&mut times) {
            let since = Instant::now();
            let status = connection.ask(&format!("{scene}-{n}")).await?;
            let took = since.elapsed();
            if status != 200 {
                return Err(format!("{scene}-{n} was answered {status}"));
            }
            if n >= warm {
                times.record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX)).map_err(say)?;
            }
        }
    }
    let us = |times: &Histogram<u64>, share| times.value_at_quantile(share) as f64 / 1000.0;
    let [normal, healed] = &times;
    let (p50, p99) = ([us(normal, 0.5), us(healed, 0.5)], [us(normal, 0.99), us(healed, 0.99)]);
    let allowed = HEALED_FACTOR * p50[0] + HEALED_MORE_US;
    Ok(Figure {
        name: "a healed request beside a normal one",
        measured: format!(
            "p50 {:.0} µs ÷ {:.0} µs = {:.2}; p99 {:.0} µs ÷ {:.0} µs; {} connections to the owner that refused",
            p50[1],
            p50[0],
            p50[1] / p50[0],
            p99[1],
            p99[0],
            stage.owners.connections_to_a.load(Ordering::Relaxed)
        ),
        target: format!("p50 ≤ 2 × normal + 0.2 ms = {allowed:.0} µs"),
        is_met: Some(p50[1] <= allowed),
    })
}

/// All keys of a service stale at once, and asked for at once; the owner names the next.
async fn many(stage: &Stage, keys: usize) -> Told<[Figure; 2]> {
    let (before, began) = (stage.reads()?, Instant::now());
    let Answers { statuses, took } = all_at_once(stage.proxy, CONNECTIONS, keys, "stale-all").await?;
    let reads = stage.reads()? - before;
    in_time(began)?;
    let failed = keys - statuses.get(&200).copied().unwrap_or(0);
    let allowed = READS_PER_SECOND * took.as_secs_f64() + READS_BURST;
    let all = Figure {
        name: "stale keys at once, all named by their owner",
        measured: format!("{keys} in {:.2} s: {failed} failed, {reads:.0} reads of the store", took.as_secs_f64()),
        target: format!("none failed, reads ≤ 200/s + 50 = {allowed:.0}"),
        is_met: Some(failed == 0 && reads <= allowed),
    };
    let Answers { took: again, .. } = all_at_once(stage.proxy, CONNECTIONS, keys, "stale-all").await?;
    let speed = |took: Duration| keys as f64 / took.as_secs_f64();
    let beside = Figure {
        name: "requests a second, while healing and when healed",
        measured: format!("{:.0} and {:.0}", speed(took), speed(again)),
        target: String::new(),
        is_met: None,
    };
    Ok([all, beside])
}

/// The same where the owner that refuses names nobody, and the store knows no other either: each key has to be read, and in vain.
async fn unnamed(stage: &Stage, keys: usize) -> Told<Figure> {
    let before = stage.reads()?;
    let Answers { statuses, took } = all_at_once(stage.proxy, CONNECTIONS, keys, "stale-unnamed").await?;
    let reads = stage.reads()? - before;
    let allowed = READS_PER_SECOND * took.as_secs_f64() + READS_BURST;
    let refused = statuses.get(&REFUSED).copied().unwrap_or(0);
    Ok(Figure {
        name: "stale keys at once of which nobody knows another owner",
        measured: format!("{keys} in {:.2} s: {refused} answered 503, {reads:.0} reads of the store", took.as_secs_f64()),
        target: format!("reads ≤ 200/s + 50 = {allowed:.0}"),
        is_met: Some(reads <= allowed && refused == keys),
    })
}
