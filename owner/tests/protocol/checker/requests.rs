//! What becomes of requests: invariants 3, 4 and 6.

use std::{collections::BTreeMap, time::Duration};

use waypost_policy::{Code, Failure, Moment, handover::TRIES};

use super::{all, fail, plan};
use crate::{
    history::Seen,
    plan::Kind,
    world::{Pid, World},
};

/// Invariant 3: what is not idempotent is executed at most once; what is, once more for each connection that may have died idle.
pub(super) fn executed_once(world: &World) {
    let mut methods: BTreeMap<u64, &str> = BTreeMap::new();
    let (mut executed, mut died): (BTreeMap<u64, u32>, BTreeMap<u64, u32>) = Default::default();
    for (at, _, seen) in all(world) {
        match seen {
            Seen::Sent { request, method, .. } => drop(methods.insert(*request, method)),
            Seen::Failed { request, failure: Failure::Reset { reused: true } } => *died.entry(*request).or_default() += 1,
            Seen::Began { request, key, .. } => {
                let executed = executed.entry(*request).or_default();
                *executed += 1;
                let most = match methods[request] {
                    "POST" => 1,
                    "GET" => u32::MAX,
                    _ => 1 + died.get(request).copied().unwrap_or(0),
                };
                if *executed > most {
                    fail(world, at, Some(*key), &format!("3: request {request} is executed for the {executed}th time"));
                }
            }
            _ => {}
        }
    }
}

#[derive(Default)]
struct Way {
    accepted: Moment,
    last: Option<(String, u64)>,
    dispatches: u32,
    asks: u32,
}

/// Invariant 4: no more than `max_hops` + 1 owners and one ask; and an end in time.
pub(super) fn bounded(world: &World) {
    let plan = plan(world);
    let mut ways: BTreeMap<u64, Way> = BTreeMap::new();
    let mut paused: BTreeMap<Pid, Moment> = BTreeMap::new();
    for (at, when, seen) in all(world) {
        match seen {
            Seen::Accepted { request, .. } => drop(ways.insert(*request, Way { accepted: when, ..Way::default() })),
            Seen::Paused { pid, by } => {
                let until = paused.entry(*pid).or_default();
                *until = (*until).max(when + *by);
            }
            Seen::Dispatched { request, key, owner, epoch, is_ask, retries, .. } => {
                let way = ways.entry(*request).or_default();
                let to = (owner.clone(), *epoch);
                if *is_ask {
                    way.asks += u32::from(way.last.as_ref() != Some(&to));
                } else if way.last.as_ref() != Some(&to) {
                    way.dispatches += 1;
                }
                way.last = Some(to);
                if way.dispatches > plan.max_hops + 1 || way.asks > 1 || *retries > 60 {
                    fail(world, at, Some(*key), &format!("4: request {request} goes on and on"));
                }
            }
            Seen::Finished { pid, request, .. } => {
                let Some(way) = ways.get(request) else { continue };
                let was_paused = paused.get(pid).is_some_and(|until| *until > way.accepted);
                let most = Duration::from_millis(if plan.total_ms > 0 { plan.total_ms + 600 } else { 20_000 });
                if !was_paused && when.since(way.accepted) > most.mul_f64(1.12) {
                    fail(world, at, None, &format!("4: request {request} took {:?}", when.since(way.accepted)));
                }
            }
            _ => {}
        }
    }
}

/// Invariant 6: while nothing breaks, and once nothing breaks any more, nobody sees an error; a move costs a request one hop at most.
pub(super) fn well_served(world: &World) {
    let plan = plan(world);
    let mut sent: BTreeMap<u64, (Moment, usize)> = BTreeMap::new();
    let mut unanswered: BTreeMap<u64, usize> = BTreeMap::new();
    // A move that was given up and tried again is another move.
    let mut most_hops: BTreeMap<&str, u32> = BTreeMap::new();
    for (_, _, seen) in all(world) {
        if let Seen::MoveEnded { key, tries, .. } = seen {
            let most = most_hops.entry(&plan.keys[*key].record).or_default();
            *most = (*most).max(tries.unwrap_or(TRIES));
        }
    }
    for (at, when, seen) in all(world) {
        match seen {
            Seen::Sent { request, key, .. } => {
                sent.insert(*request, (when, *key));
                if when >= world.all_well_from && plan.is_promised(*key) {
                    unanswered.insert(*request, *key);
                }
            }
            Seen::Gone { request } => drop(unanswered.remove(request)),
            Seen::Answered { request, status, code } => {
                unanswered.remove(request);
                let (since, key) = sent[request];
                let is_bounded = *code == Some(Code::ParkFull) && plan.room < 100;
                let must = (!plan.is_faulty || since >= world.all_well_from) && plan.is_promised(key) && !plan.has_storm;
                if must && *status != 200 && !is_bounded {
                    fail(world, at, Some(key), &format!("6: request {request} sees {status} {code:?}"));
                }
            }
            Seen::Finished { request, hops, .. } if !plan.is_faulty && !plan.has_storm => {
                let key = sent[request].1;
                let most = most_hops.get(&*plan.keys[key].record).copied().unwrap_or(0);
                if *hops > most && plan.keys[key].kind == Kind::HandedOver {
                    fail(world, at, Some(key), &format!("6: request {request} took {hops} extra hops"));
                }
            }
            Seen::MoveEnded { key, tries, why, .. } if !plan.is_faulty && *tries != Some(1) && !plan.has_storm => {
                let is_long = why.contains("still serves requests") || tries.is_some();
                if !is_long {
                    fail(world, at, Some(*key), &format!("6: a move failed: {why}"));
                }
            }
            _ => {}
        }
    }
    if let Some((request, key)) = unanswered.first_key_value() {
        fail(world, world.history.seen.len(), Some(*key), &format!("6: request {request} is not answered although all is well"));
    }
}
