//! `GET /status`: what this proxy knows, and how fresh that is.

use std::time::Duration;

use serde_json::{Value, json};
use waypost_conf::escaped;
use waypost_policy::{
    handover::{Freeze, RESCUE_AFTER},
    table::{Source, Table},
};
use waypost_watcher::{DigestChecked, snapshot::OnDisk};

use super::shown_key;
use crate::{state::Shared, tls::Told};

/// So many hints are shown.
const MOST_HINTS: usize = 100;
/// So many frozen keys are named.
const MOST_FROZEN: usize = 100;

/// The whole of it.
pub(super) fn status(shared: &Shared) -> Value {
    // The table first: what is said of its records was told before it came into force.
    let table = shared.view.load_full();
    let gold = shared.view.status();
    let table = table.as_deref();
    let warnings = gold.warnings.iter().cloned().chain(shared.bootstrap_warnings.iter().cloned());
    let warnings =
        warnings.chain(table.into_iter().flat_map(Table::warnings).map(|warning| format!("{}: {}", warning.key, warning.message)));
    let warnings = warnings.chain(long_frozen(shared));
    let (certificates, upstreams) = (shared.certificates.told(), shared.upstreams.told());
    let of_tls = || certificates.iter().chain(upstreams.iter());
    let said = of_tls().flat_map(|told| told.warnings.iter().map(|said| format!("{}: {said}", told.key)));
    let warnings = warnings.chain(said);
    let quarantined = gold.quarantined.iter().map(|held| json!({ "key": held.key, "revision": held.revision, "reason": held.reason }));
    let unusable = of_tls().filter_map(|told| {
        let reason = told.fault.as_ref()?;
        Some(json!({ "key": format!("{}/{}", gold.prefix, told.key), "revision": told.revision, "reason": reason }))
    });
    let quarantined = quarantined.chain(unusable);
    let mut status = json!({
        "proxy": shared.id,
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "uptime_ms": millis(shared.clock.origin().elapsed()),
        "gold": [{
            "shard": "default",
            "cluster_id": gold.cluster_id,
            "table": table.map(|table| table.id().as_str()),
            "revision": table.map_or(0, Table::revision),
            "prefix": gold.prefix,
            "connected": gold.connected,
            "other_history": gold.is_other_history,
            "endpoint": gold.endpoint,
            "source": table.map_or(Source::Watch, Table::source).as_str(),
            "age_ms": gold.age_ms,
            "resyncs": gold.resyncs.values().sum::<u64>(),
            "resyncs_by_reason": gold.resyncs,
            "publish_ms": gold.last_publish.map(|took| took.as_secs_f64() * 1000.0),
            "digest_check": gold.digest_checked.as_ref().map(digest_check),
            "stalled_ms": millis(shared.view.stalled()),
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
        "certificates": certificates.iter().map(certificate).collect::<Vec<_>>(),
        "upstream_tls": upstreams.iter().map(upstream_tls).collect::<Vec<_>>(),
        "hints": { "count": shared.hints.len(), "refuted": shared.hints.refuted(), "newest": hints(shared, table) },
        "quarantined": quarantined.collect::<Vec<_>>(),
        "held_back": &*gold.held_back,
        "held_back_count": gold.held_back_count,
        "warnings": warnings.collect::<Vec<_>>(),
    });
    if let Some(guard) = &shared.guard {
        status["guard"] = guard.status();
    }
    status
}

/// What owners have said of single keys that the table does not show yet, the newest first.
fn hints(shared: &Shared, table: Option<&Table>) -> Vec<Value> {
    let (Some(table), now) = (table, shared.clock.now()) else { return Vec::new() };
    let shown = shared.hints.newest(MOST_HINTS).into_iter().map(|(key, hint)| {
        json!({
            "service": table.service(key.service).map(|service| &*service.name),
            "key": shown_key(&key.key),
            "owner": table.upstream_name(hint.owner),
            "epoch": hint.epoch,
            "revision": hint.revision,
            "reporter": hint.reporter.as_str(),
            "age_ms": millis(now.since(hint.taken_at)),
        })
    });
    shown.collect()
}

/// Keys that have been frozen for longer than a move takes: whoever moved them may have died.
fn long_frozen(shared: &Shared) -> Vec<String> {
    let (now, freezes) = (shared.clock.now(), shared.freezes());
    let (long, are_more) = freezes.longer_than(RESCUE_AFTER, now);
    let mut said: Vec<String> = long
        .iter()
        .take(MOST_FROZEN)
        .map(|freeze| {
            let Freeze { service, since, .. } = freeze;
            let (record, seconds) = (escaped(&freeze.record), now.since(*since).as_secs());
            let owner = freeze.owner.as_deref().unwrap_or("its owner");
            format!(
                "routes/{service}/{record}: frozen for {seconds} s; if a mover froze it and has died, an instance of {owner} gives it back, or \
                 waypost route move {service} {record} --abort"
            )
        })
        .collect();
    if long.len() > MOST_FROZEN || are_more {
        said.push(format!("{}{} routes are frozen for longer than {RESCUE_AFTER:?}", if are_more { "more than " } else { "" }, long.len()));
    }
    said
}

/// A certificate: when what is in force of it ends, `null` if nothing is.
fn certificate(told: &Told) -> Value {
    json!({ "name": told.name, "not_after": told.not_after.map(|ends| humantime::format_rfc3339_seconds(ends).to_string()) })
}

/// What an upstream's record names for TLS: whether all of it is in force, and when the certificate that it is shown ends, if there is one.
fn upstream_tls(told: &Told) -> Value {
    let ends = told.not_after.map(|ends| humantime::format_rfc3339_seconds(ends).to_string());
    json!({ "name": told.name, "in_force": told.fault.is_none(), "not_after": ends })
}

/// The last comparison of the table with all that the store holds.
fn digest_check(checked: &DigestChecked) -> Value {
    let age = checked.at.elapsed().unwrap_or_default();
    json!({ "revision": checked.revision, "equal": checked.is_equal, "age_ms": millis(age) })
}

/// What is known of the snapshot on disk: its revision, how long ago it was written, and why it can't be, while it can't.
fn snapshot(on_disk: &OnDisk) -> Value {
    let (revision, written) = on_disk.written.unzip();
    let age = written.map(|at| at.elapsed().unwrap_or_default());
    json!({
        "revision": revision,
        "age_ms": age.map(millis),
        "error": on_disk.error,
    })
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
