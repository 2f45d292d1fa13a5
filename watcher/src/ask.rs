//! Asking the task that watches the store: for a check, which is the data path's only way to the store, or for what is known.
//!
//! A check's answer comes in where everything else comes in, so that ordering and checking apply to it unchanged: when an asker hears
//! `Answered`, what was read is in force. One asker's going away fails no other.

use tokio::sync::{mpsc, oneshot};
use waypost_conf::Name;
use waypost_policy::{Moment, table::RequestKey};

use crate::listing::Listing;

/// How many asks may wait to be looked at.
const QUEUE: usize = 1024;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {
    /// The store was read; the table in force shows what it said.
    Answered {
        /// When the read began, which others may have asked for before, counted from the process's origin.
        began: Moment,
    },
    /// The store could not be read in time.
    Unavailable,
    /// Too many checks are under way.
    Capped,
}

/// One ask.
#[derive(Debug)]
pub(crate) enum Ask {
    /// Read the store for one key.
    Check(Check),
    /// Say what is known.
    Listing(oneshot::Sender<Listing>),
    /// List the store anew, though nothing is wrong with the watch.
    ListAnew,
}

/// One check.
#[derive(Debug)]
pub(crate) struct Check {
    pub(crate) service: Name,
    pub(crate) key: RequestKey,
    pub(crate) answer: oneshot::Sender<Checked>,
}

/// The askers' side. Clones ask the same.
#[derive(Clone, Debug)]
pub struct Asker {
    asks: mpsc::Sender<Ask>,
}

pub(crate) fn channel() -> (Asker, mpsc::Receiver<Ask>) {
    let (asks, asked) = mpsc::channel(QUEUE);
    (Asker { asks }, asked)
}

impl Asker {
    /// Has the store read for one key of a service, and waits until the answer is in force.
    pub async fn check(&self, service: &Name, key: &RequestKey) -> Checked {
        let (answer, answered) = oneshot::channel();
        match self.asks.try_send(Ask::Check(Check { service: service.clone(), key: key.clone(), answer })) {
            Ok(()) => answered.await.unwrap_or(Checked::Unavailable),
            Err(mpsc::error::TrySendError::Full(_)) => Checked::Capped,
            Err(mpsc::error::TrySendError::Closed(_)) => Checked::Unavailable,
        }
    }

    /// Has the store listed anew at a revision that is read from here on, unless it is not reached just now.
    pub fn list_anew(&self) {
        // Who has too much to do is asked again.
        let _ = self.asks.try_send(Ask::ListAnew);
    }

    /// Every record that is known now; `None` if the watcher has ended, or has too much to do.
    pub async fn listing(&self) -> Option<Listing> {
        let (answer, answered) = oneshot::channel();
        self.asks.try_send(Ask::Listing(answer)).ok()?;
        answered.await.ok()
    }
}
