//! `Route-Stale`: what a backend says when it may not serve a key, beside `421 Misdirected Request`; and `Route-Update`, what it corrects
//! beside an answer of any other kind.
//!
//! Reading one decides nothing: whether it may be believed and followed is the exchange's question.

use sfv::{BareItem, DictSerializer, Dictionary, Parser, key_ref};

use super::{
    key_bytes, key_item,
    stamp::{integer, item, number, string, text},
};

/// What the backend says about the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StaleState {
    /// Somebody else owns it, or it is owned at a newer epoch.
    Moved,
    /// It is being handed over; nobody may serve it now.
    Handoff,
    /// The backend's own view is older than the stamp.
    Behind,
    /// This one item has already gone to the target of a move.
    Ask,
    /// A state that this version does not know.
    Unknown,
}

impl StaleState {
    /// The token on the wire, and the metric's label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Moved => "moved",
            Self::Handoff => "handoff",
            Self::Behind => "behind",
            Self::Ask => "ask",
            Self::Unknown => "unknown",
        }
    }

    fn from_token(token: &str) -> Self {
        match token {
            "moved" => Self::Moved,
            "handoff" => Self::Handoff,
            "behind" => Self::Behind,
            "ask" => Self::Ask,
            _ => Self::Unknown,
        }
    }
}

/// One answer of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stale {
    /// What it says.
    pub state: StaleState,
    /// The service, where it names one; must then be the request's.
    pub service: Option<String>,
    /// The routing key it speaks of.
    pub key: Option<Vec<u8>>,
    /// The owner it knows of: the name of an upstream, never an address.
    pub owner: Option<String>,
    /// The epoch of that ownership.
    pub epoch: Option<u64>,
    /// The store's revision that its knowledge reflects.
    pub revision: Option<u64>,
    /// The incarnation of the store it knows.
    pub table: Option<String>,
}

/// `Route-Update`: what an owner corrects in a proxy that it has served all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// The routing key it speaks of.
    pub key: Option<Vec<u8>>,
    /// The owner that it knows: the name of an upstream, most often its own.
    pub owner: Option<String>,
    /// The epoch of that ownership.
    pub epoch: Option<u64>,
    /// The store's revision that its knowledge reflects.
    pub revision: Option<u64>,
    /// The incarnation of the store it knows.
    pub table: Option<String>,
}

/// Why an answer could not be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum StaleFault {
    /// Not a structured-field dictionary.
    #[error("Route-Stale is not a structured-field dictionary: {0}")]
    Syntax(String),
    /// `state` is missing or no token.
    #[error("Route-Stale has no `state` token")]
    State,
}

impl Stale {
    /// What an owner says that knows nothing yet: it has no view of the gold copy.
    pub fn without_view(service: &str, key: &[u8]) -> Self {
        Self {
            state: StaleState::Behind,
            service: Some(service.to_owned()),
            key: Some(key.to_vec()),
            owner: None,
            epoch: None,
            revision: None,
            table: None,
        }
    }

    /// The header's value.
    pub fn to_value(&self) -> String {
        let mut out = DictSerializer::new();
        if let Ok(state) = sfv::TokenRef::from_str(self.state.as_str()) {
            out.bare_item(key_ref("state"), state);
        }
        if let Some(service) = &self.service {
            text(&mut out, key_ref("service"), service);
        }
        let Self { key, owner, epoch, revision, table, .. } = self;
        write_claim(out, key.as_deref(), owner.as_deref(), *epoch, *revision, table.as_deref())
    }

    /// Reads an answer. Members that this version does not know are ignored, as RFC 9651 asks.
    ///
    /// # Errors
    /// If the value is not a dictionary or has no `state` token.
    pub fn parse(value: &[u8]) -> Result<Self, StaleFault> {
        let fields: Dictionary = Parser::new(value).parse().map_err(|fault| StaleFault::Syntax(fault.to_string()))?;
        let Some(BareItem::Token(state)) = item(&fields, "state") else { return Err(StaleFault::State) };
        Ok(Self {
            state: StaleState::from_token(state.as_str()),
            service: string(&fields, "service"),
            key: item(&fields, "key").and_then(key_bytes),
            owner: string(&fields, "owner"),
            epoch: integer(&fields, "epoch"),
            revision: integer(&fields, "revision"),
            table: string(&fields, "table"),
        })
    }
}

impl Update {
    /// The header's value.
    pub fn to_value(&self) -> String {
        let out = DictSerializer::new();
        let Self { key, owner, epoch, revision, table } = self;
        write_claim(out, key.as_deref(), owner.as_deref(), *epoch, *revision, table.as_deref())
    }

    /// Reads a correction; `None` if the value is not a dictionary. Members that this version does not know are ignored.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let fields: Dictionary = Parser::new(value).parse().ok()?;
        Some(Self {
            key: item(&fields, "key").and_then(key_bytes),
            owner: string(&fields, "owner"),
            epoch: integer(&fields, "epoch"),
            revision: integer(&fields, "revision"),
            table: string(&fields, "table"),
        })
    }
}

/// What both headers end with: where the key is, and by whose knowledge.
fn write_claim(
    mut out: DictSerializer<String>,
    key: Option<&[u8]>,
    owner: Option<&str>,
    epoch: Option<u64>,
    revision: Option<u64>,
    table: Option<&str>,
) -> String {
    if let Some(key) = key {
        out.bare_item(key_ref("key"), &key_item(key));
    }
    if let Some(owner) = owner {
        text(&mut out, key_ref("owner"), owner);
    }
    if let Some(epoch) = epoch {
        number(&mut out, key_ref("epoch"), epoch);
    }
    if let Some(revision) = revision {
        number(&mut out, key_ref("revision"), revision);
    }
    if let Some(table) = table {
        text(&mut out, key_ref("table"), table);
    }
    out.finish().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_contract_s_example_is_read() {
        let value =
            br#"state=moved, service="orders", key="tenant-42", owner="cell-9", epoch=44, revision=918377, table="cdf818194e3a8c32-0""#;
        let stale = Stale::parse(value).unwrap();
        assert_eq!((stale.state, stale.owner.as_deref(), stale.epoch), (StaleState::Moved, Some("cell-9"), Some(44)));
        assert_eq!(stale.to_value().as_bytes(), value);
    }

    #[test]
    fn a_correction_is_read_as_it_is_written() {
        let value = br#"key="tenant-42", owner="cell-7", epoch=44, revision=918377, table="cdf818194e3a8c32-0""#;
        let update = Update::parse(value).unwrap();
        assert_eq!((update.owner.as_deref(), update.epoch), (Some("cell-7"), Some(44)));
        assert_eq!(update.to_value().as_bytes(), value);
        assert_eq!(Update::parse(b"="), None);
    }

    #[test]
    fn a_later_state_is_unknown_and_a_missing_one_is_a_fault() {
        assert_eq!(Stale::parse(b"state=evaporated").map(|stale| stale.state), Ok(StaleState::Unknown));
        assert_eq!(Stale::parse(b"owner=\"cell-9\""), Err(StaleFault::State));
        assert_eq!(Stale::parse(b"state=\"moved\""), Err(StaleFault::State));
        assert!(matches!(Stale::parse(b"state=moved, ="), Err(StaleFault::Syntax(_))));
    }

    proptest! {
        #[test]
        fn reading_never_panics(value in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Stale::parse(&value);
            let _ = Update::parse(&value);
        }
    }
}
