//! What is remembered of an exchange for log, metrics and `/requests`: the last state of things, and the chain of dispatches.
//!
//! A plain request has one dispatch, which is kept in place: remembering it allocates nothing.

use std::{fmt, sync::Arc};

use waypost_conf::{Address, Name};

use super::Failure;
use crate::{
    Moment, Upstream,
    table::{Service, Source},
    wire::StaleState,
};

/// How a stale answer ended; the label of `stale_outcome_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StaleOutcome {
    /// Sent on to the new owner.
    Followed,
    /// The client was redirected.
    Redirected,
    /// 503.
    Unhealed,
}

impl StaleOutcome {
    /// The metric's label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Followed => "followed",
            Self::Redirected => "redirected",
            Self::Unhealed => "unhealed",
        }
    }
}

/// What the log says of an exchange.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// The service.
    pub service: Option<Arc<Service>>,
    /// The routing key.
    pub key: Option<Arc<[u8]>>,
    /// The owner last dispatched to.
    pub upstream: Option<Arc<Upstream>>,
    /// The endpoint last dispatched to.
    pub endpoint: Option<Address>,
    /// The epoch last stamped.
    pub epoch: Option<u64>,
    /// The revision of the table last looked at.
    pub revision: u64,
    /// When the exchange began.
    pub started: Moment,
    /// Every dispatch, in order.
    pub dispatches: Dispatches,
    /// What was waited for between them, in order.
    pub waits: Vec<Waited>,
    /// Dispatches to another owner or at a newer epoch.
    pub hops: u32,
    /// Repeats at the same owner and epoch.
    pub retries: u32,
    /// Whether the budget refused a repeat.
    pub budget_exhausted: bool,
    /// The states that backends answered, and how the last of them ended.
    pub stale: Vec<StaleState>,
    /// How the last stale answer ended.
    pub outcome: Option<StaleOutcome>,
}

/// One dispatch: who was asked, by whose word, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dispatched {
    /// The owner.
    pub owner: Name,
    /// Its endpoint.
    pub endpoint: Address,
    /// The epoch stamped.
    pub epoch: u64,
    /// The revision stamped.
    pub revision: u64,
    /// Where the owner was known from.
    pub source: Source,
    /// When.
    pub at: Moment,
    /// When it ended, and how: the head of an answer, or a failure. `None` while, and if, there is neither.
    pub ended: Option<(Moment, Outcome)>,
}

impl fmt::Display for Dispatched {
    /// The dispatch in short: `cell-7 10.0.0.7:8080 43 stale moved to cell-9 at 44`.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {} {} ", self.owner, self.endpoint.as_str(), self.epoch)?;
        match &self.ended {
            Some((_, outcome)) => outcome.fmt(out),
            // The client went away, or the proxy answered before the owner did.
            None => out.write_str("unanswered"),
        }
    }
}

/// What a request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitsFor {
    /// A read of the store.
    Check,
    /// Its key, which nobody may serve now.
    Key,
    /// Its owner, which is behind.
    Owner,
}

impl WaitsFor {
    /// In a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Check => "check",
            Self::Key => "key",
            Self::Owner => "owner",
        }
    }
}

/// One wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waited {
    /// What for.
    pub what: WaitsFor,
    /// Since when.
    pub at: Moment,
    /// When it ended; `None` while, and if, it has not.
    pub ended: Option<Moment>,
}

impl Trace {
    /// Notes what is waited for from now on; the same as before is one wait.
    pub(super) fn waits_for(&mut self, what: Option<WaitsFor>, now: Moment) {
        let open = self.waits.last_mut().filter(|wait| wait.ended.is_none());
        if open.as_ref().map(|wait| wait.what) == what {
            return;
        }
        if let Some(open) = open {
            open.ended = Some(now);
        }
        self.waits.extend(what.map(|what| Waited { what, at: now, ended: None }));
    }
}

/// What came of a dispatch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An answer to pass on; its status.
    Answered(u16),
    /// The backend executed nothing.
    Stale {
        /// Why, in its own word.
        state: StaleState,
        /// The owner and epoch that it names for this key, believed or not.
        claim: Option<(Box<str>, u64)>,
    },
    /// No answer.
    Failed(Failure),
}

impl fmt::Display for Outcome {
    /// A few words that stay the same: `answered 200`, `stale moved to cell-9 at 44`, `connect_failed`.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered(status) => write!(out, "answered {status}"),
            Self::Stale { state, claim: None } => write!(out, "stale {}", state.as_str()),
            Self::Stale { state, claim: Some((owner, epoch)) } => write!(out, "stale {} to {owner} at {epoch}", state.as_str()),
            Self::Failed(failure) => out.write_str(failure.code().as_str()),
        }
    }
}

/// The dispatches of a request, the first of them kept in place.
#[derive(Clone, Debug, Default)]
pub struct Dispatches {
    first: Option<Dispatched>,
    more: Vec<Dispatched>,
}

impl Dispatches {
    /// In order.
    pub fn iter(&self) -> impl Iterator<Item = &Dispatched> {
        self.first.iter().chain(&self.more)
    }

    /// How many.
    pub fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.more.len()
    }

    /// Whether there is more to tell than where the request went last: it was sent again, or refused.
    pub fn are_a_chain(&self) -> bool {
        let is_stale = |dispatched: &Dispatched| matches!(dispatched.ended, Some((_, Outcome::Stale { .. })));
        !self.more.is_empty() || self.first.as_ref().is_some_and(is_stale)
    }

    /// Whether the request was never sent anywhere.
    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    pub(super) fn push(&mut self, dispatched: Dispatched) {
        match &mut self.first {
            None => self.first = Some(dispatched),
            Some(_) => self.more.push(dispatched),
        }
    }

    /// Notes what came of the last one.
    pub(super) fn end_last(&mut self, at: Moment, outcome: Outcome) {
        if let Some(last) = self.more.last_mut().or(self.first.as_mut()) {
            last.ended = Some((at, outcome));
        }
    }
}
