//! What proxies hold and ask for: invariants 5 and 9, and that `behind` asks the store nothing.

use std::{collections::BTreeMap, time::Duration};

use waypost_policy::{
    Found, Moment,
    checks::{CHECK_BURST, CHECK_TIMEOUT, CHECKS_PER_SECOND},
    exchange::BEHIND_LIMIT,
    wire::StaleState,
};

use super::{all, fail, plan};
use crate::{
    history::Seen,
    plan::Kind,
    world::{Pid, World},
};

/// Invariant 9: at the end nobody waits, no place is taken and no slot held.
pub(super) fn nothing_is_left(world: &mut World) {
    let living: Vec<Pid> = world.proxies.keys().copied().filter(|pid| world.is_alive(*pid)).collect();
    for pid in living {
        let proxy = &world.proxies[&pid];
        let left = (proxy.requests.len(), proxy.parking.len(), proxy.parking.bytes());
        let in_flight: u32 = proxy
            .watching
            .table
            .iter()
            .flat_map(|table| table.upstreams())
            .flat_map(|it| &it.endpoints)
            .map(|it| it.state.in_flight())
            .sum();
        if left != (0, 0, 0) || in_flight > 0 {
            let requests: Vec<u64> = proxy.requests.keys().copied().collect();
            let what = format!("9: proxy {pid} still has {left:?} requests, places and bytes, and {in_flight} in flight: {requests:?}");
            fail(world, world.history.seen.len(), None, &what);
        }
    }
}

/// Invariant 5: one read a key, no more than may be, and whoever asked is told what the read found.
pub(super) fn checks(world: &World) {
    let mut under_way: BTreeMap<(Pid, usize), Moment> = BTreeMap::new();
    let mut ended: BTreeMap<(Pid, usize), (Moment, Found)> = BTreeMap::new();
    let mut began: BTreeMap<Pid, Vec<Moment>> = BTreeMap::new();
    let mut wanted: BTreeMap<u64, (Pid, usize)> = BTreeMap::new();
    let mut behind: BTreeMap<u64, (Moment, bool)> = BTreeMap::new();
    let mut sent_to: BTreeMap<u64, (String, u64)> = BTreeMap::new();
    // Clocks may be a tenth faster.
    let most = |within: Duration| CHECK_BURST as f64 + 1.0 + within.as_secs_f64() * 1.11 * CHECKS_PER_SECOND as f64;
    for (at, when, seen) in all(world) {
        match seen {
            Seen::CheckBegan { pid, key, .. } => {
                if under_way.insert((*pid, *key), when).is_some() {
                    fail(world, at, Some(*key), "5: two reads of one key at once");
                }
                let began = began.entry(*pid).or_default();
                began.push(when);
                if let Some((count, since)) =
                    began.iter().rev().enumerate().find(|(count, since)| *count as f64 + 1.0 > most(when.since(**since)))
                {
                    fail(world, at, None, &format!("5: {} reads within {:?}", count + 1, when.since(*since)));
                }
            }
            Seen::CheckEnded { pid, key, found } => {
                let Some(since) = under_way.remove(&(*pid, *key)) else { fail(world, at, Some(*key), "5: an answer without a read") };
                if when.since(since) > CHECK_TIMEOUT.mul_f64(2.3) && !is_paused(world, *pid, since) {
                    fail(world, at, Some(*key), "5: a read took too long");
                }
                ended.insert((*pid, *key), (when, *found));
            }
            Seen::CheckWanted { pid, request, key } => {
                wanted.insert(*request, (*pid, *key));
                let since = behind.get(request).filter(|(_, is_last)| *is_last).map(|(since, _)| *since);
                if since.is_some_and(|since| when.since(since) < BEHIND_LIMIT.mul_f64(0.9)) {
                    fail(world, at, Some(*key), &format!("8: request {request} asks the store because its owner is behind"));
                }
            }
            Seen::CheckTold { request, found } => {
                let Some(of) = wanted.remove(request) else { fail(world, at, None, "5: told what it has not asked for") };
                let was = ended.get(&of).filter(|(ended, _)| when.since(*ended) < Duration::from_millis(5)).map(|(_, found)| *found);
                let is_so = match found {
                    Found::Answered { .. } => was == Some(*found),
                    Found::Unavailable => was == Some(Found::Unavailable) || is_new(world, of.0, when),
                    Found::Capped => true,
                };
                if !is_so && !is_paused(world, of.0, when) {
                    fail(world, at, Some(of.1), &format!("5: request {request} was told {found:?} where the read said {was:?}"));
                }
            }
            Seen::Dispatched { request, owner, epoch, .. } => {
                let to = (owner.clone(), *epoch);
                if sent_to.insert(*request, to.clone()).is_some_and(|before| before != to) {
                    behind.remove(request);
                } else if let Some((_, is_last)) = behind.get_mut(request) {
                    *is_last = false;
                }
            }
            Seen::Heard { request, state } => match state {
                Some(StaleState::Behind) => behind.entry(*request).or_insert((when, true)).1 = true,
                _ => drop(behind.remove(request)),
            },
            Seen::Failed { request, .. } => {
                if let Some((_, is_last)) = behind.get_mut(request) {
                    *is_last = false;
                }
            }
            Seen::Finished { request, .. } | Seen::Abandoned { request } => drop(wanted.remove(request)),
            Seen::Killed { pid } => {
                under_way.retain(|(of, _), _| of != pid);
                wanted.retain(|_, (of, _)| of != pid);
            }
            _ => {}
        }
    }
    if let Some((request, _)) = wanted.first_key_value() {
        fail(world, world.history.seen.len(), None, &format!("5: request {request} was never told what a check found"));
    }
}

/// A process that has just begun has no connection yet to read over.
fn is_new(world: &World, pid: Pid, when: Moment) -> bool {
    let connected = world.history.seen.iter().find(|(_, seen)| matches!(seen, Seen::InForce { pid: of, .. } if *of == pid));
    connected.is_none_or(|(at, _)| *at >= when)
}

/// Whether a process was paused at some time since. What waited for the end happens at the end.
fn is_paused(world: &World, pid: Pid, since: Moment) -> bool {
    world.history.seen.iter().any(|(at, seen)| matches!(seen, Seen::Paused { pid: of, by } if *of == pid && *at + *by >= since))
}

/// How long whoever waits for a key waits on at most once the proxy knows who serves it, while nothing breaks: a large crowd is let go at a pace.
const WOKEN_WITHIN: Duration = Duration::from_millis(25);

/// Invariant 9: whoever waits for a key waits no longer than `park_ms` in all, and not for longer than there is something to wait for.
pub(super) fn waits(world: &World) {
    let limit = Duration::from_millis(plan(world).park_ms).mul_f64(1.12) + Duration::from_millis(20);
    let mut first: BTreeMap<u64, Moment> = BTreeMap::new();
    let mut parked: BTreeMap<u64, (Pid, usize)> = BTreeMap::new();
    // Since when there has been nothing to wait for any more.
    let mut served: BTreeMap<u64, Moment> = BTreeMap::new();
    for (at, when, seen) in all(world) {
        match seen {
            Seen::Accepted { request, .. } => drop(first.remove(request)),
            Seen::Parked { pid, request, key } => {
                first.entry(*request).or_insert(when);
                if parked.insert(*request, (*pid, *key)).is_some() {
                    fail(world, at, Some(*key), &format!("9: request {request} takes a second place"));
                }
            }
            Seen::Unparked { pid, request } => {
                if parked.remove(request).is_none() {
                    fail(world, at, None, &format!("9: request {request} gives a place back that it has not"));
                }
                if let Some(since) = served.remove(request)
                    && when.since(since) > WOKEN_WITHIN
                    && !plan(world).is_faulty
                {
                    fail(world, at, None, &format!("9: request {request} waits for {:?} for what has come", when.since(since)));
                }
                let waited = when.since(first[request]);
                if waited > limit && !is_paused(world, *pid, first[request]) {
                    fail(world, at, None, &format!("9: request {request} has waited for {waited:?}"));
                }
            }
            Seen::HintTaken { pid, key, .. } | Seen::InForce { pid, key, .. } => {
                let is_frozen =
                    matches!(seen, Seen::InForce { shown, .. } if shown.route.as_ref().is_some_and(|route| route.4 == "frozen"));
                // What a false owner says is waited for in vain; and what a check shows anew is no change.
                let is_news =
                    plan(world).keys[*key].kind != Kind::False && !matches!(seen, Seen::InForce { shown, .. } if shown.is_read_ahead);
                for (request, _) in parked.iter().filter(|(_, of)| is_news && **of == (*pid, *key)) {
                    if is_frozen {
                        served.remove(request);
                    } else {
                        served.entry(*request).or_insert(when);
                    }
                }
            }
            Seen::Spins { request, .. } => fail(world, at, None, &format!("9: request {request} would not sleep at all")),
            Seen::Killed { pid } => parked.retain(|_, (of, _)| of != pid),
            _ => {}
        }
    }
    if let Some((request, _)) = parked.first_key_value() {
        fail(world, world.history.seen.len(), None, &format!("9: request {request} waits for ever"));
    }
}
