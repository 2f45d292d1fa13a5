//! Judges a course by what was seen of it: the ten invariants of STALE-ROUTES.md as far as they can be seen without bytes, each in `rules`;
//! and counts what courses had, so that nothing silently stops being tested.

mod counts;
mod keys;
mod proxies;
mod requests;

use waypost_policy::Moment;

pub(crate) use counts::Counts;

use crate::{history::Seen, plan::Plan, world::World};

/// What is said of a course in which something did not hold.
pub(super) fn fail(world: &World, at: usize, key: Option<usize>, what: &str) -> ! {
    let of = |request: u64| {
        world.history.seen.iter().find_map(|(_, seen)| match seen {
            Seen::Sent { request: sent, key, .. } if *sent == request => Some(*key),
            _ => None,
        })
    };
    let lines = std::env::var("WAYPOST_TAIL").ok().and_then(|lines| lines.parse().ok()).unwrap_or(60);
    let tail = world.history.tail(at, lines, |seen| key.is_none_or(|key| seen.concerns(key, &of)));
    let names: Vec<&str> = world.plan.keys.iter().map(|key| &*key.name).filter(|name| !name.starts_with('x')).collect();
    panic!("{tail}keys {names:?}; faults {}: {what}", world.plan.is_faulty)
}

/// Judges a course.
pub(crate) fn check(world: &mut World) -> Counts {
    proxies::nothing_is_left(world);
    let truth = keys::Truth::of(world);
    keys::epochs_and_reads(world, &truth);
    keys::hints(world, &truth);
    keys::exclusion(world);
    requests::executed_once(world);
    requests::bounded(world);
    requests::well_served(world);
    proxies::checks(world);
    proxies::waits(world);
    Counts::of(world)
}

/// Everything that was seen, numbered.
fn all(world: &World) -> impl Iterator<Item = (usize, Moment, &Seen)> {
    world.history.seen.iter().enumerate().map(|(number, (at, seen))| (number, *at, seen))
}

fn plan(world: &World) -> &Plan {
    &world.plan
}
