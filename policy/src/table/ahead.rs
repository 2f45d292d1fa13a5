//! What checks read ahead of the watch: one key's route, or that it has none, as of a revision that the table has not reached.
//!
//! What always holds: of one key only the newest is kept; a table that has reached its revision needs it no more; there are no more than [`MOST`],
//! and where one is too many that of the lowest revision goes. A clone shares everything: only a change copies. One that says what the
//! table says is kept as well: it was so at a later revision, which refutes claims about earlier ones.

use std::{collections::HashMap, sync::Arc};

use super::{Read, RequestKey};

/// So many are kept. A proxy begins 200 checks a second at most, so these are of twenty seconds in which the watch brought nothing.
pub(super) const MOST: usize = 4096;

/// The reads.
#[derive(Clone, Debug, Default)]
pub(super) struct ReadAhead {
    reads: Arc<HashMap<RequestKey, Read, ahash::RandomState>>,
    /// None is of a lower revision.
    lowest: u64,
}

impl ReadAhead {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.reads.is_empty()
    }

    pub(super) fn get(&self, key: &RequestKey) -> Option<&Read> {
        self.reads.get(key)
    }

    /// Keeps a read that is newer than what is kept of its key.
    pub(super) fn insert(&mut self, key: RequestKey, read: Read) {
        let reads = Arc::make_mut(&mut self.reads);
        if reads.len() >= MOST
            && !reads.contains_key(&key)
            && let Some(lowest) = reads.iter().min_by_key(|(_, read)| read.revision).map(|(key, _)| key.clone())
        {
            reads.remove(&lowest);
        }
        self.lowest = if reads.is_empty() { read.revision } else { self.lowest.min(read.revision) };
        reads.insert(key, read);
    }

    /// The table has reached a revision.
    pub(super) fn reached(&mut self, revision: u64) {
        if self.is_empty() || self.lowest > revision {
            return;
        }
        let reads = Arc::make_mut(&mut self.reads);
        reads.retain(|_, read| read.revision > revision);
        self.lowest = reads.values().map(|read| read.revision).min().unwrap_or(0);
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::ServiceId;

    fn key(number: usize) -> RequestKey {
        RequestKey { service: ServiceId::new(0), key: format!("tenant-{number}").into_bytes().into() }
    }

    #[test]
    fn reads_are_bounded_and_that_of_the_lowest_revision_goes_first() {
        let mut ahead = ReadAhead::default();
        // Not in the order of their revisions.
        let revision = |number: usize| 1000 + (number as u64 * 7919) % 100_003;
        for number in 0..3 * MOST {
            ahead.insert(key(number), Read { revision: revision(number), route: None });
        }
        assert_eq!(ahead.reads.len(), MOST);
        let mut revisions: Vec<u64> = ahead.reads.values().map(|read| read.revision).collect();
        revisions.sort_unstable();
        let kept = ahead.clone();
        ahead.insert(key(0), Read { revision: 1, route: None });
        ahead.insert(key(0), Read { revision: 200_000, route: None });
        assert_eq!((ahead.reads.len(), kept.reads.len()), (MOST, MOST), "the newest of a key replaces what is known of it");
        assert!(kept.get(&key(0)).is_none_or(|read| read.revision != 200_000), "what is published does not change");
        ahead.reached(revisions[MOST / 2]);
        assert!((MOST / 2 - 2..=MOST / 2).contains(&ahead.reads.len()), "{}", ahead.reads.len());
        ahead.reached(200_000);
        assert!(ahead.is_empty());
    }
}
