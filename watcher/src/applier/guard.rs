//! The guard against mass deletes: what would remove more than half of many routes is held back, whether a revision or a list says so.
//!
//! All that goes with them is held, too: a route without its service or its owner is of no use. What is held stays in force, out of the
//! digest, until it is put again. If the store still has other routes, the shell is to read it linearizably (a [`Doubt`]); its [`Said`] then
//! has the deletes taken. If it has none, they are not taken at all, whatever is put or listed later: only a put of the key itself,
//! another incarnation, or a start that allows an empty store ends such a hold.

use std::collections::HashSet;

use super::{Applier, Event, RecordKey, change, touched};
use waypost_policy::table::Meta;

/// A table of no more routes than this is believed to be emptied.
pub(super) const GUARDED_ROUTES: usize = 100;
/// The share in the digest of what is held back. No record of a store has it, but one in 2^128.
const NOT_COUNTED: u128 = 0;
/// How many of the keys in doubt are looked for in the store.
const SAMPLES: usize = 16;

/// Deletes that are to be confirmed by a linearizable read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doubt {
    /// Which doubt it is; a later one has another number.
    pub number: u64,
    /// The store must have been at least here.
    pub revision: u64,
    /// Some of the keys, below the prefix.
    pub samples: Vec<Vec<u8>>,
}

/// What a linearizable read said about a doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    /// The doubt's number.
    pub number: u64,
    /// Whether the store holds any route.
    pub has_routes: bool,
    /// Whether it has one of the samples as it was before the revision that deleted it.
    pub contradicts: bool,
}

/// What came of a doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// The deletes are true: so many routes are gone with the next publish.
    Taken(usize),
    /// The store holds no routes: so many stay in force.
    Empty(usize),
    /// The store still has what it was said to have deleted: so many stay in force until it has been listed.
    Contradicted(usize),
    /// The doubt is no longer there.
    Past,
}

impl Applier {
    /// Whether so many deletes of routes are not believed at once.
    pub(super) fn is_mass_delete(&self, deleted: usize) -> bool {
        let known = self.builder.route_count();
        known > GUARDED_ROUTES && deleted * 2 > known && !self.allow_empty
    }

    /// How many of these events delete a route that is known.
    pub(super) fn deleted_routes(&self, events: &[Event]) -> usize {
        let deleted = events.iter().filter(|event| matches!(event, Event::Delete { key, .. } if self.has_route(key)));
        deleted.count()
    }

    fn has_route(&self, key: &[u8]) -> bool {
        is_route(key) && RecordKey::parse(key).is_ok_and(|key| self.builder.meta(&key).is_some())
    }

    /// Keeps a record in force although the store has it no more; false if it has no good value to keep. It no longer counts in the digest,
    /// which is over what the store has, and a put of a route starts its epochs afresh. The incarnation is what the store says it is.
    pub(super) fn hold(&mut self, key: &[u8]) -> bool {
        let Ok(parsed) = RecordKey::parse(key) else { return false };
        if parsed == RecordKey::Incarnation || self.has_only_bad(&parsed) {
            return false;
        }
        let Some(meta) = self.builder.meta(&parsed) else { return false };
        let create_revision = if is_route(key) { 0 } else { meta.create_revision };
        let counted = self.store_meta(key).map_or(0, |meta| meta.digest);
        self.digest = self.digest.wrapping_sub(counted);
        if self.bad.remove(key).is_some() {
            self.touch(|_| Some(change::released(key)));
        }
        self.builder.set_meta(&parsed, Meta { create_revision, digest: NOT_COUNTED, ..meta });
        self.held_back.insert(key.to_vec());
        true
    }

    /// After deletes were held back: they are in doubt if the store has other routes, else not taken at all.
    pub(super) fn doubt(&mut self, held: Vec<Vec<u8>>, revision: u64) {
        self.news = true;
        self.is_disputed = false;
        self.doubts += 1;
        self.doubted_at = revision;
        if self.builder.route_count() > self.held_back.iter().filter(|key| is_route(key)).count() {
            self.doubted.extend(held);
        } else {
            self.doubted.clear();
        }
    }

    /// What is to be confirmed by a linearizable read, if anything is.
    pub fn to_confirm(&self) -> Option<Doubt> {
        if self.is_disputed {
            return None;
        }
        // What was put again meanwhile is in the store, and contradicts nothing.
        let doubted: Vec<_> = self.doubted().collect();
        let step = doubted.len().div_ceil(SAMPLES);
        let samples: Vec<_> = doubted.into_iter().step_by(step.max(1)).cloned().collect();
        if samples.is_empty() {
            return None;
        }
        Some(Doubt { number: self.doubts, revision: self.doubted_at, samples })
    }

    /// Takes the deletes in doubt, or holds them for good.
    pub fn settle(&mut self, said: Said) -> Settled {
        if said.number != self.doubts || self.doubted.is_empty() || self.is_disputed {
            return Settled::Past;
        }
        if said.contradicts {
            self.is_disputed = true;
            return Settled::Contradicted(self.doubted().filter(|key| is_route(key)).count());
        }
        let doubted = std::mem::take(&mut self.doubted);
        let still: Vec<_> = doubted.into_iter().filter(|key| self.held_back.contains(key)).collect();
        let routes = still.iter().filter(|key| is_route(key)).count();
        if !said.has_routes {
            return Settled::Empty(routes);
        }
        still.iter().for_each(|key| self.delete(key));
        Settled::Taken(routes)
    }

    /// Held keys that are in doubt.
    pub(crate) fn doubted(&self) -> impl Iterator<Item = &Vec<u8>> {
        self.doubted.iter().filter(|key| self.held_back.contains(*key))
    }

    /// A list is about to tell. What a store without routes had lost stays held unless it is another incarnation, for which somebody has
    /// decided; about the rest the list has the word.
    pub(super) fn judge_holds_anew(&mut self, fresh: bool) {
        let doubted: HashSet<Vec<u8>> = std::mem::take(&mut self.doubted).into_iter().collect();
        self.is_disputed = false;
        if fresh {
            self.held_back.clear();
        } else {
            self.held_back = std::mem::take(&mut self.held_back).into_iter().filter(|key| !doubted.contains(key)).collect();
        }
    }

    /// Ends the hold of a key; true if it was held.
    pub(super) fn release(&mut self, key: &[u8]) -> bool {
        let was_held = !self.held_back.is_empty() && self.held_back.remove(key);
        self.news |= was_held;
        was_held
    }

    pub(super) fn delete(&mut self, key: &[u8]) {
        self.release(key);
        let known = self.store_meta(key);
        self.keys -= usize::from(known.is_some());
        self.digest = self.digest.wrapping_sub(known.map_or(0, |meta| meta.digest));
        if self.bad.remove(key).is_some() {
            self.news = true;
            self.touch(|_| Some(change::released(key)));
        }
        self.news |= self.notes.remove(key).is_some();
        if let Ok(key) = RecordKey::parse(key) {
            self.touch(|builder| touched(builder, &key, None));
            self.builder.remove(&key);
        }
    }
}

/// Whether this is said of a record that is held back.
pub(crate) fn is_held(meta: Meta) -> bool {
    meta.digest == NOT_COUNTED
}

fn is_route(key: &[u8]) -> bool {
    key.starts_with(b"routes/")
}

#[cfg(test)]
mod tests;
