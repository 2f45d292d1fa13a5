//! The whole protocol in virtual time: several proxies and owners, movers, clients, false owners, a store, and a network between all of them that
//! delays, loses and parts. Each course comes from a seed and is judged by what was seen of it, against STALE-ROUTES.md, "What must always hold".
//! What decides is the code that is shipped: `policy`'s exchange, hints, parking, checks, judgement and handover, the watcher's machine and
//! applier. A seed that fails is printed with the end of its history; `WAYPOST_SEED=<seed>` runs it alone, `WAYPOST_SEEDS=<count>` more of them.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod checker;
mod client;
mod course;
mod history;
mod leased;
mod mover;
mod owner;
mod plan;
mod proxy;
mod rescue;
mod stopping;
mod store;
mod waits;
mod watching;
mod world;

use std::{collections::BTreeMap, panic, thread};

use checker::Counts;

const SEEDS: u64 = 3000;

/// What courses had, and what did not hold in which.
#[derive(Default)]
struct Courses {
    counts: Counts,
    failed: BTreeMap<u64, String>,
}

impl Courses {
    fn run(seeds: impl Iterator<Item = u64>) -> Self {
        let mut courses = Self::default();
        for seed in seeds {
            let ran = panic::catch_unwind(|| {
                let mut world = world::World::new(seed);
                world.run();
                checker::check(&mut world)
            });
            match ran {
                Ok(counts) => courses.counts.add(&counts),
                Err(why) => {
                    let why = why.downcast_ref::<String>().cloned().or(why.downcast_ref::<&str>().map(ToString::to_string));
                    courses.failed.insert(seed, why.unwrap_or_default());
                }
            }
        }
        courses
    }

    /// Says what failed: of each rule how often, and the end of the first history.
    fn judge(&self, seeds: u64) {
        let Some((seed, why)) = self.failed.first_key_value() else { return };
        let mut rules: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        for (seed, why) in &self.failed {
            let last = why.lines().last().unwrap_or_default();
            rules.entry(last.split_once("; faults ").map_or(last, |(_, rule)| rule)).or_default().push(*seed);
        }
        for (rule, of) in &rules {
            eprintln!("in {} courses, first {}: {rule}", of.len(), of[0]);
        }
        eprintln!("{why}\n{} of {seeds} courses failed; WAYPOST_SEED={seed} shows this one", self.failed.len());
        panic!("what must always hold did not, in {} of {seeds} courses", self.failed.len());
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|value| value.parse().expect("a number"))
}

#[test]
fn what_must_always_hold_holds() {
    // What a course says is said once, with its seed.
    panic::set_hook(Box::new(|_| {}));
    if let Some(seed) = number("WAYPOST_SEED") {
        let course = Courses::run(std::iter::once(seed));
        course.judge(1);
        eprintln!("{}", course.counts);
        return;
    }
    let seeds = number("WAYPOST_SEEDS").unwrap_or(SEEDS);
    let parts = [0, 1].map(|part| thread::spawn(move || Courses::run((part..seeds).step_by(2))));
    let mut all = Courses::default();
    for part in parts {
        let Courses { counts, failed } = part.join().expect("courses are run to their end");
        all.counts.add(&counts);
        all.failed.extend(failed);
    }
    all.judge(seeds);
    eprintln!("of {seeds} courses so many had: {}", all.counts);
    if seeds >= SEEDS {
        all.counts.nothing_is_missing();
    }
}
