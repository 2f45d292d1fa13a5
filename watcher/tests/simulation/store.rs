//! A model of the gold copy: every revision that ever was, on every line of history. A restored backup begins another line, and so does
//! a store that is replaced by an empty one.

use std::{collections::BTreeMap, rc::Rc};

use waypost_watcher::record::{Event, Stored, digest};

/// What the store holds, by key below the prefix.
pub(crate) type State = BTreeMap<Vec<u8>, Rc<Stored>>;
/// One key's new value; `None`: delete.
pub(crate) type Change = (Vec<u8>, Option<String>);

/// How many leases there are.
pub(crate) const LEASES: u32 = 3;

/// The store at one revision.
pub(crate) struct Revision {
    pub(crate) state: State,
    pub(crate) digest: u128,
    /// What led to it.
    pub(crate) events: Vec<Event>,
}

/// What was kept of a store to be restored.
#[derive(Clone)]
struct Backup {
    revisions: Vec<Rc<Revision>>,
    compacted: u64,
}

struct Line {
    cluster: u64,
    /// By revision; a line shares with the one before what came before the backup.
    revisions: Vec<Rc<Revision>>,
}

/// The store: the last line of history is the one that is served.
pub(crate) struct Store {
    lines: Vec<Line>,
    /// What came before this revision has been forgotten.
    pub(crate) compacted: u64,
    backup: Backup,
}

/// The lease that a key hangs on: endpoints that announce themselves have one.
pub(crate) fn lease_of(key: &[u8]) -> Option<u32> {
    let key = std::str::from_utf8(key).ok()?;
    let id: u32 = key.strip_prefix("endpoints/")?.split_once("/e")?.1.parse().ok()?;
    Some(id % LEASES)
}

/// A store without any records; etcd's first revision is 1.
fn empty() -> Vec<Rc<Revision>> {
    let empty = Rc::new(Revision { state: State::new(), digest: 0, events: Vec::new() });
    vec![Rc::clone(&empty), empty]
}

impl Store {
    pub(crate) fn new(cluster: u64) -> Self {
        let revisions = empty();
        let backup = Backup { revisions: revisions.clone(), compacted: 0 };
        Self { lines: vec![Line { cluster, revisions }], compacted: 0, backup }
    }

    pub(crate) fn line(&self) -> usize {
        self.lines.len() - 1
    }

    pub(crate) fn cluster(&self) -> u64 {
        self.lines[self.line()].cluster
    }

    /// A revision of a line, if it has come to it.
    pub(crate) fn at(&self, line: usize, revision: u64) -> Option<&Rc<Revision>> {
        self.lines[line].revisions.get(usize::try_from(revision).unwrap())
    }

    /// A revision of the line that is served.
    pub(crate) fn here(&self, revision: u64) -> Option<&Rc<Revision>> {
        self.at(self.line(), revision)
    }

    pub(crate) fn revision(&self) -> u64 {
        self.lines[self.line()].revisions.len() as u64 - 1
    }

    pub(crate) fn now(&self) -> &Rc<Revision> {
        self.here(self.revision()).unwrap()
    }

    /// The integer at `incarnation`.
    pub(crate) fn incarnation(&self) -> u64 {
        let found = self.now().state.get(b"incarnation".as_slice());
        found.map_or(0, |stored| String::from_utf8_lossy(&stored.value).parse().unwrap())
    }

    pub(crate) fn has_routes(&self) -> bool {
        self.now().state.keys().any(|key| key.starts_with(b"routes/"))
    }

    /// Puts and deletes in one revision. Without any, something below another prefix has changed.
    pub(crate) fn transact(&mut self, changes: Vec<Change>) {
        let mod_revision = self.revision() + 1;
        let mut state = self.now().state.clone();
        let mut events = Vec::new();
        for (key, value) in changes {
            let before = state.remove(&key);
            match value {
                Some(value) => {
                    let create_revision = before.map_or(mod_revision, |before| before.create_revision);
                    let leased = lease_of(&key).is_some();
                    let stored = Stored { key: key.clone(), value: value.into_bytes(), create_revision, mod_revision, leased };
                    state.insert(key, Rc::new(stored.clone()));
                    events.push(Event::Put(stored));
                }
                None if before.is_some() => events.push(Event::Delete { key, mod_revision }),
                None => {}
            }
        }
        let digest = state.values().fold(0u128, |sum, it| sum.wrapping_add(digest(&it.key, it.mod_revision, &it.value)));
        let line = self.line();
        self.lines[line].revisions.push(Rc::new(Revision { state, digest, events }));
    }

    /// Deletes in one revision what is wanted gone.
    pub(crate) fn delete_all(&mut self, is_wanted_gone: impl Fn(&[u8]) -> bool) {
        let gone: Vec<Change> = self.now().state.keys().filter(|key| is_wanted_gone(key)).map(|key| (key.clone(), None)).collect();
        self.transact(gone);
    }

    pub(crate) fn compact(&mut self, revision: u64) {
        self.compacted = self.compacted.max(revision.min(self.revision()));
    }

    pub(crate) fn back_up(&mut self) {
        self.backup = Backup { revisions: self.lines[self.line()].revisions.clone(), compacted: self.compacted };
    }

    /// Goes back to the backup, on a line of its own. With `raise` the incarnation is raised before anybody is served.
    pub(crate) fn restore(&mut self, raise: Option<u64>) {
        let Backup { revisions, compacted } = self.backup.clone();
        self.begin_line(Line { cluster: self.cluster(), revisions }, compacted, raise);
    }

    /// Another store takes the place of this one, and holds nothing.
    pub(crate) fn replace_by_empty(&mut self, cluster: u64, raise: Option<u64>) {
        self.begin_line(Line { cluster, revisions: empty() }, 0, raise);
    }

    fn begin_line(&mut self, line: Line, compacted: u64, raise: Option<u64>) {
        self.lines.push(line);
        self.compacted = compacted;
        if let Some(incarnation) = raise {
            self.transact(vec![(b"incarnation".to_vec(), Some(incarnation.to_string()))]);
        }
    }
}
