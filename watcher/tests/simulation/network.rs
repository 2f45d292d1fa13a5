//! What comes between the watcher and the store: connections that are cut, stall and repeat, members that lag behind, answers that are
//! late or never come, responses in fragments, and progress notices that overtake.

use std::time::Duration;

use waypost_policy::Moment;
use waypost_watcher::{
    listed::{Listed, Part},
    machine::Input,
    record::{Event, Stored},
};

use crate::world::{What, World};

/// After this an unanswered question counts as failed; the shell's limit.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// A member that lags is looked at again so often.
const LAG_CHECK: Duration = Duration::from_millis(500);

/// A list comes in parts of so many records.
const PART: usize = 5;

pub(crate) enum Question {
    Hello,
    Watch { from: u64 },
    List { revision: u64 },
}

/// The store's side of a watch.
pub(crate) struct Sender {
    connection: u64,
    /// The next revision to be sent.
    next: u64,
    /// When the last that was sent arrives: nothing overtakes on a stream.
    arrives: Moment,
    sent: Vec<Vec<Event>>,
    /// What a faulty watch sends too late.
    kept_back: Vec<Event>,
    /// Nothing comes through any more, and nobody is told.
    pub(crate) stalled: bool,
}

/// A member has not come further than this, until then.
#[derive(Clone, Copy)]
pub(crate) struct Lag {
    pub(crate) revision: u64,
    pub(crate) until: Moment,
}

impl World {
    /// The connection ends; perhaps nobody hears of it.
    pub(crate) fn cut(&mut self) {
        if self.sender.take().is_none() || self.chance(70) {
            let by = self.some_time(100);
            self.later(by, What::Tell(Input::Failed("cut".to_owned())));
        }
    }

    /// Something that was sent is sent again.
    pub(crate) fn repeat(&mut self) {
        let Some(sender) = &self.sender else { return };
        let Some(events) = (!sender.sent.is_empty()).then(|| sender.sent[self.rng.usize(..sender.sent.len())].clone()) else { return };
        let (at, connection) = (sender.arrives.max(self.now), sender.connection);
        self.has_repeated = true;
        self.at(at, connection, What::Tell(Input::Events { events, more: false }));
    }

    pub(crate) fn ask(&mut self, question: Question) {
        let by = self.some_time(if matches!(question, Question::List { .. }) { 800 } else { 20 });
        if self.chance(5) {
            self.later(ANSWER_LIMIT, What::Tell(Input::Failed("no answer".to_owned())));
        } else {
            self.later(by, What::Answer(question, self.starts));
        }
    }

    pub(crate) fn answer(&mut self, question: Question, starts: u64) {
        if !self.up || starts != self.starts || self.chance(3) {
            return self.feed(Input::Failed("not there".to_owned()));
        }
        let input = match question {
            // Linearizable: however old the member's own view is.
            Question::Hello => Input::Connected(self.hello()),
            Question::Watch { from } if from <= self.store.compacted => Input::Compacted,
            Question::Watch { from } => {
                self.sender = Some(Sender {
                    connection: self.connection,
                    next: from,
                    arrives: self.now,
                    sent: Vec::new(),
                    kept_back: Vec::new(),
                    stalled: false,
                });
                self.later(Duration::ZERO, What::Send);
                Input::Opened { revision: self.reached() }
            }
            Question::List { revision } if revision < self.store.compacted => Input::Compacted,
            Question::List { revision } => {
                // Where the member has not come to the revision, the shell asks linearizably.
                let Some(found) = self.store.here(revision) else {
                    return self.feed(Input::Failed("a future revision".to_owned()));
                };
                let records: Vec<Stored> = found.state.values().map(|stored| (**stored).clone()).collect();
                let mut listed = Listed::default();
                records.chunks(PART).for_each(|part| listed.add(Part::of(part.to_vec())));
                Input::Listed { revision, records: listed }
            }
        };
        self.feed(input);
    }

    /// How far the connected member has come.
    fn reached(&self) -> u64 {
        let lag = self.lags[self.member].filter(|lag| lag.until > self.now);
        lag.map_or(self.store.revision(), |lag| lag.revision.min(self.store.revision()))
    }

    /// Everything that has not been sent yet, a revision or more a response, in fragments cut anywhere.
    pub(crate) fn send(&mut self) {
        let Some(mut sender) = self.sender.take() else { return };
        if sender.next <= self.store.compacted {
            self.at(sender.arrives.max(self.now), sender.connection, What::Tell(Input::Compacted));
            return;
        }
        let reached = self.reached();
        while sender.next <= reached && !sender.stalled {
            let mut events = Vec::new();
            let last = self.rng.u64(sender.next..=reached);
            for revision in sender.next..=last {
                events.extend(self.store.here(revision).map(|at| at.events.clone()).unwrap_or_default());
            }
            sender.next = last + 1;
            if events.is_empty() {
                continue;
            }
            sender.sent.push(events.clone());
            if self.is_faulty && self.chance(20) {
                events = self.spoil(events, &mut sender.kept_back);
            }
            while !events.is_empty() {
                let rest = events.split_off(if self.rng.bool() { events.len() } else { self.rng.usize(1..=events.len()) });
                sender.arrives = sender.arrives.max(self.now + self.some_time(3));
                let part = Input::Events { events, more: !rest.is_empty() };
                self.at(sender.arrives, sender.connection, What::Tell(part));
                events = rest;
                if self.chance(2) {
                    self.at(sender.arrives, sender.connection, What::Tell(Input::Failed("cut".to_owned())));
                    return;
                }
            }
        }
        self.sender = Some(sender);
        if reached < self.store.revision() {
            self.later(LAG_CHECK, What::Send);
        }
    }

    /// What a faulty watch makes of a response: events are lost, repeated, late, or in another order. Some of etcd's versions do each of these.
    fn spoil(&mut self, mut events: Vec<Event>, kept_back: &mut Vec<Event>) -> Vec<Event> {
        let at = self.rng.usize(..events.len());
        match self.rng.u32(0..5) {
            0 => drop(events.remove(at)),
            1 => kept_back.push(events.remove(at)),
            2 => events.insert(at, events[at].clone()),
            3 => events.rotate_left(at),
            _ => events.truncate(at),
        }
        if self.rng.bool() {
            events.append(kept_back);
        }
        events
    }

    pub(crate) fn answer_progress(&mut self) {
        let revision = self.reached();
        let Some(sender) = self.sender.as_ref().filter(|sender| !sender.stalled && self.up) else { return };
        let (arrives, connection, has_sent_all) = (sender.arrives.max(self.now), sender.connection, sender.next > revision);
        if !self.barrier {
            // It overtakes what has not been sent.
            self.at(self.now, connection, What::Tell(Input::Progress { revision }));
        } else if has_sent_all {
            self.at(arrives, connection, What::Tell(Input::Progress { revision }));
        }
    }
}
