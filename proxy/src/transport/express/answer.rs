//! An owner's answer: its head as it came, and as the client is to see it.
//!
//! What always holds: what passes and what is refused is what the general transport passes and refuses, since it has been executed and can't be
//! handed over any more; nothing of the protocol's and nothing of the connection to the owner goes on.

use std::{borrow::Cow, mem::MaybeUninit};

use http::{HeaderName, HeaderValue, Response, StatusCode, Version, header};
use httparse::{Header, ParserConfig, Status};
use waypost_policy::{
    Reply,
    framing::{AnswerBody, Known},
};

use super::lines::Lines;
use crate::transport::{
    answer::end_head,
    headers::{Announced, VIA, uncarried},
};

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The most fields of an answer.
const MOST_FIELDS: usize = 256;
/// Of so many fields it is kept what they are.
const FEW: usize = 24;
/// The longest head of an answer.
pub(super) const MOST_HEAD_BYTES: usize = (1 << 20) - 1;

/// Places for the fields of a head.
pub(super) type Places<'a> = [MaybeUninit<Header<'a>>; MOST_FIELDS];

/// No fields yet.
pub(super) const fn places<'a>() -> Places<'a> {
    [const { MaybeUninit::uninit() }; MOST_FIELDS]
}

/// An answer's head.
pub(in crate::transport) struct Answer<'h> {
    pub(super) status: u16,
    reason: &'h str,
    version: Version,
    fields: &'h [Header<'h>],
    /// What the first of them are.
    known: [Known; FEW],
    announced: Announced<'h>,
    /// What `Content-Length` says, where that says anything.
    length: Option<u64>,
    /// The connection ends behind it.
    closes: bool,
    /// `Connection` names fields that are its alone.
    names_fields: bool,
    /// The head, and what has come behind it.
    bytes: &'h [u8],
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
        let mut response = httparse::Response::new(&mut []);
        let read = parser.parse_response_with_uninit_headers(&mut response, bytes, places);
        let Status::Complete(len) = read.map_err(|_| Refused)? else { return Ok(None) };
        let (Some(status @ 100..), Some(reason), Some(version)) = (response.code, response.reason, response.version) else {
            return Err(Refused);
        };
        let version = if version == 0 { Version::HTTP_10 } else { Version::HTTP_11 };
        let fields: &'h [Header<'h>] = response.headers;
        let (mut announced, mut is_kept, mut closes, mut names_fields) = (Announced::default(), false, false, false);
        let mut known = [Known::Other; FEW];
        for (number, field) in fields.iter().enumerate() {
            let is = Known::of(field.name.as_bytes());
            if let Some(known) = known.get_mut(number) {
                *known = is;
            }
            match is {
                Known::TransferEncoding => announced.codings.note(field.value),
                Known::ContentLength => announced.lengths.note(field.value),
                Known::Trailer => announced.has_trailers = true,
                Known::Connection => {
                    for option in options(field.value) {
                        is_kept |= option.eq_ignore_ascii_case(b"keep-alive");
                        closes |= option.eq_ignore_ascii_case(b"close");
                        names_fields |= !option.eq_ignore_ascii_case(b"keep-alive");
                    }
                }
                _ => {}
            }
        }
        let is_coded = announced.codings.first.is_some();
        let length = announced.lengths.first.filter(|_| !is_coded);
        let parsed = length.and_then(|length| std::str::from_utf8(length).ok()?.parse().ok());
        if uncarried(status, version, &announced, false).is_some() || length.is_some() != parsed.is_some() {
            return Err(Refused);
        }
        let closes = if version == Version::HTTP_10 { !is_kept } else { closes };
        Ok(Some(Self { status, reason, version, fields, known, announced, length: parsed, closes, names_fields, bytes, len }))
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
            self.length.map_or(AnswerBody::UntilClose, AnswerBody::Length)
        }
    }

    fn is_coded(&self) -> bool {
        self.announced.codings.first.is_some()
    }

    /// Whether the connection goes on behind it.
    pub(super) fn keeps_connection(&self) -> bool {
        !self.closes
    }

    /// The fields that go on to the client, as they stand there; what frames the body among them.
    fn passing(&self) -> impl Iterator<Item = (Known, &'h [u8], Cow<'h, [u8]>)> {
        // Neither has a body, and neither may say that it has (RFC 9110, section 8.6); with a coding a length says nothing.
        let (is_interim, is_coded) = (self.is_interim(), self.is_coded());
        let is_bodiless = is_interim || self.status == 204;
        let named: Vec<&[u8]> = if self.names_fields { self.values("connection").flat_map(options).collect() } else { Vec::new() };
        let (fields, known): (&'h [Header<'h>], _) = (self.fields, self.known);
        fields.iter().enumerate().filter_map(move |(number, field)| {
            let name = field.name.as_bytes();
            let known = known.get(number).copied().unwrap_or_else(|| Known::of(name));
            let goes = match known {
                Known::ContentLength => is_bodiless || is_coded,
                Known::TransferEncoding => is_bodiless,
                Known::Protocol | Known::WaypostReason => true,
                // The proxy says it instead.
                Known::XRequestId if !is_interim => true,
                known => known.is_of_answers_hop() || name.is_empty() || named.iter().any(|named| name.eq_ignore_ascii_case(named)),
            };
            (!goes).then(|| (known, name, unfolded(field.value)))
        })
    }

    /// Writes the head for the client; `is_endless`: nothing in it says where its body ends.
    pub(super) fn write_head(&self, request_id: &str, keeps: bool, is_endless: bool, out: &mut Vec<u8>) {
        let is_interim = self.is_interim();
        let version: &[u8] = if is_interim && self.version == Version::HTTP_10 { b"HTTP/1.0 " } else { b"HTTP/1.1 " };
        put(out, &[version, itoa::Buffer::new().format(self.status).as_bytes(), b" ", self.reason.as_bytes(), b"\r\n"]);
        let mut lines = Lines::of(self.bytes);
        for (known, name, value) in self.passing() {
            // The proxy says the time instead.
            if is_interim || known != Known::Date {
                lines.put(name, &value, out);
            }
        }
        lines.end(out);
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

    /// The head for a client of HTTP/2; `None` if it can't be had.
    pub(in crate::transport) fn as_response(&self, request_id: &str) -> Option<Response<()>> {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::from_u16(self.status).ok()?;
        let fields = response.headers_mut();
        fields.try_reserve(self.fields.len() + 2).ok()?;
        for (_, name, value) in self.passing().filter(|(known, ..)| *known != Known::TransferEncoding) {
            fields.try_append(HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(&value).ok()?).ok()?;
        }
        if !self.is_interim() {
            fields.try_append(header::VIA, HeaderValue::from_static(VIA)).ok()?;
            let mut id = HeaderValue::from_str(request_id).ok()?;
            // It never comes again, so it is nothing for a table of what does (RFC 7541, section 6.2.3).
            id.set_sensitive(true);
            fields.try_insert(X_REQUEST_ID, id).ok()?;
        }
        Some(response)
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

/// What stands in a list.
fn options(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|b| *b == b',').map(<[u8]>::trim_ascii)
}

fn put(out: &mut Vec<u8>, parts: &[&[u8]]) {
    parts.iter().for_each(|part| out.extend_from_slice(part));
}
