//! A plain request as its owner is to see it: what [`prepare_request`](super::super::headers::prepare_request) makes of a header map, made of bytes.
//!
//! What always holds: the two say the same (`tests/e2e/lanes.rs` holds them together); nothing of the protocol's but the proxy's own stamp goes on.

use waypost_policy::{
    Head,
    framing::{Framing, PlainHead},
    wire::is_protocol_header,
};

use crate::transport::{
    ConnectionInfo,
    headers::{CLIENT_SUBJECT, VIA, is_spelt, is_word_on_client},
};

/// What is of the connection that the request came by (RFC 9110, section 7.6.1), and its framing, which is written anew.
const OF_THIS_HOP: [&[u8]; 8] = [
    b"connection",
    b"keep-alive",
    b"proxy-connection",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"te",
    b"trailer",
    b"transfer-encoding",
];

/// What the proxy says of a request.
pub(super) struct Said<'a> {
    pub(super) connection: &'a ConnectionInfo,
    pub(super) cdn_id: &'a str,
    pub(super) request_id: &'a str,
    pub(super) stamp: &'a str,
}

/// Writes the head.
pub(super) fn write_head(head: &PlainHead<'_>, framing: Framing, said: &Said<'_>, out: &mut Vec<u8>) {
    let connection = said.connection;
    let (mut host, mut names_host, mut names_scheme): (&[u8], bool, bool) = (b"", false, false);
    put(out, &[head.method(), b" ", head.target(), b" HTTP/1.1\r\n"]);
    for (name, value) in head.fields() {
        if name.eq_ignore_ascii_case(b"host") {
            host = value;
        } else {
            match fate(name, connection.trusted) {
                Fate::Passes => {}
                Fate::Goes => continue,
                Fate::NamesHost => names_host = true,
                Fate::NamesScheme => names_scheme = true,
            }
        }
        field(out, name, &[value]);
    }
    if let Some(subject) = &connection.subject {
        field(out, b"X-Client-Cert-Subject", &[subject.as_bytes()]);
    }
    let before = if connection.trusted { "x-forwarded-for" } else { "" };
    list(out, b"X-Forwarded-For", head.values(before), connection.address.as_bytes());
    if !names_scheme {
        field(out, b"X-Forwarded-Proto", &[connection.scheme.as_bytes()]);
    }
    if !names_host {
        field(out, b"X-Forwarded-Host", &[host]);
    }
    field(out, b"X-Request-Id", &[said.request_id.as_bytes()]);
    field(out, b"Via", &[VIA.as_bytes()]);
    list(out, b"CDN-Loop", head.values("cdn-loop"), said.cdn_id.as_bytes());
    field(out, b"Route-Stamp", &[said.stamp.as_bytes()]);
    if framing == Framing::Chunked {
        field(out, b"Transfer-Encoding", &[b"chunked"]);
    }
    out.extend_from_slice(b"\r\n");
}

/// What becomes of a field.
enum Fate {
    Passes,
    Goes,
    /// It passes, and says what the proxy would have said.
    NamesHost,
    NamesScheme,
}

fn fate(name: &[u8], is_trusted: bool) -> Fate {
    let is = |wanted: &[u8]| name.eq_ignore_ascii_case(wanted);
    if OF_THIS_HOP.iter().any(|of_hop| is(of_hop)) || is(b"cdn-loop") || is_protocol_header(name) || is_spelt(name, CLIENT_SUBJECT) {
        return Fate::Goes;
    }
    if !is_word_on_client(name) {
        return Fate::Passes;
    }
    // The two that are written anew in any case.
    if !is_trusted || name.contains(&b'_') || is(b"x-forwarded-for") || is(b"x-request-id") {
        return Fate::Goes;
    }
    match name {
        _ if is(b"x-forwarded-host") => Fate::NamesHost,
        _ if is(b"x-forwarded-proto") => Fate::NamesScheme,
        _ => Fate::Passes,
    }
}

/// A list in one field, with one more at its end.
fn list<'a>(out: &mut Vec<u8>, name: &[u8], before: impl Iterator<Item = &'a [u8]>, last: &[u8]) {
    put(out, &[name, b": "]);
    for value in before.filter(|value| !value.is_empty()) {
        put(out, &[value, b", "]);
    }
    put(out, &[last, b"\r\n"]);
}

fn field(out: &mut Vec<u8>, name: &[u8], value: &[&[u8]]) {
    put(out, &[name, b": "]);
    put(out, value);
    out.extend_from_slice(b"\r\n");
}

fn put(out: &mut Vec<u8>, parts: &[&[u8]]) {
    parts.iter().for_each(|part| out.extend_from_slice(part));
}
