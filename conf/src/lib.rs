//! Everything that a person writes: the bootstrap file, and the records in etcd or in files.
//!
//! Parsing, defaults and checking; pure, without IO: callers pass text and bytes. What comes out can't be wrong any more: names are
//! names, epochs are in range, templates are compiled. Errors say what was wrong, where, and what would be right.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

mod bootstrap;
mod certificate;
mod difference;
mod document;
pub mod fields;
mod inactive;
mod key;
mod name;
mod node;
mod number;
mod policy;
mod record;
mod references;
mod route;
mod service;
mod suggest;
mod upstream;

pub use bootstrap::{
    AccessTarget, Admin, Bootstrap, ClientCert, DEFAULT_DIGEST_CHECK_MS, DEFAULT_PREFIX, Drain, Gold, GoldSource, Listener, Log, LogFormat,
    ProcessLimits, Snapshot, Upgrade, check_endpoint, check_prefix, not_an_address, parse_bootstrap,
};
pub use certificate::{CertSource, Certificate, PrivateKeySource};
pub use difference::{FieldChange, difference, same_value, without_secrets};
pub use document::{Diagnostic, Document, Entry, Place, Severity};
pub use key::{KeyFault, MAX_ROUTING_KEY_BYTES, RecordKey, escaped};
pub use name::{MAX_NAME_BYTES, Name, NameFault};
pub use policy::{Limits, OnStale, Policy, RedirectTo, Retries, Timeouts};
pub use record::{Decoded, Fault, MAX_RECORD_BYTES, Record, decode, decode_strict};
pub use references::{Names, dangling};
pub use route::{Route, RouteState};
pub use service::{
    HeaderName, HostPattern, HostTemplate, KeySource, Match, NonEmpty, Partition, PathPrefix, PathTemplate, Service, SlotHash,
    TemplateSegment,
};
pub use suggest::did_you_mean;
pub use upstream::{Address, Balance, Endpoint, Health, Protocol, PublicUrl, ShownToUpstream, Upstream, UpstreamTls};

#[cfg(test)]
mod tests;
