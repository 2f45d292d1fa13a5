//! `waypost apply`: the records of files into the store, by compare and swap, in one transaction where they fit.

use serde_json::json;
use waypost_conf::{Entry, check_references, escaped, parse_document};
use waypost_watcher::store::{Change, MAX_TXN_OPERATIONS, Store, Swapped};

use super::{check, print};
use crate::{
    cli::ApplyArgs,
    failure::{Failed, Outcome},
    gold,
};

/// A record that differs from the store's.
struct Difference {
    change: Change,
    before: Option<String>,
    after: String,
}

/// Runs the command.
pub(crate) fn run(args: &ApplyArgs) -> Outcome {
    let entries = read_all(args)?;
    let place = gold::store_place(&args.gold)?;
    print::runtime()?.block_on(async {
        let store = Store::connect(&place).await.map_err(Failed::not_done)?;
        let differences = compare(&store, &entries).await.map_err(Failed::not_done)?;
        let unchanged = entries.len() - differences.len();
        if args.dry_run {
            return show(args, &differences, unchanged);
        }
        let transactions = differences.len().div_ceil(MAX_TXN_OPERATIONS);
        if transactions > 1 {
            eprintln!("waypost: {} records do not fit into one transaction; they are put in {transactions}", differences.len());
        }
        let mut put = 0;
        let mut revision = 0;
        for part in differences.chunks(MAX_TXN_OPERATIONS) {
            let changes: Vec<Change> = part.iter().map(|difference| difference.change.clone()).collect();
            match store.swap(&changes, &[]).await.map_err(Failed::not_done)? {
                Swapped::Done(at) => revision = at,
                Swapped::Moved => {
                    let rest = differences.len() - put;
                    return Err(Failed::not_done(format!(
                        "somebody changed one of the records meanwhile; {put} were put, {rest} were not; run it again to compare anew"
                    )));
                }
            }
            put += part.len();
        }
        if args.json {
            print::json(&json!({ "put": put, "unchanged": unchanged, "revision": revision, "transactions": transactions }));
        } else {
            for difference in &differences {
                print::line(format_args!("put {}", escaped(&difference.change.key)));
            }
            eprintln!("waypost: {put} records put, {unchanged} left alone because they were the same");
        }
        Ok(())
    })
}

fn read_all(args: &ApplyArgs) -> Result<Vec<Entry>, Failed> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut faults = Vec::new();
    for file in &args.files {
        let (name, text) = check::read(file)?;
        match parse_document(&name, &text) {
            Ok(document) => entries.extend(document.entries),
            Err(wrong) => faults.extend(wrong),
        }
    }
    if !faults.is_empty() {
        return Err(Failed::unusable(format!("nothing was put:\n{}", gold::lines(&faults))));
    }
    let mut seen = std::collections::HashSet::new();
    if let Some(twice) = entries.iter().find(|entry| !seen.insert(&entry.key)) {
        return Err(Failed::unusable(format!("nothing was put: {} stands twice in these files", twice.key)));
    }
    let names: Vec<String> = args.files.iter().map(|file| file.display().to_string()).collect();
    for warning in check_references(&names.join(", "), &entries) {
        eprintln!("{warning}; the store may have it");
    }
    Ok(entries)
}

async fn compare(store: &Store, entries: &[Entry]) -> Result<Vec<Difference>, String> {
    let mut differences = Vec::new();
    for entry in entries {
        let key = entry.key.suffix();
        let found = store.get(&key).await?;
        let same = found.as_ref().is_some_and(|found| same_json(&found.value, &entry.value));
        if !same {
            let before = found.as_ref().map(|found| String::from_utf8_lossy(&found.value).into_owned());
            let read_at = found.map_or(0, |found| found.mod_revision);
            let after = String::from_utf8_lossy(&entry.value).into_owned();
            differences.push(Difference { change: Change { key, value: Some(entry.value.clone()), read_at }, before, after });
        }
    }
    Ok(differences)
}

/// The same value, however it is written.
fn same_json(one: &[u8], other: &[u8]) -> bool {
    let parse = |bytes| serde_json::from_slice::<serde_json::Value>(bytes).ok();
    one == other || parse(one).is_some_and(|one| parse(other) == Some(one))
}

fn show(args: &ApplyArgs, differences: &[Difference], unchanged: usize) -> Outcome {
    if args.json {
        let changes: Vec<_> = differences
            .iter()
            .map(|diff| json!({ "key": escaped(&diff.change.key), "before": diff.before, "after": diff.after }))
            .collect();
        print::json(&json!({ "dry_run": true, "changes": changes, "unchanged": unchanged }));
        return Ok(());
    }
    for difference in differences {
        print::line(escaped(&difference.change.key));
        if let Some(before) = &difference.before {
            print::line(format_args!("  - {before}"));
        }
        print::line(format_args!("  + {}", difference.after));
    }
    eprintln!("waypost: {} records would be put, {unchanged} are the same; nothing was changed", differences.len());
    Ok(())
}
