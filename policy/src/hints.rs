//! Hints: what backends said of single keys that the table in force does not show yet, laid over it.
//!
//! A hint is kept by (service, routing key), strictly advances the epoch that was known, names an upstream and never an
//! address, and is bounded in number; the oldest go first. It dies when the table has reached its revision or when a
//! check has answered. Reading costs one atomic load while there is none.

mod keeper;

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

pub use keeper::{Due, Keeper, Turn};
use waypost_conf::Address;

use crate::{
    Moment,
    table::{RequestKey, UpstreamId},
};

/// How many hints are kept at most.
pub const MAX_HINTS: usize = 65_536;
/// How old a hint is when it is first checked against the store.
pub const FIRST_CHECK_AFTER: Duration = Duration::from_secs(5);
/// How long a reporter whose hint was refuted is not believed.
pub const REPORTER_IGNORED_FOR: Duration = Duration::from_secs(30);

const PARTITIONS: usize = 64;

/// What a backend said of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hint {
    /// The new owner.
    pub owner: UpstreamId,
    /// Its epoch; strictly greater than the one that was known, and never 0.
    pub epoch: u64,
    /// The store's revision at which the backend knew it.
    pub revision: u64,
    /// The endpoint that said so: the one that this very key had just been sent to.
    pub reporter: Address,
    /// When it was taken.
    pub taken_at: Moment,
    /// The `create_revision` of the record it advanced; 0 if there was none.
    pub over: u64,
}

/// How a hint ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The store shows the same or a newer epoch.
    Superseded,
    /// The store shows the same record at a lower epoch: the hint was false.
    Refuted,
    /// The route has gone or was made anew: nothing is known of the hint's truth.
    Dropped,
}

/// All hints of a proxy.
#[derive(Debug)]
pub struct Hints {
    partitions: Box<[Mutex<Partition>]>,
    hasher: ahash::RandomState,
    len: AtomicUsize,
    refuted: AtomicU64,
    /// Reporters that are not believed, and until when.
    ignored: Mutex<HashMap<Address, Moment>>,
}

#[derive(Debug, Default)]
struct Partition {
    hints: HashMap<RequestKey, Hint, ahash::RandomState>,
    /// Keys by age, oldest first; a key whose hint has gone or was replaced may still be in here once.
    order: VecDeque<RequestKey>,
}

impl Default for Hints {
    fn default() -> Self {
        Self {
            partitions: (0..PARTITIONS).map(|_| Mutex::default()).collect(),
            hasher: ahash::RandomState::new(),
            len: AtomicUsize::new(0),
            refuted: AtomicU64::new(0),
            ignored: Mutex::default(),
        }
    }
}

impl Hints {
    /// How many hints there are.
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Acquire)
    }

    /// Whether there is none: the common case, and one atomic load.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many hints turned out false.
    pub fn refuted(&self) -> u64 {
        self.refuted.load(Ordering::Relaxed)
    }

    /// The hint for a key.
    pub fn get(&self, key: &RequestKey) -> Option<Hint> {
        if self.is_empty() {
            return None;
        }
        self.partition(key).hints.get(key).cloned()
    }

    /// Takes a hint, unless the key has one of the same or a newer epoch, or its reporter is not believed.
    pub fn take(&self, key: &RequestKey, hint: Hint) -> bool {
        if self.is_ignored(&hint.reporter, hint.taken_at) {
            return false;
        }
        let mut partition = self.partition(key);
        match partition.hints.get_mut(key) {
            Some(known) if known.epoch >= hint.epoch => return false,
            Some(known) => *known = hint,
            None => {
                partition.make_room(MAX_HINTS / PARTITIONS, &self.len);
                partition.hints.insert(key.clone(), hint);
                partition.order.push_back(key.clone());
                self.len.fetch_add(1, Ordering::Release);
            }
        }
        true
    }

    /// Ends the key's hint, if it is still the one of `epoch`.
    pub fn end(&self, key: &RequestKey, epoch: u64, ending: Ending, now: Moment) {
        let mut partition = self.partition(key);
        if partition.hints.get(key).is_none_or(|hint| hint.epoch != epoch) {
            return;
        }
        let Some(hint) = partition.hints.remove(key) else { return };
        self.len.fetch_sub(1, Ordering::Release);
        drop(partition);
        if ending == Ending::Refuted {
            self.refuted.fetch_add(1, Ordering::Relaxed);
            let mut ignored = lock(&self.ignored);
            ignored.retain(|_, until| *until > now);
            ignored.insert(hint.reporter, now + REPORTER_IGNORED_FOR);
        }
    }

    /// All hints, for the sweep that ends those which the table has caught up with.
    pub fn all(&self) -> Vec<(RequestKey, Hint)> {
        let partitions = self.partitions.iter().map(lock);
        partitions.flat_map(|part| part.hints.iter().map(|(key, hint)| (key.clone(), hint.clone())).collect::<Vec<_>>()).collect()
    }

    /// The newest hints, `most` of them at most.
    pub fn newest(&self, most: usize) -> Vec<(RequestKey, Hint)> {
        let mut all = self.all();
        all.sort_unstable_by_key(|(_, hint)| std::cmp::Reverse(hint.taken_at));
        all.truncate(most);
        all
    }

    /// Drops every hint: the store's incarnation has changed, and epochs start afresh.
    pub fn clear(&self) {
        for partition in &self.partitions {
            let mut partition = lock(partition);
            self.len.fetch_sub(partition.hints.len(), Ordering::Release);
            *partition = Partition::default();
        }
    }

    fn is_ignored(&self, reporter: &Address, now: Moment) -> bool {
        lock(&self.ignored).get(reporter).is_some_and(|until| *until > now)
    }

    fn partition(&self, key: &RequestKey) -> MutexGuard<'_, Partition> {
        lock(&self.partitions[self.hasher.hash_one(key) as usize % PARTITIONS])
    }
}

impl Partition {
    fn make_room(&mut self, limit: usize, len: &AtomicUsize) {
        while self.hints.len() >= limit {
            let Some(oldest) = self.order.pop_front() else { return };
            if self.hints.remove(&oldest).is_some() {
                len.fetch_sub(1, Ordering::Release);
            }
        }
        if self.order.len() > 2 * limit {
            let hints = &self.hints;
            self.order.retain(|key| hints.contains_key(key));
        }
    }
}

/// A poisoned lock guards plain data that is valid after any panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::ServiceId;

    fn key(n: usize) -> RequestKey {
        RequestKey { service: ServiceId::new(0), key: format!("tenant-{n}").into_bytes().into() }
    }

    fn hint(epoch: u64) -> Hint {
        Hint {
            owner: UpstreamId::new(1),
            epoch,
            revision: 9,
            reporter: "127.0.0.1:1".try_into().unwrap(),
            taken_at: Moment::default(),
            over: 3,
        }
    }

    #[test]
    fn only_a_strictly_newer_epoch_replaces_a_hint() {
        let hints = Hints::default();
        assert!(hints.take(&key(1), hint(5)));
        assert!(!hints.take(&key(1), hint(5)));
        assert!(!hints.take(&key(1), hint(4)));
        assert!(hints.take(&key(1), hint(6)));
        assert_eq!((hints.len(), hints.get(&key(1)).map(|h| h.epoch)), (1, Some(6)));
    }

    #[test]
    fn a_late_ending_never_ends_a_newer_hint() {
        let hints = Hints::default();
        hints.take(&key(1), hint(6));
        hints.end(&key(1), 5, Ending::Superseded, Moment::default());
        assert_eq!(hints.len(), 1);
        hints.end(&key(1), 6, Ending::Superseded, Moment::default());
        assert!(hints.is_empty());
    }

    #[test]
    fn a_refuted_reporter_is_ignored_for_thirty_seconds() {
        let hints = Hints::default();
        hints.take(&key(1), hint(6));
        hints.end(&key(1), 6, Ending::Refuted, Moment::default());
        assert_eq!(hints.refuted(), 1);
        assert!(!hints.take(&key(2), hint(7)));
        let later = Moment::default() + REPORTER_IGNORED_FOR;
        assert!(hints.take(&key(2), Hint { taken_at: later, ..hint(7) }));
    }

    #[test]
    fn hints_are_bounded_and_the_oldest_go_first() {
        let hints = Hints::default();
        for n in 0..2 * MAX_HINTS {
            hints.take(&key(n), hint(1));
        }
        assert!(hints.len() <= MAX_HINTS);
        assert!(hints.get(&key(0)).is_none() && hints.get(&key(2 * MAX_HINTS - 1)).is_some());
        assert_eq!(hints.all().len(), hints.len());
        hints.clear();
        assert!(hints.is_empty());
    }
}
