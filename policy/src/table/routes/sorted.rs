//! A sorted map of byte strings, cut into chunks of which a change copies only the one that it touches.
//!
//! A clone shares every chunk. What always holds: chunks are not empty, and all keys of a chunk are below those of the next; so two
//! binary searches find the greatest key that is not above another.

use std::sync::Arc;

/// A chunk of so many entries is cut in half, and what its first half needs no more is given back.
const MAX_CHUNK: usize = 512;
/// Two neighbours that together have no more become one.
const MERGED_CHUNK: usize = MAX_CHUNK / 4;

type Chunk<T> = Vec<(Box<[u8]>, T)>;

/// The map.
#[derive(Clone, Debug)]
pub(super) struct Sorted<T> {
    chunks: Arc<Vec<Arc<Chunk<T>>>>,
    len: usize,
}

impl<T> Default for Sorted<T> {
    fn default() -> Self {
        Self { chunks: Arc::default(), len: 0 }
    }
}

impl<T: Clone> Sorted<T> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<&T> {
        self.at_or_below(key).filter(|(found, _)| *found == key).map(|(_, value)| value)
    }

    /// The entry with the greatest key that is not above `key`.
    pub(super) fn at_or_below(&self, key: &[u8]) -> Option<(&[u8], &T)> {
        let chunk = &self.chunks[self.chunk_for(key)?];
        let position = chunk.partition_point(|(other, _)| **other <= *key).checked_sub(1)?;
        chunk.get(position).map(|(key, value)| (&**key, value))
    }

    /// Puts a value under a key; gives what was there.
    pub(super) fn insert(&mut self, key: &[u8], value: T) -> Option<T> {
        // A key below all others belongs to the first chunk.
        let at = self.chunk_for(key).unwrap_or(0);
        let chunks = Arc::make_mut(&mut self.chunks);
        if chunks.is_empty() {
            chunks.push(Arc::default());
        }
        let chunk = Arc::make_mut(&mut chunks[at]);
        match chunk.binary_search_by(|(other, _)| (**other).cmp(key)) {
            Ok(position) => return Some(std::mem::replace(&mut chunk[position].1, value)),
            Err(position) => chunk.insert(position, (key.into(), value)),
        }
        self.len += 1;
        if chunk.len() >= MAX_CHUNK {
            let upper = chunk.split_off(MAX_CHUNK / 2);
            chunk.shrink_to_fit();
            chunks.insert(at + 1, Arc::new(upper));
        }
        None
    }

    pub(super) fn remove(&mut self, key: &[u8]) -> Option<T> {
        // Looked for first, so that removing nothing copies nothing.
        self.get(key)?;
        let at = self.chunk_for(key)?;
        let chunks = Arc::make_mut(&mut self.chunks);
        let chunk = Arc::make_mut(&mut chunks[at]);
        let position = chunk.binary_search_by(|(other, _)| (**other).cmp(key)).ok()?;
        let (_, gone) = chunk.remove(position);
        self.len -= 1;
        if chunk.is_empty() {
            chunks.remove(at);
        } else if chunks.get(at + 1).is_some_and(|next| chunks[at].len() + next.len() <= MERGED_CHUNK) {
            let next = chunks.remove(at + 1);
            Arc::make_mut(&mut chunks[at]).extend(next.iter().cloned());
        }
        Some(gone)
    }

    /// All entries, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], &T)> {
        self.chunks.iter().flat_map(|chunk| chunk.iter().map(|(key, value)| (&**key, value)))
    }

    /// The entries whose key is not below `key`, in order.
    pub(super) fn from<'a>(&'a self, key: &[u8]) -> impl Iterator<Item = (&'a [u8], &'a T)> + use<'a, T> {
        let mut chunks = self.chunks[self.chunk_for(key).unwrap_or(0)..].iter();
        let first = chunks.next().map_or(&[][..], |chunk| &chunk[chunk.partition_point(|(other, _)| **other < *key)..]);
        first.iter().chain(chunks.flat_map(|chunk| chunk.iter())).map(|(key, value)| (&**key, value))
    }

    /// The chunk in which a key is, if it is there: the last one that does not begin above it.
    fn chunk_for(&self, key: &[u8]) -> Option<usize> {
        self.chunks.partition_point(|chunk| chunk.first().is_some_and(|(first, _)| **first <= *key)).checked_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_sorted_map_and_its_clones_stay_what_they_were(
            changes in proptest::collection::vec((any::<bool>(), 0u16..3000), 0..4000),
            asked in proptest::collection::vec(0u16..3100, 20),
        ) {
            let (mut sorted, mut model) = (Sorted::default(), BTreeMap::new());
            let mut kept = None;
            for (number, (is_put, key)) in changes.iter().enumerate() {
                let key = key.to_be_bytes();
                // Puts are more frequent in the first half, deletes in the second: chunks are cut and joined.
                if *is_put == (number < changes.len() / 2) || *is_put && number % 3 == 0 {
                    prop_assert_eq!(sorted.insert(&key, number), model.insert(key, number));
                } else {
                    prop_assert_eq!(sorted.remove(&key), model.remove(&key));
                }
                if number == changes.len() / 2 {
                    kept = Some((sorted.clone(), model.clone()));
                }
            }
            for (sorted, model) in kept.into_iter().chain([(sorted, model)]) {
                prop_assert_eq!(sorted.len(), model.len());
                prop_assert!(sorted.iter().map(|(key, value)| (key.to_vec(), *value)).eq(model.iter().map(|(key, value)| (key.to_vec(), *value))));
                prop_assert!(sorted.chunks.iter().all(|chunk| (1..MAX_CHUNK).contains(&chunk.len())));
                for key in &asked {
                    let key = key.to_be_bytes();
                    prop_assert_eq!(sorted.get(&key), model.get(&key));
                    let wanted = model.range(..=key).next_back().map(|(key, value)| (&key[..], value));
                    prop_assert_eq!(sorted.at_or_below(&key), wanted);
                    let from = sorted.from(&key).map(|(key, value)| (key.to_vec(), *value));
                    prop_assert!(from.eq(model.range(key..).map(|(key, value)| (key.to_vec(), *value))));
                }
            }
        }
    }

    #[test]
    fn chunks_have_no_room_that_nobody_needs() {
        let orders: [fn(u32) -> u32; 3] = [|n| n, |n| u32::MAX - n, |n| n.wrapping_mul(2_654_435_761)];
        for (order, spare) in orders.into_iter().zip([0, 0, 100_000]) {
            let mut sorted = Sorted::default();
            for key in (0..100_000).map(order) {
                sorted.insert(&key.to_be_bytes(), ());
            }
            let room: usize = sorted.chunks.iter().map(|chunk| chunk.capacity()).sum();
            // Where keys come in order, only one chunk grows; elsewhere each may have grown to twice what it needs.
            assert!(room <= sorted.len() + spare + MAX_CHUNK, "{room}");
        }
    }
}
