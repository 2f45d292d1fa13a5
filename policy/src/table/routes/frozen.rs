//! Which records are frozen: there are few, who cares for them looks often, and nobody wants to look through all routes for them.
//!
//! Kept are records that have been frozen since they were looked through last; whoever reads asks the routes whether they still are. What
//! always holds: a frozen record is among them, unless there are more than [`MOST`], which is told.

use std::{collections::HashSet, sync::Arc};

use super::ServiceId;

/// So many are kept.
pub(super) const MOST: usize = 4096;
/// Fewer are not worth looking through.
const FEW: usize = 64;

/// A service and a record's own key.
pub(super) type FrozenKey = (ServiceId, Box<[u8]>);

/// The records.
#[derive(Clone, Debug, Default)]
pub(super) struct Frozen {
    kept: Arc<HashSet<FrozenKey, ahash::RandomState>>,
    /// How many were left out since it was looked for them last.
    left_out: usize,
    /// How many may be kept before they are looked through.
    room: usize,
}

impl Frozen {
    /// A record was frozen. Whether it is time to look them through.
    pub(super) fn note(&mut self, service: ServiceId, record: &[u8]) -> bool {
        let key = (service, record.into());
        if self.kept.contains(&key) {
            return false;
        }
        if self.kept.len() >= MOST {
            self.left_out += 1;
            return self.left_out.is_multiple_of(MOST / 4);
        }
        Arc::make_mut(&mut self.kept).insert(key);
        self.kept.len() > self.room.max(FEW)
    }

    /// Keeps those that still are. Whether others are to be looked for among all routes, and noted.
    pub(super) fn look_through(&mut self, is_frozen: impl Fn(&FrozenKey) -> bool) -> bool {
        Arc::make_mut(&mut self.kept).retain(is_frozen);
        self.room = (2 * self.kept.len()).min(MOST - 1);
        let are_missing = self.left_out > 0 && self.kept.len() < MOST;
        if are_missing {
            self.left_out = 0;
        }
        are_missing
    }

    /// Those that may be.
    pub(super) fn kept(&self) -> impl Iterator<Item = &FrozenKey> {
        self.kept.iter()
    }

    /// Whether some were left out.
    pub(super) fn are_more(&self) -> bool {
        self.left_out > 0
    }
}
