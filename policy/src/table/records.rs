//! All records of one moment, for who needs time to go through them: a snapshot, a comparison with the store.
//!
//! It shares the routes with the writer, as a table does, so that it costs next to nothing to take and is read on another thread
//! while changes go on.

use std::{collections::BTreeMap, sync::Arc};

use waypost_conf::{self as conf, Name, Record, RecordKey, RouteState};

use super::{Meta, Names, Route, Routes, State, UpstreamId};

/// Every value in force when it was taken. Quarantined keys without a last good value are left out: they have none.
#[derive(Clone, Debug)]
pub struct Records {
    /// All but the routes; there are few.
    pub(super) others: Vec<(RecordKey, Record, Meta)>,
    pub(super) routes: Routes,
    pub(super) service_names: Arc<Names>,
    pub(super) upstream_names: Arc<Names>,
    pub(super) orphans: BTreeMap<Name, conf::Endpoint>,
}

impl Records {
    /// Each record, in no order. Routes are put together one by one.
    pub fn iter(&self) -> impl Iterator<Item = (RecordKey, Record, Meta)> {
        let routes = self.routes.iter().filter_map(|(service, key, route)| {
            let service = self.service_names.name(service.index())?.clone();
            let record = record_of(&route, &self.upstream_names)?;
            Some((RecordKey::Route { service, key: key.to_vec() }, Record::Route(record), route.meta))
        });
        self.others.iter().cloned().chain(routes)
    }

    /// The same keys, with what the store says of each.
    pub fn metas(&self) -> impl Iterator<Item = (RecordKey, Meta)> {
        let routes = self.routes.iter().filter(|(.., route)| route.state != State::Quarantined).filter_map(|(service, key, route)| {
            let service = self.service_names.name(service.index())?.clone();
            Some((RecordKey::Route { service, key: key.to_vec() }, route.meta))
        });
        self.others.iter().map(|(key, _, meta)| (key.clone(), *meta)).chain(routes)
    }

    /// The last leased endpoint of each upstream that would have none, by upstream.
    pub fn orphans(&self) -> impl Iterator<Item = (&Name, &conf::Endpoint)> {
        self.orphans.iter()
    }
}

/// The record that a route came from; `None` for one that has only a bad value.
pub(super) fn record_of(route: &Route, upstreams: &Names) -> Option<conf::Route> {
    let name = |id: UpstreamId| upstreams.name(id.index()).cloned();
    let state = match route.state {
        State::Serving => RouteState::Serving,
        State::Moving(target) => RouteState::Moving { target: name(target)? },
        State::Frozen => RouteState::Frozen { move_id: None, target: None },
        State::Quarantined => return None,
    };
    let epoch = (route.epoch != route.meta.mod_revision).then_some(route.epoch);
    Some(conf::Route { owner: name(route.owner)?, epoch, state })
}
