//! The store as commands use it: read a record, list records, change some by compare and swap.
//!
//! Keys are given and returned below the prefix. A change names the `mod_revision` that was read; if the store has moved on, nothing
//! is written.

use std::time::Duration;

use etcd_client::{Client, Compare, CompareOp, GetOptions, KvClient, Txn, TxnOp, TxnOpResponse};

use crate::{
    connect::{EtcdPlace, MAX_MESSAGE_BYTES, connect, say},
    etcd::{end_of_prefix, stored},
    record::Stored,
};

/// etcd's own limit on the operations of a transaction, unless its operator raised it.
pub const MAX_TXN_OPERATIONS: usize = 128;
/// Records a page of a list.
const PAGE: i64 = 5000;
const LIMIT: Duration = Duration::from_secs(10);

/// A connection to the store.
#[derive(Clone)]
pub struct Store {
    kv: KvClient,
    prefix: String,
    endpoint: String,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key below the prefix.
    pub key: Vec<u8>,
    /// The new value; `None`: delete.
    pub value: Option<Vec<u8>>,
    /// The `mod_revision` that was read; 0: there was no such key.
    pub read_at: u64,
}

/// How a transaction ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Swapped {
    /// All of it was written, at this revision.
    Done(u64),
    /// Nothing was written: one of the keys is not as it was read.
    Moved,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Store").field("endpoint", &self.endpoint).field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl Store {
    /// Connects to the first member that answers.
    ///
    /// # Errors
    /// A sentence that says of each member why not.
    pub async fn connect(place: &EtcdPlace) -> Result<Self, String> {
        let mut faults = Vec::new();
        for endpoint in &place.endpoints {
            let asked = match connect(place, endpoint).await {
                Ok(client) => Self::of(&client, place, endpoint).ask().await,
                Err(fault) => Err(fault),
            };
            match asked {
                Ok(store) => return Ok(store),
                Err(fault) => faults.push(fault),
            }
        }
        Err(format!("{}; name the store with --gold http://host:2379", faults.join("; ")))
    }

    fn of(client: &Client, place: &EtcdPlace, endpoint: &str) -> Self {
        let kv = client.kv_client().max_decoding_message_size(MAX_MESSAGE_BYTES);
        Self { kv, prefix: format!("{}/", place.prefix), endpoint: endpoint.to_owned() }
    }

    /// Proves that the member answers: connecting alone is lazy.
    async fn ask(self) -> Result<Self, String> {
        self.get(b"incarnation").await.map(|_| self)
    }

    /// One record, linearizably.
    ///
    /// # Errors
    /// A sentence, if the store can't be read.
    pub async fn get(&self, key: &[u8]) -> Result<Option<Stored>, String> {
        let found = self.limited(self.kv.clone().get(self.full(key), None)).await?;
        let mut found = found;
        Ok(found.take_kvs().into_iter().next().map(|kv| stored(kv, self.prefix.len())))
    }

    /// All records whose key starts with `start`, in order, at one revision.
    ///
    /// # Errors
    /// A sentence, if the store can't be read.
    pub async fn list(&self, start: &[u8]) -> Result<Vec<Stored>, String> {
        let from = self.full(start);
        let end = end_of_prefix(&from);
        let mut next = from;
        let mut revision = 0;
        let mut records = Vec::new();
        loop {
            let options = GetOptions::new().with_range(end.clone()).with_limit(PAGE).with_revision(revision);
            let mut page = self.limited(self.kv.clone().get(next, Some(options))).await?;
            if revision == 0 {
                revision = page.header().map_or(0, |header| header.revision());
            }
            let more = page.more();
            let kvs = page.take_kvs();
            next = kvs.last().map_or_else(Vec::new, |last| [last.key(), b"\0"].concat());
            records.extend(kvs.into_iter().map(|kv| stored(kv, self.prefix.len())));
            if !more || next.is_empty() {
                return Ok(records);
            }
        }
    }

    /// Makes all changes in one transaction if every key, and every one of `also` (a key and its `mod_revision`), is as it was read.
    ///
    /// # Errors
    /// A sentence, if the store can't be written.
    pub async fn swap(&self, changes: &[Change], also: &[(Vec<u8>, u64)]) -> Result<Swapped, String> {
        let unchanged = changes.iter().map(|change| (&change.key, change.read_at)).chain(also.iter().map(|(key, at)| (key, *at)));
        let compares: Vec<Compare> = unchanged
            .map(|(key, read_at)| Compare::mod_revision(self.full(key), CompareOp::Equal, i64::try_from(read_at).unwrap_or(i64::MAX)))
            .collect();
        let operations: Vec<TxnOp> = changes
            .iter()
            .map(|change| match &change.value {
                Some(value) => TxnOp::put(self.full(&change.key), value.clone(), None),
                None => TxnOp::delete(self.full(&change.key), None),
            })
            .collect();
        let done = self.limited(self.kv.clone().txn(Txn::new().when(compares).and_then(operations))).await?;
        let revision = done.header().map_or(0, |header| u64::try_from(header.revision()).unwrap_or(0));
        let wrote = done.op_responses().iter().any(|answer| matches!(answer, TxnOpResponse::Put(_) | TxnOpResponse::Delete(_)));
        Ok(if done.succeeded() && (wrote || changes.is_empty()) { Swapped::Done(revision) } else { Swapped::Moved })
    }

    fn full(&self, key: &[u8]) -> Vec<u8> {
        [self.prefix.as_bytes(), key].concat()
    }

    async fn limited<T>(&self, work: impl Future<Output = Result<T, etcd_client::Error>>) -> Result<T, String> {
        match tokio::time::timeout(LIMIT, work).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err(format!("etcd at {}: {}", self.endpoint, say(&error))),
            Err(_) => Err(format!("etcd at {} did not answer within {LIMIT:?}", self.endpoint)),
        }
    }
}
