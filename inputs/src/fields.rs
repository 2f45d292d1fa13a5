//! The protocol's header fields: what is read is the same once it has been written and read again.

use waypost_policy::wire::{Stale, Stamp, Update};

/// A field's value, read as each of the three.
///
/// # Panics
/// If one changes by being written.
pub fn fields(value: &[u8]) {
    if let Ok(stamp) = Stamp::parse(value) {
        assert_eq!(Stamp::parse(stamp.to_value().as_bytes()), Ok(stamp));
    }
    if let Ok(stale) = Stale::parse(value) {
        assert_eq!(Stale::parse(stale.to_value().as_bytes()), Ok(stale));
    }
    if let Some(update) = Update::parse(value) {
        assert_eq!(Update::parse(update.to_value().as_bytes()), Some(update));
    }
}
