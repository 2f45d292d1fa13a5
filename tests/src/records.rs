//! Records in a file, as the gold copy of a proxy that needs no store.

use std::path::PathBuf;

use serde_json::Value;
use tempfile::TempDir;

/// A record file in a folder of its own; gone when dropped.
pub struct RecordFile {
    folder: TempDir,
}

impl RecordFile {
    /// Writes the records, keyed as in the store below its prefix.
    pub fn of(records: &Value) -> Self {
        let file = Self { folder: tempfile::tempdir().unwrap() };
        std::fs::write(file.path(), records.to_string()).unwrap();
        file
    }

    /// What `--gold` names.
    pub fn gold(&self) -> String {
        format!("file:{}", self.path().display())
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("records.json")
    }
}
