//! Records as the store has them, before anybody has decoded them, and their digest.
//!
//! The digest of a table is a multiset hash: the wrapping sum of each record's 128-bit hash over key, mod_revision and value. It
//! does not depend on the order in which records came, and one change costs one subtraction and one addition.

use waypost_policy::table::Meta;
use xxhash_rust::xxh3::Xxh3;

/// A record as the store has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The key below the prefix.
    pub key: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
    /// The revision at which the key was made.
    pub create_revision: u64,
    /// The revision of this value.
    pub mod_revision: u64,
    /// Whether the key hangs on a lease.
    pub leased: bool,
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The key has this value now.
    Put(Stored),
    /// The key is gone.
    Delete {
        /// The key below the prefix.
        key: Vec<u8>,
        /// The revision at which it went.
        mod_revision: u64,
    },
}

impl Stored {
    /// What the table keeps of the record beside its value.
    pub fn meta(&self) -> Meta {
        let Self { create_revision, mod_revision, leased, .. } = *self;
        Meta { create_revision, mod_revision, digest: digest(&self.key, mod_revision, &self.value), leased }
    }
}

impl Event {
    /// The key below the prefix.
    pub fn key(&self) -> &[u8] {
        match self {
            Self::Put(stored) => &stored.key,
            Self::Delete { key, .. } => key,
        }
    }

    /// The revision of the change.
    pub fn mod_revision(&self) -> u64 {
        match self {
            Self::Put(stored) => stored.mod_revision,
            Self::Delete { mod_revision, .. } => *mod_revision,
        }
    }
}

/// One record's share of the digest. Lengths are hashed too, so that no two records can be cut differently into the same bytes.
pub fn digest(key: &[u8], mod_revision: u64, value: &[u8]) -> u128 {
    let mut hash = Xxh3::new();
    hash.update(&(key.len() as u64).to_le_bytes());
    hash.update(key);
    hash.update(&mod_revision.to_le_bytes());
    hash.update(&(value.len() as u64).to_le_bytes());
    hash.update(value);
    hash.digest128()
}
