//! Printing results to stdout. A reader that has gone (`| head`) ends the output quietly, not with a panic.

use std::io::{IsTerminal, Write};

use serde_json::{Value, json};
use waypost_conf::{Diagnostic, Severity};

/// Prints one line of a result.
pub(crate) fn line(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Prints one JSON value on one line.
pub(crate) fn json(value: &Value) {
    line(value);
}

/// A diagnostic for machines.
pub(crate) fn diagnostic(said: &Diagnostic) -> Value {
    let severity = if said.severity == Severity::Error { "error" } else { "warning" };
    let file = Some(&said.file).filter(|file| !file.is_empty());
    json!({ "file": file, "line": said.line, "key": said.key, "message": said.message, "severity": severity })
}

/// `1 record`, `2 records`
pub(crate) fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// Whether a stream may be coloured: a person reads it, and has not said `NO_COLOR`.
pub(crate) fn is_coloured(stream: &impl IsTerminal) -> bool {
    let says_no = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    stream.is_terminal() && !says_no && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// A runtime for a command that talks to the store.
///
/// # Errors
/// Exit 1 if no thread can be started.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, crate::failure::Failed> {
    let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
    built.map_err(|error| crate::failure::Failed::not_done(format!("the runtime could not be started: {error}")))
}
