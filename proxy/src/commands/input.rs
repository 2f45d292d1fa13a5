//! What FILE arguments stand for: files, directories of them as `--gold file:DIR` reads them, and `-` for standard input.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use waypost_conf::{Diagnostic, Place, Severity};
use waypost_watcher::files::{files_at, text_of, why};

/// What the arguments hold.
#[derive(Default)]
pub(super) struct Input {
    /// Names and texts, in order.
    pub(super) texts: Vec<(String, String)>,
    /// What is wrong with their bytes.
    pub(super) faults: Vec<Diagnostic>,
    /// What could not be read, in sentences.
    pub(super) unreadable: Vec<String>,
}

impl Input {
    /// Reads everything that the arguments stand for; directories are searched for files with these endings.
    pub(super) fn read(arguments: &[PathBuf], endings: &[&str]) -> Self {
        let mut input = Self::default();
        let mut stdin_was_read = false;
        for argument in arguments {
            if argument.as_os_str() != "-" {
                input.read_path(argument, endings);
            } else if std::mem::replace(&mut stdin_was_read, true) {
                input.unreadable.push("-: standard input can be read only once; name it once".to_owned());
            } else {
                let mut bytes = Vec::new();
                let read = io::stdin().lock().read_to_end(&mut bytes);
                input.take("-".to_owned(), read.map(|_| bytes));
            }
        }
        input
    }

    fn read_path(&mut self, path: &Path, endings: &[&str]) {
        match files_at(path, endings) {
            Ok(files) if files.is_empty() => {
                let wanted: Vec<String> = endings.iter().map(|ending| format!("*.{ending}")).collect();
                self.unreadable.push(format!("{}: the directory holds no record files ({})", path.display(), wanted.join(", ")));
            }
            Ok(files) => files.iter().for_each(|file| self.take(file.display().to_string(), fs::read(file))),
            Err(error) => self.unreadable.push(format!("{}: can't be read: {}", path.display(), why(&error))),
        }
    }

    fn take(&mut self, name: String, read: io::Result<Vec<u8>>) {
        match read.map(text_of) {
            Ok(Ok(text)) => self.texts.push((name, text)),
            Ok(Err(line)) => {
                let place = Place { file: name.into(), line };
                self.faults.push(Diagnostic::new(Some(&place), None, "is not UTF-8 text".to_owned(), Severity::Error));
            }
            Err(error) => self.unreadable.push(format!("{name}: can't be read: {}", why(&error))),
        }
    }
}
