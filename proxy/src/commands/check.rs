//! `waypost check`: record files, bootstrap files, or what is in the store, a line a fault.

use std::path::PathBuf;

use serde_json::json;
use waypost_conf::{Diagnostic, Document, Entry, Names, Record, RecordKey, Severity, dangling, decode_strict, escaped, parse_bootstrap};
use waypost_policy::matching::Matcher;
use waypost_watcher::{EtcdPlace, GoldPlace, files::RECORD_ENDINGS, store::Store};

use super::{against, input::Input, print};
use crate::{
    cli::CheckArgs,
    failure::{Failed, Outcome},
    gold,
};

/// What bootstrap files end with.
const BOOTSTRAP_ENDING: &str = "toml";

/// What was found.
#[derive(Default)]
struct Checked {
    said: Vec<Diagnostic>,
    /// What could not be read at all.
    unreadable: Vec<String>,
    records: usize,
    /// `3 files`, or the store.
    place: String,
}

/// Runs the command.
pub(crate) fn run(args: &CheckArgs) -> Outcome {
    if let Some(admin) = &args.against {
        return against::run(admin, args);
    }
    let checked = if args.files.is_empty() {
        let bootstrap = gold::bootstrap(&args.gold)?;
        match gold::place(&args.gold, &bootstrap.content)? {
            GoldPlace::File(path) => check_files(&[path]),
            GoldPlace::Etcd(place) => check_store(&place)?,
        }
    } else {
        check_files(&args.files)
    };
    report(args, &checked)
}

fn report(args: &CheckArgs, checked: &Checked) -> Outcome {
    let count = |severity| checked.said.iter().filter(|said| said.severity == severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    if args.json {
        let lines: Vec<_> = checked.said.iter().map(print::diagnostic).collect();
        let (records, unreadable) = (checked.records, &checked.unreadable);
        print::json(&json!({ "records": records, "errors": errors, "warnings": warnings, "diagnostics": lines, "unreadable": unreadable }));
    } else {
        checked.said.iter().for_each(print::line);
    }
    for message in &checked.unreadable {
        eprintln!("waypost: {message}");
    }
    let records = print::count(checked.records, "record");
    let faults = match (errors, checked.unreadable.len()) {
        (0, 0) => "no fault".to_owned(),
        (errors, 0) => print::count(errors, "fault"),
        (errors, unread) => format!("{}, {unread} could not be read", print::count(errors, "fault")),
    };
    let warned = if warnings == 0 { String::new() } else { format!(", {}", print::count(warnings, "warning")) };
    eprintln!("waypost: {records} in {}: {faults}{warned}", checked.place);
    match (checked.unreadable.is_empty(), errors) {
        (false, _) => Err(Failed::said(2)),
        (true, 0) => Ok(()),
        (true, _) => Err(Failed::said(1)),
    }
}

fn check_files(arguments: &[PathBuf]) -> Checked {
    let endings = [&RECORD_ENDINGS[..], &[BOOTSTRAP_ENDING]].concat();
    let Input { texts, faults, unreadable } = Input::read(arguments, &endings);
    let place = print::count(texts.len() + faults.len(), "file");
    let mut said = faults;
    let mut document = Document::default();
    for (name, text) in &texts {
        if name.ends_with(&format!(".{BOOTSTRAP_ENDING}")) {
            said.extend(parse_bootstrap(name, text).map_or_else(|faults| faults, |bootstrap| bootstrap.inactive));
        } else {
            document.add(name, text);
        }
    }
    said.append(&mut document.faults);
    let entries = &document.entries;
    said.extend(entries.iter().flat_map(Entry::inactive_warnings));
    // References may go from one file to another, and a record that has a fault is there all the same.
    said.extend(dangling(entries, &document.keys().collect::<Names>(), "in these files"));
    let services: Vec<&Entry> = entries.iter().filter(|entry| matches!(entry.record, Record::Service(_))).collect();
    said.extend(clashes(&services, "; the record that is older in the store gets these requests"));
    // A line a fault, file by file in the order in which they were named, from top to bottom.
    let order = |file: &str| texts.iter().position(|(name, _)| name == file);
    said.sort_by_key(|said| (order(&said.file), said.line));
    Checked { said, unreadable, records: document.keys().count(), place }
}

fn check_store(place: &EtcdPlace) -> Result<Checked, Failed> {
    let mut records = print::runtime()?.block_on(async {
        let store = Store::connect(place).await.map_err(Failed::not_done)?;
        store.list(b"").await.map_err(Failed::not_done)
    })?;
    let mut said = Vec::new();
    let mut entries = Vec::new();
    let mut names = Names::default();
    // From the oldest to the newest: of two services that clash the older one wins.
    records.sort_by_key(|stored| stored.create_revision);
    for stored in &records {
        let fault = |message| Diagnostic::new(None, Some(escaped(&stored.key)), message, Severity::Error);
        let key = match RecordKey::parse(&stored.key) {
            Ok(key) => key,
            Err(wrong) => {
                said.push(fault(wrong.to_string()));
                continue;
            }
        };
        names.add(&key);
        match decode_strict(&key, &stored.value) {
            Ok(decoded) => entries.push(Entry::stored(key, decoded.record, decoded.inactive)),
            Err(faults) => said.extend(faults.iter().map(|wrong| fault(wrong.to_string()))),
        }
    }
    said.extend(entries.iter().flat_map(Entry::inactive_warnings));
    said.extend(dangling(&entries, &names, "in the store"));
    let services: Vec<&Entry> = entries.iter().filter(|entry| matches!(entry.record, Record::Service(_))).collect();
    said.extend(clashes(&services, ", whose record is older; these requests go there"));
    said.sort_by(|one, other| one.key.cmp(&other.key));
    // As etcd has them, so that a key can be given to etcdctl as it is shown.
    for said in &mut said {
        said.key = said.key.take().map(|key| format!("{}/{key}", place.prefix));
    }
    Ok(Checked { said, records: records.len(), place: format!("the store at {}", place.endpoints.join(",")), ..Checked::default() })
}

/// Services that match the same requests, by the same code that matches them.
fn clashes(oldest_first: &[&Entry], consequence: &str) -> Vec<Diagnostic> {
    let services = oldest_first.iter().filter_map(|entry| match (&entry.key, &entry.record) {
        (RecordKey::Service(name), Record::Service(service)) => Some((name, service)),
        _ => None,
    });
    let (_, clashes) = Matcher::build(services);
    let loser = |name| oldest_first.iter().find(|entry| matches!(&entry.key, RecordKey::Service(service) if service == name));
    let warnings = clashes.iter().filter_map(|clash| {
        let message = format!(
            "host \"{}\" with path prefix \"{}\" is service \"{}\"'s too{consequence}",
            clash.host, clash.path_prefix, clash.winner
        );
        Some(loser(&clash.loser)?.warning("match", message))
    });
    warnings.collect()
}
