//! The wire forms of the stale-route protocol (STALE-ROUTES.md): `Route-Stamp` on a request, `Route-Stale` and `Route-Update` on
//! an answer.
//!
//! Both are structured-field dictionaries (RFC 9651) and are written and read with the `sfv` crate. A routing key
//! travels as a string if it is printable ASCII, else as a byte sequence.

mod stale;
mod stamp;

pub use stale::{Stale, StaleFault, StaleState, Update};
pub use stamp::{Stamp, StampFault};

/// The header that carries a [`Stamp`], in lower case.
pub const STAMP_HEADER: &str = "route-stamp";
/// The header that carries a [`Stale`], in lower case.
pub const STALE_HEADER: &str = "route-stale";
/// The header that carries an [`Update`], in lower case.
pub const UPDATE_HEADER: &str = "route-update";
/// What all headers of the protocol start with, in lower case: they are the proxy's and the owners' alone.
pub const HEADER_PREFIX: &str = "route-";

/// Whether a header or trailer belongs to the protocol and so never crosses the proxy. `_` counts as `-`: many backends (CGI, WSGI)
/// can't tell them apart.
pub fn is_protocol_header(name: &[u8]) -> bool {
    let start = name.iter().map(|b| if *b == b'_' { b'-' } else { b.to_ascii_lowercase() });
    start.take(HEADER_PREFIX.len()).eq(HEADER_PREFIX.bytes())
}

/// A routing key as a structured-field item: a string where it is printable ASCII, else a byte sequence.
fn key_item(key: &[u8]) -> sfv::BareItem {
    let text = std::str::from_utf8(key).ok().and_then(|key| sfv::String::try_from(key.to_owned()).ok());
    text.map_or_else(|| sfv::BareItem::ByteSequence(key.to_vec()), sfv::BareItem::String)
}

/// A routing key from either form.
fn key_bytes(item: &sfv::BareItem) -> Option<Vec<u8>> {
    match item {
        sfv::BareItem::String(key) => Some(key.as_str().as_bytes().to_vec()),
        sfv::BareItem::ByteSequence(key) => Some(key.clone()),
        _ => None,
    }
}
