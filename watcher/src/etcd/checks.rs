//! Checks under way: one read of the store a key, shared by all who ask for it, and never more reads than the budget allows.
//!
//! For an exact key the read is of its record. What covers any other key is seen only in the whole table, so there the read is of the
//! store's revision, and the answer is the watch's having reached it (STALE-ROUTES.md, "A check"). Both end within
//! [`CHECK_TIMEOUT`]; one asker's going away fails no other.

use std::collections::HashMap;

use tokio::{sync::oneshot, task::JoinSet};
use waypost_conf::RecordKey;
use waypost_policy::{
    Moment,
    checks::{CHECK_TIMEOUT, CheckBudget},
    table::RequestKey,
};

use super::wire::stored;
use crate::{
    ask::{Check, Checked},
    connect::Reads,
    record::Stored,
};

/// What a read found.
pub(super) enum Found {
    /// One record (`None`: there is none), as of a revision.
    Record {
        /// The record's key.
        record: RecordKey,
        /// The store's revision.
        revision: u64,
        /// What is there.
        stored: Option<Stored>,
    },
    /// The store's revision.
    Revision(u64),
    /// Nothing, in time.
    Nothing,
}

/// A read that has ended.
pub(super) struct Read {
    pub(super) key: RequestKey,
    pub(super) found: Found,
    number: u64,
}

struct Asked {
    number: u64,
    askers: Vec<oneshot::Sender<Checked>>,
}

/// The checks under way.
pub(super) struct Checks {
    reads: JoinSet<Read>,
    asked: HashMap<RequestKey, Asked>,
    budget: CheckBudget,
    /// Keys whose answer is the watch's having reached a revision.
    awaited: Vec<(u64, RequestKey)>,
    numbers: u64,
}

impl Checks {
    pub(super) fn new(now: Moment) -> Self {
        Self { reads: JoinSet::new(), asked: HashMap::new(), budget: CheckBudget::new(now), awaited: Vec::new(), numbers: 0 }
    }

    /// Begins a check, or joins the one that is under way for the key. `prefix`: what all keys in the store start with.
    pub(super) fn ask(&mut self, check: Check, is_exact: bool, reads: Option<Reads>, prefix: &str, now: Moment) {
        let Check { service, key, answer } = check;
        if let Some(asked) = self.asked.get_mut(&key) {
            asked.askers.push(answer);
            return;
        }
        let Some(reads) = reads else {
            let _ = answer.send(Checked::Unavailable);
            return;
        };
        if !self.budget.draw(now) {
            let _ = answer.send(Checked::Capped);
            return;
        }
        self.numbers += 1;
        let number = self.numbers;
        self.asked.insert(key.clone(), Asked { number, askers: vec![answer] });
        let record = if is_exact { RecordKey::Route { service, key: key.key.to_vec() } } else { RecordKey::Incarnation };
        let full_key = [prefix.as_bytes(), b"/", &record.suffix()].concat();
        let prefix_len = prefix.len() + 1;
        self.reads.spawn(async move {
            let read = tokio::time::timeout(CHECK_TIMEOUT, reads.get(&*full_key, None)).await;
            if read.is_err() {
                reads.prove(full_key);
            }
            let found = read.ok().and_then(Result::ok).and_then(|mut read| {
                let revision = u64::try_from(read.header()?.revision()).ok()?;
                let stored = read.take_kvs().into_iter().next().map(|kv| stored(kv, prefix_len));
                Some(if is_exact { Found::Record { record, revision, stored } } else { Found::Revision(revision) })
            });
            Read { key, found: found.unwrap_or(Found::Nothing), number }
        });
    }

    /// The next read that ends and is still asked for; never ends while there is none.
    pub(super) async fn next(&mut self) -> Read {
        loop {
            match self.reads.join_next().await {
                None => std::future::pending().await,
                Some(Ok(read)) if self.asked.get(&read.key).is_some_and(|asked| asked.number == read.number) => return read,
                // Answered already. (A read that panicked has been reported by the runtime.)
                Some(_) => {}
            }
        }
    }

    /// Tells all who asked for a key.
    pub(super) fn answer(&mut self, key: &RequestKey, checked: Checked) {
        for asker in self.asked.remove(key).into_iter().flat_map(|asked| asked.askers) {
            let _ = asker.send(checked);
        }
        self.awaited.retain(|(_, awaited)| awaited != key);
    }

    /// The answer for a key is the watch's having reached a revision, if it does so in time.
    pub(super) fn wait_for(&mut self, revision: u64, key: RequestKey) {
        let Some(number) = self.asked.get(&key).map(|asked| asked.number) else { return };
        self.awaited.push((revision, key.clone()));
        self.reads.spawn(async move {
            tokio::time::sleep(CHECK_TIMEOUT).await;
            Read { key, found: Found::Nothing, number }
        });
    }

    /// The table in force has reached a revision.
    pub(super) fn reached(&mut self, revision: u64) {
        let reached: Vec<RequestKey> =
            self.awaited.iter().filter(|(awaited, _)| *awaited <= revision).map(|(_, key)| key.clone()).collect();
        for key in reached {
            self.answer(&key, Checked::Answered);
        }
    }
}
