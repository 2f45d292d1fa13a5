//! Record files: YAML or JSON, one mapping from the part of an etcd key after the prefix to a record; several of them are one set.
//!
//! All faults are found, not only the first, each with its file and line. A key may stand in one place only.

use std::{
    collections::{HashMap, hash_map},
    fmt,
    sync::Arc,
};

use crate::{
    Record, RecordKey,
    key::escaped,
    node::{self, Node, Root},
    record::decode_strict,
};

/// Fields whose line is kept, because it may have to be said: what they name may be missing, or what they hold may not follow what there is.
const SPOKEN_OF: [&str; 6] = ["owner", "epoch", "target", "match", "default_owner", "policy"];

/// Records of one or more files, and what is wrong with them.
#[derive(Clone, Debug, Default)]
pub struct Document {
    /// The records without faults, in order.
    pub entries: Vec<Entry>,
    /// What is wrong, in order.
    pub faults: Vec<Diagnostic>,
    /// Where each key stands.
    places: HashMap<RecordKey, Place>,
}

/// Where something stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file's name, as it was given.
    pub file: Arc<str>,
    /// The line, from 1.
    pub line: usize,
}

/// One record of a file.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its key.
    pub key: RecordKey,
    /// Its value, checked.
    pub record: Record,
    /// Its value as it is put into the store: compact JSON of what was written.
    pub value: Vec<u8>,
    /// Where its key stands; `None`: in the store.
    pub place: Option<Place>,
    /// Fields that this version does not act on yet.
    pub inactive: Vec<&'static str>,
    /// The lines of fields that may have to be spoken of, where they are not the key's.
    lines: Vec<(&'static str, usize)>,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// It can't be used.
    Error,
    /// It can be used, but may not be what was meant.
    Warning,
}

/// One thing to be said of a file: `routes.yaml:14: routes/orders/t1: field "ownr" is unknown; did you mean "owner"?`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// The file's name, as it was given; empty for the store.
    pub file: String,
    /// The line, from 1, where it is known.
    pub line: Option<usize>,
    /// The record's key, where it is about one.
    pub key: Option<String>,
    /// What is wrong and what would be right.
    pub message: String,
    /// How bad it is.
    pub severity: Severity,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.file.is_empty() {
            out.write_str(&self.file)?;
            if let Some(line) = self.line {
                write!(out, ":{line}")?;
            }
            out.write_str(": ")?;
        }
        if let Some(key) = &self.key {
            write!(out, "{key}: ")?;
        }
        if self.severity == Severity::Warning {
            out.write_str("warning: ")?;
        }
        out.write_str(&self.message)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.file, self.line)
    }
}

impl Document {
    /// Reads one more file.
    pub fn add(&mut self, file: &str, text: &str) {
        let file: Arc<str> = file.into();
        let place = |line| Place { file: Arc::clone(&file), line };
        let (entries, faults) = (self.entries.len(), self.faults.len());
        let message = match node::parse(text, |written, line, node| self.add_record(&written, place(line), &node)) {
            Ok(Root::Nothing | Root::Map) => return,
            Ok(Root::Other(line)) => {
                let wanted = "a mapping from keys to records would be right, as in  routes/orders/tenant-42: { owner: cell-7 }";
                Diagnostic::error(&place(line), None, wanted.to_owned())
            }
            Err(wrong) => Diagnostic::error(&place(wrong.line), None, wrong.message),
        };
        // Of a text that can't be read to its end nothing counts.
        self.entries.truncate(entries);
        self.faults.truncate(faults);
        self.places.retain(|_, place| !Arc::ptr_eq(&place.file, &file));
        self.faults.push(message);
    }

    /// The records alone.
    pub fn into_entries(self) -> Vec<Entry> {
        self.entries
    }

    /// The keys of all records, of those with faults too.
    pub fn keys(&self) -> impl Iterator<Item = &RecordKey> {
        self.places.keys()
    }

    fn add_record(&mut self, written: &str, place: Place, node: &Node) {
        let fault = |place: &Place, message| Diagnostic::error(place, Some(written.to_owned()), message);
        let key = match RecordKey::parse(written.as_bytes()) {
            Ok(key) => key,
            Err(wrong) => return self.faults.push(fault(&place, wrong.to_string())),
        };
        match self.places.entry(key.clone()) {
            hash_map::Entry::Vacant(vacant) => _ = vacant.insert(place.clone()),
            hash_map::Entry::Occupied(first) => {
                let message = format!("stands here a second time; the first is at {}", first.get());
                return self.faults.push(fault(&place, message));
            }
        }
        let line_of = |field: &str| node.line_of(field).unwrap_or(place.line);
        let value = serde_json::to_vec(&node.to_json()).unwrap_or_default();
        match decode_strict(&key, &value) {
            Ok(decoded) => {
                let spoken_of = decoded.inactive.iter().chain(&SPOKEN_OF).map(|field| (*field, line_of(field)));
                let lines = spoken_of.filter(|(_, line)| *line != place.line).collect();
                self.entries.push(Entry { key, record: decoded.record, value, place: Some(place), inactive: decoded.inactive, lines });
            }
            Err(wrong) => self.faults.extend(wrong.iter().map(|wrong| {
                let line = wrong.field.as_deref().map_or(place.line, line_of);
                fault(&Place { line, ..place.clone() }, wrong.to_string())
            })),
        }
    }
}

impl Entry {
    /// A record of the store.
    pub fn stored(key: RecordKey, record: Record, inactive: Vec<&'static str>) -> Self {
        Self { key, record, value: Vec::new(), place: None, inactive, lines: Vec::new() }
    }

    /// Something that is to be said of a field that is named by its path.
    pub fn warning(&self, field: &str, message: String) -> Diagnostic {
        let line = self.lines.iter().find(|(named, _)| *named == field).map(|(_, line)| *line);
        let place = self.place.as_ref().map(|place| Place { line: line.unwrap_or(place.line), ..place.clone() });
        Diagnostic::new(place.as_ref(), Some(self.key.to_string()), message, Severity::Warning)
    }

    /// A warning for each field that this version does not act on yet.
    pub fn inactive_warnings(&self) -> impl Iterator<Item = Diagnostic> + '_ {
        self.inactive.iter().map(|field| self.warning(field, format!("field \"{field}\" is not acted on by this version")))
    }
}

impl Diagnostic {
    /// A diagnostic; without a place it is about the store.
    pub fn new(place: Option<&Place>, key: Option<String>, message: String, severity: Severity) -> Self {
        let file = place.map(|place| place.file.to_string()).unwrap_or_default();
        // A control character in a name must not become a line, or a colour, of a terminal.
        let plain = |text: String| escaped(text.as_bytes());
        Self { file, line: place.map(|place| place.line), key: key.map(plain), message: plain(message), severity }
    }

    fn error(place: &Place, key: Option<String>, message: String) -> Self {
        Self::new(Some(place), key, message, Severity::Error)
    }
}
