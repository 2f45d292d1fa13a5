//! The report: a line a row, and what it was made of where that is wanted.

use serde_json::{Value, json};
use waypost_conf::escaped;

use super::{
    exchange::Exchange,
    play::{Played, Verdict},
};
use crate::commands::print;

const GREEN: &str = "32";
const RED: &str = "31";

/// Prints a row.
pub(super) fn row(played: &Played, is_verbose: bool) {
    use std::io::IsTerminal;
    let is_terminal = std::io::stdout().is_terminal();
    let is_coloured = print::is_coloured(&std::io::stdout());
    let mark = match (&played.verdict, is_terminal) {
        (Verdict::Passed, true) => "✓",
        (Verdict::Failed(_), true) => "✗",
        (Verdict::Skipped(_), true) => "–",
        (Verdict::Passed, false) => "pass",
        (Verdict::Failed(_), false) => "FAIL",
        (Verdict::Skipped(_), false) => "skip",
    };
    let colour = match &played.verdict {
        Verdict::Passed => Some(GREEN),
        Verdict::Failed(_) => Some(RED),
        Verdict::Skipped(_) => None,
    };
    let mark = match colour.filter(|_| is_coloured) {
        Some(colour) => format!("\x1b[{colour}m{mark}\x1b[0m"),
        None => mark.to_owned(),
    };
    let took = match &played.verdict {
        Verdict::Skipped(_) => String::new(),
        _ => format!("  ({} ms)", played.took.as_millis()),
    };
    print::line(format_args!("{mark}  {:8}  {}{took}", played.row, played.says));
    match &played.verdict {
        Verdict::Passed if !is_verbose => return,
        Verdict::Passed => {}
        Verdict::Skipped(why) => note(why),
        Verdict::Failed(faults) => {
            faults.iter().for_each(|fault| note(fault));
            if let Some(right) = &played.right {
                note(&format!("right: {right}"));
            }
        }
    }
    for exchange in &played.exchanges {
        heads(exchange);
    }
}

/// What backends say may hold anything: it must not write to a terminal.
fn note(text: &str) {
    print::line(format_args!("      {}", escaped(text.as_bytes())));
}

fn heads(exchange: &Exchange) {
    lines(">", &exchange.sent.head);
    if !exchange.sent.body.is_empty() {
        note(&format!("> ({} bytes of body)", exchange.sent.body.len()));
    }
    lines("<", &exchange.heads);
    match &exchange.answer {
        Ok(answer) if !answer.body.is_empty() => note(&format!("< ({} bytes of body)", answer.body.len())),
        Ok(_) => {}
        Err(why) => note(&format!("< {why}")),
    }
}

fn lines(mark: &str, head: &[u8]) {
    for line in head.split(|b| *b == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if !line.is_empty() {
            print::line(format_args!("      {mark} {}", escaped(line)));
        }
    }
}

/// How many passed, failed and were skipped.
pub(super) fn counts(all: &[Played]) -> [usize; 3] {
    let count = |is: fn(&Verdict) -> bool| all.iter().filter(|played| is(&played.verdict)).count();
    [
        count(|verdict| *verdict == Verdict::Passed),
        count(|verdict| matches!(verdict, Verdict::Failed(_))),
        count(|verdict| matches!(verdict, Verdict::Skipped(_))),
    ]
}

/// The last line.
pub(super) fn summary(all: &[Played]) {
    let [passed, failed, skipped] = counts(all);
    print::line(format_args!("{passed} passed, {failed} failed, {skipped} not played"));
}

/// The report for machines.
pub(super) fn as_json(all: &[Played]) -> Value {
    let [passed, failed, skipped] = counts(all);
    let rows: Vec<Value> = all
        .iter()
        .map(|played| {
            let (result, faults) = match &played.verdict {
                Verdict::Passed => ("passed", Vec::new()),
                Verdict::Failed(faults) => ("failed", faults.clone()),
                Verdict::Skipped(why) => ("skipped", vec![why.clone()]),
            };
            let exchanges = played.exchanges.iter().map(|exchange| {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                json!({ "sent": text(&exchange.sent.head), "received": text(&exchange.heads), "took_ms": exchange.took.as_millis() as u64 })
            });
            json!({
                "row": played.row, "says": played.says, "result": result, "faults": faults, "right": played.right,
                "took_ms": played.took.as_millis() as u64, "exchanges": exchanges.collect::<Vec<_>>(),
            })
        })
        .collect();
    json!({ "passed": passed, "failed": failed, "skipped": skipped, "rows": rows })
}
