//! Where a routing key is owned, by all that is known: the overlay of hints first, then the table; the greater epoch wins.
//!
//! The order matters: a hint is dropped only after the table that replaces it is in force, so reading the table first could see
//! the old table and then no hint, and an epoch would go back. What is [`Known`] is read without changing anything, so that it can
//! be shown as well as acted on.

use crate::{
    Code, Hints, Moment, Table, World,
    hints::{Ending, Hint},
    table::{Entry, RequestKey, Service, Source, State, UpstreamId},
};

/// An owner, and by whose word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The owner.
    pub owner: UpstreamId,
    /// The generation of its ownership.
    pub epoch: u64,
    /// Where this is known from.
    pub source: Source,
    /// The `create_revision` of the record; 0 where there is none.
    pub create_revision: u64,
}

/// Why there is nobody to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nowhere {
    /// The key is frozen: nobody may serve it now, and its requests wait.
    Frozen,
    /// The code to answer with.
    Answered(Code),
}

impl From<Code> for Nowhere {
    fn from(code: Code) -> Self {
        Self::Answered(code)
    }
}

impl Nowhere {
    /// The code for whoever can't wait.
    pub fn code(self) -> Code {
        match self {
            Self::Frozen => Code::ParkTimeout,
            Self::Answered(code) => code,
        }
    }
}

/// All that is known of one key.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    /// What the table says.
    pub(crate) entry: Entry,
    /// The hint laid over it, if there is one that lives.
    pub(crate) hint: Option<Hint>,
    /// A hint that the table has caught up with: its epoch, and how it ends.
    ended: Option<(u64, Ending)>,
}

impl Known {
    /// Reads hints and table, in this order.
    pub(crate) fn of(key: &RequestKey, table: &Table, hints: &Hints) -> Self {
        let hint = hints.get(key);
        let entry = table.entry(key);
        let ended = hint.as_ref().and_then(|hint| Some((hint.epoch, judge(hint, entry, table.known_at(key))?)));
        Self { entry, hint: hint.filter(|_| ended.is_none()), ended }
    }

    /// The owner by all that is known.
    ///
    /// # Errors
    /// As [`look_up`].
    pub(crate) fn owner(&self, service: Option<&Service>) -> Result<Found, Nowhere> {
        if let Some(hint) = &self.hint {
            return Ok(Found { owner: hint.owner, epoch: hint.epoch, source: Source::Hint, create_revision: hint.over });
        }
        match self.entry {
            Entry::Route(route, source) => match route.state {
                State::Quarantined => Err(Code::Quarantined.into()),
                State::Frozen => Err(Nowhere::Frozen),
                State::Serving | State::Moving(_) => {
                    Ok(Found { owner: route.owner, epoch: route.epoch, source, create_revision: route.meta.create_revision })
                }
            },
            Entry::Absent(_) => Ok(default_owner(service.ok_or(Code::NoService)?)?),
        }
    }

    /// The epoch that a claim has to advance, and the `create_revision` of the record that it is laid over; also of a key that may not be served.
    pub(crate) fn generation(&self) -> (u64, u64) {
        match (&self.hint, self.entry) {
            (Some(hint), _) => (hint.epoch, hint.over),
            (None, Entry::Route(route, _)) => (route.epoch, route.meta.create_revision),
            (None, Entry::Absent(_)) => (0, 0),
        }
    }

    /// Drops the hint that the table has caught up with.
    pub(crate) fn end_hint(&self, key: &RequestKey, hints: &Hints, now: Moment) {
        if let Some((epoch, ending)) = self.ended {
            hints.end(key, epoch, ending, now);
        }
    }
}

/// Looks a key up.
///
/// # Errors
/// `Frozen`, or the code to answer with: `NoRoute`, `Quarantined`, `NoService` if the service has gone.
pub fn look_up(key: &RequestKey, world: &World<'_>) -> Result<Found, Nowhere> {
    let known = Known::of(key, world.table, world.hints);
    known.end_hint(key, world.hints, world.now);
    known.owner(world.table.service(key.service).map(AsRef::as_ref))
}

/// The owner of what has no route.
pub(super) fn default_owner(service: &Service) -> Result<Found, Code> {
    let owner = service.default_owner.ok_or(Code::NoRoute)?;
    Ok(Found { owner, epoch: 0, source: Source::Default, create_revision: 0 })
}

/// Ends the key's hint if a check that has just answered says so: what the store shows is adopted whatever its epoch. `began`: when the
/// store was asked. A hint that was taken later may be newer than what it said, and is judged by its revision like any other.
pub fn settle(key: &RequestKey, began: Moment, world: &World<'_>) {
    let Some(hint) = world.hints.get(key) else { return };
    let entry = world.table.entry(key);
    let ending = if hint.taken_at <= began { Some(ending(&hint, entry)) } else { judge(&hint, entry, world.table.known_at(key)) };
    if let Some(ending) = ending {
        world.hints.end(key, hint.epoch, ending, world.now);
    }
}

/// How a hint ends now, or `None` while it lives: what is known is not of its revision yet. `known_at`: of which it is.
fn judge(hint: &Hint, entry: Entry, known_at: u64) -> Option<Ending> {
    let shown_newer = matches!(entry, Entry::Route(route, _) if route.epoch >= hint.epoch);
    (known_at >= hint.revision || shown_newer).then(|| ending(hint, entry))
}

fn ending(hint: &Hint, entry: Entry) -> Ending {
    match entry {
        Entry::Route(route, _) if route.epoch >= hint.epoch => Ending::Superseded,
        Entry::Route(route, _) if route.meta.create_revision == hint.over => Ending::Refuted,
        _ => Ending::Dropped,
    }
}
