//! The watcher against a real etcd that has much to say: a backlog of many large revisions, and a store of many keys.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod stage;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use etcd_client::{GetOptions, Txn, TxnOp};
use stage::{Etcd, PREFIX, owner, settings, until, until_revision};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use waypost_watcher::{
    GoldPlace, GoldStatus, Settings, Watcher,
    store::{ListFault, Store},
};

/// etcd's own limit on the operations of a transaction.
const OPERATIONS: usize = 128;
/// How many revisions the backlog has.
const REVISIONS: usize = 400;

/// How many transactions are under way at the same time.
const WRITERS: usize = 8;

/// Puts so many routes `<start>-<n>` of a hundred owners in as few transactions as may be; the last revision. `padding` makes records larger.
async fn put_routes(etcd: &Etcd, start: &'static str, count: usize, padding: usize) -> u64 {
    let client = etcd.client().await;
    let filler = " ".repeat(padding);
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let (mut kv, filler) = (client.kv_client(), filler.clone());
        writers.spawn(async move {
            let mut revision = 0;
            for first in (writer * OPERATIONS..count).step_by(WRITERS * OPERATIONS) {
                let puts = (first..count.min(first + OPERATIONS)).map(|n| {
                    let value = format!(r#"{{"owner":"cell-{}","epoch":{}{filler}}}"#, n % 100, n % 7 + 1);
                    TxnOp::put(format!("{PREFIX}/routes/orders/{start}-{n}"), value, None)
                });
                let done = kv.txn(Txn::new().and_then(puts.collect::<Vec<_>>())).await.unwrap();
                revision = u64::try_from(done.header().unwrap().revision()).unwrap();
            }
            revision
        });
    }
    writers.join_all().await.into_iter().max().unwrap()
}

/// etcd sends up to a thousand such revisions at a time, whole, or in fragments of 2 MB that are cut in the middle of revisions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_backlog_is_caught_up_with_and_no_revision_is_seen_half() {
    let etcd = Etcd::start().await;
    etcd.filled().await;
    let follow = |most_watch_bytes| {
        let snapshot = etcd.directory.path().join("edge.snapshot");
        waypost_watcher::start(Settings { most_watch_bytes, ..settings(&etcd.url(), Some(&snapshot)) }).unwrap()
    };
    let watcher = follow(64 << 20);
    until(&watcher.view, "the first list is in force", |_, status| status.connected).await;
    watcher.stop().await;
    let mut routes_before = 1;
    for most_watch_bytes in [64 << 20, 3 << 20] {
        // The second time other routes, so that both are new ones.
        let start = if routes_before == 1 { "tenant" } else { "customer" };
        let revision = put_routes(&etcd, start, REVISIONS * OPERATIONS, 200).await;
        let watcher = follow(most_watch_bytes);
        let table = until(&watcher.view, "the backlog is in force", |table, _| {
            let new = table.route_count() - routes_before;
            assert_eq!(new % OPERATIONS, 0, "a part of a revision is in force, at {}", table.revision());
            table.revision() >= revision
        });
        let table = table.await;
        assert_eq!(table.route_count(), routes_before + REVISIONS * OPERATIONS);
        assert!(watcher.view.status().resyncs.is_empty(), "caught up, not listed");
        let listed = stage::watch(&etcd);
        assert_eq!(until_revision(&listed.view, revision).await.digest(), table.digest());
        listed.stop().await;
        watcher.stop().await;
        routes_before = table.route_count();
    }
}

/// More than one answer holds in number, and more than one may hold in bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_of_many_and_of_large_records_is_whole() {
    const ROUTES: usize = 25_000;
    const LARGE: usize = 80;
    let etcd = Etcd::start().await;
    etcd.filled().await;
    put_routes(&etcd, "tenant", ROUTES, 0).await;
    let listed = stage::watch(&etcd);
    until(&listed.view, "the first list is in force", |table, _| table.route_count() == ROUTES + 1).await;
    let mut kv = etcd.client().await.kv_client();
    let value = format!(r#"{{"owner":"a"{}}}"#, " ".repeat(1_000_000));
    let mut revision = 0;
    for n in 0..LARGE {
        let done = kv.put(format!("{PREFIX}/routes/orders/large-{n}"), value.clone(), None).await.unwrap();
        revision = u64::try_from(done.header().unwrap().revision()).unwrap();
    }
    let followed = until_revision(&listed.view, revision).await;
    let again = stage::watch(&etcd);
    let table = until_revision(&again.view, revision).await;
    assert_eq!((table.route_count(), table.digest()), (ROUTES + LARGE + 1, followed.digest()));
    assert!(owner(&table, "large-79").is_some() && owner(&table, "tenant-24999").is_some());
    let GoldPlace::Etcd(place) = settings(&etcd.url(), None).place else { panic!("the place is an etcd") };
    let store = Store::connect(&place).await.unwrap();
    let mut keys = Vec::new();
    let mut sum: u128 = 0;
    let pinned = store.list_at(Some(revision), |stored| {
        sum = sum.wrapping_add(stored.meta().digest);
        keys.push(stored.key);
    });
    assert_eq!((pinned.await.unwrap().revision, sum), (revision, table.digest()));
    assert!(keys.is_sorted_by(|one, next| one < next) && keys.len() > ROUTES + LARGE);
    assert_eq!(store.list_at(Some(revision + 1), drop).await, Err(ListFault::Ahead));
    // As commands list: a part of it, with the values and without, large ones included.
    for start in ["", "routes/orders/", "routes/orders/tenant-1", "routes/orders/large-", "routes/p", "services/orders", "upstreams/none"] {
        let below: Vec<Vec<u8>> = keys.iter().filter(|key| key.starts_with(start.as_bytes())).cloned().collect();
        let records = store.list(start.as_bytes()).await.unwrap();
        assert!(records.iter().map(|stored| &stored.key).eq(&below), "{start}: {} of {}", records.len(), below.len());
        assert!(records.iter().all(|stored| !stored.value.is_empty()));
        assert!(store.keys(start.as_bytes()).await.unwrap() == below, "{start}");
    }
    again.stop().await;
    listed.stop().await;
}

/// The limit is there for memory: what is beyond it is not even read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_ends_where_there_are_too_many_records() {
    const ROUTES: usize = 60_000;
    let etcd = Etcd::start().await;
    put_routes(&etcd, "tenant", ROUTES, 0).await;
    let before = ranges_answered(&etcd).await;
    let watcher = waypost_watcher::start(Settings { most_records: 15_000, ..settings(&etcd.url(), None) }).unwrap();
    let is_full = |status: &GoldStatus| status.last_error.as_deref().is_some_and(|error| error.contains("more than 15000 records"));
    let end = Instant::now() + Duration::from_secs(60);
    while !is_full(&watcher.view.status()) {
        assert!(Instant::now() < end, "{:?}", watcher.view.status());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let asked = ranges_answered(&etcd).await - before;
    assert!(watcher.view.load_full().is_none() && asked < 8, "{asked} reads: all of the list would be 12 ranges at least, and a hello");
    watcher.stop().await;
}

/// How many ranges etcd has answered, by what it says of itself.
async fn ranges_answered(etcd: &Etcd) -> u64 {
    let address = etcd.url().trim_start_matches("http://").to_owned();
    let mut connection = tokio::net::TcpStream::connect(&address).await.unwrap();
    let ask = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    connection.write_all(ask.as_bytes()).await.unwrap();
    let mut said = String::new();
    connection.read_to_string(&mut said).await.unwrap();
    let counts = said.lines().filter(|line| line.starts_with("grpc_server_handled_total") && line.contains(r#"grpc_method="Range""#));
    counts.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64
}

/// Lists begin and end while routes are put and deleted, and history is compacted up to the present: at first faster than any list is,
/// then ever more rarely, so that each list comes to its end however slow the machine is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_and_compacted_while_a_list_is_under_way_is_not_lost() {
    const ROUTES: usize = 25_000;
    const LISTS: usize = 4;
    /// Transactions between two compactions when a list begins.
    const FIRST_PACE: usize = 20;
    let etcd = Etcd::start().await;
    etcd.filled().await;
    put_routes(&etcd, "tenant", ROUTES, 0).await;
    let client = etcd.client().await;
    let done = Arc::new(AtomicBool::new(false));
    let is_done = Arc::clone(&done);
    let pace = Arc::new(AtomicUsize::new(FIRST_PACE));
    let paced = Arc::clone(&pace);
    let writer = tokio::spawn(async move {
        let mut kv = client.kv_client();
        let (mut turn, mut compacted_at, mut revision) = (0usize, 0, 0);
        while !is_done.load(Ordering::Relaxed) {
            turn += 1;
            let key = |n: usize| format!("{PREFIX}/routes/orders/tenant-{}", turn.wrapping_mul(n) % ROUTES);
            let owner = if turn.is_multiple_of(2) { "a" } else { "b" };
            let changes = [TxnOp::put(key(7919), format!(r#"{{"owner":"{owner}"}}"#), None), TxnOp::delete(key(104_729), None)];
            let txn = Txn::new().and_then(if key(7919) == key(104_729) { &changes[..1] } else { &changes[..] });
            revision = kv.txn(txn).await.unwrap().header().unwrap().revision();
            let pace = paced.load(Ordering::Relaxed);
            if turn - compacted_at >= pace {
                kv.compact(revision, None).await.unwrap();
                compacted_at = turn;
                // Not where a new list has begun meanwhile.
                let _ = paced.compare_exchange(pace, pace * 2, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
        u64::try_from(revision).unwrap()
    });
    let mut watchers = Vec::new();
    for _ in 0..LISTS {
        pace.store(FIRST_PACE, Ordering::Relaxed);
        let watcher = stage::watch(&etcd);
        until(&watcher.view, "a list is in force", |_, status| status.connected).await;
        watchers.push(watcher);
    }
    done.store(true, Ordering::Relaxed);
    let revision = writer.await.unwrap();
    let last = stage::watch(&etcd);
    let digest = until_revision(&last.view, revision).await.digest();
    watchers.push(last);
    for watcher in watchers {
        let table = until_revision(&watcher.view, revision).await;
        assert_eq!((table.revision(), table.digest()), (revision, digest));
        watcher.stop().await;
    }
}

/// Prints figures: `cargo test --release -p waypost-watcher --test large -- --ignored --nocapture`. What is compared is measured in turn,
/// since a machine has better and worse moments.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes, and measures"]
async fn figures_of_a_list_of_a_million_routes() {
    const ROUTES: usize = 1_000_000;
    const ROUNDS: usize = 7;
    let etcd = Etcd::start().await;
    etcd.filled().await;
    let began = Instant::now();
    let revision = put_routes(&etcd, "tenant", ROUTES, 60).await;
    eprintln!("loaded {ROUTES} routes in {:?}", began.elapsed());
    let mut keys: Vec<Vec<u8>> = (0..ROUTES).map(|n| format!("{PREFIX}/routes/orders/tenant-{n}").into_bytes()).collect();
    keys.sort_unstable();
    let fences: Vec<Vec<u8>> = keys.into_iter().step_by(5000).collect();
    let directory = tempfile::tempdir().unwrap();
    let snapshot = directory.path().join("edge.snapshot");
    let (mut bare, mut first) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let began = Instant::now();
        let listed = bare_list(&etcd, &fences, revision).await;
        assert!(listed >= ROUTES, "{listed}");
        bare.push(began.elapsed());
        let began = Instant::now();
        let watcher = waypost_watcher::start(settings(&etcd.url(), (round == 0).then_some(&*snapshot))).unwrap();
        wait_for(&watcher, revision).await;
        first.push(began.elapsed());
        watcher.stop().await;
    }
    let (bare, first) =
        (median("a bare list by ranges of 5,000 keys, two at once", bare), median("a first start, to the table in force", first));
    eprintln!("the start is {:.2} times the bare list", first.as_secs_f64() / bare.as_secs_f64());
    let mut loads = Vec::new();
    for _ in 0..ROUNDS {
        let began = Instant::now();
        let watcher = waypost_watcher::start(settings("http://127.0.0.1:1", Some(&snapshot))).unwrap();
        assert!(watcher.view.load_full().is_some_and(|table| table.route_count() > ROUTES));
        loads.push(began.elapsed());
        watcher.stop().await;
    }
    median("a start from the snapshot, to the table in force", loads);
    let revision = etcd.put("routes/orders/t1", r#"{"owner":"b"}"#).await;
    etcd.compact(revision).await;
    let began = Instant::now();
    let watcher = waypost_watcher::start(settings(&etcd.url(), Some(&snapshot))).unwrap();
    wait_for(&watcher, revision).await;
    eprintln!("a start from the snapshot and a resync by its fences: {:?}", began.elapsed());
    watcher.stop().await;
}

fn median(what: &str, mut took: Vec<Duration>) -> Duration {
    took.sort_unstable();
    let median = took[took.len() / 2];
    eprintln!("{what}: median {median:?}, {:?} to {:?}", took[0], took[took.len() - 1]);
    median
}

async fn wait_for(watcher: &Watcher, revision: u64) {
    let end = Instant::now() + Duration::from_secs(300);
    while watcher.view.load_full().is_none_or(|table| table.revision() < revision) {
        assert!(Instant::now() < end, "{:?}", watcher.view.status());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What the reads alone take, with fences that fit.
async fn bare_list(etcd: &Etcd, fences: &[Vec<u8>], revision: u64) -> usize {
    let client = etcd.client().await;
    let mut readers = tokio::task::JoinSet::new();
    for reader in 0..2 {
        let mut kv = client.kv_client().max_decoding_message_size(1 << 30);
        let ranges: Vec<_> = fences.windows(2).skip(reader).step_by(2).map(|two| (two[0].clone(), two[1].clone())).collect();
        let last = (reader == 0).then(|| (fences[fences.len() - 1].clone(), format!("{PREFIX}/routes/orders0").into_bytes()));
        readers.spawn(async move {
            let mut found = 0;
            for (from, end) in ranges.into_iter().chain(last) {
                let at = i64::try_from(revision).unwrap();
                let options = GetOptions::new().with_range(end).with_limit(10_000).with_revision(at).with_serializable();
                found += kv.get(from, Some(options)).await.unwrap().kvs().len();
            }
            found
        });
    }
    readers.join_all().await.into_iter().sum()
}
