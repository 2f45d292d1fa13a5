//! `GET /status`: what this proxy knows, and how fresh that is.

use serde_json::{Value, json};
use waypost_policy::table::{Source, Table};
use waypost_watcher::snapshot::OnDisk;

use crate::state::Shared;

/// The whole of it.
pub(super) fn status(shared: &Shared) -> Value {
    // The table first: what is said of its records was told before it came into force.
    let table = shared.view.load_full();
    let gold = shared.view.status();
    let table = table.as_deref();
    let warnings = gold.warnings.iter().cloned().chain(shared.bootstrap_warnings.iter().cloned());
    let warnings =
        warnings.chain(table.into_iter().flat_map(Table::warnings).map(|warning| format!("{}: {}", warning.key, warning.message)));
    let quarantined = gold.quarantined.iter().map(|held| json!({ "key": held.key, "revision": held.revision, "reason": held.reason }));
    json!({
        "proxy": shared.id,
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_ms": u64::try_from(shared.clock.origin().elapsed().as_millis()).unwrap_or(u64::MAX),
        "gold": [{
            "shard": "default",
            "cluster_id": gold.cluster_id,
            "table": table.map(|table| table.id().as_str()),
            "revision": table.map_or(0, Table::revision),
            "prefix": gold.prefix,
            "connected": gold.connected,
            "endpoint": gold.endpoint,
            "source": table.map_or(Source::Watch, Table::source).as_str(),
            "age_ms": gold.age_ms,
            "resyncs": gold.resyncs.values().sum::<u64>(),
            "resyncs_by_reason": gold.resyncs,
            "publish_ms": gold.last_publish.map(|took| took.as_secs_f64() * 1000.0),
            "snapshot": gold.snapshot.as_ref().map(snapshot),
            "last_error": gold.last_error,
        }],
        "table": {
            "services": table.map_or(0, |table| table.services().len()),
            "routes": table.map_or(0, Table::route_count),
            "upstreams": table.map_or(0, |table| table.upstreams().count()),
            "endpoints": table.map_or(0, |table| table.upstreams().map(|upstream| upstream.endpoints.len()).sum()),
            "digest": format!("{:032x}", table.map_or(0, Table::digest)),
        },
        "hints": { "count": shared.hints.len(), "refuted": shared.hints.refuted() },
        "quarantined": quarantined.collect::<Vec<_>>(),
        "held_back": &*gold.held_back,
        "held_back_count": gold.held_back_count,
        "warnings": warnings.collect::<Vec<_>>(),
    })
}

/// What is known of the snapshot on disk: its revision, how long ago it was written, and why it can't be, while it can't.
fn snapshot(on_disk: &OnDisk) -> Value {
    let (revision, written) = on_disk.written.unzip();
    let age = written.map(|at| at.elapsed().unwrap_or_default());
    json!({
        "revision": revision,
        "age_ms": age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
        "error": on_disk.error,
    })
}
