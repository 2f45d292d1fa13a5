//! A request's head: what the proxy lets through means the same to two parsers that nobody here wrote, and its framing is the one that
//! their reading gives.

use httparse::{EMPTY_HEADER, Request, Status};
use waypost_policy::framing::{self, Framing, end_of_head};

use crate::{
    parser::{Behind, behind},
    transport,
};

/// Bytes as a client sends them; the empty line is added where they have none.
///
/// # Panics
/// If what is let through is read in another way by anybody behind.
pub fn head(bytes: &[u8]) {
    let mut head = [bytes, b"\r\n\r\n"].concat();
    let end = end_of_head(&head, 0).unwrap_or_default();
    head.truncate(end);
    assert!(head.ends_with(b"\r\n\r\n"), "there is an end");
    for searched in 0..end.min(64) {
        assert_eq!(end_of_head(&head, searched), Some(end), "the end is where it is, however much was searched before");
    }
    let decided = framing::check_head(&head);
    let Ok(checked) = transport::check_head(&head) else { return };
    assert!(decided == Ok(checked), "the transport only takes away");

    let mut space = [EMPTY_HEADER; 256];
    let mut other = Request::new(&mut space);
    let parsed = other.parse(&head);
    assert!(matches!(parsed, Ok(Status::Complete(length)) if length == checked.len && length == head.len()), "{parsed:?}");
    assert_eq!(other.path.map(str::as_bytes), Some(checked.target));
    let values = |name: &str| {
        let named = other.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name));
        named.map(|field| field.value.trim_ascii()).collect::<Vec<_>>()
    };
    let framing = match (&*values("transfer-encoding"), &*values("content-length")) {
        ([], []) => Some(Framing::Length(0)),
        ([], [length]) => std::str::from_utf8(length).ok().and_then(|length| length.parse().ok()).map(Framing::Length),
        ([coding], []) if coding.eq_ignore_ascii_case(b"chunked") && other.version == Some(1) => Some(Framing::Chunked),
        _ => None,
    };
    assert_eq!(Some(checked.framing), framing, "one framing, or none is let through");
    assert!(values("host").len() == 1 || (other.version == Some(0) && values("host").is_empty()), "one host");
    let connection = values("connection");
    let mut options = connection.iter().flat_map(|value| value.split(|b| *b == b','));
    assert_eq!(checked.closes, options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close")));

    let mut fields: Vec<_> =
        other.headers.iter().map(|field| (field.name.to_ascii_lowercase(), field.value.trim_ascii().to_vec())).collect();
    fields.sort();
    let wanted = Behind { method: other.method.unwrap_or_default().to_owned(), target: checked.target.to_vec(), fields, body: Vec::new() };
    assert_eq!(behind(&head, false), Some(wanted));
}
