//! The one writer of tables: takes decoded records, keeps what compiling needs, and publishes the next table.
//!
//! It decides nothing about what may be taken: quarantine, epoch order and digests are the watcher's, who owns the only
//! `Builder`. What is rebuilt at a publish is what its records touched: routes a partition each, one upstream each, all
//! services together (there are few). Endpoint states, retry budgets and numbers of names are carried over.

mod many;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, OnceLock},
};

use waypost_conf::{self as conf, Name, Record, RecordKey, RouteState};

pub use many::Met;

use super::{
    Names, Read, Recorded, Records, RequestKey, Route, Routes, Service, ServiceId, Source, State, Table, TableId, UpstreamId, Warning,
    ahead::ReadAhead, records::record_of,
};
use crate::{Endpoint, Upstream, endpoint::EndpointState, matching::Matcher};

/// What the store says of a record beside its value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// The revision at which the key was made.
    pub create_revision: u64,
    /// The revision of this value.
    pub mod_revision: u64,
    /// The hash of key, mod_revision and value that the digest sums up.
    pub digest: u128,
    /// Whether the key hangs on a lease.
    pub leased: bool,
}

/// What a table says of itself.
#[derive(Clone, Debug)]
pub struct Publication {
    /// The store's revision that the records reflect.
    pub revision: u64,
    /// The incarnation of the store.
    pub id: TableId,
    /// Where the records come from.
    pub source: Source,
    /// The digest over the records as the store has them.
    pub digest: u128,
}

#[derive(Clone, Debug)]
struct Kept<T> {
    value: T,
    meta: Meta,
}

/// The writer's own view. Not `Clone`: there is one writer.
#[derive(Debug, Default)]
pub struct Builder {
    services: BTreeMap<Name, Kept<conf::Service>>,
    /// Services without a last good value; of those only the match entries could be read.
    quarantined_services: BTreeSet<Name>,
    upstreams: BTreeMap<Name, Kept<conf::Upstream>>,
    endpoints: BTreeMap<Name, BTreeMap<Name, Kept<conf::Endpoint>>>,
    /// The last leased endpoint of an upstream that would have none, by upstream.
    orphans: BTreeMap<Name, conf::Endpoint>,
    policies: BTreeMap<Name, Kept<conf::Policy>>,
    certificates: BTreeMap<Name, Kept<conf::Certificate>>,
    incarnation: Option<Kept<u64>>,

    service_names: Arc<Names>,
    upstream_names: Arc<Names>,
    routes: Routes,
    read_ahead: ReadAhead,
    compiled: Compiled,
    /// Services or policies have changed.
    services_touched: bool,
    upstreams_touched: BTreeSet<Name>,
    certificates_touched: bool,
    /// What an upstream's record says of TLS.
    secured_touched: bool,
}

/// The parts of the last table that the next one shares where nothing touched them.
#[derive(Debug, Default)]
struct Compiled {
    services: Arc<Vec<Arc<Service>>>,
    positions: Arc<HashMap<ServiceId, usize>>,
    matcher: Arc<Matcher>,
    upstreams: Arc<Vec<Option<Arc<Upstream>>>>,
    default_policy: Arc<conf::Policy>,
    certificates: Arc<BTreeMap<Name, Recorded<conf::Certificate>>>,
    secured: Arc<BTreeMap<Name, Recorded<Arc<conf::UpstreamTls>>>>,
    /// Of services, as far as no upstream is concerned.
    doubts: Arc<Vec<Warning>>,
    /// Upstreams without a record that have endpoints.
    homeless: Arc<BTreeSet<Name>>,
}

impl Builder {
    /// Puts a good record in force at the next publish.
    pub fn put(&mut self, key: &RecordKey, record: Record, meta: Meta) {
        match (key, record) {
            (RecordKey::Service(name), Record::Service(value)) => {
                self.quarantined_services.remove(name);
                self.services.insert(name.clone(), Kept { value, meta });
                self.services_touched = true;
            }
            (RecordKey::Route { service, key }, Record::Route(value)) => self.put_route(service, key, &value, meta),
            (RecordKey::Upstream(name), Record::Upstream(value)) => {
                self.orphans.remove(name);
                self.secured_touched |= value.tls.is_some();
                let before = self.upstreams.insert(name.clone(), Kept { value, meta });
                self.secured_touched |= is_secured(before.as_ref());
                self.upstreams_touched.insert(name.clone());
            }
            (RecordKey::Endpoint { upstream, id }, Record::Endpoint(value)) => {
                self.orphans.remove(upstream);
                self.endpoints.entry(upstream.clone()).or_default().insert(id.clone(), Kept { value, meta });
                self.upstreams_touched.insert(upstream.clone());
            }
            (RecordKey::Policy(name), Record::Policy(value)) => {
                self.policies.insert(name.clone(), Kept { value, meta });
                self.services_touched = true;
            }
            (RecordKey::Certificate(name), Record::Certificate(value)) => {
                self.certificates.insert(name.clone(), Kept { value, meta });
                self.certificates_touched = true;
            }
            (RecordKey::Incarnation, Record::Incarnation(value)) => self.incarnation = Some(Kept { value, meta }),
            _ => debug_assert!(false, "a record was decoded for another kind of key"),
        }
    }

    /// Marks a key whose only value is bad: its requests are answered 503 `quarantined`. `matches` is what could be read
    /// of a service's match entries.
    pub fn quarantine(&mut self, key: &RecordKey, meta: Meta, matches: Vec<conf::Match>) {
        match key {
            RecordKey::Route { service, key } => {
                let service = self.service_id(service);
                self.routes.insert(service, key, Route::quarantined(meta));
            }
            RecordKey::Service(name) if !matches.is_empty() => {
                let value = conf::Service {
                    matches,
                    key: None,
                    partition: conf::Partition::Exact,
                    default_owner: None,
                    policy: None,
                    dot_segments: true,
                };
                self.services.insert(name.clone(), Kept { value, meta });
                self.quarantined_services.insert(name.clone());
                self.services_touched = true;
            }
            _ => {}
        }
    }

    /// Changes what is said of a value in force, and nothing else of it.
    pub fn set_meta(&mut self, key: &RecordKey, meta: Meta) {
        match key {
            RecordKey::Route { service, key } => {
                let Some(route) = self.route(service, key) else { return };
                let service = self.service_id(service);
                self.routes.insert(service, key, Route { meta, ..route });
            }
            RecordKey::Service(name) => {
                self.services_touched = true;
                set(self.services.get_mut(name), meta);
            }
            RecordKey::Upstream(name) => {
                self.secured_touched |= is_secured(self.upstreams.get(name));
                set(self.upstreams.get_mut(name), meta);
            }
            RecordKey::Endpoint { upstream, id } => {
                self.upstreams_touched.insert(upstream.clone());
                set(self.endpoints.get_mut(upstream).and_then(|ids| ids.get_mut(id)), meta);
            }
            RecordKey::Policy(name) => set(self.policies.get_mut(name), meta),
            RecordKey::Certificate(name) => {
                self.certificates_touched = true;
                set(self.certificates.get_mut(name), meta);
            }
            RecordKey::Incarnation => set(self.incarnation.as_mut(), meta),
        }
    }

    /// Takes a record out of force.
    pub fn remove(&mut self, key: &RecordKey) {
        match key {
            RecordKey::Service(name) => {
                self.services_touched |= self.services.remove(name).is_some();
                self.quarantined_services.remove(name);
            }
            RecordKey::Route { service, key } => {
                if let Some(service) = self.service_names.number(service) {
                    self.routes.remove(ServiceId::new(service), key);
                }
            }
            RecordKey::Upstream(name) => {
                self.orphans.remove(name);
                self.secured_touched |= is_secured(self.upstreams.remove(name).as_ref());
                self.upstreams_touched.insert(name.clone());
            }
            RecordKey::Endpoint { upstream, id } => self.remove_endpoint(upstream, id),
            RecordKey::Policy(name) => self.services_touched |= self.policies.remove(name).is_some(),
            RecordKey::Certificate(name) => self.certificates_touched |= self.certificates.remove(name).is_some(),
            RecordKey::Incarnation => self.incarnation = None,
        }
    }

    /// Lays what a check read over a key, unless something as new is there. True if it does from now on. What the table says already is news too, since
    /// it was so at a later revision: a claim about an earlier one is no hint any more.
    pub fn read_ahead(&mut self, key: RequestKey, read: Read) -> bool {
        let is_news = self.read_ahead.get(&key).is_none_or(|known| known.revision < read.revision);
        if is_news {
            self.read_ahead.insert(key, read);
        }
        is_news
    }

    /// Forgets all reads that ran ahead: the incarnation of the store has changed.
    pub fn forget_reads(&mut self) {
        self.read_ahead.clear();
    }

    /// The meta of the value in force under a key.
    pub fn meta(&self, key: &RecordKey) -> Option<Meta> {
        match key {
            RecordKey::Service(name) => self.services.get(name).map(|kept| kept.meta),
            RecordKey::Route { service, key } => self.route(service, key).map(|route| route.meta),
            RecordKey::Upstream(name) => self.upstreams.get(name).map(|kept| kept.meta),
            RecordKey::Endpoint { upstream, id } => self.endpoints.get(upstream)?.get(id).map(|kept| kept.meta),
            RecordKey::Policy(name) => self.policies.get(name).map(|kept| kept.meta),
            RecordKey::Certificate(name) => self.certificates.get(name).map(|kept| kept.meta),
            RecordKey::Incarnation => self.incarnation.as_ref().map(|kept| kept.meta),
        }
    }

    /// Whether exactly this record, which is no route, is in force under a key.
    pub fn holds(&self, key: &RecordKey, record: &Record) -> bool {
        match (key, record) {
            (RecordKey::Service(name), Record::Service(value)) => {
                self.services.get(name).is_some_and(|kept| kept.value == *value) && !self.quarantined_services.contains(name)
            }
            (RecordKey::Upstream(name), Record::Upstream(value)) => self.upstreams.get(name).is_some_and(|kept| kept.value == *value),
            (RecordKey::Endpoint { upstream, id }, Record::Endpoint(value)) => {
                self.endpoints.get(upstream).and_then(|ids| ids.get(id)).is_some_and(|kept| kept.value == *value)
            }
            (RecordKey::Policy(name), Record::Policy(value)) => self.policies.get(name).is_some_and(|kept| kept.value == *value),
            (RecordKey::Certificate(name), Record::Certificate(value)) => {
                self.certificates.get(name).is_some_and(|kept| kept.value == *value)
            }
            (RecordKey::Incarnation, Record::Incarnation(value)) => self.incarnation.as_ref().is_some_and(|kept| kept.value == *value),
            _ => false,
        }
    }

    /// The route in force under a record's key.
    pub fn route(&self, service: &str, key: &[u8]) -> Option<Route> {
        self.routes.get(ServiceId::new(self.service_names.number(service)?), key)
    }

    /// Whether a service is cut by name: each routing key is a record's own key.
    pub fn is_exact(&self, service: &str) -> bool {
        self.services.get(service).is_none_or(|kept| kept.value.partition == conf::Partition::Exact)
    }

    /// A route as the table will hold it, from its record; names are given numbers.
    pub fn route_from(&mut self, value: &conf::Route, meta: Meta) -> Route {
        let owner = self.upstream_id(&value.owner);
        let state = match &value.state {
            RouteState::Serving => State::Serving,
            RouteState::Moving { target } => State::Moving(self.upstream_id(target)),
            RouteState::Frozen { .. } => State::Frozen,
        };
        Route { owner, epoch: value.epoch.unwrap_or(meta.mod_revision), state, meta }
    }

    /// The number of an upstream's name, given now if it is new.
    pub fn upstream_id(&mut self, name: &Name) -> UpstreamId {
        if let Some(number) = self.upstream_names.number(name) {
            return UpstreamId::new(number);
        }
        UpstreamId::new(Arc::make_mut(&mut self.upstream_names).intern(name))
    }

    /// The number of a service's name, given now if it is new.
    pub fn service_id(&mut self, name: &Name) -> ServiceId {
        if let Some(number) = self.service_names.number(name) {
            return ServiceId::new(number);
        }
        ServiceId::new(Arc::make_mut(&mut self.service_names).intern(name))
    }

    /// Whether a service is known only by its bad record.
    pub fn is_quarantined(&self, key: &RecordKey) -> bool {
        matches!(key, RecordKey::Service(name) if self.quarantined_services.contains(name))
    }

    /// The integer at `<prefix>/incarnation`; 0 if absent.
    pub fn incarnation(&self) -> u64 {
        self.incarnation.as_ref().map_or(0, |kept| kept.value)
    }

    /// How many routes there are.
    pub fn route_count(&self) -> usize {
        self.routes.len()
    }

    /// Every value in force, for a snapshot or a comparison with a list. Quarantined keys without a last good value are
    /// left out: they have none.
    pub fn records(&self) -> impl Iterator<Item = (RecordKey, Record, Meta)> {
        let routes = self.routes.iter().filter_map(|(service, key, route)| {
            let service = self.service_names.name(service.index())?.clone();
            Some((RecordKey::Route { service, key: key.to_vec() }, Record::Route(record_of(&self.upstream_names, &route)?), route.meta))
        });
        self.small_records().chain(routes)
    }

    /// Every key that has a value in force or is quarantined without one.
    pub fn keys(&self) -> impl Iterator<Item = RecordKey> {
        let routes = self.routes.iter().filter_map(|(service, key, _)| {
            let service = self.service_names.name(service.index())?.clone();
            Some(RecordKey::Route { service, key: key.to_vec() })
        });
        self.small_keys().chain(routes)
    }

    /// The same without routes.
    pub fn small_keys(&self) -> impl Iterator<Item = RecordKey> {
        let quarantined = self.quarantined_services.iter().cloned().map(RecordKey::Service);
        self.small_records().map(|(key, ..)| key).chain(quarantined)
    }

    /// Every value in force as it is now, to be read elsewhere meanwhile.
    pub fn frozen(&self) -> Records {
        Records {
            small: self.small_records().collect(),
            routes: self.routes.clone(),
            service_names: Arc::clone(&self.service_names),
            upstream_names: Arc::clone(&self.upstream_names),
            orphans: self.orphans.clone(),
        }
    }

    /// Puts back the last leased endpoint of an upstream, which had none any more when a snapshot was written.
    pub fn restore_orphan(&mut self, upstream: Name, endpoint: conf::Endpoint) {
        self.upstreams_touched.insert(upstream.clone());
        self.orphans.insert(upstream, endpoint);
    }

    /// Makes the next table.
    pub fn publish(&mut self, about: Publication) -> Arc<Table> {
        self.read_ahead.reached(about.revision);
        self.compile_upstreams();
        if std::mem::take(&mut self.services_touched) {
            self.compile_services();
        }
        if std::mem::take(&mut self.certificates_touched) {
            let certificates = self
                .certificates
                .iter()
                .map(|(name, Kept { value, meta })| (name.clone(), Recorded { value: value.clone(), revision: meta.mod_revision }));
            self.compiled.certificates = Arc::new(certificates.collect());
        }
        if std::mem::take(&mut self.secured_touched) {
            self.compiled.secured = Arc::new(self.secured());
        }
        self.routes.settle();
        let compiled = &self.compiled;
        Arc::new(Table {
            revision: about.revision,
            id: about.id,
            source: about.source,
            digest: about.digest,
            services: Arc::clone(&compiled.services),
            service_positions: Arc::clone(&compiled.positions),
            matcher: Arc::clone(&compiled.matcher),
            service_names: Arc::clone(&self.service_names),
            upstream_names: Arc::clone(&self.upstream_names),
            upstreams: Arc::clone(&compiled.upstreams),
            default_policy: Arc::clone(&compiled.default_policy),
            certificates: Arc::clone(&compiled.certificates),
            secured: Arc::clone(&compiled.secured),
            routes: self.routes.clone(),
            read_ahead: self.read_ahead.clone(),
            doubts: Arc::clone(&compiled.doubts),
            homeless: Arc::clone(&compiled.homeless),
            warnings: OnceLock::new(),
        })
    }

    fn put_route(&mut self, service: &Name, key: &[u8], value: &conf::Route, meta: Meta) {
        let service = self.service_id(service);
        let route = self.route_from(value, meta);
        self.routes.insert(service, key, route);
    }

    fn remove_endpoint(&mut self, upstream: &Name, id: &Name) {
        let Some(ids) = self.endpoints.get_mut(upstream) else { return };
        let Some(gone) = ids.remove(id) else { return };
        if ids.is_empty() {
            self.endpoints.remove(upstream);
            let has_others = self.upstreams.get(upstream).is_some_and(|kept| !kept.value.endpoints.is_empty());
            if gone.meta.leased && !has_others {
                self.orphans.insert(upstream.clone(), gone.value);
            }
        }
        self.upstreams_touched.insert(upstream.clone());
    }

    fn small_records(&self) -> impl Iterator<Item = (RecordKey, Record, Meta)> {
        let services = self.services.iter().filter(|(name, _)| !self.quarantined_services.contains(*name));
        let services = services.map(|(name, kept)| (RecordKey::Service(name.clone()), Record::Service(kept.value.clone()), kept.meta));
        let upstreams = self.upstreams.iter();
        let upstreams = upstreams.map(|(name, kept)| (RecordKey::Upstream(name.clone()), Record::Upstream(kept.value.clone()), kept.meta));
        let endpoints = self.endpoints.iter().flat_map(|(upstream, ids)| ids.iter().map(move |(id, kept)| (upstream, id, kept)));
        let endpoints = endpoints.map(|(upstream, id, kept)| {
            let key = RecordKey::Endpoint { upstream: upstream.clone(), id: id.clone() };
            (key, Record::Endpoint(kept.value.clone()), kept.meta)
        });
        let policies = self.policies.iter();
        let policies = policies.map(|(name, kept)| (RecordKey::Policy(name.clone()), Record::Policy(kept.value.clone()), kept.meta));
        let certificates = self.certificates.iter();
        let certificates =
            certificates.map(|(name, kept)| (RecordKey::Certificate(name.clone()), Record::Certificate(kept.value.clone()), kept.meta));
        let incarnation = self.incarnation.iter().map(|kept| (RecordKey::Incarnation, Record::Incarnation(kept.value), kept.meta));
        services.chain(upstreams).chain(endpoints).chain(policies).chain(certificates).chain(incarnation)
    }

    fn compile_upstreams(&mut self) {
        let touched = std::mem::take(&mut self.upstreams_touched);
        if touched.is_empty() {
            return;
        }
        for name in &touched {
            let is_homeless = self.endpoints.contains_key(name) && !self.upstreams.contains_key(name);
            if is_homeless != self.compiled.homeless.contains(name) {
                let homeless = Arc::make_mut(&mut self.compiled.homeless);
                let _ = if is_homeless { homeless.insert(name.clone()) } else { homeless.remove(name) };
            }
        }
        let ids: Vec<_> = touched.iter().map(|name| (self.upstream_id(name), name)).collect();
        let mut upstreams = std::mem::take(&mut self.compiled.upstreams);
        let list = Arc::make_mut(&mut upstreams);
        list.resize(self.upstream_names.len(), None);
        for (id, name) in ids {
            let last = list[id.index()].take();
            list[id.index()] = self.compile_upstream(id, name, last.as_deref()).map(Arc::new);
        }
        self.compiled.upstreams = upstreams;
    }

    fn compile_upstream(&self, id: UpstreamId, name: &Name, last: Option<&Upstream>) -> Option<Upstream> {
        let record = &self.upstreams.get(name)?.value;
        let listed = record.endpoints.iter().map(|endpoint| (endpoint, false, false));
        let announced = self.endpoints.get(name).into_iter().flat_map(BTreeMap::values);
        let announced = announced.map(|kept| (&kept.value, kept.meta.leased, false));
        let orphan = self.orphans.get(name).map(|endpoint| (endpoint, true, true));
        let mut endpoints: Vec<(Endpoint, bool)> = Vec::new();
        for (endpoint, leased, orphaned) in listed.chain(announced).chain(orphan) {
            let state_before = last.and_then(|last| last.endpoints.iter().find(|known| known.address == endpoint.address));
            let state = state_before.map_or_else(|| Arc::new(EndpointState::new(&endpoint.address)), |known| Arc::clone(&known.state));
            let compiled = Endpoint { address: endpoint.address.clone(), weight: endpoint.weight.max(1), orphaned, state };
            // Of two records with one address the leased one wins.
            match endpoints.iter_mut().find(|(known, _)| known.address == compiled.address) {
                Some((_, known_leased)) if *known_leased || !leased => {}
                Some(known) => *known = (compiled, leased),
                None => endpoints.push((compiled, leased)),
            }
        }
        Some(Upstream {
            id,
            name: name.clone(),
            balance: record.balance,
            protocol: record.protocol,
            stale_aware: record.stale_aware,
            public_url: record.public_url.clone(),
            tls: record.tls.clone(),
            endpoints: endpoints.into_iter().map(|(endpoint, _)| endpoint).collect(),
            turn: last.map(|last| Arc::clone(&last.turn)).unwrap_or_default(),
        })
    }

    fn secured(&self) -> BTreeMap<Name, Recorded<Arc<conf::UpstreamTls>>> {
        let upstreams = self.compiled.upstreams.iter().flatten();
        let secured = upstreams.filter_map(|upstream| {
            let revision = self.upstreams.get(&upstream.name)?.meta.mod_revision;
            Some((upstream.name.clone(), Recorded { value: Arc::clone(upstream.tls.as_ref()?), revision }))
        });
        secured.collect()
    }

    fn compile_services(&mut self) {
        let policies: HashMap<Name, Arc<conf::Policy>> =
            self.policies.iter().map(|(name, kept)| (name.clone(), Arc::new(kept.value.clone()))).collect();
        let default_policy = policies.get("default").cloned().unwrap_or_default();
        self.compiled.default_policy = Arc::clone(&default_policy);
        let records = std::mem::take(&mut self.services);
        // From the oldest record to the newest: of two that clash the first wins.
        let mut oldest_first: Vec<_> = records.iter().collect();
        oldest_first.sort_by_key(|(name, kept)| (kept.meta.create_revision, (*name).clone()));
        let (matcher, clashes) = Matcher::build(oldest_first.iter().map(|(name, kept)| (*name, &kept.value)));
        let mut list = Vec::with_capacity(oldest_first.len());
        for (name, kept) in oldest_first {
            let id = self.service_id(name);
            let last = self.compiled.positions.get(&id).and_then(|&position| self.compiled.services.get(position));
            let budget = last.map(|last| Arc::clone(&last.budget)).unwrap_or_default();
            let named = kept.value.policy.as_ref().and_then(|policy| policies.get_key_value(policy));
            let (policy_name, policy) = named.map_or_else(
                || (Arc::from("default"), Arc::clone(&default_policy)),
                |(name, policy)| (Arc::from(name.as_ref()), Arc::clone(policy)),
            );
            list.push(Arc::new(Service {
                id,
                name: name.clone(),
                matches: kept.value.matches.clone(),
                key: kept.value.key.clone(),
                default_owner: kept.value.default_owner.as_ref().map(|owner| self.upstream_id(owner)),
                policy,
                policy_name,
                dot_segments: kept.value.dot_segments,
                quarantined: self.quarantined_services.contains(name),
                budget,
            }));
        }
        for service in &*self.compiled.services {
            if !records.contains_key(&service.name) {
                self.routes.set_partition(service.id, conf::Partition::Exact);
            }
        }
        for (name, kept) in &records {
            let id = self.service_id(name);
            self.routes.set_partition(id, kept.value.partition);
        }
        self.services = records;
        self.compiled.positions = Arc::new(list.iter().enumerate().map(|(position, service)| (service.id, position)).collect());
        self.compiled.services = Arc::new(list);
        self.compiled.matcher = Arc::new(matcher);
        let clashes = clashes.iter().map(Warning::of_clash);
        let services = self.services.iter().filter_map(|(name, kept)| {
            let policy = kept.value.policy.as_ref().filter(|policy| !self.policies.contains_key(*policy))?;
            Some(Warning::of_policy(name, policy))
        });
        self.compiled.doubts = Arc::new(clashes.chain(services).collect());
    }
}

fn is_secured(upstream: Option<&Kept<conf::Upstream>>) -> bool {
    upstream.is_some_and(|kept| kept.value.tls.is_some())
}

fn set<T>(kept: Option<&mut Kept<T>>, meta: Meta) {
    if let Some(kept) = kept {
        kept.meta = meta;
    }
}

#[cfg(test)]
mod tests;
