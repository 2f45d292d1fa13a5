//! The shell's part, as `watcher/src/etcd.rs` plays it: carries effects out, has mass deletes confirmed, keeps snapshots, and puts tables in
//! force, each of which is checked.

use std::{sync::Arc, time::Duration};

use fastrand::Rng;
use waypost_policy::{Source, Table, TableId};
use waypost_watcher::{
    anchor::{Anchor, Found, LastChange, Proof, judge, resume_behind},
    applier::{Applier, Doubt, Refused, Said, Settled},
    machine::{Applied, Effect, Hello, Input, Machine},
    record::digest,
    snapshot::{decode_snapshot, encode_snapshot},
};

use crate::{
    checks::{Checks, Way},
    network::Question,
    world::{MEMBERS, What, World},
};

/// How soon after a change a snapshot is written.
const SAVE_AFTER: Duration = Duration::from_secs(1);
/// How soon a read that failed is tried again.
const READ_AGAIN: Duration = Duration::from_millis(500);
/// How many snapshots are remembered: older ones come back when a disk is restored.
const SNAPSHOTS: usize = 4;

pub(crate) struct Shell {
    pub(crate) machine: Machine,
    pub(crate) applier: Applier,
    pub(crate) has_table: bool,
    confirming: Option<Doubt>,
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
            confirming: None,
            snapshots: Vec::new(),
            is_save_due: false,
            allow_empty,
            checks: Checks::new(allow_empty),
        }
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
                if self.deceived {
                    return;
                }
                // What was to follow an effect that could not be carried out is not done.
                if let Some(next) = self.carry_out(effect, way) {
                    inputs.push(next);
                    break;
                }
                way = Way::BehindAList;
            }
        }
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
                    return Some(refusal(&refused));
                }
                self.confirm();
                let is_raised = TableId::etcd(self.store.cluster(), self.shell.applier.incarnation()) != *self.shell.applier.id();
                return is_raised.then_some(Input::NewIncarnation);
            }
            Effect::Resync { revision, records, id, fresh, .. } => {
                let is_first = !shell.has_table;
                if let Err(refused) = shell.applier.resync(revision, records, id, fresh) {
                    return Some(refusal(&refused));
                }
                shell.has_table = true;
                if !fresh && !is_first && !shell.checks.is_same_so_far(&self.store) {
                    // All that was rolled back has been written anew or forgotten: no list can tell.
                    self.deceived = true;
                    return None;
                }
                self.put_in_force(Way::Listed { fresh: fresh || is_first });
                self.confirm();
            }
            Effect::Advance { revision } => {
                shell.applier.advance(revision);
                self.put_in_force(Way::Watched);
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

    fn put_in_force(&mut self, way: Way) {
        let shell = &mut self.shell;
        let table = shell.applier.publish();
        shell.checks.table(&table, &shell.applier, &self.store, way);
        self.changed();
    }

    fn changed(&mut self) {
        if !std::mem::replace(&mut self.shell.is_save_due, true) {
            self.later(SAVE_AFTER, What::Save);
        }
    }

    /// What a new connection learns, and what it is told of.
    pub(crate) fn hello(&mut self) -> Hello {
        self.shell.confirming = None;
        self.confirm();
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
        self.deceived = is_known && cursor <= revision && anchor == Anchor::Same && !is_at_cursor;
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
        let doubt = self.shell.applier.to_confirm();
        let number = doubt.as_ref().map(|doubt| doubt.number);
        if self.shell.confirming.as_ref().map(|doubt| doubt.number) != number {
            self.shell.confirming = doubt;
            if let Some(number) = number {
                let by = self.some_time(20);
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
        shell.checks.settled(&table, &shell.applier, &self.store, said.has_routes, said.contradicts);
        self.changed();
        if matches!(settled, Settled::Contradicted(_)) {
            self.feed(Input::Distrusted("contradicted"));
        }
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
        shell.confirming = None;
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
        shell.checks.restarted(&table, &shell.applier, &self.store);
    }

    pub(crate) fn at_the_end(&mut self) {
        let (revision, id) = (self.store.revision(), TableId::etcd(self.store.cluster(), self.store.incarnation()));
        let Shell { applier, has_table, checks, .. } = &mut self.shell;
        assert!(*has_table && *applier.id() == id, "not followed: {:?} for {id:?}", applier.id());
        assert_eq!(applier.digest(), self.store.now().digest, "at {} of {revision}", applier.revision());
        let table = applier.publish();
        checks.end(&table, applier, &self.store);
    }
}

/// As the shell tells it.
fn refusal(refused: &Refused) -> Input {
    Input::Refused { why: refused.to_string(), reason: "refused", is_lasting: !matches!(refused, Refused::Late(_)) }
}
