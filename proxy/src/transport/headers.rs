//! Which header fields cross the proxy, and which it adds (INTERFACE.md, "Headers").
//!
//! `Route-*` never crosses, in either direction. What a client says of itself (`X-Forwarded-*`, `X-Request-Id`) is kept only from a
//! trusted address; from others it is replaced.

use http::HeaderValue;
use pingora_core::Result;
use pingora_http::{RequestHeader, ResponseHeader};
use waypost_policy::{
    Head, Reply,
    framing::Known,
    head::Target,
    wire::{STAMP_HEADER, Stamp, UPDATE_HEADER, is_protocol_header},
};

use super::ConnectionInfo;

/// What `Via` says of this proxy (RFC 9110, section 7.6.3) where a message came by HTTP/1.1; the name is a pseudonym, the same for all.
pub(crate) const VIA: &str = "1.1 waypost";
/// And where it came by HTTP/2.
const VIA_HTTP2: &str = "2.0 waypost";
const REQUEST_ID: &str = "x-request-id";
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

/// The stamp of a request, if it has just one: that of the proxy that sent it. Anything else is no stamp.
pub(crate) fn stamp(head: &RequestHeader) -> Option<(HeaderValue, Stamp)> {
    let mut stamps = head.headers.get_all(STAMP_HEADER).into_iter();
    let stamp = stamps.next().filter(|_| stamps.next().is_none())?;
    Some((stamp.clone(), Stamp::parse(stamp.as_bytes()).ok()?))
}

/// Removes what of the protocol a client sent. Done before the request is looked at.
pub(crate) fn strip_protocol_from_request(head: &mut RequestHeader) {
    for name in names(&head.headers, is_of_protocol) {
        head.remove_header(&name);
    }
}

/// The request's id: a trusted client's, else a new one.
pub(crate) fn request_id<H: Head>(head: &H, connection: &ConnectionInfo) -> String {
    let given = head.values(REQUEST_ID).next().filter(|_| connection.trusted).and_then(|id| std::str::from_utf8(id).ok());
    let given = given.filter(|id| !id.is_empty() && id.len() <= MAX_REQUEST_ID_BYTES && id.bytes().all(|b| b.is_ascii_graphic()));
    given.map_or_else(new_request_id, str::to_owned)
}

/// A new request id: time-ordered, so that ids sort as requests came (RFC 9562, version 7).
pub(crate) fn new_request_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// Whether the request has passed through this very proxy already (RFC 8586), by the values of its `CDN-Loop`.
pub(crate) fn has_looped<'a>(values: impl Iterator<Item = &'a [u8]>, cdn_id: &str) -> bool {
    let mut entries = values.flat_map(|value| value.split(|b| *b == b','));
    entries.any(|entry| entry.split(|b| *b == b';').next().is_some_and(|id| id.trim_ascii() == cdn_id.as_bytes()))
}

/// Takes from a request what this hop was not asked for or does not do: an upgrade that `Connection` does not name (RFC 9110, section 7.8) or to
/// anything but WebSocket (clients try `h2c`), and of an HTTP/1.0 client both that and the wish to be told to go on (section 10.1.1).
pub(crate) fn strip_unknown_wishes(head: &mut RequestHeader) {
    let is_http10 = head.version == http::Version::HTTP_10;
    let mut options = head.headers.get_all(http::header::CONNECTION).into_iter().flat_map(|value| value.as_bytes().split(|b| *b == b','));
    let names_upgrade = options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"upgrade"));
    let is_websocket = head.headers.get_all(http::header::UPGRADE).iter().all(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"));
    if is_http10 || !names_upgrade || !is_websocket {
        head.remove_header(&http::header::UPGRADE);
    }
    if is_http10 {
        head.remove_header(&http::header::EXPECT);
    }
}

/// What `Via` says of a message that came by this version.
pub(crate) fn via(version: http::Version) -> &'static str {
    if version == http::Version::HTTP_2 { VIA_HTTP2 } else { VIA }
}

/// A version as logs have it.
pub(crate) fn protocol(version: http::Version) -> &'static str {
    match version {
        http::Version::HTTP_10 => "HTTP/1.0",
        http::Version::HTTP_2 => "HTTP/2.0",
        _ => "HTTP/1.1",
    }
}

/// What a request to an owner that speaks HTTP/2 has beside: the client's word that it takes trailers, which calls of gRPC must have. That it
/// waits to be told to send its body is not passed on.
pub(crate) fn prepare_for_http2(head: &mut RequestHeader, from_client: &RequestHeader) {
    head.remove_header(&http::header::EXPECT);
    if from_client.headers.get(http::header::TE).is_some_and(|te| te == "trailers") {
        // The one value that it may have (RFC 9113, section 8.2.2).
        let _ = head.insert_header(http::header::TE, "trailers");
    }
}

/// Takes from the trailers of an answer what is not the client's.
pub(crate) fn strip_protocol_from_trailers(trailers: &mut http::HeaderMap) {
    for name in names(trailers, is_of_protocol) {
        trailers.remove(name);
    }
}

/// Whether the client waits to be told to send its body.
pub(crate) fn expects_continue(head: &RequestHeader) -> bool {
    head.headers.get(http::header::EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// What an owner's answer says of its body.
#[derive(Default)]
pub(crate) struct Announced<'a> {
    /// `Transfer-Encoding`.
    pub(crate) codings: Said<'a>,
    /// `Content-Length`.
    pub(crate) lengths: Said<'a>,
    /// `Trailer` is there.
    pub(crate) has_trailers: bool,
}

/// What a field says that should stand there once.
#[derive(Default)]
pub(crate) struct Said<'a> {
    pub(crate) first: Option<&'a [u8]>,
    /// It does not.
    pub(crate) is_repeated: bool,
}

impl<'a> Said<'a> {
    /// Another one.
    pub(crate) fn note(&mut self, value: &'a [u8]) {
        self.is_repeated |= self.first.is_some();
        self.first.get_or_insert(value);
    }
}

impl<'a> Announced<'a> {
    /// What a head says.
    pub(crate) fn by(head: &'a ResponseHeader) -> Self {
        let mut announced = Self { has_trailers: head.headers.contains_key(http::header::TRAILER), ..Self::default() };
        head.headers.get_all(http::header::TRANSFER_ENCODING).iter().for_each(|coding| announced.codings.note(coding.as_bytes()));
        head.headers.get_all(http::header::CONTENT_LENGTH).iter().for_each(|length| announced.lengths.note(length.as_bytes()));
        announced
    }
}

/// Whether an answer switches to what is passed on if it was asked for: WebSocket.
pub(crate) fn switches_to_websocket(head: &ResponseHeader) -> bool {
    head.headers.get(http::header::UPGRADE).is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Why an owner's answer is refused, if it is: its framing is faulty (RFC 9112, section 6), or it can't be passed on as it was meant.
pub(crate) fn uncarried(status: u16, version: http::Version, announced: &Announced<'_>, may_switch: bool) -> Option<&'static str> {
    let Announced { codings, lengths, has_trailers } = announced;
    let is_coded = codings.first.is_some();
    if status == 101 && !may_switch {
        Some("it switches to a protocol that was not asked for")
    } else if codings.is_repeated || codings.first.is_some_and(|coding| !coding.eq_ignore_ascii_case(b"chunked")) {
        Some("it has a transfer coding that was not asked for")
    } else if is_coded && version == http::Version::HTTP_10 {
        Some("it is HTTP/1.0 and chunked")
    // With a coding it says nothing (RFC 9112, section 6.3).
    } else if !is_coded && (lengths.is_repeated || lengths.first.is_some_and(|length| !length.iter().all(u8::is_ascii_digit))) {
        Some("it has several lengths")
    } else if is_coded && *has_trailers {
        // They would be lost on the way, and with them what they say: often that the body is not whole.
        Some("it announces trailers")
    } else {
        None
    }
}

/// Whether an answer is whole with its head.
pub(crate) fn has_no_body(head: &ResponseHeader, method: &http::Method) -> bool {
    let is_empty = head.headers.get(http::header::CONTENT_LENGTH).is_some_and(|length| length.as_bytes().iter().all(|b| *b == b'0'));
    *method == http::Method::HEAD || matches!(head.status.as_u16(), 204 | 304) || is_empty
}

/// Frames an answer for an HTTP/1.0 client, which knows no chunks; false if only the connection's end can end the body.
pub(crate) fn frame_for_http10(head: &mut ResponseHeader) -> bool {
    head.remove_header(&http::header::TRANSFER_ENCODING);
    head.headers.contains_key(http::header::CONTENT_LENGTH)
}

/// How long a request says that its body is; 0 where it does not say.
pub(crate) fn announced_body_bytes(head: &RequestHeader) -> u64 {
    content_length(&head.headers).unwrap_or(0)
}

/// What a head says that its body's length is.
pub(crate) fn content_length(headers: &http::HeaderMap) -> Option<u64> {
    headers.get(http::header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Adds to a request what its owner is told.
pub(crate) fn prepare_request(
    head: &mut RequestHeader,
    connection: &ConnectionInfo,
    via: &'static str,
    cdn_id: &str,
    request_id: &str,
    endpoint: &str,
    stamp: &str,
) -> Result<()> {
    let named = to_origin_form(head)?;
    for name in names(&head.headers, |name| Known::of(name.as_bytes()).is_of_client(connection.trusted)) {
        head.remove_header(&name);
    }
    for name in names(&head.headers, |name| Known::of(name.as_bytes()) == Known::XClientCertSubject) {
        head.remove_header(&name);
    }
    if let Some(subject) = connection.subject.as_deref().and_then(|subject| HeaderValue::from_str(subject).ok()) {
        head.insert_header("X-Client-Cert-Subject", subject)?;
    }
    let host = head.headers.get(http::header::HOST).cloned().or(named);
    if connection.trusted {
        append_to_list(head, "X-Forwarded-For", &connection.address)?;
        if !head.headers.contains_key("x-forwarded-proto") {
            head.insert_header("X-Forwarded-Proto", connection.scheme)?;
        }
    } else {
        head.insert_header("X-Forwarded-For", &*connection.address)?;
        head.insert_header("X-Forwarded-Proto", connection.scheme)?;
    }
    if let Some(host) = host.clone().filter(|_| !head.headers.contains_key("x-forwarded-host")) {
        head.insert_header("X-Forwarded-Host", host)?;
    }
    if !head.headers.contains_key(http::header::HOST) {
        // An HTTP/1.0 client needs none, the HTTP/1.1 request that is made of it does.
        match host {
            Some(host) => head.insert_header("Host", host)?,
            None => head.insert_header("Host", endpoint)?,
        }
    }
    head.insert_header("X-Request-Id", request_id)?;
    head.append_header("Via", via)?;
    append_to_list(head, "CDN-Loop", cdn_id)?;
    head.insert_header(STAMP_HEADER_WRITTEN, stamp)
}

/// Makes of a request that a guard lets through what its backend is to see: what came, with the stamp that it came with. Whatever is to be
/// said of client and way has been said by the proxy before it.
pub(crate) fn prepare_guarded_request(
    head: &mut RequestHeader,
    request_id: &str,
    endpoint: &str,
    stamp: Option<&HeaderValue>,
) -> Result<()> {
    let named = to_origin_form(head)?;
    if !head.headers.contains_key(http::header::HOST) {
        match named {
            Some(host) => head.insert_header("Host", host)?,
            None => head.insert_header("Host", endpoint)?,
        }
    }
    head.insert_header("X-Request-Id", request_id)?;
    match stamp {
        Some(stamp) => head.insert_header(STAMP_HEADER_WRITTEN, stamp),
        None => Ok(()),
    }
}

/// An absolute-form target goes on as path and query (RFC 9112, section 3.2); gives the authority that it named.
fn to_origin_form(head: &mut RequestHeader) -> Result<Option<HeaderValue>> {
    if matches!(head.raw_path().first(), Some(b'/' | b'*')) {
        return Ok(None);
    }
    let Some(target) = Target::parse(head.raw_path()) else { return Ok(None) };
    let named = target.authority.and_then(|authority| HeaderValue::from_bytes(authority).ok());
    let before: &[u8] = match target.path_and_query.first() {
        Some(b'/') => b"",
        // About the server as a whole: section 3.2.4.
        None if head.method == http::Method::OPTIONS => b"*",
        _ => b"/",
    };
    let origin_form = [before, target.path_and_query].concat();
    head.set_raw_path(&origin_form)?;
    Ok(named)
}

/// [`STAMP_HEADER`] as it is written.
const STAMP_HEADER_WRITTEN: &str = "Route-Stamp";
const _: () = assert!(STAMP_HEADER.len() == STAMP_HEADER_WRITTEN.len());

/// Takes from a response what is not the client's, and adds what is.
pub(crate) fn prepare_response(head: &mut ResponseHeader, request_id: &str) -> Result<()> {
    let via = via(head.version);
    if clean_response(head) {
        head.append_header("Via", via)?;
        head.insert_header("X-Request-Id", request_id)?;
    }
    Ok(())
}

/// The same for a guard's proxy, which adds its own: what the backend says of routes it can't have meant, what the guard corrects is told.
pub(crate) fn prepare_guarded_response(head: &mut ResponseHeader, request_id: &str, update: Option<&str>) -> Result<()> {
    if clean_response(head) {
        head.insert_header("X-Request-Id", request_id)?;
        if let Some(update) = update {
            head.insert_header(UPDATE_HEADER_WRITTEN, update)?;
        }
    }
    Ok(())
}

/// [`UPDATE_HEADER`] as it is written.
const UPDATE_HEADER_WRITTEN: &str = "Route-Update";
const _: () = assert!(UPDATE_HEADER.len() == UPDATE_HEADER_WRITTEN.len());

/// Takes from a response what is not the client's; false for an interim one.
fn clean_response(head: &mut ResponseHeader) -> bool {
    for name in names(&head.headers, |name| is_of_protocol(name) || name == super::answer::REASON) {
        head.remove_header(&name);
    }
    let is_upgrade = head.status == http::StatusCode::SWITCHING_PROTOCOLS;
    if !is_upgrade {
        strip_hop_by_hop(head);
    }
    let is_interim = head.status.is_informational() && !is_upgrade;
    if is_interim || head.status == http::StatusCode::NO_CONTENT {
        // Neither has a body, and neither may say that it has (RFC 9110, section 8.6).
        head.remove_header(&http::header::CONTENT_LENGTH);
        head.remove_header(&http::header::TRANSFER_ENCODING);
    }
    if !is_interim {
        head.set_version(http::Version::HTTP_11);
    }
    !is_interim
}

/// RFC 9110, section 7.6.1. `Transfer-Encoding` stays: the transport frames the body by it and writes its own.
fn strip_hop_by_hop(head: &mut ResponseHeader) {
    let named = head.headers.get_all(http::header::CONNECTION).into_iter().filter_map(|value| value.to_str().ok());
    let named: Vec<String> = named.flat_map(|value| value.split(',')).map(|name| name.trim().to_ascii_lowercase()).collect();
    for name in named.iter().filter(|name| !matches!(name.as_str(), "transfer-encoding" | "content-length")) {
        head.remove_header(name.as_str());
    }
    for name in names(&head.headers, |name| Known::of(name.as_bytes()).is_of_answers_hop()) {
        head.remove_header(&name);
    }
}

fn is_of_protocol(name: &str) -> bool {
    is_protocol_header(name.as_bytes())
}

fn names(headers: &http::HeaderMap, wanted: impl Fn(&str) -> bool) -> Vec<http::HeaderName> {
    headers.keys().filter(|name| wanted(name.as_str())).cloned().collect()
}

/// Appends to a comma-separated list, keeping it in one field.
fn append_to_list(head: &mut RequestHeader, name: &'static str, value: &str) -> Result<()> {
    let mut list: Vec<Vec<u8>> = head.headers.get_all(name).into_iter().map(|value| value.as_bytes().to_vec()).collect();
    list.retain(|value| !value.is_empty());
    list.push(value.as_bytes().to_vec());
    head.insert_header(name, list.join(&b", "[..]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Spelt as anybody may spell it.
    fn of_protocol() -> impl Strategy<Value = String> {
        ("[rR][oO][uU][tT][eE][-_][a-zA-Z0-9_-]{0,12}", any::<bool>())
            .prop_map(|(name, is_stamp)| if is_stamp { STAMP_HEADER.to_owned() } else { name })
    }

    /// Fields of the protocol among others, in any order and number.
    fn fields() -> impl Strategy<Value = Vec<(String, String)>> {
        let other = prop_oneof!["x-[a-z]{1,8}", Just("router".to_owned()), Just("x-route-stamp".to_owned()), Just("connection".to_owned())];
        let name = prop_oneof![of_protocol(), other];
        proptest::collection::vec((name, prop_oneof!["[ -~]{0,30}", Just("route-stamp, via".to_owned())]), 0..12)
    }

    fn left_of_protocol(headers: &http::HeaderMap) -> Vec<String> {
        let spelt = |name: &http::HeaderName| name.as_str().to_ascii_lowercase().replace('_', "-");
        headers.keys().map(spelt).filter(|name| name.starts_with("route-")).collect()
    }

    proptest! {
        #[test]
        fn a_request_goes_on_with_one_stamp_and_it_is_the_proxys(fields in fields(), trusted: bool) {
            let mut head = RequestHeader::build("POST", b"/", None).unwrap();
            for (name, value) in &fields {
                let _ = head.append_header(name.clone(), value.clone());
            }
            strip_protocol_from_request(&mut head);
            prop_assert_eq!(left_of_protocol(&head.headers), Vec::<String>::new());
            let connection = ConnectionInfo { client: "127.0.0.1:1".parse().unwrap(), address: "127.0.0.1".into(), trusted, scheme: "http", subject: None };
            prepare_request(&mut head, &connection, VIA, "waypost-1", "id", "a:1", "epoch=5").unwrap();
            prop_assert_eq!(left_of_protocol(&head.headers), ["route-stamp"]);
            let stamps: Vec<_> = head.headers.get_all(STAMP_HEADER).into_iter().collect();
            prop_assert_eq!(stamps, ["epoch=5"]);
            let others = fields.iter().filter(|(name, _)| name.starts_with("x-")).count();
            prop_assert!(head.headers.iter().filter(|(name, _)| name.as_str().starts_with("x-")).count() >= others, "what is no part of it stays");
        }

        #[test]
        fn an_answer_goes_on_with_nothing_of_the_protocol(fields in fields(), status in prop_oneof![Just(200u16), Just(101), Just(103), Just(421)]) {
            let mut head = ResponseHeader::build(status, None).unwrap();
            for (name, value) in &fields {
                let _ = head.append_header(name.clone(), value.clone());
            }
            prepare_response(&mut head, "id").unwrap();
            prop_assert_eq!(left_of_protocol(&head.headers), Vec::<String>::new());
        }
    }
}
