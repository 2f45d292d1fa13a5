//! What was seen, in order: what somebody outside of all the code could have noted down. The checker judges by this alone.

use std::time::Duration;

use waypost_policy::{
    Code, Failure, Found, Moment,
    wire::{StaleState, Stamp},
};

use crate::world::{Peer, Pid};

/// A route as a table shows it: owner, epoch, create_revision, mod_revision, state.
pub(crate) type ShownRoute = (String, u64, u64, u64, &'static str);

/// What a table says of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InForce {
    pub(crate) route: Option<ShownRoute>,
    /// By a check, ahead of the watch.
    pub(crate) is_read_ahead: bool,
}

/// One thing.
#[derive(Clone, Debug)]
#[allow(dead_code, reason = "all of it is for a reader of a history")]
pub(crate) enum Seen {
    // Processes and the network.
    Killed {
        pid: Pid,
    },
    Paused {
        pid: Pid,
        by: Duration,
    },
    Parted {
        one: Peer,
        other: Peer,
        by: Duration,
    },
    Resynced {
        pid: Pid,
    },
    // Tables and hints.
    InForce {
        pid: Pid,
        key: usize,
        revision: u64,
        shown: InForce,
    },
    HintTaken {
        pid: Pid,
        key: usize,
        owner: String,
        epoch: u64,
        revision: u64,
        reporter: String,
    },
    /// Key, owner, epoch, and whether a newer one took its place; how many of them were refuted.
    HintsGone {
        pid: Pid,
        gone: Vec<(usize, String, u64, bool)>,
        refuted: u64,
    },
    // Moves.
    Put {
        key: usize,
        value: Option<String>,
    },
    MoveBegan {
        pid: Pid,
        key: usize,
        to: String,
    },
    MoverDied {
        pid: Pid,
    },
    MoveEnded {
        pid: Pid,
        key: usize,
        tries: Option<u32>,
        why: String,
    },
    GivenBack {
        key: usize,
        is_done: bool,
    },
    Rescued {
        pid: Pid,
        record: String,
        is_given_back: bool,
    },
    Announces {
        pid: Pid,
        applied: u64,
        busy: usize,
    },
    // Clients.
    Sent {
        request: u64,
        proxy: Pid,
        key: usize,
        method: &'static str,
    },
    Redirected {
        request: u64,
    },
    Answered {
        request: u64,
        status: u16,
        code: Option<Code>,
    },
    Gone {
        request: u64,
    },
    // Proxies.
    Accepted {
        pid: Pid,
        request: u64,
    },
    Dispatched {
        pid: Pid,
        request: u64,
        key: usize,
        owner: String,
        address: String,
        is_in_table: bool,
        epoch: u64,
        revision: u64,
        hop: u32,
        retries: u32,
        is_ask: bool,
    },
    Failed {
        request: u64,
        failure: Failure,
    },
    /// An owner's refusal has come.
    Heard {
        request: u64,
        state: Option<StaleState>,
    },
    Finished {
        pid: Pid,
        request: u64,
        status: u16,
        code: Option<Code>,
        hops: u32,
        retries: u32,
    },
    Abandoned {
        request: u64,
    },
    Parked {
        pid: Pid,
        request: u64,
        key: usize,
    },
    Unparked {
        pid: Pid,
        request: u64,
    },
    NoRoom {
        request: u64,
    },
    /// It is to sleep until a time that has passed.
    Spins {
        pid: Pid,
        request: u64,
    },
    CheckWanted {
        pid: Pid,
        request: u64,
        key: usize,
    },
    CheckJoined {
        pid: Pid,
        key: usize,
    },
    CheckBegan {
        pid: Pid,
        key: usize,
        number: u64,
    },
    CheckEnded {
        pid: Pid,
        key: usize,
        found: Found,
    },
    CheckTold {
        request: u64,
        found: Found,
    },
    // Owners.
    Head {
        pid: Pid,
        request: u64,
        key: usize,
        stamp: Option<Stamp>,
    },
    Began {
        pid: Pid,
        upstream: String,
        execution: u64,
        request: u64,
        key: usize,
        epoch: u64,
    },
    Ended {
        pid: Pid,
        execution: u64,
    },
    /// Its lease had ended.
    LooksAnew {
        pid: Pid,
    },
    CutShort {
        pid: Pid,
    },
    Refused {
        pid: Pid,
        request: u64,
        state: StaleState,
        claim: Option<(String, u64)>,
    },
    Lied {
        pid: Pid,
        request: u64,
        claim: Option<(String, u64)>,
    },
}

/// All of it.
#[derive(Default)]
pub(crate) struct History {
    pub(crate) seen: Vec<(Moment, Seen)>,
}

impl History {
    pub(crate) fn push(&mut self, at: Moment, seen: Seen) {
        self.seen.push((at, seen));
    }

    /// The last of it up to an entry, a line each.
    pub(crate) fn tail(&self, until: usize, lines: usize, wanted: impl Fn(&Seen) -> bool) -> String {
        let seen = &self.seen[..(until + 1).min(self.seen.len())];
        let wanted: Vec<_> = seen.iter().rev().filter(|(_, seen)| wanted(seen)).take(lines).collect();
        let lines = wanted.into_iter().rev().map(|(at, seen)| format!("{:>12.3} ms  {seen:?}\n", at.as_nanos() as f64 / 1e6));
        lines.collect()
    }
}

impl Seen {
    /// Whether it has to do with a key; what has to do with none has to do with all.
    pub(crate) fn concerns(&self, wanted: usize, requests: &impl Fn(u64) -> Option<usize>) -> bool {
        match self {
            Self::InForce { key, .. }
            | Self::HintTaken { key, .. }
            | Self::Put { key, .. }
            | Self::MoveBegan { key, .. }
            | Self::MoveEnded { key, .. }
            | Self::GivenBack { key, .. }
            | Self::Sent { key, .. }
            | Self::Dispatched { key, .. }
            | Self::Parked { key, .. }
            | Self::CheckWanted { key, .. }
            | Self::CheckJoined { key, .. }
            | Self::CheckBegan { key, .. }
            | Self::CheckEnded { key, .. }
            | Self::Head { key, .. }
            | Self::Began { key, .. } => *key == wanted,
            Self::HintsGone { gone, .. } => gone.iter().any(|(key, ..)| *key == wanted),
            Self::Redirected { request }
            | Self::Answered { request, .. }
            | Self::Gone { request }
            | Self::Failed { request, .. }
            | Self::Finished { request, .. }
            | Self::Abandoned { request }
            | Self::Heard { request, .. }
            | Self::Accepted { request, .. }
            | Self::Unparked { request, .. }
            | Self::NoRoom { request }
            | Self::Spins { request, .. }
            | Self::CheckTold { request, .. }
            | Self::Refused { request, .. }
            | Self::Lied { request, .. } => requests(*request) == Some(wanted),
            Self::Announces { .. } | Self::LooksAnew { .. } | Self::CutShort { .. } | Self::Ended { .. } => true,
            Self::Rescued { .. } => true,
            Self::Killed { .. } | Self::Paused { .. } | Self::Parted { .. } | Self::Resynced { .. } | Self::MoverDied { .. } => true,
        }
    }
}
