//! One record: decoding a value from the store or a file, and writing it back.
//!
//! A running proxy tolerates fields that it does not know and lists them; a person who writes a record is told of each. Whatever the
//! bytes are, decoding ends in a value or a [`Fault`], never in a panic.

use std::fmt;

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    Certificate, Endpoint, Policy, RecordKey, Route, Service, Upstream,
    fields::{self, Kind},
    inactive,
    key::escaped,
    number::Whole,
    suggest::did_you_mean,
};

/// The largest value of a record, in bytes. etcd itself refuses requests above 1.5 MiB unless told otherwise.
pub const MAX_RECORD_BYTES: usize = 1024 * 1024;

/// How a message about a required field ends.
const MISSING: &str = " is missing";

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
        out.write_str(&self.of("field"))
    }
}

impl Fault {
    /// In a sentence; `what` says what the value's parts are called.
    pub(crate) fn of(&self, what: &str) -> String {
        match &self.field {
            Some(field) if self.message.starts_with("is ") => format!("{what} \"{field}\" {}", self.message),
            Some(field) => format!("{what} \"{field}\": {}", self.message),
            None => self.message.clone(),
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
    let kind = fields::of_record(key);
    let decoded = decode(key, value);
    let written = serde_json::from_slice(value).unwrap_or_default();
    with_unknown_fields(kind, &written, decoded)
}

/// What was read, or the fault of reading and every unknown field. A mistyped name of a required field would also show as that one
/// missing: what was typed says more.
pub(crate) fn with_unknown_fields<T>(kind: &Kind, written: &serde_json::Value, read: Result<T, Fault>) -> Result<T, Vec<Fault>> {
    let mut faults: Vec<Fault> = kind.unknown(written).iter().map(|path| unknown_field(kind, path)).collect();
    match read {
        Ok(read) if faults.is_empty() => Ok(read),
        Err(fault) if faults.is_empty() || !fault.message.ends_with(MISSING) => {
            faults.push(fault);
            Err(faults)
        }
        _ => Err(faults),
    }
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

/// Reads JSON into a type; paths of fields that the type does not have are collected. Where it fails it is read once more: to follow the
/// path at which it fails costs as much as reading, and of a million records nearly all are good.
pub(crate) fn read<T: DeserializeOwned>(value: &[u8], unknown: &mut Vec<String>) -> Result<T, Fault> {
    let mut json = serde_json::Deserializer::from_slice(value);
    let read = serde_ignored::deserialize(&mut json, |path| unknown.push(readable(&path.to_string())));
    match read.and_then(|read| json.end().map(|()| read)) {
        Ok(read) => Ok(read),
        Err(_) => {
            unknown.clear();
            read_with_path(value, unknown)
        }
    }
}

fn read_with_path<T: DeserializeOwned>(value: &[u8], unknown: &mut Vec<String>) -> Result<T, Fault> {
    let mut json = serde_json::Deserializer::from_slice(value);
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(&mut json, &mut track);
    let read = serde_ignored::deserialize(tracked, |path| unknown.push(readable(&path.to_string())));
    let read = read.and_then(|read| json.end().map(|()| read));
    read.map_err(|error| {
        let path = track.path().to_string();
        Fault { field: (path != ".").then_some(path), message: escaped(say(&error).as_bytes()) }
    })
}

/// `tls.?.sni` and `match.0.hosts` as a person writes them: `tls.sni`, `match[0].hosts`.
fn readable(path: &str) -> String {
    let mut readable = String::new();
    for step in path.split('.').filter(|step| *step != "?" || path == "?") {
        if !readable.is_empty() && step.bytes().all(|b| b.is_ascii_digit()) {
            readable.extend(["[", step, "]"]);
        } else {
            readable.extend([if readable.is_empty() { "" } else { "." }, step]);
        }
    }
    readable
}

/// serde_json's message in the words of the others, without its position, which says nothing of a record on one line.
fn say(error: &serde_json::Error) -> String {
    let message = error.to_string();
    let message = message.rsplit_once(" at line ").map_or(&*message, |(message, _)| message);
    match error.classify() {
        serde_json::error::Category::Data => in_our_words(message),
        _ => format!("is not JSON: {message}"),
    }
}

fn in_our_words(message: &str) -> String {
    let plain = message.replace('`', "\"");
    if let Some(("missing field", name)) = plain.split_once(" \"").map(|(what, name)| (what, name.trim_end_matches('"'))) {
        return format!("the field \"{name}\"{MISSING}");
    }
    if let Some(name) = plain.strip_prefix("duplicate field ") {
        return format!("the field {name} stands twice; once would be right");
    }
    if let Some((given, wanted)) = plain.strip_prefix("unknown variant ").and_then(|rest| rest.split_once(", expected ")) {
        let words = wanted.split('"').skip(1).step_by(2);
        let meant = did_you_mean(given.trim_matches('"'), words);
        return format!("is {given}; {wanted} would be right{meant}");
    }
    let found = plain.strip_prefix("invalid type: ").or_else(|| plain.strip_prefix("invalid value: "));
    match found.and_then(|rest| rest.split_once(", expected ")) {
        Some((given, wanted)) => format!("is {}; {} would be right", kind_and_value(given), wanted_number(wanted)),
        None => plain,
    }
}

/// serde's names of number types as a person says them; anything else as it is.
fn wanted_number(wanted: &str) -> String {
    let (least, most) = match wanted {
        "u16" => (0, u64::from(u16::MAX)),
        "u32" => (0, u64::from(u32::MAX)),
        "a nonzero u32" => (1, u64::from(u32::MAX)),
        "u64" => (0, u64::MAX),
        other => return other.to_owned(),
    };
    format!("a whole number from {least} to {most}")
}

/// serde's `integer "1"`, `string "x"`, `sequence` as a person says it.
fn kind_and_value(given: &str) -> String {
    match given.split_once(' ') {
        None => match given {
            "sequence" => "a list".to_owned(),
            "map" => "a mapping".to_owned(),
            other => other.to_owned(),
        },
        Some(("string", text)) => format!("the text {text}"),
        Some(("integer" | "boolean", value)) => format!("the value {}", value.trim_matches('"')),
        Some(("floating", value)) => format!("the value {}", value.trim_start_matches("point ").trim_matches('"')),
        Some(_) => given.to_owned(),
    }
}

/// What is said of a field that there is not.
fn unknown_field(kind: &Kind, path: &str) -> Fault {
    let meant = kind.meant(path).map(|meant| format!("; did you mean \"{meant}\"?")).unwrap_or_default();
    Fault { field: Some(path.to_owned()), message: format!("is unknown{meant}") }
}
