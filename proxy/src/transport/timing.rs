//! How long a client's connection or stream is waited for: the [`Deadline`] of the hooks as whoever polls it sees it.
//!
//! One timer for whatever is waited for at the time: the present phase, or a client that does not read on. What always holds: a wait that the
//! deadline limits ends by itself, and the deadline knows by which of its limits.

use std::{
    io,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
};

use tokio::time::{Instant, Sleep};

use super::{
    alarm::Alarm,
    deadline::{Deadline, Phase},
};

/// The waits of one request after the other.
#[derive(Debug, Default)]
pub(super) struct Timing {
    /// None while no session has one: most requests need none.
    deadline: OnceLock<Arc<Deadline>>,
    alarm: Alarm,
    /// Ends the time for which a body is withheld; made when one is.
    withholding: Option<Pin<Box<Sleep>>>,
    /// When the present phase ends, and by which limits.
    armed: Option<(Instant, Phase)>,
    armed_generation: u64,
    /// Since when something waits to be read by the client.
    unread_since: Option<Instant>,
}

impl Timing {
    pub(super) fn new(deadline: Arc<Deadline>) -> Self {
        Self { deadline: deadline.into(), ..Self::default() }
    }

    /// What the hooks share with whoever polls this.
    pub(super) fn deadline(&self) -> &Arc<Deadline> {
        self.deadline.get_or_init(Arc::default)
    }

    /// The same, if anybody has asked for it.
    pub(super) fn shared(&self) -> Option<&Arc<Deadline>> {
        self.deadline.get()
    }

    /// Another request begins.
    pub(super) fn begin(&mut self) {
        self.deadline = OnceLock::new();
        (self.armed, self.armed_generation, self.unread_since) = (None, 0, None);
    }

    /// Ready when the present phase has taken too long.
    pub(super) fn poll_late(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        let wait = self.deadline().wait();
        if self.armed_generation != wait.generation {
            self.armed_generation = wait.generation;
            self.armed = wait.end(Instant::now());
        }
        let Some((at, phase)) = self.armed else { return Poll::Pending };
        ready!(self.alarm.poll(context, at));
        self.deadline().fire(phase);
        Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, "the deadline of the present phase has passed"))
    }

    /// What a write came to. One that waits for the client to read ends with the time that it may take.
    pub(super) fn written<T>(&mut self, context: &mut Context<'_>, write: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if write.is_ready() {
            self.unread_since = None;
            return write;
        }
        let since = *self.unread_since.get_or_insert_with(Instant::now);
        let Some((at, phase)) = self.deadline().wait().end_of_write(since) else { return Poll::Pending };
        // The present phase is timed anew when it is waited for again.
        self.armed_generation = 0;
        ready!(self.alarm.poll(context, at));
        self.deadline().fire(phase);
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client has not read on in time")))
    }

    /// Ready when the body may be read: at once, at its release, or when its time has passed.
    pub(super) fn poll_released(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(until) = self.deadline().withheld_from(context.waker()) else { return Poll::Ready(()) };
        let timer = self.withholding.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        if timer.deadline() != until {
            timer.as_mut().reset(until);
        }
        ready!(timer.as_mut().poll(context));
        self.deadline().release_body();
        Poll::Ready(())
    }
}
