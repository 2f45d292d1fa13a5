//! The table: every service, route, upstream and policy at one revision of the gold copy.
//!
//! A [`Table`] is immutable once published; a lookup follows the one swapped pointer, takes no lock and allocates nothing. The
//! one [`Builder`] makes the next table out of the last by copying what changed. Beside the records stand the answers of checks
//! that ran ahead of the watch (`ahead.rs`), so that the records themselves are always exactly the store's at
//! [`Table::revision`].

mod ahead;
mod builder;
mod example;
mod names;
mod records;
mod routes;
mod warnings;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    sync::{Arc, OnceLock},
};

use waypost_conf::{Certificate, KeySource, Match, Name, Policy, UpstreamTls};

pub use builder::{Builder, Met, Meta, Publication};
pub use example::Example;
pub use names::{ServiceId, UpstreamId};
pub use records::Records;
pub use routes::{Batch, Route, State};
pub use warnings::Warning;

use crate::{
    Upstream,
    budget::RetryBudget,
    matching::{Fit, Matcher},
};
use ahead::ReadAhead;
use names::Names;
use routes::Routes;

/// Which incarnation of the store a table came from: `<cluster id in hex>-<incarnation>`, or `file-0`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TableId(Arc<str>);

impl TableId {
    /// The incarnation of an etcd cluster.
    pub fn etcd(cluster_id: u64, incarnation: u64) -> Self {
        Self(format!("{cluster_id:x}-{incarnation}").into())
    }

    /// A file source: its epochs have no order across loads.
    pub fn file() -> Self {
        Self("file-0".into())
    }

    /// Whether it is an incarnation of this etcd cluster.
    pub fn is_of_cluster(&self, cluster_id: u64) -> bool {
        self.0.rsplit_once('-').is_some_and(|(cluster, _)| cluster == format!("{cluster_id:x}"))
    }

    /// As it is written in stamps.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The same, to be kept.
    pub(crate) fn shared(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }
}

impl From<&str> for TableId {
    fn from(written: &str) -> Self {
        Self(written.into())
    }
}

impl fmt::Display for TableId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// Where what is known of a key comes from; `/routes` and `/explain` show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// The watch on the gold copy.
    Watch,
    /// The snapshot on disk, from before this process started.
    Snapshot,
    /// A file.
    File,
    /// A backend's word, ahead of the watch.
    Hint,
    /// A check: a read of the store, ahead of the watch.
    Store,
    /// No route: the service's default owner.
    Default,
}

impl Source {
    /// As it is written in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Watch => "watch",
            Self::Snapshot => "snapshot",
            Self::File => "file",
            Self::Hint => "hint",
            Self::Store => "store",
            Self::Default => "default",
        }
    }
}

/// A service and a routing key of it: what hints, checks and waits are kept by.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestKey {
    /// The service's number.
    pub service: ServiceId,
    /// The routing key, 1 to 1,024 bytes.
    pub key: Arc<[u8]>,
}

/// A service as a request meets it.
#[derive(Debug)]
pub struct Service {
    /// Its number in the table.
    pub id: ServiceId,
    /// Its name.
    pub name: Name,
    /// Which requests belong to it, as written.
    pub matches: Vec<Match>,
    /// Where its routing key is; `None`: everything goes to the default owner.
    pub key: Option<KeySource>,
    /// Who owns a key without a route.
    pub default_owner: Option<UpstreamId>,
    /// The policy in force for it.
    pub policy: Arc<Policy>,
    /// The name under which that policy was found; `default` where the service names none or one that does not exist.
    pub policy_name: Arc<str>,
    /// Whether paths with dot segments are let through.
    pub dot_segments: bool,
    /// True if its record is quarantined and no last good value exists: its requests are answered `quarantined`.
    pub quarantined: bool,
    /// Its retry budget, which outlives publishes.
    pub budget: Arc<RetryBudget>,
}

/// What a check found for one key, ahead of the watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// The store's revision at which it was read.
    pub revision: u64,
    /// The route, or `None`: the key had none. Bad values are `Route::quarantined`.
    pub route: Option<Route>,
}

impl Read {
    fn as_entry(&self) -> Entry {
        self.route.map_or(Entry::Absent(Source::Store), |route| Entry::Route(route, Source::Store))
    }
}

/// The table in force.
#[derive(Debug)]
pub struct Table {
    revision: u64,
    id: TableId,
    source: Source,
    digest: u128,
    services: Arc<Vec<Arc<Service>>>,
    /// Positions in `services` by service number.
    service_positions: Arc<HashMap<ServiceId, usize>>,
    matcher: Arc<Matcher>,
    service_names: Arc<Names>,
    upstream_names: Arc<Names>,
    /// By upstream number; `None` where something names an upstream without a record.
    upstreams: Arc<Vec<Option<Arc<Upstream>>>>,
    default_policy: Arc<Policy>,
    certificates: Arc<BTreeMap<Name, Recorded<Certificate>>>,
    secured: Arc<BTreeMap<Name, Recorded<Arc<UpstreamTls>>>>,
    routes: Routes,
    read_ahead: ReadAhead,
    /// Of services, as far as no upstream is concerned.
    doubts: Arc<Vec<Warning>>,
    /// Upstreams without a record that have endpoints.
    homeless: Arc<BTreeSet<Name>>,
    /// Once somebody has asked.
    warnings: OnceLock<Vec<Warning>>,
}

/// What a record says, as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded<T> {
    /// The record, or the part of it.
    pub value: T,
    /// Its revision in the store.
    pub revision: u64,
}

/// What the table says about one key of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// The route in force, and where it comes from.
    Route(Route, Source),
    /// Nothing: the default owner's, if there is one.
    Absent(Source),
}

impl Table {
    /// The store's revision that the records reflect; for a file source, the count of loads.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The incarnation of the store.
    pub fn id(&self) -> &TableId {
        &self.id
    }

    /// Where the records come from: watch, snapshot or file.
    pub fn source(&self) -> Source {
        self.source
    }

    /// The digest over every record's key, mod_revision and value as the store has them.
    pub fn digest(&self) -> u128 {
        self.digest
    }

    /// The certificates for listeners, as written; the same `Arc` while none has changed.
    pub fn certificates(&self) -> &Arc<BTreeMap<Name, Recorded<Certificate>>> {
        &self.certificates
    }

    /// How connections to upstreams are made secure, by upstream; the same `Arc` while none has changed.
    pub fn secured(&self) -> &Arc<BTreeMap<Name, Recorded<Arc<UpstreamTls>>>> {
        &self.secured
    }

    /// The service that a request belongs to. `authority` and `path` as sent.
    pub fn find_service(&self, authority: Option<&[u8]>, path: &[u8]) -> Option<&Arc<Service>> {
        self.match_service(authority, path).map(|(service, _)| service)
    }

    /// The same, with how closely it fits.
    pub fn match_service(&self, authority: Option<&[u8]>, path: &[u8]) -> Option<(&Arc<Service>, Fit)> {
        let matched = self.matcher.find(authority, path)?;
        Some((self.services.get(matched.service)?, matched.fit))
    }

    /// A service by its number.
    pub fn service(&self, id: ServiceId) -> Option<&Arc<Service>> {
        self.service_positions.get(&id).and_then(|&position| self.services.get(position))
    }

    /// A service by its name.
    pub fn service_named(&self, name: &str) -> Option<&Arc<Service>> {
        self.service_names.number(name).and_then(|number| self.service(ServiceId::new(number)))
    }

    /// All services.
    pub fn services(&self) -> &[Arc<Service>] {
        &self.services
    }

    /// What is known of a key of a service: a check that ran ahead of the watch, else the records.
    #[inline]
    pub fn entry(&self, key: &RequestKey) -> Entry {
        if !self.read_ahead.is_empty()
            && let Some(read) = self.read_ahead.get(key)
        {
            return read.as_entry();
        }
        self.routes.find(key.service, &key.key).map_or(Entry::Absent(self.source), |(_, route)| Entry::Route(route, self.source))
    }

    /// As of which revision of the store what is known of a key is so, at least.
    pub fn known_at(&self, key: &RequestKey) -> u64 {
        self.read_ahead.get(key).map_or(self.revision, |read| read.revision.max(self.revision))
    }

    /// The key of the record that covers a routing key, if one does: the routing key itself, a range of slots, or the start of a range.
    pub fn record_of(&self, key: &RequestKey) -> Option<Arc<[u8]>> {
        match self.entry(key) {
            Entry::Absent(_) => None,
            Entry::Route(_, Source::Store) => Some(Arc::clone(&key.key)),
            Entry::Route(..) => match self.routes.find(key.service, &key.key)?.0 {
                None => Some(Arc::clone(&key.key)),
                Some(record) => Some(record.into()),
            },
        }
    }

    /// What is known of a record by its service's name, whether or not the service has a record. `record` is its key below
    /// `routes/<service>/`.
    pub fn record(&self, service: &str, record: &[u8]) -> Entry {
        let Some(service) = self.service_names.number(service).map(ServiceId::new) else { return Entry::Absent(self.source) };
        if !self.read_ahead.is_empty()
            && let Some(read) = self.read_ahead.get(&RequestKey { service, key: record.into() })
        {
            return read.as_entry();
        }
        self.routes.get(service, record).map_or(Entry::Absent(self.source), |route| Entry::Route(route, self.source))
    }

    /// An upstream by its number; `None` if it has no record.
    pub fn upstream(&self, id: UpstreamId) -> Option<&Arc<Upstream>> {
        self.upstreams.get(id.index()).and_then(Option::as_ref)
    }

    /// An upstream by its name; `None` if it has no record.
    pub fn upstream_named(&self, name: &str) -> Option<&Arc<Upstream>> {
        self.upstream_names.number(name).and_then(|number| self.upstream(UpstreamId::new(number)))
    }

    /// The name of an upstream, whether or not it has a record.
    pub fn upstream_name(&self, id: UpstreamId) -> Option<&Name> {
        self.upstream_names.name(id.index())
    }

    /// All upstreams that have a record.
    pub fn upstreams(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.upstreams.iter().flatten()
    }

    /// The policy that applies where none is named.
    pub fn default_policy(&self) -> &Arc<Policy> {
        &self.default_policy
    }

    /// How many routes there are, quarantined ones without a last good value included.
    pub fn route_count(&self) -> usize {
        self.routes.len()
    }

    /// The records of routes that are frozen, in no order, each with its service's name and its key below `routes/<service>/`; a few
    /// thousand at most. And whether there are more.
    pub fn frozen(&self) -> (impl Iterator<Item = (&Name, &[u8], Route)>, bool) {
        let (records, are_more) = self.routes.frozen();
        (records.filter_map(|(service, record, route)| Some((self.service_names.name(service.index())?, record, route))), are_more)
    }
}

/// What the store says of a record put at a revision.
#[cfg(test)]
fn testing_meta(revision: u64) -> Meta {
    Meta { create_revision: 1, mod_revision: revision, digest: 0, leased: false }
}

#[cfg(test)]
pub(crate) mod testing {
    //! Tables and upstreams for the core's own tests, made as production makes them.

    use super::*;
    use waypost_conf::{Balance, RecordKey, decode};

    /// A builder with these records applied at revision 1, each written as in a record file.
    pub(crate) fn builder(records: &[(&str, &str)]) -> Builder {
        let mut builder = Builder::default();
        for (key, value) in records {
            put(&mut builder, key, value, 1);
        }
        builder
    }

    /// Puts one record at a revision.
    pub(crate) fn put(builder: &mut Builder, key: &str, value: &str, revision: u64) {
        let key = RecordKey::parse(key.as_bytes()).unwrap();
        let record = decode(&key, value.as_bytes()).unwrap().record;
        builder.put(&key, record, testing_meta(revision));
    }

    /// The table of these records at `revision`.
    pub(crate) fn table(records: &[(&str, &str)], revision: u64) -> Arc<Table> {
        let publication = Publication { revision, id: TableId::etcd(0xc0ffee, 0), source: Source::Watch, digest: 0 };
        builder(records).publish(publication)
    }

    /// One upstream with these endpoints.
    pub(crate) fn upstream(name: &str, balance: Balance, endpoints: &[(&str, u32)]) -> Arc<Upstream> {
        let list: Vec<String> =
            endpoints.iter().map(|(address, weight)| format!(r#"{{"address":"{address}","weight":{weight}}}"#)).collect();
        let balance = if balance == Balance::RoundRobin { "round_robin" } else { "p2c" };
        let record = format!(r#"{{"endpoints":[{}],"balance":"{balance}"}}"#, list.join(","));
        let table = table(&[(&format!("upstreams/{name}"), &record)], 1);
        Arc::clone(table.upstream_named(name).unwrap())
    }
}
