//! The heads of plain requests, read in place while they are checked: where each field stands, and nothing copied.
//!
//! A part of what [`check_head`](super::check_head) lets through, for a transport that carries nothing else: HTTP/1.1, a path, a body framed
//! by its length or chunked, nothing that is agreed on between two neighbours but that the connection is kept or closed. What is not plain
//! is no error: it is for a transport that knows all of HTTP.

use super::{CheckedHead, Found, Known, Version, check_each};
use crate::{Code, Head};

/// The most fields of a plain head.
const MOST_FIELDS: usize = 64;
/// So many most heads have.
const USUAL_FIELDS: usize = 12;

/// Where something stands in a head, which is no longer than what this can say.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    start: u16,
    len: u16,
}

impl Place {
    /// `part` is a part of the head.
    fn of(part: &[u8], head: &[u8]) -> Self {
        let start = (part.as_ptr() as usize).wrapping_sub(head.as_ptr() as usize);
        // A head is shorter than 64 KiB, or has not passed; of what has not, places mean nothing.
        Self { start: start as u16, len: part.len() as u16 }
    }

    fn in_head(self, head: &[u8]) -> &[u8] {
        let start = usize::from(self.start);
        head.get(start..start + usize::from(self.len)).unwrap_or_default()
    }
}

#[derive(Clone, Copy, Debug)]
struct Field {
    name: Place,
    value: Place,
    known: Known,
}

/// A plain head's places. They mean something only together with the bytes that they were read from ([`Plain::of`]).
#[derive(Clone, Debug, Default)]
pub struct Plain {
    method: Place,
    target: Place,
    fields: Vec<Field>,
}

impl Plain {
    /// Checks a head as [`check_head`](super::check_head) does; with its places if it is plain.
    ///
    /// # Errors
    /// As [`check_head`](super::check_head).
    pub fn check(head: &[u8]) -> Result<(CheckedHead<'_>, Option<Self>), Code> {
        let mut plain = Self { fields: Vec::with_capacity(USUAL_FIELDS), ..Self::default() };
        let mut asks = false;
        let (checked, version) = check_each(head, |found| match found {
            Found::Line { method, target } => (plain.method, plain.target) = (Place::of(method, head), Place::of(target, head)),
            Found::Field { name, value, known } => {
                asks |= match known {
                    Known::Expect | Known::Upgrade | Known::Http2Settings => true,
                    Known::Connection => !is_kept_or_closed(value),
                    _ => plain.fields.len() == MOST_FIELDS,
                };
                if !asks {
                    plain.fields.push(Field { name: Place::of(name, head), value: Place::of(value, head), known });
                }
            }
        })?;
        let is_plain = !asks && version == Version::Http11 && checked.target.first() == Some(&b'/');
        Ok((checked, is_plain.then_some(plain)))
    }

    /// Reads a head; `None` if it is not plain, or would not pass.
    pub fn read(head: &[u8]) -> Option<Self> {
        Self::check(head).ok()?.1
    }

    /// The head, by its bytes.
    pub fn of<'a>(&'a self, bytes: &'a [u8]) -> PlainHead<'a> {
        PlainHead { plain: self, bytes }
    }
}

fn is_kept_or_closed(value: &[u8]) -> bool {
    value.eq_ignore_ascii_case(b"keep-alive") || value.eq_ignore_ascii_case(b"close")
}

/// A plain head.
#[derive(Clone, Copy, Debug)]
pub struct PlainHead<'a> {
    plain: &'a Plain,
    bytes: &'a [u8],
}

impl<'a> PlainHead<'a> {
    /// The bytes that it was read from.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// All fields in order: what it is, the name as it is written, and the value without the white space around it.
    pub fn fields(&self) -> impl Iterator<Item = (Known, &'a [u8], &'a [u8])> + use<'a> {
        let bytes = self.bytes;
        self.plain.fields.iter().map(move |field| (field.known, field.name.in_head(bytes), field.value.in_head(bytes)))
    }

    /// The first value of a field.
    pub fn value(&self, name: &str) -> Option<&'a [u8]> {
        self.fields().find(|(_, field, _)| field.eq_ignore_ascii_case(name.as_bytes())).map(|(.., value)| value)
    }

    /// The values of a field that is known.
    pub fn values_of(&self, wanted: Known) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let bytes = self.bytes;
        self.plain.fields.iter().filter(move |field| field.known == wanted).map(move |field| field.value.in_head(bytes))
    }
}

impl Head for PlainHead<'_> {
    fn method(&self) -> &[u8] {
        self.plain.method.in_head(self.bytes)
    }

    fn target(&self) -> &[u8] {
        self.plain.target.in_head(self.bytes)
    }

    fn authority(&self) -> Option<&[u8]> {
        self.values_of(Known::Host).next()
    }

    fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.fields().filter(move |(_, field, _)| field.eq_ignore_ascii_case(name.as_bytes())).map(|(.., value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_head_is_read_in_place() {
        let head = b"POST /a?b HTTP/1.1\r\nHost:  a \r\nX-T:1\r\nx-t: 2\t\r\nConnection: Keep-Alive\r\nContent-Length: 3\r\n\r\n";
        let plain = Plain::read(head).unwrap();
        let read = plain.of(head);
        assert_eq!((read.method(), read.target(), read.authority()), (&b"POST"[..], &b"/a?b"[..], Some(&b"a"[..])));
        assert_eq!(read.values("x-t").collect::<Vec<_>>(), [b"1", b"2"]);
        assert_eq!(read.fields().map(|(_, name, _)| name.len()).collect::<Vec<_>>(), [4, 3, 3, 10, 14]);
    }

    #[test]
    fn what_asks_for_more_is_not_plain() {
        let fields = |count: usize| "X: y\r\n".repeat(count);
        assert!(Plain::read(format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", fields(MOST_FIELDS - 1)).as_bytes()).is_some());
        for head in [
            "GET / HTTP/1.0\r\nHost: a\r\n\r\n".to_owned(),
            "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
            "GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
            "GET / HTTP/1.1\r\nHost: a\r\nEXPECT: 100-continue\r\n\r\n".to_owned(),
            "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n".to_owned(),
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, x-a\r\n\r\n".to_owned(),
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\n\r\n".to_owned(),
            format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", fields(MOST_FIELDS)),
        ] {
            assert!(Plain::read(head.as_bytes()).is_none(), "{head:?}");
        }
    }
}
