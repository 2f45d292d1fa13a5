//! Records as they were at one revision: all of them, so that they can be compared with a table of that revision, or those below a start.

use super::Store;
use crate::{
    etcd::{Fault, Reader},
    record::Stored,
};

/// So often a list is begun whose revision is forgotten meanwhile.
const MOST_LISTS: u32 = 3;

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
        let (store_revision, cluster_id) = self.pin(b"incarnation").await.map_err(ListFault::Unreadable)?;
        let pinned = Pinned { revision: revision.unwrap_or(store_revision), store_revision, cluster_id };
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

    /// Every record whose key starts with `start`, in the order of the keys, as of now. Not page by page: etcd would walk all the rest for each.
    pub(super) async fn below(&self, start: &[u8], keys_only: bool) -> Result<Vec<Stored>, String> {
        let mut again = MOST_LISTS;
        loop {
            // Of what is asked for, since there may be no right to read anything else.
            let (revision, _) = self.pin(start).await?;
            let reader = Reader::new(self.kv.clone(), &self.place.prefix, revision);
            let reader = if keys_only { reader.keys_only() } else { reader };
            let mut records = Vec::new();
            // Boxed: what reading holds on the way would make every command's future large.
            match Box::pin(reader.below(start, |stored| records.push(stored))).await {
                Ok(()) => return Ok(records),
                Err(Fault::Compacted) if again > 1 => again -= 1,
                Err(Fault::Compacted) => return Err(format!("etcd at {}: {}", self.endpoint, ListFault::Compacted)),
                Err(Fault::Unreadable(why)) => return Err(format!("etcd at {}{why}", self.endpoint)),
            }
        }
    }

    /// The store's revision and the cluster's id. Linearizably: no member that lags has the word about how far the store has come.
    async fn pin(&self, key: &[u8]) -> Result<(u64, u64), String> {
        let now = self.read(self.kv.get(self.full(key), None)).await?;
        let header = now.header().ok_or_else(|| format!("etcd at {} answered without a header", self.endpoint))?;
        Ok((u64::try_from(header.revision()).unwrap_or(0), header.cluster_id()))
    }
}
