//! Counts while a load runs: each thread counts for itself, second by second, and hands every second over when it is over.
//!
//! A request is recorded once, in the histogram of its second and class; totals are the sums of the seconds.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::Sender,
    },
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;

use crate::{
    connection::{Exchanged, Failure},
    report::{FailureKind, Failures, Second},
};

/// The largest latency that is told apart, in microseconds.
const MAX_US: u64 = 60_000_000;
/// Statuses are below this.
const STATUSES: usize = 1000;

/// How long a request took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timed {
    pub(crate) ended: Instant,
    /// As it counts.
    pub(crate) latency: Duration,
    /// From when it was sent.
    pub(crate) service: Duration,
}

/// Counts of a second, or of all.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    /// Of the keys, and of those that are stale.
    pub(crate) classes: Vec<ClassTally>,
    /// From when each was sent, where that is not what counts.
    pub(crate) service_us: Option<Histogram<u64>>,
    by_status: Vec<u64>,
    pub(crate) failures: Failures,
    pub(crate) unsent: u64,
    pub(crate) unfinished: u64,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) connections_made: u64,
}

/// Counts of one kind of key.
#[derive(Clone, Debug)]
pub(crate) struct ClassTally {
    pub(crate) latency_us: Histogram<u64>,
    /// Not answered, or 500 and above, or wrong.
    pub(crate) failed: u64,
}

/// What is told apart in a load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told {
    pub(crate) stale: bool,
    pub(crate) service: bool,
}

impl Tally {
    pub(crate) fn new(told: Told) -> Self {
        let class = ClassTally { latency_us: histogram(), failed: 0 };
        Self {
            classes: vec![class; if told.stale { 2 } else { 1 }],
            service_us: told.service.then(histogram),
            by_status: vec![0; STATUSES],
            failures: Failures::default(),
            unsent: 0,
            unfinished: 0,
            bytes_in: 0,
            bytes_out: 0,
            connections_made: 0,
        }
    }

    fn add(&mut self, other: &Self) {
        for (class, other) in self.classes.iter_mut().zip(&other.classes) {
            add(&mut class.latency_us, &other.latency_us);
            class.failed += other.failed;
        }
        if let (Some(service), Some(other)) = (&mut self.service_us, &other.service_us) {
            add(service, other);
        }
        self.by_status.iter_mut().zip(&other.by_status).for_each(|(count, other)| *count += other);
        self.failures.add(&other.failures);
        self.unsent += other.unsent;
        self.unfinished += other.unfinished;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.connections_made += other.connections_made;
    }

    fn clear(&mut self) {
        for class in &mut self.classes {
            class.latency_us.reset();
            class.failed = 0;
        }
        self.service_us.iter_mut().for_each(Histogram::reset);
        self.by_status.fill(0);
        self.failures = Failures::default();
        (self.unsent, self.unfinished, self.bytes_in, self.bytes_out, self.connections_made) = (0, 0, 0, 0, 0);
    }

    /// Latencies of all classes.
    pub(crate) fn latency_us(&self) -> Histogram<u64> {
        let mut all = histogram();
        self.classes.iter().for_each(|class| add(&mut all, &class.latency_us));
        all
    }

    pub(crate) fn failed(&self) -> u64 {
        self.classes.iter().map(|class| class.failed).sum()
    }

    pub(crate) fn by_status(&self) -> BTreeMap<u16, u64> {
        let counted = self.by_status.iter().enumerate().filter(|(_, count)| **count > 0);
        counted.map(|(status, count)| (status as u16, *count)).collect()
    }
}

/// What one thread counts.
pub(crate) struct Counter {
    current: Mutex<(Current, Tally)>,
    collector: Arc<Collector>,
    has_answers: AtomicBool,
}

/// The second that is counted now.
struct Current {
    number: usize,
    ends: Instant,
}

impl Counter {
    /// For what ends from `from` on.
    pub(crate) fn new(told: Told, from: Instant, collector: Arc<Collector>) -> Self {
        let current = Current { number: 0, ends: from + Duration::from_secs(1) };
        Self { current: Mutex::new((current, Tally::new(told))), collector, has_answers: AtomicBool::new(false) }
    }

    pub(crate) fn answered(&self, exchanged: &Exchanged, is_stale: bool, is_right: bool, timed: &Timed, counts: bool) {
        if !self.has_answers.load(Ordering::Relaxed) {
            self.has_answers.store(true, Ordering::Relaxed);
            self.collector.has_answers.store(true, Ordering::Relaxed);
        }
        let mut current = self.at(timed.ended);
        let tally = &mut current.1;
        tally.failures.wrong_answers += u64::from(!is_right);
        if !counts {
            return;
        }
        let status = usize::from(exchanged.answer.status).min(STATUSES - 1);
        tally.by_status[status] += 1;
        tally.bytes_in += exchanged.bytes_in;
        tally.bytes_out += exchanged.bytes_out;
        let class = &mut tally.classes[usize::from(is_stale)];
        class.failed += u64::from(status >= 500 || !is_right);
        record(&mut class.latency_us, timed.latency);
        if let Some(service) = &mut tally.service_us {
            record(service, timed.service);
        }
    }

    pub(crate) fn failed(&self, failure: Failure, is_stale: bool, ended: Instant, counts: bool) {
        self.collector.heard_of(&failure);
        if counts {
            let tally = &mut self.at(ended).1;
            tally.classes[usize::from(is_stale)].failed += 1;
            tally.failures.count(failure.kind, failure.said);
        }
    }

    /// Requests that were due and not sent when the load ended.
    pub(crate) fn unsent(&self, count: u64) {
        self.lock().1.unsent += count;
    }

    /// A request that was under way when the load ended.
    pub(crate) fn unfinished(&self) {
        self.lock().1.unfinished += 1;
    }

    /// Hands over what has been counted of seconds that are over, with the connections made meanwhile.
    pub(crate) fn pass(&self, now: Instant, connections_made: u64) {
        self.at(now).1.connections_made += connections_made;
    }

    /// Hands over the rest.
    pub(crate) fn finish(&self) {
        let (current, tally) = &mut *self.lock();
        self.collector.take(current.number, tally);
    }

    fn at(&self, now: Instant) -> MutexGuard<'_, (Current, Tally)> {
        let mut guard = self.lock();
        while now >= guard.0.ends {
            let (current, tally) = &mut *guard;
            self.collector.take(current.number, tally);
            tally.clear();
            current.number += 1;
            current.ends += Duration::from_secs(1);
        }
        guard
    }

    fn lock(&self) -> MutexGuard<'_, (Current, Tally)> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sums over all threads.
pub(crate) struct Collector {
    threads: usize,
    sums: Mutex<Sums>,
    has_answers: AtomicBool,
    first_failure: Mutex<Option<String>>,
    /// Each second that all threads have handed over.
    seconds: Sender<Second>,
}

struct Sums {
    total: Tally,
    /// Seconds that not all threads have handed over, and how many have.
    open: BTreeMap<usize, (usize, Tally)>,
    told: Told,
}

impl Collector {
    pub(crate) fn new(threads: usize, told: Told, seconds: Sender<Second>) -> Self {
        let sums = Sums { total: Tally::new(told), open: BTreeMap::new(), told };
        Self { threads, sums: Mutex::new(sums), has_answers: AtomicBool::new(false), first_failure: Mutex::default(), seconds }
    }

    /// The first failure, if nothing has been answered yet: this load is none.
    pub(crate) fn only_failure(&self) -> Option<String> {
        if self.has_answers.load(Ordering::Relaxed) {
            return None;
        }
        self.first_failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All that was counted.
    pub(crate) fn total(&self) -> Tally {
        self.sums.lock().unwrap_or_else(PoisonError::into_inner).total.clone()
    }

    fn heard_of(&self, failure: &Failure) {
        if !self.has_answers.load(Ordering::Relaxed) {
            self.first_failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| failure.said.clone());
        }
    }

    fn take(&self, number: usize, tally: &Tally) {
        let mut sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        let told = sums.told;
        sums.total.add(tally);
        let (threads, sum) = sums.open.entry(number).or_insert_with(|| (0, Tally::new(told)));
        *threads += 1;
        sum.add(tally);
        if *threads < self.threads {
            return;
        }
        let Some((_, sum)) = sums.open.remove(&number) else { return };
        drop(sums);
        let second = Second::new(number, &sum);
        // Nobody hears of it once the load is over.
        let _ = self.seconds.send(second);
    }
}

impl Failures {
    fn count(&mut self, kind: FailureKind, said: String) {
        *match kind {
            FailureKind::NotConnected => &mut self.not_connected,
            FailureKind::Tls => &mut self.tls,
            FailureKind::Broken => &mut self.broken,
            FailureKind::Reset => &mut self.reset,
            FailureKind::Protocol => &mut self.protocol,
            FailureKind::TimedOut => &mut self.timed_out,
        } += 1;
        self.first.get_or_insert(said);
    }

    fn add(&mut self, other: &Self) {
        self.not_connected += other.not_connected;
        self.tls += other.tls;
        self.broken += other.broken;
        self.reset += other.reset;
        self.protocol += other.protocol;
        self.timed_out += other.timed_out;
        self.wrong_answers += other.wrong_answers;
        if self.first.is_none() {
            self.first.clone_from(&other.first);
        }
    }
}

fn histogram() -> Histogram<u64> {
    // Three digits; bounds that are constants can't be wrong.
    Histogram::new_with_bounds(1, MAX_US, 3).unwrap_or_else(|_| unreachable!("the bounds are constants"))
}

fn add(to: &mut Histogram<u64>, other: &Histogram<u64>) {
    // Same bounds everywhere: adding can't fail.
    let _ = to.add(other);
}

fn record(to: &mut Histogram<u64>, latency: Duration) {
    to.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(MAX_US).max(1));
}
