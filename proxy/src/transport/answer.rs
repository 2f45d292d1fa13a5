//! The answers of the proxy's own, rendered: `application/problem+json` (RFC 9457) and the redirect.
//!
//! One rendering for all lanes and for connections that never got as far as a request.

use bytes::BytesMut;
use pingora_http::ResponseHeader;
use serde::Serialize;
use waypost_policy::Code;

/// The problem type of a code is this with the code behind it.
const TYPE_PREFIX: &str = "urn:waypost:problem:";

/// The header that names the code; only this proxy's own answers have it.
pub(super) const REASON: &str = "waypost-reason";

#[derive(Serialize)]
struct Problem<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    request_id: &'a str,
}

/// The body of an answer.
pub(crate) fn problem_json(code: Code, request_id: &str) -> Vec<u8> {
    let problem = Problem {
        r#type: format!("{TYPE_PREFIX}{}", code.as_str()),
        title: code.title(),
        status: code.status(),
        detail: code.detail(),
        request_id,
    };
    serde_json::to_vec(&problem).unwrap_or_default()
}

/// The head of an answer whose body has `body_bytes`; `location` only for a redirect.
pub(crate) fn head(code: Code, request_id: &str, location: Option<&[u8]>, body_bytes: usize) -> pingora_core::Result<ResponseHeader> {
    let mut head = ResponseHeader::build(code.status(), Some(8))?;
    head.set_reason_phrase(Some(code.title()))?;
    head.insert_header("Content-Type", "application/problem+json")?;
    head.insert_header("Content-Length", body_bytes)?;
    head.insert_header("Waypost-Reason", code.as_str())?;
    head.insert_header("X-Request-Id", request_id)?;
    head.insert_header("Via", super::headers::VIA)?;
    if code.status() == 503 {
        head.insert_header("Retry-After", "1")?;
    }
    if let Some(location) = location {
        head.insert_header("Cache-Control", "no-store")?;
        head.insert_header("Location", location)?;
    }
    Ok(head)
}

/// A whole answer as bytes; of one to HEAD the head.
pub(crate) fn written(
    code: Code,
    request_id: &str,
    location: Option<&[u8]>,
    body: &[u8],
    keeps: bool,
    is_head: bool,
) -> pingora_core::Result<Vec<u8>> {
    let head = head(code, request_id, location, body.len())?;
    let mut fields = BytesMut::new();
    head.header_to_h1_wire(&mut fields);
    let mut written = format!("HTTP/1.1 {} {}\r\n", code.status(), code.title()).into_bytes();
    written.extend_from_slice(&fields);
    end_head(&mut written, keeps);
    written.extend_from_slice(if is_head { b"" } else { body });
    Ok(written)
}

/// A whole answer for a connection on which no request could be read, which closes behind it.
pub(crate) fn raw(code: Code, request_id: &str) -> Vec<u8> {
    // Nothing in it can be no field.
    written(code, request_id, None, &problem_json(code, request_id), false, false).unwrap_or_default()
}

/// Ends the head of a last answer: the time, and whether the connection goes on.
pub(super) fn end_head(out: &mut Vec<u8>, keeps: bool) {
    let date = pingora_core::protocols::http::date::get_cached_date();
    let connection: &[u8] = if keeps { b"keep-alive" } else { b"close" };
    for part in [b"Date: ", date.as_bytes(), b"\r\nConnection: ", connection, b"\r\n\r\n"] {
        out.extend_from_slice(part);
    }
}
