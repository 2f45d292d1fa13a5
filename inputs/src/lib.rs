//! What holds for whatever bytes come from outside, one function a kind of input; each panics where it does not hold.
//!
//! `fuzz/` draws the bytes, guided by what they reach; what it kept, `tests/corpus.rs` replays in every run of the tests. A function takes any bytes:
//! most hold one reader against another one of the same thing, or a value against itself written and read again.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

mod answers;
mod bodies;
mod fields;
mod files;
mod heads;
mod keys;
mod parser;
mod plain;
mod records;
mod senders;
mod snapshots;

/// The proxy is a binary; these two files of it need nothing else of it, and are what decides there.
#[path = "../../proxy/src/proxy_protocol.rs"]
mod proxy_protocol;
#[path = "../../proxy/src/transport/framing.rs"]
mod transport;

pub use answers::parts;
pub use bodies::chunks;
pub use fields::fields;
pub use files::{bootstrap, yaml};
pub use heads::head;
pub use keys::template;
pub use plain::plain;
pub use records::record;
pub use senders::proxy_header;
pub use snapshots::snapshot;

/// What holds for a kind of input.
pub type Holds = fn(&[u8]);

/// Every kind of input by the name of its fuzz target and its corpus.
pub const INPUTS: [(&str, Holds); 11] = [
    ("bootstrap", bootstrap),
    ("chunks", chunks),
    ("fields", fields),
    ("head", head),
    ("parts", parts),
    ("plain", plain),
    ("proxy_header", proxy_header),
    ("record", record),
    ("snapshot", snapshot),
    ("template", template),
    ("yaml", yaml),
];
