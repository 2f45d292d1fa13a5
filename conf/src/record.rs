//! One record: decoding a value from the store or a file, and writing it back.
//!
//! A running proxy tolerates fields that it does not know and lists them; a person who writes a record is told of each. Whatever the
//! bytes are, decoding ends in a value or a [`Fault`], never in a panic.

use std::fmt;

use serde::{Serialize, de::DeserializeOwned};

use crate::{Certificate, Endpoint, Policy, RecordKey, Route, Service, Upstream, inactive, number::Whole, suggest::closest};

/// The largest value of a record, in bytes. etcd itself refuses requests above 1.5 MiB unless told otherwise.
pub const MAX_RECORD_BYTES: usize = 1024 * 1024;

/// What a key holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// `services/…`
    Service(Service),
    /// `routes/…`
    Route(Route),
    /// `upstreams/…`
    Upstream(Upstream),
    /// `endpoints/…`
    Endpoint(Endpoint),
    /// `policies/…`
    Policy(Policy),
    /// `certificates/…`
    Certificate(Certificate),
    /// `incarnation`
    Incarnation(u64),
}

/// A decoded value, and what is to be said of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// The value.
    pub record: Record,
    /// Dotted paths of fields that this version does not know.
    pub unknown_fields: Vec<String>,
    /// Fields that it knows but does not act on yet.
    pub inactive: Vec<&'static str>,
}

/// What is wrong with a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The dotted path of the field, where it is one field's fault.
    pub field: Option<String>,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.field {
            Some(field) => write!(out, "field \"{field}\" {}", self.message),
            None => out.write_str(&self.message),
        }
    }
}

impl std::error::Error for Fault {}

/// Decodes a value for a running proxy: unknown fields are listed, not refused.
///
/// # Errors
/// If the value can't be used.
pub fn decode(key: &RecordKey, value: &[u8]) -> Result<Decoded, Fault> {
    if value.len() > MAX_RECORD_BYTES {
        let bytes = value.len();
        return Err(Fault { field: None, message: format!("the value has {bytes} bytes; at most {MAX_RECORD_BYTES} would be right") });
    }
    let mut unknown_fields = Vec::new();
    let unknown = &mut unknown_fields;
    let record = match key {
        RecordKey::Service(_) => Record::Service(read(value, unknown)?),
        RecordKey::Route { .. } => Record::Route(read(value, unknown)?),
        RecordKey::Upstream(_) => Record::Upstream(read(value, unknown)?),
        RecordKey::Endpoint { .. } => Record::Endpoint(read(value, unknown)?),
        RecordKey::Policy(_) => Record::Policy(read(value, unknown)?),
        RecordKey::Certificate(_) => Record::Certificate(read(value, unknown)?),
        RecordKey::Incarnation => Record::Incarnation(read::<Whole<0, 999_999_999_999_999>>(value, unknown)?.0),
    };
    let inactive = inactive::of_record(&record);
    Ok(Decoded { record, unknown_fields, inactive })
}

/// Decodes a value that a person writes: each unknown field is a fault, with what may have been meant.
///
/// # Errors
/// All faults that could be found.
pub fn decode_strict(key: &RecordKey, value: &[u8]) -> Result<Decoded, Vec<Fault>> {
    let decoded = decode(key, value).map_err(|fault| {
        // A mistyped name of a required field shows as that one missing: say what was typed.
        let mistyped = unknown_of_any(key, value);
        if mistyped.is_empty() { vec![fault] } else { mistyped }
    })?;
    if decoded.unknown_fields.is_empty() {
        return Ok(decoded);
    }
    Err(decoded.unknown_fields.iter().map(|field| unknown_field(key, field)).collect())
}

impl Record {
    /// The record as JSON, without what equals the default.
    pub fn to_json(&self) -> serde_json::Value {
        fn of<T: Serialize>(record: &T) -> serde_json::Value {
            serde_json::to_value(record).unwrap_or_default()
        }
        match self {
            Self::Service(record) => of(record),
            Self::Route(record) => of(record),
            Self::Upstream(record) => of(record),
            Self::Endpoint(record) => of(record),
            Self::Policy(record) => of(record),
            Self::Certificate(record) => of(record),
            Self::Incarnation(value) => of(value),
        }
    }
}

fn read<T: DeserializeOwned>(value: &[u8], unknown: &mut Vec<String>) -> Result<T, Fault> {
    let mut json = serde_json::Deserializer::from_slice(value);
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(&mut json, &mut track);
    let read = serde_ignored::deserialize(tracked, |path| unknown.push(path.to_string()));
    let read = read.and_then(|read| json.end().map(|()| read));
    read.map_err(|error| {
        let path = track.path().to_string();
        Fault { field: (path != ".").then_some(path), message: say(&error) }
    })
}

/// serde_json's message without its position, which says nothing of a record on one line.
fn say(error: &serde_json::Error) -> String {
    let message = error.to_string();
    let message = message.rsplit_once(" at line ").map_or(&*message, |(message, _)| message);
    match error.classify() {
        serde_json::error::Category::Data => message.to_owned(),
        _ => format!("is not JSON: {message}"),
    }
}

/// Fields known at the top of each kind of record, for suggestions.
fn known_fields(key: &RecordKey) -> &'static [&'static str] {
    match key {
        RecordKey::Service(_) => &["match", "key", "partition", "default_owner", "policy", "dot_segments", "hosts", "path_prefix"],
        RecordKey::Route { .. } => &["owner", "epoch", "state", "target", "move"],
        RecordKey::Upstream(_) => &[
            "endpoints",
            "balance",
            "protocol",
            "stale_aware",
            "public_url",
            "tls",
            "health",
            "address",
            "weight",
            "zone",
            "sni",
            "ca",
            "cert",
            "key",
            "path",
            "interval_ms",
            "unhealthy_after",
            "healthy_after",
        ],
        RecordKey::Endpoint { .. } => &["address", "weight", "zone"],
        RecordKey::Policy(_) => &[
            "on_stale",
            "redirect_to",
            "max_hops",
            "park_ms",
            "timeouts",
            "retries",
            "limits",
            "max_staleness_ms",
            "header_ms",
            "connect_ms",
            "first_byte_ms",
            "idle_ms",
            "total_ms",
            "budget_percent",
            "min_per_second",
            "requests_per_second",
            "in_flight",
            "body_bytes",
        ],
        RecordKey::Certificate(_) => &["hosts", "cert", "key", "default"],
        RecordKey::Incarnation => &[],
    }
}

fn unknown_field(key: &RecordKey, path: &str) -> Fault {
    let last = path.rsplit('.').next().unwrap_or(path);
    let meant = closest(last, known_fields(key).iter().copied());
    let meant = meant.map(|meant| format!("; did you mean \"{meant}\"?")).unwrap_or_default();
    Fault { field: Some(path.to_owned()), message: format!("is unknown{meant}") }
}

/// Unknown fields at the top of a value that can't be decoded.
fn unknown_of_any(key: &RecordKey, value: &[u8]) -> Vec<Fault> {
    let Ok(serde_json::Value::Object(fields)) = serde_json::from_slice(value) else { return Vec::new() };
    let unknown = fields.keys().filter(|field| !known_fields(key).contains(&field.as_str()));
    unknown.map(|field| unknown_field(key, field)).collect()
}
