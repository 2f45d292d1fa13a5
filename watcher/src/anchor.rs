//! The anchor: proof that a store's history is the one that was applied. Sans-IO: what is to be read, and what the answers mean.
//!
//! A backup that was restored with unchanged flags keeps cluster id, member id and raft term, and new writes soon bring it past the cursor.
//! What can't come back is a change: in one history a key has one value at a revision. So the last changes are kept, and a new
//! connection reads each at its own revision. What always holds: an event that a server has lost proves nothing here, since only what
//! was applied is asked for.

use std::collections::VecDeque;

use waypost_policy::table::Meta;

use crate::record::Event;

/// How many changes are kept.
pub const KEPT: usize = 16;
/// A watch is resumed behind the last change instead of the cursor, if there are no more revisions in between: events there are ones that
/// this history should not have. Not over more, since a server reads all that lies in between, whoever wrote it.
pub const MOST_REPLAYED: u64 = 1000;

/// One change that was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastChange {
    /// The key below the prefix.
    pub key: Vec<u8>,
    /// The revision of the change.
    pub mod_revision: u64,
    /// The record's share of the digest; `None`: the key was deleted.
    pub digest: Option<u128>,
}

/// The last changes, the newest last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LastChanges {
    changes: VecDeque<LastChange>,
    /// The revision of the list that they begin with: what came and went before it is not known.
    listed_at: u64,
}

impl LastChanges {
    /// Adds what one revision changed.
    pub(crate) fn applied(&mut self, events: &[Event]) {
        for event in events.iter().skip(events.len().saturating_sub(KEPT)) {
            let digest = if let Event::Put(stored) = event { Some(stored.meta().digest) } else { None };
            self.add(LastChange { key: event.key().to_vec(), mod_revision: event.mod_revision(), digest });
        }
    }

    /// None yet, behind a list at this revision.
    pub(crate) fn listed_at(revision: u64) -> Self {
        Self { changes: VecDeque::new(), listed_at: revision }
    }

    /// The newest of the records that a list found at a revision.
    pub(crate) fn of_list<'a>(revision: u64, records: impl Iterator<Item = (&'a [u8], Meta)>) -> Self {
        let mut changes = Self::listed_at(revision);
        for (key, meta) in newest(records, |(_, meta)| meta.mod_revision).into_iter().rev() {
            changes.add(LastChange { key: key.to_vec(), mod_revision: meta.mod_revision, digest: Some(meta.digest) });
        }
        changes
    }

    /// Adds one that is newer than all others.
    pub(crate) fn add(&mut self, change: LastChange) {
        if self.changes.len() == KEPT {
            self.changes.pop_front();
        }
        self.changes.push_back(change);
    }

    /// From the oldest to the newest.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &LastChange> {
        self.changes.iter()
    }

    /// The revision of the list that they begin with; 0 if they do not.
    pub fn begin_at(&self) -> u64 {
        self.listed_at
    }

    /// The newest.
    pub fn newest(&self) -> Option<&LastChange> {
        self.changes.back()
    }
}

/// As many of the newest records as are kept, the newest first; none of revision 0, which a file's have.
pub(crate) fn newest<T>(records: impl Iterator<Item = T>, revision_of: impl Fn(&T) -> u64) -> Vec<T> {
    let mut newest = Vec::with_capacity(2 * KEPT);
    let keep = |newest: &mut Vec<T>| {
        newest.sort_unstable_by_key(|record| std::cmp::Reverse(revision_of(record)));
        newest.truncate(KEPT);
        newest.last().map_or(0, &revision_of)
    };
    let mut least = 1;
    for record in records {
        if revision_of(&record) < least {
            continue;
        }
        newest.push(record);
        if newest.len() == 2 * KEPT {
            least = keep(&mut newest);
        }
    }
    keep(&mut newest);
    newest
}

/// What the store's history says of the changes that were applied last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// Nothing was applied yet.
    None,
    /// It holds them.
    Same,
    /// So much of it has been forgotten that nothing can be said: list again.
    Compacted,
    /// It holds something else: the store was restored from a backup or replaced.
    Differs,
}

/// What a store has under a key at a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A record, by its share of the digest.
    Record(u128),
    /// Nothing.
    Nothing,
    /// The revision has been forgotten.
    Compacted,
}

/// What the history says of one change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// It holds the change.
    Same,
    /// It holds something else.
    Differs,
    /// It has been forgotten.
    Forgotten,
}

impl LastChange {
    /// What the history says, by what was found at the change's revision and, where that was nothing, at the one before.
    pub fn proof(&self, at: Found, before: Option<Found>) -> Proof {
        match (self.digest, at, before) {
            (_, Found::Compacted, _) | (None, Found::Nothing, None | Some(Found::Compacted)) => Proof::Forgotten,
            (Some(digest), Found::Record(found), _) if digest == found => Proof::Same,
            (None, Found::Nothing, Some(Found::Record(_))) => Proof::Same,
            _ => Proof::Differs,
        }
    }
}

/// The judgement over all changes. `at_cursor` is what was found under the newest one's key at the cursor's revision, to which the cursor may have come without
/// a change: it counts where all changes themselves have been forgotten.
pub fn judge(changes: &LastChanges, proofs: &[Proof], at_cursor: Option<Found>) -> Anchor {
    let Some(newest) = changes.newest() else { return Anchor::None };
    if proofs.contains(&Proof::Differs) {
        return Anchor::Differs;
    }
    if proofs.contains(&Proof::Same) {
        return Anchor::Same;
    }
    match (newest.digest, at_cursor) {
        (Some(digest), Some(Found::Record(found))) if digest == found => Anchor::Same,
        // Anything else may also be an event that was lost: the list that follows tells.
        _ => Anchor::Compacted,
    }
}

/// Behind which revision a watch is resumed. `newest` is the proof of the newest change. What a list has passed over is not asked for: a key that was put and
/// deleted before it would look like one that was missed.
pub fn resume_behind(cursor: u64, changes: &LastChanges, newest: Option<Proof>) -> u64 {
    match (changes.newest(), newest) {
        (Some(change), Some(Proof::Same)) if cursor.saturating_sub(change.mod_revision) <= MOST_REPLAYED => {
            change.mod_revision.max(changes.listed_at).min(cursor)
        }
        _ => cursor,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Stored;

    fn put(key: &str, mod_revision: u64, value: &str) -> Event {
        let (key, value) = (key.as_bytes().to_vec(), value.as_bytes().to_vec());
        Event::Put(Stored { key, value, create_revision: 1, mod_revision, leased: false })
    }

    #[test]
    fn the_newest_changes_are_kept_whether_applied_or_listed() {
        let mut applied = LastChanges::default();
        let events: Vec<Event> = (0..100).map(|n| put(&format!("k{n}"), n + 1, "v")).collect();
        events.iter().for_each(|event| applied.applied(std::slice::from_ref(event)));
        let metas: Vec<_> =
            events.iter().map(|event| if let Event::Put(stored) = event { stored.meta() } else { Meta::default() }).collect();
        let mut records: Vec<(&[u8], Meta)> = events.iter().map(Event::key).zip(metas).collect();
        fastrand::Rng::with_seed(7).shuffle(&mut records);
        let listed = LastChanges::of_list(100, records.into_iter());
        assert!(listed.iter().eq(applied.iter()));
        assert_eq!((applied.iter().count(), applied.newest().unwrap().mod_revision), (KEPT, 100));
        let many: Vec<Event> = (0..50).map(|n| Event::Delete { key: format!("k{n}").into_bytes(), mod_revision: 101 }).collect();
        applied.applied(&many);
        assert!(applied.iter().all(|change| change.mod_revision == 101 && change.digest.is_none()));
    }

    #[test]
    fn a_change_is_proven_at_its_own_revision_and_a_delete_at_the_one_before_as_well() {
        let put = LastChange { key: b"k".to_vec(), mod_revision: 5, digest: Some(1) };
        assert_eq!(put.proof(Found::Record(1), None), Proof::Same);
        assert_eq!(put.proof(Found::Record(2), None), Proof::Differs, "the same revision with another value");
        assert_eq!(put.proof(Found::Nothing, None), Proof::Differs);
        assert_eq!(put.proof(Found::Compacted, None), Proof::Forgotten);
        let delete = LastChange { digest: None, ..put };
        assert_eq!(delete.proof(Found::Nothing, Some(Found::Record(9))), Proof::Same);
        assert_eq!(delete.proof(Found::Nothing, Some(Found::Nothing)), Proof::Differs, "it was never there");
        assert_eq!(delete.proof(Found::Record(1), None), Proof::Differs);
        assert_eq!(delete.proof(Found::Nothing, Some(Found::Compacted)), Proof::Forgotten);
    }

    #[test]
    fn one_difference_is_enough_and_what_is_forgotten_says_nothing() {
        let mut changes = LastChanges::default();
        assert_eq!(judge(&changes, &[], None), Anchor::None);
        changes.add(LastChange { key: b"k".to_vec(), mod_revision: 5, digest: Some(1) });
        assert_eq!(judge(&changes, &[Proof::Same, Proof::Differs], None), Anchor::Differs);
        assert_eq!(judge(&changes, &[Proof::Forgotten, Proof::Same], None), Anchor::Same);
        assert_eq!(judge(&changes, &[Proof::Forgotten], Some(Found::Record(1))), Anchor::Same);
        for at_cursor in [None, Some(Found::Compacted), Some(Found::Nothing), Some(Found::Record(2))] {
            assert_eq!(judge(&changes, &[Proof::Forgotten], at_cursor), Anchor::Compacted);
        }
    }

    #[test]
    fn a_short_way_is_replayed_and_a_long_one_not() {
        let mut changes = LastChanges::default();
        assert_eq!(resume_behind(9, &changes, None), 9);
        changes.add(LastChange { key: b"k".to_vec(), mod_revision: 5, digest: Some(1) });
        assert_eq!(resume_behind(9, &changes, Some(Proof::Same)), 5);
        assert_eq!(resume_behind(9, &changes, Some(Proof::Forgotten)), 9);
        let listed = LastChanges { listed_at: 7, ..changes.clone() };
        assert_eq!(resume_behind(9, &listed, Some(Proof::Same)), 7, "what came and went before the list is not known");
        assert_eq!(resume_behind(5 + MOST_REPLAYED + 1, &changes, Some(Proof::Same)), 6 + MOST_REPLAYED);
    }
}
