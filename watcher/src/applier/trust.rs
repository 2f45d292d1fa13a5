//! What is not believed: events that come too late, lists of another history, more records than may be held. And the mark at which the
//! digest is remembered, so that it can be compared with the store's.

use waypost_policy::table::Meta;

use super::{Applier, guard::is_held};
use crate::record::Event;

/// Why what the store says is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The watch has left out what it sends now.
    #[error("the watch brought a change of revision {0} too late")]
    Late(u64),
    /// A key has another value than it had at the same revision, or an older one.
    #[error("the store has {key} as of revision {found}, but what is in force is of revision {known}: its history is another")]
    OtherHistory {
        /// The key below the prefix, readable.
        key: String,
        /// The revision of the value that the list has.
        found: u64,
        /// The revision of the value in force.
        known: u64,
    },
    /// There are more records than may be held.
    #[error("there are more than {0} records, the most that this proxy takes ([limits] records): the last good table stays")]
    Full(usize),
}

/// Where the digest is remembered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    revision: u64,
    /// Once something newer has been applied.
    digest: Option<u128>,
}

impl Applier {
    /// From now on remembers the digest as of this revision, which must not be below the cursor.
    pub fn set_mark(&mut self, revision: u64) {
        self.mark = Some(Mark { revision, digest: (self.revision > revision).then_some(0) });
    }

    /// The digest as of the mark, and whether it is certain: it is once something newer was applied or the cursor has come there. `None` if there is no mark any
    /// more: the whole store has been listed since.
    pub fn digest_at_mark(&self) -> Option<(u128, bool)> {
        let mark = self.mark?;
        Some(mark.digest.map_or((self.digest, self.revision >= mark.revision), |digest| (digest, true)))
    }

    /// Before something of a revision is applied.
    pub(super) fn pass_mark(&mut self, revision: u64) {
        if let Some(mark) = &mut self.mark
            && revision > mark.revision
        {
            mark.digest.get_or_insert(self.digest);
        }
    }

    /// Whether a change that is not newer than the cursor was not applied. One that was comes to nothing.
    pub(super) fn has_missed(&self, event: &Event) -> bool {
        let known = self.store_meta(event.key()).filter(|_| !self.held_back.contains(event.key()));
        match event {
            Event::Put(stored) => known.is_none_or(|known| {
                known.mod_revision < stored.mod_revision
                    || (known.mod_revision == stored.mod_revision && known.digest != stored.meta().digest)
            }),
            Event::Delete { mod_revision, .. } => known.is_some_and(|known| known.mod_revision < *mod_revision),
        }
    }

    /// Whether the table can hold what one revision puts.
    pub(super) fn fits(&self, events: &[Event]) -> Result<(), Refused> {
        if self.keys + events.len() <= self.most_keys {
            return Ok(());
        }
        let new = events.iter().filter(|event| matches!(event, Event::Put(_)) && self.store_meta(event.key()).is_none()).count();
        if new > 0 && self.keys + new > self.most_keys { Err(Refused::Full(self.most_keys)) } else { Ok(()) }
    }

    /// Whether the table can hold so many records.
    pub(super) fn holds(&self, records: usize) -> Result<(), Refused> {
        if records > self.most_keys { Err(Refused::Full(self.most_keys)) } else { Ok(()) }
    }

    /// Whether what a list has under a key can be of the history in which it was known as this.
    pub(super) fn believe(known: Option<Meta>, listed: Meta, key: impl Fn() -> Vec<u8>) -> Result<(), Refused> {
        // What is held back may be of an incarnation before this one, whose revisions were others.
        let Some(known) = known.filter(|known| !is_held(*known)) else { return Ok(()) };
        let is_other = listed.mod_revision < known.mod_revision
            || listed.create_revision < known.create_revision
            || (listed.mod_revision == known.mod_revision && known.digest != listed.digest);
        if !is_other {
            return Ok(());
        }
        let (key, found, known) = (waypost_conf::escaped(&key()), listed.mod_revision, known.mod_revision);
        Err(Refused::OtherHistory { key, found, known })
    }
}
