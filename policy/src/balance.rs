//! Choosing an endpoint of an upstream.
//!
//! Endpoints that were tried already by this request, have no address yet or have just refused a connection are passed over;
//! if only refusing ones are left, one of them is tried all the same, since trying is the only way to learn that it is back.

use std::sync::{Arc, atomic::Ordering};

use waypost_conf::{Address, Balance};

use crate::{Endpoint, Lease, Moment, Upstream};

/// Whether an endpoint may be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fitness {
    /// It may.
    Willing,
    /// It has just refused a connection: only if nothing better is left.
    Refusing,
    /// Its name has not been resolved yet.
    NoAddress,
    /// This request has tried it already.
    Tried,
}

/// How fit an endpoint is for a request that has tried some others.
pub fn fitness(endpoint: &Endpoint, tried: &[Address], now: Moment) -> Fitness {
    if tried.contains(&endpoint.address) {
        Fitness::Tried
    } else if endpoint.state.socket_addr().is_none() {
        Fitness::NoAddress
    } else if endpoint.state.is_refusing(now) {
        Fitness::Refusing
    } else {
        Fitness::Willing
    }
}

/// Takes a slot at one of the upstream's endpoints; `None` when none may be used. `tried` are passed over for good.
pub fn choose(upstream: &Arc<Upstream>, tried: &[Address], now: Moment, rng: &mut fastrand::Rng) -> Option<Lease> {
    let willing = |endpoint: &Endpoint| fitness(endpoint, tried, now) == Fitness::Willing;
    let usable = |endpoint: &Endpoint| matches!(fitness(endpoint, tried, now), Fitness::Willing | Fitness::Refusing);
    let index = match upstream.endpoints.as_slice() {
        [] => None,
        [only] => usable(only).then_some(0),
        _ => pick(upstream, willing, rng).or_else(|| pick(upstream, usable, rng)),
    }?;
    Lease::take(upstream, index)
}

fn pick(upstream: &Upstream, allowed: impl Fn(&Endpoint) -> bool, rng: &mut fastrand::Rng) -> Option<usize> {
    match upstream.balance {
        Balance::RoundRobin => round_robin(upstream, allowed),
        // Not acted on yet (conf says so): the default serves in their place.
        Balance::P2c | Balance::LeastRequest | Balance::Hash => power_of_two(upstream, allowed, rng),
    }
}

/// Weighted round robin: the turn runs over the sum of the weights, so an endpoint gets as many turns as it weighs.
fn round_robin(upstream: &Upstream, allowed: impl Fn(&Endpoint) -> bool) -> Option<usize> {
    let weight_of = |endpoint: &Endpoint| if allowed(endpoint) { endpoint.weight as usize } else { 0 };
    let total: usize = upstream.endpoints.iter().map(weight_of).sum();
    if total == 0 {
        return None;
    }
    let mut turn = upstream.turn.fetch_add(1, Ordering::Relaxed) % total;
    upstream.endpoints.iter().position(|endpoint| {
        let weight = weight_of(endpoint);
        let here = turn < weight;
        turn = turn.wrapping_sub(if here { 0 } else { weight });
        here
    })
}

/// The power of two choices: of two drawn by weight, the one with fewer requests in flight for its weight.
fn power_of_two(upstream: &Upstream, allowed: impl Fn(&Endpoint) -> bool, rng: &mut fastrand::Rng) -> Option<usize> {
    let first = draw(upstream, &allowed, rng)?;
    let Some(second) = draw(upstream, |endpoint| allowed(endpoint) && endpoint.address != upstream.endpoints[first].address, rng) else {
        return Some(first);
    };
    let load =
        |index: usize, other: usize| u64::from(upstream.endpoints[index].state.in_flight()) * u64::from(upstream.endpoints[other].weight);
    Some(if load(second, first) < load(first, second) { second } else { first })
}

fn draw(upstream: &Upstream, allowed: impl Fn(&Endpoint) -> bool, rng: &mut fastrand::Rng) -> Option<usize> {
    let weight_of = |endpoint: &Endpoint| if allowed(endpoint) { u64::from(endpoint.weight) } else { 0 };
    let total: u64 = upstream.endpoints.iter().map(weight_of).sum();
    if total == 0 {
        return None;
    }
    let mut at = rng.u64(0..total);
    upstream.endpoints.iter().position(|endpoint| {
        let weight = weight_of(endpoint);
        let here = at < weight;
        at = at.wrapping_sub(if here { 0 } else { weight });
        here
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::testing::upstream;

    fn counts(upstream: &Arc<Upstream>, rounds: usize, hold: bool) -> Vec<usize> {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut held = Vec::new();
        let mut counts = vec![0; upstream.endpoints.len()];
        for _ in 0..rounds {
            let lease = choose(upstream, &[], Moment::default(), &mut rng).unwrap();
            counts[upstream.endpoints.iter().position(|e| e.address == lease.endpoint().address).unwrap()] += 1;
            if hold {
                held.push(lease);
            }
        }
        counts
    }

    #[test]
    fn round_robin_gives_turns_by_weight() {
        let upstream = upstream("cell-0", Balance::RoundRobin, &[("127.0.0.1:1", 1), ("127.0.0.1:2", 3)]);
        assert_eq!(counts(&upstream, 40, false), [10, 30]);
    }

    #[test]
    fn p2c_levels_requests_in_flight_by_weight() {
        let upstream = upstream("cell-0", Balance::P2c, &[("127.0.0.1:1", 1), ("127.0.0.1:2", 1), ("127.0.0.1:3", 2)]);
        let counts = counts(&upstream, 400, true);
        assert!((90..=110).contains(&counts[0]) && (180..=220).contains(&counts[2]), "{counts:?}");
    }

    #[test]
    fn a_refusing_endpoint_is_passed_over_for_a_second_while_there_are_others() {
        let upstream = upstream("cell-0", Balance::P2c, &[("127.0.0.1:1", 1), ("127.0.0.1:2", 1)]);
        let mut rng = fastrand::Rng::with_seed(1);
        let now = Moment::default();
        upstream.endpoints[0].state.refuse(now);
        let mut port = |tried: &[Address], now| choose(&upstream, tried, now, &mut rng).map(|lease| lease.socket_addr().port());
        assert!((0..50).all(|_| port(&[], now) == Some(2)));
        let other = [upstream.endpoints[1].address.clone()];
        assert_eq!(port(&other, now), Some(1), "the only one left is tried");
        let later = now + crate::endpoint::REFUSED_FOR;
        assert!((0..50).any(|_| port(&[], later) == Some(1)));
    }

    #[test]
    fn a_lease_gives_its_slot_back_when_dropped() {
        let upstream = upstream("cell-0", Balance::P2c, &[("127.0.0.1:1", 1)]);
        let mut rng = fastrand::Rng::with_seed(1);
        let lease = choose(&upstream, &[], Moment::default(), &mut rng).unwrap();
        assert_eq!(upstream.endpoints[0].state.in_flight(), 1);
        drop(lease);
        assert_eq!(upstream.endpoints[0].state.in_flight(), 0);
    }
}
