//! Changes of the store into the next table: decoding, judging, quarantine and digest. Sans-IO.
//!
//! What always holds: a bad record costs nothing but its own key, and its last good value stays in force; within one
//! create_revision an epoch never goes down and a change of owner raises it; the digest sums up exactly what the store has,
//! bad values included; what was applied before is dropped; what can't be of this history, or is more than may be held, is refused whole.

mod guard;
mod resync;
mod trust;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use waypost_conf::{Decoded, Endpoint, Match, Name, Record, RecordKey, decode, escaped};
use waypost_policy::{
    Source, Table, TableId,
    table::{Builder, Meta, Publication, Read, Records, RequestKey, State},
};

use guard::GUARDED_ROUTES;
pub(crate) use guard::is_held;
pub use guard::{Doubt, Said, Settled};

pub use trust::Refused;

use crate::{
    anchor::LastChanges,
    change::{self, Change, Touch, Touches, What},
    epoch,
    listed::{Content, Prepared},
    publish::Held,
    record::{Event, Stored},
};
use trust::Mark;

/// How many notes about unknown and inactive fields are kept.
const MAX_NOTES: usize = 1000;

/// A key whose value in the store is bad.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bad {
    /// What the store says of the bad value.
    pub meta: Meta,
    /// Why it can't be used.
    pub reason: String,
    /// What could be read of the match entries of a service that has no good value.
    pub matches: Vec<Match>,
}

/// The writer's side of the table.
#[derive(Debug)]
pub struct Applier {
    builder: Builder,
    bad: BTreeMap<Vec<u8>, Bad>,
    /// Fields of good records that this version does not know or act on.
    notes: BTreeMap<Vec<u8>, String>,
    /// Records that stay in force although the store has deleted them.
    held_back: BTreeSet<Vec<u8>>,
    /// Those of them that are to be confirmed, or were and are to be listed.
    doubted: Vec<Vec<u8>>,
    /// The store has contradicted itself about them.
    is_disputed: bool,
    /// How many doubts there were, and the revision of the last.
    doubts: u64,
    doubted_at: u64,
    /// Whether what is bad, noted or held back has changed since it was told last.
    news: bool,
    digest: u128,
    revision: u64,
    id: TableId,
    source: Source,
    allow_empty: bool,
    last_changes: LastChanges,
    /// How many keys of the store are known, good or bad or held, and how many may be.
    keys: usize,
    most_keys: usize,
    /// Where the digest is to be remembered.
    mark: Option<Mark>,
    /// What was touched; only while somebody watches.
    touched: Option<Touches>,
}

impl Applier {
    /// An applier without any records. `source` is `Watch` or `File`.
    pub fn new(id: TableId, source: Source, allow_empty: bool) -> Self {
        Self {
            builder: Builder::default(),
            bad: BTreeMap::new(),
            notes: BTreeMap::new(),
            held_back: BTreeSet::new(),
            doubted: Vec::new(),
            is_disputed: false,
            doubts: 0,
            doubted_at: 0,
            news: true,
            digest: 0,
            revision: 0,
            id,
            source,
            allow_empty,
            last_changes: LastChanges::default(),
            keys: 0,
            most_keys: usize::MAX,
            mark: None,
            touched: None,
        }
    }

    /// The same with a bound on how many records there may be.
    #[must_use]
    pub fn with_limit(mut self, most_keys: usize) -> Self {
        self.most_keys = most_keys;
        self
    }

    /// The revision that has been applied.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The incarnation of the store that was applied.
    pub fn id(&self) -> &TableId {
        &self.id
    }

    /// The digest over all records as the store has them.
    pub fn digest(&self) -> u128 {
        self.digest
    }

    /// The changes that were applied last.
    pub fn last_changes(&self) -> &LastChanges {
        &self.last_changes
    }

    /// Keys whose value is bad.
    pub fn bad(&self) -> &BTreeMap<Vec<u8>, Bad> {
        &self.bad
    }

    /// Quarantined keys as `/status` shows them; `prefix` stands before each.
    pub fn held(&self, prefix: &str) -> Vec<Held> {
        let held = self.bad.iter().map(|(key, bad)| Held {
            key: if prefix.is_empty() { escaped(key) } else { format!("{prefix}/{}", escaped(key)) },
            revision: bad.meta.mod_revision,
            reason: bad.reason.clone(),
        });
        held.collect()
    }

    /// What is to be said of good records.
    pub fn notes(&self) -> Vec<String> {
        self.notes.iter().map(|(key, note)| format!("{}: {note}", escaped(key))).collect()
    }

    /// Records that stay in force although the store has deleted them; keys below the prefix.
    pub fn held_back(&self) -> &BTreeSet<Vec<u8>> {
        &self.held_back
    }

    /// How many routes there are.
    pub fn route_count(&self) -> usize {
        self.builder.route_count()
    }

    /// Whether what is bad, noted or held back has changed since it was told last.
    pub fn has_news(&self) -> bool {
        self.news
    }

    /// The same; from now on it counts as told.
    pub fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.news)
    }

    /// From now on notes which keys are touched, or no longer does: that costs something for each, so only while somebody watches.
    pub fn note_touches(&mut self, wanted: bool) {
        if wanted {
            self.touched.get_or_insert_default();
        } else {
            self.touched = None;
        }
    }

    /// What was touched since this was asked last.
    pub fn take_touches(&mut self) -> Touches {
        self.touched.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Applies whole revisions, in order, and moves the cursor. What has been applied before is dropped. What deletes too much is held
    /// back: [`Applier::to_confirm`].
    ///
    /// # Errors
    /// If one of them is too large for the table, or should have been applied before. From there on nothing is applied.
    pub fn apply(&mut self, events: Vec<Event>) -> Result<(), Refused> {
        let mut events = events.into_iter().peekable();
        while let Some(first) = events.next() {
            let revision = first.mod_revision();
            let mut whole = vec![first];
            whole.extend(std::iter::from_fn(|| events.next_if(|event| event.mod_revision() == revision)));
            if self.source == Source::File {
                self.apply_revision(revision, whole);
            } else if revision > self.revision {
                self.fits(&whole)?;
                self.pass_mark(revision);
                self.apply_revision(revision, whole);
                self.revision = revision;
            } else if whole.iter().any(|event| self.has_missed(event)) {
                return Err(Refused::Late(revision));
            }
        }
        Ok(())
    }

    fn apply_revision(&mut self, revision: u64, events: Vec<Event>) {
        // Counted only where there are enough: a mass delete is one of more than half of a guarded table.
        let is_held = events.len() * 2 > GUARDED_ROUTES && self.is_mass_delete(self.deleted_routes(&events));
        let mut held = Vec::new();
        self.last_changes.applied(&events);
        for event in events {
            match event {
                Event::Put(stored) => self.put(Prepared::of(stored), true),
                Event::Delete { key, .. } if is_held && self.hold(&key) => held.push(key),
                Event::Delete { key, .. } => self.delete(&key),
            }
        }
        if is_held {
            self.doubt(held, revision);
        }
    }

    /// Moves the cursor: everything up to `revision` has been applied.
    pub fn advance(&mut self, revision: u64) {
        self.pass_mark(revision);
        self.revision = self.revision.max(revision);
        self.confirm();
    }

    /// The store's history holds what a snapshot said, and is watched from there: the records are the watch's now. True if that is news.
    pub fn confirm(&mut self) -> bool {
        let was_snapshot = self.source == Source::Snapshot;
        self.source = if was_snapshot { Source::Watch } else { self.source };
        was_snapshot
    }

    /// Takes what a check read of one route's key, ahead of the watch; false if the table is as new already, or the watch has judged the value.
    pub fn adopt(&mut self, key: RequestKey, route_key: &RecordKey, revision: u64, found: Option<Stored>) -> bool {
        let suffix = route_key.suffix();
        let is_judged = |found: &Stored| self.bad.get(&suffix).is_some_and(|bad| bad.meta.mod_revision == found.mod_revision);
        // A held route is not taken out of force by one key's read either, and what the watch has found bad is not by being read again good.
        if revision <= self.revision || found.as_ref().map_or_else(|| self.held_back.contains(&suffix), is_judged) {
            return false;
        }
        let route = found.map(|stored| {
            let meta = stored.meta();
            match decode(route_key, &stored.value) {
                Ok(Decoded { record: Record::Route(route), .. }) => self.builder.route_from(&route, meta),
                _ => self.quarantined_route(route_key, meta),
            }
        });
        let is_news = self.builder.read_ahead(key, Read { revision, route });
        if is_news {
            self.touch(|_| touched_route(route_key));
        }
        is_news
    }

    /// The next table.
    pub fn publish(&mut self) -> Arc<Table> {
        let about = Publication { revision: self.revision, id: self.id.clone(), source: self.source, digest: self.digest };
        self.builder.publish(about)
    }

    /// Whether the routing keys of a service are its records' own keys, as far as its record is known.
    pub fn is_exact(&self, service: &str) -> bool {
        self.builder.is_exact(service)
    }

    /// The integer at `incarnation`.
    pub fn incarnation(&self) -> u64 {
        self.builder.incarnation()
    }

    /// Every value in force now, to be read elsewhere.
    pub(crate) fn frozen(&self) -> Records {
        self.builder.frozen()
    }

    /// About one in so many keys, in no order.
    pub(crate) fn sample(&self, one_in: usize) -> impl Iterator<Item = Vec<u8>> {
        self.builder.sample(one_in).chain(self.builder.small_keys().step_by(one_in.max(1))).map(|key| key.suffix())
    }

    /// Puts back what a snapshot kept.
    pub(crate) fn restore(&mut self, key: &RecordKey, record: Record, meta: Meta) {
        if is_held(meta) {
            // It was held back when the snapshot was written, and still is, unless somebody has decided.
            if self.allow_empty {
                return;
            }
            self.held_back.insert(key.suffix());
        }
        self.keys += 1;
        self.digest = self.digest.wrapping_add(meta.digest);
        self.builder.put(key, record, meta);
    }

    /// Puts back a bad value that a snapshot kept; its last good value, if any, was put back before.
    pub(crate) fn restore_bad(&mut self, key: Vec<u8>, bad: Bad) {
        // What was held was put again, if only with this value.
        self.held_back.remove(&key);
        let parsed = RecordKey::parse(&key).ok();
        let good = parsed.as_ref().and_then(|key| self.builder.meta(key));
        self.keys += usize::from(good.is_none());
        self.digest = self.digest.wrapping_sub(good.map_or(0, |meta| meta.digest)).wrapping_add(bad.meta.digest);
        if let Some(parsed) = parsed.filter(|_| good.is_none()) {
            self.builder.quarantine(&parsed, bad.meta, bad.matches.clone());
        }
        self.bad.insert(key, bad);
    }

    /// Puts back that a held route is in doubt: the process that wrote the snapshot had not heard what the store says.
    pub(crate) fn restore_doubt(&mut self, key: Vec<u8>) {
        if self.held_back.contains(&key) {
            self.doubts = 1;
            self.doubted.push(key);
        }
    }

    /// Puts back the last leased endpoint of an upstream, behind all records.
    pub(crate) fn restore_orphan(&mut self, upstream: Name, endpoint: Endpoint) {
        self.builder.restore_orphan(upstream, endpoint);
    }

    /// Puts back where a snapshot stood.
    pub(crate) fn restore_cursor(&mut self, revision: u64, id: TableId, last_changes: LastChanges) {
        self.revision = revision;
        self.id = id;
        self.last_changes = last_changes;
        self.doubted_at = revision;
        self.source = Source::Snapshot;
    }

    fn put(&mut self, record: Prepared, ordered: bool) {
        let Prepared { key: suffix, meta, content } = record;
        let known = self.store_meta(&suffix);
        self.keys += usize::from(known.is_none());
        let before = known.map_or(0, |meta| meta.digest);
        self.digest = self.digest.wrapping_sub(before).wrapping_add(meta.digest);
        self.release(&suffix);
        match content {
            Content::Good(key, decoded) => match self.judge(&key, &decoded.record, meta, ordered) {
                Ok(()) => self.put_good(&suffix, &key, decoded, meta, ordered),
                Err(reason) => self.put_bad(&suffix, Some(&key), Bad { meta, reason, matches: Vec::new() }, ordered),
            },
            Content::Bad { key, reason, matches } => self.put_bad(&suffix, key.as_ref(), Bad { meta, reason, matches }, ordered),
        }
    }

    fn put_good(&mut self, suffix: &[u8], key: &RecordKey, decoded: Decoded, meta: Meta, ordered: bool) {
        if self.bad.remove(suffix).is_some() {
            self.news = true;
            self.touch(|_| Some(change::released(suffix)));
        }
        self.note(suffix, &decoded);
        self.touch(|builder| touched(builder, key, Some(&decoded.record)));
        // What a restored store lists anew is no change: an upstream's last leased endpoint outlives it.
        if !ordered && self.builder.holds(key, &decoded.record) {
            self.builder.set_meta(key, meta);
        } else {
            self.builder.put(key, decoded.record, meta);
        }
    }

    /// Without a key there can be no record.
    fn put_bad(&mut self, suffix: &[u8], key: Option<&RecordKey>, mut bad: Bad, ordered: bool) {
        if let Some(key) = key {
            let has_good_value = self.builder.meta(key).is_some() && !self.has_only_bad(key);
            // Where epochs start afresh, a route of before has no order any more; anything else that is known is better than nothing.
            let is_past = !ordered && matches!(key, RecordKey::Route { .. });
            if !has_good_value || is_past {
                self.touch(|_| touched_route(key));
                self.builder.remove(key);
                self.builder.quarantine(key, bad.meta, bad.matches.clone());
            } else {
                bad.matches.clear();
            }
        }
        self.quarantine(suffix, bad);
    }

    fn quarantine(&mut self, key: &[u8], bad: Bad) {
        self.news = true;
        self.touch(|_| Some(change::quarantined(key, &bad.reason)));
        self.bad.insert(key.to_vec(), bad);
    }

    /// What the store says of the value it has: the bad one where there is one, else the one in force.
    fn store_meta(&self, key: &[u8]) -> Option<Meta> {
        match self.bad.get(key) {
            Some(bad) => Some(bad.meta),
            None => self.builder.meta(&RecordKey::parse(key).ok()?),
        }
    }

    /// Within one create_revision the epoch never goes down, and a change of owner raises it.
    fn judge(&mut self, key: &RecordKey, record: &Record, meta: Meta, ordered: bool) -> Result<(), String> {
        let (RecordKey::Route { service, key }, Record::Route(route)) = (key, record) else { return Ok(()) };
        if !ordered || self.source == Source::File {
            return Ok(());
        }
        let next = self.builder.route_from(route, meta);
        let Some(known) = self.builder.route(service, key) else { return Ok(()) };
        if known.meta.create_revision != meta.create_revision || known.state == State::Quarantined {
            return Ok(());
        }
        epoch::may_follow((&known.owner, known.epoch), (&next.owner, next.epoch)).map_err(|fault| fault.to_string())
    }

    /// Notes a touched key, if somebody watches; asked for before the change is made.
    fn touch(&mut self, touch: impl FnOnce(&Builder) -> Option<Touch>) {
        if let Some(touched) = &mut self.touched
            && let Some(touch) = touch(&self.builder)
        {
            touched.note(touch);
        }
    }

    fn has_only_bad(&self, key: &RecordKey) -> bool {
        let RecordKey::Route { service, key } = key else { return self.builder.is_quarantined(key) };
        self.builder.route(service, key).is_some_and(|route| route.state == State::Quarantined)
    }

    fn quarantined_route(&mut self, key: &RecordKey, meta: Meta) -> waypost_policy::table::Route {
        // A check met a value that can't be used: what was good before stays good, as it would for the watch.
        let RecordKey::Route { service, key } = key else { return waypost_policy::table::Route::quarantined(meta) };
        self.builder.route(service, key).unwrap_or_else(|| waypost_policy::table::Route::quarantined(meta))
    }

    fn note(&mut self, suffix: &[u8], decoded: &Decoded) {
        let inactive = decoded.inactive.iter().map(|field| format!("\"{field}\" is not acted on by this version"));
        let unknown = decoded.unknown_fields.iter().map(|field| format!("\"{field}\" is not known to this version and ignored"));
        let notes: Vec<String> = inactive.chain(unknown).collect();
        if notes.is_empty() {
            self.news |= self.notes.remove(suffix).is_some();
        } else if self.notes.len() < MAX_NOTES || self.notes.contains_key(suffix) {
            let notes = notes.join("; ");
            self.news |= self.notes.insert(suffix.to_vec(), notes.clone()).is_none_or(|before| before != notes);
        }
    }
}

/// What a put (or, without a record, a delete) is about to do to a key; `None` if nothing.
fn touched(builder: &Builder, key: &RecordKey, record: Option<&Record>) -> Option<Touch> {
    if matches!(key, RecordKey::Route { .. }) {
        return touched_route(key);
    }
    let what = match (builder.meta(key), record) {
        (None, None) => return None,
        (None, Some(_)) => What::New,
        (Some(_), Some(record)) if builder.holds(key, record) => return None,
        (Some(_), Some(_)) => What::Changed,
        (Some(_), None) => What::Deleted,
    };
    Change::of_record(key, what).map(Touch::Told)
}

fn touched_route(key: &RecordKey) -> Option<Touch> {
    let RecordKey::Route { service, key } = key else { return None };
    Some(Touch::Route { service: service.clone(), key: key.clone() })
}

#[cfg(test)]
pub(crate) mod histories;
#[cfg(test)]
mod tests;
