//! Following an etcd cluster, as a state machine: connect, pin a revision, watch from the next, list at the pinned one, and what to do
//! when any of it breaks. Sans-IO: time and randomness are arguments, what is to be done comes back as effects.
//!
//! What always holds: only whole revisions are applied, in order; the cursor is what has been applied, so a broken watch is
//! resumed from it and never from what was merely heard; the store is said to have nothing newer only when what it was known to have has
//! been applied; the watch that follows a list was open before the list began, so that
//! nothing can be compacted away in between; a store whose history is not the one that was applied changes nothing until it says,
//! by another incarnation, that it is another.

mod open;
mod whole;

use std::time::Duration;

use waypost_policy::{Moment, TableId};

use crate::{anchor::Anchor, listed::Listed, record::Event};
use open::Open;
use whole::Buffer;

/// The first backoff's upper bound; each doubles the last.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// The longest backoff.
const BACKOFF_MOST: Duration = Duration::from_secs(30);
/// The longest backoff from a store whose history is another: somebody is about to raise its incarnation, and to ask for it costs little.
const BACKOFF_FROM_OTHER: Duration = Duration::from_secs(3);
/// A list that was refused until somebody has done something is repeated after at most so many times what it took.
const LISTS_ASIDE: u32 = 10;
/// The least bound of that pause.
const REFUSED_AT_LEAST: Duration = Duration::from_secs(1);
/// A whole fleet learns at the same moment why it should list. Where a table is in force, each waits before it does for at most so many
/// times what a list takes, but not longer than this; where that is next to nothing, not at all.
const LISTS_APART: u32 = 4;
const APART_AT_MOST: Duration = Duration::from_secs(5);
const APART_AT_LEAST: Duration = Duration::from_millis(50);
/// How long a watch must have stood for the backoff to start over.
const STABLE_AFTER: Duration = Duration::from_secs(10);
/// How often a quiet watch is asked for progress, at least.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);
/// The most often that a policy's `max_staleness_ms` can make it.
const PROGRESS_AT_MOST_EVERY: Duration = Duration::from_millis(100);
/// A store must be heard of this many times within what a policy allows: one answer that is late is not yet staleness.
const ASKS_WITHIN_LIMIT: u32 = 4;
/// With nothing heard for this long another endpoint is tried.
const SILENT_LIMIT: Duration = Duration::from_secs(15);
/// A watch that is behind, stood for at least this long and brought nothing may never get past what it is to bring. After so many of them
/// there is a list: it leaves that out.
const STUCK_AFTER: Duration = Duration::from_secs(3);
const STUCK_WATCHES: u32 = 3;
/// Changes that come while a list is under way may take this much memory; with more, the list is begun again at a newer revision.
const BUFFER_BYTES: usize = 128 << 20;

/// What a new connection learns, by linearizable reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The cluster's id.
    pub cluster_id: u64,
    /// The integer at `incarnation`; 0 if absent.
    pub incarnation: u64,
    /// The store's revision now.
    pub revision: u64,
    /// Whether the store's history holds what was applied last.
    pub anchor: Anchor,
    /// Behind which revision a watch would be resumed: not above the cursor ([`anchor::resume_behind`](crate::anchor::resume_behind)).
    pub resume_behind: u64,
    /// Whether a progress notice means that everything before it has been sent: not below 3.4.25 and 3.5.8.
    pub progress_is_barrier: bool,
}

/// What has been applied.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The revision; 0 if nothing has.
    pub revision: u64,
    /// The incarnation of the store it came from; `None` if nothing has been applied.
    pub id: Option<TableId>,
}

/// What has happened.
#[derive(Debug)]
pub enum Input {
    /// Begin.
    Start,
    /// A connection stands, and this is what it learnt.
    Connected(Hello),
    /// The list that was asked for, whole.
    Listed {
        /// The pinned revision.
        revision: u64,
        /// All records below the prefix.
        records: Listed,
    },
    /// The watch that was asked for stands; the header's revision.
    Opened {
        /// The store's revision when it opened.
        revision: u64,
    },
    /// Changes, in order of their revisions.
    Events {
        /// The changes.
        events: Vec<Event>,
        /// Whether they are a fragment, which the next goes on with, so that the last revision may not be whole.
        more: bool,
    },
    /// A sign of life without changes.
    Progress {
        /// Everything up to here has been sent, if the server's version can be trusted in this.
        revision: u64,
    },
    /// The history from the cursor on has been compacted away.
    Compacted,
    /// What was applied last raised the incarnation.
    NewIncarnation,
    /// Somebody waits for a list, though nothing is wrong with the watch.
    ListAnew,
    /// What is in force can't be what the store has, or may not be: it is listed again. The reason is a metric's label.
    Distrusted(&'static str),
    /// What the store said was not taken. It is listed again after a backoff.
    Refused {
        /// A sentence for a person.
        why: String,
        /// The list's reason, a metric's label.
        reason: &'static str,
        /// Whether another list changes nothing until somebody has done something.
        is_lasting: bool,
    },
    /// Something broke; a sentence for a person.
    Failed(String),
    /// Time has passed.
    Tick,
}

/// What is to be done, in order.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    /// Give the present connection up, if there is one, and connect to this endpoint.
    Connect {
        /// Its position among the endpoints.
        endpoint: usize,
    },
    /// Give the present connection up.
    Disconnect,
    /// List all records at this revision. The watch that stands goes on being heard meanwhile.
    List {
        /// The pinned revision.
        revision: u64,
    },
    /// Watch the prefix from this revision on.
    Watch {
        /// The first revision of interest.
        from: u64,
    },
    /// Apply changes; the cursor moves to `revision` when they are in force.
    Apply {
        /// The changes.
        events: Vec<Event>,
        /// The last of their revisions.
        revision: u64,
    },
    /// Make the table what a list says, by comparison.
    Resync {
        /// The list's revision.
        revision: u64,
        /// All records.
        records: Listed,
        /// The incarnation of the store.
        id: TableId,
        /// Whether it is another than before, so that epochs start afresh.
        fresh: bool,
        /// Why; a metric's label. `first` is no resync.
        reason: &'static str,
    },
    /// Nothing changed up to this revision: move the cursor.
    Advance {
        /// The revision.
        revision: u64,
    },
    /// The store has nothing newer now.
    Alive,
    /// Ask the watch for progress.
    AskProgress,
    /// Say that the watch stands, or no longer does and why.
    Report {
        /// The error; `None`: the watch stands.
        error: Option<String>,
        /// When it is tried again.
        again_in: Option<Duration>,
    },
}

/// What is known of the history of the store that is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum History {
    /// It is the one in force, or there is nothing yet that it could differ from.
    Proven,
    /// Nothing: no store is connected, or what it has is not in force yet.
    Unknown,
    /// It is another. Nothing that this store says is to be believed.
    Other,
}

/// The reason of lists that are to show whether the history is still another.
const OTHER_HISTORY: &str = "history";

/// What is to be said of a store whose history is not the one in force.
pub fn other_history(seen: &str) -> String {
    format!(
        "the store's history is not the one that is in force ({seen}): it was restored or replaced; raise the integer at \
         <prefix>/incarnation above any value ever used, then its records are taken"
    )
}

#[derive(Debug)]
enum State {
    /// `is_pause`: nothing failed, a list is put off.
    Waiting {
        until: Moment,
        is_pause: bool,
    },
    Connecting,
    Opening {
        barrier: bool,
        from: u64,
        known: u64,
        then: Option<Listing>,
    },
    Listing {
        watch: Open,
        listing: Listing,
        buffer: Buffer,
        since: Moment,
    },
    Watching {
        watch: Open,
        since: Moment,
    },
}

/// A list that is to be made, or is being made.
#[derive(Debug)]
struct Listing {
    id: TableId,
    fresh: bool,
    reason: &'static str,
}

/// The machine.
#[derive(Debug)]
pub struct Machine {
    state: State,
    endpoints: usize,
    endpoint: usize,
    failures: u32,
    /// How often a quiet watch is asked for progress.
    ask_every: Duration,
    /// Why the next connection lists although it could resume; owed until a list is whole.
    relist: Option<&'static str>,
    /// The cursor, and how many watches have broken since it moved last although they had something to bring.
    cursor: u64,
    stuck: u32,
    /// How long the last whole list took, or the first is expected to.
    list_took: Duration,
    /// The next list has been waited for, so that a fleet does not list together.
    is_apart: bool,
    /// The store was seen to have another history. It stays so when what showed it has been forgotten.
    is_other: bool,
}

impl Machine {
    /// A machine for so many endpoints (at least one), starting with `first`.
    pub fn new(endpoints: usize, first: usize) -> Self {
        let endpoints = endpoints.max(1);
        Self {
            state: State::Waiting { until: Moment::default(), is_pause: false },
            endpoints,
            endpoint: first % endpoints,
            failures: 0,
            ask_every: PROGRESS_EVERY,
            relist: None,
            cursor: 0,
            stuck: 0,
            list_took: Duration::ZERO,
            is_apart: false,
            is_other: false,
        }
    }

    /// What a list is expected to take while none has been made: a snapshot is in force.
    #[must_use]
    pub fn with_lists_of(mut self, took: Duration) -> Self {
        self.list_took = took;
        self
    }

    /// Makes sure that a store in contact is heard of well within `limit`, the least that a policy in force allows; `None`: none does.
    pub fn ask_every(&mut self, limit: Option<Duration>) {
        let wanted = limit.map_or(PROGRESS_EVERY, |limit| limit / ASKS_WITHIN_LIMIT);
        self.ask_every = wanted.clamp(PROGRESS_AT_MOST_EVERY, PROGRESS_EVERY);
    }

    /// What is known of the history of the store that is connected.
    pub fn history(&self) -> History {
        match &self.state {
            _ if self.is_other || self.relist == Some(OTHER_HISTORY) => History::Other,
            State::Opening { then: Some(listing), .. } | State::Listing { listing, .. } if listing.fresh => History::Unknown,
            State::Waiting { .. } | State::Connecting => History::Unknown,
            State::Opening { .. } | State::Listing { .. } | State::Watching { .. } => History::Proven,
        }
    }

    /// When [`Input::Tick`] is due at the latest.
    pub fn wake_at(&self) -> Option<Moment> {
        match &self.state {
            State::Waiting { until, .. } => Some(*until),
            State::Watching { watch, .. } | State::Listing { watch, .. } => {
                Some(watch.ask_at(self.ask_every).min(watch.heard + SILENT_LIMIT))
            }
            State::Connecting | State::Opening { .. } => None,
        }
    }

    /// The one transition. An input that the state does not wait for changes nothing: it comes from a connection that was given up.
    pub fn step(&mut self, input: Input, applied: &Applied, now: Moment, rng: &mut fastrand::Rng) -> Vec<Effect> {
        if std::mem::replace(&mut self.cursor, applied.revision) != applied.revision {
            self.stuck = 0;
        }
        match (&mut self.state, input) {
            (State::Waiting { .. }, Input::Start) => self.connect(),
            (State::Waiting { until, .. }, Input::Tick) if *until <= now => self.connect(),
            (State::Connecting, Input::Connected(hello)) => self.connected(hello, applied, now, rng),
            (State::Opening { .. }, Input::Opened { revision }) => self.opened(revision, applied, now, rng),
            (State::Listing { .. }, Input::Listed { revision, records }) => self.listed(revision, records, now),
            (State::Watching { watch, .. } | State::Listing { watch, .. }, Input::Events { events, more }) => {
                watch.heard = now;
                watch.is_quiet = false;
                match watch.whole.add(events, more) {
                    Ok(events) => self.whole(events, applied, now, rng),
                    Err(_) => self.failed("the watch went back in time; it is opened anew from what is in force".to_owned(), now, rng),
                }
            }
            (State::Watching { watch, .. }, Input::Progress { revision }) => {
                let is_news = watch.is_barrier() && revision > applied.revision;
                let is_current = watch.progress(revision, applied.revision, now);
                let advance = is_news.then_some(Effect::Advance { revision });
                advance.into_iter().chain(is_current.then_some(Effect::Alive)).collect()
            }
            (State::Listing { watch, .. }, Input::Progress { .. }) => {
                watch.heard = now;
                Vec::new()
            }
            (State::Opening { then: Some(_), .. } | State::Listing { .. }, Input::Compacted) => {
                // At a new revision, but not at once: a store that compacts faster than it can be listed would be listed without end.
                self.failed("the history was compacted while the records were listed; they are listed again".to_owned(), now, rng)
            }
            (State::Opening { .. } | State::Watching { .. }, Input::Compacted) => {
                self.relist = Some("compacted");
                self.list_apart("what changed since has been compacted away: the records are listed", now, rng)
            }
            (State::Watching { .. }, Input::NewIncarnation) => {
                self.list_apart("the incarnation was raised: the records are listed", now, rng)
            }
            (State::Watching { .. } | State::Opening { then: None, .. }, Input::ListAnew) => {
                self.relist = Some("lapsed");
                self.is_apart = true;
                self.connect()
            }
            // The pause of a list that is owed in any case.
            (State::Waiting { is_pause: true, .. }, Input::ListAnew) => self.connect(),
            (State::Watching { .. } | State::Opening { then: None, .. }, Input::Distrusted(reason)) => {
                self.relist = Some(reason);
                self.list_apart("the records in force may not be the store's: they are listed", now, rng)
            }
            // A list that is under way says what there is. Without a connection it is owed.
            (State::Opening { .. } | State::Listing { .. }, Input::Distrusted(_)) => Vec::new(),
            (State::Waiting { .. } | State::Connecting, Input::Distrusted(reason)) => {
                self.relist.get_or_insert(reason);
                Vec::new()
            }
            (State::Watching { .. } | State::Listing { .. }, Input::Refused { why, reason, is_lasting }) => {
                self.relist = Some(reason);
                self.is_apart = true;
                if let State::Listing { since, .. } = self.state {
                    self.list_took = now.since(since);
                }
                if is_lasting {
                    let bound = self.list_took.saturating_mul(LISTS_ASIDE).clamp(REFUSED_AT_LEAST, BACKOFF_MOST);
                    return self.again_within(bound, why, now, rng);
                }
                self.failed(why, now, rng)
            }
            (State::Watching { .. } | State::Listing { .. }, Input::Tick) => self.tick(now, rng),
            (State::Waiting { .. }, _) => Vec::new(),
            (_, Input::Failed(why)) => self.failed(why, now, rng),
            _ => Vec::new(),
        }
    }

    fn connect(&mut self) -> Vec<Effect> {
        self.state = State::Connecting;
        vec![Effect::Connect { endpoint: self.endpoint }]
    }

    /// Whether a list is put off for a while.
    fn waits_apart(&self) -> bool {
        !self.is_apart && self.apart() >= APART_AT_LEAST
    }

    fn apart(&self) -> Duration {
        self.list_took.saturating_mul(LISTS_APART).min(APART_AT_MOST)
    }

    /// Lists over a new connection, not at the same moment as others.
    fn list_apart(&mut self, why: &str, now: Moment, rng: &mut fastrand::Rng) -> Vec<Effect> {
        if !self.waits_apart() {
            return self.connect();
        }
        self.is_apart = true;
        let bound = self.apart();
        self.wait(bound, true, why.to_owned(), now, rng)
    }

    fn connected(&mut self, hello: Hello, applied: &Applied, now: Moment, rng: &mut fastrand::Rng) -> Vec<Effect> {
        let id = TableId::etcd(hello.cluster_id, hello.incarnation);
        let fresh = applied.id.as_ref().is_some_and(|known| *known != id);
        self.is_other = match hello.anchor {
            _ if fresh || applied.id.is_none() => false,
            _ if hello.revision < applied.revision => true,
            Anchor::Differs => true,
            Anchor::Compacted => self.is_other,
            Anchor::Same | Anchor::None => false,
        };
        if self.is_other {
            let seen = format!("cursor {}, store at {}", applied.revision, hello.revision);
            let bound = self.next_backoff().min(BACKOFF_FROM_OTHER);
            return self.again_within(bound, other_history(&seen), now, rng);
        }
        let reason = match &applied.id {
            None => Some("first"),
            Some(_) if fresh => Some("incarnation"),
            Some(_) if hello.anchor == Anchor::Compacted => Some("compacted"),
            // Nothing is in force that a history could be known by: an empty store was listed. A list costs next to nothing then.
            Some(_) if hello.anchor == Anchor::None => Some("unproven"),
            Some(_) => self.relist,
        };
        if reason.is_some() && applied.id.is_some() && self.waits_apart() {
            return self.list_apart("the records are to be listed", now, rng);
        }
        let from = if reason.is_some() { hello.revision } else { hello.resume_behind.min(applied.revision) } + 1;
        let then = reason.map(|reason| Listing { id, fresh, reason });
        self.state = State::Opening { barrier: hello.progress_is_barrier, from, known: hello.revision, then };
        vec![Effect::Watch { from }]
    }

    fn opened(&mut self, revision: u64, applied: &Applied, now: Moment, rng: &mut fastrand::Rng) -> Vec<Effect> {
        let State::Opening { barrier, from, known, then } = &mut self.state else { return Vec::new() };
        if revision.saturating_add(1) < *from {
            // A start in the future is accepted silently; the store is behind what was applied, or was seen a moment ago.
            let why = format!(
                "the store is at revision {revision}, behind revision {} that is known: this member lags, or the store was restored; if it was, \
                 raise the integer at <prefix>/incarnation",
                *from - 1
            );
            return self.failed(why, now, rng);
        }
        let mut watch = Open::new(*barrier, *known, now);
        match then.take() {
            Some(listing) => {
                let revision = *from - 1;
                self.state = State::Listing { watch, listing, buffer: Buffer::default(), since: now };
                vec![Effect::List { revision }]
            }
            None => {
                self.is_apart = false;
                let is_current = watch.is_current_at(applied.revision);
                self.state = State::Watching { watch, since: now };
                let alive = is_current.then_some(Effect::Alive);
                [Effect::Report { error: None, again_in: None }].into_iter().chain(alive).collect()
            }
        }
    }

    fn listed(&mut self, revision: u64, records: Listed, now: Moment) -> Vec<Effect> {
        let waiting = State::Waiting { until: Moment::default(), is_pause: false };
        let State::Listing { mut watch, listing, buffer, since } = std::mem::replace(&mut self.state, waiting) else { return Vec::new() };
        self.list_took = now.since(since);
        self.is_apart = false;
        let Listing { id, fresh, reason } = listing;
        self.relist = None;
        let is_current = watch.is_current_at(revision);
        self.state = State::Watching { watch, since: now };
        let mut effects = vec![Effect::Resync { revision, records, id, fresh, reason }];
        effects.extend(buffer.into_events().map(|(events, revision)| Effect::Apply { events, revision }));
        effects.push(Effect::Report { error: None, again_in: None });
        effects.extend(is_current.then_some(Effect::Alive));
        effects
    }

    /// Revisions that are whole.
    fn whole(&mut self, events: Vec<Event>, applied: &Applied, now: Moment, rng: &mut fastrand::Rng) -> Vec<Effect> {
        if let State::Listing { watch, buffer, .. } = &mut self.state {
            buffer.add(events);
            if buffer.bytes() + watch.whole.bytes() > BUFFER_BYTES {
                return self.failed(
                    "more changed while the records were listed than can be kept; they are listed again".to_owned(),
                    now,
                    rng,
                );
            }
            return Vec::new();
        }
        let State::Watching { watch, .. } = &mut self.state else { return Vec::new() };
        let revision = events.last().map(Event::mod_revision);
        let is_current = watch.is_current_at(applied.revision.max(revision.unwrap_or(0)));
        let apply = revision.map(|revision| Effect::Apply { events, revision });
        apply.into_iter().chain(is_current.then_some(Effect::Alive)).collect()
    }

    fn tick(&mut self, now: Moment, rng: &mut fastrand::Rng) -> Vec<Effect> {
        if let State::Watching { since, .. } = &self.state
            && now.since(*since) >= STABLE_AFTER
        {
            self.failures = 0;
        }
        let (State::Watching { watch, .. } | State::Listing { watch, .. }) = &mut self.state else { return Vec::new() };
        if now.since(watch.heard) >= SILENT_LIMIT {
            return self.failed(format!("the store has said nothing for {SILENT_LIMIT:?}; the next member is tried"), now, rng);
        }
        if now < watch.ask_at(self.ask_every) {
            return Vec::new();
        }
        watch.asked = now;
        vec![Effect::AskProgress]
    }

    fn failed(&mut self, why: String, now: Moment, rng: &mut fastrand::Rng) -> Vec<Effect> {
        if let State::Watching { watch, since } = &self.state
            && watch.is_behind
            && now.since(*since) >= STUCK_AFTER
        {
            self.stuck += 1;
            if self.stuck >= STUCK_WATCHES {
                self.stuck = 0;
                self.relist.get_or_insert("stuck");
            }
        }
        let bound = self.next_backoff();
        self.again_within(bound, why, now, rng)
    }

    /// The bound of this failure's backoff; it counts.
    fn next_backoff(&mut self) -> Duration {
        let bound = BACKOFF_FIRST.saturating_mul(1 << self.failures.min(16)).min(BACKOFF_MOST);
        self.failures = self.failures.saturating_add(1);
        bound
    }

    /// Full jitter: anything from nothing to the bound, so that a fleet that restarts together does not come back together.
    fn again_within(&mut self, bound: Duration, why: String, now: Moment, rng: &mut fastrand::Rng) -> Vec<Effect> {
        self.endpoint = (self.endpoint + 1) % self.endpoints;
        self.wait(bound, false, why, now, rng)
    }

    fn wait(&mut self, bound: Duration, is_pause: bool, why: String, now: Moment, rng: &mut fastrand::Rng) -> Vec<Effect> {
        let again_in = Duration::from_nanos(rng.u64(0..=u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX)));
        self.state = State::Waiting { until: now + again_in, is_pause };
        vec![Effect::Disconnect, Effect::Report { error: Some(why), again_in: Some(again_in) }]
    }
}

#[cfg(test)]
mod tests;
