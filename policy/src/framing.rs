//! What a request's head must look like before anything else reads it, and how its body is framed.
//!
//! Strict where parsers differ (RFC 9112; request smuggling lives in the differences): every line ends in CRLF, no bare CR, LF or
//! NUL, no obs-fold, no space before a colon, one Host, one framing. What passes means the same to every parser
//! behind; what does not is answered 400 and the connection closed, never forwarded as a guess. Bytes in, a verdict out: whoever
//! holds the connection adds what its own parser behind can't carry.

mod answer;
mod names;
mod plain;

use std::{net::Ipv6Addr, ops::Range};

use crate::{Code, head::Target};

pub use answer::{AnswerBody, AnswerChunks, Broken};
pub use names::Known;
pub use plain::{Plain, PlainHead};

/// The largest request head, in bytes.
pub const MAX_HEAD_BYTES: usize = 64 * 1024;
/// The most header fields a request may have. Below what the general transport can parse (256).
const MAX_FIELDS: usize = 200;
/// The most options that all `Connection` fields together may have. Below what the general transport takes (10).
const MAX_CONNECTION_OPTIONS: usize = 8;
/// What a `Connection` field may not name as meant for this hop alone: the message's framing and its address rest on it (RFC 9110,
/// section 7.6.1), and so does what the owner is told of the client.
const NOT_FOR_ONE_HOP: [&[u8]; 6] =
    [b"host", b"content-length", b"transfer-encoding", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"];
/// The most digits of a chunk's size: what is longer is no size but an attempt to overflow one.
const MAX_CHUNK_SIZE_DIGITS: u8 = 15;
/// The longest line of a chunk's size with its extensions.
const MAX_CHUNK_LINE_BYTES: usize = 4096;

/// How the request's body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// So many bytes; 0 where there is no body.
    Length(u64),
    /// Chunked.
    Chunked,
}

/// What is known of a checked head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckedHead<'a> {
    /// Its length with the empty line.
    pub len: usize,
    /// The request target, byte for byte.
    pub target: &'a [u8],
    /// How its body is framed.
    pub framing: Framing,
    /// The client wants the connection closed behind the answer.
    pub closes: bool,
}

/// Where the head ends: the offset behind the first empty line, if it has arrived. `from`: how much was searched before.
pub fn end_of_head(bytes: &[u8], from: usize) -> Option<usize> {
    // The line feed that ends it stands at the earliest here.
    let from = from.max(3);
    let feeds = memchr::memchr_iter(b'\n', bytes.get(from..)?);
    feeds.map(|at| from + at + 1).find(|end| bytes[..*end].ends_with(b"\r\n\r\n"))
}

/// Checks a whole head, its empty line included.
///
/// # Errors
/// The code to answer with: `BadRequest`, or `HeaderTooLarge` for too many fields.
pub fn check_head(head: &[u8]) -> Result<CheckedHead<'_>, Code> {
    check_each(head, |_| {}).map(|(checked, _)| checked)
}

/// What is told of a head while it is checked, in the order in which it stands there.
enum Found<'a> {
    Line { method: &'a [u8], target: &'a [u8] },
    Field { name: &'a [u8], value: &'a [u8], known: Known },
}

/// Checks a whole head and tells what it consists of; nothing that was told means anything if it does not pass.
fn check_each<'a>(head: &'a [u8], mut found: impl FnMut(Found<'a>)) -> Result<(CheckedHead<'a>, Version), Code> {
    let len = head.len();
    if len > MAX_HEAD_BYTES {
        return Err(Code::HeaderTooLarge);
    }
    let mut lines = Lines(head);
    let (method, target, version) = request_line(lines.next().ok_or(Code::BadRequest)??)?;
    found(Found::Line { method, target });
    let mut host: &[u8] = b"";
    let mut fields = 0usize;
    let mut hosts = 0usize;
    let mut length = None;
    let mut chunked = false;
    let mut options = 0usize;
    let mut closes = false;
    for line in lines {
        let line = line?;
        if line.is_empty() {
            break;
        }
        fields += 1;
        if fields > MAX_FIELDS {
            return Err(Code::HeaderTooLarge);
        }
        let (name, value) = field(line)?;
        let known = Known::of(name);
        found(Found::Field { name, value, known });
        match known {
            Known::Host if is_host(value) => {
                hosts += 1;
                host = value;
            }
            Known::ContentLength if length.is_none() => length = Some(content_length(value)?),
            Known::TransferEncoding if !chunked && value.eq_ignore_ascii_case(b"chunked") => chunked = true,
            Known::Connection => options += connection_options(value, &mut closes)?,
            Known::Host | Known::ContentLength | Known::TransferEncoding | Known::MisspeltFraming => return Err(Code::BadRequest),
            _ => {}
        }
    }
    if options > MAX_CONNECTION_OPTIONS {
        return Err(Code::BadRequest);
    }
    let one_host = hosts == 1 || (hosts == 0 && version == Version::Http10);
    // An absolute-form target overrules Host, and a client sends the same in both (RFC 9112, section 3.2.2): another one is a trick.
    let named = Target::parse(target).ok_or(Code::BadRequest)?.authority;
    let contradicts = named.is_some_and(|named| !is_host(named) || (hosts == 1 && named != host));
    let one_framing = !chunked || (length.is_none() && version == Version::Http11);
    if !one_host || contradicts || !one_framing {
        return Err(Code::BadRequest);
    }
    let framing = if chunked { Framing::Chunked } else { Framing::Length(length.unwrap_or(0)) };
    Ok((CheckedHead { len, target, framing, closes }, version))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    Http10,
    Http11,
}

/// Lines that end in CRLF and hold no other control character than HTAB.
struct Lines<'a>(&'a [u8]);

impl<'a> Iterator for Lines<'a> {
    type Item = Result<&'a [u8], Code>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let bytes = std::mem::take(&mut self.0);
        let end = memchr::memchr(b'\r', bytes).filter(|end| bytes.get(end + 1) == Some(&b'\n'));
        let Some(end) = end else { return Some(Err(Code::BadRequest)) };
        let line = &bytes[..end];
        // All of them, without an end in between, so that many are looked at at once.
        let has_control = line.iter().fold(false, |has, &b| has | ((b < 0x20) & (b != b'\t')) | (b == 0x7f));
        if has_control {
            return Some(Err(Code::BadRequest));
        }
        self.0 = &bytes[end + 2..];
        Some(Ok(line))
    }
}

/// Method, target and version.
fn request_line(line: &[u8]) -> Result<(&[u8], &[u8], Version), Code> {
    let (method, rest) = token(line);
    let target = rest.strip_prefix(b" ").and_then(|rest| rest.get(..memchr::memchr(b' ', rest)?)).ok_or(Code::BadRequest)?;
    let version = match &rest[target.len() + 2..] {
        b"HTTP/1.1" => Version::Http11,
        b"HTTP/1.0" => Version::Http10,
        _ => return Err(Code::BadRequest),
    };
    let is_of_another_form = method == b"CONNECT" || (target == b"*" && method != b"OPTIONS");
    if method.is_empty() || target.is_empty() || target.contains(&b'\t') || is_of_another_form {
        return Err(Code::BadRequest);
    }
    Ok((method, target, version))
}

/// Name and trimmed value; a line that starts with white space (obs-fold) has no token for a name.
fn field(line: &[u8]) -> Result<(&[u8], &[u8]), Code> {
    let (name, rest) = token(line);
    match rest.strip_prefix(b":") {
        Some(value) if !name.is_empty() => Ok((name, value.trim_ascii())),
        _ => Err(Code::BadRequest),
    }
}

/// The token that a line begins with, and what follows it.
fn token(line: &[u8]) -> (&[u8], &[u8]) {
    line.split_at(line.iter().position(|b| !OF_TOKENS[usize::from(*b)]).unwrap_or(line.len()))
}

/// Which bytes are letters, digits, or one of these.
const fn alphanumeric_or(others: &[u8]) -> [bool; 256] {
    let mut allowed = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        allowed[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let mut at = 0;
    while at < others.len() {
        allowed[others[at] as usize] = true;
        at += 1;
    }
    allowed
}

/// RFC 9110, section 5.6.2.
const OF_TOKENS: [bool; 256] = alphanumeric_or(b"!#$%&'*+-.^_`|~");
/// RFC 3986, section 3.2.2.
const OF_HOSTS: [bool; 256] = alphanumeric_or(b"-._~%!$&'()*+;=");

fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|b| OF_TOKENS[usize::from(*b)])
}

/// `uri-host [":" port]` without userinfo; may be empty (RFC 9112, section 3.2).
fn is_host(value: &[u8]) -> bool {
    let (name, port) = match value.iter().rposition(|b| *b == b':') {
        Some(at) if !value[at..].contains(&b']') => (&value[..at], &value[at + 1..]),
        _ => (value, &b""[..]),
    };
    if let Some(literal) = name.strip_prefix(b"[") {
        let literal = literal.strip_suffix(b"]").and_then(|literal| std::str::from_utf8(literal).ok());
        return literal.is_some_and(|literal| literal.parse::<Ipv6Addr>().is_ok()) && port.iter().all(u8::is_ascii_digit);
    }
    let is_allowed = |b: &u8| OF_HOSTS[usize::from(*b)];
    let is_escaped = !name.contains(&b'%')
        || name.split(|b| *b == b'%').skip(1).all(|rest| rest.len() >= 2 && rest[..2].iter().all(u8::is_ascii_hexdigit));
    let is_named = !name.is_empty() || port.is_empty();
    is_named && is_escaped && name.iter().all(is_allowed) && port.iter().all(u8::is_ascii_digit)
}

/// How many options a `Connection` field has; `closes` is set if one of them is `close`.
fn connection_options(value: &[u8], closes: &mut bool) -> Result<usize, Code> {
    let options = value.split(|b| *b == b',').map(<[u8]>::trim_ascii).filter(|option| !option.is_empty());
    let mut count = 0;
    for option in options {
        if !is_token(option) || NOT_FOR_ONE_HOP.iter().any(|name| option.eq_ignore_ascii_case(name)) {
            return Err(Code::BadRequest);
        }
        *closes |= option.eq_ignore_ascii_case(b"close");
        count += 1;
    }
    Ok(count)
}

/// Digits only: no sign, no list, no white space inside.
fn content_length(value: &[u8]) -> Result<u64, Code> {
    let digits = std::str::from_utf8(value).ok().filter(|value| !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()));
    digits.and_then(|digits| digits.parse().ok()).ok_or(Code::BadRequest)
}

/// What the next bytes of a body are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// How many of them belong to the body.
    pub taken: usize,
    /// Which of those are data; the others are framing.
    pub data: Range<usize>,
}

impl Part {
    /// Nothing but framing.
    fn framing(taken: usize) -> Self {
        Self { taken, data: taken..taken }
    }
}

/// Follows chunked framing byte by byte, so that nothing behind the body is taken for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunks {
    /// In a chunk's size; the value so far, and how many digits.
    Size {
        /// So far.
        value: u64,
        /// How many were read.
        digits: u8,
    },
    /// In a chunk's extensions; how many bytes of them.
    Extension {
        /// The chunk's size.
        value: u64,
        /// How many were read.
        bytes: usize,
    },
    /// At the LF of the size line.
    SizeLf {
        /// The chunk's size.
        value: u64,
    },
    /// In data.
    Data {
        /// How much of it is still to come.
        left: u64,
    },
    /// Behind data, at its CR.
    DataCr,
    /// At the LF behind data.
    DataLf,
    /// Behind the last chunk: at the CR of the empty line. A trailer field here is refused: it could not be carried.
    EndCr,
    /// At the last LF.
    EndLf,
    /// The body is over.
    Done,
}

impl Chunks {
    /// At the start of a body.
    pub const START: Self = Self::Size { value: 0, digits: 0 };

    /// How many of these bytes belong to the body; moves on by as many.
    ///
    /// # Errors
    /// `BadRequest` if the framing is broken, or has trailers.
    pub fn take(&mut self, bytes: &[u8]) -> Result<usize, Code> {
        let mut at = 0;
        while at < bytes.len() && *self != Self::Done {
            if let Self::Data { left } = *self {
                let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len() - at);
                let left = left - here as u64;
                *self = if left == 0 { Self::DataCr } else { Self::Data { left } };
                at += here;
                continue;
            }
            *self = self.after(bytes[at]).ok_or(Code::BadRequest)?;
            at += 1;
        }
        Ok(at)
    }

    /// What the next bytes are, up to the end of the next data; moves on by as many.
    ///
    /// # Errors
    /// As [`Chunks::take`].
    pub fn part(&mut self, bytes: &[u8]) -> Result<Part, Code> {
        let mut at = 0;
        while at < bytes.len() && *self != Self::Done {
            if let Self::Data { left } = *self {
                let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len() - at);
                let taken = self.take(&bytes[at..at + here])?;
                return Ok(Part { taken: at + taken, data: at..at + taken });
            }
            *self = self.after(bytes[at]).ok_or(Code::BadRequest)?;
            at += 1;
        }
        Ok(Part::framing(at))
    }

    fn after(self, byte: u8) -> Option<Self> {
        match (self, byte) {
            (Self::Size { digits: 0, .. }, byte) if !byte.is_ascii_hexdigit() => None,
            (Self::Size { value, .. }, b'\r') => Some(Self::SizeLf { value }),
            (Self::Size { value, .. }, b';') => Some(Self::Extension { value, bytes: 0 }),
            (Self::Size { value, digits }, byte) if digits < MAX_CHUNK_SIZE_DIGITS => {
                let digit = char::from(byte).to_digit(16)?;
                Some(Self::Size { value: value << 4 | u64::from(digit), digits: digits + 1 })
            }
            (Self::Extension { value, .. }, b'\r') => Some(Self::SizeLf { value }),
            (Self::Extension { value, bytes }, byte) if bytes < MAX_CHUNK_LINE_BYTES && (byte >= 0x20 || byte == b'\t') && byte != 0x7f => {
                Some(Self::Extension { value, bytes: bytes + 1 })
            }
            (Self::SizeLf { value: 0 }, b'\n') => Some(Self::EndCr),
            (Self::SizeLf { value }, b'\n') => Some(Self::Data { left: value }),
            (Self::DataCr, b'\r') => Some(Self::DataLf),
            (Self::DataLf, b'\n') => Some(Self::START),
            (Self::EndCr, b'\r') => Some(Self::EndLf),
            (Self::EndLf, b'\n') => Some(Self::Done),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
