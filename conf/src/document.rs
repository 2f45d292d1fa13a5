//! Record files: YAML or JSON, one mapping from the part of an etcd key after the prefix to a record.
//!
//! All faults of a file are collected, not only the first, each with its line.

use std::{collections::BTreeSet, fmt};

use crate::{
    Name, Record, RecordKey,
    node::{self, Data},
    record::decode_strict,
};

/// A record file without faults.
#[derive(Clone, Debug, Default)]
pub struct Document {
    /// Its records, in order.
    pub entries: Vec<Entry>,
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
    /// The line on which its key stands, from 1.
    pub line: usize,
    /// Fields that this version does not act on yet.
    pub inactive: Vec<&'static str>,
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
    /// The file's name, as it was given.
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
        out.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(out, ":{line}")?;
        }
        out.write_str(": ")?;
        if let Some(key) = &self.key {
            write!(out, "{key}: ")?;
        }
        if self.severity == Severity::Warning {
            out.write_str("warning: ")?;
        }
        out.write_str(&self.message)
    }
}

/// Reads a record file.
///
/// # Errors
/// All faults that were found.
pub fn parse_document(file: &str, text: &str) -> Result<Document, Vec<Diagnostic>> {
    let fault = |line, key: Option<&str>, message: String| Diagnostic {
        file: file.to_owned(),
        line: Some(line),
        key: key.map(str::to_owned),
        message,
        severity: Severity::Error,
    };
    let root = node::parse(text).map_err(|wrong| vec![fault(wrong.line, None, wrong.message)])?;
    let Some(root) = root else { return Ok(Document::default()) };
    let Data::Map(records) = root.data else {
        let message = "a mapping from keys to records would be right, as in  routes/orders/tenant-42: { owner: cell-7 }";
        return Err(vec![fault(root.line, None, message.to_owned())]);
    };
    let mut document = Document::default();
    let mut faults = Vec::new();
    for (written, line, node) in records {
        let key = match RecordKey::parse(written.as_bytes()) {
            Ok(key) => key,
            Err(wrong) => {
                faults.push(fault(line, Some(&written), wrong.to_string()));
                continue;
            }
        };
        let value = serde_json::to_vec(&node.to_json()).unwrap_or_default();
        match decode_strict(&key, &value) {
            Ok(decoded) => document.entries.push(Entry { key, record: decoded.record, value, line, inactive: decoded.inactive }),
            Err(wrong) => faults.extend(wrong.iter().map(|wrong| {
                let at = wrong.field.as_deref().map_or(line, |field| node.line_of(field).max(line));
                fault(at, Some(&written), wrong.to_string())
            })),
        }
    }
    if faults.is_empty() { Ok(document) } else { Err(faults) }
}

/// What in a set of records names something that is not among them. `file` names where they come from.
pub fn check_references(file: &str, entries: &[Entry]) -> Vec<Diagnostic> {
    let mut services = BTreeSet::new();
    let mut upstreams = BTreeSet::new();
    let mut policies = BTreeSet::new();
    for entry in entries {
        match &entry.key {
            RecordKey::Service(name) => services.insert(name.clone()),
            RecordKey::Upstream(name) => upstreams.insert(name.clone()),
            RecordKey::Policy(name) => policies.insert(name.clone()),
            _ => false,
        };
    }
    let mut warnings = Vec::new();
    for entry in entries {
        let mut missing = |kind: &str, known: &BTreeSet<Name>, name: Option<&Name>| {
            if let Some(name) = name.filter(|name| !known.contains(*name)) {
                warnings.push(Diagnostic {
                    file: file.to_owned(),
                    line: Some(entry.line).filter(|line| *line > 0),
                    key: Some(entry.key.to_string()),
                    message: format!("{kind} \"{name}\" is not among these records"),
                    severity: Severity::Warning,
                });
            }
        };
        if let RecordKey::Route { service, .. } = &entry.key {
            missing("service", &services, Some(service));
        }
        if let RecordKey::Endpoint { upstream, .. } = &entry.key {
            missing("upstream", &upstreams, Some(upstream));
        }
        match &entry.record {
            Record::Service(service) => {
                missing("default_owner", &upstreams, service.default_owner.as_ref());
                missing("policy", &policies, service.policy.as_ref());
            }
            Record::Route(route) => missing("owner", &upstreams, Some(&route.owner)),
            _ => {}
        }
    }
    warnings
}
