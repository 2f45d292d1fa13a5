//! The world around the machine: a store that is written to, compacted, restarted and restored; a network that delays, repeats, stalls
//! and cuts; and the shell's part, which carries effects out. One seed, one course of events, in virtual time.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    time::Duration,
};

use fastrand::Rng;
use waypost_policy::{Moment, Source, TableId};
use waypost_watcher::{
    anchor::{Anchor, Found, LastChange, Proof, judge, resume_behind},
    applier::{Applier, Refused},
    machine::{Applied, Effect, Hello, Input, Machine},
    record::{Event, digest},
};

use crate::{checks::Checks, store::Store};

const CLUSTER: u64 = 7;
/// For how long there is trouble, and how long it may then take until all is well.
const TROUBLE: Duration = Duration::from_secs(120);
const RECOVERY: Duration = Duration::from_secs(300);
/// After this an unanswered question counts as failed; the shell's limit.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// What is to happen at a time.
enum What {
    /// The machine is told something over a connection.
    Tell(Input),
    /// The store answers what a connection asked; it has been started so many times before.
    Answer(Question, u64),
    /// Something happens to the store or the network.
    Trouble,
    /// A store that was down serves again.
    Up,
    /// The watch sends what it has.
    Send,
}

enum Question {
    Hello,
    Watch { from: u64 },
    List { revision: u64 },
}

/// The store's side of a watch.
struct Sender {
    connection: u64,
    /// The next revision to be sent.
    next: u64,
    /// When the last that was sent arrives: nothing overtakes on a stream.
    arrives: Moment,
    sent: Vec<Vec<Event>>,
    /// Nothing comes through any more, and nobody is told.
    stalled: bool,
}

pub(crate) struct World {
    rng: Rng,
    now: Moment,
    /// By time and number; on which connection.
    due: BinaryHeap<Reverse<(Moment, u64)>>,
    what: BTreeMap<u64, (u64, What)>,
    numbers: u64,
    store: Store,
    values: u64,
    /// Whether a progress notice is a barrier on this store.
    barrier: bool,
    up: bool,
    starts: u64,
    calm: bool,
    /// The present connection; what comes over another is not heard.
    connection: u64,
    sender: Option<Sender>,
    machine: Machine,
    applier: Applier,
    has_table: bool,
    /// A backup was restored without raising the incarnation, and what was applied last happens to be in its history all the same.
    deceived: bool,
    checks: Checks,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let mut store = Store::new();
        let first = [
            ("services/orders", r#"{"match":[{"hosts":["a.example"]}],"key":{"header":"x"}}"#),
            ("upstreams/a", "{}"),
            ("upstreams/b", "{}"),
        ];
        store.transact(first.map(|(key, value)| (key.as_bytes().to_vec(), Some(value.to_owned()))).into());
        store.back_up();
        Self {
            machine: Machine::new(3, rng.usize(..3)),
            barrier: rng.bool(),
            rng,
            now: Moment::default(),
            due: BinaryHeap::new(),
            what: BTreeMap::new(),
            numbers: 0,
            store,
            values: 0,
            up: true,
            starts: 0,
            calm: false,
            connection: 0,
            sender: None,
            applier: Applier::new(TableId::etcd(0, 0), Source::Watch, false),
            has_table: false,
            deceived: false,
            checks: Checks::default(),
        }
    }

    /// Runs to the end. Panics if something that must hold does not. False if it came to what can't be noticed at a reconnection.
    pub(crate) fn run(mut self) -> bool {
        let (calm_at, end) = (Moment::default() + TROUBLE, Moment::default() + TROUBLE + RECOVERY);
        self.later(Duration::ZERO, What::Trouble);
        self.feed(Input::Start);
        while self.now < end {
            if !self.calm && self.now >= calm_at {
                self.become_calm();
            }
            let due = self.due.peek().map(|Reverse((at, _))| *at);
            let wake = self.machine.wake_at();
            match (due, wake) {
                (Some(due), wake) if wake.is_none_or(|wake| due <= wake) => self.happen(),
                (_, Some(wake)) => {
                    self.now = self.now.max(wake);
                    self.feed(Input::Tick);
                }
                _ => panic!("nothing will ever happen again"),
            }
            if self.deceived {
                return false;
            }
        }
        let line = self.store.line();
        let (revision, id) = (self.store.revision(), TableId::etcd(CLUSTER, self.store.incarnation()));
        assert!(self.has_table && *self.applier.id() == id, "not followed: {:?} for {id:?}", self.applier.id());
        assert_eq!(self.applier.digest(), self.store.now().digest, "at {} of {revision} on line {line}", self.applier.revision());
        true
    }

    fn later(&mut self, by: Duration, what: What) {
        self.at(self.now + by, self.connection, what);
    }

    fn at(&mut self, at: Moment, connection: u64, what: What) {
        self.numbers += 1;
        self.due.push(Reverse((at, self.numbers)));
        self.what.insert(self.numbers, (connection, what));
    }

    fn some_time(&mut self, most_ms: u64) -> Duration {
        Duration::from_micros(self.rng.u64(10..=most_ms * 1000))
    }

    fn chance(&mut self, percent: u32) -> bool {
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
            What::Trouble if !self.calm => {
                self.trouble();
                let pause = if self.rng.bool() { self.some_time(50) } else { self.some_time(6000) };
                self.later(pause, What::Trouble);
            }
            What::Tell(_) | What::Answer(..) | What::Trouble => {}
        }
    }

    /// From now on the store is up, the network is quick, and a restore that was not told is told.
    fn become_calm(&mut self) {
        self.calm = true;
        self.up = true;
        let raised = self.checks.highest_incarnation() + 1;
        self.checks.raised(raised);
        self.write(vec![(b"incarnation".to_vec(), Some(raised.to_string()))]);
        if self.sender.as_ref().is_some_and(|sender| sender.stalled) {
            self.sender = None;
        }
    }

    // The store.

    fn trouble(&mut self) {
        match self.rng.u32(0..100) {
            0..60 => {
                let changes = self.changes();
                self.write(changes);
            }
            60..68 => {
                let back = self.rng.u64(0..4);
                self.store.compact(self.store.revision().saturating_sub(back));
            }
            68..73 => self.cut(),
            73..77 => {
                if let Some(sender) = &mut self.sender {
                    sender.stalled = true;
                }
            }
            77..82 => self.store.back_up(),
            82..88 => self.go_down(),
            88..91 => {
                let raise = self.checks.highest_incarnation() + 1;
                self.go_down();
                self.checks.raised(raise);
                self.store.restore(Some(raise));
            }
            91 => {
                self.go_down();
                self.store.restore(None);
            }
            92..95 => {
                let raise = self.checks.highest_incarnation() + 1;
                self.checks.raised(raise);
                self.write(vec![(b"incarnation".to_vec(), Some(raise.to_string()))]);
            }
            _ => self.repeat(),
        }
    }

    /// A transaction over a few keys: owners and epochs, bad values, deletes; or a change below another prefix.
    fn changes(&mut self) -> Vec<(Vec<u8>, Option<String>)> {
        let mut changes = BTreeMap::new();
        for _ in 0..self.rng.usize(0..6) {
            self.values += 1;
            let key = format!("routes/orders/t{}", self.rng.u32(0..12)).into_bytes();
            let owner = if self.rng.bool() { "a" } else { "b" };
            // Mostly upwards, so that most are good.
            let epoch = if self.rng.u32(0..10) == 0 { self.rng.u64(1..=self.values) } else { self.values };
            let value = match self.rng.u32(0..10) {
                0..2 => None,
                2 => Some(format!("bad {}", self.values)),
                _ => Some(format!(r#"{{"owner":"{owner}","epoch":{epoch}}}"#)),
            };
            changes.insert(key, value);
        }
        changes.into_iter().collect()
    }

    fn write(&mut self, changes: Vec<(Vec<u8>, Option<String>)>) {
        self.store.transact(changes);
        let slow = self.chance(20);
        let by = self.some_time(if slow { 2000 } else { 2 });
        self.later(by, What::Send);
    }

    fn go_down(&mut self) {
        self.up = false;
        self.starts += 1;
        self.cut();
        let by = self.some_time(4000);
        self.later(by, What::Up);
    }

    // The network.

    /// The connection ends; perhaps nobody hears of it.
    fn cut(&mut self) {
        if self.sender.take().is_none() || self.chance(70) {
            let by = self.some_time(100);
            self.later(by, What::Tell(Input::Failed("cut".to_owned())));
        }
    }

    /// Something that was sent is sent again.
    fn repeat(&mut self) {
        let Some(sender) = &self.sender else { return };
        let Some(events) = (!sender.sent.is_empty()).then(|| sender.sent[self.rng.usize(..sender.sent.len())].clone()) else { return };
        let (at, connection) = (sender.arrives.max(self.now), sender.connection);
        self.at(at, connection, What::Tell(Input::Events { events, more: false }));
    }

    fn ask(&mut self, question: Question) {
        let by = self.some_time(if matches!(question, Question::List { .. }) { 800 } else { 20 });
        if self.chance(5) {
            self.later(ANSWER_LIMIT, What::Tell(Input::Failed("no answer".to_owned())));
        } else {
            self.later(by, What::Answer(question, self.starts));
        }
    }

    fn answer(&mut self, question: Question, starts: u64) {
        if !self.up || starts != self.starts || self.chance(3) {
            return self.feed(Input::Failed("not there".to_owned()));
        }
        let input = match question {
            Question::Hello => Input::Connected(self.hello()),
            Question::Watch { from } if from <= self.store.compacted => Input::Compacted,
            Question::Watch { from } => {
                self.sender = Some(Sender { connection: self.connection, next: from, arrives: self.now, sent: Vec::new(), stalled: false });
                self.later(Duration::ZERO, What::Send);
                Input::Opened { revision: self.store.revision() }
            }
            Question::List { revision } if revision < self.store.compacted => Input::Compacted,
            Question::List { revision } => {
                let Some(found) = self.store.at(self.store.line(), revision) else {
                    return self.feed(Input::Failed("a future revision".to_owned()));
                };
                Input::Listed { revision, records: found.state.values().cloned().collect() }
            }
        };
        self.feed(input);
    }

    /// As the shell finds it out.
    fn hello(&mut self) -> Hello {
        let cursor = self.applier.revision();
        let (incarnation, revision) = (self.store.incarnation(), self.store.revision());
        let changes = self.applier.last_changes();
        let (anchor, resume_behind) = if self.has_table && cursor <= revision {
            let proofs: Vec<Proof> = changes.iter().map(|change| self.proof(change)).collect();
            let at_cursor = changes.newest().map(|newest| self.found(&newest.key, cursor));
            (judge(changes, &proofs, at_cursor), resume_behind(cursor, changes, proofs.last().copied()))
        } else {
            (Anchor::None, 0)
        };
        let is_known = self.has_table && *self.applier.id() == TableId::etcd(CLUSTER, incarnation);
        let is_at_cursor = self.store.at(self.store.line(), cursor).is_some_and(|at| at.digest == self.applier.digest());
        // What the watch or a list brings from here on may still show it.
        self.deceived = is_known && cursor <= revision && anchor == Anchor::Same && !is_at_cursor;
        Hello { cluster_id: CLUSTER, incarnation, revision, anchor, resume_behind, progress_is_barrier: self.barrier }
    }

    fn proof(&self, change: &LastChange) -> Proof {
        change.proof(self.found(&change.key, change.mod_revision), Some(self.found(&change.key, change.mod_revision - 1)))
    }

    fn found(&self, key: &[u8], revision: u64) -> Found {
        if revision < self.store.compacted {
            return Found::Compacted;
        }
        let there = self.store.at(self.store.line(), revision).and_then(|at| at.state.get(key));
        there.map_or(Found::Nothing, |there| Found::Record(digest(&there.key, there.mod_revision, &there.value)))
    }

    /// Everything that has not been sent yet, a revision or more a response, in fragments cut anywhere.
    fn send(&mut self) {
        let Some(mut sender) = self.sender.take() else { return };
        if sender.next <= self.store.compacted {
            self.at(sender.arrives.max(self.now), sender.connection, What::Tell(Input::Compacted));
            return;
        }
        while sender.next <= self.store.revision() && !sender.stalled {
            let mut events = Vec::new();
            let last = self.rng.u64(sender.next..=self.store.revision());
            for revision in sender.next..=last {
                events.extend(self.store.at(self.store.line(), revision).map(|at| at.events.clone()).unwrap_or_default());
            }
            sender.next = last + 1;
            if events.is_empty() {
                continue;
            }
            sender.sent.push(events.clone());
            while !events.is_empty() {
                let rest = events.split_off(if self.rng.bool() { events.len() } else { self.rng.usize(1..=events.len()) });
                sender.arrives = sender.arrives.max(self.now + self.some_time(3));
                let part = Input::Events { events, more: !rest.is_empty() };
                self.at(sender.arrives, sender.connection, What::Tell(part));
                events = rest;
                if self.chance(2) {
                    self.at(sender.arrives, sender.connection, What::Tell(Input::Failed("cut".to_owned())));
                    return;
                }
            }
        }
        self.sender = Some(sender);
    }

    fn answer_progress(&mut self) {
        let revision = self.store.revision();
        let Some(sender) = self.sender.as_ref().filter(|sender| !sender.stalled && self.up) else { return };
        let (arrives, connection, has_sent_all) = (sender.arrives.max(self.now), sender.connection, sender.next > revision);
        if !self.barrier {
            // It overtakes what has not been sent.
            self.at(self.now, connection, What::Tell(Input::Progress { revision }));
        } else if has_sent_all {
            self.at(arrives, connection, What::Tell(Input::Progress { revision }));
        }
    }

    // The shell.

    fn feed(&mut self, input: Input) {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            let applied = Applied { revision: self.applier.revision(), id: self.has_table.then(|| self.applier.id().clone()) };
            for effect in self.machine.step(input, &applied, self.now, &mut self.rng) {
                if self.deceived {
                    return;
                }
                if let Some(next) = self.carry_out(effect) {
                    inputs.push(next);
                    break;
                }
            }
        }
    }

    /// What the machine is told of how it went.
    fn carry_out(&mut self, effect: Effect) -> Option<Input> {
        match effect {
            Effect::Connect { .. } => {
                self.disconnect();
                self.ask(Question::Hello);
            }
            Effect::Disconnect => self.disconnect(),
            Effect::List { revision } => self.ask(Question::List { revision }),
            Effect::Watch { from } => self.ask(Question::Watch { from }),
            Effect::Apply { events, revision } => {
                let applied = self.applier.apply(events);
                self.put_in_force(false);
                if let Err(refused) = applied {
                    return Some(refusal(&refused));
                }
                self.applier.advance(revision);
                self.put_in_force(false);
                let is_raised = TableId::etcd(CLUSTER, self.applier.incarnation()) != *self.applier.id();
                return is_raised.then_some(Input::NewIncarnation);
            }
            Effect::Resync { revision, records, id, fresh, .. } => {
                let is_first = !self.has_table;
                if let Err(refused) = self.applier.resync(revision, records, id, fresh) {
                    return Some(refusal(&refused));
                }
                self.has_table = true;
                if !fresh && !is_first && !self.checks.is_same_so_far(&self.store) {
                    // All that was rolled back has been written anew or forgotten: no list can tell.
                    self.deceived = true;
                    return None;
                }
                self.put_in_force(fresh || is_first);
            }
            Effect::Advance { revision } => {
                self.applier.advance(revision);
                self.put_in_force(false);
            }
            Effect::AskProgress => self.answer_progress(),
            Effect::Alive | Effect::Report { .. } => {}
        }
        None
    }

    fn disconnect(&mut self) {
        self.connection += 1;
        self.sender = None;
    }

    fn put_in_force(&mut self, fresh: bool) {
        let table = self.applier.publish();
        self.checks.table(&table, &self.store, fresh);
    }
}

/// As the shell tells it.
fn refusal(refused: &Refused) -> Input {
    Input::Refused { why: refused.to_string(), reason: "refused", is_lasting: !matches!(refused, Refused::Late(_)) }
}
