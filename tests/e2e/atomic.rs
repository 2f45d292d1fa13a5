//! A transaction over two routes is never seen half.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use crate::scene::{Scene, route};

/// One owner at every revision: a writer swaps both routes at once, and a reader on one connection asks for them in turn. Between two
/// requests with the same revision in their stamps nothing can have changed, so their owners must be those of that revision.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_over_two_routes_is_never_seen_half() {
    const SWAPS: u64 = 300;
    let scene = Scene::start().await;
    let first = scene.etcd.put_all(&[("routes/orders/x", route("a", 1)), ("routes/orders/y", route("a", 1))]).await;
    scene.waypost.at(first).await;
    let done = Arc::new(AtomicBool::new(false));
    let writer = async {
        for epoch in 2..SWAPS {
            let owner = if epoch % 2 == 0 { "b" } else { "a" };
            scene.etcd.put_all(&[("routes/orders/x", route(owner, epoch)), ("routes/orders/y", route(owner, epoch))]).await;
        }
        done.store(true, Ordering::Relaxed);
    };
    let reader = async {
        let mut client = scene.waypost.client().await;
        let mut requests = 0usize;
        while !done.load(Ordering::Relaxed) {
            for tenant in ["x", "y"] {
                let answer = client.get("/", &[("x-tenant", tenant)]).await;
                assert_eq!(answer.status, 200, "{}", answer.text());
                requests += 1;
            }
        }
        requests
    };
    let ((), requests) = tokio::join!(writer, reader);
    assert!(requests > 100, "{requests} requests are too few to have met anything");
    // Each transaction is one revision, and both of its routes have the same epoch: what a backend was told of the one at a revision
    // holds for the other.
    let mut epochs = std::collections::HashMap::new();
    let mut pairs = 0;
    for seen in scene.a.seen().iter().chain(&scene.b.seen()) {
        let (revision, epoch, key) = (seen.stamped("revision"), seen.stamped("epoch"), seen.stamped("key"));
        let (known, by) = epochs.entry(revision.clone()).or_insert_with(|| (epoch.clone(), key.clone()));
        assert_eq!(*known, epoch, "at revision {revision}, {by} and {key} are of different transactions");
        pairs += usize::from(*by != key);
    }
    assert!(pairs > 0, "no revision was seen by both keys, so nothing was shown");
}
