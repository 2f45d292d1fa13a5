//! The world around the machine: what is to happen when, in virtual time. One seed, one course of events.
//!
//! What the store and its operators do is in `trouble`, what the network and its members make of it in `network`, and what the watcher's
//! shell does in `shell`.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    time::Duration,
};

use fastrand::Rng;
use waypost_policy::Moment;
use waypost_watcher::{applier::Said, machine::Input};

use crate::{
    network::{Lag, Question, Sender},
    shell::Shell,
    store::Store,
};

/// For how long there is trouble, and how long it may then take until all is well.
const TROUBLE: Duration = Duration::from_secs(120);
const RECOVERY: Duration = Duration::from_secs(300);
/// How many members the store has.
pub(crate) const MEMBERS: usize = 3;

/// What is to happen at a time.
pub(crate) enum What {
    /// The machine is told something over a connection.
    Tell(Input),
    /// The store answers what a connection asked; it has been started so many times before.
    Answer(Question, u64),
    /// Something happens to the store, the network or the proxy.
    Trouble,
    /// A store that was down serves again.
    Up,
    /// The watch sends what it has.
    Send,
    /// The store is read to confirm a mass delete of this number.
    Confirm(u64),
    /// What it said.
    Said(Said),
    /// The store's revision is read for a digest check.
    AskRevision,
    /// All records are read for a digest check, as of this revision.
    ReadAll { revision: u64 },
    /// A snapshot is due.
    Save,
}

pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) now: Moment,
    /// By time and number.
    due: BinaryHeap<Reverse<(Moment, u64)>>,
    /// On which connection.
    what: BTreeMap<u64, (u64, What)>,
    numbers: u64,
    pub(crate) store: Store,
    /// How many values were written.
    pub(crate) values: u64,
    /// Whether there are so many routes that mass deletes are guarded.
    pub(crate) is_large: bool,
    pub(crate) highest_incarnation: u64,
    pub(crate) clusters: u64,
    /// Whether a progress notice is a barrier on this store.
    pub(crate) barrier: bool,
    pub(crate) up: bool,
    pub(crate) starts: u64,
    pub(crate) calm: bool,
    /// What each member lags behind, if it does.
    pub(crate) lags: [Option<Lag>; MEMBERS],
    pub(crate) member: usize,
    /// The present connection; what comes over another is not heard.
    pub(crate) connection: u64,
    pub(crate) sender: Option<Sender>,
    pub(crate) shell: Shell,
    /// The watch loses, repeats, delays and reorders events, as some versions of etcd do.
    pub(crate) is_faulty: bool,
    /// The table is not always the store's: the watch is faulty, or a backup was restored without raising the incarnation, and nothing that
    /// a new connection looks at shows it. What it comes to must be right in the end all the same.
    pub(crate) astray: bool,
    /// Something was sent again.
    pub(crate) has_repeated: bool,
    /// How often a digest check found a difference.
    pub(crate) differences: u64,
    /// Since when nothing is wrong any more, by revision.
    pub(crate) calm_from: u64,
}

/// How a course of events went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Course {
    /// Every table was the store's.
    Whole,
    /// A restore without a raised incarnation was not seen at once.
    Deceived,
    /// The watch was faulty; whether a digest check had to mend the table.
    Faulty { was_mended: bool },
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let (is_large, is_faulty, allow_empty) = (rng.u32(0..4) == 0, rng.u32(0..5) == 0, rng.u32(0..5) == 0);
        let mut world = Self {
            shell: Shell::new(allow_empty, &mut rng),
            barrier: rng.bool(),
            rng,
            now: Moment::default(),
            due: BinaryHeap::new(),
            what: BTreeMap::new(),
            numbers: 0,
            store: Store::new(1),
            values: 0,
            is_large,
            highest_incarnation: 0,
            clusters: 1,
            up: true,
            starts: 0,
            calm: false,
            lags: [None; MEMBERS],
            member: 0,
            connection: 0,
            sender: None,
            is_faulty,
            astray: is_faulty,
            has_repeated: false,
            differences: 0,
            calm_from: 0,
        };
        world.fill();
        world.store.back_up();
        world
    }

    /// Runs to the end. Panics if something that must hold does not.
    pub(crate) fn run(mut self) -> Course {
        let (calm_at, end) = (Moment::default() + TROUBLE, Moment::default() + TROUBLE + RECOVERY);
        self.later(Duration::ZERO, What::Trouble);
        self.feed(Input::Start);
        while self.now < end {
            if !self.calm && self.now >= calm_at {
                self.become_calm();
            }
            let due = self.due.peek().map(|Reverse((at, _))| *at);
            match (due, self.shell.wake_at()) {
                (Some(due), wake) if wake.is_none_or(|wake| due <= wake) => self.happen(),
                (_, Some(wake)) => {
                    self.now = self.now.max(wake);
                    self.feed(Input::Tick);
                    self.check_digest();
                }
                _ => panic!("nothing will ever happen again"),
            }
        }
        self.at_the_end();
        match (self.is_faulty, self.astray) {
            (true, _) => Course::Faulty { was_mended: self.differences > 0 },
            (_, true) => Course::Deceived,
            _ => Course::Whole,
        }
    }

    pub(crate) fn later(&mut self, by: Duration, what: What) {
        self.at(self.now + by, self.connection, what);
    }

    pub(crate) fn at(&mut self, at: Moment, connection: u64, what: What) {
        self.numbers += 1;
        self.due.push(Reverse((at, self.numbers)));
        self.what.insert(self.numbers, (connection, what));
    }

    pub(crate) fn some_time(&mut self, most_ms: u64) -> Duration {
        Duration::from_micros(self.rng.u64(10..=most_ms * 1000))
    }

    pub(crate) fn chance(&mut self, percent: u32) -> bool {
        !self.calm && self.rng.u32(0..100) < percent
    }

    fn happen(&mut self) {
        let Some(Reverse((at, number))) = self.due.pop() else { return };
        self.now = self.now.max(at);
        let Some((connection, what)) = self.what.remove(&number) else { return };
        match what {
            What::Tell(input) if connection == self.connection => self.feed(input),
            What::Answer(question, starts) if connection == self.connection => self.answer(question, starts),
            What::Send => self.send(),
            What::Up => self.up = true,
            What::Confirm(number) => self.read_to_confirm(number),
            What::Said(said) => self.said(said),
            What::AskRevision if connection == self.connection => self.read_revision(),
            What::ReadAll { revision } if connection == self.connection => self.read_all(revision),
            What::Save => self.save(),
            What::Trouble if !self.calm => {
                self.trouble();
                let pause = if self.rng.bool() { self.some_time(50) } else { self.some_time(6000) };
                self.later(pause, What::Trouble);
            }
            What::Tell(_) | What::Answer(..) | What::Trouble | What::AskRevision | What::ReadAll { .. } => {}
        }
    }
}
