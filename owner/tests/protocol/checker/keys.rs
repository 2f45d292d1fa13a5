//! What is in force of a key, whose hints there are, and who executes for it: invariants 1, 2, 7 and 8.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use waypost_watcher::record::Event;

use super::{all, fail, plan};
use crate::{
    history::{InForce, Seen, ShownRoute},
    plan::Kind,
    world::{Pid, World},
};

/// What the store has said of each record, by revision.
pub(super) struct Truth {
    records: BTreeMap<String, BTreeMap<u64, Option<ShownRoute>>>,
    newest: u64,
}

impl Truth {
    pub(super) fn of(world: &World) -> Self {
        let mut records: BTreeMap<String, BTreeMap<u64, Option<ShownRoute>>> = BTreeMap::new();
        for event in world.store.history() {
            let record = String::from_utf8(event.key().to_vec()).unwrap();
            if record.starts_with("routes/") {
                let route = match event {
                    Event::Delete { .. } => None,
                    Event::Put(stored) => {
                        let value: Value = serde_json::from_slice(&stored.value).unwrap();
                        let state = ["serving", "moving", "frozen"].into_iter().find(|state| value["state"] == *state);
                        let epoch = value["epoch"].as_u64().unwrap_or(stored.mod_revision);
                        let owner = value["owner"].as_str().unwrap().to_owned();
                        Some((owner, epoch, stored.create_revision, stored.mod_revision, state.unwrap_or("serving")))
                    }
                };
                records.entry(record).or_default().insert(event.mod_revision(), route);
            }
        }
        Self { records, newest: world.store.revision() }
    }

    /// A record as of a revision.
    fn at(&self, record: &str, revision: u64) -> Option<&ShownRoute> {
        self.records.get(record)?.range(..=revision).next_back()?.1.as_ref()
    }

    /// The first revision from this one on at which a record was so.
    fn first_from(&self, record: &str, from: u64, wanted: Option<&ShownRoute>) -> Option<u64> {
        if self.at(record, from) == wanted {
            return Some(from);
        }
        let later = self.records.get(record)?.range(from..);
        later.into_iter().find(|(_, route)| route.as_ref() == wanted).map(|(revision, _)| *revision)
    }

    /// The record's creation in which it ever was an owner's at an epoch.
    fn created(&self, record: &str, owner: &str, epoch: u64) -> Option<u64> {
        let ever = self.records.get(record)?.values().flatten();
        ever.into_iter().find(|(its_owner, its_epoch, ..)| its_owner == owner && *its_epoch == epoch).map(|route| route.2)
    }
}

/// What one process knows of one key.
#[derive(Default)]
struct View {
    shown: Option<InForce>,
    /// It has shown the store as of this revision at least.
    reflects: u64,
    hint: Option<u64>,
    /// The creation, epoch and revision of a true hint: from then on no request is sent at an older one.
    floor: Option<(u64, u64, u64)>,
}

/// Invariants 1 and 8: what is in force is what the store had at a revision, and revisions and epochs only go up.
pub(super) fn epochs_and_reads(world: &World, truth: &Truth) {
    let mut views: BTreeMap<(Pid, usize), View> = BTreeMap::new();
    let mut retries_of: BTreeMap<u64, u32> = BTreeMap::new();
    for (at, _, seen) in all(world) {
        match seen {
            Seen::InForce { pid, key, revision, shown } => {
                let record = &plan(world).keys[*key].record;
                let view = views.entry((*pid, *key)).or_default();
                let from = view.reflects.max(*revision);
                let reflects = match shown.is_read_ahead {
                    true => truth.first_from(record, from, shown.route.as_ref()),
                    false => (view.reflects <= *revision && truth.at(record, *revision) == shown.route.as_ref()).then_some(*revision),
                };
                let Some(reflects) = reflects else {
                    let (known, newest) = (view.reflects, truth.newest);
                    fail(world, at, Some(*key), &format!("8: not what the store had between {known} and {newest}: {shown:?} at {revision}"))
                };
                view.reflects = reflects;
                if let (Some(InForce { route: Some(before), .. }), Some(after)) = (&view.shown, &shown.route)
                    && before.2 == after.2
                    && after.1 < before.1
                {
                    fail(world, at, Some(*key), &format!("1: the epoch in force went down: {before:?} {after:?}"));
                }
                view.shown = Some(shown.clone());
            }
            Seen::HintTaken { pid, key, owner, epoch, revision, .. } => {
                let record = &plan(world).keys[*key].record;
                let view = views.entry((*pid, *key)).or_default();
                let known = view.shown.as_ref().and_then(|shown| shown.route.as_ref()).map_or(0, |route| route.1);
                if *epoch <= known.max(view.hint.unwrap_or(0)) {
                    fail(world, at, Some(*key), "1: a hint that does not advance what is known was taken");
                }
                view.hint = Some(*epoch);
                if let Some(created) = truth.created(record, owner, *epoch) {
                    view.floor = Some((created, *epoch, *revision));
                }
            }
            Seen::HintsGone { pid, gone, .. } => {
                for (key, _, epoch, _) in gone {
                    let hint = &mut views.entry((*pid, *key)).or_default().hint;
                    *hint = hint.filter(|hint| hint != epoch);
                }
            }
            Seen::Dispatched { pid, request, key, epoch, revision, retries, is_ask, .. } => {
                let is_repeat = retries_of.insert(*request, *retries).unwrap_or(0) != *retries;
                let view = views.entry((*pid, *key)).or_default();
                if is_repeat || *is_ask {
                    continue;
                }
                let Some(shown) = &view.shown else { continue };
                let in_table = shown.route.as_ref();
                if let Some((created, ..)) = view.floor {
                    let is_past = match in_table {
                        Some(route) => route.2 > created,
                        None => view.floor.is_some_and(|(.., hinted_at)| *revision >= hinted_at || shown.is_read_ahead),
                    };
                    view.floor = view.floor.filter(|_| !is_past);
                }
                let least = view.floor.map_or(0, |(_, epoch, _)| epoch).max(in_table.map_or(0, |route| route.1));
                if *epoch < least {
                    fail(world, at, Some(*key), &format!("1: sent at epoch {epoch} where {least} was known"));
                }
            }
            Seen::Accepted { request, .. } => drop(retries_of.remove(request)),
            _ => {}
        }
    }
}

/// Invariant 7: a true hint is never refuted, a false one always, and counted; none stays.
pub(super) fn hints(world: &World, truth: &Truth) {
    let mut kept: BTreeSet<(Pid, usize)> = BTreeSet::new();
    for (at, _, seen) in all(world) {
        match seen {
            Seen::HintTaken { pid, key, owner, epoch, .. } => {
                let of = &plan(world).keys[*key];
                let is_true = truth.created(&of.record, owner, *epoch).is_some();
                if !is_true && of.kind != Kind::False {
                    fail(world, at, Some(*key), "7: a hint that no false owner can have given is false");
                }
                kept.insert((*pid, *key));
            }
            Seen::HintsGone { pid, gone, refuted } => {
                let of = |key: &usize| &plan(world).keys[*key];
                let is_false = |key: &usize, owner: &str, epoch: u64| truth.created(&of(key).record, owner, epoch).is_none();
                let false_ones: Vec<_> = gone.iter().filter(|(key, owner, epoch, _)| is_false(key, owner, *epoch)).collect();
                let must = false_ones.iter().filter(|(.., is_replaced)| !is_replaced).count() as u64;
                let key = gone.first().map(|(key, ..)| *key);
                if *refuted > false_ones.len() as u64 {
                    fail(world, at, key, "7: a true hint was refuted");
                }
                if *refuted < must {
                    fail(world, at, key, "7: a false hint went without being refuted");
                }
                for (key, _, _, is_replaced) in gone {
                    if !is_replaced {
                        kept.remove(&(*pid, *key));
                    }
                }
            }
            Seen::Killed { pid } => kept.retain(|(of, _)| of != pid),
            Seen::Dispatched { key, is_in_table: false, .. } => {
                fail(world, at, Some(*key), "7: an address was dialled that is not in the table")
            }
            _ => {}
        }
    }
    if let Some((pid, key)) = kept.first() {
        fail(world, world.history.seen.len(), Some(*key), &format!("7: a hint of proxy {pid} has never ended"));
    }
}

/// Invariant 2: no two owners execute for one record at once, where it changes only by handovers.
pub(super) fn exclusion(world: &World) {
    let mut running: BTreeMap<(Pid, u64), (usize, String)> = BTreeMap::new();
    for (at, _, seen) in all(world) {
        match seen {
            Seen::Began { pid, upstream, execution, key, .. } => {
                let of = &plan(world).keys[*key];
                let same = |other: &usize| plan(world).keys[*other].record == of.record;
                let other = running.iter().find(|(_, (other, owner))| same(other) && owner != upstream);
                if let Some(((other, number), (key_there, owner))) = other.filter(|_| of.kind == Kind::HandedOver) {
                    let what = format!("2: {upstream} executes while process {other} of {owner} does ({number}, key {key_there})");
                    fail(world, at, Some(*key), &what);
                }
                running.insert((*pid, *execution), (*key, upstream.clone()));
            }
            Seen::Ended { pid, execution } => drop(running.remove(&(*pid, *execution))),
            Seen::Killed { pid } => running.retain(|(of, _), _| of != pid),
            _ => {}
        }
    }
}
