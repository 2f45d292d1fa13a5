//! Much at once, and bad things at once: leases that end, huge and bad records, mass deletes, kills, stores that are restored or replaced.
//! A client keeps sending through all of it.

mod deletes;
mod kills;
mod leases;
mod records;
mod restores;

use etcd_client::{PutOptions, Txn, TxnOp};
use serde_json::Value;
use tokio::task::JoinSet;
use waypost_tests::{Etcd, PREFIX, Waypost};

/// etcd's own limit on the operations of a transaction.
const OPERATIONS: usize = 128;
/// How many transactions are under way at the same time.
const WRITERS: usize = 8;

/// A record, and the lease that it hangs on; 0: none.
pub(crate) type Leased = (String, String, i64);

/// Puts so many records in as few transactions as may be; the last revision.
pub(crate) async fn put_many(etcd: &Etcd, records: Vec<Leased>) -> u64 {
    let client = etcd.client().await;
    let mut batches = records.chunks(OPERATIONS).map(<[Leased]>::to_vec);
    let (mut under_way, mut revision) = (JoinSet::new(), 0);
    loop {
        while under_way.len() < WRITERS
            && let Some(batch) = batches.next()
        {
            let mut kv = client.kv_client();
            let puts = batch.into_iter().map(|(key, value, lease)| {
                TxnOp::put(format!("{PREFIX}/{key}"), value, (lease != 0).then(|| PutOptions::new().with_lease(lease)))
            });
            let txn = Txn::new().and_then(puts.collect::<Vec<_>>());
            under_way.spawn(async move { kv.txn(txn).await.unwrap().header().unwrap().revision() });
        }
        let Some(done) = under_way.join_next().await else { return revision };
        revision = revision.max(u64::try_from(done.unwrap()).unwrap());
    }
}

/// Routes `<start><n>` of one owner.
pub(crate) fn routes(start: &str, count: usize, owner: &str) -> Vec<Leased> {
    let value = serde_json::json!({ "owner": owner }).to_string();
    (0..count).map(|n| (format!("routes/orders/{start}{n}"), value.clone(), 0)).collect()
}

/// Asserts that a proxy which has just listed everything has the same digest.
pub(crate) async fn equals_a_fresh_one(etcd: &Etcd, waypost: &Waypost) {
    let digest = async |waypost: &Waypost| -> Value { waypost.status().await["table"]["digest"].clone() };
    let fresh = Waypost::start(&etcd.url(), &[]).await;
    assert_eq!(digest(waypost).await, digest(&fresh).await);
}
