//! Making the records what a list says, by comparison. The whole list is looked at before anything is changed: whether it is believed, what it
//! lacks, and whether that is too much to be taken.

use std::collections::HashSet;

use waypost_conf::{Decoded, Record, RecordKey};
use waypost_policy::{
    Source, TableId,
    table::{Batch, Met, Meta},
};

use super::{Applier, Refused, guard};
use crate::{
    anchor::LastChanges,
    listed::{Content, Listed, Part, Prepared},
};

/// What a list says beside what is known.
struct Compared {
    /// The known routes that it has.
    met: Met,
    /// The numbers of the routes that are not as they are known, in each part; `None` where no route is known.
    changed: Option<Vec<Vec<usize>>>,
}

impl Applier {
    /// Makes the records what a complete list says, at its revision, by comparison; deletes are found by what is missing.
    /// `fresh`: the store is another incarnation, so that nothing that was known has a say.
    ///
    /// # Errors
    /// If the list is too large for the table, or can't be of the history that was applied; then nothing has changed.
    pub fn resync(&mut self, revision: u64, listed: impl Into<Listed>, id: TableId, fresh: bool) -> Result<(), Refused> {
        let listed = listed.into();
        self.holds(listed.len())?;
        let compared = self.compare(&listed, fresh)?;
        self.news |= !self.held_back.is_empty();
        self.judge_holds_anew(fresh);
        let gone = self.missing_from(&listed, &compared.met);
        let is_held = self.is_mass_delete(gone.iter().filter(|key| key.starts_with(b"routes/")).count());
        self.mark = None;
        if fresh {
            self.builder.forget_reads();
        }
        let newest = listed.parts.iter().flat_map(|part| &part.newest);
        self.last_changes = LastChanges::of_list(revision, newest.map(|(key, meta)| (&**key, *meta)));
        self.put_listed(listed, compared.changed, fresh);
        let mut held = Vec::new();
        // Behind the puts: what an upstream has left when its last leased endpoint goes is then known.
        for key in gone {
            if is_held && self.hold(&key) {
                held.push(key);
            } else {
                self.delete(&key);
            }
        }
        if is_held {
            self.doubt(held, revision);
        }
        self.id = id;
        self.revision = revision;
        self.source = if self.source == Source::File { Source::File } else { Source::Watch };
        Ok(())
    }

    /// Looks at all records without changing anything.
    fn compare(&self, listed: &Listed, fresh: bool) -> Result<Compared, Refused> {
        let trusts_nothing = fresh || self.keys == 0 || self.source == Source::File;
        let mut met = self.builder.nothing_met();
        if trusts_nothing && self.builder.route_count() == 0 && self.bad.is_empty() {
            return Ok(Compared { met, changed: None });
        }
        let mut all_changed = Vec::with_capacity(listed.parts.len());
        for Part { routes, others, .. } in &listed.parts {
            let mut changed = Vec::new();
            for (number, (service, key, meta)) in routes.metas().enumerate() {
                let known = self.builder.meet(&mut met, service, key);
                // Mostly nothing is bad, and no key has to be put together.
                let suffix = || RecordKey::Route { service: service.clone(), key: key.to_vec() }.suffix();
                let bad = if self.bad.is_empty() { None } else { self.bad.get(&suffix()) };
                let known = bad.map(|bad| bad.meta).or(known);
                if !trusts_nothing {
                    Self::believe(known, meta, suffix)?;
                }
                if fresh || known.is_none_or(|known| !is_same(known, meta)) {
                    changed.push(number);
                }
            }
            for record in others {
                if let Some((service, key)) = record.route() {
                    self.builder.meet(&mut met, service, key);
                }
                if !trusts_nothing {
                    Self::believe(self.store_meta(&record.key), record.meta, || record.key.clone())?;
                }
            }
            all_changed.push(changed);
        }
        Ok(Compared { met, changed: Some(all_changed) })
    }

    /// Every key in force or bad that a list does not have, but for those that are held all the same.
    fn missing_from(&self, listed: &Listed, met: &Met) -> Vec<Vec<u8>> {
        let others: HashSet<&[u8]> = listed.parts.iter().flat_map(|part| &part.others).map(|record| &*record.key).collect();
        // A bad route is among the builder's routes as well.
        let bad = self.bad.keys().filter(|key| !matches!(RecordKey::parse(key), Ok(RecordKey::Route { .. })));
        let small = self.builder.small_keys().map(|key| key.suffix()).chain(bad.cloned());
        let missing = small.filter(|key| !others.contains(&**key)).chain(self.builder.unmet(met).map(|key| key.suffix()));
        missing.filter(|key| !self.held_back.contains(key)).collect()
    }

    fn put_listed(&mut self, listed: Listed, changed: Option<Vec<Vec<usize>>>, fresh: bool) {
        match changed {
            // Nobody to tell of each.
            None if self.touched.is_none() => self.put_batches(listed.parts.iter().map(|part| &part.routes)),
            None => listed.parts.iter().for_each(|part| self.put_routes(&part.routes, 0..part.routes.len(), fresh)),
            Some(changed) => listed.parts.iter().zip(changed).for_each(|(part, changed)| self.put_routes(&part.routes, changed, fresh)),
        }
        for record in listed.parts.into_iter().flat_map(|part| part.others) {
            if fresh || self.store_meta(&record.key).is_none_or(|known| !is_same(known, record.meta)) {
                self.put(record, !fresh);
            }
        }
    }

    /// Puts those routes of a batch that have these numbers, which go up.
    fn put_routes(&mut self, batch: &Batch, numbers: impl IntoIterator<Item = usize>, fresh: bool) {
        for (key, route, meta) in batch.select(numbers.into_iter()) {
            let decoded = Decoded { record: Record::Route(route), unknown_fields: Vec::new(), inactive: Vec::new() };
            self.put(Prepared { key: key.suffix(), meta, content: Content::Good(key, decoded) }, !fresh);
        }
    }

    /// Puts good routes none of which is known.
    pub(crate) fn put_batches<'a>(&mut self, batches: impl Iterator<Item = &'a Batch> + Clone) {
        let before = self.builder.route_count();
        self.builder.put_batches(batches.clone());
        let new = self.builder.route_count() - before;
        self.keys += new;
        let sum = if new == batches.clone().map(Batch::len).sum::<usize>() {
            batches.flat_map(Batch::metas).fold(0, |sum: u128, (.., meta)| sum.wrapping_add(meta.digest))
        } else {
            // A key stood twice, which no store does: the last one counts.
            self.builder
                .records()
                .filter(|(key, ..)| matches!(key, RecordKey::Route { .. }))
                .fold(0, |sum: u128, (.., meta)| sum.wrapping_add(meta.digest))
        };
        self.digest = self.digest.wrapping_add(sum);
    }
}

impl Prepared {
    /// The service and key, if it is a route.
    fn route(&self) -> Option<(&str, &[u8])> {
        match &self.content {
            Content::Good(RecordKey::Route { service, key }, _) | Content::Bad { key: Some(RecordKey::Route { service, key }), .. } => {
                Some((service, key))
            }
            _ => None,
        }
    }
}

/// Whether what is known is what is listed. Of a file, whose records have no revisions, the digest tells.
fn is_same(known: Meta, listed: Meta) -> bool {
    let of = |meta: Meta| (meta.create_revision, meta.mod_revision, meta.digest);
    of(known) == of(listed) && !guard::is_held(known)
}
