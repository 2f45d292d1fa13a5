//! The watcher against a real etcd that has much to say: a backlog of many large revisions, and a store of many keys.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod stage;

use etcd_client::{Txn, TxnOp};
use stage::{Etcd, PREFIX, until, until_revision, watch_with_snapshot};

/// etcd's own limit on the operations of a transaction.
const OPERATIONS: usize = 128;
/// How many revisions the backlog has.
const REVISIONS: usize = 400;

/// How many transactions are under way at the same time.
const WRITERS: usize = 8;

/// Puts so many routes `tenant-<n>` of owner `a` in as few transactions as may be; the last revision. `padding` makes records larger.
async fn put_routes(etcd: &Etcd, count: usize, padding: usize) -> u64 {
    let client = etcd.client().await;
    let filler = " ".repeat(padding);
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let (mut kv, filler) = (client.kv_client(), filler.clone());
        writers.spawn(async move {
            let mut revision = 0;
            for first in (writer * OPERATIONS..count).step_by(WRITERS * OPERATIONS) {
                let puts = (first..count.min(first + OPERATIONS)).map(|n| {
                    let value = format!(r#"{{"owner":"a"{filler}}}"#);
                    TxnOp::put(format!("{PREFIX}/routes/orders/tenant-{n}"), value, None)
                });
                let done = kv.txn(Txn::new().and_then(puts.collect::<Vec<_>>())).await.unwrap();
                revision = u64::try_from(done.header().unwrap().revision()).unwrap();
            }
            revision
        });
    }
    writers.join_all().await.into_iter().max().unwrap()
}

/// etcd sends up to a thousand such revisions at a time, in fragments of 2 MB that are cut in the middle of revisions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_backlog_is_caught_up_with_and_no_revision_is_seen_half() {
    let etcd = Etcd::start().await;
    etcd.filled().await;
    let watcher = watch_with_snapshot(&etcd);
    until(&watcher.view, "the first list is in force", |_, status| status.connected).await;
    watcher.stop().await;
    let revision = put_routes(&etcd, REVISIONS * OPERATIONS, 200).await;

    let watcher = watch_with_snapshot(&etcd);
    let routes_before = 1;
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
}
