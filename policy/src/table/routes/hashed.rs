//! The routes of exact services in one hash table, cut into partitions of which a publish copies only those that it touches.
//!
//! A clone shares every partition; the first change of a shared one copies it, later changes of the same publish do not. With
//! 1,024 partitions and a million routes that is some thousand entries for a single change (MEASURES.md).

use std::{
    hash::{BuildHasher, Hash, Hasher},
    sync::Arc,
};

use hashbrown::HashTable;

use super::{super::ServiceId, Route};

const PARTITIONS: usize = 1024;

#[derive(Clone, Debug)]
struct Slot {
    service: ServiceId,
    key: Box<[u8]>,
    route: Route,
}

type Partition = HashTable<Slot>;

/// The routes of exact services.
#[derive(Clone, Debug)]
pub(super) struct Hashed {
    partitions: Arc<[Arc<Partition>]>,
    hasher: ahash::RandomState,
    len: usize,
}

impl Default for Hashed {
    fn default() -> Self {
        let empty = Arc::new(Partition::new());
        Self { partitions: (0..PARTITIONS).map(|_| Arc::clone(&empty)).collect(), hasher: ahash::RandomState::new(), len: 0 }
    }
}

impl Hashed {
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

    pub(super) fn remove(&mut self, service: ServiceId, key: &[u8]) {
        let hash = hash_of(&self.hasher, service, key);
        if let Ok(found) = self.partition_mut(hash).find_entry(hash, |slot| slot.is(service, key)) {
            found.remove();
            self.len -= 1;
        }
    }

    /// Takes all routes of a service out.
    pub(super) fn take(&mut self, service: ServiceId) -> Vec<(Box<[u8]>, Route)> {
        let mut taken = Vec::new();
        for partition in Arc::make_mut(&mut self.partitions) {
            if partition.iter().any(|slot| slot.service == service) {
                let out = Arc::make_mut(partition).extract_if(|slot| slot.service == service);
                taken.extend(out.map(|slot| (slot.key, slot.route)));
            }
        }
        self.len -= taken.len();
        taken
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
