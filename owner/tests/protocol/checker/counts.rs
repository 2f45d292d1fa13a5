//! What courses had. Something that no course has is not tested, so each of these must be met.

use std::{collections::BTreeMap, fmt};

use waypost_policy::{Code, Failure, Found, wire::StaleState};

use crate::{history::Seen, plan::Kind, world::World};

/// In how many courses each was met.
#[derive(Debug, Default)]
pub(crate) struct Counts(BTreeMap<&'static str, u64>);

/// All that is to be met.
const WANTED: [&str; 39] = [
    "no faults",
    "a false owner",
    "a storm",
    "a follow",
    "two hops",
    "an ask",
    "a behind",
    "a handoff",
    "a moved",
    "a parked request",
    "a park time-out",
    "no room",
    "a hint",
    "a refuted hint",
    "a check",
    "a shared check",
    "a capped check",
    "an unavailable check",
    "a read ahead of the watch",
    "a redirect",
    "an unhealed request",
    "a move",
    "a move of a range",
    "an aborted move",
    "a dead mover",
    "a key given back",
    "a key taken back by its owner",
    "a busy key announced",
    "a dead owner",
    "a dead proxy",
    "a lease that ended",
    "a request cut short",
    "a paused process",
    "a partition",
    "a resync",
    "a connection that died idle",
    "a connect time-out",
    "no first byte",
    "a client that went away",
];

impl Counts {
    pub(crate) fn of(world: &World) -> Self {
        let mut counts = Self::default();
        let plan = &world.plan;
        counts.note(!plan.is_faulty, "no faults");
        counts.note(plan.keys.iter().any(|key| key.kind == Kind::False), "a false owner");
        counts.note(plan.has_storm, "a storm");
        for (_, seen) in &world.history.seen {
            for what in met(world, seen) {
                counts.note(true, what);
            }
        }
        counts
    }

    fn note(&mut self, is_met: bool, what: &'static str) {
        if is_met {
            self.0.insert(what, 1);
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (what, count) in &other.0 {
            *self.0.entry(what).or_default() += count;
        }
    }

    /// Everything that is to be met was.
    pub(crate) fn nothing_is_missing(&self) {
        let missing: Vec<_> = WANTED.iter().filter(|what| !self.0.contains_key(*what)).collect();
        assert!(missing.is_empty(), "no course had {missing:?}: {self}");
        let unknown: Vec<_> = self.0.keys().filter(|what| !WANTED.contains(what)).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }
}

fn met(world: &World, seen: &Seen) -> Vec<&'static str> {
    let what = match seen {
        Seen::Finished { hops, code, .. } => {
            let by_code = match code {
                Some(Code::ParkTimeout) => Some("a park time-out"),
                Some(Code::StaleUnhealed) => Some("an unhealed request"),
                _ => None,
            };
            let follow = (*hops > 0).then_some("a follow");
            return [by_code, follow, (*hops > 1).then_some("two hops")].into_iter().flatten().collect();
        }
        Seen::Refused { state, .. } => match state {
            StaleState::Moved => "a moved",
            StaleState::Handoff => "a handoff",
            StaleState::Behind => "a behind",
            StaleState::Ask | StaleState::Unknown => return Vec::new(),
        },
        Seen::Dispatched { is_ask: true, .. } => "an ask",
        Seen::Parked { .. } => "a parked request",
        Seen::NoRoom { .. } => "no room",
        Seen::HintTaken { .. } => "a hint",
        Seen::HintsGone { refuted, .. } if *refuted > 0 => "a refuted hint",
        Seen::CheckBegan { .. } => "a check",
        Seen::CheckJoined { .. } => "a shared check",
        Seen::CheckTold { found: Found::Capped, .. } => "a capped check",
        Seen::CheckTold { found: Found::Unavailable, .. } => "an unavailable check",
        Seen::InForce { shown, .. } if shown.is_read_ahead => "a read ahead of the watch",
        Seen::Redirected { .. } => "a redirect",
        Seen::MoveEnded { tries: Some(_), key, .. } if world.plan.keys[*key].service == "ranges" => {
            return vec!["a move", "a move of a range"];
        }
        Seen::MoveEnded { tries: Some(_), .. } => "a move",
        Seen::MoveEnded { tries: None, .. } => "an aborted move",
        Seen::MoverDied { .. } => "a dead mover",
        Seen::GivenBack { is_done: true, .. } => "a key given back",
        Seen::Rescued { is_given_back: true, .. } => "a key taken back by its owner",
        Seen::Announces { busy, .. } if *busy > 0 => "a busy key announced",
        Seen::Killed { pid } if world.instances.contains_key(pid) => "a dead owner",
        Seen::Killed { pid } if world.proxies.contains_key(pid) => "a dead proxy",
        Seen::LooksAnew { .. } => "a lease that ended",
        Seen::CutShort { .. } => "a request cut short",
        Seen::Paused { .. } => "a paused process",
        Seen::Parted { .. } => "a partition",
        Seen::Resynced { .. } => "a resync",
        Seen::Failed { failure: Failure::Reset { reused: true }, .. } => "a connection that died idle",
        Seen::Failed { failure: Failure::ConnectTimeout, .. } => "a connect time-out",
        Seen::Failed { failure: Failure::FirstByteTimeout, .. } => "no first byte",
        Seen::Gone { .. } => "a client that went away",
        _ => return Vec::new(),
    };
    vec![what]
}

impl fmt::Display for Counts {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts: Vec<String> = WANTED.iter().map(|what| format!("{what} {}", self.0.get(what).copied().unwrap_or(0))).collect();
        out.write_str(&counts.join(", "))
    }
}
