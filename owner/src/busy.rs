//! The ledger of requests as tasks share it, and the word that an awaited key's last request has ended.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use waypost_policy::{
    Table,
    handover::{Announcement, Key, Ledger},
};

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Busy {
    ledger: Mutex<Ledger>,
    /// An awaited key is busy no more.
    ended: Notify,
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
        self.lock().enter(&key);
        Held { busy: Arc::clone(self), key }
    }

    /// What is to be announced by this table.
    pub(crate) fn announce(&self, table: &Table, upstream: &str) -> Announcement {
        self.lock().announce(table, upstream)
    }

    /// Ends when an awaited key is busy no more.
    pub(crate) async fn ended(&self) {
        self.ended.notified().await;
    }

    /// A poisoned lock guards plain data that is valid after any panic.
    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.busy.lock().leave(&self.key) {
            self.busy.ended.notify_one();
        }
    }
}
