//! Lines that wait to be written, gathered by each worker for itself.
//!
//! A worker puts its lines one behind the other into memory that is its own; the writer comes by and takes what is there. What always
//! holds: a worker's lines, and with them a connection's, stay in their order; a worker waits for the writer only while that exchanges one
//! buffer for another, never while it writes; no more wait than [`MOST_BYTES`] and a line for each worker.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use waypost_conf::LogFormat;

use super::{Line, form::Form, writer::Place};
use crate::worker;

/// So many bytes of each worker may wait: some 10,000 lines, of the time in which a disk is busy.
const MOST_BYTES: usize = 4 << 20;
/// A buffer that has grown larger is let go when it has been written.
const KEPT_BYTES: usize = 512 << 10;

/// Lines that are written together.
pub(super) struct Batch {
    pub(super) place: Arc<Place>,
    pub(super) bytes: Vec<u8>,
    pub(super) lines: u64,
}

impl Batch {
    fn new(place: Arc<Place>) -> Self {
        Self { place, bytes: Vec::new(), lines: 0 }
    }
}

/// What has become of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Put {
    /// No log is wanted.
    Unwanted,
    /// It waits.
    Waits,
    /// Too much waits.
    Lost,
}

/// What waits of all workers.
pub(super) struct Batches {
    of_workers: Box<[OfWorker]>,
    /// The writer wants to be told of the next line.
    is_writer_idle: AtomicBool,
}

/// What waits of one worker, and how it is written. No two of them share a line of a cache, nor a pair of such lines.
#[repr(align(128))]
struct OfWorker(Mutex<Gathered>);

struct Gathered {
    form: Form,
    /// `None`: no log is wanted.
    current: Option<Batch>,
    /// What belongs to places before this one, the oldest first.
    before: Vec<Batch>,
}

impl Batches {
    /// Of so many workers. `None`: no log is wanted.
    pub(super) fn new(workers: usize, place: Option<&Arc<Place>>, format: LogFormat) -> Self {
        let gathered = || Gathered { form: Form::new(format), current: place.cloned().map(Batch::new), before: Vec::new() };
        let of_workers = (0..workers.max(1)).map(|_| OfWorker(Mutex::new(gathered()))).collect();
        Self { of_workers, is_writer_idle: AtomicBool::new(false) }
    }

    /// Puts a line behind the others of this worker.
    pub(super) fn put(&self, line: &Line<'_>, ended: SystemTime) -> Put {
        self.of_workers[worker::number() % self.of_workers.len()].lock().put(line, ended)
    }

    /// From here on lines are for that place.
    pub(super) fn change(&self, place: Option<&Arc<Place>>, format: LogFormat) {
        for of_worker in &self.of_workers {
            let mut gathered = of_worker.lock();
            gathered.form = Form::new(format);
            let current = std::mem::replace(&mut gathered.current, place.cloned().map(Batch::new));
            gathered.before.extend(current.filter(|batch| batch.lines > 0));
        }
    }

    /// The place that lines are for now.
    pub(super) fn place(&self) -> Option<Arc<Place>> {
        let gathered = self.of_workers.first()?.lock();
        gathered.current.as_ref().map(|batch| Arc::clone(&batch.place))
    }

    /// Takes what waits, worker by worker. `spare` is the memory that the next one goes on with. Whether there was anything.
    pub(super) fn take(&self, spare: &mut Vec<u8>, write: impl Fn(&Batch)) -> bool {
        let mut has_taken = false;
        for of_worker in &self.of_workers {
            let (before, batch) = of_worker.lock().take(spare);
            for batch in before.iter().chain(&batch) {
                write(batch);
                has_taken = true;
            }
            if let Some(Batch { mut bytes, .. }) = batch.filter(|batch| batch.bytes.capacity() <= KEPT_BYTES) {
                bytes.clear();
                *spare = bytes;
            }
        }
        has_taken
    }

    /// The writer is about to wait until it is told of a line. It has to look once more after this: a line that came before need not be told of.
    /// (Whoever puts a line after that look has had the lock after the writer, and so sees this.)
    pub(super) fn set_writer_idle(&self) {
        self.is_writer_idle.store(true, Ordering::Relaxed);
    }

    /// Whether the writer has to be told of a line; it is told once.
    pub(super) fn has_to_tell(&self) -> bool {
        self.is_writer_idle.load(Ordering::Relaxed) && self.is_writer_idle.swap(false, Ordering::Relaxed)
    }
}

impl OfWorker {
    /// A poisoned lock guards lines of which the last may be cut short.
    fn lock(&self) -> MutexGuard<'_, Gathered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gathered {
    fn put(&mut self, line: &Line<'_>, ended: SystemTime) -> Put {
        let before: usize = self.before.iter().map(|batch| batch.bytes.len()).sum();
        let Some(batch) = &mut self.current else { return Put::Unwanted };
        if before + batch.bytes.len() >= MOST_BYTES {
            return Put::Lost;
        }
        self.form.put(line, ended, &mut batch.bytes);
        batch.lines += 1;
        Put::Waits
    }

    fn take(&mut self, spare: &mut Vec<u8>) -> (Vec<Batch>, Option<Batch>) {
        let take = |batch: &mut Batch| Batch {
            place: Arc::clone(&batch.place),
            bytes: std::mem::replace(&mut batch.bytes, std::mem::take(spare)),
            lines: std::mem::take(&mut batch.lines),
        };
        (std::mem::take(&mut self.before), self.current.as_mut().filter(|batch| batch.lines > 0).map(take))
    }
}
