//! The access log's own thread: it writes what waits, opens a file anew that was moved away, and sees to lines that can't be written.
//!
//! Whole lines only: after a write that broke off in the middle the next one begins on a line of its own. A full disk or a reader that has
//! gone costs lines, which are counted and said once. What always holds: lines that were put before an order are written before it is obeyed.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, SyncSender},
    },
    time::{Duration, Instant},
};

use prometheus_client::metrics::counter::Counter;
use waypost_conf::AccessTarget;

use super::batch::{Batch, Batches};

/// How often it is looked whether the file has been moved away.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long lines are gathered.
const PAUSE: Duration = Duration::from_millis(5);

/// What the writer is to do.
pub(super) enum Order {
    /// Write what waits.
    Write,
    /// Open the file anew.
    Reopen,
    /// Tell when everything before this has been written.
    Flush(SyncSender<()>),
}

/// Writes what waits until nobody is left who could give an order. After a line that follows a pause, which it is told of, it comes by every
/// [`PAUSE`] as long as it finds something: so no request has to wake it while there are many.
pub(super) fn run(batches: &Batches, orders: &Receiver<Order>, lost: &Counter) {
    let mut spare = Vec::new();
    let mut write = || batches.take(&mut spare, |batch| batch.place.write(batch, lost));
    loop {
        let has_written = write() || {
            batches.set_writer_idle();
            write()
        };
        let order = if has_written { orders.recv_timeout(PAUSE) } else { orders.recv().map_err(Into::into) };
        match order {
            Ok(Order::Write) | Err(RecvTimeoutError::Timeout) => {}
            Ok(Order::Reopen) => {
                write();
                if let Some(place) = batches.place() {
                    place.reopen();
                }
            }
            Ok(Order::Flush(done)) => {
                write();
                let _ = done.send(());
            }
            Err(RecvTimeoutError::Disconnected) => {
                write();
                return;
            }
        }
    }
}

/// Where lines are written.
pub(super) struct Place {
    /// `None` for stdout, which nobody moves.
    path: Option<PathBuf>,
    /// For the writer alone, so nobody ever waits for it.
    open: Mutex<Open>,
}

struct Open {
    file: File,
    looked: Instant,
    /// The last write ended in the middle of a line.
    is_torn: bool,
    is_failing: bool,
}

impl Place {
    /// Opens it; `None` if no log is wanted.
    ///
    /// # Errors
    /// If the file can't be opened.
    pub(super) fn open(target: &AccessTarget) -> io::Result<Option<Arc<Self>>> {
        let (file, path) = match target {
            AccessTarget::Off => return Ok(None),
            // Not through `io::stdout()`: it keeps what it could not write, and would write it later in the middle of a line.
            AccessTarget::Stdout => (io::stdout().as_fd().try_clone_to_owned()?.into(), None),
            AccessTarget::File(path) => (append_to(path)?, Some(path.clone())),
        };
        Ok(Some(Self::of(file, path).into()))
    }

    pub(super) fn of(file: File, path: Option<PathBuf>) -> Self {
        Self { path, open: Mutex::new(Open { file, looked: Instant::now(), is_torn: false, is_failing: false }) }
    }

    /// Writes the lines, or counts those that are lost.
    pub(super) fn write(&self, batch: &Batch, lost: &Counter) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.looked.elapsed() >= LOOK_EVERY {
            open.looked = Instant::now();
            if open.was_moved(self.path.as_ref()) {
                open.anew(self.path.as_ref());
            }
        }
        open.write(batch, lost);
    }

    /// Opens the path anew.
    pub(super) fn reopen(&self) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).anew(self.path.as_ref());
    }
}

impl Open {
    /// Whether the path means another file than the open one, or none.
    fn was_moved(&self, path: Option<&PathBuf>) -> bool {
        let identity = |meta: io::Result<std::fs::Metadata>| meta.ok().map(|meta| (meta.dev(), meta.ino()));
        path.is_some_and(|path| identity(std::fs::metadata(path)) != identity(self.file.metadata()))
    }

    /// If the path can't be opened the open file stays in use: lines are better there than lost.
    fn anew(&mut self, path: Option<&PathBuf>) {
        let Some(path) = path else { return };
        match append_to(path) {
            Ok(file) => self.file = file,
            Err(error) => {
                tracing::warn!(path = %path.display(), "the access log can't be opened anew: {error}; lines go on to the old file")
            }
        }
    }

    fn write(&mut self, batch: &Batch, lost: &Counter) {
        match self.write_lines(&batch.bytes) {
            Ok(()) => {
                if std::mem::take(&mut self.is_failing) {
                    tracing::info!(lost = lost.get(), "the access log is written again");
                }
            }
            Err((saved, error)) => {
                lost.inc_by(batch.lines.saturating_sub(saved));
                if !std::mem::replace(&mut self.is_failing, true) {
                    tracing::warn!("the access log can't be written: {error}; lines are lost, and counted, until it can");
                }
            }
        }
    }

    /// Writes the lines, or says how many of them were written before the error.
    fn write_lines(&mut self, lines: &[u8]) -> Result<(), (u64, io::Error)> {
        if self.is_torn {
            write_all(&mut self.file, b"\n").map_err(|(_, error)| (0, error))?;
            self.is_torn = false;
        }
        write_all(&mut self.file, lines).map_err(|(already, error)| {
            let written = lines.get(..already).unwrap_or_default();
            self.is_torn = written.last().is_some_and(|byte| *byte != b'\n');
            (written.iter().filter(|byte| **byte == b'\n').count() as u64, error)
        })
    }
}

fn append_to(path: &PathBuf) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// Writes everything, or says how much of it was written before the error.
fn write_all(file: &mut File, bytes: &[u8]) -> Result<(), (usize, io::Error)> {
    let mut already = 0;
    while let Some(rest) = bytes.get(already..).filter(|rest| !rest.is_empty()) {
        match file.write(rest) {
            Ok(0) => return Err((already, io::ErrorKind::WriteZero.into())),
            Ok(more) => already += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err((already, error)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(bytes: &[u8]) -> Batch {
        let place = Place::of(File::open("/dev/null").unwrap(), None).into();
        Batch { place, bytes: bytes.to_vec(), lines: bytes.iter().filter(|byte| **byte == b'\n').count() as u64 }
    }

    #[test]
    fn a_full_disk_costs_lines_and_they_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let place = Place::of(OpenOptions::new().write(true).open("/dev/full").unwrap(), Some(path.clone()));
        let lost = Counter::default();
        place.write(&lines(b"a\na\na\n"), &lost);
        assert_eq!(lost.get(), 3);
        place.reopen();
        place.write(&lines(b"b\n"), &lost);
        assert_eq!((std::fs::read(&path).unwrap(), lost.get()), (b"b\n".to_vec(), 3), "what was lost is not written later");
    }

    #[test]
    fn what_follows_half_a_line_begins_on_a_line_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let place = Place::of(append_to(&path).unwrap(), Some(path.clone()));
        place.write(&lines(b"a\nhal"), &Counter::default());
        place.open.lock().unwrap().is_torn = true;
        place.write(&lines(b"b\n"), &Counter::default());
        place.write(&lines(b"c\n"), &Counter::default());
        assert_eq!(std::fs::read(&path).unwrap(), b"a\nhal\nb\nc\n");
    }

    #[test]
    fn a_file_that_was_moved_away_is_opened_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let place = Place::of(append_to(&path).unwrap(), Some(path.clone()));
        let was_moved = || place.open.lock().unwrap().was_moved(Some(&path));
        assert!(!was_moved());
        std::fs::rename(&path, folder.path().join("log.1")).unwrap();
        assert!(was_moved());
        place.reopen();
        assert!(!was_moved() && path.exists());
    }
}
