//! The shell's part, as `watcher/src/etcd.rs` plays it: carries effects out, has mass deletes confirmed, keeps snapshots, and puts tables in
//! force, each of which is checked.

use std::{sync::Arc, time::Duration};

use fastrand::Rng;
use waypost_policy::{Moment, Source, Table, TableId};
use waypost_watcher::{
    anchor::{Anchor, Found, LastChange, Proof, judge, resume_behind},
    applier::{Applier, Doubt, Refused, Said, Settled},
    digest_check::DigestCheck,
    machine::{Applied, Effect, Hello, History, Input, Machine},
    record::digest,
    snapshot::{decode_snapshot, encode_snapshot},
};

use crate::{
    checks::{Checks, Way, written_since},
    network::Question,
    world::{MEMBERS, What, World},
};

/// How soon after a change a snapshot is written.
const SAVE_AFTER: Duration = Duration::from_secs(1);
/// How soon a read that failed is tried again.
const READ_AGAIN: Duration = Duration::from_millis(500);
/// How often the table is compared with all that the store holds.
const CHECK_EVERY: Duration = Duration::from_secs(30);
/// How many snapshots are remembered: older ones come back when a disk is restored.
const SNAPSHOTS: usize = 4;

pub(crate) struct Shell {
    pub(crate) machine: Machine,
    pub(crate) applier: Applier,
    pub(crate) has_table: bool,
    /// Whether the store that is connected is of the history in force: only then is it asked about deletes.
    is_proven: bool,
    /// What the present connection learnt of how far the store had come, and on which line of history.
    known: (usize, u64),
    confirming: Option<Doubt>,
    digest_check: DigestCheck,
    is_watching: bool,
    /// What was written, and what was known of the table then; the newest last.
    snapshots: Vec<(Vec<u8>, Checks)>,
    is_save_due: bool,
    allow_empty: bool,
    checks: Checks,
}

impl Shell {
    pub(crate) fn new(allow_empty: bool, rng: &mut Rng) -> Self {
        Self {
            machine: Machine::new(MEMBERS, rng.usize(..MEMBERS)),
            applier: Applier::new(TableId::etcd(0, 0), Source::Watch, allow_empty),
            has_table: false,
            is_proven: false,
            known: (0, 0),
            confirming: None,
            digest_check: DigestCheck::new(CHECK_EVERY, Moment::default(), rng),
            is_watching: false,
            snapshots: Vec::new(),
            is_save_due: false,
            allow_empty,
            checks: Checks::new(allow_empty),
        }
    }

    /// When time that passes is to be told at the latest.
    pub(crate) fn wake_at(&self) -> Option<Moment> {
        self.machine.wake_at().into_iter().chain(self.digest_check.wake_at()).min()
    }

    /// The newest ones are not on disk.
    pub(crate) fn lose_snapshots(&mut self, count: usize) {
        self.snapshots.truncate(self.snapshots.len().saturating_sub(count));
    }
}

impl World {
    pub(crate) fn feed(&mut self, input: Input) {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            let shell = &mut self.shell;
            let applied = Applied { revision: shell.applier.revision(), id: shell.has_table.then(|| shell.applier.id().clone()) };
            let mut way = Way::Watched;
            for effect in shell.machine.step(input, &applied, self.now, &mut self.rng) {
                // What was to follow an effect that could not be carried out is not done.
                if let Some(next) = self.carry_out(effect, way) {
                    inputs.push(next);
                    break;
                }
                way = Way::BehindAList;
            }
        }
        let is_proven = self.shell.machine.history() == History::Proven;
        if is_proven && !std::mem::replace(&mut self.shell.is_proven, is_proven) {
            self.confirm();
        }
        self.shell.is_proven = is_proven;
    }

    /// What the machine is told of how it went. `way`: how changes are applied.
    fn carry_out(&mut self, effect: Effect, way: Way) -> Option<Input> {
        let shell = &mut self.shell;
        match effect {
            Effect::Connect { endpoint } => {
                self.disconnect();
                self.member = endpoint;
                self.ask(Question::Hello);
            }
            Effect::Disconnect => self.disconnect(),
            Effect::List { revision } => self.ask(Question::List { revision }),
            Effect::Watch { from } => self.ask(Question::Watch { from }),
            Effect::Apply { events, revision } => {
                let applied = shell.applier.apply(events);
                if applied.is_ok() {
                    shell.applier.advance(revision);
                }
                self.put_in_force(way);
                if let Err(refused) = applied {
                    return Some(self.refused(&refused));
                }
                self.confirm();
                let is_raised = TableId::etcd(self.store.cluster(), self.shell.applier.incarnation()) != *self.shell.applier.id();
                return is_raised.then_some(Input::NewIncarnation);
            }
            Effect::Resync { revision, records, id, fresh, .. } => {
                let is_first = !shell.has_table;
                if let Err(refused) = shell.applier.resync(revision, records, id, fresh) {
                    return Some(self.refused(&refused));
                }
                shell.has_table = true;
                // If all that was rolled back has been written anew or forgotten, no list can tell.
                self.astray |= !fresh && !is_first && !shell.checks.is_same_so_far(&self.store);
                self.put_in_force(Way::Listed { fresh: fresh || is_first });
                self.confirm();
            }
            Effect::Advance { revision } => {
                shell.applier.advance(revision);
                self.put_in_force(Way::Watched);
            }
            Effect::AskProgress => self.answer_progress(),
            Effect::Report { error, .. } => shell.is_watching = error.is_none(),
            Effect::Alive => self.is_current(),
        }
        None
    }

    /// It was said that the store has nothing newer: at least what it had when the connection was made has been applied. Without barriers
    /// that can't be known of a member that lags.
    fn is_current(&self) {
        let ((line, known), applied) = (self.shell.known, self.shell.applier.revision());
        if self.barrier && !self.astray && line == self.store.line() {
            let missing = (applied + 1..=known).find(|revision| self.store.here(*revision).is_some_and(|at| !at.events.is_empty()));
            assert_eq!(missing, None, "the store had it when the connection was made; applied up to {applied}");
        }
    }

    fn disconnect(&mut self) {
        self.connection += 1;
        self.sender = None;
        self.shell.is_watching = false;
        self.shell.confirming = None;
        self.shell.digest_check.fail(self.now, &mut self.rng);
    }

    /// As the shell tells it.
    fn refused(&mut self, refused: &Refused) -> Input {
        // What is repeated of a key that has been deleted meanwhile looks like something that was missed.
        let is_like_it = self.astray || self.has_repeated || !self.shell.checks.is_same_so_far(&self.store);
        assert!(is_like_it, "nothing was late, and the history is the one in force: {refused}");
        Input::Refused { why: refused.to_string(), reason: "refused", is_lasting: !matches!(refused, Refused::Late(_)) }
    }

    fn put_in_force(&mut self, way: Way) {
        let shell = &mut self.shell;
        let table = shell.applier.publish();
        if !self.astray {
            shell.checks.table(&table, &shell.applier, &self.store, way);
        }
        self.changed();
        self.check_digest();
    }

    fn changed(&mut self) {
        // Each costs as much as much else here: many are passed over, as if writing took longer.
        if !std::mem::replace(&mut self.shell.is_save_due, true) {
            let after = SAVE_AFTER * self.rng.u32(1..8);
            self.later(after, What::Save);
        }
    }

    /// What a new connection learns, and what it is told of.
    pub(crate) fn hello(&mut self) -> Hello {
        self.shell.known = (self.store.line(), self.store.revision());
        let Shell { applier, has_table, .. } = &self.shell;
        let (cursor, changes) = (applier.revision(), applier.last_changes());
        let (incarnation, revision) = (self.store.incarnation(), self.store.revision());
        let (anchor, resume_behind) = if *has_table && cursor <= revision {
            let proofs: Vec<Proof> = changes.iter().map(|change| self.proof(change)).collect();
            let at_cursor = changes.newest().map(|newest| self.found(&newest.key, cursor));
            (judge(changes, &proofs, at_cursor), resume_behind(cursor, changes, proofs.last().copied()))
        } else {
            (Anchor::None, 0)
        };
        let is_known = *has_table && *applier.id() == TableId::etcd(self.store.cluster(), incarnation);
        let is_at_cursor = self.store.here(cursor).is_some_and(|at| at.digest == applier.digest());
        // What the watch or a list brings from here on may still show it.
        self.astray |= is_known && cursor <= revision && anchor == Anchor::Same && !is_at_cursor;
        Hello { cluster_id: self.store.cluster(), incarnation, revision, anchor, resume_behind, progress_is_barrier: self.barrier }
    }

    fn proof(&self, change: &LastChange) -> Proof {
        change.proof(self.found(&change.key, change.mod_revision), Some(self.found(&change.key, change.mod_revision - 1)))
    }

    fn found(&self, key: &[u8], revision: u64) -> Found {
        if revision < self.store.compacted {
            return Found::Compacted;
        }
        let there = self.store.here(revision).and_then(|at| at.state.get(key));
        there.map_or(Found::Nothing, |there| Found::Record(digest(&there.key, there.mod_revision, &there.value)))
    }

    // Mass deletes.

    fn confirm(&mut self) {
        let doubt = self.shell.applier.to_confirm().filter(|_| self.shell.is_proven);
        let number = doubt.as_ref().map(|doubt| doubt.number);
        if self.shell.confirming.as_ref().map(|doubt| doubt.number) != number {
            self.shell.confirming = doubt;
            if let Some(number) = number {
                // Now and then so long that other things happen first.
                let by = if self.chance(40) { self.some_time(8000) } else { self.some_time(20) };
                self.later(by, What::Confirm(number));
            }
        }
    }

    pub(crate) fn read_to_confirm(&mut self, number: u64) {
        let Some(doubt) = self.shell.confirming.as_ref().filter(|doubt| doubt.number == number) else { return };
        if !self.up || self.store.revision() < doubt.revision {
            return self.later(READ_AGAIN, What::Confirm(number));
        }
        let now = self.store.now();
        let samples = doubt.samples.iter().filter_map(|key| now.state.get(key));
        let contradicts = samples.into_iter().any(|stored| stored.mod_revision <= doubt.revision);
        let said = Said { number, has_routes: self.store.has_routes(), contradicts };
        let by = self.some_time(20);
        self.later(by, What::Said(said));
    }

    pub(crate) fn said(&mut self, said: Said) {
        let shell = &mut self.shell;
        if shell.confirming.as_ref().is_none_or(|doubt| doubt.number != said.number) {
            return;
        }
        shell.confirming = None;
        let settled = shell.applier.settle(said);
        if settled == Settled::Past {
            return;
        }
        let table = shell.applier.publish();
        if !self.astray {
            shell.checks.settled(&table, &shell.applier, &self.store, said.has_routes, said.contradicts);
        }
        self.changed();
        if matches!(settled, Settled::Contradicted(_)) {
            self.feed(Input::Distrusted("contradicted"));
        }
    }

    // The digest check.

    pub(crate) fn check_digest(&mut self) {
        let shell = &mut self.shell;
        if shell.digest_check.is_due(shell.is_watching, self.now, &mut self.rng) {
            let by = self.some_time(20);
            self.later(by, What::AskRevision);
        }
        let shell = &mut self.shell;
        let Some(compared) = shell.digest_check.compare(&shell.applier, self.now, &mut self.rng) else { return };
        if !compared.is_equal {
            // Or what has not come for so long is said to be lost: a member that lags and still gives signs of life.
            let is_late = shell.applier.revision() < compared.revision;
            let is_other = self.astray || !shell.checks.is_same_so_far(&self.store);
            assert!(is_other || is_late, "the table was the store's all along: {compared:?}");
            self.differences += 1;
            self.feed(Input::Distrusted("digest"));
        }
    }

    pub(crate) fn read_revision(&mut self) {
        let is_answered = self.up && !self.chance(3);
        let shell = &mut self.shell;
        match shell.digest_check.asked(self.store.revision(), &mut shell.applier).filter(|_| is_answered) {
            Some(revision) => {
                let by = self.some_time(4000);
                self.later(by, What::ReadAll { revision });
            }
            None => shell.digest_check.fail(self.now, &mut self.rng),
        }
        self.check_digest();
    }

    pub(crate) fn read_all(&mut self, revision: u64) {
        let is_answered = self.up && revision >= self.store.compacted;
        let shell = &mut self.shell;
        match self.store.here(revision).filter(|_| is_answered) {
            Some(at) => shell.digest_check.read(at.digest, &shell.applier, self.now),
            None => shell.digest_check.fail(self.now, &mut self.rng),
        }
        self.check_digest();
    }

    // The process.

    pub(crate) fn save(&mut self) {
        let shell = &mut self.shell;
        if !std::mem::take(&mut shell.is_save_due) || !shell.has_table {
            return;
        }
        shell.snapshots.push((encode_snapshot(&shell.applier).unwrap(), shell.checks.clone()));
        let old = shell.snapshots.len().saturating_sub(SNAPSHOTS);
        shell.snapshots.drain(..old);
    }

    /// A new process: nothing is left but what is on disk.
    pub(crate) fn begin_process(&mut self) {
        self.disconnect();
        let shell = &mut self.shell;
        shell.machine = Machine::new(MEMBERS, self.rng.usize(..MEMBERS));
        shell.is_proven = false;
        shell.digest_check = DigestCheck::new(CHECK_EVERY, self.now, &mut self.rng);
        shell.is_save_due = false;
        shell.has_table = !shell.snapshots.is_empty();
        let Some((bytes, known)) = shell.snapshots.last().cloned() else {
            shell.applier = Applier::new(TableId::etcd(0, 0), Source::Watch, shell.allow_empty);
            shell.checks = Checks::new(shell.allow_empty);
            return;
        };
        shell.applier = decode_snapshot(&bytes, shell.allow_empty).unwrap().applier;
        shell.checks = known;
        let table: Arc<Table> = shell.applier.publish();
        if !self.astray {
            shell.checks.restarted(&table, &shell.applier, &self.store);
        }
    }

    pub(crate) fn at_the_end(&mut self) {
        let (revision, id) = (self.store.revision(), TableId::etcd(self.store.cluster(), self.store.incarnation()));
        let Shell { applier, has_table, checks, .. } = &mut self.shell;
        assert!(*has_table && *applier.id() == id, "not followed: {:?} for {id:?}", applier.id());
        assert_eq!(applier.digest(), self.store.now().digest, "at {} of {revision}", applier.revision());
        let table = applier.publish();
        written_since(&table, &self.store, self.calm_from);
        if !self.astray {
            checks.end(&table, applier, &self.store);
        }
    }
}
