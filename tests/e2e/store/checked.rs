//! A proxy whose reads of the store can be told from its watch.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use waypost_tests::{Backend, Etcd, FaultProxy, Reply, Steady, Waypost};

use crate::scene::route;

/// A proxy behind a relay that can hold its watch back, and a cell `c` that can be made to refuse `t2` without saying who owns it, so
/// that only a read of the store tells.
pub(crate) struct Checked {
    pub(crate) between: FaultProxy,
    pub(crate) waypost: Waypost,
    refuses: Arc<AtomicBool>,
    _c: Backend,
    epoch: u64,
}

impl Checked {
    pub(crate) async fn start(etcd: &Etcd, flags: &[&str]) -> Self {
        let refuses = Arc::<AtomicBool>::default();
        let refusing = Arc::clone(&refuses);
        let c = Backend::start(move |_| match refusing.load(Ordering::Relaxed) {
            true => Reply::stale("state=moved, key=\"t2\""),
            false => Reply::ok("c"),
        })
        .await;
        etcd.put_all(&[("upstreams/c", c.upstream()), ("routes/orders/t2", route("c", 1))]).await;
        let between = FaultProxy::start(etcd.address()).await;
        let waypost = Waypost::start(&between.url(), &[flags, &super::WITHOUT_REPORTS].concat()).await;
        waypost.until_connected(true).await;
        Self { between, waypost, refuses, _c: c, epoch: 1 }
    }

    /// Moves `t2` while the watch is held back: that its new owner serves it shows that the store could be read.
    pub(crate) async fn reads(&mut self, etcd: &Etcd, steady: &Steady) {
        self.reads_while(etcd, steady, self.between.accepted()).await;
    }

    /// The same, the watch being this connection.
    pub(crate) async fn reads_while(&mut self, etcd: &Etcd, steady: &Steady, watch: usize) {
        steady.may("t2", "b");
        self.between.hold_one(watch);
        self.epoch += 1;
        etcd.put("routes/orders/t2", route("b", self.epoch)).await;
        self.refuses.store(true, Ordering::Relaxed);
        assert_eq!(self.waypost.get("t2", "/").await.text(), "b", "{}\n{}", self.waypost.status().await, self.waypost.said());
        self.refuses.store(false, Ordering::Relaxed);
        self.between.pass();
        self.epoch += 1;
        let revision = etcd.put("routes/orders/t2", route("c", self.epoch)).await;
        self.waypost.at(revision).await;
    }

    /// Has one check made that can't be answered.
    pub(crate) async fn asks_in_vain(&self) {
        self.refuses.store(true, Ordering::Relaxed);
        assert_eq!(self.waypost.get("t2", "/").await.reason(), "stale_unhealed");
        self.refuses.store(false, Ordering::Relaxed);
    }
}
