//! What must hold of every table that is put in force, checked from outside against the model store and the model of what should be in
//! force. The model goes the way that the watcher says it has gone, over what the store has on record, not over what was heard.

use std::collections::{BTreeMap, BTreeSet};

use waypost_policy::{
    Table,
    table::{Entry, RequestKey, State},
};
use waypost_watcher::{applier::Applier, record::Event};

use crate::{
    lookups::covering,
    model::{Hold, Kept, Model},
    store::Store,
};

/// Each so manieth table is looked at key by key; of the others the keys that have just changed.
const LOOK_AT_ALL: u64 = 16;
/// Routing keys of the service whose partition changes.
const PROBES: [&str; 8] = ["7", "0-31", "a", "b{a}", "k5", "m", "zz", "{}x"];

/// How a table came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Revision by revision.
    Watched,
    /// What came while a list was under way: of each key the last change.
    BehindAList,
    /// All of it at once.
    Listed { fresh: bool },
}

/// What was seen so far.
#[derive(Clone, Default)]
pub(crate) struct Checks {
    /// The line of history that the table follows.
    line: usize,
    revision: u64,
    model: Model,
    /// The create_revision and epoch of each route in force.
    epochs: BTreeMap<Vec<u8>, (u64, u64)>,
    tables: u64,
}

impl Checks {
    pub(crate) fn new(allow_empty: bool) -> Self {
        Self { model: Model { allow_empty, ..Model::default() }, ..Self::default() }
    }

    /// Whether the present line has the history that led to the table in force. Nothing can be of any history.
    pub(crate) fn is_same_so_far(&self, store: &Store) -> bool {
        let digest = |line| store.at(line, self.revision).map(|at| at.digest);
        self.model.keys.is_empty() || digest(self.line) == digest(store.line())
    }

    /// A table was put in force.
    pub(crate) fn table(&mut self, table: &Table, applier: &Applier, store: &Store, way: Way) {
        let (before, revision) = (self.revision, table.revision());
        if let Way::Listed { fresh } = way {
            self.line = if fresh { store.line() } else { self.find(table, store) };
            assert!(fresh || revision >= before, "a list takes the table back from {before} to {revision}");
            let at = store.at(self.line, revision).expect("a list is of the store's history");
            self.model.list(&at.state, fresh);
            if fresh {
                self.epochs.clear();
            }
            self.revision = revision;
            return self.compare(table, applier, store, None);
        }
        assert!(revision >= before, "the table goes back from {before} to {revision}");
        self.line = self.find(table, store);
        let revisions = (before + 1..=revision).filter_map(|revision| store.at(self.line, revision));
        let revisions: Vec<Vec<Event>> = revisions.map(|at| at.events.clone()).collect();
        let touched: BTreeSet<Vec<u8>> = revisions.iter().flatten().map(|event| event.key().to_vec()).collect();
        let revisions = if way == Way::BehindAList { last_changes(revisions) } else { revisions };
        revisions.iter().for_each(|events| self.model.watch(events));
        self.revision = revision;
        self.compare(table, applier, store, Some(touched));
    }

    /// A mass delete was settled by a read of the store.
    pub(crate) fn settled(&mut self, table: &Table, applier: &Applier, store: &Store, has_routes: bool, contradicts: bool) {
        self.model.settle(has_routes, contradicts);
        self.compare(table, applier, store, None);
    }

    /// A process begins with what a snapshot says.
    pub(crate) fn restarted(&mut self, table: &Table, applier: &Applier, store: &Store) {
        assert_eq!(table.revision(), self.revision);
        self.compare(table, applier, store, None);
    }

    /// Nothing is held back any more that the store was not found empty over.
    pub(crate) fn end(&mut self, table: &Table, applier: &Applier, store: &Store) {
        let doubted = self.model.keys.iter().filter(|(_, kept)| kept.held == Some(Hold::InDoubt)).count();
        assert_eq!(doubted, 0, "so many deletes are held back and nobody asks the store");
        self.compare(table, applier, store, None);
    }

    /// The line of the store that is in force; one may be left only for one that has the same history up to the table before.
    fn find(&self, table: &Table, store: &Store) -> usize {
        let digest = |line, revision| store.at(line, revision).map(|at| at.digest);
        let (known, present) = (self.line, store.line());
        let mut lines = [known].into_iter().chain(self.is_same_so_far(store).then_some(present));
        lines.find(|line| digest(*line, table.revision()) == Some(table.digest())).unwrap_or_else(|| {
            panic!("the table at {} (before: {}) is not the store's on line {known} (present: {present})", table.revision(), self.revision)
        })
    }

    /// `touched`: the keys that may have changed; `None`: any.
    fn compare(&mut self, table: &Table, applier: &Applier, store: &Store, touched: Option<BTreeSet<Vec<u8>>>) {
        self.tables += 1;
        let touched = touched.filter(|_| !self.tables.is_multiple_of(LOOK_AT_ALL));
        let at = store.at(self.line, self.revision).expect("the table's revision is the store's");
        assert_eq!(table.digest(), at.digest, "the digest at {}", self.revision);
        assert!(
            applier.held_back().iter().map(|key| &**key).eq(self.model.held()),
            "held back at {}: {:?}",
            self.revision,
            applier.held_back()
        );
        let bad = self.model.keys.iter().filter(|(_, kept)| kept.bad.is_some()).map(|(key, _)| key);
        assert!(applier.bad().keys().eq(bad), "bad at {}: {:?}", self.revision, applier.bad().keys());
        assert!(self.model.keys.keys().filter(|key| !applier.held_back().contains(*key)).eq(at.state.keys()), "known at {}", self.revision);
        self.services(table);
        self.upstreams(table);
        for service in ["orders", "cut"] {
            let Some(id) = table.service_named(service).map(|service| service.id) else { continue };
            let start = format!("routes/{service}/").into_bytes();
            let all = || self.model.keys.keys().chain(self.epochs.keys()).cloned().collect();
            let records: BTreeSet<Vec<u8>> = touched.clone().unwrap_or_else(all);
            let records = records.iter().filter_map(|key| key.strip_prefix(&*start)).map(<[u8]>::to_vec);
            let probes = PROBES.iter().filter(|_| service == "cut").map(|probe| probe.as_bytes().to_vec());
            for key in records.chain(probes).collect::<Vec<_>>() {
                let found = table.entry(&RequestKey { service: id, key: key.as_slice().into() });
                let wanted = covering(&self.model, service, &key);
                self.entry(table, &[&start, &*key].concat(), found, wanted.map(|(_, kept)| kept));
                let record = table.record_of(&RequestKey { service: id, key: key.as_slice().into() });
                assert_eq!(record.as_deref(), wanted.map(|(record, _)| record), "what covers {}", String::from_utf8_lossy(&key));
            }
        }
        self.epochs(table, touched);
    }

    fn entry(&self, table: &Table, key: &[u8], found: Entry, wanted: Option<&Kept>) {
        let at = format!("{} at {}: {found:?}, but {wanted:?} is right", String::from_utf8_lossy(key), table.revision());
        match (wanted.map(|kept| &kept.good), found) {
            (None, Entry::Absent(_)) => {}
            (Some(None), Entry::Route(route, _)) => assert_eq!(route.state, State::Quarantined, "{at}"),
            (Some(Some(good)), Entry::Route(route, _)) => {
                assert_eq!(table.upstream_name(route.owner).map(|name| &**name), good.value["owner"].as_str(), "{at}");
                assert_eq!((route.epoch, route.meta.mod_revision), (good.epoch(), good.version.mod_revision), "{at}");
                assert_eq!(route.state.as_str(), good.value["state"].as_str().unwrap_or("serving"), "{at}");
            }
            _ => panic!("{at}"),
        }
    }

    fn services(&self, table: &Table) {
        let known: BTreeSet<&str> = table.services().iter().filter(|service| !service.quarantined).map(|service| &*service.name).collect();
        let good = self.model.keys.iter().filter(|(_, kept)| kept.good.is_some()).filter_map(|(key, _)| std::str::from_utf8(key).ok());
        assert_eq!(known, good.filter_map(|key| key.strip_prefix("services/")).collect(), "services at {}", self.revision);
    }

    /// Every upstream has its listed and announced endpoints, or else the last leased one.
    fn upstreams(&self, table: &Table) {
        let names = self.model.keys.iter().filter(|(_, kept)| kept.good.is_some()).filter_map(|(key, _)| std::str::from_utf8(key).ok());
        let names: BTreeSet<&str> = names.filter_map(|key| key.strip_prefix("upstreams/")).collect();
        assert_eq!(table.upstreams().map(|upstream| &*upstream.name).collect::<BTreeSet<_>>(), names, "upstreams at {}", self.revision);
        for upstream in table.upstreams() {
            let listed = self.model.good(&format!("upstreams/{}", upstream.name)).and_then(|value| value["endpoints"].as_array());
            let listed = listed.into_iter().flatten().map(|endpoint| endpoint["address"].as_str().unwrap_or_default().to_owned());
            let wanted: BTreeSet<String> = listed.chain(self.model.announced(&upstream.name).map(|(_, good)| good.address())).collect();
            let found: BTreeSet<String> = upstream.endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect();
            let is_orphaned = upstream.endpoints.iter().any(|endpoint| endpoint.orphaned);
            let at = format!("{} at {}: {found:?} (orphaned: {is_orphaned}), but {wanted:?} is right", upstream.name, self.revision);
            match self.model.orphans.get(&*upstream.name).filter(|_| wanted.is_empty()) {
                None => assert!(found == wanted && !is_orphaned, "{at}"),
                Some(orphan) if found.is_empty() => assert!(orphan.may_be_none, "{at}, or one of {orphan:?}"),
                Some(orphan) => {
                    assert!(is_orphaned && found.len() == 1 && found.is_subset(&orphan.addresses), "{at}, or one of {orphan:?}");
                }
            }
        }
    }

    /// Within one create_revision no epoch goes down.
    fn epochs(&mut self, table: &Table, touched: Option<BTreeSet<Vec<u8>>>) {
        let all = || self.model.keys.keys().chain(self.epochs.keys()).cloned().collect();
        for key in touched.unwrap_or_else(all) {
            let Some((service, record)) = key.strip_prefix(b"routes/").and_then(|rest| split(rest)) else { continue };
            let Entry::Route(route, _) = table.record(service, record) else {
                self.epochs.remove(&key);
                continue;
            };
            let next = (route.meta.create_revision, route.epoch);
            let before = self.epochs.insert(key, next).unwrap_or_default();
            // What is held back has none: it may have been put and held again.
            assert!(before.0 != next.0 || next.0 == 0 || before.1 <= next.1, "an epoch goes from {before:?} to {next:?}");
        }
    }
}

/// What was written after this revision, with epochs that rise, is in force, whatever happened before.
pub(crate) fn written_since(table: &Table, store: &Store, revision: u64) {
    let now = store.now().state.values().filter(|stored| stored.mod_revision > revision);
    for stored in now {
        let Some((service, record)) = stored.key.strip_prefix(b"routes/").and_then(split) else { continue };
        let Entry::Route(route, _) = table.record(service, record) else { panic!("{stored:?} is not in force") };
        let value: serde_json::Value = serde_json::from_slice(&stored.value).unwrap();
        let owner = table.upstream_name(route.owner).map(|name| &**name);
        assert_eq!((owner, Some(route.epoch)), (value["owner"].as_str(), value["epoch"].as_u64()), "{stored:?}");
    }
}

fn split(rest: &[u8]) -> Option<(&str, &[u8])> {
    let at = rest.iter().position(|byte| *byte == b'/')?;
    Some((std::str::from_utf8(&rest[..at]).ok()?, &rest[at + 1..]))
}

/// Of each key the last change, in the order of changes.
fn last_changes(revisions: Vec<Vec<Event>>) -> Vec<Vec<Event>> {
    let mut seen = BTreeSet::new();
    let mut kept: Vec<Vec<Event>> = Vec::new();
    for events in revisions.into_iter().rev() {
        let last: Vec<Event> = events.into_iter().filter(|event| seen.insert(event.key().to_vec())).collect();
        kept.push(last);
    }
    kept.reverse();
    kept.retain(|events| !events.is_empty());
    kept
}
