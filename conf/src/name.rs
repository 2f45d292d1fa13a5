//! Names of services, upstreams, policies, endpoints, certificates and proxies.
//!
//! A [`Name`] can't be wrong: whoever holds one holds a checked one. Clones share the text.

use std::{borrow::Borrow, fmt, ops::Deref, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// The longest name, in bytes.
pub const MAX_NAME_BYTES: usize = 128;

/// `[A-Za-z0-9][A-Za-z0-9._-]{0,127}`
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

/// Why a text is no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{}\" is no name; 1 to 128 letters, digits, `.`, `_` or `-`, the first a letter or digit, would be right", .0.escape_debug())]
pub struct NameFault(String);

impl Name {
    /// Its text, to be kept.
    pub fn shared(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }
}

impl TryFrom<&str> for Name {
    type Error = NameFault;

    fn try_from(text: &str) -> Result<Self, Self::Error> {
        let starts = text.starts_with(|c: char| c.is_ascii_alphanumeric());
        let continues = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        if starts && continues && text.len() <= MAX_NAME_BYTES {
            Ok(Self(text.into()))
        } else {
            Err(NameFault(text.chars().take(MAX_NAME_BYTES).collect()))
        }
    }
}

impl TryFrom<&[u8]> for Name {
    type Error = NameFault;

    fn try_from(bytes: &[u8]) -> Result<Self, Self::Error> {
        Self::try_from(&*String::from_utf8_lossy(bytes))
    }
}

impl Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, out)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::try_from(&*String::deserialize(from)?).map_err(D::Error::custom)
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self)
    }
}
