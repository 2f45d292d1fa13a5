//! A model of the gold copy: every revision that ever was, on every line of history. A restored backup begins another line.

use std::{collections::BTreeMap, rc::Rc};

use waypost_watcher::record::{Event, Stored, digest};

/// What the store holds, by key below the prefix.
pub(crate) type State = BTreeMap<Vec<u8>, Stored>;

/// The store at one revision.
pub(crate) struct Revision {
    pub(crate) state: State,
    pub(crate) digest: u128,
    /// What led to it.
    pub(crate) events: Vec<Event>,
}

/// The store: the last line of history is the one that is served.
pub(crate) struct Store {
    /// By line, and in each by revision; a line shares with the one before what came before the backup.
    pub(crate) lines: Vec<Vec<Rc<Revision>>>,
    /// What came before this revision has been forgotten.
    pub(crate) compacted: u64,
    /// At which revision of the present line the last backup was made.
    backup: u64,
}

impl Store {
    pub(crate) fn new() -> Self {
        let empty = Revision { state: State::new(), digest: 0, events: Vec::new() };
        Self { lines: vec![vec![Rc::new(empty)]], compacted: 0, backup: 0 }
    }

    pub(crate) fn line(&self) -> usize {
        self.lines.len() - 1
    }

    /// A revision of a line, if it has come to it.
    pub(crate) fn at(&self, line: usize, revision: u64) -> Option<&Rc<Revision>> {
        self.lines[line].get(usize::try_from(revision).unwrap())
    }

    pub(crate) fn revision(&self) -> u64 {
        self.lines[self.line()].len() as u64 - 1
    }

    pub(crate) fn now(&self) -> &Rc<Revision> {
        self.at(self.line(), self.revision()).unwrap()
    }

    /// The integer at `incarnation`.
    pub(crate) fn incarnation(&self) -> u64 {
        let found = self.now().state.get(b"incarnation".as_slice());
        found.map_or(0, |stored| String::from_utf8_lossy(&stored.value).parse().unwrap())
    }

    /// Puts and deletes in one revision. Without any, something below another prefix has changed.
    pub(crate) fn transact(&mut self, changes: Vec<(Vec<u8>, Option<String>)>) {
        let mod_revision = self.revision() + 1;
        let mut state = self.now().state.clone();
        let mut events = Vec::new();
        for (key, value) in changes {
            let before = state.remove(&key);
            match value {
                Some(value) => {
                    let create_revision = before.map_or(mod_revision, |before| before.create_revision);
                    let stored = Stored { key: key.clone(), value: value.into_bytes(), create_revision, mod_revision, leased: false };
                    state.insert(key, stored.clone());
                    events.push(Event::Put(stored));
                }
                None if before.is_some() => events.push(Event::Delete { key, mod_revision }),
                None => {}
            }
        }
        let digest = state.values().fold(0u128, |sum, it| sum.wrapping_add(digest(&it.key, it.mod_revision, &it.value)));
        let line = self.line();
        self.lines[line].push(Rc::new(Revision { state, digest, events }));
    }

    pub(crate) fn compact(&mut self, revision: u64) {
        self.compacted = self.compacted.max(revision.min(self.revision()));
    }

    pub(crate) fn back_up(&mut self) {
        self.backup = self.revision();
    }

    /// Goes back to the backup, on a line of its own. With `raise` the incarnation is raised before anybody is served.
    pub(crate) fn restore(&mut self, raise: Option<u64>) {
        let kept = usize::try_from(self.backup).unwrap() + 1;
        let line = self.lines[self.line()][..kept].to_vec();
        self.lines.push(line);
        self.compacted = self.compacted.min(self.backup);
        if let Some(incarnation) = raise {
            self.transact(vec![(b"incarnation".to_vec(), Some(incarnation.to_string()))]);
        }
    }
}
