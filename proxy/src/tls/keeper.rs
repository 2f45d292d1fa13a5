//! Keeps what records of the table name for TLS in force: read anew when a record changes and when a file does.
//!
//! What always holds: what can't be used is told and leaves the record's last good material in force.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::crypto::{CryptoProvider, ring};
use waypost_conf::Name;
use waypost_policy::{Table, table::Recorded};

use super::sources::{Material, Sources};
use crate::state::Shared;

/// How often files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// So long before its end a certificate is a warning.
const SOON: Duration = Duration::from_secs(30 * 24 * 60 * 60);

pub(super) type Records<R> = Arc<BTreeMap<Name, Recorded<R>>>;

/// One kind of records, and what is made of what they name.
pub(super) trait Kind: 'static {
    /// The record, or the part of it that counts here.
    type Record: Clone + PartialEq + Send + Sync + 'static;
    /// What is made of one.
    type Loaded: Send + 'static;
    /// What is made of all, to be swapped in.
    type InForce: Default + Send + 'static;
    /// The first part of the records' keys.
    const FOLDER: &'static str;
    /// What a person is told where a record has never been usable.
    const NONE: &'static str;

    fn records(table: &Table) -> &Records<Self::Record>;

    /// Reads what a record names.
    ///
    /// # Errors
    /// A sentence: which source, and why it can't be read.
    fn read(record: &Self::Record, sources: &mut Sources) -> Result<Material, String>;

    /// # Errors
    /// A sentence: what is wrong with what was read.
    fn load(record: &Self::Record, material: &Material, provider: &CryptoProvider, now: SystemTime) -> Result<Self::Loaded, String>;

    /// When the certificate that is shown ends, if there is one.
    fn not_after(loaded: &Self::Loaded) -> Option<SystemTime>;

    /// Whether the record names a certificate to be shown.
    fn shows_certificate(record: &Self::Record) -> bool;

    /// Adds a record to what is to be in force. What a person should look at.
    fn add(to: &mut Self::InForce, name: &Name, record: &Self::Record, loaded: Option<&Self::Loaded>) -> Vec<String>;

    fn put(shared: &Shared, in_force: Self::InForce, told: Vec<Told>);
}

/// What is known of a record.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    /// Its key below the prefix.
    pub(crate) key: String,
    pub(crate) name: Name,
    /// The record's revision in the store.
    pub(crate) revision: u64,
    /// Whether a certificate is shown by it.
    pub(crate) shows_certificate: bool,
    /// Of the certificate in force, if there is one.
    pub(crate) not_after: Option<SystemTime>,
    /// Why what the record names now is not in force, if it is not.
    pub(crate) fault: Option<String>,
    /// What a person should look at.
    pub(crate) warnings: Vec<String>,
}

impl Told {
    /// What it is called in metrics: an upstream's key has its folder, no certificate's name has a `/`.
    pub(crate) fn label(&self) -> &str {
        self.key.strip_prefix("certificates/").unwrap_or(&self.key)
    }
}

/// What is known of each record.
struct Keeper<K: Kind> {
    provider: CryptoProvider,
    kept: BTreeMap<Name, Kept<K>>,
}

struct Kept<K: Kind> {
    /// The record that was looked at last.
    looked_at: Option<Recorded<K::Record>>,
    /// What came of it: the record, and the digest of what its sources held.
    seen: Option<(K::Record, [Option<u128>; 3])>,
    loaded: Option<K::Loaded>,
    fault: Option<String>,
}

/// Runs for as long as the process does.
pub(super) async fn keep<K: Kind>(shared: Arc<Shared>) {
    let mut changed = shared.view.changed();
    let mut keeper = Keeper::<K> { provider: ring::default_provider(), kept: BTreeMap::new() };
    let mut look = tokio::time::interval(LOOK_EVERY);
    let mut known: Option<Records<K::Record>> = None;
    loop {
        let is_time = tokio::select! {
            _ = changed.changed() => false,
            _ = look.tick() => true,
        };
        let Some(records) = shared.view.load().as_ref().map(|table| Arc::clone(K::records(table))) else { continue };
        let is_known = known.as_ref().is_some_and(|known| Arc::ptr_eq(known, &records));
        if (is_known && !is_time) || (records.is_empty() && keeper.kept.is_empty()) {
            known = Some(records);
            continue;
        }
        known = Some(Arc::clone(&records));
        // Files may be slow.
        let looked = tokio::task::spawn_blocking(move || {
            let (in_force, told) = keeper.look(&records, is_time, SystemTime::now());
            (keeper, in_force, told)
        });
        let Ok((back, in_force, told)) = looked.await else { return };
        keeper = back;
        K::put(&shared, in_force, told);
    }
}

impl<K: Kind> Keeper<K> {
    /// Reads what has changed; files only of records that have, unless it is time for all. What is to be in force, and what is to be told.
    fn look(&mut self, records: &BTreeMap<Name, Recorded<K::Record>>, is_time: bool, now: SystemTime) -> (K::InForce, Vec<Told>) {
        self.kept.retain(|name, _| records.contains_key(name));
        let mut sources = Sources::default();
        let (mut in_force, mut told) = (K::InForce::default(), Vec::new());
        for (name, recorded) in records {
            let kept = self.kept.entry(name.clone()).or_default();
            if is_time || kept.looked_at.as_ref() != Some(recorded) {
                kept.look(name, &recorded.value, &mut sources, &self.provider, now);
                kept.looked_at = Some(recorded.clone());
            }
            let mut warnings = K::add(&mut in_force, name, &recorded.value, kept.loaded.as_ref());
            let not_after = kept.loaded.as_ref().and_then(K::not_after);
            if let Some(ends) = not_after.filter(|ends| *ends < now + SOON) {
                warnings.push(format!("the certificate ends on {}", humantime::format_rfc3339_seconds(ends)));
            }
            told.push(Told {
                key: format!("{}/{name}", K::FOLDER),
                name: name.clone(),
                revision: recorded.revision,
                shows_certificate: K::shows_certificate(&recorded.value),
                not_after,
                fault: kept.fault.clone(),
                warnings,
            });
        }
        (in_force, told)
    }
}

impl<K: Kind> Default for Kept<K> {
    fn default() -> Self {
        Self { looked_at: None, seen: None, loaded: None, fault: None }
    }
}

impl<K: Kind> Kept<K> {
    fn look(&mut self, name: &Name, record: &K::Record, sources: &mut Sources, provider: &CryptoProvider, now: SystemTime) {
        let loaded = K::read(record, sources).and_then(|material| {
            let seen = (record.clone(), material.digest());
            let is_new = self.seen.as_ref() != Some(&seen);
            // One that was not valid yet may be by now, and one that was may have ended.
            let has_ended = self.loaded.as_ref().and_then(K::not_after).is_some_and(|ends| ends <= now);
            if !is_new && self.fault.is_none() && !has_ended {
                return Ok(None);
            }
            self.seen = Some(seen);
            K::load(record, &material, provider, now).map(Some)
        });
        let fault = match loaded {
            Ok(None) => return,
            Ok(Some(loaded)) => {
                let ends = K::not_after(&loaded).map(|ends| tracing::field::display(humantime::format_rfc3339_seconds(ends)));
                tracing::info!(ends, "what {}/{name} names for TLS is in force", K::FOLDER);
                self.loaded = Some(loaded);
                None
            }
            Err(fault) => {
                // What could not be read is looked at again whole.
                self.seen = None;
                Some(fault)
            }
        };
        if let Some(fault) = fault.as_ref().filter(|fault| self.fault.as_ref() != Some(*fault)) {
            let last_good = if self.loaded.is_some() { "what it named before stays in force" } else { K::NONE };
            tracing::error!("what {}/{name} names for TLS can't be used: {fault}; {last_good}", K::FOLDER);
        }
        self.fault = fault;
    }
}
