//! The access log's own thread: lines together, a file that is opened anew when it was moved away, and what becomes of lines that can't
//! be written.
//!
//! Whole lines only: after a write that broke off in the middle the next one begins on a line of its own. A full disk or a reader that has
//! gone costs lines, which are counted and said once.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::PathBuf,
    sync::mpsc::{Receiver, SyncSender},
    time::{Duration, Instant},
};

use prometheus_client::metrics::counter::Counter;
use waypost_conf::AccessTarget;

/// How often it is looked whether the file has been moved away.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long lines are gathered.
const PAUSE: Duration = Duration::from_millis(5);
/// About how many bytes are written at once.
const BATCH_BYTES: usize = 64 * 1024;

/// What the queue holds.
pub(super) enum Message {
    /// A line, with its end.
    Line(Vec<u8>),
    /// Open the file anew.
    Reopen,
    /// Write there from now on; `None`: nowhere.
    Change(Option<Place>),
    /// Tell when everything before this has been written.
    Flush(SyncSender<()>),
}

/// Where lines are written.
pub(super) struct Place {
    file: File,
    /// `None` for stdout, which nobody moves.
    path: Option<PathBuf>,
}

impl Place {
    /// Opens it; `None` if no log is wanted.
    ///
    /// # Errors
    /// If the file can't be opened.
    pub(super) fn open(target: &AccessTarget) -> io::Result<Option<Self>> {
        match target {
            AccessTarget::Off => Ok(None),
            // Not through `io::stdout()`: it keeps what it could not write, and would write it later in the middle of a line.
            AccessTarget::Stdout => Ok(Some(Self { file: io::stdout().as_fd().try_clone_to_owned()?.into(), path: None })),
            AccessTarget::File(path) => Ok(Some(Self { file: append_to(path)?, path: Some(path.clone()) })),
        }
    }

    /// Whether the path means another file than the open one, or none.
    fn was_moved(&self) -> bool {
        let Some(path) = &self.path else { return false };
        let identity = |meta: io::Result<std::fs::Metadata>| meta.ok().map(|meta| (meta.dev(), meta.ino()));
        identity(std::fs::metadata(path)) != identity(self.file.metadata())
    }

    /// Opens the path anew. If that fails the open file stays in use: lines are better there than lost.
    fn reopen(&mut self) {
        let Some(path) = &self.path else { return };
        match append_to(path) {
            Ok(file) => self.file = file,
            Err(error) => {
                tracing::warn!(path = %path.display(), "the access log can't be opened anew: {error}; lines go on to the old file")
            }
        }
    }
}

fn append_to(path: &PathBuf) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// Writes lines to a place.
pub(super) struct Writer {
    /// `None`: no log is wanted.
    place: Option<Place>,
    lost: Counter,
    batch: Vec<u8>,
    lines: u64,
    looked: Instant,
    /// The last write ended in the middle of a line.
    is_torn: bool,
    is_failing: bool,
}

impl Writer {
    pub(super) fn new(place: Option<Place>, lost: Counter) -> Self {
        Self { place, lost, batch: Vec::with_capacity(BATCH_BYTES), lines: 0, looked: Instant::now(), is_torn: false, is_failing: false }
    }

    /// Writes until the queue's other end has gone: a line after a pause at once, and then what comes within [`PAUSE`] together. So it is seldom waiting
    /// for a line, and no request has to wake it.
    pub(super) fn run(mut self, queue: &Receiver<Message>) {
        while let Ok(first) = queue.recv() {
            self.take(first);
            while let Ok(next) = queue.try_recv() {
                self.take(next);
            }
            self.write();
            std::thread::sleep(PAUSE);
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Line(line) => {
                self.batch.extend_from_slice(&line);
                self.lines += 1;
                if self.batch.len() >= BATCH_BYTES {
                    self.write();
                }
            }
            Message::Reopen => {
                self.write();
                if let Some(place) = &mut self.place {
                    place.reopen();
                }
            }
            Message::Change(place) => {
                self.write();
                self.place = place;
                (self.is_torn, self.is_failing) = (false, false);
            }
            Message::Flush(done) => {
                self.write();
                let _ = done.send(());
            }
        }
    }

    fn write(&mut self) {
        let Some(place) = self.place.as_mut().filter(|_| self.lines > 0) else {
            // Lines that were on their way when the log was turned off.
            self.batch.clear();
            self.lines = 0;
            return;
        };
        if self.looked.elapsed() >= LOOK_EVERY {
            self.looked = Instant::now();
            if place.was_moved() {
                place.reopen();
            }
        }
        let end = if self.is_torn { &b"\n"[..] } else { b"" };
        let written = write_all(&mut place.file, end).and_then(|()| write_all(&mut place.file, &self.batch));
        match written {
            Ok(()) => {
                if std::mem::take(&mut self.is_failing) {
                    tracing::info!(lost = self.lost.get(), "the access log is written again");
                }
                self.is_torn = false;
            }
            Err((already, error)) => {
                let whole = self.batch.get(..already).unwrap_or_default();
                self.is_torn |= whole.last().is_some_and(|byte| *byte != b'\n');
                let saved = whole.iter().filter(|byte| **byte == b'\n').count() as u64;
                self.lost.inc_by(self.lines.saturating_sub(saved));
                if !std::mem::replace(&mut self.is_failing, true) {
                    tracing::warn!("the access log can't be written: {error}; lines are lost, and counted, until it can");
                }
            }
        }
        self.batch.clear();
        self.lines = 0;
    }
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

    #[test]
    fn a_full_disk_costs_lines_and_they_are_counted() {
        let full = Place { file: OpenOptions::new().write(true).open("/dev/full").unwrap(), path: None };
        let lost = Counter::default();
        let mut writer = Writer::new(Some(full), lost.clone());
        for _ in 0..3 {
            writer.take(Message::Line(b"a\n".to_vec()));
        }
        writer.write();
        assert_eq!(lost.get(), 3);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        writer.place = Some(Place { file: append_to(&path).unwrap(), path: Some(path.clone()) });
        writer.take(Message::Line(b"b\n".to_vec()));
        writer.write();
        assert_eq!(std::fs::read(&path).unwrap(), b"b\n", "what was lost is not written later");
    }

    #[test]
    fn a_file_that_was_moved_away_is_opened_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut place = Place { file: append_to(&path).unwrap(), path: Some(path.clone()) };
        assert!(!place.was_moved());
        std::fs::rename(&path, folder.path().join("log.1")).unwrap();
        assert!(place.was_moved());
        place.reopen();
        assert!(!place.was_moved() && path.exists());
    }
}
