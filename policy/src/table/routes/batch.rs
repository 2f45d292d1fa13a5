//! Routes on their way into a table, as a list or a snapshot brings them: many at once, and no heap block a route.
//!
//! A batch numbers names by itself, so that any task can fill one beside the table's only writer. Its records stand one after another, in
//! the form in which a partition keeps them.

use waypost_conf::{self as conf, Name, RecordKey, RouteState};

use super::{
    super::{Meta, Names, ServiceId, UpstreamId, records::record_of},
    Route, State,
    packed::{HEAD, Record, written},
};

/// Routes of any services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    services: Names,
    upstreams: Names,
    bytes: Vec<u8>,
    len: usize,
    /// Where the frozen ones stand.
    frozen: Vec<u32>,
}

/// A batch with the numbers that a table's writer has given its names.
#[derive(Debug)]
pub(in crate::table) struct Numbered<'a> {
    batch: &'a Batch,
    services: Vec<ServiceId>,
    upstreams: Vec<UpstreamId>,
}

impl Batch {
    /// Adds a route; false if it does not fit: no key of a record is so long.
    pub fn push(&mut self, service: &Name, key: &[u8], value: &conf::Route, meta: Meta) -> bool {
        let Ok(key_len) = u16::try_from(key.len()) else { return false };
        // A position is a u32.
        let (Ok(at), Ok(_)) = (u32::try_from(self.bytes.len()), u32::try_from(self.bytes.len() + HEAD + key.len())) else { return false };
        let service = ServiceId::new(self.services.intern(service));
        let mut upstream = |name: &Name| UpstreamId::new(self.upstreams.intern(name));
        let owner = upstream(&value.owner);
        let state = match &value.state {
            RouteState::Serving => State::Serving,
            RouteState::Moving { target } => State::Moving(upstream(target)),
            RouteState::Frozen { .. } => State::Frozen,
        };
        let route = Route { owner, epoch: value.epoch.unwrap_or(meta.mod_revision), state, meta };
        self.bytes.extend_from_slice(&written(service, key_len, &route));
        self.bytes.extend_from_slice(key);
        self.len += 1;
        if route.state == State::Frozen {
            self.frozen.push(at);
        }
        true
    }

    /// Room for so many more routes with keys of some twenty bytes.
    pub fn reserve(&mut self, routes: usize) {
        self.bytes.reserve(routes * (HEAD + 20));
    }

    /// How many routes there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Each route's service, key, and what the store says of it, in the order in which they were added.
    pub fn metas(&self) -> impl Iterator<Item = (&Name, &[u8], Meta)> {
        self.records().filter_map(|(service, key, route)| Some((self.services.name(service.index())?, key, route.meta)))
    }

    /// The records of the routes whose numbers, by their order, go up in `wanted`.
    pub fn select(&self, mut wanted: impl Iterator<Item = usize>) -> impl Iterator<Item = (RecordKey, conf::Route, Meta)> {
        let mut next = wanted.next();
        self.records().enumerate().filter_map(move |(number, (service, key, route))| {
            next.filter(|next| *next == number)?;
            next = wanted.next();
            let service = self.services.name(service.index())?.clone();
            Some((RecordKey::Route { service, key: key.to_vec() }, record_of(&self.upstreams, &route)?, route.meta))
        })
    }

    pub(in crate::table) fn services(&self) -> impl Iterator<Item = &Name> {
        self.services.iter()
    }

    /// With a writer's numbers: of the services, by their order here, and of each upstream's name.
    pub(in crate::table) fn numbered(&self, services: Vec<ServiceId>, upstream: impl FnMut(&Name) -> UpstreamId) -> Numbered<'_> {
        Numbered { batch: self, services, upstreams: self.upstreams.iter().map(upstream).collect() }
    }

    fn records(&self) -> impl Iterator<Item = (ServiceId, &[u8], Route)> {
        self.places().filter_map(|(_, record)| Some((record.service, record.key, record.route()?)))
    }

    /// Each record, and where it stands.
    fn places(&self) -> impl Iterator<Item = (u32, Record<'_>)> {
        let mut next = 0;
        std::iter::from_fn(move || {
            let at = next;
            let record = Record::at(&self.bytes, at)?;
            next += u32::try_from(HEAD + record.key.len()).ok()?;
            Some((at, record))
        })
    }
}

impl<'a> Numbered<'a> {
    pub(in crate::table) fn len(&self) -> usize {
        self.batch.len
    }

    /// All routes, by the writer's numbers.
    pub(in crate::table) fn routes(&self) -> impl Iterator<Item = (ServiceId, &'a [u8], Route)> {
        self.batch.places().filter_map(|(_, record)| self.of_writer(record))
    }

    /// The keys of the frozen ones.
    pub(in crate::table) fn frozen(&self) -> impl Iterator<Item = (ServiceId, &'a [u8])> {
        self.batch.frozen.iter().filter_map(|at| self.route_at(*at)).map(|(service, key, _)| (service, key))
    }

    /// The keys of all routes, and where each stands.
    pub(in crate::table) fn keys(&self) -> impl Iterator<Item = (u32, ServiceId, &'a [u8])> {
        self.batch.places().filter_map(|(at, record)| Some((at, *self.services.get(record.service.index())?, record.key)))
    }

    /// The route that stands there.
    pub(in crate::table) fn route_at(&self, at: u32) -> Option<(ServiceId, &'a [u8], Route)> {
        self.of_writer(Record::at(&self.batch.bytes, at)?)
    }

    fn of_writer(&self, record: Record<'a>) -> Option<(ServiceId, &'a [u8], Route)> {
        let upstream = |id: UpstreamId| self.upstreams.get(id.index()).copied();
        let route = record.route()?;
        let state = if let State::Moving(target) = route.state { State::Moving(upstream(target)?) } else { route.state };
        Some((*self.services.get(record.service.index())?, record.key, Route { owner: upstream(route.owner)?, state, ..route }))
    }
}
