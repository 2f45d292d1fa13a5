//! A million routes in a real etcd: starts, updates, a resync and memory of the built binary, as a table of figures beside their targets.
//!
//! Each scene is a file; [`stage`] has what they share. What is measured, and how, is said in README.md. `--quick` runs every scene
//! in small, so that none is found broken on the day it is wanted; its figures mean nothing and are not judged.
#![allow(clippy::print_stdout, reason = "the table is what this program is for")]

mod figures;
mod in_force;
mod machine;
mod relay;
mod resync;
mod stage;
mod start;
mod store;
mod sustained;

use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use waypost_bench::processes::Told;

use figures::Figure;
use stage::Stage;

/// How much of everything.
#[derive(Clone, Copy, Debug)]
struct Size {
    /// Whether it is what the targets speak of.
    is_judged: bool,
    routes: u64,
    /// How often each start is measured.
    rounds: usize,
    /// Puts whose way into force is measured without load, and how long that may go on with load.
    puts: usize,
    loaded: Duration,
    /// Requests a second beside those puts.
    loaded_requests: f64,
    /// How long memory may take to come to rest.
    settle: Duration,
    /// How long requests are sent with nothing else going on, and with updates.
    quiet: Duration,
    sustained: Duration,
    /// How long requests are sent beside a resync, which has to end in that time.
    resync: Duration,
    /// Requests a second in all of these.
    requests: f64,
    /// Routes written a second.
    writes: f64,
}

const FULL: Size = Size {
    is_judged: true,
    routes: 1_000_000,
    rounds: 5,
    puts: 10_000,
    loaded: Duration::from_secs(20),
    loaded_requests: 20_000.0,
    settle: Duration::from_secs(45),
    quiet: Duration::from_secs(15),
    sustained: Duration::from_secs(30),
    resync: Duration::from_secs(20),
    requests: 5_000.0,
    writes: 22_000.0,
};

const QUICK: Size = Size {
    is_judged: false,
    routes: 20_000,
    rounds: 1,
    puts: 100,
    loaded: Duration::from_secs(1),
    loaded_requests: 500.0,
    settle: Duration::from_secs(1),
    quiet: Duration::from_secs(1),
    sustained: Duration::from_secs(1),
    resync: Duration::from_secs(6),
    requests: 500.0,
    writes: 2_000.0,
};

/// A million routes in a real etcd, beside the targets.
#[derive(Debug, Parser)]
#[command(name = "bench-gold")]
struct Options {
    /// Everything in small; judges nothing.
    #[arg(long)]
    quick: bool,
    /// Only these; all without it.
    #[arg(long, value_name = "SCENE")]
    scene: Vec<Scene>,
}

/// What can be measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Scene {
    /// Starts from the store beside bare lists.
    Start,
    /// What the routes take in memory.
    Memory,
    /// From a put's acknowledgement to its table in force.
    Puts,
    /// Updates for half a minute, beside requests.
    Updates,
    /// A resync after a compaction, beside requests.
    Resync,
    /// Starts from the snapshot, without a store.
    Snapshot,
}

impl Options {
    fn wants(&self, any: &[Scene]) -> bool {
        self.scene.is_empty() || any.iter().any(|scene| self.scene.contains(scene))
    }
}

fn main() -> Told<()> {
    let options = Options::parse();
    let size = if options.quick { QUICK } else { FULL };
    let since = Instant::now();
    let stage = Stage::open(size)?;
    let figures = run(&stage, &options).inspect_err(|_| stage.show_logs())?;
    figures::show(&figures, size, since.elapsed());
    Ok(())
}

/// The scenes, in an order in which each finds what it needs: starts before the history grows, the store's end at the end.
fn run(stage: &Stage, options: &Options) -> Told<Vec<Figure>> {
    let mut figures = Vec::new();
    if options.wants(&[Scene::Start]) {
        figures.extend(start::from_the_store(stage)?);
    }
    let memory = options.wants(&[Scene::Memory]).then(|| start::memory(stage)).transpose()?;
    stage.share_out()?;
    // It leaves the snapshot that the last scene starts from.
    if options.wants(&[Scene::Puts, Scene::Updates, Scene::Snapshot]) {
        let proxy = stage.start(&stage.asked("main"))?;
        proxy.is_saved()?;
        if options.wants(&[Scene::Puts]) {
            figures.extend(in_force::idle(stage, &proxy)?);
            figures.push(in_force::loaded(stage, &proxy)?);
        }
        if options.wants(&[Scene::Updates]) {
            figures.extend(sustained::updates(stage, &proxy)?);
        }
        proxy.end()?;
    }
    if options.wants(&[Scene::Resync]) {
        figures.extend(resync::after_compaction(stage)?);
    }
    if options.wants(&[Scene::Snapshot]) {
        figures.push(start::from_the_snapshot(stage)?);
    }
    figures.extend(memory);
    Ok(figures)
}
