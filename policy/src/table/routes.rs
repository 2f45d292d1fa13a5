//! The routes of all services in one hash table, cut into partitions of which a publish copies only those that it touches.
//!
//! A clone shares every partition; the first change of a shared one copies it, later changes of the same publish do not. With
//! 1,024 partitions and a million routes that is some thousand entries for a single change (MEASURES.md).

use std::{
    hash::{BuildHasher, Hash, Hasher},
    sync::Arc,
};

use hashbrown::HashTable;

use super::{Meta, ServiceId, UpstreamId};

const PARTITIONS: usize = 1024;

/// What a route's record says about serving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The owner serves.
    Serving,
    /// The owner serves, and single items may have gone to the target.
    Moving(UpstreamId),
    /// Nobody may serve now.
    Frozen,
    /// The record is quarantined and there is no last good value: answered 503.
    Quarantined,
}

impl State {
    /// As it is written in records and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Moving(_) => "moving",
            Self::Frozen => "frozen",
            Self::Quarantined => "quarantined",
        }
    }
}

/// One route in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Who owns the key. Meaningless when quarantined.
    pub owner: UpstreamId,
    /// The generation of the ownership; 0 has no order.
    pub epoch: u64,
    /// What the record says about serving.
    pub state: State,
    /// The record, as the store has it, that this value came from.
    pub meta: Meta,
}

#[derive(Clone, Debug)]
struct Slot {
    service: ServiceId,
    key: Box<[u8]>,
    route: Route,
}

type Partition = HashTable<Slot>;

/// The routes of all services.
#[derive(Clone, Debug)]
pub(super) struct Routes {
    partitions: Arc<[Arc<Partition>]>,
    hasher: ahash::RandomState,
    len: usize,
}

impl Default for Routes {
    fn default() -> Self {
        let empty = Arc::new(Partition::new());
        Self { partitions: (0..PARTITIONS).map(|_| Arc::clone(&empty)).collect(), hasher: ahash::RandomState::new(), len: 0 }
    }
}

impl Routes {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get(&self, service: ServiceId, key: &[u8]) -> Option<&Route> {
        let hash = hash_of(&self.hasher, service, key);
        self.partitions[partition_of(hash)].find(hash, |slot| slot.is(service, key)).map(|slot| &slot.route)
    }

    pub(super) fn insert(&mut self, service: ServiceId, key: &[u8], route: Route) {
        let hash = hash_of(&self.hasher, service, key);
        let hasher = self.hasher.clone();
        let partition = self.partition_mut(hash);
        if let Some(slot) = partition.find_mut(hash, |slot| slot.is(service, key)) {
            slot.route = route;
            return;
        }
        partition.insert_unique(hash, Slot { service, key: key.into(), route }, |slot| hash_of(&hasher, slot.service, &slot.key));
        self.len += 1;
    }

    pub(super) fn remove(&mut self, service: ServiceId, key: &[u8]) -> Option<Route> {
        let hash = hash_of(&self.hasher, service, key);
        // Looked for first, so that removing nothing copies nothing.
        self.get(service, key)?;
        let found = self.partition_mut(hash).find_entry(hash, |slot| slot.is(service, key)).ok()?;
        let (slot, _) = found.remove();
        self.len -= 1;
        Some(slot.route)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ServiceId, &[u8], &Route)> {
        self.partitions.iter().flat_map(|partition| partition.iter().map(|slot| (slot.service, &*slot.key, &slot.route)))
    }

    fn partition_mut(&mut self, hash: u64) -> &mut Partition {
        Arc::make_mut(&mut Arc::make_mut(&mut self.partitions)[partition_of(hash)])
    }
}

impl Slot {
    fn is(&self, service: ServiceId, key: &[u8]) -> bool {
        self.service == service && *self.key == *key
    }
}

fn hash_of(hasher: &ahash::RandomState, service: ServiceId, key: &[u8]) -> u64 {
    let mut state = hasher.build_hasher();
    service.hash(&mut state);
    state.write(key);
    state.finish()
}

/// The middle bits choose the partition: `hashbrown` takes its own from both ends.
fn partition_of(hash: u64) -> usize {
    (hash >> 32) as usize % PARTITIONS
}

impl Route {
    /// A key whose only value is bad.
    pub fn quarantined(meta: Meta) -> Self {
        Self { owner: UpstreamId::new(u32::MAX), epoch: 0, state: State::Quarantined, meta }
    }
}
