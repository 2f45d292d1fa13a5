//! An owner's answer: its head as it came, and as the client is to see it.
//!
//! What always holds: what passes and what is refused is what the general transport passes and refuses, since it has been executed and can't be
//! handed over any more; nothing of the protocol's and nothing of the connection to the owner goes on.

use std::{borrow::Cow, mem::MaybeUninit};

use http::Version;
use httparse::{Header, ParserConfig, Response, Status};
use waypost_policy::{Reply, framing::AnswerBody, wire::is_protocol_header};

use crate::transport::{
    answer::{REASON, end_head},
    headers::{OF_ONE_HOP, VIA, uncarried},
};

/// The most fields of an answer.
const MOST_FIELDS: usize = 256;
/// The longest head of an answer.
pub(super) const MOST_HEAD_BYTES: usize = (1 << 20) - 1;

/// Places for the fields of a head.
pub(super) type Places<'a> = [MaybeUninit<Header<'a>>; MOST_FIELDS];

/// No fields yet.
pub(super) const fn places<'a>() -> Places<'a> {
    [const { MaybeUninit::uninit() }; MOST_FIELDS]
}

/// An answer's head.
pub(super) struct Answer<'h> {
    pub(super) status: u16,
    reason: &'h str,
    version: Version,
    fields: &'h [Header<'h>],
    /// How many bytes it has, with the empty line.
    pub(super) len: usize,
}

/// An answer that can't be passed on: it is no HTTP, or not as it was meant.
pub(super) struct Refused;

impl Reply for Answer<'_> {
    fn status(&self) -> u16 {
        self.status
    }

    fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.fields.iter().filter(move |field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
    }
}

impl<'h> Answer<'h> {
    /// Reads a head; `None` if it has not come whole.
    pub(super) fn read(bytes: &'h [u8], places: &'h mut Places<'h>) -> Result<Option<Self>, Refused> {
        let mut parser = ParserConfig::default();
        parser.allow_spaces_after_header_name_in_responses(true).allow_obsolete_multiline_headers_in_responses(true);
        let mut response = Response::new(&mut []);
        let read = parser.parse_response_with_uninit_headers(&mut response, bytes, places);
        let Status::Complete(len) = read.map_err(|_| Refused)? else { return Ok(None) };
        let (Some(status @ 100..), Some(reason), Some(version)) = (response.code, response.reason, response.version) else {
            return Err(Refused);
        };
        let version = if version == 0 { Version::HTTP_10 } else { Version::HTTP_11 };
        let answer = Self { status, reason, version, fields: response.headers, len };
        let is_sound =
            uncarried(&answer, version, false).is_none() && (answer.is_coded() || answer.length().is_none_or(|length| length.is_ok()));
        if is_sound { Ok(Some(answer)) } else { Err(Refused) }
    }

    /// Whether another one follows it, which is the answer.
    pub(super) fn is_interim(&self) -> bool {
        self.status < 200
    }

    /// How its body is framed.
    pub(super) fn body(&self, is_head: bool) -> AnswerBody {
        if is_head || matches!(self.status, 204 | 304) {
            AnswerBody::Length(0)
        } else if self.is_coded() {
            AnswerBody::CHUNKED
        } else {
            self.length().and_then(Result::ok).map_or(AnswerBody::UntilClose, AnswerBody::Length)
        }
    }

    fn is_coded(&self) -> bool {
        self.values("transfer-encoding").next().is_some()
    }

    /// What it says that its length is.
    fn length(&self) -> Option<Result<u64, Refused>> {
        let length = self.values("content-length").next()?;
        Some(std::str::from_utf8(length).ok().and_then(|length| length.parse().ok()).ok_or(Refused))
    }

    /// Whether the connection goes on behind it.
    pub(super) fn keeps_connection(&self) -> bool {
        let mut options = self.values("connection").flat_map(|value| value.split(|b| *b == b',')).map(<[u8]>::trim_ascii);
        if self.version == Version::HTTP_10 {
            options.any(|option| option.eq_ignore_ascii_case(b"keep-alive"))
        } else {
            !options.any(|option| option.eq_ignore_ascii_case(b"close"))
        }
    }

    /// Writes the head for the client; `is_endless`: nothing in it says where its body ends.
    pub(super) fn write_head(&self, request_id: &str, keeps: bool, is_endless: bool, out: &mut Vec<u8>) {
        let is_interim = self.is_interim();
        // Neither has a body, and neither may say that it has (RFC 9110, section 8.6); with a coding a length says nothing.
        let is_bodiless = is_interim || self.status == 204;
        let is_coded = self.is_coded();
        let named: Vec<&[u8]> = self.values("connection").flat_map(|value| value.split(|b| *b == b',')).map(<[u8]>::trim_ascii).collect();
        let version: &[u8] = if is_interim && self.version == Version::HTTP_10 { b"HTTP/1.0 " } else { b"HTTP/1.1 " };
        put(out, &[version, self.status.to_string().as_bytes(), b" ", self.reason.as_bytes(), b"\r\n"]);
        for field in self.fields {
            let name = field.name.as_bytes();
            let is_framing = is(name, b"content-length") || is(name, b"transfer-encoding");
            let goes = if is_framing {
                is_bodiless || (is_coded && is(name, b"content-length"))
            } else {
                is_of_this_hop(name) || named.iter().any(|named| is(name, named)) || (!is_interim && is_said_by_proxy(name))
            };
            if !goes && !name.is_empty() {
                put(out, &[name, b": ", &unfolded(field.value), b"\r\n"]);
            }
        }
        if !is_interim {
            if is_endless {
                put(out, &[b"Transfer-Encoding: chunked\r\n"]);
            }
            put(out, &[b"Via: ", VIA.as_bytes(), b"\r\nX-Request-Id: ", request_id.as_bytes(), b"\r\n"]);
            end_head(out, keeps);
        } else {
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// A value that stood on several lines, on one (RFC 9112, section 5.2).
fn unfolded(value: &[u8]) -> Cow<'_, [u8]> {
    if !value.contains(&b'\n') {
        return value.into();
    }
    let lines = value.split(|b| matches!(b, b'\r' | b'\n')).map(<[u8]>::trim_ascii).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join(&b" "[..]).into()
}

/// What is the connection's alone, and what never crosses the proxy.
fn is_of_this_hop(name: &[u8]) -> bool {
    OF_ONE_HOP.iter().any(|of_hop| is(name, of_hop.as_bytes())) || is_protocol_header(name) || is(name, REASON.as_bytes())
}

/// What the proxy says instead.
fn is_said_by_proxy(name: &[u8]) -> bool {
    is(name, b"x-request-id") || is(name, b"date")
}

fn is(name: &[u8], wanted: &[u8]) -> bool {
    name.eq_ignore_ascii_case(wanted)
}

fn put(out: &mut Vec<u8>, parts: &[&[u8]]) {
    parts.iter().for_each(|part| out.extend_from_slice(part));
}
