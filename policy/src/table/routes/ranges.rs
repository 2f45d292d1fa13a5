//! The routes of one service whose records are the lower ends of ranges: the record with the greatest key that is not above a
//! request's owns it, bytewise (INTERFACE.md).

use std::collections::BTreeSet;

use super::{super::Route, Doubt, GROWN, sorted::Sorted};

/// The ranges of one service.
#[derive(Clone, Debug, Default)]
pub(super) struct Ranges {
    records: Sorted<Route>,
    /// What was removed since the last [`Self::settle`], at which epoch.
    removed: Vec<(Box<[u8]>, u64)>,
    /// Records that took keys over from a removed one at no newer epoch.
    grown: BTreeSet<Box<[u8]>>,
}

impl Ranges {
    pub(super) fn records(&self) -> &Sorted<Route> {
        &self.records
    }

    /// The record that owns a routing key, and its route.
    pub(super) fn find(&self, key: &[u8]) -> Option<(&[u8], &Route)> {
        self.records.at_or_below(key)
    }

    pub(super) fn insert(&mut self, record: &[u8], route: Route) -> Option<Route> {
        self.grown.remove(record);
        self.records.insert(record, route)
    }

    pub(super) fn remove(&mut self, record: &[u8]) -> Option<Route> {
        let gone = self.records.remove(record)?;
        self.grown.remove(record);
        self.removed.push((record.into(), gone.epoch));
        Some(gone)
    }

    pub(super) fn is_unsettled(&self) -> bool {
        !self.removed.is_empty()
    }

    /// Notes who has taken over what was removed.
    pub(super) fn settle(&mut self) {
        for (key, epoch) in std::mem::take(&mut self.removed) {
            // Put again meanwhile, it has lost nothing.
            if let Some((heir, route)) = self.records.at_or_below(&key).filter(|(heir, _)| **heir != *key)
                && route.epoch <= epoch
            {
                self.grown.insert(heir.into());
            }
        }
    }

    /// What is doubtful: each is the record's key and a sentence.
    pub(super) fn doubts(&self) -> Vec<Doubt> {
        self.grown.iter().map(|record| (Some(record.clone()), GROWN.to_owned())).collect()
    }
}
