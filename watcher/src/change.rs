//! What changed when a table came into force, for people who watch: the difference between two tables, and what is told beside it.
//!
//! The applier notes which keys it touched while somebody watches (bounded, see [`Touches`]); what became of them is found afterwards, by
//! comparing what was in force with what is. Pure: no socket, no clock.

use std::collections::HashSet;

use serde::Serialize;
use waypost_conf::{Name, RecordKey, escaped};
use waypost_policy::{
    Table,
    table::{Entry, Route, Source, State},
};

/// How many touched keys one publish remembers; the others are only counted.
pub const MAX_TOUCHES: usize = 4096;

/// One change, as it is told to whoever watches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum Change {
    /// A route in force is new, another or gone.
    Route {
        /// The service's name.
        service: Name,
        /// The key below `routes/<service>/`.
        key: String,
        /// What was in force; `None`: the key had no route.
        before: Option<Shown>,
        /// What is; `None`: the route is gone.
        after: Option<Shown>,
        /// By whose word: `watch`, `file`, or `store` where a check ran ahead of the watch.
        source: &'static str,
    },
    /// Any other record is new, another or gone.
    Record {
        /// `service`, `upstream`, `endpoint`, `policy`, `certificate` or `incarnation`.
        kind: &'static str,
        /// Its name; of an endpoint `<upstream>/<id>`.
        name: String,
        /// What became of it.
        what: What,
    },
    /// A key's new value can't be used; its last good value, if any, stays in force.
    Quarantined {
        /// The key below the prefix.
        key: String,
        /// Why the value can't be used.
        reason: String,
    },
    /// A key that was quarantined no longer is.
    Released {
        /// The key below the prefix.
        key: String,
    },
    /// All records were listed beside the live table; what differed follows.
    Resync {
        /// `first`, `compacted`, `incarnation` or, of a file, `file`.
        reason: &'static str,
        /// Routes in force now.
        routes: usize,
        /// Deletes that are not believed.
        held_back: usize,
    },
    /// The store is another incarnation than before: epochs start afresh.
    NewIncarnation {
        /// The incarnation in force now, as stamps name it.
        table: String,
    },
    /// Contact with the gold copy was lost, or stands again.
    Contact {
        /// Whether the watch stands.
        connected: bool,
        /// Why not, or what is wrong with the file.
        error: Option<String>,
    },
}

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// There was none.
    New,
    /// It says something else now.
    Changed,
    /// It is gone.
    Deleted,
}

/// A route as it is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shown {
    /// The owner; `None` while only a bad value is known.
    pub owner: Option<Name>,
    /// The generation of its ownership.
    pub epoch: u64,
    /// `serving`, `moving`, `frozen` or `quarantined`.
    pub state: &'static str,
    /// Where a moving key goes.
    pub target: Option<Name>,
}

/// What the applier did to one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Touch {
    /// A route was put, deleted, quarantined or read ahead of the watch.
    Route {
        /// The service's name.
        service: Name,
        /// The key below `routes/<service>/`.
        key: Vec<u8>,
    },
    /// What is told as it is.
    Told(Change),
}

/// The touched keys since they were taken last; at most [`MAX_TOUCHES`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touches {
    /// In the order in which they were touched; a key may stand several times.
    pub list: Vec<Touch>,
    /// How many more there were.
    pub omitted: u64,
}

impl Touches {
    /// Notes one more, or counts it.
    pub(crate) fn note(&mut self, touch: Touch) {
        if self.list.len() < MAX_TOUCHES {
            self.list.push(touch);
        } else {
            self.omitted += 1;
        }
    }
}

impl Change {
    /// What became of a record that is no route.
    pub(crate) fn of_record(key: &RecordKey, what: What) -> Option<Self> {
        let (kind, name) = match key {
            RecordKey::Service(name) => ("service", name.to_string()),
            RecordKey::Upstream(name) => ("upstream", name.to_string()),
            RecordKey::Endpoint { upstream, id } => ("endpoint", format!("{upstream}/{id}")),
            RecordKey::Policy(name) => ("policy", name.to_string()),
            RecordKey::Certificate(name) => ("certificate", name.to_string()),
            RecordKey::Incarnation => ("incarnation", String::new()),
            RecordKey::Route { .. } => return None,
        };
        Some(Self::Record { kind, name, what })
    }

    /// Whether this is for somebody who asked for one service, or one routing key (of it). What concerns the whole table always is.
    pub fn concerns(&self, service: Option<&str>, key: Option<&str>) -> bool {
        let wanted = |its_service: &str, its_key: Option<&str>| {
            service.is_none_or(|service| service == its_service) && key.is_none_or(|key| its_key == Some(key))
        };
        match self {
            _ if service.is_none() && key.is_none() => true,
            Self::Route { service, key, .. } => wanted(service, Some(key)),
            Self::Record { kind, name, .. } => *kind == "service" && wanted(name, None),
            Self::Quarantined { key, .. } | Self::Released { key } => match key.split_once('/') {
                Some(("routes", rest)) => rest.split_once('/').is_some_and(|(service, key)| wanted(service, Some(key))),
                Some(("services", name)) => wanted(name, None),
                _ => false,
            },
            Self::Resync { .. } | Self::NewIncarnation { .. } | Self::Contact { .. } => true,
        }
    }
}

/// What became of the touched keys: each route once, and only if something else is in force than was. Before the first table there is
/// nothing to compare with: its records are all new, and are not told one by one.
pub fn difference(before: Option<&Table>, after: &Table, touches: Vec<Touch>) -> Vec<Change> {
    let Some(before) = before else { return Vec::new() };
    let mut seen = HashSet::new();
    let changes = touches.into_iter().filter_map(|touch| match touch {
        Touch::Told(change) => Some(change),
        Touch::Route { service, key } => {
            if !seen.insert((service.clone(), key.clone())) {
                return None;
            }
            let (was, _) = shown(before, &service, &key);
            let (is, source) = shown(after, &service, &key);
            let key = String::from_utf8_lossy(&key).into_owned();
            (was != is).then_some(Change::Route { service, key, before: was, after: is, source: source.as_str() })
        }
    });
    changes.collect()
}

/// A key that can't be used, as it is told.
pub(crate) fn quarantined(key: &[u8], reason: &str) -> Touch {
    Touch::Told(Change::Quarantined { key: escaped(key), reason: reason.to_owned() })
}

/// A key that can be used again.
pub(crate) fn released(key: &[u8]) -> Touch {
    Touch::Told(Change::Released { key: escaped(key) })
}

fn shown(table: &Table, service: &str, key: &[u8]) -> (Option<Shown>, Source) {
    match table.record(service, key) {
        Entry::Absent(source) => (None, source),
        Entry::Route(route, source) => (Some(Shown::of(table, &route)), source),
    }
}

impl Shown {
    fn of(table: &Table, route: &Route) -> Self {
        let target = if let State::Moving(target) = route.state { table.upstream_name(target).cloned() } else { None };
        Self { owner: table.upstream_name(route.owner).cloned(), epoch: route.epoch, state: route.state.as_str(), target }
    }
}

#[cfg(test)]
mod tests;
