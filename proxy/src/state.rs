//! What all requests of a process share, and the little that is told of each when it ends.
//!
//! Everything in here is read without a lock that a writer could hold for long; the table hangs on the view's one swapped pointer.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;
use tokio::sync::Notify;
use waypost_conf::{Drain, Name, ProcessLimits};
use waypost_policy::{
    Code, Exchange, Found, Head, Hints, Input, Moment, Next, Reply, Table, World,
    handover::Freezes,
    hints::Keeper,
    parking::{PACE, Parking},
    table::RequestKey,
};
use waypost_watcher::{Asker, Checked, View};

use crate::{
    access_log::{AccessLog, Line},
    admin::Door,
    clock::Clock,
    guard::Guard,
    metrics::Metrics,
    recent::Recent,
    tls::{Certificates, Upstreams},
    transport::ConnectionInfo,
};

/// Shared by transports, admin endpoints and background tasks.
pub(crate) struct Shared {
    /// This proxy's name.
    pub(crate) id: String,
    /// This proxy in `CDN-Loop`.
    pub(crate) cdn_id: String,
    pub(crate) clock: Clock,
    pub(crate) view: View,
    pub(crate) asker: Asker,
    pub(crate) hints: Hints,
    /// Requests that wait for the owner of their key to change.
    pub(crate) parking: Parking,
    /// Told when a request begins to wait, or some of a crowd are to be let go.
    pub(crate) someone_parked: Notify,
    /// Records that are frozen, and since when.
    pub(crate) freezes: Mutex<Freezes>,
    pub(crate) metrics: Metrics,
    pub(crate) access_log: AccessLog,
    pub(crate) recent: Recent,
    /// For listeners with TLS.
    pub(crate) certificates: Arc<Certificates>,
    /// For connections to upstreams with TLS.
    pub(crate) upstreams: Upstreams,
    /// Who may ask the admin endpoints.
    pub(crate) admin: Door,
    pub(crate) draining: AtomicBool,
    /// A place for each that may watch the table's changes.
    pub(crate) watchers: Arc<tokio::sync::Semaphore>,
    /// A place for each that may read all records.
    pub(crate) record_readers: Arc<tokio::sync::Semaphore>,
    /// What can be changed while it runs.
    pub(crate) tunable: ArcSwap<Tunable>,
    /// What the bootstrap file says that this version does not act on.
    pub(crate) bootstrap_warnings: Vec<String>,
    /// In a guard: what it stands before. Requests are then judged instead of routed.
    pub(crate) guard: Option<Guard>,
}

/// What the bootstrap file says of how much, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tunable {
    /// With `connections` filled in.
    pub(crate) limits: ProcessLimits,
    pub(crate) drain: Drain,
    /// How long a handover of the sockets may take.
    pub(crate) upgrade_limit: Duration,
}

impl Shared {
    /// What the process may hold, now.
    pub(crate) fn limits(&self) -> ProcessLimits {
        self.tunable.load().limits
    }

    /// How what is under way is ended.
    pub(crate) fn drain(&self) -> Drain {
        self.tunable.load().drain
    }

    /// How long a handover of the sockets may take.
    pub(crate) fn upgrade_limit(&self) -> Duration {
        self.tunable.load().upgrade_limit
    }

    /// Takes note of a request that has ended.
    pub(crate) fn finished(&self, line: &Line<'_>) {
        self.metrics.finished(line);
        let ended = SystemTime::now();
        self.recent.keep(line, ended);
        self.access_log.write(line, ended);
    }

    /// Takes note of a connection on which no request could be read.
    pub(crate) fn note_refused_head(&self, code: Code, request_id: &str, connection: &ConnectionInfo) {
        let trace = waypost_policy::exchange::Trace::default();
        self.finished(&Line::without_request(code, request_id, connection.client.ip(), &trace));
    }

    /// What is shared, as a step of this moment sees it.
    pub(crate) fn world<'a>(&'a self, table: &'a Table, rng: &'a mut fastrand::Rng) -> World<'a> {
        self.world_at(Instant::now(), table, rng)
    }

    fn world_at<'a>(&'a self, now: Instant, table: &'a Table, rng: &'a mut fastrand::Rng) -> World<'a> {
        let now = self.clock.moment(now);
        World { table, hints: &self.hints, now, gold_age: self.view.age(now), is_other_history: self.view.is_other_history(), rng }
    }

    /// One step of an exchange in the world of this moment.
    pub(crate) fn step<H: Head, R: Reply>(&self, exchange: &mut Exchange, head: &H, input: Input<'_, R>) -> Next {
        self.step_at(Instant::now(), exchange, head, input)
    }

    /// One step of an exchange in the world of this time, which is about now.
    pub(crate) fn step_at<H: Head, R: Reply>(&self, now: Instant, exchange: &mut Exchange, head: &H, input: Input<'_, R>) -> Next {
        let table = self.view.load();
        let Some(table) = table.as_ref() else { return Next::Answer(Code::NotReady) };
        let mut rng = fastrand::Rng::new();
        let mut world = self.world_at(now, table, &mut rng);
        let next = exchange.step(head, input, &mut world);
        if let Some(key) = exchange.take_learnt() {
            self.wake(&key, world.now);
        }
        next
    }

    /// A key has changed by an owner's word: whoever waits for it looks again, a crowd at its pace.
    pub(crate) fn wake(&self, key: &RequestKey, now: Moment) {
        if self.parking.wake(key, now).is_some() {
            self.someone_parked.notify_one();
        }
    }

    /// Has the store read for a key.
    pub(crate) async fn check(&self, service: &Name, key: &RequestKey) -> Found {
        match self.asker.check(service, key).await {
            Checked::Answered { began } => Found::Answered { began },
            Checked::Unavailable => Found::Unavailable,
            Checked::Capped => Found::Capped,
        }
    }

    /// Whether the process is on its way out.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// The frozen records. A poisoned lock guards plain data that is valid after any panic.
    pub(crate) fn freezes(&self) -> MutexGuard<'_, Freezes> {
        self.freezes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A table in force, and where keys are guarded the announcement in the store; or why not.
    pub(crate) fn readiness(&self) -> Result<(), Code> {
        let is_announced = self.guard.as_ref().is_none_or(|guard| guard.owner().is_some());
        match (self.is_draining(), is_announced && self.view.load().is_some()) {
            (true, _) => Err(Code::Draining),
            (false, false) => Err(Code::NotReady),
            (false, true) => Ok(()),
        }
    }
}

/// Keeps count of how long records have been frozen.
pub(crate) async fn keep_freezes(shared: Arc<Shared>) {
    let mut changed = shared.view.changed();
    loop {
        if let Some(table) = shared.view.load_full() {
            shared.freezes().look(&table, shared.clock.now());
        }
        if changed.changed().await.is_err() {
            return;
        }
    }
}

/// The waiting requests' keeper: wakes those whose key has changed in the table, and lets a crowd go at its pace.
pub(crate) async fn keep_parking(shared: Arc<Shared>) {
    let mut changed = shared.view.changed();
    let mut known: Option<Arc<Table>> = None;
    loop {
        if shared.parking.is_empty() {
            known = None;
            shared.someone_parked.notified().await;
        }
        let table = shared.view.load_full();
        // The same table as before has nothing new for anybody, those included who have come since: they have looked at it, or at a later one.
        let is_compared = known.as_ref().zip(table.as_ref()).is_some_and(|(before, after)| Arc::ptr_eq(before, after));
        if !is_compared {
            shared.parking.wake_changed(known.as_deref(), table.as_deref(), shared.clock.now());
        }
        known = table;
        tokio::select! {
            _ = changed.changed() => {}
            () = pace(shared.parking.let_go(shared.clock.now())) => {}
            () = shared.someone_parked.notified() => {}
        }
    }
}

/// Ends when the next of a crowd may go; never ends where there is none.
async fn pace(next: Option<Moment>) {
    match next {
        Some(_) => tokio::time::sleep(PACE).await,
        None => std::future::pending().await,
    }
}

/// The hints' keeper: ends those that the table has caught up with, and has old ones checked.
pub(crate) async fn keep_hints(shared: Arc<Shared>) {
    let mut changed = shared.view.changed();
    let mut keeper = Keeper::default();
    loop {
        let _ = tokio::time::timeout(Duration::from_secs(1), changed.changed()).await;
        let Some(table) = shared.view.load_full() else { continue };
        let turn = keeper.turn(&shared.world(&table, &mut fastrand::Rng::new()));
        if turn.is_another_incarnation {
            tracing::warn!(table = %table.id(), "the store's incarnation has changed; all hints are dropped");
        }
        for due in turn.due {
            let Some(service) = table.service(due.key.service).map(|service| service.name.clone()) else { continue };
            let found = shared.check(&service, &due.key).await;
            let Some(table) = shared.view.load_full() else { continue };
            keeper.checked(&due, found, &shared.world(&table, &mut fastrand::Rng::new()));
        }
    }
}
