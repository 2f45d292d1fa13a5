//! `GET /routes/<service>/<key>`: the route in force for one routing key, hints and reads of the store included.

use std::sync::Arc;

use hyper::StatusCode;
use serde_json::json;
use waypost_policy::{
    Code,
    exchange::look_up,
    table::{Entry, RequestKey, Source, State},
};

use super::{Answer, as_json, problem};
use crate::state::Shared;

/// The answer; both parts are percent-encoded.
pub(super) fn route(shared: &Shared, service: &str, key: &str) -> Answer {
    let Some(table) = shared.view.load_full() else { return problem(Code::NotReady) };
    let decode = |part: &str| percent_encoding::percent_decode_str(part).collect::<Vec<u8>>();
    let key: Arc<[u8]> = decode(key).into();
    let service = String::from_utf8_lossy(&decode(service)).into_owned();
    let Some(service) = table.service_named(&service) else { return problem(Code::NoService) };
    let request_key = RequestKey { service: service.id, key: Arc::clone(&key) };
    let mut rng = fastrand::Rng::new();
    let world = shared.world(&table, &mut rng);
    let entry = table.entry(&request_key);
    let record = table.record_of(&request_key).map(|record| String::from_utf8_lossy(&record).into_owned());
    let (state, target) = match entry {
        Entry::Route(route, _) => (route.state, if let State::Moving(target) = route.state { table.upstream_name(target) } else { None }),
        Entry::Absent(_) => (State::Serving, None),
    };
    let found = match (look_up(&request_key, &world), entry) {
        (Ok(found), _) => Some((found.owner, found.epoch, found.source)),
        // Frozen and quarantined routes can't be used, but they can be shown.
        (Err(_), Entry::Route(route, source)) => Some((route.owner, route.epoch, source)),
        (Err(nowhere), Entry::Absent(_)) => return problem(nowhere.code()),
    };
    let Some((owner, epoch, source)) = found else { return problem(Code::NoRoute) };
    let shown = json!({
        "service": &*service.name,
        "key": String::from_utf8_lossy(&key),
        "record": record,
        "owner": table.upstream_name(owner).map(|name| &**name),
        "epoch": epoch,
        "state": if source == Source::Hint { State::Serving.as_str() } else { state.as_str() },
        "target": target.map(|name| &**name),
        "revision": table.revision(),
        "source": source.as_str(),
    });
    as_json(StatusCode::OK, &shown)
}
