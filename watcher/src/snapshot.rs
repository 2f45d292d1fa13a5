//! The table on disk, from which a proxy starts with the store down.
//!
//! Written beside and renamed, synced, checksummed: a reader finds the last whole one or none. One that is damaged, foreign or newer
//! is set aside with one message and is never fatal. It holds records as the store had them, bad ones with their reason beside
//! their last good value, so that a start from it knows as much as the process that wrote it.
//!
//! Layout, integers little-endian, byte strings behind their length (u32): magic, version (u32), table id, revision, the last change,
//! digest; the good records behind their count, then the bad ones behind theirs; at the end the XXH3-128 of everything before it.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use tokio::task::JoinHandle;
use waypost_conf::{RecordKey, decode};
use waypost_policy::{
    Source, TableId,
    table::{Meta, Records},
};
use xxhash_rust::xxh3::xxh3_128;

use crate::{
    applier::{Applier, Bad, LastChange},
    files::why,
};

const MAGIC: &[u8; 8] = b"WAYPOST\n";
const VERSION: u32 = 1;
/// How soon after a change it is written, and the least pause between two writes.
const PACE: Duration = Duration::from_secs(1);
/// The pause is at least this many times as long as the last write took, so that writing stays a small share of the work.
const PACE_FACTOR: u32 = 20;

/// Why a snapshot can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotFault {
    /// It can't be read.
    #[error("it can't be read: {0}")]
    Io(#[from] io::Error),
    /// It is no snapshot.
    #[error("it is no snapshot of Waypost's")]
    Foreign,
    /// It was written by a newer version.
    #[error("it has format {0}; this version reads {VERSION}")]
    Newer(u32),
    /// Bytes are missing or changed.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
}

/// Writes a snapshot now and then.
#[derive(Debug)]
pub struct Saver {
    path: PathBuf,
    /// Held open and locked for as long as the process runs: a second process on the same file is refused.
    _lock: File,
    changed: bool,
    not_before: Instant,
    /// The write under way and when it began.
    writing: Option<(JoinHandle<io::Result<()>>, Instant)>,
    failed: bool,
}

impl Saver {
    /// Claims the path.
    ///
    /// # Errors
    /// A sentence, if another process has claimed it or the directory can't be written.
    pub fn open(path: PathBuf) -> Result<Self, String> {
        let beside = with_ending(&path, "lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&beside);
        let lock = lock.map_err(|error| {
            format!("the snapshot's lock {} can't be opened: {}; choose another place with --snapshot", beside.display(), why(&error))
        })?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path, _lock: lock, changed: false, not_before: Instant::now(), writing: None, failed: false }),
            Err(TryLockError::Error(error)) => Err(format!(
                "the snapshot's lock {} can't be taken: {}; choose another place with --snapshot",
                beside.display(),
                why(&error)
            )),
            Err(TryLockError::WouldBlock) => {
                Err(format!("the snapshot {} belongs to another running proxy; give each its own with --snapshot or --id", path.display()))
            }
        }
    }

    /// The table has changed.
    pub fn changed(&mut self) {
        if !self.changed {
            self.changed = true;
            self.not_before = self.not_before.max(Instant::now() + PACE);
        }
    }

    /// When the next write is due; `None` if nothing has changed, or while one is under way.
    pub fn due_in(&self) -> Option<Duration> {
        (self.changed && self.writing.is_none()).then(|| self.not_before.saturating_duration_since(Instant::now()))
    }

    /// Begins to write what the applier holds now. Encoding, writing and syncing happen off the runtime's workers, so that changes go on
    /// being applied meanwhile; [`Saver::written`] tells the end.
    pub fn save(&mut self, applier: &Applier) {
        self.changed = false;
        let began = Instant::now();
        let content = Content::of(applier);
        let path = self.path.clone();
        self.writing = Some((tokio::task::spawn_blocking(move || write(&path, &content.encode())), began));
    }

    /// Ends with the write under way, and never while there is none. May be dropped and called again. A failure costs only the snapshot,
    /// and is said once.
    pub async fn written(&mut self) {
        let Some((writing, began)) = &mut self.writing else { return std::future::pending().await };
        let written = writing.await.unwrap_or_else(|_| Err(io::Error::other("the writer panicked")));
        self.not_before = Instant::now() + PACE.max(began.elapsed() * PACE_FACTOR);
        self.writing = None;
        if let (Err(error), false) = (&written, self.failed) {
            tracing::error!(snapshot = %self.path.display(), "the snapshot can't be written: {}; serving goes on, but a start without the store would be from an older table", why(error));
        }
        self.failed = written.is_err();
    }

    /// Writes what has changed since the last write, at the process's end.
    pub async fn save_last(&mut self, applier: &Applier) {
        if self.writing.is_some() {
            self.written().await;
        }
        if self.changed {
            self.save(applier);
            self.written().await;
        }
    }
}

/// Loads a snapshot into a new applier; `None` if there is none, or none that can be used, which is then set aside.
pub fn load_or_set_aside(path: &Path, allow_empty: bool) -> Option<Applier> {
    let loaded = fs::read(path).map_err(SnapshotFault::from).and_then(|bytes| decode_snapshot(&bytes, allow_empty));
    match loaded {
        Ok(applier) => Some(applier),
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

/// A snapshot of what the applier holds.
pub fn encode(applier: &Applier) -> Vec<u8> {
    Content::of(applier).encode()
}

/// What a snapshot holds, taken from the applier at one moment.
struct Content {
    id: TableId,
    revision: u64,
    anchor: Option<LastChange>,
    digest: u128,
    records: Records,
    bad: BTreeMap<Vec<u8>, Bad>,
}

impl Content {
    fn of(applier: &Applier) -> Self {
        Self {
            id: applier.id().clone(),
            revision: applier.revision(),
            anchor: applier.anchor().cloned(),
            digest: applier.digest(),
            records: applier.records(),
            bad: applier.bad().clone(),
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(1 << 16);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        put(&mut out, self.id.as_str().as_bytes());
        out.extend_from_slice(&self.revision.to_le_bytes());
        // An empty key stands for none: no record has one.
        let none = LastChange { key: Vec::new(), mod_revision: 0, deleted: false };
        let anchor = self.anchor.as_ref().unwrap_or(&none);
        put(&mut out, &anchor.key);
        out.extend_from_slice(&anchor.mod_revision.to_le_bytes());
        out.push(u8::from(anchor.deleted));
        out.extend_from_slice(&self.digest.to_le_bytes());
        let counted_at = out.len();
        let mut count = 0_u64;
        out.extend_from_slice(&count.to_le_bytes());
        for (key, record, meta) in self.records.iter() {
            count += 1;
            put(&mut out, &key.suffix());
            put_meta(&mut out, meta);
            put(&mut out, &serde_json::to_vec(&record.to_json()).unwrap_or_default());
        }
        if let Some(place) = out[counted_at..].first_chunk_mut() {
            *place = count.to_le_bytes();
        }
        out.extend_from_slice(&(self.bad.len() as u64).to_le_bytes());
        for (key, bad) in &self.bad {
            put(&mut out, key);
            put_meta(&mut out, bad.meta);
            put(&mut out, bad.reason.as_bytes());
            put(&mut out, &serde_json::to_vec(&bad.matches).unwrap_or_default());
        }
        let checksum = xxh3_128(&out);
        out.extend_from_slice(&checksum.to_le_bytes());
        out
    }
}

/// Reads a snapshot.
///
/// # Errors
/// If it is not a whole snapshot of a version that can be read.
pub fn decode_snapshot(bytes: &[u8], allow_empty: bool) -> Result<Applier, SnapshotFault> {
    let rest = bytes.strip_prefix(MAGIC).ok_or(SnapshotFault::Foreign)?;
    let version = rest.first_chunk().map(|four| u32::from_le_bytes(*four)).ok_or(SnapshotFault::Foreign)?;
    if version != VERSION {
        return Err(SnapshotFault::Newer(version));
    }
    let (content, checksum) = bytes.split_last_chunk::<16>().ok_or(SnapshotFault::Damaged("it is cut short"))?;
    if xxh3_128(content) != u128::from_le_bytes(*checksum) {
        return Err(SnapshotFault::Damaged("its checksum does not match"));
    }
    let mut from = Reader(content.get(MAGIC.len() + 4..).unwrap_or_default());
    let id = TableId::from(&*String::from_utf8_lossy(from.field()?));
    let mut applier = Applier::new(id.clone(), Source::Watch, allow_empty);
    let revision = from.u64()?;
    let anchor = LastChange { key: from.field()?.to_vec(), mod_revision: from.u64()?, deleted: from.flag()? };
    let digest = from.u128()?;
    for _ in 0..from.u64()? {
        let key = RecordKey::parse(from.field()?).map_err(|_| SnapshotFault::Damaged("a key is none"))?;
        let meta = from.meta()?;
        let decoded = decode(&key, from.field()?).map_err(|_| SnapshotFault::Damaged("a record can't be decoded"))?;
        applier.restore(&key, decoded.record, meta);
    }
    for _ in 0..from.u64()? {
        let key = from.field()?.to_vec();
        let meta = from.meta()?;
        let reason = String::from_utf8_lossy(from.field()?).into_owned();
        let matches = serde_json::from_slice(from.field()?).map_err(|_| SnapshotFault::Damaged("a match entry can't be decoded"))?;
        applier.restore_bad(key, Bad { meta, reason, matches });
    }
    if applier.digest() != digest {
        return Err(SnapshotFault::Damaged("its digest does not match its records"));
    }
    applier.restore_cursor(revision, id, Some(anchor).filter(|anchor| !anchor.key.is_empty()));
    Ok(applier)
}

/// Written beside, synced, renamed into place, and the directory synced: after a power cut there is the old one or the new one.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = with_ending(path, "new");
    let mut file = File::create(&beside)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        let _ = fs::remove_file(&beside);
        return written;
    }
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    File::open(directory)?.sync_all()
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    name.into()
}

fn put(out: &mut Vec<u8>, field: &[u8]) {
    // Records and keys are bounded far below 4 GiB (conf's MAX_RECORD_BYTES).
    out.extend_from_slice(&u32::try_from(field.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(field);
}

fn put_meta(out: &mut Vec<u8>, meta: Meta) {
    out.extend_from_slice(&meta.create_revision.to_le_bytes());
    out.extend_from_slice(&meta.mod_revision.to_le_bytes());
    out.extend_from_slice(&meta.digest.to_le_bytes());
    out.push(u8::from(meta.leased));
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, bytes: usize) -> Result<&'a [u8], SnapshotFault> {
        let (taken, rest) = self.0.split_at_checked(bytes).ok_or(SnapshotFault::Damaged("it ends in the middle"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn chunk<const N: usize>(&mut self) -> Result<[u8; N], SnapshotFault> {
        self.take(N)?.try_into().map_err(|_| SnapshotFault::Damaged("it ends in the middle"))
    }

    fn u64(&mut self) -> Result<u64, SnapshotFault> {
        Ok(u64::from_le_bytes(self.chunk()?))
    }

    fn u128(&mut self) -> Result<u128, SnapshotFault> {
        Ok(u128::from_le_bytes(self.chunk()?))
    }

    fn field(&mut self) -> Result<&'a [u8], SnapshotFault> {
        let length = u32::from_le_bytes(self.chunk()?);
        self.take(usize::try_from(length).unwrap_or(usize::MAX))
    }

    fn meta(&mut self) -> Result<Meta, SnapshotFault> {
        let (create_revision, mod_revision, digest) = (self.u64()?, self.u64()?, self.u128()?);
        Ok(Meta { create_revision, mod_revision, digest, leased: self.flag()? })
    }

    fn flag(&mut self) -> Result<bool, SnapshotFault> {
        Ok(self.chunk::<1>()? != [0])
    }
}

#[cfg(test)]
mod tests;
