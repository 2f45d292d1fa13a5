//! Records of a list, prepared where they are read: keys taken apart, values decoded and summed up, so that the one writer has only to put
//! them. Sans-IO.
//!
//! Good routes, of which there may be millions, stand in batches without a heap block each; their values are not kept. What always holds: a
//! list comes to the same however it is cut into parts.

use std::collections::HashMap;

use waypost_conf::{Decoded, Match, Name, Record, RecordKey, Route, decode};
use waypost_policy::table::{Batch, Meta};

use crate::{anchor, record::Stored};

/// Of a part's values so many are remembered, ...
const MOST_VALUES: usize = 1024;
/// ... none longer than this.
const LONGEST_VALUE: usize = 256;

/// A record, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Prepared {
    /// The key below the prefix.
    pub(crate) key: Vec<u8>,
    pub(crate) meta: Meta,
    pub(crate) content: Content,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    Good(RecordKey, Decoded),
    /// `key` where there can be a record, and what can be read of a service's match entries.
    Bad {
        key: Option<RecordKey>,
        reason: String,
        matches: Vec<Match>,
    },
}

impl Prepared {
    pub(crate) fn of(stored: Stored) -> Self {
        let meta = stored.meta();
        let content = match RecordKey::parse(&stored.key) {
            Err(fault) => Content::Bad { key: None, reason: fault.to_string(), matches: Vec::new() },
            Ok(key) => match decode(&key, &stored.value) {
                Ok(decoded) => Content::Good(key, decoded),
                Err(fault) => {
                    let matches = matches_of(&key, &stored.value);
                    Content::Bad { key: Some(key), reason: fault.to_string(), matches }
                }
            },
        };
        Self { key: stored.key, meta, content }
    }
}

/// What can be read of a service whose value is bad: its match entries, so that its requests can be told.
fn matches_of(key: &RecordKey, value: &[u8]) -> Vec<Match> {
    if !matches!(key, RecordKey::Service(_)) {
        return Vec::new();
    }
    let Ok(serde_json::Value::Object(mut fields)) = serde_json::from_slice(value) else { return Vec::new() };
    fields.remove("match").and_then(|matches| serde_json::from_value(matches).ok()).unwrap_or_default()
}

/// Some records of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Good routes of which there is nothing to be said.
    pub(crate) routes: Batch,
    pub(crate) others: Vec<Prepared>,
    /// Those that changed last, with their keys below the prefix.
    pub(crate) newest: Vec<(Vec<u8>, Meta)>,
}

impl Part {
    /// Prepares records.
    pub fn of(records: Vec<Stored>) -> Self {
        let mut part = Self { newest: newest(&records), ..Self::default() };
        part.routes.reserve(records.len());
        let mut like = None;
        let mut decoded = Values::default();
        for stored in records {
            if !part.push_route(&mut like, &mut decoded, &stored) {
                part.push(&mut like, Prepared::of(stored));
            }
        }
        part
    }

    /// The short way of a route of the same service as the one before: its name is known to be one.
    fn push_route(&mut self, like: &mut Option<Like>, decoded: &mut Values, stored: &Stored) -> bool {
        let Some(like) = like else { return false };
        let RecordKey::Route { service, .. } = &like.key else { return false };
        let Some(key) = stored.key.strip_prefix(&*like.start).filter(|key| RecordKey::is_routing_key(key)) else { return false };
        decoded.with(&like.key, &stored.value, |route| self.routes.push(service, key, route, stored.meta()))
    }

    fn push(&mut self, like: &mut Option<Like>, record: Prepared) {
        if let Content::Good(RecordKey::Route { service, key }, decoded) = &record.content
            && let Some(route) = plain_route(decoded)
            && self.routes.push(service, key, route, record.meta)
        {
            *like = Some(Like::new(service));
            return;
        }
        self.others.push(record);
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.routes.len() + self.others.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Values of routes that were decoded lately: of the many that a store holds, most have an owner, an epoch and a spelling that others have, too.
#[derive(Default)]
struct Values {
    decoded: HashMap<Vec<u8>, Route, ahash::RandomState>,
}

impl Values {
    /// Does something with the route that a value says, if it is a good one of which there is nothing to be said.
    fn with(&mut self, key: &RecordKey, value: &[u8], then: impl FnOnce(&Route) -> bool) -> bool {
        if let Some(route) = self.decoded.get(value) {
            return then(route);
        }
        let Ok(decoded) = decode(key, value) else { return false };
        let Some(route) = plain_route(&decoded) else { return false };
        if self.decoded.len() < MOST_VALUES && value.len() <= LONGEST_VALUE {
            self.decoded.insert(value.to_vec(), route.clone());
        }
        then(route)
    }
}

/// What routes of one service have in common.
struct Like {
    /// Any route's; decoding looks at its kind only.
    key: RecordKey,
    start: Vec<u8>,
}

impl Like {
    fn new(service: &Name) -> Self {
        let key = RecordKey::Route { service: service.clone(), key: Vec::new() };
        Self { start: key.suffix(), key }
    }
}

fn plain_route(decoded: &Decoded) -> Option<&Route> {
    match decoded {
        Decoded { record: Record::Route(route), unknown_fields, inactive } if unknown_fields.is_empty() && inactive.is_empty() => {
            Some(route)
        }
        _ => None,
    }
}

fn newest(records: &[Stored]) -> Vec<(Vec<u8>, Meta)> {
    let newest = anchor::newest(records.iter(), |stored| stored.mod_revision);
    newest.into_iter().map(|stored| (stored.key.clone(), stored.meta())).collect()
}

/// All records of a store at one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    pub(crate) parts: Vec<Part>,
}

impl Listed {
    /// Adds more of them; a key stands in one part only.
    pub fn add(&mut self, part: Part) {
        self.parts.push(part);
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.parts.iter().map(Part::len).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.parts.iter().all(Part::is_empty)
    }
}

impl From<Vec<Stored>> for Listed {
    fn from(records: Vec<Stored>) -> Self {
        Self { parts: vec![Part::of(records)] }
    }
}
