//! `waypost check`: record files, bootstrap files, or what is in the store, a line a fault.

use std::path::Path;

use serde_json::json;
use waypost_conf::{Diagnostic, Entry, RecordKey, Severity, check_references, decode_strict, escaped, parse_bootstrap, parse_document};
use waypost_watcher::store::Store;

use super::print;
use crate::{
    cli::CheckArgs,
    failure::{Failed, Outcome},
    gold,
};

/// Runs the command.
pub(crate) fn run(args: &CheckArgs) -> Outcome {
    let (said, checked) = if args.files.is_empty() { check_store(args)? } else { check_files(&args.files)? };
    let errors = said.iter().filter(|diagnostic| diagnostic.severity == Severity::Error).count();
    if args.json {
        let lines: Vec<_> = said
            .iter()
            .map(|said| {
                let severity = if said.severity == Severity::Error { "error" } else { "warning" };
                json!({ "file": said.file, "line": said.line, "key": said.key, "message": said.message, "severity": severity })
            })
            .collect();
        print::json(&json!({ "records": checked, "errors": errors, "diagnostics": lines }));
    } else {
        said.iter().for_each(print::line);
        if errors == 0 {
            eprintln!("waypost: {checked} records, no fault");
        }
    }
    if errors == 0 { Ok(()) } else { Err(Failed::said(1)) }
}

fn check_files(files: &[std::path::PathBuf]) -> Result<(Vec<Diagnostic>, usize), Failed> {
    let mut said = Vec::new();
    let mut all: Vec<Entry> = Vec::new();
    let mut last_name = String::new();
    for file in files {
        let (name, text) = read(file)?;
        if file.extension().is_some_and(|ending| ending == "toml") {
            match parse_bootstrap(&name, &text) {
                Ok(bootstrap) => said.extend(bootstrap.inactive.into_iter().map(|message| warning(&name, None, None, message))),
                Err(faults) => said.extend(faults),
            }
            continue;
        }
        match parse_document(&name, &text) {
            Ok(document) => {
                said.extend(document.entries.iter().flat_map(|entry| inactive(&name, entry)));
                all.extend(document.entries);
                last_name = name;
            }
            Err(faults) => said.extend(faults),
        }
    }
    // References may go from one file to another; only all of them together can dangle.
    let has_faults = said.iter().any(|said| said.severity == Severity::Error);
    if !has_faults {
        said.extend(check_references(&last_name, &all));
    }
    Ok((said, all.len()))
}

fn check_store(args: &CheckArgs) -> Result<(Vec<Diagnostic>, usize), Failed> {
    let place = gold::store_place(&args.gold)?;
    let records = print::runtime()?.block_on(async {
        let store = Store::connect(&place).await.map_err(Failed::not_done)?;
        store.list(b"").await.map_err(Failed::not_done)
    })?;
    let mut said = Vec::new();
    let mut entries = Vec::new();
    for stored in &records {
        let fault =
            |message: String| Diagnostic { severity: Severity::Error, ..warning(&place.prefix, None, Some(escaped(&stored.key)), message) };
        match RecordKey::parse(&stored.key) {
            Err(wrong) => said.push(fault(wrong.to_string())),
            Ok(key) => match decode_strict(&key, &stored.value) {
                Err(faults) => said.extend(faults.iter().map(|wrong| fault(wrong.to_string()))),
                Ok(decoded) => {
                    let entry = Entry { key, record: decoded.record, value: Vec::new(), line: 0, inactive: decoded.inactive };
                    said.extend(inactive(&place.prefix, &entry).map(|said| Diagnostic { line: None, ..said }));
                    entries.push(entry);
                }
            },
        }
    }
    said.extend(check_references(&place.prefix, &entries));
    Ok((said, records.len()))
}

/// Reads a record or bootstrap file.
///
/// # Errors
/// Exit 2 if it can't be read.
pub(super) fn read(file: &Path) -> Result<(String, String), Failed> {
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file).map_err(|error| Failed::unusable(format!("{name}: can't be read: {error}")))?;
    Ok((name, text))
}

fn inactive<'a>(file: &'a str, entry: &'a Entry) -> impl Iterator<Item = Diagnostic> + 'a {
    let message = |field: &&str| format!("field \"{field}\" is not acted on by this version");
    entry.inactive.iter().map(move |field| warning(file, Some(entry.line), Some(entry.key.to_string()), message(field)))
}

fn warning(file: &str, line: Option<usize>, key: Option<String>, message: String) -> Diagnostic {
    Diagnostic { file: file.to_owned(), line, key, message, severity: Severity::Warning }
}
