//! `GET /requests/<request-id>`: what became of one recent request, dispatch by dispatch.

use hyper::StatusCode;
use serde::Serialize;
use waypost_policy::{
    Code, Moment,
    exchange::{Dispatched, Waited},
};

use super::{Answer, as_json, problem_saying, shown_key};
use crate::{
    recent::{self, Kept},
    state::Shared,
};

/// The answer; the id is percent-encoded.
pub(super) fn request(shared: &Shared, id: &str) -> Answer {
    let id = percent_encoding::percent_decode_str(id).decode_utf8_lossy();
    match shared.recent.find(&id) {
        Some(kept) => as_json(StatusCode::OK, &shown(&kept)),
        None => {
            let (plain, notable) = (recent::PLAIN_ENTRIES, recent::NOTABLE_ENTRIES);
            let detail = format!(
                "no request with this id is remembered: it never came here, has not ended yet, or was too long ago. Remembered are the last \
                 {plain} or so, and of those that failed, were sent again or met a stale route the last {notable} or so. \
                 The id is the answer's X-Request-Id."
            );
            problem_saying(StatusCode::NOT_FOUND, "unknown_request", &detail)
        }
    }
}

/// In the order in which a person reads it.
#[derive(Serialize)]
struct Shown<'a> {
    request_id: &'a str,
    time: String,
    method: &'a str,
    host: Option<String>,
    path: String,
    status: u16,
    reason: Option<&'static str>,
    service: Option<&'a str>,
    key: Option<String>,
    duration_us: u64,
    hops: Vec<Hop<'a>>,
    waits: Vec<Wait>,
}

#[derive(Serialize)]
struct Wait {
    r#for: &'static str,
    at_us: u64,
    took_us: Option<u64>,
}

#[derive(Serialize)]
struct Hop<'a> {
    owner: &'a str,
    endpoint: &'a str,
    epoch: u64,
    revision: u64,
    source: &'static str,
    at_us: u64,
    took_us: Option<u64>,
    outcome: String,
}

fn shown(kept: &Kept) -> Shown<'_> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Shown {
        request_id: kept.request_id(),
        time: humantime::format_rfc3339_micros(kept.ended).to_string(),
        method: kept.method(),
        host: kept.host().map(text),
        path: text(kept.path()),
        status: kept.status,
        reason: kept.reason.map(Code::as_str),
        service: kept.service.as_deref(),
        key: kept.key.as_deref().map(shown_key),
        duration_us: micros(kept.duration),
        hops: kept.dispatches.iter().map(|dispatched| hop(dispatched, kept.started)).collect(),
        waits: kept.waits.iter().map(|waited| wait(*waited, kept.started)).collect(),
    }
}

fn hop(dispatched: &Dispatched, started: Moment) -> Hop<'_> {
    Hop {
        owner: &dispatched.owner,
        endpoint: dispatched.endpoint.as_str(),
        epoch: dispatched.epoch,
        revision: dispatched.revision,
        source: dispatched.source.as_str(),
        at_us: micros(dispatched.at.since(started)),
        took_us: dispatched.ended.as_ref().map(|(at, _)| micros(at.since(dispatched.at))),
        // Without an end: the client went away, or the proxy answered before the owner did.
        outcome: dispatched.ended.as_ref().map_or_else(|| "unanswered".to_owned(), |(_, outcome)| outcome.to_string()),
    }
}

fn wait(waited: Waited, started: Moment) -> Wait {
    let took_us = waited.ended.map(|ended| micros(ended.since(waited.at)));
    Wait { r#for: waited.what.as_str(), at_us: micros(waited.at.since(started)), took_us }
}

fn micros(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
