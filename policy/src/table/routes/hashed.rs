//! The routes of exact services in one hash table, cut into partitions of which a publish copies only those that it touches.
//!
//! A clone shares every partition; the first change of a shared one copies it, later changes of the same publish do not. Partitions hang
//! in groups, so that a copy of the array is not one of 4,096 counted pointers. Chosen by measurement: benches/README.md.

use std::{
    array,
    hash::{BuildHasher, Hash, Hasher},
    sync::Arc,
    thread,
};

use super::{
    super::ServiceId,
    Route,
    batch::Numbered,
    packed::{HEAD, Packed},
};

/// Groups, and partitions a group.
const WIDTH: usize = 64;

/// With so many routes to put at once it pays to make room first and to take a second thread.
const MANY: usize = WIDTH * WIDTH;

type Group = [Arc<Packed>; WIDTH];

/// Which routes have been met; a bit for each place where a record may begin.
#[derive(Clone, Debug)]
pub(super) struct Marks(Vec<Vec<u64>>);

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

    #[inline]
    pub(super) fn get(&self, service: ServiceId, key: &[u8]) -> Option<Route> {
        let hash = hash_of(&self.hasher, service, key);
        let (group, member) = place_of(hash);
        self.groups[group][member].get(hash, service, key)
    }

    pub(super) fn insert(&mut self, service: ServiceId, key: &[u8], route: &Route) {
        let Self { groups, hasher, len } = self;
        let hash = hash_of(hasher, service, key);
        let is_new = partition_mut(groups, place_of(hash)).insert(hash, service, key, route);
        *len += usize::from(is_new);
    }

    /// Puts many. Each of two threads fills its half of the partitions: nothing but the time tells.
    pub(super) fn insert_all(&mut self, batches: &[Numbered<'_>]) {
        let all: usize = batches.iter().map(Numbered::len).sum();
        if all < MANY {
            return batches.iter().flat_map(Numbered::routes).for_each(|(service, key, route)| self.insert(service, key, &route));
        }
        let Self { groups, hasher, len } = self;
        let (lower, upper) = Arc::make_mut(groups).split_at_mut(WIDTH / 2);
        let hasher = &*hasher;
        *len += thread::scope(|scope| {
            let beside = scope.spawn(move || fill(lower, 0, hasher, batches));
            fill(upper, WIDTH / 2, hasher, batches) + beside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
    }

    /// No marks yet.
    pub(super) fn marks(&self) -> Marks {
        Marks(vec![Vec::new(); WIDTH * WIDTH])
    }

    /// Marks a route, and gives it.
    pub(super) fn mark(&self, marks: &mut Marks, service: ServiceId, key: &[u8]) -> Option<(bool, Route)> {
        let hash = hash_of(&self.hasher, service, key);
        let (group, member) = place_of(hash);
        let (at, route) = self.groups[group][member].find(hash, service, key)?;
        let (word, bit) = place_in_marks(at);
        let words = &mut marks.0[group * WIDTH + member];
        if words.len() <= word {
            words.resize(word + 1, 0);
        }
        let is_new = words[word] & bit == 0;
        words[word] |= bit;
        Some((is_new, route))
    }

    /// The routes that are not marked.
    pub(super) fn unmarked<'a>(&'a self, marks: &'a Marks) -> impl Iterator<Item = (ServiceId, &'a [u8])> {
        let partitions = self.groups.iter().flat_map(|group| group.iter());
        partitions.zip(&marks.0).flat_map(|(partition, words)| {
            partition.iter_at(move |at| {
                let (word, bit) = place_in_marks(at);
                words.get(word).is_none_or(|word| word & bit == 0)
            })
        })
    }

    /// Keys of some of the partitions, each `every`th: which key is in which has nothing to do with their order.
    pub(super) fn sample(&self, every: usize) -> impl Iterator<Item = (ServiceId, &[u8])> {
        let partitions = self.groups.iter().flat_map(|group| group.iter());
        partitions.step_by(every).flat_map(|partition| partition.iter_at(|_| true))
    }

    pub(super) fn remove(&mut self, service: ServiceId, key: &[u8]) {
        let Self { groups, hasher, len } = self;
        let hash = hash_of(hasher, service, key);
        let was_there = partition_mut(groups, place_of(hash)).remove(hash, service, key);
        *len -= usize::from(was_there);
    }

    /// Takes all routes of a service out.
    pub(super) fn take(&mut self, service: ServiceId) -> Vec<(Box<[u8]>, Route)> {
        let Self { groups, len, .. } = self;
        let mut taken = Vec::new();
        for place in (0..WIDTH).flat_map(|group| (0..WIDTH).map(move |member| (group, member))) {
            if groups[place.0][place.1].has(service) {
                taken.append(&mut partition_mut(groups, place).take(service));
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

/// A route that is to be put: its hash, its batch, and where it stands there.
type Due = (u64, u32, u32);

/// Puts those of many routes that belong into these groups, of which the first has this number; how many are new. They are put a partition
/// after the other, which is then in the nearest cache: in the order of a list each would wait for memory four times.
fn fill(groups: &mut [Arc<Group>], first: usize, hasher: &ahash::RandomState, batches: &[Numbered<'_>]) -> usize {
    let places = groups.len() * WIDTH;
    let place = |hash| {
        let (group, member) = place_of(hash);
        group.checked_sub(first).map(|group| group * WIDTH + member).filter(|place| *place < places)
    };
    let mut due: Vec<Due> = Vec::with_capacity(batches.iter().map(Numbered::len).sum::<usize>() / 2);
    // How many routes each partition gets, and how many bytes of keys.
    let mut room = vec![(0_usize, 0_usize); places];
    for (number, batch) in (0..).zip(batches) {
        for (at, service, key) in batch.keys() {
            let hash = hash_of(hasher, service, key);
            if let Some(place) = place(hash) {
                due.push((hash, number, at));
                room[place].0 += 1;
                room[place].1 += key.len();
            }
        }
    }
    let due = by_place(&due, &room, place);
    let mut rest = due.as_slice();
    let mut new = 0;
    let partitions = groups.iter_mut().flat_map(|group| Arc::make_mut(group).iter_mut());
    for (partition, (count, key_bytes)) in partitions.zip(room).filter(|(_, (count, _))| *count > 0) {
        let partition = Arc::make_mut(partition);
        partition.reserve(count, key_bytes);
        let (here, later) = rest.split_at(count.min(rest.len()));
        for (hash, number, at) in here {
            let route = batches.get(*number as usize).and_then(|batch| batch.route_at(*at));
            new += usize::from(route.is_some_and(|(service, key, route)| partition.insert(*hash, service, key, &route)));
        }
        rest = later;
    }
    new
}

/// In the order of the partitions, and in each as they were.
fn by_place(due: &[Due], room: &[(usize, usize)], place: impl Fn(u64) -> Option<usize>) -> Vec<Due> {
    let mut next: Vec<usize> = Vec::with_capacity(room.len());
    let mut total = 0;
    for (count, _) in room {
        next.push(total);
        total += count;
    }
    let mut sorted = vec![(0, 0, 0); due.len()];
    for one in due {
        if let Some(place) = place(one.0) {
            sorted[next[place]] = *one;
            next[place] += 1;
        }
    }
    sorted
}

fn place_in_marks(at: u32) -> (usize, u64) {
    let place = at as usize / HEAD;
    (place / 64, 1 << (place % 64))
}

fn hash_of(hasher: &ahash::RandomState, service: ServiceId, key: &[u8]) -> u64 {
    let mut state = hasher.build_hasher();
    service.hash(&mut state);
    state.write(key);
    state.finish()
}

/// The upper half chooses group and partition: the index of a partition takes the lower one.
fn place_of(hash: u64) -> (usize, usize) {
    let upper = (hash >> 32) as usize;
    (upper / WIDTH % WIDTH, upper % WIDTH)
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
