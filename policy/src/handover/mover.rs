//! One key's move, step by step: mark, read, freeze, wait until the old owner has let go, commit.
//!
//! Each step asks for one effect and is told how it ended. A key that a mover of before has left frozen is taken over as it is, once that
//! one's mark has gone: its freeze counts, and so does what its owners have said of it. Two movers at one key exclude each other by
//! compare and swap; whoever loses looks again.

use std::{collections::BTreeMap, time::Duration};

use waypost_conf::{Name, RecordKey, Route, RouteState};

use super::{Announcement, Effect, Input, Known, given_back, serving_next};
use crate::Moment;

/// How long the old owner may take to let go; below `park_ms`, so that the clients that wait meanwhile are served.
pub const LET_GO_LIMIT: Duration = Duration::from_millis(500);
/// How often a key is frozen before the move is given up, ...
pub const TRIES: u32 = 3;
/// ... and the pause between.
const PAUSE: Duration = Duration::from_millis(500);
/// How often it is looked whether the owner has let go, ...
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// ... and how soon again after the store could not be read.
const AFTER_A_FAULT: Duration = Duration::from_millis(50);
/// How long another mover is waited for, and how often it is looked for. A dead one's mark outlives it by two or three seconds.
const OTHER_MOVER_LIMIT: Duration = Duration::from_secs(5);
const OTHER_MOVER_EVERY: Duration = Duration::from_millis(100);
/// So many answers that did not come are asked for again.
const UNSURE_LIMIT: u32 = 3;

/// What the instances of an upstream have announced, by their ids. One that is known, but says nothing, has the default.
pub type Instances = BTreeMap<String, Announcement>;

/// What is to be moved, and how.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The record: `routes/<service>/<key>`.
    pub key: RecordKey,
    /// Whose it has to be; `None`: whose it is.
    pub from: Option<Name>,
    /// Who is to own it.
    pub to: Name,
    /// The mover's id, by which its mark is named; no two movers have the same.
    pub id: String,
    /// Whether the record covers more routing keys than its own (slots, ranges).
    pub covers_many: bool,
    /// Whether the key is moved although no instance of the old owner has announced itself.
    pub force: bool,
    /// Instances of the old owner that are known to be dead, whatever they have announced.
    pub assume_dead: Vec<String>,
}

/// A move that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Who owned the key before.
    pub from: Name,
    /// The revision of the commit.
    pub revision: u64,
    /// How often the key was frozen, or found frozen.
    pub tries: u32,
    /// Whether a mover of before had frozen it.
    pub taken_over: bool,
    /// The freeze, the wait, and the commit of the last try. Together: how long clients may have waited, unless it was taken over.
    pub took: [Duration; 3],
}

/// One key's move.
#[derive(Debug)]
pub struct Move {
    plan: Plan,
    state: State,
    tries: u32,
    /// Answers of the store that did not come.
    unsure: u32,
    /// Since when another mover is waited for.
    other_since: Option<Moment>,
    taken_over: bool,
}

#[derive(Debug)]
enum State {
    Begins,
    Marking,
    Reading,
    LookingForMark {
        known: Known,
        of: String,
    },
    Freezing {
        frozen: Route,
        began: Moment,
    },
    Looking(Frozen),
    Committing(Frozen, Moment),
    GivingBack(Frozen, String),
    /// A commit, or giving back, was not answered: the record is read.
    Checking(Frozen, Wrote),
    /// Sleeps, then looks again.
    Resting(Frozen),
    RestingUnsure(Frozen, Wrote),
    Ended,
}

#[derive(Debug)]
enum Wrote {
    /// The new owner, and when the old one had let go.
    Commit(Moment),
    /// The old owner, and why.
    Back(String),
}

/// A key that is frozen.
#[derive(Debug)]
struct Frozen {
    known: Known,
    /// When the freeze was asked for, and when it was there.
    began: Moment,
    froze: Moment,
    /// The instances of the old owner that have been seen meanwhile, and whether the end of their lease is their word.
    met: BTreeMap<String, bool>,
}

type Asks = Effect<Result<Moved, String>>;

impl Move {
    /// A move that has not begun.
    pub fn new(plan: Plan) -> Self {
        Self { plan, state: State::Begins, tries: 0, unsure: 0, other_since: None, taken_over: false }
    }

    /// What is moved.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Says how what was asked for has ended; the first time [`Input::Woke`]. What is to be done next.
    pub fn step(&mut self, input: Input<'_>, now: Moment) -> Asks {
        let state = std::mem::replace(&mut self.state, State::Ended);
        match (state, input) {
            (State::Begins, Input::Woke) => self.ask(State::Marking, Effect::Mark),
            (State::Marking, Input::Marked) => self.ask(State::Reading, Effect::Read),
            (State::Reading, Input::Read(known)) => self.consider(known, now),
            (State::LookingForMark { known, of }, Input::Mark(is_there)) => self.meet_other(known, &of, is_there, now),
            (State::Freezing { frozen, began }, Input::Swapped(revision)) => {
                self.look(Frozen { known: Known { route: frozen, revision }, began, froze: now, met: BTreeMap::new() })
            }
            (State::Freezing { .. }, Input::Lost) => self.try_again("somebody else changed it meanwhile", now),
            (State::Freezing { .. }, Input::Unsure(why)) => match self.may_ask_again() {
                true => self.ask(State::Reading, Effect::Read),
                false => self.fail(&why),
            },
            (State::Looking(frozen), Input::Saw(instances)) => self.saw(frozen, instances, now),
            (State::Looking(frozen), Input::Failed(why)) => self.not_let_go(frozen, &why, AFTER_A_FAULT, now),
            (State::Resting(frozen), Input::Woke) => self.look(frozen),
            (State::Committing(frozen, let_go), Input::Swapped(revision)) => self.done(&frozen, let_go, revision, now),
            (State::Committing(..), Input::Lost) => self.try_again("somebody else gave it back meanwhile", now),
            (State::Committing(frozen, let_go), Input::Unsure(why)) => self.check(frozen, Wrote::Commit(let_go), &why),
            (State::Committing(frozen, _), Input::Failed(why)) => self.give_back(frozen, why),
            (State::GivingBack(_, why), Input::Swapped(_) | Input::Lost) => self.try_again(&why, now),
            (State::GivingBack(frozen, why), Input::Unsure(fault)) => self.check(frozen, Wrote::Back(why), &fault),
            (State::GivingBack(_, why), Input::Failed(fault)) => self.left_frozen(&why, &fault),
            (State::Checking(frozen, wrote), Input::Read(known)) => self.checked(frozen, wrote, known, now),
            (State::Checking(frozen, wrote), Input::Failed(why)) => match self.may_ask_again() {
                true => self.ask(State::RestingUnsure(frozen, wrote), Effect::Sleep(now + PAUSE)),
                false => self.left_frozen("whether it was moved is not known", &why),
            },
            (State::RestingUnsure(frozen, wrote), Input::Woke) => self.ask(State::Checking(frozen, wrote), Effect::Read),
            (_, Input::Failed(why) | Input::Unsure(why)) => self.fail(&why),
            (state, input) => self.fail(&format!("it was in {state:?} and was told {input:?}")),
        }
    }

    fn ask(&mut self, next: State, effect: Asks) -> Asks {
        self.state = next;
        effect
    }

    fn fail(&mut self, why: &str) -> Asks {
        Effect::End(Err(format!("{} was not moved: {why}", self.plan.key)))
    }

    fn left_frozen(&mut self, why: &str, fault: &str) -> Asks {
        let Plan { key, .. } = &self.plan;
        Effect::End(Err(format!("{key}: {why}, and {fault}; if it is left frozen, its owner takes it back within seconds")))
    }

    fn may_ask_again(&mut self) -> bool {
        self.unsure += 1;
        self.unsure <= UNSURE_LIMIT
    }

    /// The record as it is before it is frozen.
    fn consider(&mut self, known: Option<Known>, now: Moment) -> Asks {
        let Some(known) = known else { return Effect::End(Err(format!("there is no {}", self.plan.key))) };
        let Plan { to, from, .. } = &self.plan;
        let owner = &known.route.owner;
        if known.route.state == RouteState::Serving && owner == to {
            if self.unsure == 0 {
                return self.fail(&format!("it belongs to {to} already"));
            }
            // A commit of ours that was not answered; or another mover's, which comes to the same.
            let (from, revision) = (from.clone().unwrap_or_else(|| to.clone()), known.revision);
            return Effect::End(Ok(Moved { from, revision, tries: self.tries, taken_over: self.taken_over, took: [Duration::ZERO; 3] }));
        }
        if from.as_ref().is_some_and(|from| from != owner) {
            return self.fail(&format!("it belongs to {owner} by now"));
        }
        match &known.route.state {
            RouteState::Frozen { move_id: Some(of), .. } if *of != self.plan.id => {
                let of = of.clone();
                self.ask(State::LookingForMark { known, of: of.clone() }, Effect::LookForMark(of))
            }
            RouteState::Frozen { .. } => self.take_over(known, now),
            RouteState::Serving | RouteState::Moving { .. } => {
                self.tries += 1;
                let state = RouteState::Frozen { move_id: Some(self.plan.id.clone()), target: Some(to.clone()) };
                let frozen = Route { state, ..known.route };
                let freeze = Effect::Swap { route: frozen.clone(), read_at: known.revision };
                self.ask(State::Freezing { frozen, began: now }, freeze)
            }
        }
    }

    /// Another mover has frozen the key: it is waited for while its mark is there.
    fn meet_other(&mut self, known: Known, of: &str, is_there: bool, now: Moment) -> Asks {
        if !is_there {
            return self.take_over(known, now);
        }
        let since = *self.other_since.get_or_insert(now);
        if now.since(since) >= OTHER_MOVER_LIMIT {
            return self.fail(&format!("another mover, {of}, has frozen it and is alive"));
        }
        self.ask(State::Begins, Effect::Sleep(now + OTHER_MOVER_EVERY))
    }

    fn take_over(&mut self, known: Known, now: Moment) -> Asks {
        self.tries += 1;
        self.taken_over = true;
        self.look(Frozen { known, began: now, froze: now, met: BTreeMap::new() })
    }

    fn look(&mut self, frozen: Frozen) -> Asks {
        let look = Effect::Look(frozen.known.route.owner.clone());
        self.ask(State::Looking(frozen), look)
    }

    fn saw(&mut self, mut frozen: Frozen, instances: &Instances, now: Moment) -> Asks {
        let held = self.holding(&frozen, instances);
        frozen.met.extend(instances.iter().map(|(id, announced)| (id.clone(), announced.ends_with_lease)));
        if held.is_empty() {
            let commit = Effect::Swap { route: serving_next(&frozen.known.route, &self.plan.to), read_at: frozen.known.revision };
            return self.ask(State::Committing(frozen, now), commit);
        }
        self.not_let_go(frozen, &held.join(", "), LOOK_EVERY, now)
    }

    fn not_let_go(&mut self, frozen: Frozen, by: &str, again: Duration, now: Moment) -> Asks {
        if now.since(frozen.froze) < LET_GO_LIMIT {
            return self.ask(State::Resting(frozen), Effect::Sleep(now + again));
        }
        let why = format!("it was not let go within {LET_GO_LIMIT:?} by {}'s {by}", frozen.known.route.owner);
        self.give_back(frozen, why)
    }

    fn give_back(&mut self, frozen: Frozen, why: String) -> Asks {
        let Known { route, revision } = &frozen.known;
        let back = Effect::Swap { route: given_back(route), read_at: *revision };
        self.ask(State::GivingBack(frozen, why), back)
    }

    fn try_again(&mut self, why: &str, now: Moment) -> Asks {
        if self.tries < TRIES {
            return self.ask(State::Begins, Effect::Sleep(now + PAUSE));
        }
        let key = &self.plan.key;
        Effect::End(Err(format!("{key} was not moved: {why}; it was given back {} times, and stays where it was", self.tries)))
    }

    fn done(&mut self, frozen: &Frozen, let_go: Moment, revision: u64, now: Moment) -> Asks {
        let took = [frozen.froze.since(frozen.began), let_go.since(frozen.froze), now.since(let_go)];
        let from = frozen.known.route.owner.clone();
        Effect::End(Ok(Moved { from, revision, tries: self.tries, taken_over: self.taken_over, took }))
    }

    fn check(&mut self, frozen: Frozen, wrote: Wrote, why: &str) -> Asks {
        match self.may_ask_again() {
            true => self.ask(State::Checking(frozen, wrote), Effect::Read),
            false => self.left_frozen("whether it was moved is not known", why),
        }
    }

    /// What became of a write that was not answered. Where nothing became of it, it is written again: on the same revision, so that the
    /// first can't come after it.
    fn checked(&mut self, frozen: Frozen, wrote: Wrote, known: Option<Known>, now: Moment) -> Asks {
        let is_as_it_was = known.as_ref().is_some_and(|known| known.revision == frozen.known.revision);
        match (wrote, known) {
            (Wrote::Commit(let_go), Some(_)) if is_as_it_was => {
                let commit = Effect::Swap { route: serving_next(&frozen.known.route, &self.plan.to), read_at: frozen.known.revision };
                self.ask(State::Committing(frozen, let_go), commit)
            }
            (Wrote::Back(why), Some(_)) if is_as_it_was => self.give_back(frozen, why),
            (Wrote::Commit(let_go), Some(known)) if known.route.owner == self.plan.to => self.done(&frozen, let_go, known.revision, now),
            (Wrote::Commit(_), _) => self.try_again("somebody else gave it back meanwhile", now),
            (Wrote::Back(why), _) => self.try_again(&why, now),
        }
    }

    /// The instances that have not let the key go, or may not have: each with its reason.
    fn holding(&self, frozen: &Frozen, instances: &Instances) -> Vec<String> {
        let is_dead = |id: &String| self.plan.assume_dead.contains(id);
        let living = instances.iter().filter(|(id, _)| !is_dead(id));
        let mut held: Vec<String> =
            living.filter_map(|(id, announced)| Some(format!("{id} ({})", self.holds(announced, frozen.known.revision)?))).collect();
        // An announcement that went may have gone with its lease: its process may be paused.
        let gone = frozen.met.iter().filter(|(id, ends)| !**ends && !instances.contains_key(*id) && !is_dead(id));
        held.extend(gone.map(|(id, _)| format!("{id} (its announcement has gone)")));
        let nobody_speaks = instances.is_empty() && frozen.met.is_empty() && self.plan.assume_dead.is_empty();
        if nobody_speaks && !self.plan.force {
            held.push("processes, none of which has announced itself".to_owned());
        }
        held
    }

    fn holds(&self, announced: &Announcement, frozen_at: u64) -> Option<&'static str> {
        let RecordKey::Route { service, key } = &self.plan.key else { return None };
        let key = String::from_utf8_lossy(key);
        // Where one record covers many keys, who names no record may mean this one.
        let is_covered = |busy: &super::BusyKey| match &busy.record {
            Some(record) => *record == *key,
            None => self.plan.covers_many || *busy.key == *key,
        };
        match announced.applied < frozen_at {
            true => Some("has not heard of it"),
            false => announced.busy.iter().any(|busy| *busy.service == **service && is_covered(busy)).then_some("still serves requests"),
        }
    }
}

#[cfg(test)]
mod tests;
