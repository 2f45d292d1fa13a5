//! Where the lanes may differ, and why: each entry as narrow as its reason.

use serde_json::Value;

use super::{
    case::{Act, Case},
    http2::CUT,
    lane::Seen,
    message::{End, Message, text},
};

/// The keys of the access log that are compared.
const LOGGED: [&str; 15] = [
    "method",
    "host",
    "path",
    "status",
    "reason",
    "service",
    "key",
    "owner",
    "epoch",
    "revision",
    "hops",
    "bytes_in",
    "bytes_out",
    "protocol",
    "user_agent",
];

/// Whether a request is compared: how much reaches an owner of one that never comes whole, or whether anything does, is nobody's promise.
pub(super) fn is_compared(request: &Message) -> bool {
    request.end == End::Whole
}

/// Whether all that was asked and answered came whole.
pub(super) fn is_whole(seen: &Seen) -> bool {
    seen.owner.iter().all(|(_, request)| is_compared(request)) && seen.client.iter().all(|answer| answer.end == End::Whole)
}

/// Whether of an answer that was cut short one client got the beginning of what the other got: how much is nobody's promise.
pub(super) fn are_parts(express: &Seen, general: &Seen) -> bool {
    express
        .client
        .iter()
        .zip(&general.client)
        .all(|(one, other)| one.body.starts_with(&other.body) || other.body.starts_with(&one.body) || one.end != End::Cut)
}

/// Whether what was seen may differ so.
pub(super) fn differ(case: &Case, express: &Seen, general: &Seen) -> bool {
    // Who goes before the answer: how much of the request has reached an owner by then is nobody's promise.
    if case.is_left() {
        return true;
    }
    let (one, other) = (settled(express), settled(general));
    is_broken_at_once(&one, &other) || is_broken_at_once_in_a_stream(&one, &other) || is_broken_and_too_large(&one, &other)
}

/// What was seen without the interim answers before a failure: one that comes together with a head that is no answer's is dropped with it on the express
/// lane, and has gone on the general one.
pub(super) fn settled(seen: &Seen) -> Seen {
    let mut client = Vec::<Message>::new();
    for answer in &seen.client {
        if answer.value("waypost-reason").is_some() {
            while client.pop_if(|before| before.is_interim()).is_some() {}
        }
        client.push(answer.clone());
    }
    Seen { client, ..seen.clone() }
}

/// A body that is too large and broken: which of both is found first depends on how it comes.
fn is_broken_and_too_large(express: &Seen, general: &Seen) -> bool {
    let reason = |seen: &Seen| seen.client.last().and_then(|answer| answer.value("waypost-reason").map(str::to_owned));
    let either = [reason(express), reason(general)];
    let before =
        |seen: &Seen| seen.client[..seen.client.len().saturating_sub(1)].iter().map(|answer| answer.first.clone()).collect::<Vec<_>>();
    either.contains(&Some("body_too_large".to_owned()))
        && either.contains(&Some("bad_request".to_owned()))
        && before(express) == before(general)
}

/// A body whose framing is broken in what came together with its head: the express lane has not written the head yet, and says what is wrong (without the
/// interim answers before it); the general lane has, and cuts.
fn is_broken_at_once(express: &Seen, general: &Seen) -> bool {
    let finals = |seen: &'_ Seen| seen.client.iter().filter(|answer| !answer.is_interim()).cloned().collect::<Vec<_>>();
    let (own, cut) = (finals(express), finals(general));
    let Some(last) = cut.last().filter(|answer| answer.end == End::Cut) else { return false };
    let is_own = own.get(cut.len() - 1).is_some_and(|answer| answer.value("waypost-reason") == Some("bad_response"));
    is_own && last.value("transfer-encoding") == Some("chunked")
}

/// The same over HTTP/2, where other answers follow on the connection. What was cut has no fields that could say how it was framed.
fn is_broken_at_once_in_a_stream(express: &Seen, general: &Seen) -> bool {
    let is_own = |one: &Message, other: &Message| one.value("waypost-reason") == Some("bad_response") && other.first == CUT;
    let mut both = express.client.iter().zip(&general.client);
    express.client.len() == general.client.len() && both.all(|(one, other)| one.first == other.first || is_own(one, other))
}

/// How often an owner is asked that says it is behind depends on the time that each answer takes: its repeats are one. And what one has got that goes
/// without having read its request is chance.
pub(super) fn once(case: &Case, asked: &mut Vec<(&'static str, Message)>) {
    if matches!(case.owner.first(), Some(Act::Close | Act::Reset | Act::Finish | Act::Hang)) {
        asked.retain(|(_, request)| request.first.contains(" /next "));
    }
    if says(case, "state=behind") {
        asked.dedup();
    }
}

/// Whether the log's lines of a case are left out.
pub(super) fn is_logged_otherwise(case: &Case) -> bool {
    case.is_left()
}

/// Whether the owner says something with this in it.
fn says(case: &Case, what: &str) -> bool {
    case.owner.iter().any(|act| matches!(act, Act::Send(bytes) | Act::SendBytewise(bytes) if text(bytes).contains(what)))
}

/// A line of the log as it is compared.
pub(super) fn logged(line: &Value, is_whole: bool) -> String {
    // Of a request that was cut short or answered by the proxy, the general lane counts only what its last session has read; of a
    // cut answer, how much of it passed is nobody's promise.
    let is_counted = |key: &str| is_whole && (key != "bytes_in" || line["reason"].is_null());
    let keys = LOGGED.iter().filter(|key| !key.starts_with("bytes_") || is_counted(key));
    keys.map(|key| format!("{key}={}", line[*key])).collect::<Vec<_>>().join(" ")
}
