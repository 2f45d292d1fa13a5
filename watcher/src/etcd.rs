//! The shell around the machine: connects, lists, watches and reads for checks, and puts tables in force.
//!
//! One task owns the applier and the publisher, so that whatever is learnt, by watch, list or check, comes in at one place and in
//! order. Nothing is decided here.

mod anchored;
mod checks;
mod confirm;
mod digest;
mod list;
mod others;
mod tell;
mod wire;

use std::{
    pin::Pin,
    time::{Duration, Instant, SystemTime},
};

use etcd_client::{Client, WatchStream};
use tokio::sync::{mpsc, watch};
use waypost_policy::{Source, TableId};

use crate::{
    Settings,
    applier::{Applier, Refused, Said, Settled},
    ask::Ask,
    change::Change,
    connect::{EtcdPlace, Reads, Wanted, say_later},
    digest_check::{Compared, DigestCheck},
    listed::Listed,
    machine::{Applied, Effect, History, Input, Machine, other_history},
    pace::Pace,
    publish::{DigestChecked, News, Publisher},
    ranges,
    snapshot::{self, Saver},
};
use checks::{Checks, Found, Read};
use confirm::Confirming;
use list::list;
pub(crate) use list::{Fault, Reader};
use tell::say_empty;
pub(crate) use wire::stored;
use wire::{Cursor, Done, heard, open_watch, say_hello};

/// What a list is expected to take for each route that a snapshot holds, before there was one (a million: 0.9 s).
const LIST_TAKES_A_ROUTE: Duration = Duration::from_micros(1);
/// The longest that the loop waits for something to happen.
const TURN_EVERY: Duration = Duration::from_secs(1);

type Work = Pin<Box<dyn Future<Output = Done> + Send>>;

/// The source.
pub(crate) struct EtcdSource {
    place: EtcdPlace,
    settings: Settings,
    machine: Machine,
    applier: Applier,
    publisher: Publisher,
    saver: Option<Saver>,
    /// The snapshot is another process's as soon as what is due of it has been written.
    is_leaving: bool,
    rng: fastrand::Rng,
    has_table: bool,
    cluster_id: Option<u64>,
    /// One connection for reads, one for the watch: a watch that catches up must not starve a check.
    connection: Option<Reads>,
    /// The last connection to a store of the history in force: what checks, confirmations and digests read over.
    reads: Option<Reads>,
    /// Whether the present connection is that one.
    is_proven: bool,
    watches: Option<Client>,
    stream: Option<Box<WatchStream>>,
    /// An answer of the watch was too large.
    wants_fragments: bool,
    /// The stream of the last list broke: the next one is made of ranges, in case that something between here and the store bears no streams.
    wants_ranges: bool,
    work: Option<Work>,
    checks: Checks,
    confirming: Confirming,
    digest_check: DigestCheck,
    digest_read: digest::Reading,
    is_watching: bool,
    pace: Pace,
    /// When what is said of very many records may be told again.
    tell_at: Instant,
}

impl EtcdSource {
    /// Makes the source; a good snapshot is in force afterwards.
    pub(crate) fn open(place: EtcdPlace, settings: Settings, mut publisher: Publisher) -> Result<Self, String> {
        let mut rng = fastrand::Rng::with_seed(settings.seed);
        let mut applier = Applier::new(TableId::etcd(0, 0), Source::Watch, settings.allow_empty).with_limit(settings.most_records);
        let mut has_table = false;
        let mut saver = settings.snapshot.clone().map(|path| Saver::open(path, settings.snapshot_inherited)).transpose()?;
        if let Some(path) = &settings.snapshot {
            let since = Instant::now();
            if let Some(loaded) = snapshot::load_or_set_aside(path, settings.allow_empty) {
                applier = loaded.applier.with_limit(settings.most_records);
                has_table = true;
                if let Some(saver) = &mut saver {
                    saver.loaded(applier.revision());
                }
                publisher.publish(applier.publish(), since, News::default());
                tracing::info!(revision = applier.revision(), snapshot = %path.display(), "serving from the snapshot");
            }
        }
        let routes = u32::try_from(applier.route_count()).unwrap_or(u32::MAX);
        let first = rng.usize(0..place.endpoints.len().max(1));
        let checks = Checks::new(settings.now());
        let digest_check = DigestCheck::new(settings.digest_check_every, settings.now(), &mut rng);
        let mut source = Self {
            machine: Machine::new(place.endpoints.len(), first).with_lists_of(LIST_TAKES_A_ROUTE.saturating_mul(routes)),
            place,
            settings,
            applier,
            publisher,
            saver,
            is_leaving: false,
            rng,
            has_table,
            cluster_id: None,
            connection: None,
            reads: None,
            is_proven: false,
            watches: None,
            stream: None,
            wants_fragments: false,
            wants_ranges: false,
            work: None,
            checks,
            confirming: Confirming::default(),
            digest_check,
            digest_read: digest::Reading::default(),
            is_watching: false,
            tell_at: Instant::now(),
            pace: Pace::default(),
        };
        let prefix = source.place.prefix.clone();
        source.publisher.report(|status| status.prefix = prefix);
        source.report_snapshot();
        source.report_records();
        Ok(source)
    }

    /// Follows the store until stopped. From when `leave` is true the snapshot is another process's.
    pub(crate) async fn run(mut self, mut asks: mpsc::Receiver<Ask>, mut stopped: watch::Receiver<bool>, mut leave: watch::Receiver<bool>) {
        self.feed(Input::Start, Instant::now()).await;
        loop {
            self.machine.ask_every(self.publisher.freshness_wanted());
            // At least so often, so that it is seen to be at work.
            let wake = self.machine.wake_at().map_or(TURN_EVERY, |at| at.since(self.settings.now()).min(TURN_EVERY));
            self.publisher.turned();
            let has_snapshot = self.saver.is_some() && !self.is_leaving;
            let save = self.saver.as_ref().filter(|_| !self.is_leaving).and_then(Saver::due_in).unwrap_or(Duration::from_secs(3600));
            let tell =
                if self.applier.has_news() { self.tell_at.saturating_duration_since(Instant::now()) } else { Duration::from_secs(3600) };
            let publish = self.pace.due_in(Instant::now()).unwrap_or(Duration::from_secs(3600));
            tokio::select! {
                () = stopping(&mut stopped) => break,
                done = progress(&mut self.work) => self.worked(done).await,
                heard = heard(&mut self.stream, &self.place) => {
                    if heard.is_too_large && !self.wants_fragments {
                        tracing::info!("the watch has more to say than one answer may hold; it is asked for in fragments from now on");
                        self.wants_fragments = true;
                    }
                    self.feed(heard.input, heard.arrived).await;
                }
                Some(ask) = asks.recv() => self.ask(ask).await,
                read = self.checks.next() => self.read(read).await,
                read = self.digest_read.next() => self.digest_read(read).await,
                said = self.confirming.next() => self.confirmed(said).await,
                () = tokio::time::sleep(publish) => self.put_in_force(Instant::now(), Vec::new()),
                () = tokio::time::sleep(wake) => {
                    self.feed(Input::Tick, Instant::now()).await;
                    self.check_digest().await;
                }
                () = tokio::time::sleep(save) => self.save(),
                () = tokio::time::sleep(tell) => self.report_records(),
                () = written(&mut self.saver) => {
                    self.report_snapshot();
                    if self.is_leaving {
                        self.leave_snapshot();
                    }
                }
                () = leaving(&mut leave, has_snapshot) => self.leave_snapshot(),
            }
        }
        if let Some(saver) = &mut self.saver {
            saver.save_last(&self.applier).await;
        }
    }

    /// Has written what is due, and leaves the file to whoever claims it next. A disk that hangs keeps no change from being applied.
    fn leave_snapshot(&mut self) {
        self.is_leaving = true;
        if self.saver.as_mut().is_some_and(|saver| saver.leave(&self.applier)) {
            self.saver = None;
        }
    }

    /// `arrived` is when the input came from the store.
    async fn feed(&mut self, input: Input, arrived: Instant) {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            let applied = Applied { revision: self.applier.revision(), id: self.has_table.then(|| self.applier.id().clone()) };
            let effects = self.machine.step(input, &applied, self.settings.now(), &mut self.rng);
            for effect in effects {
                // What was to follow an effect that could not be carried out is not done.
                if let Some(next) = self.carry_out(effect, arrived).await {
                    inputs.push(next);
                    break;
                }
            }
        }
        self.heed_history();
    }

    /// What may be read over, by what is known of the store's history.
    fn heed_history(&mut self) {
        let history = self.machine.history();
        let was_proven = std::mem::replace(&mut self.is_proven, history == History::Proven);
        let is_other = history == History::Other;
        if is_other {
            self.reads = None;
        } else if self.is_proven && !was_proven {
            self.reads = self.connection.clone();
            self.confirm();
        }
        if is_other != self.publisher.status().is_other_history {
            self.publisher.report(|status| status.is_other_history = is_other);
        }
    }

    async fn carry_out(&mut self, effect: Effect, arrived: Instant) -> Option<Input> {
        match effect {
            Effect::Connect { endpoint } => {
                self.disconnect();
                let endpoint = self.place.endpoints.get(endpoint).cloned().unwrap_or_default();
                let cursor = self.has_table.then(|| Cursor {
                    table: self.applier.id().clone(),
                    revision: self.applier.revision(),
                    last_changes: self.applier.last_changes().clone(),
                    incarnation: self.applier.incarnation(),
                });
                self.work = Some(Box::pin(say_hello(self.place.clone(), endpoint, cursor)));
            }
            Effect::Disconnect => self.disconnect(),
            Effect::List { revision } => {
                let asked = list::Asked {
                    prefix: self.place.prefix.clone(),
                    revision,
                    // Of the table in force, or of the snapshot's: however old, they only cut.
                    fences: ranges::fences(self.applier.sample(ranges::ONE_IN)),
                    may_stream: !std::mem::take(&mut self.wants_ranges),
                    most_records: self.settings.most_records,
                };
                self.work = Some(Box::pin(list(self.connection.clone(), asked)));
            }
            Effect::Watch { from } => {
                let watches = self.watches.as_ref().map(Client::watch_client);
                let whole = (!self.wants_fragments).then_some(self.settings.most_watch_bytes);
                self.work = Some(Box::pin(open_watch(watches, self.place.clone(), from, whole)));
            }
            Effect::Apply { events, revision } => {
                self.applier.note_touches(self.publisher.is_watched());
                let applied = self.applier.apply(events);
                if self.pace.changed(arrived, Instant::now()) {
                    self.put_in_force(arrived, Vec::new());
                }
                if let Err(refused) = applied {
                    return Some(refusal(&refused));
                }
                self.applier.advance(revision);
                self.confirm();
                let id = self.cluster_id.map(|cluster| TableId::etcd(cluster, self.applier.incarnation()));
                return id.filter(|id| id != self.applier.id()).map(|_| Input::NewIncarnation);
            }
            Effect::Resync { revision, records, id, fresh, reason } => {
                return self.resync(revision, records, id, fresh, reason, arrived).err().map(|refused| refusal(&refused));
            }
            Effect::Advance { revision } => {
                self.applier.advance(revision);
                if let Some(saver) = &mut self.saver {
                    saver.moved();
                }
                if self.pace.due_in(Instant::now()).is_some() {
                    self.put_in_force(Instant::now(), Vec::new());
                } else {
                    self.publisher.advance(self.applier.publish());
                    self.checks.reached(self.applier.revision());
                }
            }
            Effect::Alive => {
                self.publisher.fresh();
                // What was too large has been got past.
                self.wants_fragments = false;
            }
            Effect::AskProgress => return self.ask_progress().await,
            Effect::Report { error, again_in } => {
                self.is_watching = error.is_none();
                self.report_contact(error, again_in);
                if self.is_watching && self.applier.confirm() {
                    self.put_in_force(Instant::now(), Vec::new());
                }
            }
        }
        None
    }

    fn resync(
        &mut self,
        revision: u64,
        records: Listed,
        id: TableId,
        fresh: bool,
        reason: &'static str,
        arrived: Instant,
    ) -> Result<(), Refused> {
        self.applier.note_touches(self.publisher.is_watched());
        let mut first = Vec::new();
        if fresh {
            tracing::warn!(table = %id, "the store is another incarnation than before: epochs start afresh, hints are dropped");
            first.push(Change::NewIncarnation { table: id.to_string() });
        }
        self.applier.resync(revision, records, id, fresh)?;
        self.has_table = true;
        let held_back = self.applier.held_back().len();
        if reason != "first" {
            self.publisher.report(|status| *status.resyncs.entry(reason).or_default() += 1);
        }
        first.push(Change::Resync { reason, routes: self.applier.route_count(), held_back });
        self.put_in_force(arrived, first);
        self.confirm();
        tracing::info!(revision, reason, took = ?arrived.elapsed(), "the store was listed");
        Ok(())
    }

    /// Begins a digest check when it is time, and ends one when its answer is known.
    async fn check_digest(&mut self) {
        let now = self.settings.now();
        if self.digest_check.is_due(self.is_watching, now, &mut self.rng) {
            self.digest_read.revision(self.reads.clone(), &self.place.prefix);
        }
        let Some(Compared { revision, is_equal }) = self.digest_check.compare(&self.applier, now, &mut self.rng) else { return };
        self.publisher.report(|status| {
            status.digest_checked = Some(DigestChecked { revision, at: SystemTime::now(), is_equal });
            *status.digest_checks.entry(if is_equal { "equal" } else { "different" }).or_default() += 1;
        });
        if is_equal {
            tracing::info!(revision, "the table is what the store holds: their digests are equal");
        } else {
            tracing::error!(
                revision,
                "the table is not what the store holds: a change was lost, or the store is another; it is listed again"
            );
            self.feed(Input::Distrusted("digest"), Instant::now()).await;
        }
    }

    async fn digest_read(&mut self, read: digest::Read) {
        let now = self.settings.now();
        match read {
            digest::Read::Revision(revision) => {
                if let Some(revision) = self.digest_check.asked(revision, &mut self.applier) {
                    let reads = self.reads.clone();
                    self.digest_read.digest(
                        reads,
                        self.place.prefix.clone(),
                        revision,
                        ranges::fences(self.applier.sample(ranges::ONE_IN)),
                    );
                }
            }
            digest::Read::Digest(digest) => self.digest_check.read(digest, &self.applier, now),
            digest::Read::Nothing => self.digest_check.fail(now, &mut self.rng),
        }
        self.check_digest().await;
    }

    fn disconnect(&mut self) {
        self.is_watching = false;
        self.digest_read.give_up();
        self.digest_check.fail(self.settings.now(), &mut self.rng);
        self.stream = None;
        self.work = None;
        self.watches = None;
        self.connection = None;
        self.confirming.give_up();
        // Checks go on over the old connection until there is a new one, if they can prove what they read.
        self.publisher.report(|status| status.connected = false);
    }

    /// `first` is told to those who watch before what differs.
    fn put_in_force(&mut self, since: Instant, first: Vec<Change>) {
        // Told first: whoever sees the table sees what is to be said of its records.
        self.report_records();
        let since = self.pace.publishing(Instant::now()).map_or(since, |first| first.min(since));
        let news = News { first, touches: self.applier.take_touches() };
        self.publisher.publish(self.applier.publish(), since, news);
        self.pace.published(Instant::now());
        self.checks.reached(self.applier.revision());
        if let Some(saver) = &mut self.saver {
            saver.changed();
        }
    }

    async fn worked(&mut self, done: Done) {
        let arrived = Instant::now();
        self.work = None;
        let input = match done {
            Done::Connected(clients, hello, endpoint) => {
                let (reads, watches) = *clients;
                self.connection = Some(reads);
                self.watches = Some(watches);
                self.cluster_id = Some(hello.cluster_id);
                let cluster_id = format!("{:x}", hello.cluster_id);
                self.publisher.report(|status| {
                    status.cluster_id = cluster_id;
                    status.endpoint = Some(endpoint);
                });
                Input::Connected(hello)
            }
            Done::Opened(stream, revision) => {
                self.stream = Some(stream);
                Input::Opened { revision }
            }
            Done::Broken(why) => {
                self.wants_ranges = true;
                Input::Failed(why)
            }
            Done::Only(input) => input,
        };
        self.feed(input, arrived).await;
    }

    /// Has a mass delete confirmed, if there is one in doubt.
    fn confirm(&mut self) {
        let reads = self.reads.clone().filter(|_| self.is_proven);
        self.confirming.begin(self.applier.to_confirm(), reads, &self.place.prefix);
    }

    async fn confirmed(&mut self, said: Said) {
        let since = Instant::now();
        self.applier.note_touches(self.publisher.is_watched());
        match self.applier.settle(said) {
            Settled::Past => {}
            Settled::Taken(routes) => {
                tracing::warn!(routes, "the store has confirmed that most routes were deleted: they are gone");
                self.put_in_force(since, Vec::new());
            }
            Settled::Empty(routes) => say_empty(routes),
            Settled::Contradicted(routes) => {
                tracing::error!(routes, "the watch said that these routes were deleted, but the store has them: it is listed again");
                self.feed(Input::Distrusted("contradicted"), since).await;
            }
        }
    }

    async fn ask(&mut self, ask: Ask) {
        let check = match ask {
            Ask::Check(check) => check,
            Ask::Listing(answer) => return drop(answer.send(self.applier.listing())),
            Ask::ListAnew => return self.feed(Input::ListAnew, Instant::now()).await,
        };
        let is_exact = self.applier.is_exact(&check.service);
        // A store that has come up again at the same address may be a restored one.
        let proof = self.applier.last_changes().newest().filter(|_| !self.is_proven).cloned();
        let reads = self.reads.clone().filter(|_| self.is_proven || proof.is_some());
        self.checks.ask(check, is_exact, reads, proof, &self.place.prefix, self.settings.now());
    }

    async fn read(&mut self, read: Read) {
        let Read { key, found, is_proven, .. } = read;
        let may_be_taken = match self.machine.history() {
            History::Proven => true,
            History::Unknown => is_proven,
            History::Other => false,
        };
        if !may_be_taken {
            return self.checks.fail(&key);
        }
        // An answer speaks of what is in force.
        if self.pace.due_in(Instant::now()).is_some() {
            self.put_in_force(Instant::now(), Vec::new());
        }
        match found {
            Found::Nothing => self.checks.fail(&key),
            Found::Record { record, revision, stored } => {
                let since = Instant::now();
                self.applier.note_touches(self.publisher.is_watched());
                if self.applier.adopt(key.clone(), &record, revision, stored) {
                    let news = News { first: Vec::new(), touches: self.applier.take_touches() };
                    self.publisher.publish(self.applier.publish(), since, news);
                }
                self.checks.answer(&key);
            }
            Found::Revision(revision) if revision <= self.applier.revision() => self.checks.answer(&key),
            Found::Revision(revision) => {
                self.checks.wait_for(revision, key);
                // A store that has nothing more for us says so only when asked.
                if let Some(failed) = self.ask_progress().await {
                    self.feed(failed, Instant::now()).await;
                }
            }
        }
    }

    async fn ask_progress(&mut self) -> Option<Input> {
        let asked = self.stream.as_mut()?.request_progress().await;
        asked.err().map(|error| Input::Failed(format!("the watch broke: etcd {}", say_later(&error, Wanted::Read))))
    }

    fn save(&mut self) {
        if let Some(saver) = &mut self.saver {
            saver.save(&self.applier);
        }
    }
}

/// What the machine is told of what was not taken.
fn refusal(refused: &Refused) -> Input {
    let (why, reason, is_lasting) = match refused {
        Refused::Late(_) => (format!("{refused}; the store is listed again"), "late", false),
        Refused::Full(_) => (refused.to_string(), "full", true),
        Refused::OtherHistory { .. } => (other_history(&refused.to_string()), "history", true),
    };
    Input::Refused { why, reason, is_lasting }
}

/// Ends when the watcher is to stop, or its handle has gone.
async fn stopping(stopped: &mut watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

/// Ends when the snapshot is to be left; never ends where there is none, or none any more.
async fn leaving(leave: &mut watch::Receiver<bool>, has_one: bool) {
    // The handle's going means the process's end, which is seen elsewhere.
    if !has_one || leave.wait_for(|leave| *leave).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// The end of the snapshot's writing; never ends while there is none.
async fn written(saver: &mut Option<Saver>) {
    match saver {
        Some(saver) => saver.written().await,
        None => std::future::pending().await,
    }
}

/// The present piece of work; never ends while there is none.
async fn progress(work: &mut Option<Work>) -> Done {
    match work {
        Some(work) => work.await,
        None => std::future::pending().await,
    }
}
