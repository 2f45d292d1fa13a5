//! A record in the store: its key is taken apart and put together again, its value is the same once written and read again.

use waypost_conf::{MAX_RECORD_BYTES, RecordKey, decode, decode_strict};

/// Keys of every kind of record.
const KEYS: [&[u8]; 7] = [b"services/s", b"routes/s/k", b"upstreams/u", b"endpoints/u/e", b"policies/p", b"certificates/c", b"incarnation"];

/// The first byte chooses the kind of the record, the others are its value; all of them are also read as a key.
///
/// # Panics
/// If a key or a value changes by being written.
pub fn record(bytes: &[u8]) {
    if let Ok(key) = RecordKey::parse(bytes) {
        assert_eq!(key.suffix(), bytes);
    }
    let Some((kind, value)) = bytes.split_first() else { return };
    let Ok(key) = RecordKey::parse(KEYS[usize::from(*kind) % KEYS.len()]) else { return };
    let strict = decode_strict(&key, value);
    let Ok(decoded) = decode(&key, value) else {
        assert!(strict.is_err_and(|faults| !faults.is_empty()), "who writes a record is told of all that a running proxy refuses");
        return;
    };
    if let Ok(strict) = strict {
        assert_eq!(strict, decoded);
    }
    let written = decoded.record.to_json().to_string();
    if written.len() <= MAX_RECORD_BYTES {
        let again = decode_strict(&key, written.as_bytes());
        assert_eq!(again.map(|again| again.record), Ok(decoded.record), "{written}");
    }
}
