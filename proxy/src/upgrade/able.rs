//! Whether a new process serves as well as the old one would.

use std::time::Duration;

use tokio::time::Instant;

use crate::{resolver, state::Shared};

const LOOK_EVERY: Duration = Duration::from_millis(20);
/// So long it is waited for what a process can serve without: the store, names and certificates.
const PATIENCE: Duration = Duration::from_secs(5);

/// Ends when a table is in force and follows the store, names are resolved and certificates are read; after a while without all but the table.
pub(crate) async fn can_serve(shared: &Shared) {
    while shared.readiness().is_err() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let until = Instant::now() + PATIENCE;
    while !(shared.view.is_connected() && resolver::is_resolved(shared) && has_certificates(shared)) && Instant::now() < until {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// What the table names for TLS has been looked at, whatever came of it.
fn has_certificates(shared: &Shared) -> bool {
    let table = shared.view.load_full();
    let told = shared.certificates.told();
    let upstreams = shared.upstreams.told();
    table.is_none_or(|table| {
        let are_read = table.certificates().keys().all(|name| told.iter().any(|told| told.name == *name));
        // A guard connects to none of them.
        are_read && (shared.guard.is_some() || table.secured().len() <= upstreams.len())
    })
}
