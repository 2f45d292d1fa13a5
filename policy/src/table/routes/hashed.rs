//! The routes of exact services in one hash table, cut into partitions of which a publish copies only those that it touches.
//!
//! A clone shares every partition; the first change of a shared one copies it, later changes of the same publish do not. Partitions hang
//! in groups, so that a copy of the array is not one of 4,096 counted pointers. Chosen by measurement: benches/README.md.

use std::{
    array,
    hash::{BuildHasher, Hash, Hasher},
    sync::Arc,
};

use super::{super::ServiceId, Route, packed::Packed};

/// Groups, and partitions a group.
const WIDTH: usize = 64;

type Group = [Arc<Packed>; WIDTH];

/// The routes of exact services.
#[derive(Clone, Debug)]
pub(super) struct Hashed {
    groups: Arc<[Arc<Group>; WIDTH]>,
    hasher: ahash::RandomState,
    len: usize,
}

impl Default for Hashed {
    fn default() -> Self {
        let empty = Arc::new(Packed::default());
        let group: Arc<Group> = Arc::new(array::from_fn(|_| Arc::clone(&empty)));
        Self { groups: Arc::new(array::from_fn(|_| Arc::clone(&group))), hasher: ahash::RandomState::new(), len: 0 }
    }
}

impl Hashed {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get(&self, service: ServiceId, key: &[u8]) -> Option<Route> {
        let hash = hash_of(&self.hasher, service, key);
        let (group, member) = place_of(hash);
        self.groups[group][member].get(hash, service, key)
    }

    pub(super) fn insert(&mut self, service: ServiceId, key: &[u8], route: &Route) {
        let Self { groups, hasher, len } = self;
        let hash = hash_of(hasher, service, key);
        let is_new = partition_mut(groups, place_of(hash)).insert(hash, service, key, route, &|service, key| hash_of(hasher, service, key));
        *len += usize::from(is_new);
    }

    pub(super) fn remove(&mut self, service: ServiceId, key: &[u8]) {
        let Self { groups, hasher, len } = self;
        let hash = hash_of(hasher, service, key);
        let was_there = partition_mut(groups, place_of(hash)).remove(hash, service, key, &|service, key| hash_of(hasher, service, key));
        *len -= usize::from(was_there);
    }

    /// Takes all routes of a service out.
    pub(super) fn take(&mut self, service: ServiceId) -> Vec<(Box<[u8]>, Route)> {
        let Self { groups, hasher, len } = self;
        let mut taken = Vec::new();
        for place in (0..WIDTH).flat_map(|group| (0..WIDTH).map(move |member| (group, member))) {
            if groups[place.0][place.1].has(service) {
                taken.append(&mut partition_mut(groups, place).take(service, &|service, key| hash_of(hasher, service, key)));
            }
        }
        *len -= taken.len();
        taken
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ServiceId, &[u8], Route)> {
        self.groups.iter().flat_map(|group| group.iter()).flat_map(|partition| partition.iter())
    }
}

fn partition_mut(groups: &mut Arc<[Arc<Group>; WIDTH]>, (group, member): (usize, usize)) -> &mut Packed {
    Arc::make_mut(&mut Arc::make_mut(&mut Arc::make_mut(groups)[group])[member])
}

fn hash_of(hasher: &ahash::RandomState, service: ServiceId, key: &[u8]) -> u64 {
    let mut state = hasher.build_hasher();
    service.hash(&mut state);
    state.write(key);
    state.finish()
}

/// The middle bits choose group and partition: `hashbrown` takes its own from both ends.
fn place_of(hash: u64) -> (usize, usize) {
    let middle = (hash >> 32) as usize;
    (middle / WIDTH % WIDTH, middle % WIDTH)
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::{UpstreamId, testing_meta},
        super::State,
        *,
    };

    #[test]
    fn a_change_copies_one_partition_and_what_leads_to_it() {
        let route = |epoch| Route { owner: UpstreamId::new(0), epoch, state: State::Serving, meta: testing_meta(epoch) };
        let service = ServiceId::new(1);
        let mut writer = Hashed::default();
        (0..10_000_u32).for_each(|key| writer.insert(service, &key.to_be_bytes(), &route(1)));
        let published = writer.clone();
        writer.insert(service, &7_u32.to_be_bytes(), &route(2));
        let groups = published.groups.iter().zip(writer.groups.iter());
        let changed: Vec<_> = groups.filter(|(before, after)| !Arc::ptr_eq(before, after)).collect();
        assert_eq!(changed.len(), 1);
        let partitions = changed[0].0.iter().zip(changed[0].1.iter());
        assert_eq!(partitions.filter(|(before, after)| !Arc::ptr_eq(before, after)).count(), 1);
        assert_eq!(published.get(service, &7_u32.to_be_bytes()).map(|route| route.epoch), Some(1));
        assert_eq!(writer.get(service, &7_u32.to_be_bytes()).map(|route| route.epoch), Some(2));
    }
}
