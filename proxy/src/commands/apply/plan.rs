//! What `apply` would do, decided: what differs from the store, what is the same, and what every proxy would refuse. Pure.

use serde_json::Value;
use waypost_conf::{Diagnostic, Entry, FieldChange, Record, RecordKey, Route, Severity, decode, difference, same_value, without_secrets};
use waypost_watcher::{
    epoch::{self, EpochFault},
    record::Stored,
    store::{Change, Found},
};

/// What is to be done.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// The records that differ, in the order in which they are put.
    pub(super) changes: Vec<Planned>,
    /// The keys of those that are the same already.
    pub(super) same: Vec<RecordKey>,
    /// Why nothing may be put.
    pub(super) refused: Vec<Diagnostic>,
}

/// A record that differs from the store's.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) key: RecordKey,
    /// What the store has; `None`: nothing.
    pub(super) before: Option<Value>,
    pub(super) after: Value,
    pub(super) fields: Vec<FieldChange>,
    pub(super) change: Change,
}

impl Plan {
    /// Compares records with what the store has of their keys, in the same order.
    pub(super) fn new(entries: Vec<Entry>, found: Found) -> Self {
        let mut plan = Self::default();
        let next_revision = found.revision + 1;
        let mut pairs: Vec<(Entry, Option<Stored>)> = entries.into_iter().zip(found.records).collect();
        pairs.sort_by_key(|(entry, _)| rank(&entry.key));
        let afresh = pairs.iter().any(|(entry, stored)| raises_incarnation(entry, stored.as_ref()));
        for (entry, stored) in pairs {
            if stored.as_ref().is_some_and(|stored| same_value(&stored.value, &entry.value)) {
                plan.same.push(entry.key);
                continue;
            }
            plan.refused.extend(stored.as_ref().and_then(|stored| refuse(&entry, stored, next_revision, afresh)));
            plan.changes.push(planned(entry, stored));
        }
        plan
    }
}

/// What others refer to comes first, so that an apply in several transactions that stops in between leaves as little dangling as can be;
/// the incarnation comes last: epochs start afresh when it is raised, and by then all records must be there.
fn rank(key: &RecordKey) -> u8 {
    match key {
        RecordKey::Policy(_) | RecordKey::Certificate(_) => 0,
        RecordKey::Upstream(_) => 1,
        RecordKey::Endpoint { .. } => 2,
        RecordKey::Service(_) => 3,
        RecordKey::Route { .. } => 4,
        RecordKey::Incarnation => 5,
    }
}

fn planned(entry: Entry, stored: Option<Stored>) -> Planned {
    let json = |bytes: &[u8]| serde_json::from_slice(bytes).unwrap_or_else(|_| String::from_utf8_lossy(bytes).into());
    let read_at = stored.as_ref().map_or(0, |stored| stored.mod_revision);
    let before = stored.map(|stored| without_secrets(&entry.key, json(&stored.value)));
    let after = json(&entry.value);
    let fields = difference(before.as_ref(), &after);
    let change = Change { key: entry.key.suffix(), value: Some(entry.value), read_at };
    Planned { key: entry.key, before, after, fields, change }
}

fn raises_incarnation(entry: &Entry, stored: Option<&Stored>) -> bool {
    let Record::Incarnation(next) = entry.record else { return false };
    next > stored.and_then(incarnation).unwrap_or(0)
}

fn incarnation(stored: &Stored) -> Option<u64> {
    match decode(&RecordKey::Incarnation, &stored.value) {
        Ok(decoded) => {
            if let Record::Incarnation(number) = decoded.record {
                Some(number)
            } else {
                None
            }
        }
        Err(_) => None,
    }
}

/// Why every proxy would quarantine the record, if it would. `next_revision` is the least that the store can give to it.
fn refuse(entry: &Entry, stored: &Stored, next_revision: u64, afresh: bool) -> Option<Diagnostic> {
    let (field, message) = match &entry.record {
        Record::Incarnation(next) => {
            let known = incarnation(stored).filter(|known| next < known)?;
            ("incarnation", format!("the incarnation goes down from {known} to {next}; a number above any ever used would be right"))
        }
        Record::Route(route) if !afresh => refuse_route(&entry.key, route, stored, next_revision)?,
        _ => return None,
    };
    let mut refused = entry.warning(field, message);
    refused.severity = Severity::Error;
    Some(refused)
}

fn refuse_route(key: &RecordKey, route: &Route, stored: &Stored, next_revision: u64) -> Option<(&'static str, String)> {
    // A bad value in the store says nothing of epochs.
    let Ok(Record::Route(known)) = decode(key, &stored.value).map(|decoded| decoded.record) else { return None };
    let known_epoch = known.epoch.unwrap_or(stored.mod_revision);
    let next_epoch = route.epoch.unwrap_or(next_revision);
    let fault = epoch::may_follow((&known.owner, known_epoch), (&route.owner, next_epoch)).err()?;
    let right = format!("every proxy would quarantine it; epoch {} would be right", known_epoch + 1);
    Some(match (fault, route.epoch) {
        (EpochFault::Down { .. }, Some(epoch)) => ("epoch", format!("the epoch goes down from {known_epoch} to {epoch}; {right}")),
        (EpochFault::NotRaised { .. }, Some(_)) => {
            let (from, to) = (&known.owner, &route.owner);
            ("owner", format!("the owner changes from \"{from}\" to \"{to}\" but the epoch stays {known_epoch}; {right}"))
        }
        (_, None) => (
            "owner",
            format!(
                "without an epoch it would be the store's revision, {next_revision} or a little more, not above {known_epoch} as now; {right}"
            ),
        ),
    })
}

#[cfg(test)]
mod tests {
    use waypost_conf::Document;

    use super::*;

    /// A plan for one file; the store has these values, each made and changed at a revision, and stands at revision 100.
    fn plan(text: &str, stored: &[(&str, &str, u64)]) -> Plan {
        let mut document = Document::default();
        document.add("f.yaml", text);
        assert_eq!(document.faults, []);
        let records = document.entries.iter().map(|entry| {
            let found = stored.iter().find(|(key, ..)| key.as_bytes() == entry.key.suffix());
            found.map(|(key, value, at)| Stored {
                key: key.as_bytes().to_vec(),
                value: value.as_bytes().to_vec(),
                create_revision: 1,
                mod_revision: *at,
                leased: false,
            })
        });
        let found = Found { records: records.collect(), revision: 100 };
        Plan::new(document.entries, found)
    }

    fn refused(text: &str, stored: &[(&str, &str, u64)]) -> Vec<String> {
        plan(text, stored).refused.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_the_same_is_left_alone_however_it_is_written() {
        let plan =
            plan("routes/s/a: { epoch: 4, owner: a }\nroutes/s/b: { owner: b }\n", &[("routes/s/a", r#"{"owner": "a", "epoch":4}"#, 7)]);
        assert_eq!(plan.same.iter().map(ToString::to_string).collect::<Vec<_>>(), ["routes/s/a"]);
        assert_eq!(plan.changes.len(), 1);
        assert_eq!((plan.changes[0].change.read_at, &plan.changes[0].before), (0, &None));
    }

    #[test]
    fn what_others_refer_to_comes_first_and_the_incarnation_last() {
        let text =
            "incarnation: 1\nroutes/s/k: { owner: u }\nservices/s: { match: [{}], default_owner: u }\nupstreams/u: {}\npolicies/p: {}\n";
        let keys: Vec<String> = plan(text, &[]).changes.iter().map(|planned| planned.key.to_string()).collect();
        assert_eq!(keys, ["policies/p", "upstreams/u", "services/s", "routes/s/k", "incarnation"]);
    }

    #[test]
    fn epochs_that_every_proxy_would_quarantine_are_refused_with_what_would_be_right() {
        let at_43 = [("routes/s/k", r#"{"owner":"a","epoch":43}"#, 90)];
        for (text, wanted) in [
            (
                "routes/s/k:\n  owner: b\n  epoch: 43\n",
                "f.yaml:2: routes/s/k: the owner changes from \"a\" to \"b\" but the epoch stays 43; every proxy would quarantine it; epoch 44 would be right",
            ),
            (
                "routes/s/k:\n  owner: a\n  epoch: 42\n",
                "f.yaml:3: routes/s/k: the epoch goes down from 43 to 42; every proxy would quarantine it; epoch 44 would be right",
            ),
        ] {
            let said = refused(text, &at_43);
            assert_eq!(said.len(), 1);
            assert_eq!(said[0], wanted);
        }
        for fine in ["{ owner: b, epoch: 44 }", "{ owner: a, epoch: 43, state: frozen }", "{ owner: b }"] {
            assert_eq!(refused(&format!("routes/s/k: {fine}\n"), &at_43), Vec::<String>::new(), "{fine}");
        }
        let beyond = [("routes/s/k", r#"{"owner":"a","epoch":5000}"#, 90)];
        let said = refused("routes/s/k: { owner: b }\n", &beyond);
        assert!(said[0].contains("the store's revision, 101") && said[0].ends_with("epoch 5001 would be right"), "{said:?}");
        let without = [("routes/s/k", r#"{"owner":"a"}"#, 90)];
        assert_eq!(
            refused("routes/s/k: { owner: b, epoch: 90 }\n", &without).len(),
            1,
            "the epoch of a record without one is its revision"
        );
        assert_eq!(refused("routes/s/k: { owner: b, epoch: 1 }\n", &[("routes/s/k", "bad", 90)]), Vec::<String>::new());
        assert_eq!(refused("routes/s/k: { owner: b, epoch: 1 }\n", &[]), Vec::<String>::new());
    }

    #[test]
    fn a_private_key_that_stands_in_the_store_is_not_shown() {
        let stored = [("certificates/c", r#"{"cert":"file:/c.pem","key":"-----BEGIN PRIVATE KEY----- c2VjcmV0"}"#, 90)];
        let plan = plan("certificates/c: { cert: 'file:/c.pem', key: 'env:K' }\n", &stored);
        assert_eq!(plan.changes.len(), 1);
        assert!(!format!("{:?} {:?}", plan.changes[0].before, plan.changes[0].fields).contains("c2VjcmV0"));
    }

    #[test]
    fn another_incarnation_starts_epochs_afresh_and_never_goes_down() {
        let stored = [("routes/s/k", r#"{"owner":"a","epoch":43}"#, 90), ("incarnation", "5", 2)];
        assert_eq!(refused("routes/s/k: { owner: b, epoch: 1 }\nincarnation: 6\n", &stored), Vec::<String>::new());
        assert_eq!(refused("routes/s/k: { owner: b, epoch: 1 }\nincarnation: 5\n", &stored).len(), 1);
        assert!(refused("incarnation: 4\n", &stored)[0].contains("goes down from 5 to 4"));
    }
}
