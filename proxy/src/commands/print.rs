//! Printing results to stdout. A reader that has gone (`| head`) ends the output quietly, not with a panic.

use std::io::Write;

/// Prints one line of a result.
pub(crate) fn line(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Prints one JSON value on one line.
pub(crate) fn json(value: &serde_json::Value) {
    line(value);
}

/// A runtime for a command that talks to the store.
///
/// # Errors
/// Exit 1 if no thread can be started.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, crate::failure::Failed> {
    let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
    built.map_err(|error| crate::failure::Failed::not_done(format!("the runtime could not be started: {error}")))
}
