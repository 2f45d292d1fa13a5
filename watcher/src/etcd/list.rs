//! The list of all records at one revision, in bounded ranges, two at a time.
//!
//! At a pinned revision the ranges are one consistent picture, whoever answers them, so they are read serializably. A member that has
//! not come to the revision yet is asked linearizably, which makes it catch up first.

use etcd_client::{GetOptions, KvClient};
use tokio::task::JoinSet;

use super::wire::{Done, READ_LIMIT, end_of_prefix, stored};
use crate::{
    connect::{Wanted, say_later},
    machine::Input,
    ranges::{self, Plan, Range},
    record::Stored,
};

/// How many ranges are read at the same time.
const AT_ONCE: usize = 2;
/// An answer may be this large; a range with more in it is asked for in smaller parts.
const MAX_ANSWER_BYTES: usize = 64 << 20;
/// By how much a part is smaller than one that was too large.
const SMALLER: usize = 16;
/// gRPC's code for a message above the limit that its reader has set.
const OUT_OF_RANGE: i32 = 11;

/// A part of a range, as the store gave it.
struct Answer {
    range: Range,
    records: Vec<Stored>,
    /// How many there are in the range.
    total: usize,
    more: bool,
}

/// All records below a prefix at one revision. `fences` cut what is asked for into parts (`ranges`).
pub(super) async fn list(reads: Option<KvClient>, prefix: String, revision: u64, fences: Vec<Vec<u8>>) -> Done {
    let Some(kv) = reads else { return Done::Only(Input::Failed("there is no connection to list over".to_owned())) };
    let reader = Reader { kv: kv.max_decoding_message_size(MAX_ANSWER_BYTES), prefix: format!("{prefix}/").into_bytes(), revision };
    match reader.all(fences).await {
        Ok(records) => Done::Only(Input::Listed { revision, records }),
        Err(input) => Done::Only(input),
    }
}

#[derive(Clone)]
struct Reader {
    kv: KvClient,
    /// With the slash.
    prefix: Vec<u8>,
    revision: u64,
}

impl Reader {
    async fn all(&self, fences: Vec<Vec<u8>>) -> Result<Vec<Stored>, Input> {
        let mut plan = Plan::new();
        plan.cut(fences);
        let mut records = Vec::new();
        // Dropped with this future: reads of a list that is given up are given up.
        let mut under_way = JoinSet::new();
        loop {
            while under_way.len() < AT_ONCE
                && let Some(range) = plan.next()
            {
                let reader = self.clone();
                under_way.spawn(async move { reader.part(range).await });
            }
            let Some(answer) = under_way.join_next().await else { return Ok(records) };
            let answer = answer.unwrap_or_else(|_| Err(Input::Failed("reading the records failed".to_owned())))?;
            if answer.more {
                plan.more(answer.range, &answer.records, answer.total).map_err(|_| {
                    Input::Failed("the records could not be listed: the store's answer is not what was asked for".to_owned())
                })?;
            }
            records.extend(answer.records);
        }
    }

    /// The first records of a range, as many as one answer may hold.
    async fn part(mut self, range: Range) -> Result<Answer, Input> {
        let mut limit = ranges::LIMIT;
        let mut serializable = true;
        loop {
            let read =
                tokio::time::timeout(READ_LIMIT, self.kv.get(self.key(&range.from), Some(self.options(&range, limit, serializable))));
            let mut found = match read.await {
                Ok(Ok(found)) => found,
                Ok(Err(error)) => {
                    let status = if let etcd_client::Error::GRpcStatus(status) = &error { Some(status) } else { None };
                    match status.map(|status| (status.code() as i32, status.message())) {
                        Some((_, says)) if says.contains("compacted") => return Err(Input::Compacted),
                        Some((_, says)) if says.contains("future revision") && serializable => serializable = false,
                        Some((code, says)) if (code == OUT_OF_RANGE || says.contains("larger than max")) && limit > 1 => limit /= SMALLER,
                        _ => {
                            return Err(Input::Failed(format!(
                                "the records could not be listed: etcd {}",
                                say_later(&error, Wanted::Read)
                            )));
                        }
                    }
                    limit = limit.max(1);
                    continue;
                }
                Err(_) => return Err(Input::Failed(format!("listing the records took longer than {READ_LIMIT:?} a part"))),
            };
            let (more, total) = (found.more(), usize::try_from(found.count()).unwrap_or(0));
            let records = found.take_kvs().into_iter().map(|kv| stored(kv, self.prefix.len())).collect();
            return Ok(Answer { range, records, total, more });
        }
    }

    fn options(&self, range: &Range, limit: usize, serializable: bool) -> GetOptions {
        let end = range.end.as_ref().map_or_else(|| end_of_prefix(&self.prefix), |end| self.key(end));
        let options = GetOptions::new().with_range(end).with_limit(i64::try_from(limit).unwrap_or(i64::MAX));
        let options = options.with_revision(i64::try_from(self.revision).unwrap_or(i64::MAX));
        if serializable { options.with_serializable() } else { options }
    }

    fn key(&self, below_prefix: &[u8]) -> Vec<u8> {
        [&self.prefix, below_prefix].concat()
    }
}
