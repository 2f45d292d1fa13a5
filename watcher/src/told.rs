//! Telling changes to any number of watchers without ever waiting for one.
//!
//! One bounded ring for all of them: a message costs its place once, and whoever reads too slowly loses the oldest. Each change has a
//! number, so that a reader knows exactly how many it has missed, whether the ring or the applier's bound dropped them. While
//! nobody listens nothing is kept.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::sync::broadcast::{
    self,
    error::{RecvError, TryRecvError},
};

use crate::change::Change;

/// How many changes a reader may lag behind.
const RING: usize = 4096;

/// A change, and when it came into force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The wall clock's time when it was told.
    pub at: SystemTime,
    /// The revision of the table in force.
    pub revision: u64,
    /// From the change's arrival from the store to the table in force; `None` for what is not part of a table.
    pub in_force_after: Option<Duration>,
    /// What changed.
    pub change: Change,
}

/// What a listener hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A change.
    Told(Arc<Told>),
    /// So many changes were not told: the listener was too slow, or there were too many at once.
    Missed(u64),
}

#[derive(Clone, Debug)]
struct Message {
    number: u64,
    /// `None`: everything before `number` has been told or dropped.
    told: Option<Arc<Told>>,
}

/// The side that tells. Clones tell into the same ring; only the publisher's does.
#[derive(Clone, Debug)]
pub(crate) struct Teller {
    ring: broadcast::Sender<Message>,
    /// The number of the next change.
    next: Arc<AtomicU64>,
}

impl Default for Teller {
    fn default() -> Self {
        Self { ring: broadcast::Sender::new(RING), next: Arc::default() }
    }
}

impl Teller {
    /// Whether anybody listens.
    pub(crate) fn is_heard(&self) -> bool {
        self.ring.receiver_count() > 0
    }

    /// Tells changes, and of `omitted` more that they were not kept. Waits for nobody; costs nothing if nobody listens.
    pub(crate) fn tell(&self, changes: impl IntoIterator<Item = Change>, omitted: u64, revision: u64, in_force_after: Option<Duration>) {
        if !self.is_heard() {
            return;
        }
        let at = SystemTime::now();
        // An error means that the last listener has just gone.
        for change in changes {
            let told = Arc::new(Told { at, revision, in_force_after, change });
            let number = self.next.fetch_add(1, Ordering::AcqRel);
            let _ = self.ring.send(Message { number, told: Some(told) });
        }
        if omitted > 0 {
            let number = self.next.fetch_add(omitted, Ordering::AcqRel) + omitted;
            let _ = self.ring.send(Message { number, told: None });
        }
    }

    /// A new listener; it hears what is told from now on.
    pub(crate) fn listen(&self) -> Changes {
        let ring = self.ring.subscribe();
        // Read after the subscription: what is told in between is heard, and is never taken for missed.
        Changes { ring, next: self.next.load(Ordering::Acquire), pending: None }
    }
}

/// The side that listens.
#[derive(Debug)]
pub struct Changes {
    ring: broadcast::Receiver<Message>,
    /// The number of the change that would come next if none were missed.
    next: u64,
    /// Heard already, but behind a gap.
    pending: Option<Arc<Told>>,
}

impl Changes {
    /// The next change, if it is there already.
    pub fn at_hand(&mut self) -> Option<Heard> {
        loop {
            if let Some(told) = self.pending.take() {
                return Some(Heard::Told(told));
            }
            match self.ring.try_recv() {
                Ok(message) => {
                    if let Some(missed) = self.take(message) {
                        return Some(missed);
                    }
                }
                Err(TryRecvError::Lagged(_)) => {}
                Err(TryRecvError::Empty | TryRecvError::Closed) => return None,
            }
        }
    }

    /// Keeps a message's change, and tells of what was missed before it.
    fn take(&mut self, Message { number, told }: Message) -> Option<Heard> {
        let missed = number.saturating_sub(self.next);
        self.next = self.next.max(number + u64::from(told.is_some()));
        self.pending = told;
        (missed > 0).then_some(Heard::Missed(missed))
    }

    /// The next change; `None` when the watcher has ended. May be dropped while it waits.
    pub async fn next(&mut self) -> Option<Heard> {
        loop {
            if let Some(told) = self.pending.take() {
                return Some(Heard::Told(told));
            }
            match self.ring.recv().await {
                Ok(message) => {
                    if let Some(missed) = self.take(message) {
                        return Some(missed);
                    }
                }
                // How many it were is seen by the next message's number.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(number: u64) -> Change {
        Change::Released { key: number.to_string() }
    }

    fn key(heard: Option<Heard>) -> Result<String, u64> {
        match heard {
            Some(Heard::Told(told)) => match &told.change {
                Change::Released { key } => Ok(key.clone()),
                other => panic!("{other:?}"),
            },
            Some(Heard::Missed(missed)) => Err(missed),
            None => panic!("the ring was closed"),
        }
    }

    #[tokio::test]
    async fn a_slow_listener_is_told_exactly_how_many_it_missed() {
        let teller = Teller::default();
        teller.tell([change(0)], 0, 1, None);
        assert!(!teller.is_heard());
        let (mut slow, mut quick) = (teller.listen(), teller.listen());
        let all = RING as u64 + 1000;
        for number in 0..all {
            teller.tell([change(number)], 0, 1, None);
            assert_eq!(key(quick.next().await), Ok(number.to_string()), "a slow one beside it costs it nothing");
        }
        let mut missed = 0;
        let mut heard = Vec::new();
        while missed + (heard.len() as u64) < all {
            let next = tokio::time::timeout(Duration::from_secs(10), slow.next()).await;
            match key(next.expect("everything is told or missed")) {
                Ok(key) => heard.push(key),
                Err(more) => missed += more,
            }
        }
        assert_eq!(missed, 1000);
        assert_eq!(heard.last(), Some(&(all - 1).to_string()));
    }

    #[tokio::test]
    async fn what_was_too_much_at_once_is_told_as_missed_at_once() {
        let teller = Teller::default();
        let mut listener = teller.listen();
        teller.tell([change(1)], 99_999, 7, Some(Duration::from_millis(1)));
        assert_eq!(key(listener.next().await), Ok("1".to_owned()));
        assert_eq!(key(listener.at_hand()), Err(99_999));
        assert_eq!(listener.at_hand(), None);
        teller.tell([change(2)], 0, 8, None);
        assert_eq!(key(listener.next().await), Ok("2".to_owned()));
    }
}
