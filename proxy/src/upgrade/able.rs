//! Whether a new process serves as well as the old one would.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use tokio::time::Instant;
use waypost_conf::Name;
use waypost_policy::table::Recorded;

use crate::{resolver, state::Shared, tls::Told};

const LOOK_EVERY: Duration = Duration::from_millis(20);
/// So long it is waited for what a process can serve without: the store, names and certificates.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a process's table reflects.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    /// The store's revision.
    pub(crate) revision: u64,
    /// The table's digest; empty where there is none.
    pub(crate) digest: String,
}

impl Known {
    /// What is in force now.
    pub(crate) fn of(shared: &Shared) -> Self {
        let table = shared.view.load_full();
        table.map_or_else(Self::default, |table| Self { revision: table.revision(), digest: format!("{:032x}", table.digest()) })
    }

    /// Whether it has all that the other has: the same records, or those of a later revision.
    fn has(&self, other: &Self) -> bool {
        self.digest == other.digest || self.revision >= other.revision
    }
}

/// Ends when a table is in force, follows the store and is as new as the old process's, names are resolved and certificates are read; after a while without all but the table.
pub(crate) async fn can_serve(shared: &Shared, known: &Known) {
    while shared.readiness().is_err() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let until = Instant::now() + PATIENCE;
    while !(shared.view.is_connected() && Known::of(shared).has(known) && resolver::is_resolved(shared) && has_certificates(shared))
        && Instant::now() < until
    {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// What the table names for TLS has been looked at, whatever came of it.
fn has_certificates(shared: &Shared) -> bool {
    let table = shared.view.load_full();
    table.is_none_or(|table| {
        let are_read = are_told(table.certificates(), &shared.certificates.told());
        // A guard connects to none of them.
        are_read && (shared.guard.is_some() || are_told(table.secured(), &shared.upstreams.told()))
    })
}

/// Each record as it is now, not as it was.
fn are_told<T>(records: &BTreeMap<Name, Recorded<T>>, told: &[Told]) -> bool {
    let told: HashMap<&Name, u64> = told.iter().map(|told| (&told.name, told.revision)).collect();
    records.iter().all(|(name, record)| told.get(name) == Some(&record.revision))
}
