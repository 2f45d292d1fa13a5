//! The requests that an owner's process serves, by key, and what it announces of them.
//!
//! What always holds: a key is in the ledger from before its request is judged until nothing of it is executed any more, and an
//! announcement looks at the table before it looks at the ledger. So who announces that it judges by a revision names every key that it
//! still serves by an older one.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{Table, owner, table::RequestKey};

/// A service and a routing key of it.
pub type Key = (Arc<str>, Arc<[u8]>);

/// The value at `<prefix>-state/owners/<upstream>/<id>`. What can't be read says nothing: the default, which has applied nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// The store's revision that this process judges by.
    pub applied: u64,
    /// Keys that it may not serve any more, with requests of before that have not ended.
    pub busy: Vec<BusyKey>,
    /// Whether the process serves nothing any more when this has gone with its lease: its lease's end counts as its word.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ends_with_lease: bool,
}

/// One key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BusyKey {
    /// The service's name.
    pub service: String,
    /// The routing key; what is no text is replaced.
    pub key: String,
    /// The key below `routes/<service>/` of the record that covers it, where that is another one: a range of slots, or the start of a range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<String>,
}

/// Requests under way.
#[derive(Debug, Default)]
pub struct Ledger {
    requests: HashMap<Key, usize>,
    /// Keys that may not be served any more, and have been announced as busy.
    awaited: HashSet<Key>,
}

impl Ledger {
    /// A request for a key is about to be judged.
    pub fn enter(&mut self, key: &Key) {
        *self.requests.entry(key.clone()).or_default() += 1;
    }

    /// A request has ended, or was refused. Whether that is to be announced: it was the last one for a key that was announced as busy.
    pub fn leave(&mut self, key: &Key) -> bool {
        let Some(count) = self.requests.get_mut(key) else { return false };
        *count -= 1;
        if *count > 0 {
            return false;
        }
        self.requests.remove(key);
        self.awaited.remove(key)
    }

    /// What a process of the upstream `me` that judges by this table has to announce; the ends of the requests that it names are awaited
    /// from now on.
    pub fn announce(&mut self, table: &Table, me: &str) -> Announcement {
        let lost = self.requests.keys().filter(|(service, key)| !owner::owns(table, me, service, key));
        self.awaited = lost.cloned().collect();
        let mut busy: Vec<BusyKey> = self.awaited.iter().map(|(service, key)| BusyKey::of(table, service, key)).collect();
        busy.sort_unstable();
        Announcement { applied: table.revision(), busy, ends_with_lease: false }
    }

    /// The keys that were announced as busy and still are.
    pub fn awaited(&self) -> impl Iterator<Item = &Key> {
        self.awaited.iter()
    }

    /// Whether a key has requests under way.
    pub fn has(&self, key: &Key) -> bool {
        self.requests.contains_key(key)
    }

    /// How many requests are under way.
    pub fn count(&self) -> usize {
        self.requests.values().sum()
    }

    /// Whether no key has.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }
}

impl BusyKey {
    fn of(table: &Table, service: &str, key: &Arc<[u8]>) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let id = table.service_named(service).map(|service| service.id);
        let record = id.and_then(|service| table.record_of(&RequestKey { service, key: Arc::clone(key) }));
        let record = record.filter(|record| record != key).map(|record| text(&record));
        Self { service: service.to_owned(), key: text(key), record }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::testing;

    const SERVICE: &str = r#"{"match":[{}],"key":{"header":"x-tenant"}}"#;

    fn key(key: &str) -> Key {
        ("orders".into(), key.as_bytes().into())
    }

    fn table(routes: &[(&str, &str)], revision: u64) -> Arc<Table> {
        let fixed = [("services/orders", SERVICE), ("upstreams/a", "{}"), ("upstreams/b", "{}")];
        testing::table(&[&fixed, routes].concat(), revision)
    }

    #[test]
    fn what_was_lost_while_it_was_served_is_announced_until_its_last_request_has_ended() {
        let mut ledger = Ledger::default();
        let mine = table(&[("routes/orders/k", r#"{"owner":"a"}"#), ("routes/orders/o", r#"{"owner":"a"}"#)], 20);
        let frozen = table(&[("routes/orders/k", r#"{"owner":"a","state":"frozen"}"#), ("routes/orders/o", r#"{"owner":"a"}"#)], 21);
        for name in ["k", "k", "o"] {
            ledger.enter(&key(name));
        }
        assert_eq!(ledger.announce(&mine, "a"), Announcement { applied: 20, ..Announcement::default() });
        let busy = BusyKey { service: "orders".to_owned(), key: "k".to_owned(), record: None };
        assert_eq!(ledger.announce(&frozen, "a"), Announcement { applied: 21, busy: vec![busy], ends_with_lease: false });
        assert!(!ledger.leave(&key("k")) && !ledger.leave(&key("o")), "one is left; the other was never announced");
        assert!(ledger.leave(&key("k")));
        assert!(!ledger.leave(&key("k")), "nothing ends twice");
        assert_eq!(ledger.announce(&frozen, "a").busy, []);
        assert!(ledger.is_empty() && ledger.awaited().next().is_none());
    }

    #[test]
    fn a_record_of_many_keys_is_named_beside_the_busy_one() {
        let service = r#"{"match":[{}],"key":{"header":"x-tenant"},"partition":"range"}"#;
        let records = [("services/orders", service), ("upstreams/a", "{}"), ("routes/orders/c", r#"{"owner":"a","state":"frozen"}"#)];
        let mut ledger = Ledger::default();
        ledger.enter(&key("d"));
        let announced = ledger.announce(&testing::table(&records, 9), "a");
        assert_eq!(announced.busy, [BusyKey { service: "orders".to_owned(), key: "d".to_owned(), record: Some("c".to_owned()) }]);
        let written = serde_json::to_string(&announced).unwrap();
        assert_eq!(written, r#"{"applied":9,"busy":[{"service":"orders","key":"d","record":"c"}]}"#);
        let known = r#"{"applied":9,"busy":[{"service":"orders","key":"d"}],"more":1}"#;
        assert_eq!(serde_json::from_str::<Announcement>(known).unwrap().busy[0].record, None);
    }
}
