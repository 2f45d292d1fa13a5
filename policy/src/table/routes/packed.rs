//! A small hash table of routes without a heap block a route: records stand one after another in one block of bytes.
//!
//! A copy is two copies of memory, whatever it holds; freeing one is two calls. What always holds: every position in `index` is where a
//! record begins, no two records have the same service and key, and less than half of `bytes` belongs to records that have gone.

use super::{
    super::{Meta, ServiceId, UpstreamId},
    Route, State,
    index::Index,
};

/// Bytes of a record before its key: see [`written`].
pub(super) const HEAD: usize = 55;
const FLAG_LEASED: u8 = 1 << 7;

/// The table.
#[derive(Clone, Debug, Default)]
pub(super) struct Packed {
    bytes: Vec<u8>,
    /// Where each record begins in `bytes`.
    index: Index,
    /// How many of `bytes` belong to records that have gone.
    dead: usize,
}

/// A record as it stands in the block.
#[derive(Clone, Copy)]
pub(super) struct Record<'a> {
    head: &'a [u8; HEAD],
    pub(super) service: ServiceId,
    pub(super) key: &'a [u8],
}

impl Packed {
    #[inline]
    pub(super) fn get(&self, hash: u64, service: ServiceId, key: &[u8]) -> Option<Route> {
        let at = self.index.find(hash, |at| is(&self.bytes, at, service, key))?;
        Record::at(&self.bytes, at)?.route()
    }

    /// The same, and where the record stands: positions are at least [`HEAD`] apart.
    pub(super) fn find(&self, hash: u64, service: ServiceId, key: &[u8]) -> Option<(u32, Route)> {
        let at = self.index.find(hash, |at| is(&self.bytes, at, service, key))?;
        Some((at, Record::at(&self.bytes, at)?.route()?))
    }

    /// Makes room for so many more records of so many bytes of keys, and no more than that.
    pub(super) fn reserve(&mut self, records: usize, key_bytes: usize) {
        self.bytes.reserve_exact(records * HEAD + key_bytes);
        self.index.reserve(records);
    }

    /// Puts a route under a key; true if the key is new.
    pub(super) fn insert(&mut self, hash: u64, service: ServiceId, key: &[u8], route: &Route) -> bool {
        let Self { bytes, index, .. } = self;
        // Keys are 1,024 bytes at most, and four gigabytes in one of thousands of partitions do not fit into memory.
        let (Ok(key_len), Ok(at), Ok(_)) = (u16::try_from(key.len()), u32::try_from(bytes.len()), u32::try_from(bytes.len() + 1)) else {
            return false;
        };
        let head = written(service, key_len, route);
        if let Some(at) = index.find(hash, |at| is(bytes, at, service, key)) {
            if let Some(place) = bytes.get_mut(at as usize..).and_then(<[u8]>::first_chunk_mut) {
                *place = head;
            }
            return false;
        }
        let needed = HEAD + key.len();
        if bytes.capacity() - bytes.len() < needed {
            // A vector would double itself; in thousands of partitions that is a third of all memory for nothing.
            bytes.reserve_exact(needed.max(bytes.len() / 4));
        }
        bytes.extend_from_slice(&head);
        bytes.extend_from_slice(key);
        index.insert(hash, at);
        true
    }

    /// Takes a route out; true if there was one.
    pub(super) fn remove(&mut self, hash: u64, service: ServiceId, key: &[u8]) -> bool {
        let was_there = self.index.remove(hash, |at| is(&self.bytes, at, service, key));
        if was_there {
            self.dead += HEAD + key.len();
            self.compact();
        }
        was_there
    }

    /// Takes all routes of a service out.
    pub(super) fn take(&mut self, service: ServiceId) -> Vec<(Box<[u8]>, Route)> {
        let Self { bytes, index, dead } = self;
        let mut taken = Vec::new();
        index.retain(|at| {
            let Some(record) = Record::at(bytes, at).filter(|record| record.service == service) else { return true };
            *dead += HEAD + record.key.len();
            taken.extend(record.route().map(|route| (record.key.into(), route)));
            false
        });
        self.compact();
        taken
    }

    pub(super) fn has(&self, service: ServiceId) -> bool {
        self.iter().any(|(of, ..)| of == service)
    }

    /// The records that stand where `wanted` says.
    pub(super) fn iter_at(&self, wanted: impl Fn(u32) -> bool) -> impl Iterator<Item = (ServiceId, &[u8])> {
        let records = self.index.iter().filter(move |at| wanted(*at)).filter_map(|at| Record::at(&self.bytes, at));
        records.map(|record| (record.service, record.key))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ServiceId, &[u8], Route)> {
        let records = self.index.iter().filter_map(|at| Record::at(&self.bytes, at));
        records.filter_map(|record| Some((record.service, record.key, record.route()?)))
    }

    /// Writes the block anew if half of it has gone.
    fn compact(&mut self) {
        if self.dead * 2 <= self.bytes.len() {
            return;
        }
        let mut bytes = Vec::with_capacity(self.bytes.len() - self.dead);
        self.index.relocate(|at| {
            // It was a position in a longer block.
            let moved = bytes.len() as u32;
            if let Some(record) = Record::at(&self.bytes, at) {
                bytes.extend_from_slice(record.head);
                bytes.extend_from_slice(record.key);
            }
            moved
        });
        (self.bytes, self.dead) = (bytes, 0);
        self.index.shrink();
    }
}

impl<'a> Record<'a> {
    #[inline]
    pub(super) fn at(bytes: &'a [u8], at: u32) -> Option<Self> {
        let (head, rest) = bytes.get(at as usize..)?.split_first_chunk::<HEAD>()?;
        let mut from = head.as_slice();
        let service = ServiceId::new(u32::from_le_bytes(next(&mut from)?));
        let key = rest.get(..usize::from(u16::from_le_bytes(next(&mut from)?)))?;
        Some(Self { head, service, key })
    }

    #[inline]
    pub(super) fn route(self) -> Option<Route> {
        let mut from = &self.head[6..];
        let [flags] = next(&mut from)?;
        let owner = UpstreamId::new(u32::from_le_bytes(next(&mut from)?));
        let target = UpstreamId::new(u32::from_le_bytes(next(&mut from)?));
        let state = match flags & !FLAG_LEASED {
            0 => State::Serving,
            1 => State::Moving(target),
            2 => State::Frozen,
            _ => State::Quarantined,
        };
        let epoch = u64::from_le_bytes(next(&mut from)?);
        let create_revision = u64::from_le_bytes(next(&mut from)?);
        let mod_revision = u64::from_le_bytes(next(&mut from)?);
        let digest = u128::from_le_bytes(next(&mut from)?);
        let meta = Meta { create_revision, mod_revision, digest, leased: flags & FLAG_LEASED != 0 };
        Some(Route { owner, epoch, state, meta })
    }
}

/// The head of a record: service, length of the key, state and lease, owner, target, epoch, revisions, digest.
pub(super) fn written(service: ServiceId, key_len: u16, route: &Route) -> [u8; HEAD] {
    let Route { owner, epoch, state, meta } = route;
    let (state, target) = match state {
        State::Serving => (0, 0),
        State::Moving(target) => (1, target.index() as u32),
        State::Frozen => (2, 0),
        State::Quarantined => (3, 0),
    };
    let flags = if meta.leased { state | FLAG_LEASED } else { state };
    let mut head = [0; HEAD];
    let mut to = head.as_mut_slice();
    put(&mut to, (service.index() as u32).to_le_bytes());
    put(&mut to, key_len.to_le_bytes());
    put(&mut to, [flags]);
    put(&mut to, (owner.index() as u32).to_le_bytes());
    put(&mut to, target.to_le_bytes());
    put(&mut to, epoch.to_le_bytes());
    put(&mut to, meta.create_revision.to_le_bytes());
    put(&mut to, meta.mod_revision.to_le_bytes());
    put(&mut to, meta.digest.to_le_bytes());
    debug_assert!(to.is_empty(), "the head is filled");
    head
}

fn put<const N: usize>(to: &mut &mut [u8], bytes: [u8; N]) {
    if let Some((place, rest)) = std::mem::take(to).split_first_chunk_mut() {
        *place = bytes;
        *to = rest;
    }
}

#[inline]
fn next<const N: usize>(from: &mut &[u8]) -> Option<[u8; N]> {
    let (bytes, rest) = from.split_first_chunk()?;
    *from = rest;
    Some(*bytes)
}

#[inline]
fn is(bytes: &[u8], at: u32, service: ServiceId, key: &[u8]) -> bool {
    Record::at(bytes, at).is_some_and(|record| record.service == service && record.key == key)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn any_route() -> impl Strategy<Value = Route> {
        let state = prop_oneof![
            Just(State::Serving),
            any::<u32>().prop_map(|target| State::Moving(UpstreamId::new(target))),
            Just(State::Frozen),
            Just(State::Quarantined)
        ];
        (any::<u32>(), any::<u64>(), state, any::<(u64, u64, u128, bool)>()).prop_map(|(owner, epoch, state, meta)| {
            let (create_revision, mod_revision, digest, leased) = meta;
            Route { owner: UpstreamId::new(owner), epoch, state, meta: Meta { create_revision, mod_revision, digest, leased } }
        })
    }

    proptest! {
        /// The hash has few values, so that keys that are not the same share it; some give a place at the index's end.
        #[test]
        fn it_is_a_map_and_gives_back_what_was_put(
            changes in proptest::collection::vec((0u8..10, 0u32..2, proptest::collection::vec(0u8..6, 1..4), any_route()), 0..300),
        ) {
            let hash_of = |service: ServiceId, key: &[u8]| (service.index() as u64 + u64::from(key[0])) * 0x5555_5555;
            let (mut packed, mut model) = (Packed::default(), BTreeMap::new());
            for (what, service, key, route) in changes {
                let id = ServiceId::new(service);
                let hash = hash_of(id, &key);
                match what {
                    0 => {
                        let mut taken = packed.take(id);
                        taken.sort_by(|(one, _), (other, _)| one.cmp(other));
                        let wanted: Vec<_> = model.extract_if((service, Vec::new())..(service + 1, Vec::new()), |_, _| true).collect();
                        prop_assert!(taken.iter().map(|(key, route)| (&**key, *route)).eq(wanted.iter().map(|((_, key), route)| (&**key, *route))));
                    }
                    1..=4 => prop_assert_eq!(packed.remove(hash, id, &key), model.remove(&(service, key)).is_some()),
                    _ => prop_assert_eq!(packed.insert(hash, id, &key, &route), model.insert((service, key), route).is_none()),
                }
                prop_assert!(packed.dead * 2 <= packed.bytes.len());
            }
            let all: BTreeMap<_, _> = packed.iter().map(|(service, key, route)| ((service.index() as u32, key.to_vec()), route)).collect();
            prop_assert_eq!(&all, &model);
            for ((service, key), route) in model {
                let id = ServiceId::new(service);
                prop_assert_eq!(packed.get(hash_of(id, &key), id, &key), Some(route));
            }
        }
    }
}
