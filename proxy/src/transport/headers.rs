//! Which header fields cross the proxy, and which it adds (INTERFACE.md, "Headers").
//!
//! `Route-*` never crosses, in either direction. What a client says of itself (`X-Forwarded-*`, `X-Request-Id`) is kept only from a
//! trusted address; from others it is replaced.

use http::HeaderValue;
use pingora_core::Result;
use pingora_http::{RequestHeader, ResponseHeader};
use waypost_policy::{
    Head, Reply,
    head::Target,
    wire::{STAMP_HEADER, is_protocol_header},
};

use super::ConnectionInfo;

/// What `Via` says of this proxy (RFC 9110, section 7.6.3); the name is a pseudonym, the same for all.
pub(crate) const VIA: &str = "1.1 waypost";
/// The longest request id that is taken from a trusted client.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// A request's head as the core reads it.
pub(crate) struct RequestHead<'a>(pub(crate) &'a RequestHeader);

impl Head for RequestHead<'_> {
    fn method(&self) -> &[u8] {
        self.0.method.as_str().as_bytes()
    }

    fn target(&self) -> &[u8] {
        self.0.raw_path()
    }

    fn authority(&self) -> Option<&[u8]> {
        self.0.headers.get(http::header::HOST).map(HeaderValue::as_bytes)
    }

    fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.0.headers.get_all(name).into_iter().map(HeaderValue::as_bytes)
    }
}

/// A response's head as the core reads it.
pub(crate) struct ReplyHead<'a>(pub(crate) &'a ResponseHeader);

impl Reply for ReplyHead<'_> {
    fn status(&self) -> u16 {
        self.0.status.as_u16()
    }

    fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.0.headers.get_all(name).into_iter().map(HeaderValue::as_bytes)
    }
}

/// Removes what of the protocol a client sent. Done before the request is looked at.
pub(crate) fn strip_protocol_from_request(head: &mut RequestHeader) {
    for name in protocol_names(&head.headers) {
        head.remove_header(&name);
    }
}

/// The request's id: a trusted client's, else a new one.
pub(crate) fn request_id(head: &RequestHeader, connection: &ConnectionInfo) -> String {
    let given = head.headers.get("x-request-id").filter(|_| connection.trusted).and_then(|id| id.to_str().ok());
    let given = given.filter(|id| !id.is_empty() && id.len() <= MAX_REQUEST_ID_BYTES && id.bytes().all(|b| b.is_ascii_graphic()));
    given.map_or_else(new_request_id, str::to_owned)
}

/// A new request id: time-ordered, so that ids sort as requests came (RFC 9562, version 7).
pub(crate) fn new_request_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// Whether the request has passed through this very proxy already (RFC 8586).
pub(crate) fn has_looped(head: &RequestHeader, cdn_id: &str) -> bool {
    let values = head.headers.get_all("cdn-loop").into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|entry| entry.split(';').next().is_some_and(|id| id.trim() == cdn_id))
}

/// Takes from a request what its version does not know: an HTTP/1.0 client can't be told to go on (RFC 9110, section 10.1.1).
pub(crate) fn strip_expectation(head: &mut RequestHeader) {
    if head.version == http::Version::HTTP_10 {
        head.remove_header(&http::header::EXPECT);
    }
}

/// Why an owner's answer is refused, if it is: it can't be passed on as it was meant.
pub(crate) fn uncarried(head: &ResponseHeader, upgrade_asked: bool) -> Option<&'static str> {
    let codings = head.headers.get_all(http::header::TRANSFER_ENCODING);
    if head.status == http::StatusCode::SWITCHING_PROTOCOLS && !upgrade_asked {
        Some("it switches protocols unasked")
    } else if codings.iter().any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked")) {
        Some("it has a transfer coding that was not asked for")
    } else if codings.iter().next().is_some() && head.headers.contains_key(http::header::TRAILER) {
        // They would be lost on the way, and with them what they say: often that the body is not whole.
        Some("it announces trailers")
    } else {
        None
    }
}

/// Frames an answer for an HTTP/1.0 client, which knows no chunks; false if only the connection's end can end the body.
pub(crate) fn frame_for_http10(head: &mut ResponseHeader) -> bool {
    head.remove_header(&http::header::TRANSFER_ENCODING);
    head.headers.contains_key(http::header::CONTENT_LENGTH)
}

/// How long a request says that its body is; 0 where it does not say.
pub(crate) fn announced_body_bytes(head: &RequestHeader) -> u64 {
    let announced = head.headers.get(http::header::CONTENT_LENGTH);
    announced.and_then(|length| length.to_str().ok()?.parse().ok()).unwrap_or(0)
}

/// Adds to a request what its owner is told.
pub(crate) fn prepare_request(
    head: &mut RequestHeader,
    connection: &ConnectionInfo,
    cdn_id: &str,
    request_id: &str,
    endpoint: &str,
    stamp: &str,
) -> Result<()> {
    to_origin_form(head)?;
    let client = connection.client.ip().to_string();
    let host = head.headers.get(http::header::HOST).cloned();
    if connection.trusted {
        append_to_list(head, "X-Forwarded-For", &client)?;
        if !head.headers.contains_key("x-forwarded-proto") {
            head.insert_header("X-Forwarded-Proto", connection.scheme)?;
        }
    } else {
        head.insert_header("X-Forwarded-For", client)?;
        head.insert_header("X-Forwarded-Proto", connection.scheme)?;
        head.remove_header("x-forwarded-host");
    }
    if let Some(host) = host.filter(|_| !head.headers.contains_key("x-forwarded-host")) {
        head.insert_header("X-Forwarded-Host", host)?;
    }
    if !head.headers.contains_key(http::header::HOST) {
        // An HTTP/1.0 client needs none, the HTTP/1.1 request that is made of it does.
        head.insert_header("Host", endpoint)?;
    }
    head.insert_header("X-Request-Id", request_id)?;
    head.append_header("Via", VIA)?;
    append_to_list(head, "CDN-Loop", cdn_id)?;
    head.insert_header(STAMP_HEADER_WRITTEN, stamp)
}

/// An absolute-form target goes on as path and query (RFC 9112, section 3.2.2); its authority is in `Host`.
fn to_origin_form(head: &mut RequestHeader) -> Result<()> {
    if matches!(head.raw_path().first(), Some(b'/' | b'*')) {
        return Ok(());
    }
    let Some(target) = Target::parse(head.raw_path()) else { return Ok(()) };
    let slash: &[u8] = if target.path_and_query.first() == Some(&b'/') { b"" } else { b"/" };
    let origin_form = [slash, target.path_and_query].concat();
    head.set_raw_path(&origin_form)
}

/// [`STAMP_HEADER`] as it is written.
const STAMP_HEADER_WRITTEN: &str = "Route-Stamp";
const _: () = assert!(STAMP_HEADER.len() == STAMP_HEADER_WRITTEN.len());

/// Takes from a response what is not the client's, and adds what is.
pub(crate) fn prepare_response(head: &mut ResponseHeader, request_id: &str) -> Result<()> {
    for name in protocol_names(&head.headers) {
        head.remove_header(&name);
    }
    let is_upgrade = head.status == http::StatusCode::SWITCHING_PROTOCOLS;
    if !is_upgrade {
        strip_hop_by_hop(head);
    }
    if head.status.is_informational() && !is_upgrade {
        return Ok(());
    }
    head.set_version(http::Version::HTTP_11);
    head.append_header("Via", VIA)?;
    head.insert_header("X-Request-Id", request_id)
}

/// RFC 9110, section 7.6.1. `Transfer-Encoding` stays: the transport frames the body by it and writes its own.
fn strip_hop_by_hop(head: &mut ResponseHeader) {
    let named = head.headers.get_all(http::header::CONNECTION).into_iter().filter_map(|value| value.to_str().ok());
    let named: Vec<String> = named.flat_map(|value| value.split(',')).map(|name| name.trim().to_ascii_lowercase()).collect();
    for name in named.iter().map(String::as_str).chain(["connection", "keep-alive", "proxy-connection", "te", "trailer", "upgrade"]) {
        if !matches!(name, "transfer-encoding" | "content-length") {
            head.remove_header(name);
        }
    }
}

fn protocol_names(headers: &http::HeaderMap) -> Vec<http::HeaderName> {
    headers.keys().filter(|name| is_protocol_header(name.as_str())).cloned().collect()
}

/// Appends to a comma-separated list, keeping it in one field.
fn append_to_list(head: &mut RequestHeader, name: &'static str, value: &str) -> Result<()> {
    let mut list: Vec<Vec<u8>> = head.headers.get_all(name).into_iter().map(|value| value.as_bytes().to_vec()).collect();
    list.retain(|value| !value.is_empty());
    list.push(value.as_bytes().to_vec());
    head.insert_header(name, list.join(&b", "[..]))
}
