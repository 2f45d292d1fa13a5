//! The table on disk, from which a proxy starts with the store down.
//!
//! Written beside and renamed, synced, checksummed: a reader finds the last whole one or none. One that is damaged, foreign or newer
//! is set aside with one message and is never fatal. It holds records as the store had them, bad ones with their reason beside
//! their last good value, so that a start from it knows as much as the process that wrote it.
//!
//! Here is when and where it is written; its bytes are [`format`]'s. Writing costs the task that applies changes next to nothing, since
//! routes are shared with the table: encoding, with pauses, and syncing happen on another thread.

mod format;

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

pub use format::{Loaded, decode_snapshot};
use tokio::sync::oneshot;
use waypost_policy::{TableId, table::Records};

use crate::{
    anchor::LastChanges,
    applier::{Applier, Bad},
    files::why,
    threads::aside,
};

/// What the file's name ends with until it is whole.
const BESIDE: &str = "new";
/// How soon after a change it is written, and the least pause between two writes.
const PACE: Duration = Duration::from_secs(1);
/// The pause is at least this many times as long as the last write took, so that writing stays a small share of the work.
const PACE_FACTOR: u32 = 20;

/// How long a cursor that moves without any change may be ahead of the file's.
const MOVED_PACE: Duration = Duration::from_secs(120);

/// How soon after a failure it is tried again.
const RETRY: Duration = Duration::from_secs(10);
/// How often it is looked whether the process before this one has left the file.
const CLAIM_AGAIN: Duration = Duration::from_millis(500);
/// After so many bytes the writer pauses for as long as they took, but not longer than this. They are few: a thread that has just been given a core
/// keeps it for a slice of the scheduler, however far it stands back, and what applies changes waits for it (with a megabyte for 2.9 ms, p99).
const PAUSE_EVERY_BYTES: usize = 16 << 10;
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// Why a snapshot can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotFault {
    /// It can't be read.
    #[error("it can't be read: {0}")]
    Io(#[from] io::Error),
    /// It is no snapshot.
    #[error("it is no snapshot of Waypost's")]
    Foreign,
    /// It was written by another version.
    #[error("it has format {0}; this version reads {current}", current = format::VERSION)]
    Version(u32),
    /// Bytes are missing or changed.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
}

/// What is known of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OnDisk {
    /// The revision that it holds, and when it was written; `None`: there is none yet.
    pub written: Option<(u64, SystemTime)>,
    /// Why it can't be written, while it can't.
    pub error: Option<String>,
}

/// Writes a snapshot now and then.
#[derive(Debug)]
pub struct Saver {
    path: PathBuf,
    /// Held open and locked for as long as the process runs: a second process on the same file is refused.
    lock: File,
    /// Whether it is locked. A process that takes over from another one waits for that, and writes nothing before.
    is_claimed: bool,
    changed: bool,
    /// Since when the cursor alone has moved.
    moved: Option<Instant>,
    not_before: Instant,
    writing: Option<Writing>,
    on_disk: OnDisk,
    /// The last write has begun, or was not needed.
    is_last: bool,
    /// Set at the process's end: the writer pauses no more.
    hurry: Arc<AtomicBool>,
}

/// A write under way.
#[derive(Debug)]
struct Writing {
    ends: oneshot::Receiver<io::Result<()>>,
    began: Instant,
    revision: u64,
}

impl Saver {
    /// Claims the path. Where it is `inherited`, another process may have claimed it, and is waited for: until it has left the file nothing is
    /// written.
    ///
    /// # Errors
    /// A sentence, if another process has claimed it and is not to be waited for, or the directory can't be written.
    pub fn open(path: PathBuf, inherited: bool) -> Result<Self, String> {
        let beside = with_ending(&path, "lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&beside);
        let lock = lock.map_err(|error| {
            format!("the snapshot's lock {} can't be opened: {}; choose another place with --snapshot", beside.display(), why(&error))
        })?;
        let (hurry, on_disk) = (Arc::default(), OnDisk::default());
        let mut saver = Self {
            path,
            lock,
            is_claimed: false,
            changed: false,
            moved: None,
            not_before: Instant::now(),
            writing: None,
            on_disk,
            is_last: false,
            hurry,
        };
        match saver.claim() {
            Ok(is_claimed) if is_claimed || inherited => Ok(saver),
            Ok(_) => Err(format!(
                "the snapshot {} belongs to another running proxy; give each its own with --snapshot or --id",
                saver.path.display()
            )),
            Err(error) => Err(format!(
                "the snapshot's lock {} can't be taken: {}; choose another place with --snapshot",
                beside.display(),
                why(&error)
            )),
        }
    }

    /// Whether the file is this process's to write.
    fn claim(&mut self) -> io::Result<bool> {
        if !self.is_claimed {
            match self.lock.try_lock() {
                Ok(()) => {
                    self.is_claimed = true;
                    // What a process that was killed had begun.
                    let _ = fs::remove_file(with_ending(&self.path, BESIDE));
                }
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
        Ok(self.is_claimed)
    }

    /// The table has changed.
    pub fn changed(&mut self) {
        if !self.changed {
            self.changed = true;
            self.not_before = self.not_before.max(Instant::now() + PACE);
        }
    }

    /// The cursor has moved, and nothing has changed. It is written now and then, so that a start after a compaction need not list; at the
    /// process's end it is not worth a write.
    pub fn moved(&mut self) {
        self.moved.get_or_insert_with(Instant::now);
    }

    /// When the next write, or the next look whether it is allowed, is due; `None` if there is nothing to write, or while one is under way.
    pub fn due_in(&self) -> Option<Duration> {
        let not_before = if self.changed || !self.is_claimed { self.not_before } else { self.not_before.max(self.moved? + MOVED_PACE) };
        self.writing.is_none().then(|| not_before.saturating_duration_since(Instant::now()))
    }

    /// Begins to write what the applier holds now. Encoding, writing and syncing happen on a thread that stands back from those that apply changes
    /// and serve requests; [`Saver::written`] tells the end.
    pub fn save(&mut self, applier: &Applier) {
        match self.claim() {
            Ok(true) => {}
            Ok(false) => return self.not_before = Instant::now() + CLAIM_AGAIN,
            Err(error) => return self.failed(&error),
        }
        let (changed, moved) = (std::mem::take(&mut self.changed), self.moved.take());
        if !changed && moved.is_none() {
            return;
        }
        let began = Instant::now();
        let content = Content::of(applier);
        let (path, hurry, revision) = (self.path.clone(), Arc::clone(&self.hurry), content.revision);
        let ends = aside("snapshot", move || write(&path, &content, &hurry));
        self.writing = Some(Writing { ends, began, revision });
    }

    /// Ends with the write under way, and never while there is none. May be dropped and called again. A failure costs only the snapshot,
    /// is said once, and tried again.
    pub async fn written(&mut self) {
        let Some(Writing { ends, began, revision }) = &mut self.writing else { return std::future::pending().await };
        let written = ends.await.unwrap_or_else(|_| Err(io::Error::other("its writer has ended")));
        self.not_before = Instant::now() + PACE.max(began.elapsed() * PACE_FACTOR);
        let revision = *revision;
        self.writing = None;
        let had_failed = self.on_disk.error.is_some();
        match written {
            Ok(()) => {
                self.on_disk = OnDisk { written: Some((revision, SystemTime::now())), error: None };
                if had_failed {
                    tracing::info!(snapshot = %self.path.display(), "the snapshot is written again");
                }
            }
            Err(error) => self.failed(&error),
        }
    }

    fn failed(&mut self, error: &io::Error) {
        if self.on_disk.error.is_none() {
            tracing::error!(snapshot = %self.path.display(), "the snapshot can't be written: {}; serving goes on, but a start without the store would be from an older table", why(error));
        }
        self.on_disk.error = Some(why(error));
        self.changed = true;
        self.not_before = Instant::now() + RETRY;
    }

    /// What is known of the file.
    pub fn on_disk(&self) -> &OnDisk {
        &self.on_disk
    }

    /// A file of an earlier process was loaded, at this revision.
    pub fn loaded(&mut self, revision: u64) {
        let written = fs::metadata(&self.path).and_then(|meta| meta.modified());
        self.on_disk.written = written.ok().map(|at| (revision, at));
    }

    /// Leaves the file without waiting: what has changed since the last write is written once more, if need be behind a write that is under
    /// way. True when that has ended; until then to be called again whenever one was [`written`](Saver::written).
    pub fn leave(&mut self, applier: &Applier) -> bool {
        self.hurry.store(true, Ordering::Relaxed);
        if self.writing.is_none() && !self.is_last {
            self.is_last = true;
            if self.changed {
                self.save(applier);
            }
        }
        self.writing.is_none()
    }

    /// Leaves the file, and waits for it: at the process's end.
    pub async fn save_last(&mut self, applier: &Applier) {
        self.is_last = false;
        while !self.leave(applier) {
            self.written().await;
        }
    }
}

/// Loads a snapshot; `None` if there is none, or none that can be used, which is then set aside.
pub fn load_or_set_aside(path: &Path, allow_empty: bool) -> Option<Loaded> {
    let loaded = fs::read(path).map_err(SnapshotFault::from).and_then(|bytes| decode_snapshot(&bytes, allow_empty));
    match loaded {
        Ok(loaded) => Some(loaded),
        Err(SnapshotFault::Io(error)) if error.kind() == io::ErrorKind::NotFound => None,
        Err(fault) => {
            let aside = with_ending(path, "damaged");
            let moved = fs::rename(path, &aside);
            let place = if moved.is_ok() { aside } else { path.to_owned() };
            tracing::error!(snapshot = %place.display(), "the snapshot was set aside: {fault}; the table comes from the store");
            None
        }
    }
}

/// The bytes of a snapshot of what an applier holds now.
///
/// # Errors
/// If something in it is larger than a snapshot can hold.
pub fn encode_snapshot(applier: &Applier) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    format::write(&Content::of(applier), &mut bytes)?;
    Ok(bytes)
}

/// What a snapshot holds, taken from the applier at one moment. Routes are shared with the tables.
struct Content {
    id: TableId,
    revision: u64,
    last_changes: LastChanges,
    digest: u128,
    records: Records,
    bad: BTreeMap<Vec<u8>, Bad>,
    doubted: Vec<Vec<u8>>,
}

impl Content {
    fn of(applier: &Applier) -> Self {
        Self {
            id: applier.id().clone(),
            revision: applier.revision(),
            last_changes: applier.last_changes().clone(),
            digest: applier.digest(),
            records: applier.frozen(),
            bad: applier.bad().clone(),
            doubted: applier.doubted().cloned().collect(),
        }
    }
}

/// Written beside, synced, renamed into place, and the directory synced: after a power cut there is the old one or the new one.
fn write(path: &Path, content: &Content, hurry: &Arc<AtomicBool>) -> io::Result<()> {
    let beside = with_ending(path, BESIDE);
    let written = write_beside(&beside, content, hurry).and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        let _ = fs::remove_file(&beside);
        return written;
    }
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    File::open(directory)?.sync_all()
}

fn write_beside(beside: &Path, content: &Content, hurry: &Arc<AtomicBool>) -> io::Result<()> {
    let paced = Paced { file: File::create(beside)?, hurry: Arc::clone(hurry), since_pause: 0, began: Instant::now() };
    let mut out = BufWriter::with_capacity(PAUSE_EVERY_BYTES, paced);
    format::write(content, &mut out)?;
    out.into_inner()?.file.sync_all()
}

/// A file that is written with pauses, so that encoding leaves the processor to requests.
struct Paced {
    file: File,
    hurry: Arc<AtomicBool>,
    since_pause: usize,
    began: Instant,
}

impl Write for Paced {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.since_pause += written;
        if self.since_pause >= PAUSE_EVERY_BYTES {
            if !self.hurry.load(Ordering::Relaxed) {
                std::thread::sleep(self.began.elapsed().min(LONGEST_PAUSE));
            }
            self.since_pause = 0;
            self.began = Instant::now();
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    name.into()
}

#[cfg(test)]
pub(crate) mod tests;
