//! A plain request as its owner is to see it: what [`prepare_request`](super::super::headers::prepare_request) makes of a header map, made of bytes.
//!
//! What always holds: the two say the same (`tests/e2e/lanes.rs` holds them together); nothing of the protocol's but the proxy's own stamp goes on.

use waypost_policy::{
    Head,
    framing::{Framing, Known, PlainHead},
};

use super::lines::Lines;
use crate::transport::ConnectionInfo;

/// What the proxy says of a request.
pub(super) struct Said<'a> {
    pub(super) connection: &'a ConnectionInfo,
    /// What it says of the way that it came.
    pub(super) via: &'a str,
    pub(super) cdn_id: &'a str,
    pub(super) request_id: &'a str,
    pub(super) stamp: &'a str,
}

/// Writes the head.
pub(super) fn write_head(head: &PlainHead<'_>, framing: Framing, said: &Said<'_>, out: &mut Vec<u8>) {
    let connection = said.connection;
    let (mut host, mut names_host, mut names_scheme): (&[u8], bool, bool) = (b"", false, false);
    put(out, &[head.method(), b" ", head.target(), b" HTTP/1.1\r\n"]);
    let mut lines = Lines::of(head.bytes());
    for (known, name, value) in head.fields() {
        match fate(known, connection.trusted) {
            Fate::Passes => {}
            Fate::Goes => continue,
            Fate::IsHost => host = value,
            Fate::NamesHost => names_host = true,
            Fate::NamesScheme => names_scheme = true,
        }
        lines.put(name, value, out);
    }
    lines.end(out);
    if let Some(subject) = &connection.subject {
        field(out, b"X-Client-Cert-Subject", &[subject.as_bytes()]);
    }
    let before = head.values_of(Known::XForwardedFor).filter(|_| connection.trusted);
    list(out, b"X-Forwarded-For", before, connection.address.as_bytes());
    if !names_scheme {
        field(out, b"X-Forwarded-Proto", &[connection.scheme.as_bytes()]);
    }
    if !names_host {
        field(out, b"X-Forwarded-Host", &[host]);
    }
    field(out, b"X-Request-Id", &[said.request_id.as_bytes()]);
    field(out, b"Via", &[said.via.as_bytes()]);
    list(out, b"CDN-Loop", head.values_of(Known::CdnLoop), said.cdn_id.as_bytes());
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
    IsHost,
    /// It passes, and says what the proxy would have said.
    NamesHost,
    NamesScheme,
}

fn fate(known: Known, is_trusted: bool) -> Fate {
    match known {
        Known::Host => Fate::IsHost,
        // Written anew in any case, or not the client's to say.
        Known::CdnLoop | Known::Protocol | Known::XClientCertSubject | Known::XForwardedFor | Known::XRequestId => Fate::Goes,
        known if known.is_of_client(is_trusted) || known.is_of_requests_hop() => Fate::Goes,
        Known::XForwardedHost => Fate::NamesHost,
        Known::XForwardedProto => Fate::NamesScheme,
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
