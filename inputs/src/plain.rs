//! A plain head: what is plain is a part of what any transport lets through, and its fields, method and target are those that a parser finds that
//! nobody here wrote.

use httparse::{EMPTY_HEADER, Request, Status};
use waypost_policy::{
    Head,
    framing::{Plain, end_of_head},
};

use crate::transport::check_plain_head;

/// Bytes as a client sends them; the empty line is added where they have none.
///
/// # Panics
/// If what is let through and plain is read in another way than by a general parser, or asks for more than to be carried.
pub fn plain(bytes: &[u8]) {
    let mut head = [bytes, b"\r\n\r\n"].concat();
    head.truncate(end_of_head(&head, 0).unwrap_or_default());
    // Not even of what no transport carries may it panic.
    let _ = Plain::read(&head);
    let Ok((checked, Some(plain))) = check_plain_head(&head) else { return };
    let found = plain.of(&head);
    assert_eq!(found.target(), checked.target);
    assert!(found.target().starts_with(b"/"), "a plain target is a path");

    let mut space = [EMPTY_HEADER; 256];
    let mut other = Request::new(&mut space);
    assert_eq!(other.parse(&head), Ok(Status::Complete(checked.len)));
    assert_eq!(
        (other.version, other.method.map(str::as_bytes), other.path.map(str::as_bytes)),
        (Some(1), Some(found.method()), Some(found.target()))
    );
    let wanted: Vec<_> = other.headers.iter().map(|field| (field.name.as_bytes(), field.value.trim_ascii())).collect();
    assert_eq!(found.fields().map(|(_, name, value)| (name, value)).collect::<Vec<_>>(), wanted);
    for (name, value) in wanted {
        let is = |named: &str| name.eq_ignore_ascii_case(named.as_bytes());
        assert!(!is("expect") && !is("upgrade") && !is("http2-settings"), "it asks for more than to be carried");
        assert!(!is("connection") || value.eq_ignore_ascii_case(b"close") || value.eq_ignore_ascii_case(b"keep-alive"));
        let first = std::str::from_utf8(name).ok().and_then(|name| found.value(name));
        assert_eq!(std::str::from_utf8(name).ok().and_then(|name| found.values(name).next()), first);
    }
}
