//! A lane sends one request after the other: it waits until each is due, gives up on an answer that takes too long, and counts.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use tokio::time::Sleep;

use crate::{
    connection::{Connector, Exchanged, Failure, http1::Http1, http2::Http2},
    plan::{Plan, Schedule},
    report::FailureKind,
    request::{Asked, Requests},
    tally::{Counter, Timed},
};

/// An answer that takes longer has failed.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// How long a lane waits after a connection that could not be made.
const CONNECT_PAUSE: Duration = Duration::from_millis(20);

/// Says of an answer whether it is right. Called for each, by several threads: it must be quick.
pub type Check = dyn Fn(&Seen) -> bool + Send + Sync;

/// An answer that a check judges.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// The number of the request's key.
    pub key: u64,
    /// Whether it is one of the stale ones.
    pub is_stale: bool,
    /// Its status.
    pub status: u16,
    /// The owner that answered, if it said so ([`crate::OWNER_HEADER`]).
    pub owner: Option<u64>,
    /// When the request was sent.
    pub sent: Instant,
    /// When the answer was whole.
    pub ended: Instant,
    /// As it counts: in an open loop from when the request was due, if its connection was busy then.
    pub latency: Duration,
}

/// What all lanes of a load have in common.
pub(crate) struct Course {
    pub(crate) requests: Requests,
    pub(crate) connector: Connector,
    pub(crate) check: Option<Arc<Check>>,
    pub(crate) begins: Instant,
    /// What ends from then on is counted.
    pub(crate) from: Instant,
    pub(crate) to: Instant,
}

/// What a lane's requests go over.
pub(crate) enum Way {
    Http1(Http1),
    Http2(Http2),
}

pub(crate) struct Lane {
    course: Arc<Course>,
    counter: Arc<Counter>,
    schedule: Option<Schedule>,
    rng: fastrand::Rng,
    way: Way,
}

impl Lane {
    pub(crate) fn new(plan: &Plan, number: usize, course: Arc<Course>, counter: Arc<Counter>, way: Way) -> Self {
        let schedule = plan.schedule(number, course.begins);
        let rng = fastrand::Rng::with_seed(plan.seed.wrapping_add(number as u64));
        Self { course, counter, schedule, rng, way }
    }

    /// Sends until the course's end.
    pub(crate) async fn run(mut self) {
        let (course, counter) = (Arc::clone(&self.course), Arc::clone(&self.counter));
        let Course { begins, from, to, .. } = *course;
        let mut limit = Limit::new(begins + ANSWER_LIMIT);
        let mut due = self.schedule.map_or(begins, |schedule| schedule.first);
        let mut now = Instant::now();
        loop {
            // The timer is late by up to a millisecond, which is nobody's latency: a request that was late because its lane was busy counts
            // from when it was due.
            let is_free = due > now;
            if is_free {
                tokio::time::sleep_until(due.min(to).into()).await;
                now = Instant::now();
            }
            let sent = now;
            if due.max(sent) >= to {
                counter.unsent(self.due_until(due, to));
                return;
            }
            let counted_from = if self.schedule.is_some() && !is_free { due } else { sent };
            let asked = course.requests.next(&mut self.rng);
            let outcome = limit.hold(to.min(sent + ANSWER_LIMIT), self.way.exchange(&course, asked)).await;
            let ended = Instant::now();
            now = ended;
            let counts = ended >= from && ended < to;
            if ended >= to {
                counter.unfinished();
            }
            let timed = Timed { ended, latency: ended - counted_from, service: ended - sent };
            match outcome {
                Some(Ok(exchanged)) => {
                    let is_right = course.check.as_ref().is_none_or(|check| check(&seen(asked, &exchanged, sent, &timed)));
                    counter.answered(&exchanged, asked.is_stale, is_right, &timed, counts);
                }
                Some(Err(failure)) => {
                    self.way.forget();
                    let is_connect = matches!(failure.kind, FailureKind::NotConnected | FailureKind::Tls);
                    counter.failed(failure, asked.is_stale, ended, counts);
                    if is_connect {
                        tokio::time::sleep(CONNECT_PAUSE).await;
                        now = Instant::now();
                    }
                }
                // The end of the run is nobody's failure.
                None if ended >= to => {
                    let next = self.schedule.map_or(to, |schedule| due + schedule.every);
                    counter.unsent(self.due_until(next, to));
                    return;
                }
                None => {
                    self.way.forget();
                    let why = format!("no answer within {} s", ANSWER_LIMIT.as_secs());
                    counter.failed(Failure::new(FailureKind::TimedOut, why), asked.is_stale, ended, counts);
                }
            }
            due = self.schedule.map_or(ended, |schedule| due + schedule.every);
        }
    }

    /// How many requests are due from one moment until before another.
    fn due_until(&self, first: Instant, to: Instant) -> u64 {
        let Some(schedule) = self.schedule.filter(|_| first < to) else { return 0 };
        ((to - first).as_secs_f64() / schedule.every.as_secs_f64().max(1e-9)).ceil() as u64
    }
}

impl Way {
    async fn exchange(&mut self, course: &Course, asked: Asked) -> Result<Exchanged, Failure> {
        match self {
            Self::Http1(way) => way.exchange(&course.connector, &course.requests, asked).await,
            Self::Http2(way) => way.exchange(&course.connector, &course.requests, asked).await,
        }
    }

    fn forget(&mut self) {
        if let Self::Http1(way) = self {
            way.forget();
        }
    }
}

fn seen(asked: Asked, exchanged: &Exchanged, sent: Instant, timed: &Timed) -> Seen {
    let (answer, Timed { ended, latency, .. }) = (exchanged.answer, *timed);
    Seen { key: asked.key, is_stale: asked.is_stale, status: answer.status, owner: answer.owner, sent, ended, latency }
}

/// A limit in time for one thing after the other, whose ends never come earlier than the last one's. It has one timer, which is moved only when it
/// has gone off: to arm one for each request costs more than to write the request.
struct Limit(Pin<Box<Sleep>>);

impl Limit {
    fn new(first: Instant) -> Self {
        Self(Box::pin(tokio::time::sleep_until(first.into())))
    }

    /// What comes of it, or nothing if it takes longer.
    async fn hold<T>(&mut self, until: Instant, what: impl Future<Output = T>) -> Option<T> {
        let mut what = pin!(what);
        poll_fn(|context| {
            if let Poll::Ready(outcome) = what.as_mut().poll(context) {
                return Poll::Ready(Some(outcome));
            }
            if self.0.deadline().into_std() > until {
                self.0.as_mut().reset(until.into());
            }
            while self.0.as_mut().poll(context).is_ready() {
                if Instant::now() >= until {
                    return Poll::Ready(None);
                }
                self.0.as_mut().reset(until.into());
            }
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_limit_holds_for_each_thing_anew() {
        let at = |ms| Instant::now() + Duration::from_millis(ms);
        let mut limit = Limit::new(at(10));
        assert_eq!(limit.hold(at(10), async { 1 }).await, Some(1));
        // Its timer goes off meanwhile, for the last thing.
        assert_eq!(limit.hold(at(60_000), tokio::time::sleep(Duration::from_millis(50))).await, Some(()));
        let (until, never) = (at(10), std::future::pending::<()>());
        assert_eq!(limit.hold(until, never).await, None);
        assert!(Instant::now() >= until);
    }
}
