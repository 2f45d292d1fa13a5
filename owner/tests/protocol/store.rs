//! A model of the gold copy: every revision that ever was, compare and swap, leases, compaction. What processes report lies beside the
//! records, below `state/`, and shares their revisions.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use waypost_policy::Moment;
use waypost_watcher::record::{Event, Stored};

/// The cluster's id.
pub(crate) const CLUSTER: u64 = 0xc0ffee;
/// What is no record.
pub(crate) const STATE: &str = "state/";

type Records = BTreeMap<String, Rc<Stored>>;

/// One revision.
#[derive(Clone)]
struct Revision {
    events: Vec<Event>,
    records: Rc<Records>,
}

pub(crate) struct Store {
    /// By number.
    revisions: Vec<Revision>,
    /// What processes report.
    reports: Records,
    /// What came before this revision has been forgotten.
    compacted: u64,
    /// When a lease ends, and the keys that hang on it.
    leases: BTreeMap<u64, (Moment, BTreeSet<String>)>,
    next_lease: u64,
}

impl Store {
    pub(crate) fn new() -> Self {
        let nothing = Revision { events: Vec::new(), records: Rc::default() };
        Self { revisions: vec![nothing; 2], reports: Records::new(), compacted: 0, leases: BTreeMap::new(), next_lease: 0 }
    }

    pub(crate) fn revision(&self) -> u64 {
        self.revisions.len() as u64 - 1
    }

    /// One key as it is now.
    pub(crate) fn get(&self, key: &str) -> Option<Rc<Stored>> {
        let there = if key.starts_with(STATE) { &self.reports } else { &*self.now().records };
        there.get(key).cloned()
    }

    /// All keys that begin so, as they are now.
    pub(crate) fn list(&self, start: &str) -> Vec<Rc<Stored>> {
        let there = if start.starts_with(STATE) { &self.reports } else { &*self.now().records };
        there.range(start.to_owned()..).take_while(|(key, _)| key.starts_with(start)).map(|(_, stored)| Rc::clone(stored)).collect()
    }

    /// All records as of a revision; `None` if it has been forgotten, or is yet to come.
    pub(crate) fn records_at(&self, revision: u64) -> Option<Vec<Stored>> {
        let at = self.revisions.get(usize::try_from(revision).unwrap()).filter(|_| revision >= self.compacted)?;
        Some(at.records.values().map(|stored| (**stored).clone()).collect())
    }

    /// What changed from a revision on; `None` if it has been forgotten.
    pub(crate) fn events_from(&self, revision: u64) -> Option<Vec<Event>> {
        let from = usize::try_from(revision).unwrap().min(self.revisions.len());
        (revision > self.compacted).then(|| self.revisions[from..].iter().flat_map(|it| it.events.iter().cloned()).collect())
    }

    /// Every event that ever was, in order.
    pub(crate) fn history(&self) -> impl Iterator<Item = &Event> {
        self.revisions.iter().flat_map(|it| &it.events)
    }

    pub(crate) fn compacted(&self) -> u64 {
        self.compacted
    }

    pub(crate) fn compact(&mut self, revision: u64) {
        self.compacted = self.compacted.max(revision.min(self.revision()));
    }

    /// Writes one key (`None`: deletes it), under a lease if one is named; its revision.
    pub(crate) fn put(&mut self, key: &str, value: Option<&str>, lease: Option<u64>) -> u64 {
        let mod_revision = self.revision() + 1;
        let mut records = Rc::clone(&self.now().records);
        let is_record = !key.starts_with(STATE);
        let known = if is_record { records.get(key).cloned() } else { self.reports.get(key).cloned() };
        for (_, keys) in self.leases.values_mut() {
            keys.remove(key);
        }
        let event = match value {
            Some(value) => {
                let create_revision = known.map_or(mod_revision, |known| known.create_revision);
                let (leased, value) = (lease.is_some(), value.as_bytes().to_vec());
                Some(Event::Put(Stored { key: key.as_bytes().to_vec(), value, create_revision, mod_revision, leased }))
            }
            None => known.map(|_| Event::Delete { key: key.as_bytes().to_vec(), mod_revision }),
        };
        if let Some((_, keys)) = lease.and_then(|lease| self.leases.get_mut(&lease)) {
            keys.insert(key.to_owned());
        }
        if let Some(event) = &event {
            let into = if is_record { Rc::make_mut(&mut records) } else { &mut self.reports };
            match event {
                Event::Put(stored) => drop(into.insert(key.to_owned(), Rc::new(stored.clone()))),
                Event::Delete { .. } => drop(into.remove(key)),
            }
        }
        self.revisions.push(Revision { events: event.into_iter().filter(|_| is_record).collect(), records });
        mod_revision
    }

    /// Writes one key if its revision is still this one (0: it is not there); the new revision.
    pub(crate) fn swap(&mut self, key: &str, value: &str, read_at: u64) -> Option<u64> {
        let is_so = self.get(key).map_or(0, |stored| stored.mod_revision) == read_at;
        is_so.then(|| self.put(key, Some(value), None))
    }

    pub(crate) fn grant(&mut self, until: Moment) -> u64 {
        self.next_lease += 1;
        self.leases.insert(self.next_lease, (until, BTreeSet::new()));
        self.next_lease
    }

    /// Whether the lease was there to be renewed.
    pub(crate) fn renew(&mut self, lease: u64, until: Moment) -> bool {
        self.leases.get_mut(&lease).map(|(ends, _)| *ends = until).is_some()
    }

    pub(crate) fn is_granted(&self, lease: u64) -> bool {
        self.leases.contains_key(&lease)
    }

    /// Ends the leases whose time has come.
    pub(crate) fn expire(&mut self, now: Moment) {
        let ended: Vec<u64> = self.leases.iter().filter(|(_, (ends, _))| *ends <= now).map(|(lease, _)| *lease).collect();
        for lease in ended {
            for key in self.leases.remove(&lease).map(|(_, keys)| keys).unwrap_or_default() {
                self.put(&key, None, None);
            }
        }
    }

    fn now(&self) -> &Revision {
        self.revisions.last().unwrap()
    }
}
