//! `certificates/<name>`: a certificate, and where its private key is. The key itself never stands in a record.

use serde::{Deserialize, Deserializer, Serialize, de};

use crate::{HostPattern, service::is_default};

/// A certificate for listeners.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// The names it is used for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<HostPattern>,
    /// The chain.
    pub cert: CertSource,
    /// Where the private key is.
    pub key: PrivateKeySource,
    /// Used for a name that no record has.
    #[serde(default, skip_serializing_if = "is_default")]
    pub default: bool,
}

/// A certificate chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertSource {
    /// In a file.
    File(String),
    /// Here, in PEM.
    Inline(String),
}

/// Where a private key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PrivateKeySource {
    /// In a file.
    File(String),
    /// In an environment variable.
    Env(String),
}

impl<'de> Deserialize<'de> for CertSource {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        if text.contains("PRIVATE KEY") {
            return Err(de::Error::custom(
                "a private key stands where a certificate should; keys never belong into the store: replace it, it is known now",
            ));
        }
        match text.strip_prefix("file:") {
            Some(path) if !path.is_empty() => Ok(Self::File(path.to_owned())),
            _ if text.trim_start().starts_with("-----BEGIN CERTIFICATE-----") => Ok(Self::Inline(text)),
            _ => Err(de::Error::custom("file:PATH or a PEM chain would be right")),
        }
    }
}

impl<'de> Deserialize<'de> for PrivateKeySource {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        match (text.strip_prefix("file:"), text.strip_prefix("env:")) {
            (Some(path), _) if !path.is_empty() => Ok(Self::File(path.to_owned())),
            (_, Some(name)) if !name.is_empty() => Ok(Self::Env(name.to_owned())),
            // The text is not repeated: it may be the key.
            _ => Err(de::Error::custom("file:PATH or env:NAME would be right, never the key itself")),
        }
    }
}

impl Serialize for CertSource {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::File(path) => to.collect_str(&format_args!("file:{path}")),
            Self::Inline(pem) => to.serialize_str(pem),
        }
    }
}

impl Serialize for PrivateKeySource {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::File(path) => to.collect_str(&format_args!("file:{path}")),
            Self::Env(name) => to.collect_str(&format_args!("env:{name}")),
        }
    }
}
