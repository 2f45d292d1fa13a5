//! A watch that stands: what has been heard of it, and whether the store has nothing newer than what came over it. Sans-IO.
//!
//! What always holds: what the store was known to have when the watch was opened counts as missing until it has come.

use std::time::Duration;

use waypost_policy::Moment;

use super::whole::Whole;

/// How often a watch is asked for progress at least while the store is known to have more than was applied.
pub(super) const PROGRESS_BEHIND_EVERY: Duration = Duration::from_millis(250);

/// A watch that stands.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) barrier: bool,
    pub(super) heard: Moment,
    pub(super) asked: Moment,
    pub(super) whole: Whole,
    /// How far the store is known to have come: by the hello, and by signs of life that are no barrier.
    pub(super) known: u64,
    /// What was applied last does not reach that far.
    pub(super) is_behind: bool,
    /// Nothing has come since the last sign of life.
    pub(super) is_quiet: bool,
}

impl Open {
    pub(super) fn new(barrier: bool, known: u64, now: Moment) -> Self {
        Self { barrier, heard: now, asked: now, whole: Whole::default(), known, is_behind: false, is_quiet: false }
    }

    /// Everything up to `revision` has been applied: whether the store has nothing newer, as far as is known.
    pub(super) fn is_current_at(&mut self, revision: u64) -> bool {
        self.is_behind = revision < self.known;
        !self.is_behind && self.whole.is_empty()
    }

    /// A sign of life, behind which nothing is newer up to `revision`, if it is a barrier. Gives whether the store has nothing newer than was applied.
    pub(super) fn progress(&mut self, revision: u64, applied: u64, now: Moment) -> bool {
        self.heard = now;
        let is_quiet = std::mem::replace(&mut self.is_quiet, self.whole.is_empty());
        if self.is_barrier() {
            return self.is_current_at(revision.max(applied));
        }
        // It may have overtaken changes. With nothing in between two of them there were none: the others are of keys that are not watched.
        let came = if is_quiet && self.is_quiet && revision >= self.known { applied } else { self.known.max(revision) };
        self.known = came;
        self.is_current_at(applied)
    }

    /// Whether a sign of life says now that everything before it has come.
    pub(super) fn is_barrier(&self) -> bool {
        self.barrier && self.whole.is_empty()
    }

    pub(super) fn ask_at(&self, every: Duration) -> Moment {
        self.asked + if self.is_behind { every.min(PROGRESS_BEHIND_EVERY) } else { every }
    }
}
