//! All records as they were at one revision, so that they can be compared with a table of that revision.

use super::{LIMIT, Store};
use crate::{
    connect::Wanted,
    etcd::{Fault, Reader},
    record::Stored,
};

/// What was listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pinned {
    /// The revision that the records are of.
    pub revision: u64,
    /// The store's own revision meanwhile.
    pub store_revision: u64,
    /// The cluster's id.
    pub cluster_id: u64,
}

/// Why a revision can't be listed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListFault {
    /// Its history is gone.
    #[error("the history before it has been compacted away")]
    Compacted,
    /// The store has not come to it.
    #[error("the store has not come to that revision")]
    Ahead,
    /// The store can't be read; a sentence.
    #[error("{0}")]
    Unreadable(String),
}

impl Store {
    /// Gives every record to `each`, in the order of the keys, as of a revision; `None`: as of now.
    ///
    /// # Errors
    /// If there is no such revision any more or yet, or the store can't be read.
    pub async fn list_at(&self, revision: Option<u64>, each: impl FnMut(Stored)) -> Result<Pinned, ListFault> {
        let unreadable = |why: &str| ListFault::Unreadable(format!("etcd at {}{why}", self.endpoint));
        // Linearizable: no member that lags has the word about how far the store has come.
        let now = match tokio::time::timeout(LIMIT, self.kv.get(self.full(b"incarnation"), None)).await {
            Ok(now) => now.map_err(|error| unreadable(&format!(" {}", self.place.say_later(&error, Wanted::Read))))?,
            Err(_) => return Err(unreadable(&format!(" did not answer within {LIMIT:?}"))),
        };
        let header = now.header().ok_or_else(|| unreadable(" answered without a header"))?;
        let store_revision = u64::try_from(header.revision()).unwrap_or(0);
        let pinned = Pinned { revision: revision.unwrap_or(store_revision), store_revision, cluster_id: header.cluster_id() };
        if pinned.revision > store_revision {
            return Err(ListFault::Ahead);
        }
        let reader = Reader::new(self.kv.clone(), &self.place.prefix, pinned.revision);
        reader.in_order(Vec::new(), false, each).await.map_err(|fault| match fault {
            Fault::Compacted => ListFault::Compacted,
            Fault::Unreadable(why) => unreadable(&why),
        })?;
        Ok(pinned)
    }
}
