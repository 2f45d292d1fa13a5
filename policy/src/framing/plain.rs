//! The heads of plain requests, read in place: where each field stands, and nothing copied.
//!
//! A strict subset of what [`check_head`](super::check_head) lets through, for a transport that carries nothing else: HTTP/1.1, a path, a body framed
//! by its length or chunked, nothing that is agreed on between two neighbours but that the connection is kept or closed. What is not plain
//! is no error: it is for a transport that knows all of HTTP.

use crate::Head;

/// The most fields of a plain head.
const MOST_FIELDS: usize = 64;
/// Names that ask for more than to be carried.
const ASKING: [&[u8]; 3] = [b"expect", b"upgrade", b"http2-settings"];

/// Where something stands in a head.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    start: u32,
    end: u32,
}

impl Place {
    fn of(part: &[u8], head: &[u8]) -> Option<Self> {
        let start = (part.as_ptr() as usize).checked_sub(head.as_ptr() as usize)?;
        Some(Self { start: u32::try_from(start).ok()?, end: u32::try_from(start + part.len()).ok()? })
    }

    fn in_head(self, head: &[u8]) -> &[u8] {
        head.get(self.start as usize..self.end as usize).unwrap_or_default()
    }
}

/// A plain head's places. They mean something only together with the bytes that they were read from ([`Plain::of`]).
#[derive(Clone, Debug)]
pub struct Plain {
    method: Place,
    target: Place,
    fields: [(Place, Place); MOST_FIELDS],
    count: usize,
}

impl Plain {
    /// Reads a head that has passed [`check_head`](super::check_head); `None` if it is not plain.
    pub fn read(head: &[u8]) -> Option<Self> {
        let mut fields = [const { std::mem::MaybeUninit::uninit() }; MOST_FIELDS];
        let mut request = httparse::Request::new(&mut []);
        let read = request.parse_with_uninit_headers(head, &mut fields).ok()?;
        if read != httparse::Status::Complete(head.len()) || request.version != Some(1) {
            return None;
        }
        let target = request.path?.as_bytes();
        if target.first() != Some(&b'/') {
            return None;
        }
        let mut plain = Self {
            method: Place::of(request.method?.as_bytes(), head)?,
            target: Place::of(target, head)?,
            fields: [(Place::default(), Place::default()); MOST_FIELDS],
            count: request.headers.len(),
        };
        for (place, field) in plain.fields.iter_mut().zip(&*request.headers) {
            let name = field.name.as_bytes();
            let value = field.value.trim_ascii();
            let is_asking = ASKING.iter().any(|asking| name.eq_ignore_ascii_case(asking));
            if is_asking || (name.eq_ignore_ascii_case(b"connection") && !is_kept_or_closed(value)) {
                return None;
            }
            *place = (Place::of(name, head)?, Place::of(value, head)?);
        }
        Some(plain)
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
    /// All fields in order: the name as it is written, and the value without the white space around it.
    pub fn fields(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let bytes = self.bytes;
        self.plain.fields[..self.plain.count].iter().map(move |(name, value)| (name.in_head(bytes), value.in_head(bytes)))
    }

    /// The first value of a field.
    pub fn value(&self, name: &str) -> Option<&'a [u8]> {
        self.fields().find(|(field, _)| field.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
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
        self.value("host")
    }

    fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.fields().filter(move |(field, _)| field.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
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
        assert_eq!(read.fields().map(|(name, _)| name.len()).collect::<Vec<_>>(), [4, 3, 3, 10, 14]);
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
