//! Names in records that have no record of their own: allowed, since records may come in any order, but worth a warning.

use std::collections::{BTreeMap, BTreeSet};

use crate::{Diagnostic, Entry, Name, Record, RecordKey, RouteState, suggest::did_you_mean};

/// How many records with the same missing name are named one by one.
const MAX_NAMED: usize = 5;

/// The names that have a record.
#[derive(Clone, Debug, Default)]
pub struct Names {
    services: BTreeSet<Name>,
    upstreams: BTreeSet<Name>,
    policies: BTreeSet<Name>,
}

impl Names {
    /// Takes a key's name in, if others can refer to it.
    pub fn add(&mut self, key: &RecordKey) {
        match key {
            RecordKey::Service(name) => _ = self.services.insert(name.clone()),
            RecordKey::Upstream(name) => _ = self.upstreams.insert(name.clone()),
            RecordKey::Policy(name) => _ = self.policies.insert(name.clone()),
            RecordKey::Route { .. } | RecordKey::Endpoint { .. } | RecordKey::Certificate(_) | RecordKey::Incarnation => {}
        }
    }
}

impl<'a> FromIterator<&'a RecordKey> for Names {
    fn from_iter<I: IntoIterator<Item = &'a RecordKey>>(keys: I) -> Self {
        let mut names = Self::default();
        keys.into_iter().for_each(|key| names.add(key));
        names
    }
}

/// A warning for each name in the entries that is not among the known ones; `nowhere` says where they were looked for, as in
/// `in these files or in the store`. Of many records with the same name the first few are named and the others counted.
pub fn dangling<'a>(entries: impl IntoIterator<Item = &'a Entry>, known: &Names, nowhere: &str) -> Vec<Diagnostic> {
    let mut warnings: Vec<Diagnostic> = Vec::new();
    // By what is missing: how often it is named, and the last warning that says so.
    let mut missing: BTreeMap<(&str, &Name), (usize, usize)> = BTreeMap::new();
    for entry in entries {
        for (field, folder, name) in named(entry) {
            let names = match folder {
                "services" => &known.services,
                "upstreams" => &known.upstreams,
                _ => &known.policies,
            };
            if names.contains(name) {
                continue;
            }
            let (times, last) = missing.entry((folder, name)).or_default();
            *times += 1;
            if *times <= MAX_NAMED {
                let meant = did_you_mean(name, names.iter().map(AsRef::as_ref));
                *last = warnings.len();
                warnings.push(entry.warning(field, format!("{field} \"{name}\" has no record {folder}/{name} {nowhere}{meant}")));
            }
        }
    }
    for (times, last) in missing.into_values().filter(|(times, _)| *times > MAX_NAMED) {
        if let Some(warning) = warnings.get_mut(last) {
            warning.message.push_str(&format!(" ({} more records name it)", times - MAX_NAMED));
        }
    }
    warnings
}

/// What an entry refers to: the field, the folder of the record that it needs, and that record's name.
fn named(entry: &Entry) -> Vec<(&'static str, &'static str, &Name)> {
    let mut named = Vec::new();
    match &entry.key {
        RecordKey::Route { service, .. } => named.push(("service", "services", service)),
        RecordKey::Endpoint { upstream, .. } => named.push(("upstream", "upstreams", upstream)),
        _ => {}
    }
    match &entry.record {
        Record::Service(service) => {
            named.extend(service.default_owner.iter().map(|owner| ("default_owner", "upstreams", owner)));
            // Without a record of this name the built-in values apply: nothing is missing.
            named.extend(service.policy.iter().filter(|policy| &***policy != "default").map(|policy| ("policy", "policies", policy)));
        }
        Record::Route(route) => {
            named.push(("owner", "upstreams", &route.owner));
            if let RouteState::Moving { target } | RouteState::Frozen { target: Some(target), .. } = &route.state {
                named.push(("target", "upstreams", target));
            }
        }
        _ => {}
    }
    named
}
