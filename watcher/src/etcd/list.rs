//! The list of all records at one revision: for a table as one stream (`stream`), and in bounded ranges where there can be none, two at a
//! time; for whoever compares in ranges alone, one at a time, so that what a stream has lost is found by other means than those that lost it.
//!
//! At a pinned revision the ranges are one consistent picture, whoever answers them, so they are read serializably. A member that has
//! not come to the revision yet is asked linearizably, which makes it catch up first.

mod stream;

use std::time::Instant;

use etcd_client::GetOptions;
use tokio::task::JoinSet;

use super::{
    refusal,
    wire::{Done, READ_LIMIT, end_of_prefix, stored},
};
use crate::{
    applier::Refused,
    connect::{Reads, Wanted, say_later},
    listed::{Listed, Part},
    machine::Input,
    ranges::{self, Astray, Plan, Range},
    record::Stored,
};

/// How many ranges are read at the same time, and how many parts of a stream are prepared.
const AT_ONCE: usize = 2;
/// An answer may be this large; a range with more in it is asked for in smaller parts.
const MAX_ANSWER_BYTES: usize = 64 << 20;
/// By how much a part is smaller than one that was too large.
const SMALLER: usize = 16;
/// gRPC's codes for a message above a limit, its reader's and its sender's, and for what a server does not know.
const OUT_OF_RANGE: i32 = 11;
const RESOURCE_EXHAUSTED: i32 = 8;
const UNIMPLEMENTED: i32 = 12;

/// A part of a range, as the store gave it.
struct Answer {
    range: Range,
    records: Vec<Stored>,
    /// How many there are in the range.
    total: usize,
    more: bool,
}

impl Answer {
    /// What is left of the range, if anything is, and the records as they are put.
    fn prepared(self) -> (Option<Result<Vec<Range>, Astray>>, Part) {
        let Self { range, records, total, more } = self;
        (more.then(|| ranges::rest(range, &records, total)), Part::of(records))
    }
}

/// What a list is made by.
pub(super) struct Asked {
    /// Without a slash.
    pub(super) prefix: String,
    pub(super) revision: u64,
    /// What cuts the keys into parts (`ranges`), where the list is not one stream.
    pub(super) fences: Vec<Vec<u8>>,
    pub(super) may_stream: bool,
    /// Of more records than this there is no list.
    pub(super) most_records: usize,
}

/// All records below a prefix at one revision.
pub(super) async fn list(reads: Option<Reads>, asked: Asked) -> Done {
    let Asked { prefix, revision, fences, may_stream, most_records } = asked;
    let Some(kv) = reads else { return Done::Only(Input::Failed("there is no connection to list over".to_owned())) };
    let reader = Reader { most_records, ..Reader::new(kv, &prefix, revision) };
    let streamed = if may_stream { reader.streamed().await } else { Ok(Outcome::NotStreamed) };
    let outcome = match streamed {
        Ok(Outcome::NotStreamed) => reader.all(fences).await,
        Err(Fault::Unreadable(why)) => return Done::Broken(not_listed(&why)),
        streamed => streamed,
    };
    Done::Only(match outcome {
        Ok(Outcome::Listed(records)) => Input::Listed { revision, records },
        Ok(Outcome::TooMany | Outcome::NotStreamed) => refusal(&Refused::Full(most_records)),
        Err(Fault::Compacted) => Input::Compacted,
        Err(Fault::Unreadable(why)) => Input::Failed(not_listed(&why)),
    })
}

/// What came of a list.
enum Outcome {
    Listed(Listed),
    /// There are more records than may be held; the others were not read.
    TooMany,
    /// There is no stream to be had here.
    NotStreamed,
}

fn not_listed(why: &str) -> String {
    format!("the records could not be listed: etcd{why}")
}

/// Why records can't be listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The revision has been forgotten.
    Compacted,
    /// What follows the name of the store in a sentence.
    Unreadable(String),
}

/// Reads ranges at one revision.
#[derive(Clone)]
pub(crate) struct Reader {
    kv: Reads,
    /// With the slash.
    prefix: Vec<u8>,
    revision: u64,
    most_records: usize,
    keys_only: bool,
}

impl Reader {
    pub(crate) fn new(kv: Reads, prefix: &str, revision: u64) -> Self {
        let kv = kv.max_decoding_message_size(MAX_ANSWER_BYTES);
        Self { kv, prefix: format!("{prefix}/").into_bytes(), revision, most_records: usize::MAX, keys_only: false }
    }

    /// The same without values.
    pub(crate) fn keys_only(self) -> Self {
        Self { keys_only: true, ..self }
    }

    /// The digest of all records. With a pause as long as each read took: nobody waits for it, and others use the store.
    pub(super) async fn digest(&self, fences: Vec<Vec<u8>>) -> Result<u128, Fault> {
        let mut digest: u128 = 0;
        self.in_order(fences, true, |stored| digest = digest.wrapping_add(stored.meta().digest)).await?;
        Ok(digest)
    }

    /// Gives every record to `each`, in the order of the keys, one range at a time. `is_patient`: pauses for as long as each read took.
    pub(crate) async fn in_order(&self, fences: Vec<Vec<u8>>, is_patient: bool, each: impl FnMut(Stored)) -> Result<(), Fault> {
        let mut plan = Plan::new();
        plan.cut(fences);
        self.planned(plan, is_patient, each).await
    }

    /// The same of the records whose key starts with `start`.
    pub(crate) async fn below(&self, start: &[u8], each: impl FnMut(Stored)) -> Result<(), Fault> {
        self.planned(Plan::below(start), false, each).await
    }

    async fn planned(&self, mut plan: Plan, is_patient: bool, mut each: impl FnMut(Stored)) -> Result<(), Fault> {
        while let Some(range) = plan.next() {
            let began = Instant::now();
            let answer = self.clone().part(range).await?;
            let took = began.elapsed();
            if answer.more {
                plan.more(answer.range, &answer.records, answer.total).map_err(|_| astray())?;
            }
            answer.records.into_iter().for_each(&mut each);
            if is_patient {
                tokio::time::sleep(took).await;
            }
        }
        Ok(())
    }

    async fn all(&self, fences: Vec<Vec<u8>>) -> Result<Outcome, Fault> {
        let mut plan = Plan::new();
        plan.cut(fences);
        let (mut listed, mut records) = (Listed::default(), 0);
        // Dropped with this future: reads of a list that is given up are given up.
        let mut under_way = JoinSet::new();
        loop {
            while under_way.len() < AT_ONCE
                && let Some(range) = plan.next()
            {
                let reader = self.clone();
                // What takes time is done here, beside the task that puts tables in force.
                under_way.spawn(async move { reader.part(range).await.map(Answer::prepared) });
            }
            let Some(answer) = under_way.join_next().await else { return Ok(Outcome::Listed(listed)) };
            let (rest, part) = answer.unwrap_or_else(|_| Err(lost()))?;
            if let Some(rest) = rest {
                plan.rest(rest.map_err(|_| astray())?);
            }
            records += part.len();
            if records > self.most_records {
                return Ok(Outcome::TooMany);
            }
            listed.add(part);
        }
    }

    /// The first records of a range, as many as one answer may hold.
    async fn part(self, range: Range) -> Result<Answer, Fault> {
        let mut limit = ranges::LIMIT;
        let mut serializable = true;
        loop {
            let read =
                tokio::time::timeout(READ_LIMIT, self.kv.get(self.key(&range.from), Some(self.limited(&range, limit, serializable))));
            let mut found = match read.await {
                Ok(Ok(found)) => found,
                Ok(Err(error)) => match Refusal::of(&error) {
                    Refusal::Compacted => return Err(Fault::Compacted),
                    Refusal::Behind if serializable => {
                        serializable = false;
                        continue;
                    }
                    Refusal::TooLarge if limit > 1 => {
                        limit = (limit / SMALLER).max(1);
                        continue;
                    }
                    _ => return Err(Fault::Unreadable(format!(" {}", say_later(&error, Wanted::Read)))),
                },
                Err(_) => return Err(silent()),
            };
            let (more, total) = (found.more(), usize::try_from(found.count()).unwrap_or(0));
            let records = found.take_kvs().into_iter().map(|kv| stored(kv, self.prefix.len())).collect();
            return Ok(Answer { range, records, total, more });
        }
    }

    fn limited(&self, range: &Range, limit: usize, serializable: bool) -> GetOptions {
        self.options(range, serializable).with_limit(i64::try_from(limit).unwrap_or(i64::MAX))
    }

    fn options(&self, range: &Range, serializable: bool) -> GetOptions {
        let end = range.end.as_ref().map_or_else(|| end_of_prefix(&self.prefix), |end| self.key(end));
        let options = GetOptions::new().with_range(end).with_revision(i64::try_from(self.revision).unwrap_or(i64::MAX));
        let options = if self.keys_only { options.with_keys_only() } else { options };
        if serializable { options.with_serializable() } else { options }
    }

    fn key(&self, below_prefix: &[u8]) -> Vec<u8> {
        [&self.prefix, below_prefix].concat()
    }
}

fn silent() -> Fault {
    Fault::Unreadable(format!(" did not answer within {READ_LIMIT:?}"))
}

fn lost() -> Fault {
    Fault::Unreadable(" could not be read".to_owned())
}

fn astray() -> Fault {
    Fault::Unreadable("'s answer is not what was asked for".to_owned())
}

/// Whether there was more to be said than one answer may hold.
pub(super) fn is_too_large(error: &etcd_client::Error) -> bool {
    Refusal::of(error) == Refusal::TooLarge
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    /// The revision has been forgotten.
    Compacted,
    /// This member has not come to the revision yet.
    Behind,
    /// The answer is larger than one may be.
    TooLarge,
    /// It is not known what was asked.
    Unknown,
    Other,
}

impl Refusal {
    fn of(error: &etcd_client::Error) -> Self {
        let etcd_client::Error::GRpcStatus(status) = error else { return Self::Other };
        Self::said(status.code() as i32, status.message())
    }

    fn said(code: i32, says: &str) -> Self {
        match code {
            _ if says.contains("required revision has been compacted") => Self::Compacted,
            _ if says.contains("required revision is a future revision") => Self::Behind,
            // Ours, when we would not read it, and etcd's own, when it would not send it.
            OUT_OF_RANGE => Self::TooLarge,
            UNIMPLEMENTED => Self::Unknown,
            RESOURCE_EXHAUSTED if says.contains("message larger than max") => Self::TooLarge,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_etcd_says_is_understood() {
        for (code, says, wanted) in [
            (11, "etcdserver: mvcc: required revision has been compacted", Refusal::Compacted),
            (11, "etcdserver: mvcc: required revision is a future revision", Refusal::Behind),
            (11, "Error, decoded message length too large: found 80000000 bytes, the limit is: 67108864 bytes", Refusal::TooLarge),
            (8, "grpc: trying to send message larger than max (2147483648 vs. 2147483647)", Refusal::TooLarge),
            (8, "etcdserver: too many requests", Refusal::Other),
            (12, "unknown method RangeStream for service etcdserverpb.KV", Refusal::Unknown),
            (12, "RangeStream is not supported by the gRPC proxy", Refusal::Unknown),
            (14, "etcdserver: leader changed", Refusal::Other),
        ] {
            assert_eq!(Refusal::said(code, says), wanted, "{says}");
        }
    }
}
