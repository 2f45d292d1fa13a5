//! The gold copy into the table: etcd and file sources, list, watch, resync, quarantine, digest, snapshot, publishing.
//!
//! One arrow: events become whole revisions ([`machine`]), whole revisions become a table ([`applier`]), a
//! table is put in force by the one [`Publisher`](publish::Publisher). The state machine and the applier are sans-IO; `etcd` and
//! `file` are the thin shells that carry their effects out. The live table is never cleared: what can't be read changes nothing.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

pub mod anchor;
pub mod applier;
mod ask;
pub mod change;
mod connect;
pub mod digest_check;
pub mod epoch;
mod etcd;
mod file;
pub mod files;
pub mod fleet;
pub mod leased;
pub mod listed;
pub mod listing;
pub mod machine;
mod pace;
pub mod publish;
mod ranges;
pub mod record;
mod retire;
pub mod snapshot;
pub mod store;
mod threads;
mod told;
pub mod transactions;

use std::{
    fmt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

pub use ask::{Asker, Checked};
pub use connect::{Credentials, EtcdPlace};
pub use publish::{DigestChecked, GoldStatus, Held, View};
use tokio::{sync::watch, task::JoinHandle};
pub use told::{Changes, Heard, Told};
use waypost_policy::Moment;

use threads::Threads;

/// Where the gold copy is.
#[derive(Clone, Debug)]
pub enum GoldPlace {
    /// An etcd cluster.
    Etcd(EtcdPlace),
    /// A record file, or a directory of them.
    File(PathBuf),
}

/// What a table put in force took.
#[derive(Clone, Copy, Debug)]
pub struct PublishReport {
    /// From the changes' arrival to the table in force.
    pub took: Duration,
    /// The revision of the table.
    pub revision: u64,
}

/// Called for each table put in force; must not wait.
pub type OnPublish = Arc<dyn Fn(&PublishReport) + Send + Sync>;

/// What a watcher needs to know.
#[derive(Clone)]
pub struct Settings {
    /// Where the gold copy is.
    pub place: GoldPlace,
    /// Whether a store that has lost all of more than a hundred routes is believed.
    pub allow_empty: bool,
    /// How many records are taken at most.
    pub most_records: usize,
    /// How often, about, the table is compared with all that the store holds; zero: never. Only for etcd.
    pub digest_check_every: Duration,
    /// How large an answer of a watch may be; a store that has more to say at once is asked to say it in fragments.
    pub most_watch_bytes: usize,
    /// Where the table is kept for a start without the store; only for etcd.
    pub snapshot: Option<PathBuf>,
    /// Whether another process may still have the snapshot: it is then read, and written from when that process has left it.
    pub snapshot_inherited: bool,
    /// The seed of the backoff's jitter.
    pub seed: u64,
    /// The origin of the process's moments.
    pub origin: Instant,
    /// Told of each table put in force.
    pub on_publish: Option<OnPublish>,
}

impl fmt::Debug for Settings {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Settings").field("place", &self.place).field("snapshot", &self.snapshot).finish_non_exhaustive()
    }
}

impl Settings {
    /// Follows a gold copy, whatever its size, with no snapshot and no digest checks.
    pub fn new(place: GoldPlace, seed: u64, origin: Instant) -> Self {
        Self {
            place,
            allow_empty: false,
            most_records: usize::MAX,
            digest_check_every: Duration::ZERO,
            most_watch_bytes: 64 << 20,
            snapshot: None,
            snapshot_inherited: false,
            seed,
            origin,
            on_publish: None,
        }
    }

    /// The present moment, counted from the origin.
    pub(crate) fn now(&self) -> Moment {
        Moment::after_origin(self.origin.elapsed())
    }
}

/// A watcher at work.
#[derive(Debug)]
pub struct Watcher {
    /// What requests read.
    pub view: View,
    /// How a check is asked for.
    pub asker: Asker,
    stop: watch::Sender<bool>,
    leave_snapshot: watch::Sender<bool>,
    task: JoinHandle<()>,
    _threads: Threads,
}

impl Watcher {
    /// Leaves the snapshot to another process, when what is due of it has been written; watching goes on.
    pub fn leave_snapshot(&self) {
        let _ = self.leave_snapshot.send(true);
    }

    /// Stops watching; a snapshot that is due is written first.
    pub async fn stop(self) {
        let _ = self.stop.send(true);
        // A panic in the task has been reported by the runtime; there is nothing to add.
        let _ = self.task.await;
    }
}

/// Starts watching, on threads of its own. A snapshot, where there is a good one, is in force when this returns.
///
/// # Errors
/// If the settings can't be used, or a record file at the start has faults; the message is for a person.
pub fn start(settings: Settings) -> Result<Watcher, String> {
    start_behind(settings, async {})
}

/// The same, but nothing is read before `first` has ended.
///
/// # Errors
/// As [`start`].
pub fn start_behind(settings: Settings, first: impl Future<Output = ()> + Send + 'static) -> Result<Watcher, String> {
    let (publisher, view) = publish::channel(settings.origin, settings.on_publish.clone());
    let (asker, asks) = ask::channel();
    let (stop, stopped) = watch::channel(false);
    let (leave_snapshot, leave) = watch::channel(false);
    let threads = Threads::start()?;
    let task = match settings.place.clone() {
        GoldPlace::File(path) => {
            let source = file::FileSource::open(path, settings.most_records, publisher)?;
            threads.spawn(behind(first, stopped.clone(), source.run(asks, stopped)))
        }
        GoldPlace::Etcd(place) => {
            let source = etcd::EtcdSource::open(place, settings, publisher)?;
            threads.spawn(behind(first, stopped.clone(), source.run(asks, stopped, leave)))
        }
    };
    Ok(Watcher { view, asker, stop, leave_snapshot, task, _threads: threads })
}

/// Runs when `first` has ended, unless it is stopped before.
async fn behind(first: impl Future<Output = ()>, mut stopped: watch::Receiver<bool>, run: impl Future<Output = ()>) {
    let may_run = tokio::select! {
        () = first => true,
        _ = stopped.wait_for(|stopped| *stopped) => false,
    };
    if may_run {
        run.await;
    }
}
