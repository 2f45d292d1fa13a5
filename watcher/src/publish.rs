//! Putting a table in force, and what requests and people see of it.
//!
//! One writer, one pointer: the [`Publisher`] is not `Clone`, and everything that a look-up reads hangs on one swapped `Arc`. The
//! status is swapped before the table: who reads the table first and the status then sees all that is to be said of its records (but
//! where there are thousands of bad ones, of which it is told a little later).
//! Those who watch are told after the swap, and never waited for; the old table is freed elsewhere.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use tokio::sync::watch;
use waypost_policy::{Moment, Table};

use crate::{
    OnPublish, PublishReport,
    change::{Change, Touches, difference},
    retire::Retirement,
    snapshot::OnDisk,
    told::{Changes, Teller},
};

/// What has not happened in this process: the store was not heard of, no table was put in force.
const NEVER: u64 = u64::MAX;

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

/// The last comparison of the table with all that the store holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DigestChecked {
    /// The revision of both.
    pub revision: u64,
    /// When.
    pub at: SystemTime,
    /// Whether they were equal.
    pub is_equal: bool,
}

/// What is known of the gold copy. Clones share the lists.
#[derive(Clone, Debug, Default)]
pub struct GoldStatus {
    /// The etcd cluster's id in hex; empty for a file or before the first contact.
    pub cluster_id: String,
    /// What all keys in the store start with; empty for a file.
    pub prefix: String,
    /// Whether the watch stands.
    pub connected: bool,
    /// The member that is watched, or the file.
    pub endpoint: Option<String>,
    /// How long ago the store was last known to have nothing newer, in milliseconds; `None`: never in this process.
    pub age_ms: Option<u64>,
    /// Whether the store's history is not the one in force: nothing is taken from it, nor from anybody's word about it.
    pub is_other_history: bool,
    /// Lists beside the live table, by reason.
    pub resyncs: BTreeMap<&'static str, u64>,
    /// Comparisons with all that the store holds: the last, and how many there were, by outcome.
    pub digest_checked: Option<DigestChecked>,
    /// `equal` and `different`.
    pub digest_checks: BTreeMap<&'static str, u64>,
    /// Keys whose value is bad.
    pub quarantined: Arc<[Held]>,
    /// Routes that stay in force although the store has deleted them; the first of them, where there are very many.
    pub held_back: Arc<[String]>,
    /// How many there are.
    pub held_back_count: usize,
    /// What is to be said of good records, and of the store.
    pub warnings: Arc<[String]>,
    /// What is known of the snapshot on disk; `None`: none is kept.
    pub snapshot: Option<OnDisk>,
    /// From the last changes' arrival to their table in force; `None` before the first.
    pub last_publish: Option<Duration>,
    /// Why there is no contact, while there is none.
    pub last_error: Option<String>,
}

#[derive(Debug)]
struct Inner {
    table: ArcSwapOption<Table>,
    /// Without the age, which is told when it is asked for.
    status: ArcSwap<GoldStatus>,
    /// When the store was last known to have nothing newer, in nanoseconds since the origin, or [`NEVER`].
    fresh_at: AtomicU64,
    /// As in the status; requests ask for it.
    is_other_history: AtomicBool,
    /// How long the last publish took, in nanoseconds, or [`NEVER`].
    published_in: AtomicU64,
    /// When the watcher's loop last came round, in nanoseconds since the origin.
    turned_at: AtomicU64,
    origin: Instant,
}

/// The readers' side. Clones see the same.
#[derive(Clone, Debug)]
pub struct View {
    inner: Arc<Inner>,
    publishes: watch::Receiver<u64>,
    teller: Teller,
}

/// The writer's side.
pub struct Publisher {
    inner: Arc<Inner>,
    publishes: watch::Sender<u64>,
    on_publish: Option<OnPublish>,
    teller: Teller,
    retirement: Retirement<Table>,
}

/// What a publish is about, for those who watch.
#[derive(Debug, Default)]
pub struct News {
    /// Told before the difference of the tables.
    pub first: Vec<Change>,
    /// The keys that may differ.
    pub touches: Touches,
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Publisher").finish_non_exhaustive()
    }
}

/// Both sides, with no table in force. `origin` is what moments are counted from.
pub fn channel(origin: Instant, on_publish: Option<OnPublish>) -> (Publisher, View) {
    let inner = Inner {
        table: ArcSwapOption::empty(),
        status: ArcSwap::default(),
        fresh_at: NEVER.into(),
        is_other_history: false.into(),
        published_in: NEVER.into(),
        turned_at: 0.into(),
        origin,
    };
    let inner = Arc::new(inner);
    let (publishes, changed) = watch::channel(0);
    let teller = Teller::default();
    let publisher = Publisher { inner: Arc::clone(&inner), publishes, on_publish, teller: teller.clone(), retirement: Retirement::start() };
    (publisher, View { inner, publishes: changed, teller })
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

    /// What is known of the gold copy. Copies all of it: for people and metrics, not for requests.
    pub fn status(&self) -> GoldStatus {
        let fresh_at = self.inner.fresh_at.load(Ordering::Acquire);
        let age = self.age(Moment::after_origin(self.inner.origin.elapsed()));
        let age_ms = (fresh_at != NEVER).then(|| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        let published_in = self.inner.published_in.load(Ordering::Relaxed);
        let last_publish = (published_in != NEVER).then(|| Duration::from_nanos(published_in));
        GoldStatus { age_ms, last_publish, ..GoldStatus::clone(&self.inner.status.load()) }
    }

    /// How long ago the store was last known to have nothing newer; one atomic load. If it was never heard of in this process, then at least
    /// for as long as the process has run: a snapshot does not say when it was current.
    pub fn age(&self, now: Moment) -> Duration {
        match self.inner.fresh_at.load(Ordering::Acquire) {
            NEVER => now.since(Moment::default()),
            fresh_at => now.since(Moment::from_nanos(fresh_at)),
        }
    }

    /// How long ago the loop that applies changes last came round. Whatever the store does, it does so every second or two; more says that
    /// it is stuck, and that the table no longer follows.
    pub fn stalled(&self) -> Duration {
        let now = Moment::after_origin(self.inner.origin.elapsed());
        now.since(Moment::from_nanos(self.inner.turned_at.load(Ordering::Relaxed)))
    }

    /// Whether the watch stands.
    pub fn is_connected(&self) -> bool {
        self.inner.status.load().connected
    }

    /// Whether the store's history is not the one in force: then nobody's word about it is taken either; one atomic load.
    pub fn is_other_history(&self) -> bool {
        self.inner.is_other_history.load(Ordering::Relaxed)
    }

    /// From now on, what changes. Whoever is too slow is told how many changes were missed, and nobody waits.
    pub fn watch(&self) -> Changes {
        self.teller.listen()
    }
}

impl Publisher {
    /// Puts a table in force. `since` is when its changes arrived; `news` is told to those who watch, with the time from then to the swap.
    pub fn publish(&mut self, table: Arc<Table>, since: Instant, news: News) {
        let revision = table.revision();
        let old = self.inner.table.swap(Some(Arc::clone(&table)));
        let took = since.elapsed();
        self.inner.published_in.store(u64::try_from(took.as_nanos()).unwrap_or(NEVER), Ordering::Relaxed);
        if let Some(on_publish) = &self.on_publish {
            on_publish(&PublishReport { took, revision });
        }
        self.publishes.send_modify(|count| *count += 1);
        if self.teller.is_heard() {
            let differs = difference(old.as_deref(), &table, news.touches.list);
            self.teller.tell(news.first.into_iter().chain(differs), news.touches.omitted, revision, Some(took));
        }
        if let Some(old) = old {
            self.retirement.retire(old);
        }
    }

    /// Puts a table in force of which nothing but the revision is another: that is no news, and took no time from any change.
    pub fn advance(&mut self, table: Arc<Table>) {
        let old = self.inner.table.swap(Some(table));
        self.publishes.send_modify(|count| *count += 1);
        if let Some(old) = old {
            self.retirement.retire(old);
        }
    }

    /// The least `max_staleness_ms` of the policies in force; `None`: every service is served for ever.
    pub fn freshness_wanted(&self) -> Option<Duration> {
        let table = self.inner.table.load();
        let limits = table.as_ref()?.services().iter().map(|service| service.policy.max_staleness_ms);
        limits.filter(|ms| *ms > 0).min().map(Duration::from_millis)
    }

    /// Whether anybody watches.
    pub fn is_watched(&self) -> bool {
        self.teller.is_heard()
    }

    /// The status as it was reported last.
    pub fn status(&self) -> Arc<GoldStatus> {
        self.inner.status.load_full()
    }

    /// Changes the status. Those who watch hear of contact lost and found again.
    pub fn report(&mut self, change: impl FnOnce(&mut GoldStatus)) {
        let before = self.inner.status.load_full();
        let mut after = GoldStatus::clone(&before);
        change(&mut after);
        let contact = contact(&before, &after);
        self.inner.is_other_history.store(after.is_other_history, Ordering::Relaxed);
        self.inner.status.store(Arc::new(after));
        let revision = self.inner.table.load().as_ref().map_or(0, |table| table.revision());
        self.teller.tell(contact, 0, revision, None);
    }

    /// The present moment, counted from the process's origin.
    pub(crate) fn now(&self) -> Moment {
        Moment::after_origin(self.inner.origin.elapsed())
    }

    /// The loop that applies changes comes round.
    pub fn turned(&mut self) {
        let now = self.now();
        self.inner.turned_at.store(now.as_nanos(), Ordering::Relaxed);
    }

    /// The store has nothing newer now.
    pub fn fresh(&mut self) {
        let now = self.now();
        self.inner.fresh_at.store(now.as_nanos(), Ordering::Release);
    }
}

/// What is told of a change of the status: the contact, when it or its fault comes or goes, not each new attempt.
fn contact(before: &GoldStatus, after: &GoldStatus) -> Option<Change> {
    let is_news = before.connected != after.connected || before.last_error.is_some() != after.last_error.is_some();
    is_news.then(|| Change::Contact { connected: after.connected, error: after.last_error.clone() })
}

#[cfg(test)]
mod tests {
    use waypost_policy::{
        Source, TableId,
        table::{Builder, Publication},
    };

    use super::*;

    fn table(revision: u64) -> Arc<Table> {
        let about = Publication { revision, id: TableId::etcd(1, 0), source: Source::Watch, digest: 0 };
        Builder::default().publish(about)
    }

    #[test]
    fn a_moved_cursor_is_in_force_and_counts_as_no_publish() {
        let reports = Arc::<AtomicU64>::default();
        let counted = Arc::clone(&reports);
        let count: OnPublish = Arc::new(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        let (mut publisher, view) = channel(Instant::now(), Some(count));
        let long_ago = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
        publisher.publish(table(1), long_ago, News::default());
        let changed = view.changed();
        publisher.advance(table(2));
        assert_eq!(view.load_full().unwrap().revision(), 2);
        assert!(changed.has_changed().unwrap(), "who waits for a revision looks again");
        assert!(view.status().last_publish >= Some(Duration::from_secs(1)), "{:?}", view.status().last_publish);
        assert_eq!(reports.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn who_still_reads_a_replaced_table_is_not_its_last_owner() {
        let (mut publisher, view) = channel(Instant::now(), None);
        let mut publish = |revision| publisher.publish(table(revision), Instant::now(), News::default());
        publish(1);
        let read = view.load_full().unwrap();
        assert_eq!(Arc::strong_count(&read), 2, "the one in force, and this reader");
        publish(2);
        assert_eq!(Arc::strong_count(&read), 2, "whoever frees it, and this reader");
        let old = Arc::downgrade(&read);
        drop(read);
        let limit = Instant::now() + Duration::from_secs(10);
        while old.strong_count() > 0 {
            assert!(Instant::now() < limit, "nobody has freed it");
            std::thread::yield_now();
        }
    }
}
