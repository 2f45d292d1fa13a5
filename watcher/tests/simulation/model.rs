//! What should be in force, worked out from the rules of the contract and the store's own history, without any of the product's code:
//! quarantine and last good values, the order of epochs, deletes that are held back, the last leased endpoint of an upstream.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use serde_json::Value;
use waypost_watcher::record::{Event, Stored};

use crate::store::{State, lease_of};

/// A table of no more routes than this is believed to be emptied.
const GUARDED_ROUTES: usize = 100;

/// A key that is in force, or should be but for its value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Kept {
    pub(crate) good: Option<Good>,
    /// The bad value that the store has.
    pub(crate) bad: Option<Version>,
    pub(crate) held: Option<Hold>,
}

/// A value in force.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Good {
    pub(crate) value: Rc<Value>,
    pub(crate) version: Version,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) create_revision: u64,
    pub(crate) mod_revision: u64,
}

/// In force although the store has deleted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    /// Until the store has been read, or listed.
    InDoubt,
    /// Until it is put again.
    ForGood,
}

/// What an upstream without endpoints is left with.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Orphan {
    /// One of these.
    pub(crate) addresses: BTreeSet<String>,
    /// Not all that went had leases, and which went last is not known.
    pub(crate) may_be_none: bool,
}

#[derive(Clone, Default)]
pub(crate) struct Model {
    pub(crate) keys: BTreeMap<Vec<u8>, Kept>,
    pub(crate) orphans: BTreeMap<String, Orphan>,
    pub(crate) allow_empty: bool,
}

/// A value that can be used. The store's writer knows no subtler faults than these.
fn parse(key: &[u8], value: &[u8]) -> Option<Value> {
    let value: Value = serde_json::from_slice(value).ok()?;
    let is_good = match key.split(|byte| *byte == b'/').next()? {
        b"routes" => value["owner"].is_string(),
        b"services" => value["match"].is_array() && value["partition"] != 7,
        b"endpoints" => value["address"].is_string(),
        b"incarnation" => value.is_u64(),
        _ => value.is_object(),
    };
    is_good.then_some(value)
}

pub(crate) fn is_route(key: &[u8]) -> bool {
    key.starts_with(b"routes/")
}

/// The upstream of an endpoint's record.
fn upstream_of(key: &[u8]) -> Option<&str> {
    Some(std::str::from_utf8(key).ok()?.strip_prefix("endpoints/")?.split_once('/')?.0)
}

impl Good {
    /// Of an endpoint.
    pub(crate) fn address(&self) -> String {
        self.value["address"].as_str().unwrap_or_default().to_owned()
    }

    /// Of a route.
    pub(crate) fn epoch(&self) -> u64 {
        self.value["epoch"].as_u64().unwrap_or(self.version.mod_revision)
    }
}

impl Model {
    /// The value in force under a key.
    pub(crate) fn good(&self, key: &str) -> Option<&Value> {
        self.keys.get(key.as_bytes())?.good.as_ref().map(|good| &*good.value)
    }

    /// One revision that the watch told.
    pub(crate) fn watch(&mut self, events: &[Event]) {
        let deletes = |event: &&Event| matches!(event, Event::Delete { key, .. } if is_route(key) && self.keys.contains_key(key));
        let is_held = self.is_mass_delete(events.iter().filter(deletes).count());
        for event in events {
            match event {
                Event::Put(stored) => self.put(stored, true),
                Event::Delete { key, .. } if is_held && self.hold(key) => {}
                Event::Delete { key, .. } => self.delete(key),
            }
        }
        if is_held {
            self.doubt();
        }
    }

    /// Everything at one revision; `fresh`: of another incarnation.
    pub(crate) fn list(&mut self, state: &State, fresh: bool) {
        // What was in doubt is judged anew; what an empty store had lost only for another incarnation, for which somebody has decided.
        self.keys.values_mut().filter(|kept| fresh || kept.held == Some(Hold::InDoubt)).for_each(|kept| kept.held = None);
        let gone = self.keys.iter().filter(|(key, kept)| !state.contains_key(*key) && kept.held.is_none()).map(|(key, _)| key.clone());
        let gone: Vec<Vec<u8>> = gone.collect();
        let is_held = self.is_mass_delete(gone.iter().filter(|key| is_route(key)).count());
        for stored in state.values() {
            let known = self.keys.get(&stored.key).and_then(|kept| kept.bad.or(kept.good.as_ref().map(|good| good.version)));
            if fresh || known != Some(Version::of(stored)) {
                self.put(stored, !fresh);
            }
        }
        let gone: Vec<_> = gone.into_iter().filter(|key| !(is_held && self.hold(key))).collect();
        // In which order they went is not known: any may have been the last.
        let mut lost: BTreeMap<String, Orphan> = BTreeMap::new();
        for key in &gone {
            let Some((upstream, good)) = upstream_of(key).zip(self.keys.get(key).and_then(|kept| kept.good.as_ref())) else { continue };
            let orphan = lost.entry(upstream.to_owned()).or_default();
            match lease_of(key) {
                Some(_) => drop(orphan.addresses.insert(good.address())),
                None => orphan.may_be_none = true,
            }
        }
        gone.iter().for_each(|key| self.delete(key));
        for (upstream, orphan) in lost {
            if self.is_bare(&upstream) && !orphan.addresses.is_empty() {
                self.orphans.insert(upstream, orphan);
            }
        }
        if is_held {
            self.doubt();
        }
    }

    /// What a linearizable read has said of the deletes in doubt. One that contradicts leaves them to a list.
    pub(crate) fn settle(&mut self, has_routes: bool, contradicts: bool) {
        let doubted = self.keys.iter().filter(|(_, kept)| kept.held == Some(Hold::InDoubt) && !contradicts).map(|(key, _)| key.clone());
        for key in doubted.collect::<Vec<_>>() {
            if has_routes {
                self.delete(&key);
            } else if let Some(kept) = self.keys.get_mut(&key) {
                kept.held = Some(Hold::ForGood);
            }
        }
    }

    pub(crate) fn held(&self) -> impl Iterator<Item = &[u8]> {
        self.keys.iter().filter(|(_, kept)| kept.held.is_some()).map(|(key, _)| &**key)
    }

    /// The endpoint records in force of an upstream.
    pub(crate) fn announced(&self, upstream: &str) -> impl Iterator<Item = (&[u8], &Good)> {
        let start = format!("endpoints/{upstream}/").into_bytes();
        let keys = self.keys.range(start.clone()..).take_while(move |(key, _)| key.starts_with(&start));
        keys.filter_map(|(key, kept)| Some((&**key, kept.good.as_ref()?)))
    }

    /// Whether an upstream has no endpoint that is listed or announced.
    fn is_bare(&self, upstream: &str) -> bool {
        let is_listed = self.good(&format!("upstreams/{upstream}")).is_some_and(|value| value["endpoints"].is_array());
        !is_listed && self.announced(upstream).next().is_none()
    }

    fn is_mass_delete(&self, deleted: usize) -> bool {
        let known = self.keys.keys().filter(|key| is_route(key)).count();
        known > GUARDED_ROUTES && deleted * 2 > known && !self.allow_empty
    }

    fn put(&mut self, stored: &Stored, ordered: bool) {
        let (key, version) = (&stored.key, Version::of(stored));
        let kept = self.keys.entry(key.clone()).or_insert(Kept { good: None, bad: None, held: None });
        kept.held = None;
        let next = parse(key, &stored.value).map(|value| Good { value: Rc::new(value), version });
        let next = next.filter(|next| !is_route(key) || !ordered || may_follow(kept.good.as_ref(), next));
        let Some(next) = next else {
            kept.bad = Some(version);
            // Epochs start afresh: a route of before has no order any more. What else is known is better than nothing.
            if !ordered && is_route(key) {
                kept.good = None;
            }
            return;
        };
        kept.bad = None;
        let before = kept.good.replace(next.clone());
        if let Some(upstream) = upstream_of(key) {
            self.orphans.remove(upstream);
        }
        if let Some(upstream) = key.strip_prefix(b"upstreams/")
            && (ordered || before.is_none_or(|before| before.value != next.value))
        {
            self.orphans.remove(&*String::from_utf8_lossy(upstream));
        }
    }

    fn delete(&mut self, key: &[u8]) {
        let gone = self.keys.remove(key).and_then(|kept| kept.good);
        if let Some(upstream) = key.strip_prefix(b"upstreams/") {
            self.orphans.remove(&*String::from_utf8_lossy(upstream));
        }
        let (Some(upstream), Some(gone)) = (upstream_of(key), gone) else { return };
        if lease_of(key).is_some() && self.is_bare(upstream) {
            self.orphans.insert(upstream.to_owned(), Orphan { addresses: [gone.address()].into(), may_be_none: false });
        }
    }

    /// False if there is nothing good to hold.
    fn hold(&mut self, key: &[u8]) -> bool {
        let Some(kept) = self.keys.get_mut(key).filter(|_| key != b"incarnation") else { return false };
        let Some(good) = &mut kept.good else { return false };
        good.version.create_revision = 0;
        kept.bad = None;
        kept.held = Some(Hold::InDoubt);
        true
    }

    /// Deletes were held back: the store is asked only if it has other routes.
    fn doubt(&mut self) {
        if !self.keys.iter().any(|(key, kept)| is_route(key) && kept.held.is_none()) {
            self.keys.values_mut().filter(|kept| kept.held.is_some()).for_each(|kept| kept.held = Some(Hold::ForGood));
        }
    }
}

impl Version {
    fn of(stored: &Stored) -> Self {
        Self { create_revision: stored.create_revision, mod_revision: stored.mod_revision }
    }
}

/// Within one create_revision an epoch never goes down, and a change of owner raises it.
fn may_follow(known: Option<&Good>, next: &Good) -> bool {
    let Some(known) = known.filter(|known| known.version.create_revision == next.version.create_revision) else { return true };
    next.epoch() > known.epoch() || (next.epoch() == known.epoch() && next.value["owner"] == known.value["owner"])
}
