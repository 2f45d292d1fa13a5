//! Reading the store for a digest check: its revision, and then all its records, of which nothing but the digest is kept.
//!
//! On a task of its own, so that changes do not wait for it; given up with its connection.

use tokio::task::JoinSet;

use super::{list::Reader, wire::READ_LIMIT};
use crate::connect::Reads;

/// What a read ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// The store's revision.
    Revision(u64),
    /// The digest of all records at the revision that was asked for.
    Digest(u128),
    /// It could not be read.
    Nothing,
}

/// The read under way, if there is one.
#[derive(Debug, Default)]
pub(super) struct Reading(JoinSet<Read>);

impl Reading {
    /// Reads the store's revision, linearizably.
    pub(super) fn revision(&mut self, reads: Option<Reads>, prefix: &str) {
        let key = format!("{prefix}/incarnation");
        self.begin(reads, async move |kv| {
            let read = tokio::time::timeout(READ_LIMIT, kv.get(key, None)).await.ok()?.ok()?;
            u64::try_from(read.header()?.revision()).ok().map(Read::Revision)
        });
    }

    /// Reads all records at a revision.
    pub(super) fn digest(&mut self, reads: Option<Reads>, prefix: String, revision: u64, fences: Vec<Vec<u8>>) {
        self.begin(reads, async move |kv| Reader::new(kv, &prefix, revision).digest(fences).await.ok().map(Read::Digest));
    }

    fn begin<F: Future<Output = Option<Read>> + Send + 'static>(&mut self, reads: Option<Reads>, read: impl FnOnce(Reads) -> F) {
        self.0.abort_all();
        let read = reads.map(read);
        self.0.spawn(async move {
            match read {
                Some(read) => read.await.unwrap_or(Read::Nothing),
                None => Read::Nothing,
            }
        });
    }

    /// The end of the read; never ends while there is none.
    pub(super) async fn next(&mut self) -> Read {
        loop {
            match self.0.join_next().await {
                None => std::future::pending().await,
                Some(Ok(read)) => return read,
                // Given up.
                Some(Err(_)) => {}
            }
        }
    }

    /// Gives it up.
    pub(super) fn give_up(&mut self) {
        self.0.abort_all();
    }
}
