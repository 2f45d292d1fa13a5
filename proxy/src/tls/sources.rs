//! What records name: files, the environment, and PEM that stands in them.
//!
//! No error repeats anything of what was read: it may be a key.

use std::{collections::HashMap, path::Path, sync::Arc};

use waypost_conf::{CertSource, PrivateKeySource};
use waypost_watcher::files::{read_regular, why};
use xxhash_rust::xxh3::xxh3_128;

/// More is no certificate, nor all of a system's authorities, which take some 200 KB.
const MOST_BYTES: u64 = 16 << 20;

/// What was read, as it is.
pub(super) type Read = Arc<[u8]>;

/// Reads each file once, however many records name it.
#[derive(Default)]
pub(super) struct Sources(HashMap<String, Result<Read, String>>);

/// What a record's sources hold.
#[derive(Default)]
pub(super) struct Material {
    /// The authorities that the other side's certificate must be signed by, if they are named.
    pub(super) ca: Option<Read>,
    /// A chain, and its private key.
    pub(super) own: Option<(Read, Read)>,
}

impl Sources {
    /// What is there under the name of `what`.
    ///
    /// # Errors
    /// A sentence: which source, and why it can't be read.
    pub(super) fn certificates(&mut self, what: &str, source: &CertSource) -> Result<Read, String> {
        match source {
            CertSource::File(path) => self.file(what, path),
            CertSource::Inline(pem) => Ok(pem.as_bytes().into()),
        }
    }

    /// A private key.
    ///
    /// # Errors
    /// A sentence: which source, and why it can't be read.
    pub(super) fn private_key(&mut self, source: &PrivateKeySource) -> Result<Read, String> {
        match source {
            PrivateKeySource::File(path) => self.file("private key", path),
            PrivateKeySource::Env(name) => match std::env::var(name) {
                Ok(key) => Ok(key.into_bytes().into()),
                Err(_) => Err(format!("the private key is not in the environment: there is no {name}")),
            },
        }
    }

    fn file(&mut self, what: &str, path: &str) -> Result<Read, String> {
        let known = self.0.get(path).cloned();
        let read = known.unwrap_or_else(|| {
            let read = read_regular(Path::new(path), MOST_BYTES).map(Read::from).map_err(|error| why(&error));
            self.0.insert(path.to_owned(), read.clone());
            read
        });
        read.map_err(|why| format!("the {what} {path} can't be read: {why}"))
    }
}

impl Material {
    /// What tells it from other material.
    pub(super) fn digest(&self) -> [Option<u128>; 3] {
        let own = self.own.as_ref();
        [self.ca.as_ref(), own.map(|(chain, _)| chain), own.map(|(_, key)| key)].map(|part| part.map(|bytes| xxh3_128(bytes)))
    }
}
