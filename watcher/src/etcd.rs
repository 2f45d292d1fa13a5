//! The shell around the machine: connects, lists, watches and reads for checks, and puts tables in force.
//!
//! One task owns the applier and the publisher, so that whatever is learnt, by watch, list or check, comes in at one place and in
//! order. Nothing is decided here.

use std::{
    collections::HashMap,
    pin::Pin,
    time::{Duration, Instant},
};

use etcd_client::{Client, EventType, GetOptions, KeyValue, KvClient, WatchOptions, WatchStream};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
};
use waypost_conf::RecordKey;
use waypost_policy::{
    Source, TableId,
    checks::{CHECK_TIMEOUT, CheckBudget},
    table::RequestKey,
};

use crate::{
    Settings,
    applier::Applier,
    ask::{Ask, Checked},
    connect::{EtcdPlace, MAX_MESSAGE_BYTES, connect, say},
    machine::{Anchor, Applied, Effect, Hello, Input, Machine},
    publish::Publisher,
    record::{Event, Stored},
    snapshot::{self, Saver},
};

/// Records a page of a list.
const PAGE: i64 = 5000;
/// How long a read of a new connection, or a page of a list, may take.
const READ_LIMIT: Duration = Duration::from_secs(20);

/// What a piece of work ends with, beside the machine's input.
enum Done {
    Connected(Box<(Client, Client)>, Hello, String),
    Opened(Box<WatchStream>, u64),
    Only(Input),
}

type Work = Pin<Box<dyn Future<Output = Done> + Send>>;
type Read = (RequestKey, RecordKey, Option<(u64, Option<Stored>)>);

/// The source.
pub(crate) struct EtcdSource {
    place: EtcdPlace,
    settings: Settings,
    machine: Machine,
    applier: Applier,
    publisher: Publisher,
    saver: Option<Saver>,
    rng: fastrand::Rng,
    has_table: bool,
    cluster_id: Option<u64>,
    /// One connection for reads, one for the watch: a watch that catches up must not starve a check.
    reads: Option<Client>,
    watches: Option<Client>,
    stream: Option<Box<WatchStream>>,
    work: Option<Work>,
    checks: JoinSet<Read>,
    askers: HashMap<RequestKey, Vec<oneshot::Sender<Checked>>>,
    budget: CheckBudget,
}

impl EtcdSource {
    /// Makes the source; a good snapshot is in force afterwards.
    pub(crate) fn open(place: EtcdPlace, settings: Settings, mut publisher: Publisher) -> Result<Self, String> {
        let mut rng = fastrand::Rng::with_seed(settings.seed);
        let mut applier = Applier::new(TableId::etcd(0, 0), Source::Watch, settings.allow_empty);
        let mut has_table = false;
        let saver = settings.snapshot.clone().map(Saver::open).transpose()?;
        if let Some(path) = &settings.snapshot {
            let since = Instant::now();
            if let Some(loaded) = snapshot::load_or_set_aside(path, settings.allow_empty) {
                applier = loaded;
                has_table = true;
                publisher.publish(applier.publish(), since);
                tracing::info!(revision = applier.revision(), snapshot = %path.display(), "serving from the snapshot");
            }
        }
        let first = rng.usize(0..place.endpoints.len().max(1));
        let budget = CheckBudget::new(settings.now());
        let mut source = Self {
            machine: Machine::new(place.endpoints.len(), first),
            place,
            settings,
            applier,
            publisher,
            saver,
            rng,
            has_table,
            cluster_id: None,
            reads: None,
            watches: None,
            stream: None,
            work: None,
            checks: JoinSet::new(),
            askers: HashMap::new(),
            budget,
        };
        source.report_records();
        Ok(source)
    }

    /// Follows the store until stopped.
    pub(crate) async fn run(mut self, mut asks: mpsc::Receiver<Ask>, mut stopped: watch::Receiver<bool>) {
        self.feed(Input::Start).await;
        loop {
            let wake = self.machine.wake_at().map_or(Duration::from_secs(3600), |at| at.since(self.settings.now()));
            let save = self.saver.as_ref().and_then(Saver::due_in).unwrap_or(Duration::from_secs(3600));
            tokio::select! {
                () = stopping(&mut stopped) => break,
                done = progress(&mut self.work) => self.worked(done).await,
                input = heard(&mut self.stream, self.place.prefix.len() + 1) => self.feed(input).await,
                Some(ask) = asks.recv() => self.ask(ask),
                Some(read) = self.checks.join_next(), if !self.checks.is_empty() => self.read(read.ok()),
                () = tokio::time::sleep(wake) => self.feed(Input::Tick).await,
                () = tokio::time::sleep(save) => self.save().await,
            }
        }
        if let Some(saver) = &mut self.saver {
            saver.save_last(&self.applier).await;
        }
    }

    async fn feed(&mut self, input: Input) {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            let applied = Applied { revision: self.applier.revision(), id: self.has_table.then(|| self.applier.id().clone()) };
            let effects = self.machine.step(input, &applied, self.settings.now(), &mut self.rng);
            for effect in effects {
                if let Some(next) = self.carry_out(effect).await {
                    inputs.push(next);
                }
            }
        }
    }

    async fn carry_out(&mut self, effect: Effect) -> Option<Input> {
        match effect {
            Effect::Connect { endpoint } => {
                self.disconnect();
                let endpoint = self.place.endpoints.get(endpoint).cloned().unwrap_or_default();
                let cursor = self.has_table.then(|| (self.applier.revision(), self.applier.anchor().cloned()));
                self.work = Some(Box::pin(say_hello(self.place.clone(), endpoint, cursor)));
            }
            Effect::Disconnect => self.disconnect(),
            Effect::List { revision } => {
                let reads = self.reads.as_ref().map(Client::kv_client);
                self.work = Some(Box::pin(list(reads, self.place.prefix.clone(), revision)));
            }
            Effect::Watch { from } => {
                let watches = self.watches.as_ref().map(Client::watch_client);
                self.work = Some(Box::pin(open_watch(watches, self.place.prefix.clone(), from)));
            }
            Effect::Apply { events, revision } => {
                let since = Instant::now();
                self.applier.apply(events);
                self.applier.advance(revision);
                self.put_in_force(since);
                let id = self.cluster_id.map(|cluster| TableId::etcd(cluster, self.applier.incarnation()));
                return id.filter(|id| id != self.applier.id()).map(|_| Input::NewIncarnation);
            }
            Effect::Resync { revision, records, id, fresh, reason } => {
                let since = Instant::now();
                if fresh {
                    tracing::warn!(table = %id, "the store is another incarnation than before: epochs start afresh, hints are dropped");
                }
                self.applier.resync(revision, records, id, fresh);
                self.has_table = true;
                self.put_in_force(since);
                if reason != "first" {
                    self.publisher.report(|status| *status.resyncs.entry(reason).or_default() += 1);
                }
                tracing::info!(revision, reason, took = ?since.elapsed(), "the store was listed");
            }
            Effect::Advance { revision } => {
                self.applier.advance(revision);
                self.put_in_force(Instant::now());
            }
            Effect::Alive => self.publisher.fresh(),
            Effect::AskProgress => {
                if let Some(stream) = &mut self.stream
                    && let Err(error) = stream.request_progress().await
                {
                    return Some(Input::Failed(format!("the watch broke: {}", say(&error))));
                }
            }
            Effect::Report { error, again_in } => self.report_contact(error, again_in),
        }
        None
    }

    fn disconnect(&mut self) {
        self.stream = None;
        self.work = None;
        self.watches = None;
        // Reads go on over the old connection until there is a new one: a check may still succeed.
        self.publisher.report(|status| status.connected = false);
    }

    fn report_contact(&mut self, error: Option<String>, again_in: Option<Duration>) {
        if let Some(error) = &error {
            tracing::warn!(
                "the gold copy: {error}; trying again in {:?}; what is known goes on being served",
                again_in.unwrap_or_default()
            );
        } else {
            tracing::info!(revision = self.applier.revision(), "watching the gold copy");
        }
        self.publisher.report(|status| {
            status.connected = error.is_none();
            status.last_error = error;
        });
    }

    fn put_in_force(&mut self, since: Instant) {
        let table = self.applier.publish();
        self.publisher.publish(table, since);
        self.report_records();
        if let Some(saver) = &mut self.saver {
            saver.changed();
        }
    }

    /// Tells what is quarantined, held back and noted, if that has changed.
    fn report_records(&mut self) {
        let (quarantined, held_back, warnings) =
            (self.applier.held(&self.place.prefix), self.applier.held_back().to_vec(), self.applier.notes());
        let known = self.publisher.status();
        if (&known.quarantined, &known.held_back, &known.warnings) == (&quarantined, &held_back, &warnings) {
            return;
        }
        for held in quarantined.iter().filter(|held| !known.quarantined.contains(held)) {
            tracing::warn!(key = held.key, revision = held.revision, "quarantined: {}", held.reason);
        }
        self.publisher.report(|status| {
            status.quarantined = quarantined;
            status.held_back = held_back;
            status.warnings = warnings;
        });
    }

    async fn worked(&mut self, done: Done) {
        self.work = None;
        let input = match done {
            Done::Connected(clients, hello, endpoint) => {
                let (reads, watches) = *clients;
                self.reads = Some(reads);
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
            Done::Only(input) => input,
        };
        self.feed(input).await;
    }

    fn ask(&mut self, ask: Ask) {
        let Ask { service, key, answer } = ask;
        if let Some(waiting) = self.askers.get_mut(&key) {
            waiting.push(answer);
            return;
        }
        let Some(mut reads) = self.reads.as_ref().map(Client::kv_client) else {
            let _ = answer.send(Checked::Unavailable);
            return;
        };
        if !self.budget.draw(self.settings.now()) {
            let _ = answer.send(Checked::Capped);
            return;
        }
        self.askers.insert(key.clone(), vec![answer]);
        let route_key = RecordKey::Route { service, key: key.key.to_vec() };
        let full_key = [self.place.prefix.as_bytes(), b"/", &route_key.suffix()].concat();
        let prefix_len = self.place.prefix.len() + 1;
        self.checks.spawn(async move {
            let read = tokio::time::timeout(CHECK_TIMEOUT, reads.get(full_key, None)).await;
            let read = read.ok().and_then(Result::ok).and_then(|mut found| {
                let revision = u64::try_from(found.header()?.revision()).ok()?;
                Some((revision, found.take_kvs().into_iter().next().map(|kv| stored(kv, prefix_len))))
            });
            (key, route_key, read)
        });
    }

    fn read(&mut self, read: Option<Read>) {
        let Some((key, route_key, read)) = read else { return };
        let checked = match read {
            None => Checked::Unavailable,
            Some((revision, found)) => {
                let since = Instant::now();
                if self.applier.adopt(key.clone(), &route_key, revision, found) {
                    self.publisher.publish(self.applier.publish(), since);
                }
                Checked::Answered
            }
        };
        for asker in self.askers.remove(&key).unwrap_or_default() {
            let _ = asker.send(checked);
        }
    }

    async fn save(&mut self) {
        if let Some(saver) = &mut self.saver {
            saver.save(&self.applier).await;
        }
    }
}

/// Ends when the watcher is to stop, or its handle has gone.
async fn stopping(stopped: &mut watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

/// The present piece of work; never ends while there is none.
async fn progress(work: &mut Option<Work>) -> Done {
    match work {
        Some(work) => work.await,
        None => std::future::pending().await,
    }
}

/// What the watch says next; never anything while there is none.
async fn heard(stream: &mut Option<Box<WatchStream>>, prefix_len: usize) -> Input {
    let Some(open) = stream else { return std::future::pending().await };
    match open.message().await {
        Ok(Some(response)) => heard_response(&response, prefix_len),
        Ok(None) => {
            *stream = None;
            Input::Failed("the watch was closed by the store".to_owned())
        }
        Err(error) => {
            *stream = None;
            Input::Failed(format!("the watch broke: {}", say(&error)))
        }
    }
}

fn heard_response(response: &etcd_client::WatchResponse, prefix_len: usize) -> Input {
    if response.canceled() {
        return if response.compact_revision() > 0 {
            Input::Compacted
        } else {
            Input::Failed(format!("the store ended the watch: {}", response.cancel_reason()))
        };
    }
    if response.events().is_empty() {
        let revision = response.header().map_or(0, |header| u64::try_from(header.revision()).unwrap_or(0));
        return Input::Progress { revision };
    }
    // `event_type()` panics on a type that it does not know: the number is looked at instead.
    let events = response.events().iter().filter_map(|event| {
        let stored = stored(event.kv()?.clone(), prefix_len);
        match event.0.r#type {
            kind if kind == EventType::Put as i32 => Some(Event::Put(stored)),
            kind if kind == EventType::Delete as i32 => Some(Event::Delete { key: stored.key, mod_revision: stored.mod_revision }),
            _ => None,
        }
    });
    Input::Events(events.collect())
}

/// A record from etcd's form; `prefix_len` bytes of its key are cut off.
pub(crate) fn stored(kv: KeyValue, prefix_len: usize) -> Stored {
    let number = |value: i64| u64::try_from(value).unwrap_or(0);
    let (create_revision, mod_revision, leased) = (number(kv.create_revision()), number(kv.mod_revision()), kv.lease() != 0);
    let (key, value) = kv.into_key_value();
    Stored { key: key.get(prefix_len..).unwrap_or_default().to_vec(), value, create_revision, mod_revision, leased }
}

async fn say_hello(place: EtcdPlace, endpoint: String, cursor: Option<(u64, Option<(Vec<u8>, u64)>)>) -> Done {
    match hello(&place, &endpoint, cursor).await {
        Ok((clients, hello)) => Done::Connected(Box::new(clients), hello, endpoint),
        Err(why) => Done::Only(Input::Failed(why)),
    }
}

async fn hello(
    place: &EtcdPlace,
    endpoint: &str,
    cursor: Option<(u64, Option<(Vec<u8>, u64)>)>,
) -> Result<((Client, Client), Hello), String> {
    let reads = connect(place, endpoint).await?;
    let watches = connect(place, endpoint).await?;
    let mut kv = reads.kv_client();
    let fail = |error: &etcd_client::Error| format!("etcd at {endpoint}: {}", say(error));
    let slow = |_| format!("etcd at {endpoint} did not answer within {READ_LIMIT:?}");
    // Linearizable: whoever answers this has a majority behind it, however old its own view was.
    let found = tokio::time::timeout(READ_LIMIT, kv.get(format!("{}/incarnation", place.prefix), None)).await;
    let found = found.map_err(slow)?.map_err(|error| fail(&error))?;
    let header = found.header().ok_or_else(|| format!("etcd at {endpoint} answered without a header"))?;
    let revision = u64::try_from(header.revision()).unwrap_or(0);
    let incarnation = found.kvs().first().and_then(|kv| kv.value_str().ok()?.trim().parse().ok()).unwrap_or(0);
    let anchor = match cursor {
        Some((at, Some((key, mod_revision)))) if at <= revision => {
            let full_key = [place.prefix.as_bytes(), b"/", &key].concat();
            let options = GetOptions::new().with_revision(i64::try_from(at).unwrap_or(i64::MAX));
            let found = tokio::time::timeout(READ_LIMIT, kv.get(full_key, Some(options))).await;
            match found.map_err(slow)? {
                Ok(found) => match found.kvs().first() {
                    // What was applied last may have been a delete.
                    None => Anchor::None,
                    Some(kv) if u64::try_from(kv.mod_revision()) == Ok(mod_revision) => Anchor::Same,
                    Some(_) => Anchor::Differs,
                },
                Err(etcd_client::Error::GRpcStatus(status)) if status.message().contains("compacted") => Anchor::Compacted,
                Err(error) => return Err(fail(&error)),
            }
        }
        _ => Anchor::None,
    };
    // Not every user may ask for the version; without it progress notices are only signs of life.
    let version = tokio::time::timeout(READ_LIMIT, reads.maintenance_client().status()).await;
    let version = version.ok().and_then(Result::ok).map(|status| status.version().to_owned());
    let cluster_id = header.cluster_id();
    let progress_is_barrier = version.as_deref().is_some_and(progress_is_barrier);
    Ok(((reads, watches), Hello { cluster_id, incarnation, revision, anchor, progress_is_barrier }))
}

/// Below 3.4.25 and 3.5.8 a progress reply can overtake events (measured: always, with 200 undelivered ones).
fn progress_is_barrier(version: &str) -> bool {
    let mut parts = version.split('.').map(|part| part.split('-').next().and_then(|part| part.parse::<u32>().ok()).unwrap_or(0));
    let (major, minor, patch) = (parts.next().unwrap_or(0), parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    match (major, minor) {
        (3, 4) => patch >= 25,
        (3, 5) => patch >= 8,
        (3, minor) => minor > 5,
        (major, _) => major > 3,
    }
}

/// All records at one revision. Pages by key; the ranges between fences come here.
async fn list(reads: Option<KvClient>, prefix: String, revision: u64) -> Done {
    let Some(kv) = reads else { return Done::Only(Input::Failed("there is no connection to list over".to_owned())) };
    let mut kv = kv.max_decoding_message_size(MAX_MESSAGE_BYTES);
    let prefix = format!("{prefix}/");
    let end = end_of_prefix(prefix.as_bytes());
    let mut records = Vec::new();
    let mut from = prefix.clone().into_bytes();
    loop {
        let at = i64::try_from(revision).unwrap_or(i64::MAX);
        let options = GetOptions::new().with_range(end.clone()).with_limit(PAGE).with_revision(at).with_serializable();
        let page = match tokio::time::timeout(READ_LIMIT, kv.get(from.clone(), Some(options))).await {
            Ok(Ok(page)) => page,
            Ok(Err(etcd_client::Error::GRpcStatus(status))) if status.message().contains("compacted") => {
                return Done::Only(Input::Compacted);
            }
            Ok(Err(error)) => return Done::Only(Input::Failed(format!("listing the records: {}", say(&error)))),
            Err(_) => return Done::Only(Input::Failed(format!("listing the records took longer than {READ_LIMIT:?} a page"))),
        };
        let more = page.more();
        let mut page = page;
        let kvs = page.take_kvs();
        if let Some(last) = kvs.last() {
            from = [last.key(), b"\0"].concat();
        }
        records.extend(kvs.into_iter().map(|kv| stored(kv, prefix.len())));
        if !more {
            return Done::Only(Input::Listed { revision, records });
        }
    }
}

/// The first key behind all that start with a prefix.
pub(crate) fn end_of_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

async fn open_watch(watches: Option<etcd_client::WatchClient>, prefix: String, from: u64) -> Done {
    let Some(watches) = watches else { return Done::Only(Input::Failed("there is no connection to watch over".to_owned())) };
    let mut watches = watches.max_decoding_message_size(MAX_MESSAGE_BYTES);
    let options = WatchOptions::new().with_prefix().with_start_revision(i64::try_from(from).unwrap_or(i64::MAX)).with_progress_notify();
    let opened = tokio::time::timeout(READ_LIMIT, async {
        let mut stream = watches.watch(format!("{prefix}/"), Some(options)).await?;
        let first = stream.message().await?;
        Ok::<_, etcd_client::Error>((stream, first))
    });
    match opened.await {
        Ok(Ok((stream, Some(first)))) if first.created() && !first.canceled() => {
            let revision = first.header().map_or(0, |header| u64::try_from(header.revision()).unwrap_or(0));
            Done::Opened(Box::new(stream), revision)
        }
        Ok(Ok((_, Some(first)))) if first.compact_revision() > 0 => Done::Only(Input::Compacted),
        Ok(Ok((_, Some(first)))) => Done::Only(Input::Failed(format!("the store refuses the watch: {}", first.cancel_reason()))),
        Ok(Ok((_, None))) => Done::Only(Input::Failed("the store closed the watch at once".to_owned())),
        Ok(Err(error)) => Done::Only(Input::Failed(format!("the watch could not be opened: {}", say(&error)))),
        Err(_) => Done::Only(Input::Failed(format!("the watch did not open within {READ_LIMIT:?}"))),
    }
}
