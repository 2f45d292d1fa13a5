//! Connections over which nothing comes for a while: a worker keeps them in one set and waits for all of them at once, by an epoll of its own.
//!
//! A connection that is waited for by itself has a task, a timer and what it reads by, five times what one takes here; and most of a proxy's connections are
//! quiet most of the time. What always holds: a connection is here or has a task, never both; what comes over it while it is here gives it a task again;
//! one that has been idle for too long is closed. Who begins to wait while the process drains does not rest; those that are here are closed when idle ones are.

use std::{
    collections::BTreeSet,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use mio::{Events, Poll, Registry, Token, unix::SourceFd};
use slab::Slab;
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::{mpsc, watch},
};

use super::accept::{Accepting, Seat};
use crate::{
    metrics::Connections,
    state::Shared,
    transport::{ConnectionInfo, Waiting, drained},
};

/// How many of those over which something has come are taken at once.
const EVENTS: usize = 256;

/// A connection at rest.
pub(super) struct Resting {
    pub(super) waiting: Waiting,
    pub(super) connection: ConnectionInfo,
    pub(super) place: Seat,
    pub(super) accepting: Arc<Accepting>,
}

impl Resting {
    /// Gives it a task.
    pub(super) fn wake(self) {
        let Self { waiting, connection, place, accepting } = self;
        accepting.serve(waiting, connection, place);
    }
}

/// Where a worker's connections go to rest.
pub(super) type ToRest = mpsc::UnboundedSender<Box<Resting>>;

/// A worker's connections at rest.
pub(super) struct RestingSet {
    arrivals: mpsc::UnboundedReceiver<Box<Resting>>,
    poll: Poll,
    kept: Kept,
}

struct Kept {
    registry: Registry,
    /// By their tokens.
    resting: Slab<Box<Resting>>,
    /// When those have been idle for too long that may not be idle for ever.
    ends: BTreeSet<(Instant, usize)>,
    counted: Arc<Connections>,
}

impl RestingSet {
    /// An empty one, and where one comes in.
    ///
    /// # Errors
    /// If the system has no more descriptors.
    pub(super) fn open(counted: &Arc<Connections>) -> io::Result<(Self, ToRest)> {
        let (to_rest, arrivals) = mpsc::unbounded_channel();
        let poll = Poll::new()?;
        let kept =
            Kept { registry: poll.registry().try_clone()?, resting: Slab::new(), ends: BTreeSet::new(), counted: Arc::clone(counted) };
        Ok((Self { arrivals, poll, kept }, to_rest))
    }

    /// Keeps them until the process has drained. Who comes later is not taken in.
    pub(super) async fn keep(self, shared: Arc<Shared>, mut draining: watch::Receiver<bool>) {
        let Self { mut arrivals, poll, mut kept } = self;
        #[expect(deprecated, reason = "its successor is unsafe, for types that lie about their descriptor; this one does not")]
        let watched = AsyncFd::with_interest(poll, Interest::READABLE);
        let mut watched = match watched {
            Ok(watched) => watched,
            Err(error) => return tracing::error!(%error, "a worker thread can't watch its quiet connections, and spends a task on each"),
        };
        let mut events = Events::with_capacity(EVENTS);
        let mut drained = std::pin::pin!(drained(&shared, &mut draining));
        loop {
            tokio::select! {
                Some(resting) = arrivals.recv() => kept.take_in(resting),
                ready = watched.readable_mut() => {
                    let Ok(mut ready) = ready else { break };
                    kept.wake_ready(ready.get_inner_mut(), &mut events);
                    ready.clear_ready();
                }
                () = kept.late() => kept.close_late(Instant::now()),
                () = &mut drained => break,
            }
        }
        arrivals.close();
        while let Ok(resting) = arrivals.try_recv() {
            kept.take_in(resting);
        }
        // Asked of the system itself: the runtime may not have heard yet of what came last.
        kept.wake_ready(watched.get_mut(), &mut events);
    }
}

impl Kept {
    fn take_in(&mut self, resting: Box<Resting>) {
        let place = self.resting.vacant_entry();
        let (socket, token, ends_at) = (resting.waiting.stream.fd(), place.key(), resting.waiting.ends_at);
        // What has come already is told at once.
        if self.registry.register(&mut SourceFd(&socket), Token(token), mio::Interest::READABLE).is_err() {
            // The system watches no more.
            return resting.wake();
        }
        place.insert(resting);
        self.ends.extend(ends_at.map(|at| (at, token)));
        self.counted.rests();
    }

    fn take_out(&mut self, token: usize) -> Option<Box<Resting>> {
        let resting = self.resting.try_remove(token)?;
        // It is closed with its socket, if not by this.
        let _ = self.registry.deregister(&mut SourceFd(&resting.waiting.stream.fd()));
        if let Some(at) = resting.waiting.ends_at {
            self.ends.remove(&(at, token));
        }
        self.counted.rests_no_more(1);
        Some(resting)
    }

    /// Wakes all over which something has come.
    fn wake_ready(&mut self, poll: &mut Poll, events: &mut Events) {
        loop {
            match poll.poll(events, Some(Duration::ZERO)) {
                Ok(()) if events.is_empty() => return,
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return tracing::error!(%error, "quiet connections can't be watched"),
            }
            for event in &*events {
                if let Some(resting) = self.take_out(event.token().0) {
                    resting.wake();
                }
            }
        }
    }

    /// Ends when one has been idle for too long.
    async fn late(&self) {
        match self.ends.first() {
            Some((at, _)) => tokio::time::sleep_until((*at).into()).await,
            None => std::future::pending().await,
        }
    }

    fn close_late(&mut self, now: Instant) {
        while let Some((_, token)) = self.ends.first().copied().filter(|(at, _)| *at <= now) {
            drop(self.take_out(token));
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.counted.rests_no_more(self.resting.len());
    }
}
