//! Every record that a watcher knows, as it was at one moment: for a comparison with the store, without holding up the watcher.

use std::collections::{BTreeMap, BTreeSet};

use waypost_policy::{
    TableId,
    table::{Meta, Records},
};

use crate::applier::{Applier, Bad};

/// What is known at one moment. Routes are shared with the tables.
#[derive(Debug)]
pub struct Listing {
    /// The store's revision that the records reflect.
    pub revision: u64,
    /// The incarnation of the store.
    pub id: TableId,
    /// The digest over all records as the store has them.
    pub digest: u128,
    records: Records,
    bad: BTreeMap<Vec<u8>, Bad>,
    held_back: BTreeSet<Vec<u8>>,
}

/// One key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// The key below the prefix.
    pub key: Vec<u8>,
    /// What the store says of its value; of one that is held back, what it said last.
    pub meta: Meta,
    /// How the value stands.
    pub standing: Standing,
}

/// How a key's value in the store stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// In force.
    InForce,
    /// Quarantined: it can't be used, for this reason.
    Quarantined(String),
    /// Held back: in force, although the store has deleted it.
    HeldBack,
}

impl Listing {
    /// All keys, in no order.
    pub fn keys(&self) -> impl Iterator<Item = Known> {
        let good = self.records.metas().map(|(key, meta)| (key.suffix(), meta)).filter(|(key, _)| !self.bad.contains_key(key));
        let good = good.map(|(key, meta)| {
            let standing = if self.held_back.contains(&key) { Standing::HeldBack } else { Standing::InForce };
            Known { key, meta, standing }
        });
        let bad = self.bad.iter();
        good.chain(bad.map(|(key, bad)| Known { key: key.clone(), meta: bad.meta, standing: Standing::Quarantined(bad.reason.clone()) }))
    }
}

impl Applier {
    /// What is known now.
    pub fn listing(&self) -> Listing {
        Listing {
            revision: self.revision(),
            id: self.id().clone(),
            digest: self.digest(),
            records: self.frozen(),
            bad: self.bad().clone(),
            held_back: self.held_back().clone(),
        }
    }
}
