//! Where records begin, by their hash: open addressing with linear probing, in one array of words.
//!
//! A word holds half of a record's hash beside its position. So a search reads one line of the array, mostly, and then the record that it looked for; and nothing
//! is hashed again when the array grows. hashbrown keeps its marks and its entries apart, which is one more line that no cache has, in
//! each look-up among a million routes (benches/README.md).
//!
//! What always holds: the array is empty or as long as a power of two; at least a quarter of it is free; between a word's place and the place that its hash
//! gives it, nothing is free.

/// No record.
const FREE: u64 = 0;
/// The shortest array that holds anything: a line of a cache.
const SHORTEST: usize = 8;

/// The array.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    words: Box<[u64]>,
    len: usize,
}

impl Index {
    /// The position of the record that is the one, among those with this hash.
    #[inline]
    pub(super) fn find(&self, hash: u64, is: impl Fn(u32) -> bool) -> Option<u32> {
        self.place(hash, is).map(|(_, at)| at)
    }

    /// Adds a record that is not there. Its position is below `u32::MAX`.
    pub(super) fn insert(&mut self, hash: u64, at: u32) {
        self.reserve(1);
        self.put(word(hash as u32, at));
        self.len += 1;
    }

    /// Takes out the record that is the one; true if there was one.
    pub(super) fn remove(&mut self, hash: u64, is: impl Fn(u32) -> bool) -> bool {
        let Some((mut hole, _)) = self.place(hash, is) else { return false };
        let mask = self.words.len() - 1;
        let mut next = hole;
        loop {
            next = (next + 1) & mask;
            let word = self.words[next];
            if word == FREE {
                break;
            }
            // What would not be found any more with a hole before it moves there.
            let from_home = next.wrapping_sub(half_of(word) as usize) & mask;
            if from_home >= next.wrapping_sub(hole) & mask {
                self.words[hole] = word;
                hole = next;
            }
        }
        self.words[hole] = FREE;
        self.len -= 1;
        true
    }

    /// Keeps the records whose positions are to stay.
    pub(super) fn retain(&mut self, mut stays: impl FnMut(u32) -> bool) {
        let kept: Vec<u64> = self.words.iter().copied().filter(|word| *word != FREE && stays(position_of(*word))).collect();
        self.words.fill(FREE);
        self.len = kept.len();
        kept.into_iter().for_each(|word| self.put(word));
    }

    /// Gives each record another position.
    pub(super) fn relocate(&mut self, mut to: impl FnMut(u32) -> u32) {
        for place in self.words.iter_mut().filter(|place| **place != FREE) {
            *place = word(half_of(*place), to(position_of(*place)));
        }
    }

    /// Makes room for so many more.
    pub(super) fn reserve(&mut self, more: usize) {
        let wanted = length_for(self.len + more);
        if wanted > self.words.len() {
            self.resize(wanted);
        }
    }

    /// Gives up room, if less than an eighth is used.
    pub(super) fn shrink(&mut self) {
        let wanted = length_for(self.len);
        if wanted * 4 < self.words.len() {
            self.resize(wanted);
        }
    }

    /// All positions.
    pub(super) fn iter(&self) -> impl Iterator<Item = u32> {
        self.words.iter().filter(|word| **word != FREE).map(|word| position_of(*word))
    }

    #[inline]
    fn place(&self, hash: u64, is: impl Fn(u32) -> bool) -> Option<(usize, u32)> {
        let half = hash as u32;
        let mask = self.words.len().wrapping_sub(1);
        let mut place = half as usize & mask;
        loop {
            let word = *self.words.get(place)?;
            if word == FREE {
                return None;
            }
            if half_of(word) == half && is(position_of(word)) {
                return Some((place, position_of(word)));
            }
            place = (place + 1) & mask;
        }
    }

    /// Puts a word where there is room for it.
    fn put(&mut self, word: u64) {
        let mask = self.words.len().wrapping_sub(1);
        let mut place = half_of(word) as usize & mask;
        while self.words[place] != FREE {
            place = (place + 1) & mask;
        }
        self.words[place] = word;
    }

    fn resize(&mut self, length: usize) {
        let before = std::mem::replace(&mut self.words, vec![FREE; length].into());
        before.into_iter().filter(|word| *word != FREE).for_each(|word| self.put(word));
    }
}

/// How long the array has to be for so many records.
fn length_for(records: usize) -> usize {
    if records == 0 { 0 } else { (records * 4).div_ceil(3).next_power_of_two().max(SHORTEST) }
}

fn word(half: u32, at: u32) -> u64 {
    u64::from(half) << 32 | (u64::from(at) + 1)
}

#[inline]
fn half_of(word: u64) -> u32 {
    (word >> 32) as u32
}

#[inline]
fn position_of(word: u64) -> u32 {
    (word as u32).wrapping_sub(1)
}
