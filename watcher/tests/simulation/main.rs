//! The machine and the applier as they are shipped, against a model store over a model network, in virtual time: thousands of courses of
//! events, each from a seed. A seed that fails is printed; `WAYPOST_SEED=<seed>` runs it alone, `WAYPOST_SEEDS=<count>` more of them.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod checks;
mod lookups;
mod model;
mod network;
mod shell;
mod store;
mod trouble;
mod world;

use std::thread;

use world::Course;

const SEEDS: u64 = 2000;

/// Says which seed it was.
struct Running(u64);

impl Drop for Running {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("WAYPOST_SEED={} shows it", self.0);
        }
    }
}

fn run(seed: u64) -> Course {
    let _running = Running(seed);
    world::World::new(seed).run()
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|value| value.parse().expect("a number"))
}

/// Whatever happens: the table in force is the store's at its revision, on one line of history; it is never cleared; within one
/// create_revision no epoch goes down; and when the trouble is over, the table is the store's present one.
#[test]
fn the_table_in_force_is_always_the_stores() {
    if let Some(seed) = number("WAYPOST_SEED") {
        run(seed);
        return;
    }
    let seeds = number("WAYPOST_SEEDS").unwrap_or(SEEDS);
    let parts = [0, 1].map(|part| thread::spawn(move || (part..seeds).step_by(2).map(run).collect::<Vec<_>>()));
    let courses: Vec<Course> = parts.into_iter().flat_map(|part| part.join().expect("all must hold")).collect();
    let count = |wanted: Course| courses.iter().filter(|course| **course == wanted).count();
    let [deceived, mended, unharmed] =
        [Course::Deceived, Course::Faulty { was_mended: true }, Course::Faulty { was_mended: false }].map(count);
    eprintln!("of {seeds}: {deceived} deceived, {} with a faulty watch, of which a digest check mended {mended}", mended + unharmed);
    // What is rarely met is not tested.
    assert!(deceived * 20 < courses.len() && mended * 10 > unharmed, "{deceived}, {mended}, {unharmed} of {seeds}");
}
