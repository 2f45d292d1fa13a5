//! A record file, or a directory of them, as the gold copy: for one machine, for tests, and for a start without any store.
//!
//! Its revision counts loads; a file that does not parse changes nothing. Files are polled, not watched by the kernel: that
//! also sees what a configuration tool swaps in by a link or a rename on a network file system.

use std::{
    fs, io,
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::{mpsc, watch};
use waypost_conf::{Diagnostic, Document, Entry};
use waypost_policy::{Source, TableId};

use crate::{
    applier::Applier,
    ask::{Ask, Checked},
    change::Change,
    files::{RECORD_ENDINGS, files_at, read_regular, text_of, why},
    listed::{Listed, Part},
    publish::{News, Publisher},
    record::Stored,
};

/// How often files are looked at.
const POLL: Duration = Duration::from_millis(200);

/// Records are put in parts of so many.
const PART: usize = 5000;

/// What tells whether files have changed, cheaply.
type Traces = Vec<(PathBuf, Option<SystemTime>, u64)>;

/// The source.
pub(crate) struct FileSource {
    path: PathBuf,
    applier: Applier,
    publisher: Publisher,
    loads: u64,
    seen: Traces,
}

impl FileSource {
    /// Loads for the first time.
    pub(crate) fn open(path: PathBuf, most_records: usize, publisher: Publisher) -> Result<Self, String> {
        let applier = Applier::new(TableId::file(), Source::File, true).with_limit(most_records);
        let mut source = Self { seen: Traces::new(), path, applier, publisher, loads: 0 };
        source.seen = source.traces().map_err(|error| format!("{}: can't be read: {}", source.path.display(), why(&error)))?;
        source.load().map_err(|faults| faults.join("\n"))?;
        Ok(source)
    }

    /// Follows the files until stopped.
    pub(crate) async fn run(mut self, mut asks: mpsc::Receiver<Ask>, mut stopped: watch::Receiver<bool>) {
        let mut poll = tokio::time::interval(POLL);
        loop {
            self.publisher.turned();
            tokio::select! {
                _ = stopped.wait_for(|stopped| *stopped) => return,
                // Nothing is newer than what was loaded.
                Some(ask) = asks.recv() => match ask {
                    Ask::Check(check) => drop(check.answer.send(Checked::Answered { began: self.publisher.now() })),
                    Ask::Listing(answer) => drop(answer.send(self.applier.listing())),
                    Ask::ListAnew => {}
                },
                _ = poll.tick() => self.look(),
            }
        }
    }

    fn look(&mut self) {
        match self.traces() {
            Ok(traces) if traces == self.seen => self.publisher.fresh(),
            Ok(traces) => {
                self.seen = traces;
                if let Err(faults) = self.load() {
                    self.refuse(&faults);
                }
            }
            Err(error) => {
                let fault = format!("{}: can't be read: {}", self.path.display(), why(&error));
                let known = std::mem::take(&mut self.seen);
                if !known.is_empty() {
                    self.refuse(&[fault]);
                }
            }
        }
    }

    fn refuse(&mut self, faults: &[String]) {
        for fault in faults {
            tracing::error!("{fault}");
        }
        tracing::error!(file = %self.path.display(), "the records in force stay as they were");
        let faults = faults.to_vec();
        self.publisher.report(|status| status.last_error = Some(faults.join("\n")));
    }

    fn load(&mut self) -> Result<(), Vec<String>> {
        let since = Instant::now();
        let mut entries = self.document()?.into_entries().into_iter();
        let mut listed = Listed::default();
        // Part by part, so that what a part was made of is freed before the next.
        loop {
            let part: Vec<Stored> = entries.by_ref().take(PART).map(stored).collect();
            if part.is_empty() {
                break;
            }
            listed.add(Part::of(part));
        }
        self.loads += 1;
        self.applier.note_touches(self.publisher.is_watched());
        self.applier.resync(self.loads, listed, TableId::file(), false).map_err(|refused| vec![refused.to_string()])?;
        let (place, warnings, quarantined) = (self.path.display().to_string(), self.applier.notes(), self.applier.held(""));
        self.publisher.report(|status| {
            status.endpoint = Some(place);
            status.connected = true;
            status.warnings = warnings.into();
            status.quarantined = quarantined.into();
            status.last_error = None;
        });
        let loaded = Change::Resync { reason: "file", routes: self.applier.route_count(), held_back: 0 };
        let news = News { first: vec![loaded], touches: self.applier.take_touches() };
        self.publisher.publish(self.applier.publish(), since, news);
        self.publisher.fresh();
        Ok(())
    }

    /// All files as one set of records, or what is wrong with them.
    fn document(&self) -> Result<Document, Vec<String>> {
        let mut document = Document::default();
        let mut faults = Vec::new();
        for (file, _, _) in &self.seen {
            let name = file.display().to_string();
            match read_regular(file, u64::MAX).map(text_of) {
                Ok(Ok(text)) => document.add(&name, &text),
                Ok(Err(line)) => faults.push(format!("{name}:{line}: is not UTF-8 text")),
                Err(error) => faults.push(format!("{name}: can't be read: {}", why(&error))),
            }
        }
        faults.extend(document.faults.iter().map(Diagnostic::to_string));
        if faults.is_empty() { Ok(document) } else { Err(faults) }
    }

    fn traces(&self) -> io::Result<Traces> {
        let files = files_at(&self.path, &RECORD_ENDINGS)?;
        files.into_iter().map(|file| fs::metadata(&file).map(|meta| (file, meta.modified().ok(), meta.len()))).collect()
    }
}

/// A record as a store would have it; a file knows of no revisions.
fn stored(entry: Entry) -> Stored {
    Stored { key: entry.key.suffix(), value: entry.value, create_revision: 0, mod_revision: 0, leased: false }
}
