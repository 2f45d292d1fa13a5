//! All records as they were at one revision, page by page, so that they can be compared with a table of that revision.

use etcd_client::{Error, GetOptions};

use super::{LIMIT, Store};
use crate::{
    connect::Wanted,
    etcd::{end_of_prefix, stored},
    record::Stored,
};

/// Records in the first page, and the most in any.
const FIRST_PAGE: usize = 1000;
const LARGEST_PAGE: usize = 40_000;
/// A page of more bytes than this is followed by smaller ones. Each page costs the server a walk to the end of the range, so larger ones
/// are cheaper for it.
const PAGE_BYTES: usize = 8 << 20;

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
    pub async fn list_at(&self, revision: Option<u64>, mut each: impl FnMut(Stored)) -> Result<Pinned, ListFault> {
        let end = end_of_prefix(self.prefix.as_bytes());
        let mut from = self.prefix.clone().into_bytes();
        let mut pinned = revision.map(|revision| i64::try_from(revision).unwrap_or(i64::MAX));
        let mut limit = FIRST_PAGE;
        loop {
            let options = GetOptions::new().with_range(end.clone()).with_limit(i64::try_from(limit).unwrap_or(i64::MAX));
            let options = options.with_revision(pinned.unwrap_or(0));
            let page = tokio::time::timeout(LIMIT, self.kv.get(from, Some(options))).await;
            let unreadable = |why: &str| ListFault::Unreadable(format!("etcd at {} {why}", self.endpoint));
            let mut page = match page {
                Ok(page) => page.map_err(|error| of(&error).unwrap_or_else(|| unreadable(&self.place.say_later(&error, Wanted::Read))))?,
                Err(_) => return Err(unreadable(&format!("did not answer within {LIMIT:?}"))),
            };
            let header = page.header().ok_or_else(|| unreadable("answered without a header"))?;
            let (store_revision, cluster_id) = (header.revision(), header.cluster_id());
            let at = *pinned.get_or_insert(store_revision);
            let more = page.more();
            let kvs = page.take_kvs();
            let bytes: usize = kvs.iter().map(|kv| kv.key().len() + kv.value().len()).sum();
            limit = if bytes < PAGE_BYTES / 2 { (limit * 2).min(LARGEST_PAGE) } else { (limit / 2).max(1) };
            from = kvs.last().map_or_else(Vec::new, |last| [last.key(), b"\0"].concat());
            kvs.into_iter().for_each(|kv| each(stored(kv, self.prefix.len())));
            if !more || from.is_empty() {
                let number = |value| u64::try_from(value).unwrap_or(0);
                return Ok(Pinned { revision: number(at), store_revision: number(store_revision), cluster_id });
            }
        }
    }
}

fn of(error: &Error) -> Option<ListFault> {
    let Error::GRpcStatus(status) = error else { return None };
    match status.message() {
        message if message.contains("required revision has been compacted") => Some(ListFault::Compacted),
        message if message.contains("required revision is a future revision") => Some(ListFault::Ahead),
        _ => None,
    }
}
