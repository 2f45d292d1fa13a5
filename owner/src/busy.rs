//! The keys that requests are being served for, and how many for each.
//!
//! What always holds: a key is in here from before its request is judged until nothing of it is executed any more; whoever awaits the
//! end of a key's last request is told.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

/// A service and a routing key of it.
pub(crate) type Key = (Arc<str>, Arc<[u8]>);

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Busy {
    inner: Mutex<Inner>,
    /// An awaited key is busy no more.
    ended: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    requests: HashMap<Key, usize>,
    awaited: HashSet<Key>,
}

/// One request for one key.
#[derive(Debug)]
pub(crate) struct Held {
    busy: Arc<Busy>,
    key: Key,
}

impl Busy {
    /// A request for a key is about to be judged.
    pub(crate) fn enter(self: &Arc<Self>, service: &str, key: &[u8]) -> Held {
        let key: Key = (service.into(), key.into());
        *self.lock().requests.entry(key.clone()).or_default() += 1;
        Held { busy: Arc::clone(self), key }
    }

    /// The keys of these that may not be served any more; their end is awaited from now on.
    pub(crate) fn await_end_of(&self, is_lost: impl Fn(&Key) -> bool) -> Vec<Key> {
        let mut inner = self.lock();
        let lost: Vec<Key> = inner.requests.keys().filter(|key| is_lost(key)).cloned().collect();
        inner.awaited = lost.iter().cloned().collect();
        lost
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

impl Drop for Held {
    fn drop(&mut self) {
        let mut inner = self.busy.lock();
        let Some(count) = inner.requests.get_mut(&self.key) else { return };
        *count -= 1;
        if *count == 0 {
            inner.requests.remove(&self.key);
            if inner.awaited.remove(&self.key) {
                self.busy.ended.notify_one();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_of_the_last_request_is_told_and_no_other() {
        let busy = Arc::new(Busy::default());
        let (one, two, other) = (busy.enter("s", b"k"), busy.enter("s", b"k"), busy.enter("s", b"o"));
        assert_eq!(busy.await_end_of(|(_, key)| **key == *b"k").len(), 1);
        drop((one, other));
        let mut ended = std::pin::pin!(busy.ended());
        assert!(std::future::poll_fn(|context| std::task::Poll::Ready(ended.as_mut().poll(context).is_pending())).await);
        drop(two);
        ended.await;
        assert!(busy.await_end_of(|_| true).is_empty());
    }
}
