//! `waypost apply`: the records of files into the store, by compare and swap, in one transaction where they fit in one.
//!
//! What is to be done is decided in [`plan`] and said before anything is written; here it is carried out. A transaction is written
//! whole or not at all, and whatever ends an apply of several in between, what was written and what was not is said.

mod plan;
mod show;

use std::ops::Range;

use serde_json::{Value, json};
use waypost_conf::{Diagnostic, Document, Entry, Names, RecordKey, dangling, escaped};
use waypost_watcher::{
    files::RECORD_ENDINGS,
    store::{Change, Store, Swapped},
    transactions::{MAX_TXN_BYTES, MAX_TXN_OPERATIONS, cut},
};

use self::{
    plan::{Plan, Planned},
    show::Style,
};
use super::{input::Input, print};
use crate::{
    cli::ApplyArgs,
    failure::{Failed, Outcome},
    gold,
};

/// The folders whose names others refer to.
const REFERRED_TO: [&[u8]; 3] = [b"services/", b"upstreams/", b"policies/"];

/// Runs the command.
pub(crate) fn run(args: &ApplyArgs) -> Outcome {
    let document = read(args)?;
    let place = gold::store_place(&args.gold)?;
    print::runtime()?.block_on(async {
        let store = Store::connect(&place).await.map_err(Failed::not_done)?;
        let warnings = warnings(&document, &store).await.map_err(Failed::not_done)?;
        let keys: Vec<Vec<u8>> = document.entries.iter().map(|entry| entry.key.suffix()).collect();
        let found = store.get_many(&keys).await.map_err(Failed::not_done)?;
        let plan = Plan::new(document.entries, found);
        let changes: Vec<Change> = plan.changes.iter().map(|planned| planned.change.clone()).collect();
        let parts = cut(&changes, store.prefix_bytes());
        let apply = Apply { args, plan, warnings, changes, parts, style: Style::new(print::is_coloured(&std::io::stdout())) };
        apply.announce();
        if args.dry_run {
            return apply.show();
        }
        if apply.plan.refused.is_empty() { apply.carry_out(&store).await } else { apply.refused() }
    })
}

/// All records of the files.
fn read(args: &ApplyArgs) -> Result<Document, Failed> {
    let Input { texts, mut faults, unreadable } = Input::read(&args.files, &RECORD_ENDINGS);
    let mut document = Document::default();
    texts.iter().for_each(|(name, text)| document.add(name, text));
    faults.append(&mut document.faults);
    if faults.is_empty() && unreadable.is_empty() {
        return Ok(document);
    }
    for message in faults.iter().map(Diagnostic::to_string).chain(unreadable) {
        eprintln!("{message}");
    }
    Err(Failed::unusable("nothing was put: what is said above must be mended first"))
}

/// What is doubtful in the files, with the names that the store has.
async fn warnings(document: &Document, store: &Store) -> Result<Vec<Diagnostic>, String> {
    let mut names: Names = document.keys().collect();
    for folder in REFERRED_TO {
        let keys = store.keys(folder).await?;
        keys.iter().filter_map(|key| RecordKey::parse(key).ok()).for_each(|key| names.add(&key));
    }
    let mut warnings: Vec<Diagnostic> = document.entries.iter().flat_map(Entry::inactive_warnings).collect();
    warnings.extend(dangling(&document.entries, &names, "in these files or in the store"));
    Ok(warnings)
}

struct Apply<'a> {
    args: &'a ApplyArgs,
    plan: Plan,
    warnings: Vec<Diagnostic>,
    /// One a planned record.
    changes: Vec<Change>,
    /// Which of them are one transaction.
    parts: Vec<Range<usize>>,
    style: Style,
}

impl Apply<'_> {
    /// What is to be said before anything is written.
    fn announce(&self) {
        for warning in &self.warnings {
            eprintln!("{warning}");
        }
        for refused in &self.plan.refused {
            eprintln!("{refused}");
        }
        if self.parts.len() > 1 {
            eprintln!(
                "waypost: {} do not fit in one transaction (at most {MAX_TXN_OPERATIONS} records and {MAX_TXN_BYTES} bytes): they go into {}, \
                 one after the other; proxies see each as a whole, but not all of them at once",
                print::count(self.changes.len(), "record"),
                self.parts.len()
            );
        }
    }

    fn refused(&self) -> Outcome {
        if self.args.json {
            let mut shown = self.for_machines();
            shown["put"] = 0.into();
            print::json(&shown);
        }
        Err(Failed::not_done("nothing was put: every proxy would refuse what is said above"))
    }

    fn show(&self) -> Outcome {
        if self.args.json {
            let changes: Vec<Value> = self.plan.changes.iter().map(for_machines).collect();
            let mut shown = self.for_machines();
            shown["dry_run"] = true.into();
            shown["changes"] = changes.into();
            print::json(&shown);
        } else {
            self.print(&(0..self.changes.len()));
            self.print_same();
        }
        let differ = print::count(self.changes.len(), "record");
        let same = self.plan.same.len();
        if self.plan.refused.is_empty() {
            eprintln!("waypost: {differ} would be put, {same} are the same already; nothing was changed");
            return Ok(());
        }
        Err(Failed::not_done(format!(
            "{differ} would differ, {same} are the same already, but every proxy would refuse what is said above"
        )))
    }

    async fn carry_out(&self, store: &Store) -> Outcome {
        let mut revision = 0;
        for part in &self.parts {
            let changes = self.changes.get(part.clone()).unwrap_or_default();
            match store.swap(changes, &[]).await {
                Ok(Swapped::Done(at)) => revision = at,
                Ok(Swapped::Moved(keys)) => {
                    let keys: Vec<String> = keys.iter().map(|key| escaped(key)).collect();
                    let why = format!("somebody changed {} after it was read; look at it and run this again", keys.join(", "));
                    return self.stop(part.start, 0, revision, &why);
                }
                Err(fault) => {
                    let unknown = if fault.may_be_written { part.len() } else { 0 };
                    return self.stop(part.start, unknown, revision, &fault.message);
                }
            }
            if !self.args.json {
                self.print(part);
            }
        }
        if self.args.json {
            let mut shown = self.for_machines();
            shown["put"] = self.changes.len().into();
            shown["revision"] = revision.into();
            print::json(&shown);
        } else {
            self.print_same();
        }
        let put = print::count(self.changes.len(), "record");
        eprintln!("waypost: {put} put, {} left alone because they were the same", self.plan.same.len());
        Ok(())
    }

    /// Says what was written before something stopped it: the first `put` records were, and of `unknown` after them nobody can say.
    fn stop(&self, put: usize, unknown: usize, revision: u64, why: &str) -> Outcome {
        let keys = |from: usize, to: usize| {
            let planned = self.plan.changes.get(from..to).unwrap_or_default().iter();
            planned.map(|planned| planned.key.to_string()).collect::<Vec<_>>()
        };
        if self.args.json {
            let mut shown = self.for_machines();
            shown["put"] = put.into();
            shown["revision"] = revision.into();
            shown["unknown"] = keys(put, put + unknown).into();
            shown["not_put"] = keys(put + unknown, self.changes.len()).into();
            shown["error"] = why.into();
            print::json(&shown);
        }
        Err(Failed::not_done(show::stopped(why, put, revision, &keys(put, put + unknown), &keys(put + unknown, self.changes.len()))))
    }

    fn print(&self, part: &Range<usize>) {
        for planned in self.plan.changes.get(part.clone()).unwrap_or_default() {
            print::line(self.style.difference(planned));
        }
    }

    fn print_same(&self) {
        if self.args.verbose {
            self.plan.same.iter().for_each(|key| print::line(self.style.same(key)));
        }
    }

    fn for_machines(&self) -> Value {
        let keys: Vec<String> = self.plan.same.iter().map(ToString::to_string).collect();
        json!({
            "unchanged": self.plan.same.len(),
            "left_alone": keys,
            "transactions": self.parts.len(),
            "warnings": self.warnings.iter().map(print::diagnostic).collect::<Vec<_>>(),
            "refused": self.plan.refused.iter().map(print::diagnostic).collect::<Vec<_>>(),
        })
    }
}

fn for_machines(planned: &Planned) -> Value {
    let fields = planned.fields.iter().map(|field| json!({ "path": field.path, "before": field.before, "after": field.after }));
    let fields: Vec<Value> = fields.collect();
    json!({ "key": planned.key.to_string(), "before": planned.before, "after": planned.after, "fields": fields })
}
