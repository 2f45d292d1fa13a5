//! Where a routing key is owned, by all that is known: the overlay of hints first, then the table; the greater epoch wins.
//!
//! The order matters: a hint is dropped only after the table that replaces it is in force, so reading the table first could see
//! the old table and then no hint, and an epoch would go back.

use crate::{
    Code, World,
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

/// Looks a key up.
///
/// # Errors
/// The code to answer with: `NoRoute`, `Quarantined`, `ParkTimeout` for a frozen route, `NoService` if the service has gone.
pub fn look_up(key: &RequestKey, world: &World<'_>) -> Result<Found, Code> {
    let hint = world.hints.get(key);
    let entry = world.table.entry(key);
    if let Some(hint) = hint {
        match judge(&hint, entry, world) {
            None => {
                return Ok(Found { owner: hint.owner, epoch: hint.epoch, source: Source::Hint, create_revision: hint.over });
            }
            Some(ending) => world.hints.end(key, hint.epoch, ending, world.now),
        }
    }
    match entry {
        Entry::Route(route, source) => match route.state {
            State::Quarantined => Err(Code::Quarantined),
            // Requests of a frozen key wait for its release; until this version can, it says what a wait in vain says.
            State::Frozen => Err(Code::ParkTimeout),
            State::Serving | State::Moving(_) => {
                Ok(Found { owner: route.owner, epoch: route.epoch, source, create_revision: route.meta.create_revision })
            }
        },
        Entry::Absent(_) => default_owner(world.table.service(key.service).ok_or(Code::NoService)?),
    }
}

/// The owner of what has no route.
pub(super) fn default_owner(service: &Service) -> Result<Found, Code> {
    let owner = service.default_owner.ok_or(Code::NoRoute)?;
    Ok(Found { owner, epoch: 0, source: Source::Default, create_revision: 0 })
}

/// Ends the key's hint if a check has just answered: what the store shows is adopted whatever its epoch.
pub fn settle(key: &RequestKey, world: &World<'_>) {
    let Some(hint) = world.hints.get(key) else { return };
    let ending = ending(&hint, world.table.entry(key));
    world.hints.end(key, hint.epoch, ending, world.now);
}

/// How a hint ends now, or `None` while it lives: the table has not reached its revision, and no check has answered.
fn judge(hint: &Hint, entry: Entry<'_>, world: &World<'_>) -> Option<Ending> {
    let read_of_store = matches!(entry, Entry::Route(_, Source::Store) | Entry::Absent(Source::Store));
    let shown_newer = matches!(entry, Entry::Route(route, _) if route.epoch >= hint.epoch);
    let reached = world.table.revision() >= hint.revision;
    (reached || read_of_store || shown_newer).then(|| ending(hint, entry))
}

fn ending(hint: &Hint, entry: Entry<'_>) -> Ending {
    match entry {
        Entry::Route(route, _) if route.epoch >= hint.epoch => Ending::Superseded,
        Entry::Route(route, _) if route.meta.create_revision == hint.over => Ending::Refuted,
        _ => Ending::Dropped,
    }
}
