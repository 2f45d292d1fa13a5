//! Handing keys over (STALE-ROUTES.md, "Handover"), sans-IO: what a mover does, what an owner says, and who gives a key back whose mover has died.
//!
//! A [`Move`] is one key's way from one owner to another, an [`Announcement`] what an instance of an owner says of itself, a [`Ledger`] the
//! requests that it says that by, a [`Rescue`] what it does about a key that was left frozen. What always holds: a new owner is committed only by compare and swap on the record that froze the
//! key, and only after every known instance of the old owner has said that it judges by that record, or a later one, and serves
//! nothing of the key any more. Not in time, the key is given back.

mod freezes;
mod ledger;
mod mover;
mod rescue;

use serde::{Deserialize, Serialize};
use waypost_conf::{Name, Route, RouteState};

pub use freezes::{Freeze, Freezes};
pub use ledger::{Announcement, BusyKey, Key, Ledger};
pub use mover::{Instances, LET_GO_LIMIT, Move, Moved, Plan, TRIES};
pub use rescue::{RESCUE_AFTER, Rescue, Rescued};

use crate::Moment;

/// What a machine of this module asks for, one thing at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect<Outcome> {
    /// Have the mark `moves/<ID>` of this move in the store, under a lease, and say [`Input::Marked`].
    Mark,
    /// Read the record linearizably: [`Input::Read`].
    Read,
    /// Read linearizably whether there is a mark of this name: [`Input::Mark`].
    LookForMark(String),
    /// List what the instances of this upstream have announced, with a read that begins now: [`Input::Saw`].
    Look(Name),
    /// Write the record if its `mod_revision` is `read_at`: [`Input::Swapped`], [`Input::Lost`] or [`Input::Unsure`].
    Swap {
        /// The new value.
        route: Route,
        /// The revision that was read.
        read_at: u64,
    },
    /// Say [`Input::Woke`] at this time.
    Sleep(Moment),
    /// It has ended; nothing more is to be said to it.
    End(Outcome),
}

/// What is said to a machine.
#[derive(Clone, Debug)]
pub enum Input<'a> {
    /// It begins, or has slept.
    Woke,
    /// The mark is in the store.
    Marked,
    /// The record as it is; `None`: there is none.
    Read(Option<Known>),
    /// Whether the mark that was looked for is there.
    Mark(bool),
    /// What the instances have announced.
    Saw(&'a Instances),
    /// It was written, at this revision.
    Swapped(u64),
    /// Nothing was written: the record is not as it was read.
    Lost,
    /// The store did not say whether it was written.
    Unsure(String),
    /// The store can't be read, or refuses; nothing was written.
    Failed(String),
}

/// The value at `<prefix>-state/moves/<ID>`: a mover lives while it is there. What can't be read says nothing more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mark {
    /// The service whose keys are moved.
    pub service: String,
    /// Who is to own them.
    pub to: String,
    /// Whether owners are to end requests for the keys that it freezes, however long those would last.
    pub cut: bool,
}

/// A record that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// What it says.
    pub route: Route,
    /// Its `mod_revision`.
    pub revision: u64,
}

/// A record that gives a key back to its owner. It has a newer epoch, or an owner that judged by the frozen record could not tell.
pub fn given_back(known: &Route) -> Route {
    serving_next(known, &known.owner)
}

/// What comes after a handover: the next generation of the ownership.
fn serving_next(frozen: &Route, owner: &Name) -> Route {
    Route { owner: owner.clone(), epoch: frozen.epoch.map(|epoch| epoch.saturating_add(1)), state: RouteState::Serving }
}
