//! `services/<service>`: which requests belong to a data service, and where their routing key is.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, de};

use crate::{Name, number::Whole};

/// A data service.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Wire")]
pub struct Service {
    /// A request belongs to the service if any of these matches; never empty.
    pub matches: Vec<Match>,
    /// Where the routing key is; `None`: everything goes to `default_owner`.
    pub key: Option<KeySource>,
    /// How routes cover routing keys.
    pub partition: Partition,
    /// Who gets a key without a route.
    pub default_owner: Option<Name>,
    /// The policy by name; `None`: the one named `default`.
    pub policy: Option<Name>,
    /// Whether paths with `.` and `..` segments are let through.
    pub dot_segments: bool,
}

/// One way for a request to belong to a service: any of the hosts, and the path prefix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Match {
    /// Empty: any host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<HostPattern>,
    /// `/` if left out.
    #[serde(default, skip_serializing_if = "PathPrefix::is_root")]
    pub path_prefix: PathPrefix,
}

/// A host or a wildcard, lower-cased.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// This host.
    Exact(String),
    /// One or more labels before this: `x.y` of `*.x.y`.
    Wildcard(String),
}

/// A path prefix of whole segments; without a trailing `/`, but for `/` itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct PathPrefix(String);

/// Where a request's routing key is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeySource {
    /// A header field, its name in lower case.
    Header(HeaderName),
    /// A query parameter.
    Query(NonEmpty),
    /// A cookie.
    Cookie(NonEmpty),
    /// A segment of the path.
    Path(PathTemplate),
    /// A part of the host.
    Host(HostTemplate),
}

/// A header field's name, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HeaderName(String);

/// A text of at least one character.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NonEmpty(String);

/// `/buckets/{key}/*rest`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathTemplate {
    /// The segments; exactly one is the key.
    pub segments: Vec<TemplateSegment>,
    written: String,
}

/// One segment of a path template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TemplateSegment {
    /// This text.
    Literal(String),
    /// `{key}`: the routing key.
    Key,
    /// `{other}`: any one segment.
    Any,
    /// `*rest`, last: no, one or more segments.
    Rest,
}

/// `{key}.orders.example.com`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostTemplate {
    /// What stands before the key, lower-cased.
    pub before: String,
    /// What stands behind it.
    pub after: String,
}

/// How routes cover routing keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Partition {
    /// A route owns the key of its name.
    #[default]
    Exact,
    /// Keys are hashed into slots; a route owns a range of them.
    Slots {
        /// How many slots there are: 1 to 65,536.
        count: u32,
        /// The hash.
        hash: SlotHash,
    },
    /// The route whose key is the greatest one not above the request's owns it.
    Range,
}

/// A hash of routing keys into slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SlotHash {
    /// Redis Cluster's, with its `{tag}` rule.
    Crc16,
    /// XXH3, 64 bits.
    Xxh3,
}

#[derive(Deserialize)]
struct Wire {
    r#match: Vec<Match>,
    key: Option<KeySource>,
    #[serde(default)]
    partition: Partition,
    default_owner: Option<Name>,
    policy: Option<Name>,
    #[serde(default)]
    dot_segments: bool,
}

impl TryFrom<Wire> for Service {
    type Error = &'static str;

    fn try_from(wire: Wire) -> Result<Self, Self::Error> {
        if wire.r#match.is_empty() {
            return Err("\"match\" is empty; at least one entry would be right, {} for every request");
        }
        if wire.key.is_none() && wire.default_owner.is_none() {
            return Err("without a \"key\" everything goes to \"default_owner\", which is missing; write one of the two");
        }
        Ok(Self {
            matches: wire.r#match,
            key: wire.key,
            partition: wire.partition,
            default_owner: wire.default_owner,
            policy: wire.policy,
            dot_segments: wire.dot_segments,
        })
    }
}

impl Serialize for Service {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Out<'a> {
            r#match: &'a [Match],
            #[serde(skip_serializing_if = "Option::is_none")]
            key: &'a Option<KeySource>,
            #[serde(skip_serializing_if = "is_default")]
            partition: Partition,
            #[serde(skip_serializing_if = "Option::is_none")]
            default_owner: &'a Option<Name>,
            #[serde(skip_serializing_if = "Option::is_none")]
            policy: &'a Option<Name>,
            #[serde(skip_serializing_if = "is_default")]
            dot_segments: bool,
        }
        let Self { matches, key, default_owner, policy, .. } = self;
        Out { r#match: matches, key, partition: self.partition, default_owner, policy, dot_segments: self.dot_segments }.serialize(to)
    }
}

/// Whether a value is its type's default, and so need not be written.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl PathPrefix {
    /// As it is matched: `/`, or a path without a trailing `/`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it matches every path.
    pub fn is_root(&self) -> bool {
        self.0 == "/"
    }
}

impl Default for PathPrefix {
    fn default() -> Self {
        Self("/".to_owned())
    }
}

impl HeaderName {
    /// In lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl NonEmpty {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Deserializes from a string through a checking function.
macro_rules! from_text {
    ($type:ty, $parse:path) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                $parse(&String::deserialize(from)?).map_err(de::Error::custom)
            }
        }
    };
}

from_text!(PathPrefix, path_prefix);
from_text!(HostPattern, host_pattern);
from_text!(HeaderName, header_name);
from_text!(NonEmpty, non_empty);
from_text!(PathTemplate, path_template);
from_text!(HostTemplate, host_template);

fn path_prefix(text: &str) -> Result<PathPrefix, String> {
    if !text.starts_with('/') || text.contains(['?', '#']) || text.bytes().any(|b| b <= b' ' || b == 0x7f) {
        return Err(format!("\"{text}\" is no path prefix; it starts with / and has no query, as in \"/orders\""));
    }
    let trimmed = text.trim_end_matches('/');
    Ok(PathPrefix(if trimmed.is_empty() { "/" } else { trimmed }.to_owned()))
}

fn host_pattern(text: &str) -> Result<HostPattern, String> {
    let lower = text.to_ascii_lowercase();
    let host = lower.strip_suffix('.').unwrap_or(&lower);
    let wrong = |why: &str| format!("\"{text}\" is no host: {why}; \"orders.example.com\" or \"*.example.com\" would be right");
    let (wildcard, name) = host.strip_prefix("*.").map_or((false, host), |parent| (true, parent));
    if name.is_empty() {
        return Err(wrong("it is empty"));
    }
    if name.contains('*') {
        return Err(wrong("a * may only be the whole first label"));
    }
    let is_ipv6 = name.starts_with('[') && name.ends_with(']');
    if !is_ipv6 && name.contains(':') {
        return Err(wrong("a port does not belong here"));
    }
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._[]:".contains(&b)) || name.split('.').any(str::is_empty) {
        return Err(wrong("a label has other characters than letters, digits, - and _"));
    }
    Ok(if wildcard { HostPattern::Wildcard(name.to_owned()) } else { HostPattern::Exact(name.to_owned()) })
}

fn header_name(text: &str) -> Result<HeaderName, String> {
    let is_token = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b));
    if !is_token {
        return Err(format!("\"{text}\" is no header name: letters, digits and - would be right, as in \"x-tenant\""));
    }
    let lower = text.to_ascii_lowercase();
    if lower.starts_with("route-") {
        return Err(format!("\"{text}\" belongs to the stale-route protocol and is removed from requests; choose another header"));
    }
    Ok(HeaderName(lower))
}

fn non_empty(text: &str) -> Result<NonEmpty, String> {
    if text.is_empty() { Err("a name is empty; at least one character would be right".to_owned()) } else { Ok(NonEmpty(text.to_owned())) }
}

fn path_template(text: &str) -> Result<PathTemplate, String> {
    let wrong = |why: &str| format!("\"{text}\" is no path template: {why}; \"/buckets/{{key}}/*rest\" would be right");
    let rest = text.strip_prefix('/').ok_or_else(|| wrong("it must start with /"))?;
    let mut segments = Vec::new();
    for segment in rest.split('/') {
        if matches!(segments.last(), Some(TemplateSegment::Rest)) {
            return Err(wrong("*rest must be the last segment"));
        }
        let inner = segment.strip_prefix('{').and_then(|inner| inner.strip_suffix('}'));
        segments.push(match (segment, inner) {
            (_, Some("key")) => TemplateSegment::Key,
            (_, Some(other)) if !other.is_empty() && !other.contains(['{', '}']) => TemplateSegment::Any,
            (segment, None) if segment.starts_with('*') => TemplateSegment::Rest,
            (segment, None) if !segment.contains(['{', '}', '*', '?', '#']) => TemplateSegment::Literal(segment.to_owned()),
            _ => return Err(wrong("a { } must be a whole segment")),
        });
    }
    match segments.iter().filter(|segment| matches!(segment, TemplateSegment::Key)).count() {
        1 => Ok(PathTemplate { segments, written: text.to_owned() }),
        0 => Err(wrong("no segment is {key}")),
        _ => Err(wrong("more than one segment is {key}")),
    }
}

fn host_template(text: &str) -> Result<HostTemplate, String> {
    let wrong = |why: &str| format!("\"{text}\" is no host template: {why}; \"{{key}}.orders.example.com\" would be right");
    let lower = text.to_ascii_lowercase();
    let (before, after) = lower.split_once("{key}").ok_or_else(|| wrong("{key} is missing"))?;
    let plain = |part: &str| part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    if !plain(before) || !plain(after) {
        return Err(wrong("beside one {key} only letters, digits, -, _ and . may stand"));
    }
    Ok(HostTemplate { before: before.to_owned(), after: after.strip_suffix('.').unwrap_or(after).to_owned() })
}

impl Serialize for HostPattern {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Exact(host) => to.serialize_str(host),
            Self::Wildcard(parent) => to.collect_str(&format_args!("*.{parent}")),
        }
    }
}

impl Serialize for PathTemplate {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.written)
    }
}

impl Serialize for HostTemplate {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => out.write_str(host),
            Self::Wildcard(parent) => write!(out, "*.{parent}"),
        }
    }
}

impl fmt::Display for PathTemplate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.written)
    }
}

impl fmt::Display for HostTemplate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}{{key}}{}", self.before, self.after)
    }
}

impl fmt::Display for KeySource {
    /// Where the key is, in words: `header x-tenant`.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => write!(out, "header {}", name.as_str()),
            Self::Query(name) => write!(out, "query parameter {}", name.as_str()),
            Self::Cookie(name) => write!(out, "cookie {}", name.as_str()),
            Self::Path(template) => write!(out, "path {template}"),
            Self::Host(template) => write!(out, "host {template}"),
        }
    }
}

impl Serialize for Partition {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Exact => to.serialize_str("exact"),
            Self::Range => to.serialize_str("range"),
            Self::Slots { count, hash } => SlotsOut { slots: *count, hash: *hash }.serialize(to),
        }
    }
}

#[derive(Serialize)]
struct SlotsOut {
    slots: u32,
    hash: SlotHash,
}

/// Slots as they are written.
#[derive(Deserialize)]
pub(crate) struct SlotsWire {
    slots: Whole<1, 65_536>,
    hash: SlotHash,
}

impl<'de> Deserialize<'de> for Partition {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Partition;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("\"exact\", \"range\" or {\"slots\": 16384, \"hash\": \"crc16\"}")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Partition, E> {
                match text {
                    "exact" => Ok(Partition::Exact),
                    "range" => Ok(Partition::Range),
                    other => Err(E::invalid_value(de::Unexpected::Str(other), &self)),
                }
            }

            fn visit_map<M: de::MapAccess<'de>>(self, map: M) -> Result<Partition, M::Error> {
                let wire = SlotsWire::deserialize(de::value::MapAccessDeserializer::new(map))?;
                let count = u32::try_from(wire.slots.0).map_err(de::Error::custom)?;
                Ok(Partition::Slots { count, hash: wire.hash })
            }
        }
        from.deserialize_any(Visitor)
    }
}
