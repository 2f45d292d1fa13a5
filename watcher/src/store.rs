//! The store as commands use it: read a record, list records, change some by compare and swap.
//!
//! Keys are given and returned below the prefix. A change names the `mod_revision` that was read; if the store has moved on, nothing
//! is written.

mod pinned;

use std::time::Duration;

use etcd_client::{Client, Compare, CompareOp, GetOptions, GetResponse, Txn, TxnOp, TxnOpResponse};
use tokio::task::JoinSet;

pub use pinned::{ListFault, Pinned};

use crate::{
    connect::{EtcdPlace, MAX_MESSAGE_BYTES, OUT_OF_REACH, Reads, Wanted, connect, may_have_been_done},
    etcd::stored,
    record::Stored,
    transactions::MAX_TXN_OPERATIONS,
};

/// How many reads of many records are under way at the same time.
const PARALLEL_READS: usize = 8;
const LIMIT: Duration = Duration::from_secs(10);

/// A connection to the store.
#[derive(Clone)]
pub struct Store {
    kv: Reads,
    place: EtcdPlace,
    /// With the slash.
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
    /// Nothing was written: these keys are not as they were read.
    Moved(Vec<Vec<u8>>),
}

/// Why a transaction did not end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SwapFault {
    /// A sentence.
    pub message: String,
    /// Whether it may have been written all the same: the store did not answer.
    pub may_be_written: bool,
}

/// Records that were read together.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// One for each key, in the order of the keys.
    pub records: Vec<Option<Stored>>,
    /// The store's revision, of the last read to be answered.
    pub revision: u64,
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
            // Boxed: what connecting holds on the way would make every command's future large.
            let asked = match Box::pin(connect(place, endpoint)).await {
                Ok(client) => Box::pin(Self::of(client, place, endpoint).ask()).await,
                Err(fault) => Err(fault),
            };
            match asked {
                Ok(store) => return Ok(store),
                Err(fault) => faults.push(fault),
            }
        }
        let elsewhere =
            if faults.iter().all(|fault| fault.contains(OUT_OF_REACH)) { "; --gold http://host:2379 names another" } else { "" };
        Err(format!("{}{elsewhere}", faults.join("; ")))
    }

    fn of(client: Client, place: &EtcdPlace, endpoint: &str) -> Self {
        let kv = Reads::over(client, &place.credentials).max_decoding_message_size(MAX_MESSAGE_BYTES);
        Self { kv, place: place.clone(), prefix: format!("{}/", place.prefix), endpoint: endpoint.to_owned() }
    }

    /// Proves that the member answers: connecting alone is lazy.
    async fn ask(self) -> Result<Self, String> {
        let endpoint = &self.endpoint;
        match tokio::time::timeout(LIMIT, self.kv.get(self.full(b"incarnation"), None)).await {
            Ok(Ok(_)) => Ok(self),
            Ok(Err(error)) => Err(format!("etcd at {endpoint} {}", self.place.say(&error, endpoint))),
            Err(_) => Err(format!("etcd at {endpoint} {OUT_OF_REACH}: no answer within {LIMIT:?}")),
        }
    }

    /// One record, linearizably.
    ///
    /// # Errors
    /// A sentence, if the store can't be read.
    pub async fn get(&self, key: &[u8]) -> Result<Option<Stored>, String> {
        let found = self.read(self.kv.get(self.full(key), None)).await?;
        Ok(self.first(found))
    }

    /// Many records, a transaction of reads for each 128 of them, some at the same time. Each is read linearizably, but not all at one
    /// revision: who writes them compares.
    ///
    /// # Errors
    /// A sentence, if the store can't be read.
    pub async fn get_many(&self, keys: &[Vec<u8>]) -> Result<Found, String> {
        let mut found = Found { records: vec![None; keys.len()], revision: 0 };
        let mut batches = keys.chunks(MAX_TXN_OPERATIONS).enumerate();
        let mut under_way = JoinSet::new();
        loop {
            while under_way.len() < PARALLEL_READS
                && let Some((number, batch)) = batches.next()
            {
                let (store, batch) = (self.clone(), batch.to_vec());
                under_way.spawn(async move { store.get_batch(&batch).await.map(|read| (number, read)) });
            }
            let Some(read) = under_way.join_next().await else { return Ok(found) };
            let (number, read) = read.map_err(|_| "reading the records failed".to_owned())??;
            found.revision = found.revision.max(read.revision);
            let from = number * MAX_TXN_OPERATIONS;
            for (place, record) in found.records.iter_mut().skip(from).zip(read.records) {
                *place = record;
            }
        }
    }

    async fn get_batch(&self, keys: &[Vec<u8>]) -> Result<Found, String> {
        let reads: Vec<TxnOp> = keys.iter().map(|key| TxnOp::get(self.full(key), None)).collect();
        let read = self.read(self.kv.txn(Txn::new().and_then(reads))).await?;
        let revision = read.header().map_or(0, |header| u64::try_from(header.revision()).unwrap_or(0));
        let answers = read.op_responses().into_iter();
        let records = answers.map(|answer| if let TxnOpResponse::Get(found) = answer { self.first(found) } else { None }).collect();
        Ok(Found { records, revision })
    }

    fn first(&self, mut found: GetResponse) -> Option<Stored> {
        found.take_kvs().into_iter().next().map(|kv| stored(kv, self.prefix.len()))
    }

    /// The keys of all records whose key starts with `start`.
    ///
    /// # Errors
    /// A sentence, if the store can't be read.
    pub async fn keys(&self, start: &[u8]) -> Result<Vec<Vec<u8>>, String> {
        let records = self.below(start, true).await?;
        Ok(records.into_iter().map(|stored| stored.key).collect())
    }

    /// All records whose key starts with `start`, in order, at one revision.
    ///
    /// # Errors
    /// A sentence, if the store can't be read.
    pub async fn list(&self, start: &[u8]) -> Result<Vec<Stored>, String> {
        self.below(start, false).await
    }

    /// Makes all changes in one transaction if every key, and every one of `also` (a key and its `mod_revision`), is as it was read.
    ///
    /// # Errors
    /// If the store can't be written, or did not say whether it has.
    pub async fn swap(&self, changes: &[Change], also: &[(Vec<u8>, u64)]) -> Result<Swapped, SwapFault> {
        let expected = changes.iter().map(|change| (&change.key, change.read_at)).chain(also.iter().map(|(key, at)| (key, *at)));
        let expected: Vec<(&Vec<u8>, u64)> = expected.collect();
        let compares: Vec<Compare> = expected
            .iter()
            .map(|(key, read_at)| Compare::mod_revision(self.full(key), CompareOp::Equal, i64::try_from(*read_at).unwrap_or(i64::MAX)))
            .collect();
        let operations: Vec<TxnOp> = changes
            .iter()
            .map(|change| match &change.value {
                Some(value) => TxnOp::put(self.full(&change.key), value.clone(), None),
                None => TxnOp::delete(self.full(&change.key), None),
            })
            .collect();
        let looks = expected.iter().map(|(key, _)| TxnOp::get(self.full(key), Some(GetOptions::new().with_keys_only())));
        let txn = Txn::new().when(compares).and_then(operations).or_else(looks.collect::<Vec<_>>());
        let done = self.limited(self.kv.txn(txn), Wanted::Write).await?;
        let answers = done.op_responses();
        let wrote = answers.iter().any(|answer| matches!(answer, TxnOpResponse::Put(_) | TxnOpResponse::Delete(_)));
        if done.succeeded() && (wrote || changes.is_empty()) {
            return Ok(Swapped::Done(done.header().map_or(0, |header| u64::try_from(header.revision()).unwrap_or(0))));
        }
        let is_at = |answer| if let TxnOpResponse::Get(found) = answer { self.first(found).map_or(0, |now| now.mod_revision) } else { 0 };
        let moved = expected.iter().zip(answers).filter(|(_, answer)| matches!(answer, TxnOpResponse::Get(_)));
        let moved = moved.filter_map(|((key, read_at), answer)| (is_at(answer) != *read_at).then(|| (*key).clone()));
        Ok(Swapped::Moved(moved.collect()))
    }

    /// What a change of these keys adds to a request: the prefix before each.
    pub fn prefix_bytes(&self) -> usize {
        self.prefix.len()
    }

    fn full(&self, key: &[u8]) -> Vec<u8> {
        [self.prefix.as_bytes(), key].concat()
    }

    async fn read<T>(&self, work: impl Future<Output = Result<T, etcd_client::Error>>) -> Result<T, String> {
        self.limited(work, Wanted::Read).await.map_err(|fault| fault.message)
    }

    async fn limited<T>(&self, work: impl Future<Output = Result<T, etcd_client::Error>>, wanted: Wanted) -> Result<T, SwapFault> {
        let (why, may_be_written) = match tokio::time::timeout(LIMIT, work).await {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(error)) => (format!(" {}", self.place.say_later(&error, wanted)), may_have_been_done(&error)),
            Err(_) => (format!(" did not answer within {LIMIT:?}"), true),
        };
        Err(SwapFault { message: format!("etcd at {}{why}", self.endpoint), may_be_written })
    }
}
