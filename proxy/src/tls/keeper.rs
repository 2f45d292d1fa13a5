//! Keeps the certificates in force: those of the table, read anew when a record changes and when a file does.
//!
//! What always holds: what can't be used is told and leaves the record's last good certificate in force.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::crypto::{CryptoProvider, ring};
use waypost_conf::{Certificate, Name};
use waypost_policy::table::CertificateRecord;

use super::{
    certificates::{Loaded, Material, load},
    chosen::{Chosen, Told},
};
use crate::state::Shared;

/// How often files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// So long before its end a certificate is a warning.
const SOON: Duration = Duration::from_secs(30 * 24 * 60 * 60);

type Records = Arc<BTreeMap<Name, CertificateRecord>>;

/// What is known of each record.
struct Keeper {
    provider: CryptoProvider,
    kept: BTreeMap<Name, Kept>,
}

#[derive(Default)]
struct Kept {
    /// What was looked at last: the record, and the digest of what its sources held.
    seen: Option<(Certificate, [u128; 2])>,
    loaded: Option<Loaded>,
    fault: Option<String>,
}

/// Runs for as long as the process does.
pub(crate) async fn keep_certificates(shared: Arc<Shared>) {
    let mut changed = shared.view.changed();
    let mut keeper = Keeper { provider: ring::default_provider(), kept: BTreeMap::new() };
    let mut look = tokio::time::interval(LOOK_EVERY);
    let mut known: Option<Records> = None;
    loop {
        let is_time = tokio::select! {
            _ = changed.changed() => false,
            _ = look.tick() => true,
        };
        let Some(records) = shared.view.load().as_ref().map(|table| Arc::clone(table.certificates())) else { continue };
        let is_known = known.as_ref().is_some_and(|known| Arc::ptr_eq(known, &records));
        if (is_known && !is_time) || (records.is_empty() && keeper.kept.is_empty()) {
            known = Some(records);
            continue;
        }
        known = Some(Arc::clone(&records));
        // Files may be slow.
        let looked = tokio::task::spawn_blocking(move || {
            let (chosen, told) = keeper.look(&records, SystemTime::now());
            (keeper, chosen, told)
        });
        let Ok((back, chosen, told)) = looked.await else { return };
        keeper = back;
        shared.certificates.set(chosen, told);
    }
}

impl Keeper {
    /// Reads what has changed. What is to be in force, and what is to be told.
    fn look(&mut self, records: &BTreeMap<Name, CertificateRecord>, now: SystemTime) -> (Chosen, Vec<Told>) {
        self.kept.retain(|name, _| records.contains_key(name));
        let (mut chosen, mut told) = (Chosen::default(), Vec::new());
        for (name, CertificateRecord { value, revision }) in records {
            let kept = self.kept.entry(name.clone()).or_default();
            kept.look(name, value, &self.provider, now);
            let mut warnings = Vec::new();
            if let Some(loaded) = &kept.loaded {
                let taken = chosen.add(value, &loaded.key);
                if !taken.is_empty() {
                    warnings.push(format!("another certificate is used for {}", taken.join(", ")));
                }
                if !loaded.unnamed.is_empty() {
                    warnings.push(format!("the certificate does not name {}: clients refuse it there", loaded.unnamed.join(", ")));
                }
                if loaded.not_after < now + SOON {
                    warnings.push(format!("the certificate ends on {}", humantime::format_rfc3339_seconds(loaded.not_after)));
                }
            }
            let not_after = kept.loaded.as_ref().map(|loaded| loaded.not_after);
            told.push(Told { name: name.clone(), revision: *revision, not_after, fault: kept.fault.clone(), warnings });
        }
        (chosen, told)
    }
}

impl Kept {
    fn look(&mut self, name: &Name, record: &Certificate, provider: &CryptoProvider, now: SystemTime) {
        let loaded = Material::read(record).and_then(|material| {
            let seen = (record.clone(), material.digest());
            let is_new = self.seen.as_ref() != Some(&seen);
            // One that was not valid yet may be by now.
            if !is_new && self.fault.is_none() {
                return Ok(None);
            }
            self.seen = Some(seen);
            load(&material, record, provider, now).map(Some)
        });
        let fault = match loaded {
            Ok(None) => return,
            Ok(Some(loaded)) => {
                let ends = humantime::format_rfc3339_seconds(loaded.not_after);
                tracing::info!(certificate = %name, %ends, "a certificate is in force");
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
            let last_good = if self.loaded.is_some() { "its last good one stays in force" } else { "there is none to show" };
            tracing::error!(certificate = %name, "certificates/{name} can't be used: {fault}; {last_good}");
        }
        self.fault = fault;
    }
}
