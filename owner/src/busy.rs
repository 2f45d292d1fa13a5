//! The ledger of requests as tasks share it: the word that an awaited key's last request has ended, and the recall of what is served
//! for a key that was lost.
//!
//! What always holds: a permit is recalled only by a view that is newer than the one that it was given by, so that none of after a key has come
//! back is ended for having been lost before.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, watch};
use waypost_policy::{
    Table, TableId,
    handover::{Announcement, Key, Ledger},
    table::RequestKey,
};

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Busy {
    inner: Mutex<Inner>,
    /// An awaited key is busy no more.
    ended: Notify,
    /// What is announced of the process's lease.
    ends_with_lease: bool,
}

#[derive(Debug, Default)]
struct Inner {
    ledger: Ledger,
    /// Of the keys in the ledger.
    recalls: HashMap<Key, watch::Sender<Recall>>,
}

/// A view, by the incarnation and the revision of its table.
pub(crate) type Viewed = (TableId, u64);

/// The newest views by which a key was lost.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recall {
    /// Ends streams.
    streams: Option<Viewed>,
    /// Ends requests too.
    requests: Option<Viewed>,
}

/// One request for one key.
#[derive(Debug)]
pub(crate) struct Held {
    busy: Arc<Busy>,
    key: Key,
    recall: watch::Receiver<Recall>,
}

impl Busy {
    /// Those of a process that stops before its lease ends, or does not.
    pub(crate) fn new(ends_with_lease: bool) -> Self {
        Self { ends_with_lease, ..Self::default() }
    }

    /// A request for a key is about to be judged.
    pub(crate) fn enter(self: &Arc<Self>, service: &str, key: &[u8]) -> Held {
        let key: Key = (service.into(), key.into());
        let mut inner = self.lock();
        inner.ledger.enter(&key);
        let recall = inner.recalls.entry(key.clone()).or_default().subscribe();
        drop(inner);
        Held { busy: Arc::clone(self), key, recall }
    }

    /// What is to be announced by this table. Streams for the keys that are announced as busy are recalled.
    pub(crate) fn announce(&self, table: &Table, upstream: &str) -> Announcement {
        let inner = &mut *self.lock();
        let announced = Announcement { ends_with_lease: self.ends_with_lease, ..inner.ledger.announce(table, upstream) };
        for recall in inner.ledger.awaited().filter_map(|key| inner.recalls.get(key)) {
            recall.send_modify(|recall| recall.streams = Some((table.id().clone(), table.revision())));
        }
        announced
    }

    /// How many requests are being served.
    pub(crate) fn count(&self) -> usize {
        self.lock().ledger.count()
    }

    /// Whether there are requests for keys that a record of this table covers.
    pub(crate) fn has(&self, table: &Table, service: &str, record: &[u8]) -> bool {
        self.lock().covered(table, service, record).next().is_some()
    }

    /// Recalls all that is served for the keys that a record of this table covers.
    pub(crate) fn cut(&self, table: &Table, service: &str, record: &[u8]) {
        for recall in self.lock().covered(table, service, record) {
            recall.send_modify(|recall| recall.requests = Some((table.id().clone(), table.revision())));
        }
    }

    /// Ends when an awaited key is busy no more.
    pub(crate) async fn ended(&self) {
        self.ended.notified().await;
    }

    /// A poisoned lock guards plain data that is valid after any panic.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn covered(&self, table: &Table, service: &str, record: &[u8]) -> impl Iterator<Item = &watch::Sender<Recall>> {
        let id = table.service_named(service).map(|service| service.id);
        let covers = move |key: &Arc<[u8]>| {
            **key == *record
                || id.and_then(|service| table.record_of(&RequestKey { service, key: Arc::clone(key) })).as_deref() == Some(record)
        };
        self.recalls.iter().filter(move |((of, key), _)| **of == *service && covers(key)).map(|(_, recall)| recall)
    }
}

impl Held {
    /// Ends when what is served by the view `by` for this key is to be ended.
    pub(crate) fn recalled(&self, is_stream: bool, by: Viewed) -> impl Future<Output = ()> + Send + use<> {
        let mut recall = self.recall.clone();
        let is_newer = move |than: &Option<Viewed>| than.as_ref().is_some_and(|(id, revision)| *id != by.0 || *revision > by.1);
        async move {
            let is_told = recall.wait_for(|recall| is_newer(&recall.requests) || (is_stream && is_newer(&recall.streams))).await.is_ok();
            if !is_told {
                // Nothing of the key is served any more.
                std::future::pending::<()>().await;
            }
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut inner = self.busy.lock();
        let is_awaited = inner.ledger.leave(&self.key);
        if !inner.ledger.has(&self.key) {
            inner.recalls.remove(&self.key);
        }
        drop(inner);
        if is_awaited {
            self.busy.ended.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use waypost_conf::RecordKey;
    use waypost_policy::table::{Builder, Meta, Publication, Source};

    use super::*;

    fn table(route: &str, revision: u64) -> Arc<Table> {
        let service = r#"{"match":[{}],"key":{"header":"x-tenant"}}"#;
        let mut builder = Builder::default();
        for (key, value) in [("services/orders", service), ("upstreams/a", "{}"), ("routes/orders/k", route)] {
            let key = RecordKey::parse(key.as_bytes()).unwrap();
            let record = waypost_conf::decode(&key, value.as_bytes()).unwrap().record;
            builder.put(&key, record, Meta { create_revision: 1, mod_revision: revision, digest: 0, leased: false });
        }
        builder.publish(Publication { revision, id: TableId::etcd(1, 0), source: Source::Watch, digest: 0 })
    }

    const SERVING: &str = r#"{"owner":"a"}"#;
    const FROZEN: &str = r#"{"owner":"a","state":"frozen"}"#;

    async fn is_ready(future: impl Future<Output = ()>) -> bool {
        let mut future = pin!(future);
        std::future::poll_fn(|context| std::task::Poll::Ready(future.as_mut().poll(context).is_ready())).await
    }

    #[tokio::test]
    async fn the_end_of_the_last_request_is_told_and_no_other() {
        let busy = Arc::new(Busy::default());
        let (one, two, other) = (busy.enter("orders", b"k"), busy.enter("orders", b"k"), busy.enter("orders", b"o"));
        assert_eq!(busy.announce(&table(FROZEN, 9), "a").busy.len(), 2);
        let _ = busy.announce(&table(SERVING, 10), "a");
        assert_eq!(busy.announce(&table(FROZEN, 11), "a").applied, 11);
        drop(one);
        assert!(!is_ready(busy.ended()).await);
        drop(two);
        assert!(is_ready(busy.ended()).await);
        drop(other);
        assert!(busy.lock().recalls.is_empty() && busy.lock().ledger.is_empty());
    }

    #[tokio::test]
    async fn streams_of_a_lost_key_are_recalled_and_none_of_after_it_has_come_back() {
        let busy = Arc::new(Busy::default());
        let (before, viewed) = (busy.enter("orders", b"k"), |revision| (TableId::etcd(1, 0), revision));
        let mut waiting = pin!(before.recalled(true, viewed(9)));
        assert!(!is_ready(waiting.as_mut()).await);
        busy.announce(&table(FROZEN, 10), "a");
        assert!(is_ready(waiting).await, "one that waits");
        assert!(is_ready(before.recalled(true, viewed(9))).await, "one that asks later");
        assert!(!is_ready(before.recalled(false, viewed(9))).await, "a request is not disturbed");
        assert!(busy.has(&table(FROZEN, 10), "orders", b"k") && !busy.has(&table(FROZEN, 10), "orders", b"o"));
        busy.cut(&table(FROZEN, 10), "orders", b"o");
        assert!(!is_ready(before.recalled(false, viewed(9))).await, "that was another key");
        busy.cut(&table(FROZEN, 10), "orders", b"k");
        assert!(is_ready(before.recalled(false, viewed(9))).await);
        // Given back at 11, seen by a request before the announcement is renewed.
        let after = busy.enter("orders", b"k");
        assert!(!is_ready(after.recalled(true, viewed(11))).await);
        busy.announce(&table(SERVING, 11), "a");
        busy.announce(&table(FROZEN, 12), "a");
        assert!(is_ready(after.recalled(true, viewed(11))).await);
        assert!(is_ready(after.recalled(true, (TableId::etcd(1, 1), 500))).await, "revisions of another incarnation have no order");
    }
}
