//! Which record an etcd key holds: the part after `<prefix>/`, taken apart.
//!
//! Parsing and [`RecordKey::suffix`] are each other's inverse, byte for byte.

use std::fmt;

use crate::{Name, suggest::did_you_mean};

/// The longest routing key, in bytes.
pub const MAX_ROUTING_KEY_BYTES: usize = 1024;

const FOLDERS: [&str; 6] = ["services", "routes", "upstreams", "endpoints", "policies", "certificates"];

/// One key below the prefix.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordKey {
    /// `services/<service>`
    Service(Name),
    /// `routes/<service>/<key>`; the key may hold any bytes, `/` included.
    Route {
        /// The service.
        service: Name,
        /// The routing key, slot range or lower bound.
        key: Vec<u8>,
    },
    /// `upstreams/<upstream>`
    Upstream(Name),
    /// `endpoints/<upstream>/<id>`
    Endpoint {
        /// The upstream.
        upstream: Name,
        /// The endpoint's own name.
        id: Name,
    },
    /// `policies/<policy>`
    Policy(Name),
    /// `certificates/<name>`
    Certificate(Name),
    /// `incarnation`
    Incarnation,
}

/// Why a key holds no record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct KeyFault {
    message: String,
}

impl RecordKey {
    /// Takes apart what follows `<prefix>/`.
    ///
    /// # Errors
    /// If it names no kind of record, or a name or routing key in it is not valid.
    pub fn parse(suffix: &[u8]) -> Result<Self, KeyFault> {
        if suffix == b"incarnation" {
            return Ok(Self::Incarnation);
        }
        let fault = |message: String| KeyFault { message };
        let name = |bytes: &[u8]| Name::try_from(bytes).map_err(|wrong| fault(wrong.to_string()));
        let (folder, rest) = split(suffix);
        let folder = String::from_utf8_lossy(folder);
        if !FOLDERS.contains(&&*folder) {
            let hint = did_you_mean(&folder, FOLDERS.into_iter().chain(["incarnation"]));
            let kinds = if hint.is_empty() {
                format!("; {} or incarnation would be right", FOLDERS.map(|f| format!("{f}/…")).join(", "))
            } else {
                hint
            };
            return Err(fault(format!("\"{}\" is no kind of record{kinds}", folder.escape_debug())));
        }
        let Some(rest) = rest else { return Err(fault(format!("\"{folder}\" must be followed by / and a name"))) };
        let two = || match split(rest) {
            (first, Some(second)) => Ok((first, second)),
            _ => Err(fault(format!("\"{folder}/{}\" must be followed by / and a key", escaped(rest)))),
        };
        match &*folder {
            "services" => Ok(Self::Service(name(rest)?)),
            "upstreams" => Ok(Self::Upstream(name(rest)?)),
            "policies" => Ok(Self::Policy(name(rest)?)),
            "certificates" => Ok(Self::Certificate(name(rest)?)),
            "endpoints" => {
                let (upstream, id) = two()?;
                Ok(Self::Endpoint { upstream: name(upstream)?, id: name(id)? })
            }
            _ => {
                let (service, key) = two()?;
                if !Self::is_routing_key(key) {
                    let len = key.len();
                    return Err(fault(format!("the routing key has {len} bytes; 1 to {MAX_ROUTING_KEY_BYTES} would be right")));
                }
                Ok(Self::Route { service: name(service)?, key: key.to_vec() })
            }
        }
    }

    /// Whether these bytes can be a route's own key.
    pub fn is_routing_key(bytes: &[u8]) -> bool {
        (1..=MAX_ROUTING_KEY_BYTES).contains(&bytes.len())
    }

    /// What stands after `<prefix>/`.
    pub fn suffix(&self) -> Vec<u8> {
        match self {
            Self::Service(name) => format!("services/{name}").into_bytes(),
            Self::Route { service, key } => [format!("routes/{service}/").as_bytes(), key].concat(),
            Self::Upstream(name) => format!("upstreams/{name}").into_bytes(),
            Self::Endpoint { upstream, id } => format!("endpoints/{upstream}/{id}").into_bytes(),
            Self::Policy(name) => format!("policies/{name}").into_bytes(),
            Self::Certificate(name) => format!("certificates/{name}").into_bytes(),
            Self::Incarnation => b"incarnation".to_vec(),
        }
    }
}

impl fmt::Display for RecordKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&escaped(&self.suffix()))
    }
}

/// Bytes as a person reads them: UTF-8 stays, the rest and control characters become `\xNN`.
pub fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() {
                text.extend(c.to_string().bytes().map(|b| format!("\\x{b:02x}")));
            } else {
                text.push(c);
            }
        }
        text.extend(chunk.invalid().iter().map(|b| format!("\\x{b:02x}")));
    }
    text
}

fn split(bytes: &[u8]) -> (&[u8], Option<&[u8]>) {
    match bytes.iter().position(|b| *b == b'/') {
        Some(at) => (&bytes[..at], Some(&bytes[at + 1..])),
        None => (bytes, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_are_taken_apart() {
        let key = RecordKey::parse(b"routes/orders/a/b").unwrap();
        assert_eq!(key, RecordKey::Route { service: "orders".try_into().unwrap(), key: b"a/b".to_vec() });
        assert_eq!(RecordKey::parse(b"incarnation"), Ok(RecordKey::Incarnation));
        for bad in ["", "services", "services/", "services/a b", "routes/orders", "routes/orders/", "endpoints/u/a/b", "rotes/a/b"] {
            assert!(RecordKey::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(RecordKey::parse(b"servces/x").unwrap_err().to_string().contains("did you mean \"services\"?"));
    }

    proptest! {
        #[test]
        fn what_parses_is_written_back_byte_for_byte(folder in 0usize..7, rest in proptest::collection::vec(any::<u8>(), 0..60)) {
            let folder = ["services/", "routes/a/", "upstreams/", "endpoints/u/", "policies/", "certificates/", ""][folder];
            let suffix = [folder.as_bytes(), &rest].concat();
            if let Ok(key) = RecordKey::parse(&suffix) {
                prop_assert_eq!(key.suffix(), suffix);
            }
        }
    }
}
