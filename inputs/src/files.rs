//! Files that a person writes: every fault has a line that is there, and what is read stays what it is.

use serde_json::{Map, Value};
use waypost_conf::{Diagnostic, Document, decode, parse_bootstrap};

/// The text of a bootstrap file.
///
/// # Panics
/// If a fault is said of a line that is not there.
pub fn bootstrap(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match parse_bootstrap("waypost.toml", text) {
        Ok(read) => assert!(!read.listeners.is_empty()),
        Err(faults) => {
            assert!(!faults.is_empty(), "a refusal says why");
            stand_in(text, &faults);
        }
    }
}

/// The text of a record file.
///
/// # Panics
/// If a fault is said of a line that is not there, or the records are others when they are written as JSON.
pub fn yaml(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut document = Document::default();
    document.add("records.yaml", text);
    stand_in(text, &document.faults);
    let mut all = Map::new();
    for entry in &document.entries {
        let stored = decode(&entry.key, &entry.value);
        assert_eq!(stored.map(|stored| stored.record), Ok(entry.record.clone()));
        let suffix = String::from_utf8_lossy(&entry.key.suffix()).into_owned();
        all.insert(suffix, serde_json::from_slice(&entry.value).unwrap_or_default());
    }
    let mut again = Document::default();
    again.add("records.json", &Value::Object(all).to_string());
    assert!(again.faults.is_empty(), "{:?}", again.faults);
    let mut before: Vec<_> = document.entries.iter().map(|entry| (&entry.key, &entry.record)).collect();
    before.sort_by_key(|(key, _)| *key);
    let mut after: Vec<_> = again.entries.iter().map(|entry| (&entry.key, &entry.record)).collect();
    after.sort_by_key(|(key, _)| *key);
    assert_eq!(before, after);
}

fn stand_in(text: &str, faults: &[Diagnostic]) {
    // An editor's last line may be the empty one behind the last line's end.
    let lines = text.split(['\n', '\r']).count() + 1;
    for fault in faults {
        assert!(fault.line.is_some_and(|line| (1..=lines).contains(&line)), "{fault:?} of {lines} lines");
        assert!(!fault.message.is_empty());
    }
}
