//! `upstreams/<upstream>` and `endpoints/<upstream>/<id>`: owners and where they are reached.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, de};

use crate::{number::Whole, service::is_default};

/// An owner: a group of interchangeable endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upstream {
    /// Where it is reached; endpoint records add to these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<Endpoint>,
    /// How an endpoint is chosen.
    #[serde(default, skip_serializing_if = "is_default")]
    pub balance: Balance,
    /// What it speaks.
    #[serde(default, skip_serializing_if = "is_default")]
    pub protocol: Protocol,
    /// Whether its backends answer stale routes before they read a body.
    #[serde(default, skip_serializing_if = "is_default")]
    pub stale_aware: bool,
    /// Where a redirected client reaches it by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_url: Option<PublicUrl>,
    /// TLS towards it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<UpstreamTls>,
    /// Health checks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Where it listens.
    pub address: Address,
    /// Its share against the others, 1 to 1,000.
    #[serde(default = "weight_one", deserialize_with = "weight", skip_serializing_if = "is_one")]
    pub weight: u32,
    /// The zone it is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
}

/// `host:port`; the host a name, an IPv4 address or an IPv6 address in brackets. Clones share the text.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address(Arc<str>);

/// How an endpoint is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// The power of two choices, by requests in flight.
    #[default]
    P2c,
    /// In turn.
    RoundRobin,
    /// The one with the fewest requests in flight.
    LeastRequest,
    /// Consistently by routing key.
    Hash,
}

/// What an upstream speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// HTTP/1.1
    #[default]
    Http1,
    /// HTTP/2
    H2,
    /// What it offers.
    Auto,
}

/// TLS towards an upstream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamTls {
    /// The name that its certificate must carry; never empty, since an empty one would turn verification off.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "sni")]
    pub sni: Option<String>,
    /// The certificates that its own must be signed by: `file:PATH`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// The certificate shown to it: `file:PATH`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert: Option<String>,
    /// The private key of that: `file:PATH` or `env:NAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// Health checks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// What is asked for.
    #[serde(default = "root_path")]
    pub path: String,
    /// How often, in milliseconds.
    #[serde(default = "two_seconds", deserialize_with = "interval")]
    pub interval_ms: u64,
    /// After how many failures it is passed over.
    #[serde(default = "three", deserialize_with = "times")]
    pub unhealthy_after: u32,
    /// After how many successes it is used again.
    #[serde(default = "two", deserialize_with = "times")]
    pub healthy_after: u32,
}

/// A URL without a trailing slash, query or fragment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PublicUrl(String);

impl PublicUrl {
    /// `https://cell-7.example.com`
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for PublicUrl {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        let authority = rest.and_then(|rest| rest.split('/').next()).unwrap_or_default();
        let plain = text.bytes().all(|b| b.is_ascii_graphic() && !b"?#@\\\"<>".contains(&b));
        if authority.is_empty() || !plain {
            return Err(de::Error::custom(format!("\"{text}\" is no public URL; \"https://cell-7.example.com\" would be right")));
        }
        Ok(Self(text.trim_end_matches('/').to_owned()))
    }
}

impl Address {
    /// As written: `host:port`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What is wrong with a text as `host:port`, if anything is.
    pub(crate) fn check(text: &str) -> Result<(), &'static str> {
        let (host, port) = text.rsplit_once(':').ok_or("the port is missing")?;
        if !port.bytes().all(|b| b.is_ascii_digit()) || !matches!(port.parse::<u16>(), Ok(1..)) {
            return Err("the port must be a number from 1 to 65535");
        }
        if let Some(inner) = host.strip_prefix('[') {
            let is_ipv6 = inner.strip_suffix(']').is_some_and(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok());
            return if is_ipv6 { Ok(()) } else { Err("what stands in [ ] is no IPv6 address") };
        }
        if host.contains(':') {
            return Err("an IPv6 address must stand in [ ]");
        }
        let is_label = |label: &str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
        if !host.split('.').all(is_label) {
            return Err("the host is missing or has other characters than letters, digits, -, _ and .");
        }
        Ok(())
    }
}

impl TryFrom<&str> for Address {
    type Error = String;

    fn try_from(text: &str) -> Result<Self, String> {
        Self::check(text)
            .map_err(|why| format!("\"{text}\" is no address: {why}; \"10.0.0.7:8080\" or \"cell-7.internal:8080\" would be right"))?;
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, out)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::try_from(&*String::deserialize(from)?).map_err(de::Error::custom)
    }
}

impl Serialize for Address {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.0)
    }
}

fn sni<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let sni = Option::<String>::deserialize(from)?;
    if sni.as_deref() == Some("") {
        return Err(de::Error::custom("an empty \"sni\" would turn the check of the name off; leave it out or write the name"));
    }
    Ok(sni)
}

fn weight<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    u32::try_from(Whole::<1, 1000>::deserialize(from)?.0).map_err(de::Error::custom)
}

fn interval<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    Ok(Whole::<100, 3_600_000>::deserialize(from)?.0)
}

fn times<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    u32::try_from(Whole::<1, 1000>::deserialize(from)?.0).map_err(de::Error::custom)
}

fn weight_one() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_one(weight: &u32) -> bool {
    *weight == 1
}

fn root_path() -> String {
    "/".to_owned()
}

fn two_seconds() -> u64 {
    2000
}

fn three() -> u32 {
    3
}

fn two() -> u32 {
    2
}
