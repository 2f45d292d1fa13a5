//! What must hold of every table that is put in force, checked from outside against the model store.

use std::collections::BTreeMap;

use waypost_policy::{
    Table,
    table::{Entry, RequestKey},
};

use crate::store::{Revision, Store};

/// What was seen so far.
#[derive(Default)]
pub(crate) struct Checks {
    /// The line of history that the table follows.
    line: usize,
    revision: u64,
    /// The create_revision and epoch of each key when its record in force was the store's.
    epochs: BTreeMap<Vec<u8>, (u64, u64)>,
    highest_incarnation: u64,
}

impl Checks {
    pub(crate) fn highest_incarnation(&self) -> u64 {
        self.highest_incarnation
    }

    pub(crate) fn raised(&mut self, incarnation: u64) {
        self.highest_incarnation = self.highest_incarnation.max(incarnation);
    }

    /// Whether the present line has the history that led to the table in force.
    pub(crate) fn is_same_so_far(&self, store: &Store) -> bool {
        let digest = |line| store.at(line, self.revision).map(|at| at.digest);
        digest(self.line) == digest(store.line())
    }

    /// `fresh`: it is the first of its incarnation, so that nothing that was known has a say.
    pub(crate) fn table(&mut self, table: &Table, store: &Store, fresh: bool) {
        let revision = table.revision();
        if fresh {
            self.line = store.line();
            self.epochs.clear();
        } else {
            assert!(revision >= self.revision, "the table goes back from {} to {revision}", self.revision);
        }
        let at = self.find(table, store).clone();
        self.revision = revision;
        self.routes(table, &at);
    }

    /// The store as it is in force; a line may be left only for one that has the same history up to the table before.
    fn find<'a>(&mut self, table: &Table, store: &'a Store) -> &'a std::rc::Rc<Revision> {
        let (known, present) = (self.line, store.line());
        for line in [known].into_iter().chain(self.is_same_so_far(store).then_some(present)) {
            if let Some(at) = store.at(line, table.revision()).filter(|at| at.digest == table.digest()) {
                self.line = line;
                return at;
            }
        }
        panic!("the table at {} (before: {}) is not the store's on line {known} (present: {present})", table.revision(), self.revision);
    }

    /// A key has an entry if, and only if, the store has one, whatever its value; its epoch never goes down.
    fn routes(&mut self, table: &Table, at: &Revision) {
        let service = table.service_named("orders").expect("the live table is never cleared").id;
        for n in 0..12 {
            let key = format!("routes/orders/t{n}").into_bytes();
            let asked = RequestKey { service, key: format!("t{n}").as_bytes().into() };
            let (stored, found) = (at.state.get(&key), table.entry(&asked));
            match (stored, found) {
                (None, Entry::Absent(_)) => drop(self.epochs.remove(&key)),
                (Some(stored), Entry::Route(route, _)) => {
                    let is_the_stores = stored.value.ends_with(format!(r#""epoch":{}}}"#, route.epoch).as_bytes());
                    if is_the_stores {
                        let next = (stored.create_revision, route.epoch);
                        let before = self.epochs.insert(key, next).unwrap_or_default();
                        assert!(before.0 != next.0 || before.1 <= next.1, "the epoch of t{n} goes from {before:?} to {next:?}");
                    }
                }
                (stored, _) => panic!("t{n} at {}: the store has {stored:?}, the table otherwise", table.revision()),
            }
        }
    }
}
