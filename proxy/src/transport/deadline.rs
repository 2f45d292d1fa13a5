//! What hooks and connection share during one request: how long the present phase may take, and what became of the connection.
//!
//! A phase's time runs from the first poll after it was set, so that a slow reader of the answer, whom nobody polls, does not count
//! as a silent owner. The limit for the whole request runs from its head. Which of them passed decides what is answered.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::Waker,
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::{
    downstream::{self, Socket},
    ending::Ending,
    general::Request,
    http2,
};

/// What the request waits for; decides what is answered when the wait is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// For the client to send on.
    Client,
    /// For the owner to answer.
    FirstByte,
    /// For the owner to send on.
    Idle,
    /// For all of it to end.
    Total,
    /// For nothing: it may not be served any more.
    Lost,
}

/// What a session that is to be followed by another for the same request has left of its client.
pub(super) enum Left {
    /// Its connection.
    Connection(Box<downstream::Left>),
    /// Its stream of a connection that goes on.
    Stream(Box<http2::Unanswered>),
}

/// Shared by the hooks and the connection for one request.
#[derive(Default)]
pub(crate) struct Deadline {
    wait: Mutex<Wait>,
    fired: Mutex<Option<Phase>>,
    /// The framing of the body was broken, or had trailers.
    broken: AtomicBool,
    /// After a 101 the stream has no framing any more.
    raw: AtomicBool,
    /// The client's socket, where it has to be read from before it may be closed.
    unread: Mutex<Option<Socket>>,
    /// What came of the request can't be handed over once more.
    forgotten: AtomicBool,
    /// The answer under way is read, and written nowhere.
    discards: AtomicBool,
    /// The request and its connection between two sessions.
    again: Mutex<(Option<Box<Request>>, Option<Left>)>,
    /// Whether the body stays with the client for now.
    withheld: Mutex<Withheld>,
    /// When it may not be served any more.
    ending: Ending,
    /// Since when something of the body is with the owner's connection and nobody looks at the client; `None`: somebody does.
    with_owner: Mutex<Option<Instant>>,
    /// Whether that is so: the client is looked at far more often.
    is_with_owner: AtomicBool,
    /// Told when it is so for the first time: most requests have no body.
    first_handed: Notify,
    /// The owner takes no more of the body, and the request was given up on.
    given_up: AtomicBool,
}

/// So much later than its time a request is given up on that has not ended by itself.
const OVERDUE: Duration = Duration::from_millis(500);
/// How long before its limits are known it may take.
const WITHOUT_LIMITS: Duration = Duration::from_secs(10);

/// A body of which nothing is read yet, so that its owner can refuse it unread.
#[derive(Debug, Default)]
struct Withheld {
    /// When it is read without the owner's word.
    until: Option<Instant>,
    /// Who waits for it.
    reader: Option<Waker>,
}

/// The present wait.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wait {
    /// The phase's limit, from when it is first polled.
    pub(super) limit: Option<(Duration, Phase)>,
    /// How long the client may take to read on while something waits to be written to it.
    pub(super) reading: Option<Duration>,
    /// When the whole request must have ended.
    pub(super) ends_at: Option<Instant>,
    /// Changes with every change of the limits.
    pub(super) generation: u64,
}

impl std::fmt::Debug for Deadline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deadline").field("wait", &self.wait).field("discards", &self.discards).finish_non_exhaustive()
    }
}

impl Deadline {
    /// From now on the phase may take so long; no limit if zero.
    pub(crate) fn set(&self, phase: Phase, limit: Duration) {
        self.change(|wait| wait.limit = (!limit.is_zero()).then_some((limit, phase)));
    }

    /// When the whole request must have ended; `None`: whenever it does.
    pub(crate) fn ends_at(&self) -> Option<Instant> {
        lock(&self.wait).ends_at
    }

    /// For the whole request: a client that does not read on for `reading` is given up on, and all of it may take `total` from now; no
    /// limit where zero.
    pub(crate) fn set_for_all(&self, reading: Duration, total: Duration) {
        self.change(|wait| {
            wait.reading = (!reading.is_zero()).then_some(reading);
            wait.ends_at = (!total.is_zero()).then(|| Instant::now() + total);
        });
    }

    /// Nothing of the body is read for so long, or until [`Deadline::release_body`].
    pub(crate) fn withhold_body(&self, limit: Duration) {
        lock(&self.withheld).until = Some(Instant::now() + limit);
    }

    /// The body may be read.
    pub(crate) fn release_body(&self) {
        let mut withheld = lock(&self.withheld);
        withheld.until = None;
        if let Some(reader) = withheld.reader.take() {
            reader.wake();
        }
    }

    /// Until when the body stays with the client, if it does; its reader is then woken at its release.
    pub(super) fn withheld_from(&self, reader: &Waker) -> Option<Instant> {
        let mut withheld = lock(&self.withheld);
        if withheld.until.is_some() {
            withheld.reader = Some(reader.clone());
        }
        withheld.until
    }

    /// Something of the request has been handed to the owner's connection. Until the client is looked at again, no phase's time can pass.
    pub(crate) fn hand_to_owner(&self) {
        *lock(&self.with_owner) = Some(Instant::now());
        self.is_with_owner.store(true, Ordering::Relaxed);
        self.first_handed.notify_one();
    }

    /// The client is looked at, or nothing is with the owner any more.
    pub(crate) fn look_at_client(&self) {
        if self.is_with_owner.swap(false, Ordering::Relaxed) {
            *lock(&self.with_owner) = None;
        }
    }

    /// Ends when the owner has taken nothing of the body for as long as one may be idle, or the whole request is overdue because of that. While
    /// pingora waits to write to an owner it looks neither at the client nor at any answer, so nothing else would end it.
    pub(super) async fn give_up(&self) {
        self.first_handed.notified().await;
        loop {
            let (wait, now, since) = (self.wait(), Instant::now(), *lock(&self.with_owner));
            let idle = wait.reading.map(|limit| since.unwrap_or(now) + limit);
            let overdue = wait.ends_at.map(|at| at + OVERDUE);
            let due = idle.into_iter().chain(overdue).min();
            if since.is_some() && due.is_some_and(|due| due <= now) {
                break;
            }
            tokio::time::sleep_until(due.unwrap_or(now + WITHOUT_LIMITS).max(now + OVERDUE)).await;
        }
        self.given_up.store(true, Ordering::Relaxed);
        // What is left of it is taken up again by whoever serves it.
        self.discards.store(true, Ordering::Relaxed);
    }

    /// Whether it was given up on.
    pub(crate) fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }

    /// No phase is waited for; the limit for the whole request stays.
    pub(crate) fn clear(&self) {
        self.change(|wait| wait.limit = None);
    }

    /// The phase whose deadline has passed, if one has.
    pub(crate) fn fired(&self) -> Option<Phase> {
        *lock(&self.fired)
    }

    /// Whether the body's framing was refused.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// The connection has been upgraded: everything is handed over as it comes.
    pub(crate) fn upgrade(&self) {
        self.raw.store(true, Ordering::Relaxed);
    }

    /// When it may not be served any more.
    pub(crate) fn ending(&self) -> &Ending {
        &self.ending
    }

    pub(super) fn leave_unread(&self, socket: Option<Socket>) {
        *lock(&self.unread) = socket;
    }

    /// The socket of a connection that has ended with something unread.
    pub(super) fn take_unread(&self) -> Option<Socket> {
        lock(&self.unread).take()
    }

    /// The request is too large to be kept.
    pub(super) fn forget_request(&self) {
        self.forgotten.store(true, Ordering::Relaxed);
    }

    /// From now on nothing that is written reaches the client, and the request is handed over once more when its session has ended. False
    /// if it can't be.
    pub(crate) fn discard_answer(&self) -> bool {
        let is_here = !self.forgotten.load(Ordering::Relaxed);
        self.discards.store(is_here, Ordering::Relaxed);
        is_here
    }

    /// Whether the answer under way is written nowhere.
    pub(crate) fn discards_answer(&self) -> bool {
        self.discards.load(Ordering::Relaxed)
    }

    /// The request's session has ended.
    pub(super) fn keep_request(&self, request: Box<Request>) {
        lock(&self.again).0 = Some(request);
    }

    pub(super) fn leave(&self, left: Left) {
        lock(&self.again).1 = Some(left);
    }

    /// The request that goes on in another session, if it does; and its connection, where its session has not given it back.
    pub(super) fn take_again(&self) -> Option<(Box<Request>, Option<Left>)> {
        if !self.discards_answer() {
            return None;
        }
        let (request, left) = &mut *lock(&self.again);
        Some((request.take()?, left.take()))
    }

    /// The request is handed over once more; its time goes on.
    pub(super) fn begin_again(&self) {
        self.discards.store(false, Ordering::Relaxed);
        self.given_up.store(false, Ordering::Relaxed);
        self.look_at_client();
        *lock(&self.fired) = None;
        *lock(&self.withheld) = Withheld::default();
        self.clear();
    }

    pub(super) fn is_raw(&self) -> bool {
        self.raw.load(Ordering::Relaxed)
    }

    pub(super) fn set_broken(&self) {
        self.broken.store(true, Ordering::Relaxed);
    }

    pub(super) fn wait(&self) -> Wait {
        *lock(&self.wait)
    }

    pub(super) fn fire(&self, phase: Phase) {
        *lock(&self.fired) = Some(phase);
    }

    fn change(&self, change: impl FnOnce(&mut Wait)) {
        let mut wait = lock(&self.wait);
        change(&mut wait);
        wait.generation += 1;
    }
}

impl Wait {
    /// When this wait ends if it is first polled at `now`, and by which of its limits.
    pub(super) fn end(&self, now: Instant) -> Option<(Instant, Phase)> {
        self.with_total(self.limit.map(|(limit, phase)| (now + limit, phase)))
    }

    /// When a write ends that has waited for the client since `since`.
    pub(super) fn end_of_write(&self, since: Instant) -> Option<(Instant, Phase)> {
        self.with_total(self.reading.map(|limit| (since + limit, Phase::Client)))
    }

    fn with_total(&self, end: Option<(Instant, Phase)>) -> Option<(Instant, Phase)> {
        let of_request = self.ends_at.map(|at| (at, Phase::Total));
        end.into_iter().chain(of_request).min_by_key(|(at, _)| *at)
    }
}

/// A poisoned lock guards plain data that is valid after any panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
