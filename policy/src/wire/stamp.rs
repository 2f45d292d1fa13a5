//! `Route-Stamp`: what the proxy tells the backend about the decision that sent the request there.
//!
//! The stamp is the proxy's alone; a client's is removed before the request is looked at. Writing one never fails: a
//! value that a structured field cannot hold is left out, which a backend reads as "no order".

use std::{borrow::BorrowMut, sync::Arc};

use sfv::{BareItem, DictSerializer, Dictionary, KeyRef, ListEntry, Parser, key_ref};

use super::{key_bytes, key_item};

/// How long a stamp usually is.
const USUAL_BYTES: usize = 192;

/// One decision: this key, to its owner at this epoch, by this knowledge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// The service's name.
    pub service: Arc<str>,
    /// The routing key; `None` where the service has none.
    pub key: Option<Arc<[u8]>>,
    /// The generation of the key's ownership; 0 has no order (default owners, file sources).
    pub epoch: u64,
    /// The store's revision that the sender's knowledge reflects.
    pub revision: u64,
    /// The incarnation of the store, as `TableId` writes it.
    pub table: Arc<str>,
    /// How many owners or epochs were tried before this one.
    pub hop: u32,
    /// How long the backend may wait for its own watch to catch up, in milliseconds.
    pub wait_ms: u64,
    /// The target of an `ask` that this request follows.
    pub ask: Option<String>,
}

/// Why a stamp could not be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum StampFault {
    /// Not a structured-field dictionary.
    #[error("Route-Stamp is not a structured-field dictionary: {0}")]
    Syntax(String),
    /// A member is missing or of another type.
    #[error("Route-Stamp has no usable `{0}`")]
    Member(&'static str),
}

impl Stamp {
    /// The header's value.
    pub fn to_value(&self) -> String {
        // Enough for nearly all: grown bit by bit it would cost a fifth more.
        let mut value = String::with_capacity(USUAL_BYTES);
        self.write(&mut value);
        value
    }

    /// Writes the header's value behind what is there. What is usual is written as it is, which is what `sfv` makes of it at a fifteenth of the cost:
    /// every request has a stamp. A property holds the two together.
    pub fn write(&self, out: &mut String) {
        let start = out.len();
        if self.write_plain(out).is_none() {
            out.truncate(start);
            out.push_str(&self.by_library());
        }
    }

    /// `None`: it holds something that has to be looked at more closely.
    fn write_plain(&self, out: &mut String) -> Option<()> {
        let mut put = |name: &str, value: &str| {
            out.push_str(name);
            out.push_str(value);
        };
        put("service=\"", plain(self.service.as_bytes())?);
        if let Some(key) = &self.key {
            put("\", key=\"", plain(key)?);
        }
        let mut digits = itoa::Buffer::new();
        put("\", epoch=", digits.format(integral(self.epoch)?));
        put(", revision=", digits.format(integral(self.revision)?));
        put(", table=\"", plain(self.table.as_bytes())?);
        put("\", hop=", digits.format(self.hop));
        put(", wait-ms=", digits.format(integral(self.wait_ms)?));
        if let Some(ask) = &self.ask {
            put(", ask=\"", plain(ask.as_bytes())?);
            out.push('"');
        }
        Some(())
    }

    fn by_library(&self) -> String {
        let mut value = String::new();
        let mut out = DictSerializer::with_buffer(&mut value);
        text(&mut out, key_ref("service"), &self.service);
        if let Some(key) = &self.key {
            out.bare_item(key_ref("key"), &key_item(key));
        }
        number(&mut out, key_ref("epoch"), self.epoch);
        number(&mut out, key_ref("revision"), self.revision);
        text(&mut out, key_ref("table"), &self.table);
        number(&mut out, key_ref("hop"), u64::from(self.hop));
        number(&mut out, key_ref("wait-ms"), self.wait_ms);
        if let Some(ask) = &self.ask {
            text(&mut out, key_ref("ask"), ask);
        }
        // Empty only if nothing could be written.
        let _ = out.finish();
        value
    }

    /// Reads a stamp, as a backend does. Members that this version does not know are ignored.
    ///
    /// # Errors
    /// If the value is not a dictionary or lacks `service`, `epoch`, `revision` or `table`.
    pub fn parse(value: &[u8]) -> Result<Self, StampFault> {
        let fields: Dictionary = Parser::new(value).parse().map_err(|fault| StampFault::Syntax(fault.to_string()))?;
        Ok(Self {
            service: string(&fields, "service").ok_or(StampFault::Member("service"))?.into(),
            key: item(&fields, "key").and_then(key_bytes).map(Into::into),
            epoch: integer(&fields, "epoch").ok_or(StampFault::Member("epoch"))?,
            revision: integer(&fields, "revision").ok_or(StampFault::Member("revision"))?,
            table: string(&fields, "table").ok_or(StampFault::Member("table"))?.into(),
            hop: integer(&fields, "hop").and_then(|hop| u32::try_from(hop).ok()).unwrap_or(0),
            wait_ms: integer(&fields, "wait-ms").unwrap_or(0),
            ask: string(&fields, "ask"),
        })
    }
}

/// What a string holds as it is (RFC 9651, section 3.3.3).
fn plain(value: &[u8]) -> Option<&str> {
    let is_plain = value.iter().all(|b| matches!(b, b' '..=b'~') && !matches!(b, b'"' | b'\\'));
    std::str::from_utf8(value).ok().filter(|_| is_plain)
}

/// What an integer may be (RFC 9651, section 3.3.1).
fn integral(value: u64) -> Option<u64> {
    (value <= 999_999_999_999_999).then_some(value)
}

pub(super) fn text<W: BorrowMut<String>>(out: &mut DictSerializer<W>, name: &KeyRef, value: &str) {
    if let Ok(value) = sfv::StringRef::from_str(value) {
        out.bare_item(name, value);
    }
}

pub(super) fn number<W: BorrowMut<String>>(out: &mut DictSerializer<W>, name: &KeyRef, value: u64) {
    if let Ok(value) = sfv::Integer::try_from(value) {
        out.bare_item(name, value);
    }
}

pub(super) fn item<'a>(fields: &'a Dictionary, name: &str) -> Option<&'a BareItem> {
    match fields.get(name)? {
        ListEntry::Item(item) => Some(&item.bare_item),
        ListEntry::InnerList(_) => None,
    }
}

pub(super) fn string(fields: &Dictionary, name: &str) -> Option<String> {
    match item(fields, name)? {
        BareItem::String(value) => Some(value.as_str().to_owned()),
        _ => None,
    }
}

pub(super) fn integer(fields: &Dictionary, name: &str) -> Option<u64> {
    match item(fields, name)? {
        BareItem::Integer(value) => u64::try_from(i64::from(*value)).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_stamp_is_written_as_the_contract_shows_it() {
        let stamp = Stamp {
            service: "orders".into(),
            key: Some(b"tenant-42"[..].into()),
            epoch: 43,
            revision: 918_301,
            table: "cdf818194e3a8c32-0".into(),
            hop: 0,
            wait_ms: 50,
            ask: None,
        };
        let value = r#"service="orders", key="tenant-42", epoch=43, revision=918301, table="cdf818194e3a8c32-0", hop=0, wait-ms=50"#;
        assert_eq!(stamp.to_value(), value);
        let binary = Stamp { key: Some(b"t\xe2\x84\x96\x00"[..].into()), ..stamp };
        assert!(binary.to_value().contains("key=:dOKElgA=:"), "{}", binary.to_value());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(key in proptest::option::of(proptest::collection::vec(any::<u8>(), 1..40)),
                                        epoch in 0u64..=999_999_999_999_999, revision in 0u64..=999_999_999_999_999, hop in 0u32..9) {
            let key = key.map(Into::into);
            let stamp = Stamp { service: "s".into(), key, epoch, revision, table: "file-0".into(), hop, wait_ms: 50, ask: Some("cell-9".into()) };
            prop_assert_eq!(Stamp::parse(stamp.to_value().as_bytes()), Ok(stamp));
        }

        /// By one way or the other, a stamp is what the library makes of it.
        #[test]
        fn the_short_way_writes_what_the_library_writes(
            service in "[ -~]{0,6}|\\PC{0,4}",
            key in proptest::option::of(prop_oneof!["[ -~]{0,12}".prop_map(String::into_bytes), proptest::collection::vec(any::<u8>(), 0..9)]),
            numbers in proptest::collection::vec(prop_oneof![0u64..1000, 999_999_999_999_990u64..1_000_000_000_000_010, any::<u64>()], 3),
            table in "[ -~]{0,6}|\\PC{0,3}",
            hop: u32,
            ask in proptest::option::of("[ -~]{0,6}|\\PC{0,3}"),
        ) {
            let stamp = Stamp {
                service: service.into(), key: key.map(Into::into), epoch: numbers[0], revision: numbers[1], table: table.into(), hop,
                wait_ms: numbers[2], ask,
            };
            prop_assert_eq!(stamp.to_value(), stamp.by_library());
        }

        #[test]
        fn reading_never_panics(value in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Stamp::parse(&value);
        }
    }
}
