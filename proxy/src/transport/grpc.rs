//! gRPC over HTTP/2: which requests are calls, how long they may take, and the proxy's own answers as a status.
//!
//! A call is answered 200 whatever becomes of it; what became of it stands in `grpc-status`, behind the last message or, where there is none, in
//! the head ("Trailers-Only", gRPC over HTTP2). Nothing here looks into messages.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use pingora_core::Result;
use pingora_http::ResponseHeader;
use waypost_policy::Code;

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Whether these are the fields of a call, or of the answer to one.
pub(super) fn is_call(fields: &HeaderMap) -> bool {
    let kind = fields.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    let rest = kind.and_then(|kind| kind.strip_prefix(b"application/grpc"));
    rest.is_some_and(|rest| rest.first().is_none_or(|next| b"+; ".contains(next)))
}

/// How long its client waits for a call: up to eight digits and a unit. `None`: for ever, or nobody knows.
pub(super) fn time_limit(fields: &HeaderMap) -> Option<Duration> {
    let value = fields.get(TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let amount = digits.parse().ok()?;
    let limit = match unit {
        "H" => Duration::from_secs(amount * 60 * 60),
        "M" => Duration::from_secs(amount * 60),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    };
    // Zero would be no limit here; its client has given up already.
    Some(limit.max(Duration::from_millis(1)))
}

/// Whether the head of an answer is all of it.
pub(super) fn is_ended(fields: &HeaderMap) -> bool {
    fields.contains_key(STATUS)
}

/// An answer of the proxy's own becomes one to a call: its status and reason, and no body.
pub(super) fn into_status(head: &mut ResponseHeader, code: Code) -> Result<()> {
    head.set_status(http::StatusCode::OK)?;
    head.remove_header(&header::CONTENT_LENGTH);
    head.remove_header(&header::LOCATION);
    head.remove_header(&header::RETRY_AFTER);
    head.insert_header(header::CONTENT_TYPE, "application/grpc")?;
    head.insert_header(STATUS, status_of(code))?;
    head.insert_header(MESSAGE, code.title())
}

/// What stands behind a call's messages when no more of them come, and its owner has not said why.
pub(super) fn cut_short(is_late: bool) -> HeaderMap {
    let (status, message) = if is_late { (DEADLINE_EXCEEDED, "the call took too long") } else { (UNAVAILABLE, "the call was cut short") };
    let fields = [(STATUS, HeaderValue::from_static(status)), (MESSAGE, HeaderValue::from_static(message))];
    fields.into_iter().collect()
}

// Codes of gRPC ("Status codes and their use in gRPC").
const INVALID_ARGUMENT: &str = "3";
const DEADLINE_EXCEEDED: &str = "4";
const RESOURCE_EXHAUSTED: &str = "8";
const UNIMPLEMENTED: &str = "12";
const INTERNAL: &str = "13";
const UNAVAILABLE: &str = "14";

/// As clients map the statuses of HTTP ("HTTP to gRPC Status Code Mapping"), but more exactly where the proxy knows better.
fn status_of(code: Code) -> &'static str {
    match code {
        Code::NoKey => INVALID_ARGUMENT,
        Code::UpstreamTimeout | Code::ClientTimeout => DEADLINE_EXCEEDED,
        Code::BodyTooLarge | Code::HeaderTooLarge => RESOURCE_EXHAUSTED,
        Code::NoService | Code::NoRoute => UNIMPLEMENTED,
        Code::BadRequest | Code::BadPath | Code::Internal | Code::BadResponse | Code::Loop => INTERNAL,
        _ => UNAVAILABLE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(name: HeaderName, value: &str) -> HeaderMap {
        [(name, HeaderValue::from_str(value).unwrap())].into_iter().collect()
    }

    #[test]
    fn a_call_is_known_by_its_content_type_and_grpc_web_is_none() {
        for (kind, is) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/grpcx", false),
            ("application/json", false),
        ] {
            assert_eq!(is_call(&fields(header::CONTENT_TYPE, kind)), is, "{kind}");
        }
        assert!(!is_call(&HeaderMap::new()));
    }

    #[test]
    fn time_limits_are_read_in_all_units_and_nothing_else_is_one() {
        for (value, limit) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("99999999m", Some(Duration::from_millis(99_999_999))),
            ("5000u", Some(Duration::from_millis(5))),
            ("7000000n", Some(Duration::from_millis(7))),
            ("0S", Some(Duration::from_millis(1))),
            ("", None),
            ("S", None),
            ("1", None),
            ("1h", None),
            ("-1S", None),
            ("123456789S", None),
            ("1.5S", None),
        ] {
            assert_eq!(time_limit(&fields(TIMEOUT, value)), limit, "{value:?}");
        }
    }
}
