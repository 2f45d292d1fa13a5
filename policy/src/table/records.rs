//! The records in force as they were at one moment, to be read elsewhere while the writer goes on: for a snapshot, or for a comparison.
//!
//! Routes are shared with the tables, so that taking them costs the same however many there are; what there is little of is copied.

use std::{collections::BTreeMap, sync::Arc};

use waypost_conf::{self as conf, Name, Record, RecordKey, RouteState};

use super::{Meta, Names, Route, Routes, State, UpstreamId};

/// Every value in force at one moment.
#[derive(Clone, Debug)]
pub struct Records {
    pub(super) small: Vec<(RecordKey, Record, Meta)>,
    pub(super) routes: Routes,
    pub(super) service_names: Arc<Names>,
    pub(super) upstream_names: Arc<Names>,
    pub(super) orphans: BTreeMap<Name, conf::Endpoint>,
}

impl Records {
    /// All of them but routes whose only value is bad. The order is not that of the keys.
    pub fn iter(&self) -> impl Iterator<Item = (RecordKey, Record, Meta)> {
        let routes = self.routes.iter().filter_map(|(service, key, route)| {
            let service = self.service_names.name(service.index())?.clone();
            Some((RecordKey::Route { service, key: key.to_vec() }, Record::Route(record_of(&self.upstream_names, &route)?), route.meta))
        });
        self.small.iter().cloned().chain(routes)
    }

    /// The same keys, with what the store says of each.
    pub fn metas(&self) -> impl Iterator<Item = (RecordKey, Meta)> {
        let routes = self.routes.iter().filter(|(.., route)| route.state != State::Quarantined).filter_map(|(service, key, route)| {
            let service = self.service_names.name(service.index())?.clone();
            Some((RecordKey::Route { service, key: key.to_vec() }, route.meta))
        });
        self.small.iter().map(|(key, _, meta)| (key.clone(), *meta)).chain(routes)
    }

    /// The last leased endpoint of each upstream that would have none, by upstream.
    pub fn orphans(&self) -> impl Iterator<Item = (&Name, &conf::Endpoint)> {
        self.orphans.iter()
    }
}

/// A route's record again; `None` if its only value is bad.
pub(super) fn record_of(upstream_names: &Names, route: &Route) -> Option<conf::Route> {
    let name = |id: UpstreamId| upstream_names.name(id.index()).cloned();
    let state = match route.state {
        State::Serving => RouteState::Serving,
        State::Moving(target) => RouteState::Moving { target: name(target)? },
        State::Frozen => RouteState::Frozen { move_id: None, target: None },
        State::Quarantined => return None,
    };
    let epoch = (route.epoch != route.meta.mod_revision).then_some(route.epoch);
    Some(conf::Route { owner: name(route.owner)?, epoch, state })
}
