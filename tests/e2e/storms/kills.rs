//! A proxy that is killed again and again, at any moment, while routes change: it starts without the store, from a table that was once in force.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use serde_json::{Value, json};
use waypost_tests::{Etcd, FaultProxy, Waypost, until_true};

use super::{put_many, routes};
use crate::{
    scene::route,
    store::{Cells, seed},
};

/// So many that writing a snapshot takes a while.
const ROUTES: usize = 40_000;
const KILLS: usize = 10;
/// Within this after a start it is killed: before, while and after a snapshot is written.
const WITHIN_MS: u64 = 2500;

/// Moves two routes together, each time at the next epoch, until told to stop; the epoch of each revision.
async fn write(etcd: &Etcd, stop: &AtomicBool) -> BTreeMap<u64, u64> {
    let mut written = BTreeMap::new();
    let mut epoch = 1;
    while !stop.load(Ordering::Relaxed) {
        epoch += 1;
        let owner = if epoch % 2 == 0 { "b" } else { "a" };
        let revision = etcd.put_all(&[("routes/orders/t1", route(owner, epoch)), ("routes/orders/t2", route(owner, epoch))]).await;
        written.insert(revision, epoch);
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    written
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_is_killed_at_any_moment_comes_back_with_a_table_that_was_in_force() {
    let seed = seed();
    eprintln!("WAYPOST_SEED={seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let etcd = Etcd::start().await;
    let _cells = Cells::of(&etcd).await;
    etcd.put_all(&[("routes/orders/t1", route("a", 1)), ("routes/orders/t2", route("a", 1))]).await;
    put_many(&etcd, routes("other", ROUTES, "a")).await;
    let between = FaultProxy::start(etcd.address()).await;
    let mut waypost = Waypost::start(&between.url(), &[]).await;
    until_true("the first snapshot is there", async || waypost.snapshot().exists()).await;
    let stop = AtomicBool::new(false);
    let killing = async {
        let mut seen: Vec<(u64, Value)> = Vec::new();
        for _ in 0..KILLS {
            tokio::time::sleep(Duration::from_millis(rng.u64(0..WITHIN_MS))).await;
            waypost.kill();
            between.cut();
            waypost.spawn();
            waypost.ready().await;
            let (status, t1, t2) = (waypost.status().await, epoch(&waypost, "t1").await, epoch(&waypost, "t2").await);
            assert_eq!((&status["gold"][0]["source"], &status["table"]["routes"]), (&json!("snapshot"), &json!(ROUTES + 2)), "{status}");
            assert_eq!(t1, t2, "a revision is seen whole");
            assert_eq!(waypost.get("other77", "/").await.text(), "a");
            seen.push((status["gold"][0]["revision"].as_u64().unwrap(), t1));
            between.pass();
        }
        stop.store(true, Ordering::Relaxed);
        seen
    };
    let (written, seen) = tokio::join!(write(&etcd, &stop), killing);
    for (revision, epoch) in &seen {
        let last = written.range(..=revision).next_back().map_or(1, |(_, epoch)| *epoch);
        assert_eq!(*epoch, json!(last), "at revision {revision}");
    }
    assert!(seen.is_sorted_by_key(|(revision, _)| *revision), "a snapshot never goes back: {seen:?}");
    assert!(!waypost.snapshot().with_extension("snapshot.damaged").exists());
    waypost.at(*written.keys().next_back().unwrap()).await;
    waypost.equals(&["--gold", &etcd.url()]).await;
}

async fn epoch(waypost: &Waypost, key: &str) -> Value {
    waypost.json(&format!("/routes/orders/{key}")).await["epoch"].clone()
}
