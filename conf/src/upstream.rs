//! `upstreams/<upstream>` and `endpoints/<upstream>/<id>`: owners and where they are reached.

use std::{fmt, net::IpAddr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, de};

use crate::{
    certificate::{CertSource, PrivateKeySource},
    number::Whole,
    service::is_default,
};

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
    pub tls: Option<Arc<UpstreamTls>>,
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

/// TLS towards an upstream. Nothing in it turns the check of a certificate off.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "TlsWire")]
pub struct UpstreamTls {
    /// The name that its certificate must carry: a host or an IP address; left out: the host of the endpoint's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
    /// The certificates that its own must be signed by; left out: the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<CertSource>,
    /// What is shown to it.
    #[serde(flatten)]
    pub shown: Option<ShownToUpstream>,
}

/// The certificate that an upstream is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ShownToUpstream {
    /// The chain.
    pub cert: CertSource,
    /// Where the private key is.
    pub key: PrivateKeySource,
}

#[derive(Deserialize)]
struct TlsWire {
    #[serde(default, deserialize_with = "sni")]
    sni: Option<String>,
    ca: Option<CertSource>,
    cert: Option<CertSource>,
    key: Option<PrivateKeySource>,
}

impl TryFrom<TlsWire> for UpstreamTls {
    type Error = &'static str;

    fn try_from(wire: TlsWire) -> Result<Self, Self::Error> {
        let shown = match (wire.cert, wire.key) {
            (None, None) => None,
            (Some(cert), Some(key)) => Some(ShownToUpstream { cert, key }),
            (Some(_), None) => return Err("\"cert\" needs a \"key\", where its private key is"),
            (None, Some(_)) => return Err("\"key\" needs a \"cert\", the certificate that it is for"),
        };
        Ok(Self { sni: wire.sni, ca: wire.ca, shown })
    }
}

impl UpstreamTls {
    /// The name that an endpoint's certificate must carry, an IPv6 address without brackets.
    ///
    /// # Errors
    /// A sentence, if it is one that can't be checked as it is written.
    pub fn name_for<'a>(&'a self, address: &'a Address) -> Result<&'a str, String> {
        // One that was parsed has been looked at.
        let name = self.sni.as_deref().unwrap_or_else(|| address.host());
        check_name(name)
            .map_err(|why| format!("\"{name}\" can't be checked: {why}; write the name that its certificate carries as \"sni\""))?;
        Ok(name)
    }
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

    /// The host; an IPv6 address without its brackets.
    pub fn host(&self) -> &str {
        let host = self.0.rsplit_once(':').map_or(&*self.0, |(host, _)| host);
        host.trim_start_matches('[').trim_end_matches(']')
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
    if let Some(name) = &sni {
        let fault =
            |why| de::Error::custom(format!("\"{name}\" is no name to check: {why}; \"cell-7.internal\" or \"10.0.0.7\" would be right"));
        check_name(name).map_err(fault)?;
    }
    Ok(sni)
}

/// What is wrong with a name that a certificate is to carry, if anything is.
fn check_name(name: &str) -> Result<(), &'static str> {
    if name.parse::<IpAddr>().is_ok() {
        return Ok(());
    }
    let is_label = |label: &str| {
        let is_edged = label.starts_with('-') || label.ends_with('-');
        (1..=63).contains(&label.len()) && !is_edged && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    };
    if name.len() > 253 || !name.split('.').all(is_label) {
        return Err("a host has up to 253 bytes, its labels up to 63: letters, digits, -, _");
    }
    let mut labels = name.split('.');
    if labels.clone().next_back().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit())) {
        return Err("it ends like an IP address and is none");
    }
    // The transport checks such a name with hyphens in it, which is another one.
    if labels.next().is_some_and(|first| first.contains('_')) && labels.count() > 1 {
        return Err("the first of several labels has a _, which no host's name in a certificate has");
    }
    Ok(())
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
