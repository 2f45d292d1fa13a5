//! `GET /status`: what this proxy knows, and how fresh that is.

use serde_json::{Value, json};
use waypost_policy::table::{Source, Table};

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
        "held_back": gold.held_back,
        "warnings": warnings.collect::<Vec<_>>(),
    })
}
