//! The reads of checks, as [`waypost_policy::checks`] allows them: one of the store a key, shared by all who ask for it.
//!
//! For an exact key the read is of its record. What covers any other key is seen only in the whole table, so there the read is of the
//! store's revision, and the answer is the watch's having reached it (STALE-ROUTES.md, "A check"). Both end within
//! [`CHECK_TIMEOUT`]; one asker's going away fails no other.

use tokio::{sync::oneshot, task::JoinSet};
use waypost_conf::RecordKey;
use waypost_policy::{
    Moment,
    checks::{self, Begin, CHECK_TIMEOUT},
    table::RequestKey,
};

use super::{anchored, wire::stored};
use crate::{
    anchor::LastChange,
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
    /// The store that was read held what was asked for as its proof.
    pub(super) is_proven: bool,
    number: u64,
}

/// The reads under way, and who waits for them.
pub(super) struct Checks {
    reads: JoinSet<Read>,
    asked: checks::Checks<oneshot::Sender<Checked>>,
}

impl Checks {
    pub(super) fn new(now: Moment) -> Self {
        Self { reads: JoinSet::new(), asked: checks::Checks::new(now) }
    }

    /// Begins a check, or joins the one that is under way for the key. `prefix`: what all keys in the store start with. `proof`: what the store
    /// must hold if it is to be believed, where that is not known yet.
    pub(super) fn ask(&mut self, check: Check, is_exact: bool, reads: Option<Reads>, proof: Option<LastChange>, prefix: &str, now: Moment) {
        let Check { service, key, answer } = check;
        let number = match self.asked.ask(&key, answer, reads.is_some(), now) {
            Begin::Read(number) => number,
            Begin::Joined => return,
            Begin::Capped(answer) => {
                let _ = answer.send(Checked::Capped);
                return;
            }
            Begin::Unavailable(answer) => {
                let _ = answer.send(Checked::Unavailable);
                return;
            }
        };
        let Some(reads) = reads else { return };
        let record = if is_exact { RecordKey::Route { service, key: key.key.to_vec() } } else { RecordKey::Incarnation };
        let full_key = [prefix.as_bytes(), b"/", &record.suffix()].concat();
        let (prefix, is_proven) = (prefix.to_owned(), proof.is_some());
        self.reads.spawn(async move {
            let read = tokio::time::timeout(CHECK_TIMEOUT, async {
                let read = reads.get(&*full_key, None).await;
                // Behind the read: what was there at the proof was there before.
                let is_believed = match &proof {
                    Some(change) if read.is_ok() => anchored::holds(&reads, &prefix, change).await,
                    _ => true,
                };
                read.ok().filter(|_| is_believed)
            });
            let read = read.await;
            if read.is_err() {
                reads.prove(full_key);
            }
            let found = read.ok().flatten().and_then(|mut read| {
                let revision = u64::try_from(read.header()?.revision()).ok()?;
                let stored = read.take_kvs().into_iter().next().map(|kv| stored(kv, prefix.len() + 1));
                Some(if is_exact { Found::Record { record, revision, stored } } else { Found::Revision(revision) })
            });
            Read { key, found: found.unwrap_or(Found::Nothing), is_proven, number }
        });
    }

    /// The next read that ends and is still asked for; never ends while there is none.
    pub(super) async fn next(&mut self) -> Read {
        loop {
            match self.reads.join_next().await {
                None => std::future::pending().await,
                Some(Ok(read)) if self.asked.began(&read.key, read.number).is_some() => return read,
                // Answered already. (A read that panicked has been reported by the runtime.)
                Some(_) => {}
            }
        }
    }

    /// What was read for a key is in force: tells all who asked for it.
    pub(super) fn answer(&mut self, key: &RequestKey) {
        self.tell(key, |began| Checked::Answered { began });
    }

    /// Nothing could be read for a key: tells all who asked for it.
    pub(super) fn fail(&mut self, key: &RequestKey) {
        self.tell(key, |_| Checked::Unavailable);
    }

    fn tell(&mut self, key: &RequestKey, checked: impl Fn(Moment) -> Checked) {
        let Some((began, askers)) = self.asked.end(key) else { return };
        for asker in askers {
            let _ = asker.send(checked(began));
        }
    }

    /// The answer for a key is the watch's having reached a revision, if it does so in time.
    pub(super) fn wait_for(&mut self, revision: u64, key: RequestKey) {
        let Some(number) = self.asked.wait_for(revision, &key) else { return };
        self.reads.spawn(async move {
            tokio::time::sleep(CHECK_TIMEOUT).await;
            Read { key, found: Found::Nothing, is_proven: false, number }
        });
    }

    /// The table in force has reached a revision.
    pub(super) fn reached(&mut self, revision: u64) {
        for key in self.asked.reached(revision) {
            self.answer(&key);
        }
    }
}
