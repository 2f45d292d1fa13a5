//! Movers: processes that drive `policy::handover::Move`, as it is shipped, against the store. They may die at any step.

use std::{collections::BTreeMap, time::Duration};

use waypost_conf::{Record, RecordKey, Route, decode};
use waypost_policy::handover::{Announcement, Effect, Input, Instances, Known, Move, Moved, Plan, given_back};
use waypost_watcher::record::Stored;

use crate::{
    history::Seen,
    leased::Leased,
    store::STATE,
    world::{Pid, World},
};

/// How long one call to the store may take.
pub(crate) const CALL_LIMIT: Duration = Duration::from_secs(5);
/// How long a move's mark outlives its mover.
const MARKED_FOR: Duration = Duration::from_secs(2);

/// All of them.
#[derive(Default)]
pub(crate) struct Movers {
    pub(crate) by_pid: BTreeMap<Pid, Mover>,
}

pub(crate) struct Mover {
    machine: Move,
    key: usize,
    pub(crate) leased: Leased,
    mark: String,
    is_marking: bool,
    pub(crate) has_ended: bool,
}

impl World {
    /// Begins to move a key to another upstream.
    pub(crate) fn move_key(&mut self, key: usize, to: &str) -> Pid {
        let pid = self.start_process();
        let id = format!("m{pid}");
        let record = self.plan.keys[key].record.clone();
        let key_of_record = RecordKey::parse(record.as_bytes()).unwrap();
        let covers_many = self.plan.keys[key].name.as_bytes() != record.rsplit('/').next().unwrap().as_bytes();
        let to = to.try_into().unwrap();
        let plan = Plan { key: key_of_record, from: None, to, id: id.clone(), covers_many, force: false, assume_dead: Vec::new() };
        let mark = serde_json::json!({ "key": record, "to": plan.to }).to_string();
        let leased = Leased::new(format!("{STATE}moves/{id}"), MARKED_FOR);
        self.seen(Seen::MoveBegan { pid, key, to: plan.to.to_string() });
        let machine = Move::new(plan);
        self.movers.by_pid.insert(pid, Mover { machine, key, leased, mark, is_marking: false, has_ended: false });
        self.within(pid, Duration::ZERO, move |world| world.step_mover(pid, Input::Woke));
        pid
    }

    fn step_mover(&mut self, pid: Pid, input: Input<'_>) {
        let now = self.local(pid);
        let mover = self.movers.by_pid.get_mut(&pid).unwrap();
        let effect = mover.machine.step(input, now);
        let record = self.plan.keys[mover.key].record.clone();
        if self.fault(8) {
            self.seen(Seen::MoverDied { pid });
            self.kill(pid);
        }
        match effect {
            Effect::Mark => {
                let mover = self.movers.by_pid.get_mut(&pid).unwrap();
                mover.is_marking = true;
                let (mark, is_written) = (mover.mark.clone(), mover.leased.is_written());
                if is_written {
                    self.marked(pid);
                } else {
                    self.set_leased(pid, mark);
                }
            }
            Effect::Read => self.call(
                pid,
                CALL_LIMIT,
                move |world| world.store.get(&record).map(|stored| known(&stored)),
                move |world, read| {
                    world.step_mover(pid, read.map_or_else(failed, Input::Read));
                },
            ),
            Effect::LookForMark(of) => {
                let look = move |world: &mut Self| world.store.get(&format!("{STATE}moves/{of}")).is_some();
                self.call(pid, CALL_LIMIT, look, move |world, found| world.step_mover(pid, found.map_or_else(failed, Input::Mark)));
            }
            Effect::Look(owner) => {
                let look = move |world: &mut Self| world.announcements(&owner);
                self.call(pid, CALL_LIMIT, look, move |world, found| match found {
                    Some(instances) => world.step_mover(pid, Input::Saw(&instances)),
                    None => world.step_mover(pid, failed()),
                });
            }
            Effect::Swap { route, read_at } => {
                let swap = move |world: &mut Self| world.swap(&record, &route, read_at);
                self.call(pid, CALL_LIMIT, swap, move |world, swapped| {
                    world.step_mover(pid, how_it_ended(swapped));
                });
            }
            Effect::Sleep(at) => self.at_local(pid, at, move |world| world.step_mover(pid, Input::Woke)),
            Effect::End(outcome) => {
                self.let_lease_go(pid);
                let mover = self.movers.by_pid.get_mut(&pid).unwrap();
                mover.has_ended = true;
                let key = mover.key;
                let (tries, why) = match outcome {
                    Ok(Moved { tries, .. }) => (Some(tries), String::new()),
                    Err(why) => (None, why),
                };
                self.seen(Seen::MoveEnded { pid, key, tries, why });
            }
        }
    }

    /// The mark is in the store.
    pub(crate) fn marked(&mut self, pid: Pid) {
        let mover = self.movers.by_pid.get_mut(&pid).unwrap();
        if std::mem::take(&mut mover.is_marking) {
            self.step_mover(pid, Input::Marked);
        }
    }

    fn announcements(&self, owner: &str) -> Instances {
        let start = format!("{STATE}owners/{owner}/");
        let found = self.store.list(&start).into_iter();
        found.map(|stored| (String::from_utf8_lossy(&stored.key[start.len()..]).into_owned(), announcement(&stored))).collect()
    }

    pub(crate) fn swap(&mut self, record: &str, route: &Route, read_at: u64) -> Option<u64> {
        let value = Record::Route(route.clone()).to_json().to_string();
        let revision = self.store.swap(record, &value, read_at);
        self.written();
        revision
    }

    /// `waypost route move --abort`: gives a key back that nobody moves any more.
    pub(crate) fn abort(&mut self, key: usize) {
        let record = self.plan.keys[key].record.clone();
        let Some(Known { route, revision }) = self.store.get(&record).map(|stored| known(&stored)) else { return };
        if matches!(route.state, waypost_conf::RouteState::Frozen { .. }) {
            let is_done = self.swap(&record, &given_back(&route), revision).is_some();
            self.seen(Seen::GivenBack { key, is_done });
        }
    }

    /// Whether anybody moves a key now.
    pub(crate) fn is_being_moved(&self, key: usize) -> bool {
        let record = &self.plan.keys[key].record;
        let mut movers = self.movers.by_pid.iter();
        movers.any(|(pid, mover)| !mover.has_ended && self.is_alive(*pid) && self.plan.keys[mover.key].record == *record)
    }
}

/// A call that was not answered.
pub(crate) fn failed<'a>() -> Input<'a> {
    Input::Failed("no answer".to_owned())
}

/// How a compare and swap ended: with a revision, by losing, or without an answer.
pub(crate) fn how_it_ended<'a>(swapped: Option<Option<u64>>) -> Input<'a> {
    match swapped {
        Some(Some(revision)) => Input::Swapped(revision),
        Some(None) => Input::Lost,
        None => Input::Unsure("no answer".to_owned()),
    }
}

fn announcement(stored: &Stored) -> Announcement {
    serde_json::from_slice(&stored.value).unwrap_or_default()
}

/// A route as the store has it.
pub(crate) fn known(stored: &Stored) -> Known {
    let key = RecordKey::parse(&stored.key).unwrap();
    let Record::Route(route) = decode(&key, &stored.value).unwrap().record else { panic!("{key} is no route") };
    Known { route, revision: stored.mod_revision }
}
