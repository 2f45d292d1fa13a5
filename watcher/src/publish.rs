//! Putting a table in force, and what requests and people see of it.
//!
//! One writer, one pointer: the [`Publisher`] is not `Clone`, and everything that a look-up reads hangs on one swapped `Arc`. The
//! status is swapped before the table: who reads the table first and the status then sees all that is to be said of its records.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use tokio::sync::watch;
use waypost_policy::Table;

use crate::{OnPublish, PublishReport};

/// A quarantined key, as `/status` shows it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Held {
    /// The whole key in the store.
    pub key: String,
    /// The revision of the bad value.
    pub revision: u64,
    /// Why it can't be used.
    pub reason: String,
}

/// What is known of the gold copy.
#[derive(Clone, Debug, Default)]
pub struct GoldStatus {
    /// The etcd cluster's id in hex; empty for a file or before the first contact.
    pub cluster_id: String,
    /// Whether the watch stands.
    pub connected: bool,
    /// The member that is watched, or the file.
    pub endpoint: Option<String>,
    /// How long ago the store was last known to have nothing newer, in milliseconds; `None`: never in this process.
    pub age_ms: Option<u64>,
    /// Lists beside the live table, by reason.
    pub resyncs: BTreeMap<&'static str, u64>,
    /// Keys whose value is bad.
    pub quarantined: Vec<Held>,
    /// Deletes that are not believed.
    pub held_back: Vec<String>,
    /// What is to be said of good records, and of the store.
    pub warnings: Vec<String>,
    /// Why there is no contact, while there is none.
    pub last_error: Option<String>,
}

#[derive(Debug)]
struct Inner {
    table: ArcSwapOption<Table>,
    status: ArcSwap<Reported>,
    origin: Instant,
}

/// The status with the moment instead of the age: the age is told when asked for.
#[derive(Clone, Debug, Default)]
struct Reported {
    status: GoldStatus,
    fresh_at: Option<Duration>,
}

/// The readers' side. Clones see the same.
#[derive(Clone, Debug)]
pub struct View {
    inner: Arc<Inner>,
    publishes: watch::Receiver<u64>,
}

/// The writer's side.
pub struct Publisher {
    inner: Arc<Inner>,
    publishes: watch::Sender<u64>,
    on_publish: Option<OnPublish>,
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Publisher").finish_non_exhaustive()
    }
}

/// Both sides, with no table in force. `origin` is what moments are counted from.
pub fn channel(origin: Instant, on_publish: Option<OnPublish>) -> (Publisher, View) {
    let inner = Arc::new(Inner { table: ArcSwapOption::empty(), status: ArcSwap::default(), origin });
    let (publishes, changed) = watch::channel(0);
    (Publisher { inner: Arc::clone(&inner), publishes, on_publish }, View { inner, publishes: changed })
}

impl View {
    /// The table in force, for as long as a request looks at it; `None` before the first.
    pub fn load(&self) -> Guard<Option<Arc<Table>>> {
        self.inner.table.load()
    }

    /// The table in force, to be kept for longer.
    pub fn load_full(&self) -> Option<Arc<Table>> {
        self.inner.table.load_full()
    }

    /// Changes whenever a table is put in force.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.publishes.clone()
    }

    /// What is known of the gold copy.
    pub fn status(&self) -> GoldStatus {
        let reported = self.inner.status.load_full();
        let age = reported.fresh_at.map(|at| self.inner.origin.elapsed().saturating_sub(at));
        GoldStatus { age_ms: age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)), ..reported.status.clone() }
    }
}

impl Publisher {
    /// Puts a table in force. `since` is when its changes arrived.
    pub fn publish(&mut self, table: Arc<Table>, since: Instant) {
        let revision = table.revision();
        let old = self.inner.table.swap(Some(table));
        if let Some(on_publish) = &self.on_publish {
            on_publish(&PublishReport { took: since.elapsed(), revision });
        }
        self.publishes.send_modify(|count| *count += 1);
        drop(old);
    }

    /// The status as it was reported last.
    pub fn status(&self) -> GoldStatus {
        self.inner.status.load().status.clone()
    }

    /// Changes the status.
    pub fn report(&mut self, change: impl FnOnce(&mut GoldStatus)) {
        let mut reported = Reported::clone(&self.inner.status.load());
        change(&mut reported.status);
        self.inner.status.store(Arc::new(reported));
    }

    /// The store has nothing newer now.
    pub fn fresh(&mut self) {
        let mut reported = Reported::clone(&self.inner.status.load());
        reported.fresh_at = Some(self.inner.origin.elapsed());
        self.inner.status.store(Arc::new(reported));
    }
}
