//! The routes in etcd: written at once, listed as quickly as can be, and changed at a steady pace.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use etcd_client::{Client, GetOptions, KvClient, Txn, TxnOp};
use tokio::task::JoinSet;
use waypost_bench::processes::{Told, say};

use crate::stage::OWNERS;

/// What all keys of the table start with.
pub(crate) const PREFIX: &str = "/waypost/v1";
/// Beside it: keys that no proxy follows.
pub(crate) const ELSEWHERE: &str = "/elsewhere";
/// Puts a transaction; etcd allows 128.
pub(crate) const BATCH: usize = 100;
/// Transactions under way at the same time. Each writer has keys of its own, so that what was written last is known.
const WRITERS: u64 = 4;
/// Between the keys of one transaction; prime, so that they differ.
const STRIDE: u64 = 7919;
/// Keys a part of the bare list, and how many parts are asked for at once: the product's figures.
const PART: usize = 5000;
const AT_ONCE: usize = 2;
/// Above etcd's and tonic's defaults.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// Runs a future with as many threads as there are cores.
pub(crate) fn block_on<T>(future: impl Future<Output = Told<T>>) -> Told<T> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(say)?.block_on(future)
}

/// A connection.
pub(crate) async fn connect(gold: &str) -> Told<Client> {
    Client::connect([gold], None).await.map_err(say)
}

/// A route's key in the store.
pub(crate) fn key(prefix: &str, number: u64) -> String {
    format!("{prefix}/routes/bench/tenant-{number}")
}

/// A route's record.
pub(crate) fn record(owner: u64) -> String {
    format!(r#"{{"owner":"cell-{owner}"}}"#)
}

/// Writes the service, the owners and all routes.
pub(crate) async fn load(gold: &str, addresses: &[SocketAddr], owners: &[u8]) -> Told<()> {
    let client = connect(gold).await?;
    let put = |key: String, value: String| TxnOp::put(format!("{PREFIX}/{key}"), value, None);
    let mut first = vec![put("services/bench".to_owned(), r#"{"match":[{}],"key":{"header":"x-tenant"}}"#.to_owned())];
    first.extend(
        addresses
            .iter()
            .enumerate()
            .map(|(number, address)| put(format!("upstreams/cell-{number}"), format!(r#"{{"endpoints":[{{"address":"{address}"}}]}}"#))),
    );
    client.kv_client().txn(Txn::new().and_then(first)).await.map_err(say)?;
    let mut writers = JoinSet::new();
    let owners: Arc<[u8]> = owners.into();
    for writer in 0..WRITERS as usize {
        let (mut kv, owners) = (client.kv_client(), Arc::clone(&owners));
        writers.spawn(async move {
            let batches = owners.chunks(BATCH).enumerate().skip(writer).step_by(WRITERS as usize);
            for (batch, owners) in batches {
                let puts = owners
                    .iter()
                    .enumerate()
                    .map(|(place, owner)| TxnOp::put(key(PREFIX, (batch * BATCH + place) as u64), record(u64::from(*owner)), None));
                kv.txn(Txn::new().and_then(puts.collect::<Vec<_>>())).await.map_err(say)?;
            }
            Ok::<_, String>(())
        });
    }
    writers.join_all().await.into_iter().collect()
}

/// What cuts the routes into parts, when all of them are known.
pub(crate) fn fences(routes: u64) -> Vec<String> {
    let mut keys: Vec<String> = (0..routes).map(|number| key(PREFIX, number)).collect();
    keys.sort_unstable();
    keys.into_iter().step_by(PART).skip(1).collect()
}

/// What a list knows of the keys before it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Knows {
    /// As little as a first start: the first range is open at its end, and its answer shows where to cut.
    Nothing,
    /// All fences.
    Fences,
}

/// Lists everything below the prefix by bounded ranges at one pinned revision, and throws it away; how many records there were.
pub(crate) async fn bare_list(gold: &str, fences: &[String], knows: Knows) -> Told<usize> {
    let kv = connect(gold).await?.kv_client().max_decoding_message_size(MAX_ANSWER_BYTES);
    let pinned = kv.clone().get(format!("{PREFIX}/incarnation"), None).await.map_err(say)?;
    let revision = pinned.header().map_or(0, |header| header.revision());
    let part = |from: &str, to: &str| {
        let (mut kv, from) = (kv.clone(), from.to_owned());
        let options = GetOptions::new().with_range(to).with_limit(2 * PART as i64).with_revision(revision).with_serializable();
        async move { kv.get(from, Some(options)).await.map(|mut found| found.take_kvs()).map_err(say) }
    };
    let (mut first, last) = (format!("{PREFIX}/"), format!("{PREFIX}0"));
    let mut records = 0;
    if knows == Knows::Nothing {
        let found = part(&first, &last).await?;
        records += found.len();
        let Some(end) = found.last() else { return Ok(0) };
        first = format!("{}\0", end.key_str().map_err(say)?);
    }
    let cuts: Vec<&String> = std::iter::once(&first).chain(fences.iter().filter(|fence| **fence > first)).chain([&last]).collect();
    let mut parts = cuts.windows(2);
    let mut under_way = JoinSet::new();
    loop {
        while under_way.len() < AT_ONCE
            && let Some([from, to]) = parts.next()
        {
            under_way.spawn(part(from, to));
        }
        let Some(found) = under_way.join_next().await else { return Ok(records) };
        records += found.map_err(say)??.len();
    }
}

/// Puts one route; the revision.
pub(crate) async fn put(kv: &mut KvClient, number: u64, owner: u64) -> Told<u64> {
    let done = kv.put(key(PREFIX, number), record(owner), None).await.map_err(say)?;
    Ok(done.header().map_or(0, |header| header.revision() as u64))
}

/// What was written at a steady pace.
#[derive(Clone, Debug, Default)]
pub(crate) struct Written {
    /// Which routes were given to whom, each key's in order.
    pub(crate) owners: Vec<(u64, u8)>,
    /// The last revision.
    pub(crate) revision: u64,
}

/// Puts routes below a prefix, `per_second` of them for so long; each transaction is due at a time of its own, and late ones are made up
/// for. `acknowledged` is told each revision.
pub(crate) async fn write(
    gold: &str,
    prefix: &'static str,
    routes: u64,
    per_second: f64,
    duration: Duration,
    acknowledged: &Arc<AtomicU64>,
) -> Told<Written> {
    let client = connect(gold).await?;
    let begins = Instant::now();
    let every = Duration::from_secs_f64(BATCH as f64 * WRITERS as f64 / per_second);
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let (mut kv, acknowledged) = (client.kv_client(), Arc::clone(acknowledged));
        let mut rng = fastrand::Rng::with_seed(writer);
        writers.spawn(async move {
            let mut written = Written::default();
            let mut due = begins + every * writer as u32 / WRITERS as u32;
            while due < begins + duration {
                tokio::time::sleep_until(due.into()).await;
                due += every;
                let own_keys = routes / WRITERS;
                let (first, owner) = (rng.u64(0..own_keys), rng.u64(0..OWNERS));
                let numbers = (0..BATCH as u64).map(|place| (first + place * STRIDE) % own_keys * WRITERS + writer);
                let numbers: Vec<u64> = numbers.collect();
                let puts: Vec<TxnOp> = numbers.iter().map(|number| TxnOp::put(key(prefix, *number), record(owner), None)).collect();
                let done = kv.txn(Txn::new().and_then(puts)).await.map_err(say)?;
                written.revision = done.header().map_or(0, |header| header.revision() as u64);
                acknowledged.fetch_max(written.revision, Ordering::Relaxed);
                written.owners.extend(numbers.into_iter().map(|number| (number, owner as u8)));
            }
            Ok::<_, String>(written)
        });
    }
    let mut all = Written::default();
    for written in writers.join_all().await {
        let written = written?;
        all.revision = all.revision.max(written.revision);
        all.owners.extend(written.owners);
    }
    Ok(all)
}
