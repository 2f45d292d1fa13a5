//! The report: tables in Markdown, between two marks of a file whose other text is a person's, and pictures beside it.

use std::{fmt::Write, path::Path};

use waypost_bench::{
    Scale,
    processes::{Told, say},
    svg,
};

use crate::{
    figures::{Cell, Sample, Spread},
    machine,
    options::Size,
    peer::{OURS, PEERS},
    rows::{Group, Row},
    running::Results,
    targets,
};

const BEGIN: &str = "<!-- Written by `make bench-peers`, up to the mark at the end: what is changed here is lost. -->";
const END: &str = "<!-- The end of what `make bench-peers` writes. -->";
/// What a file begins with that is not there yet.
const NEW_FILE: &str = "# Waypost beside its peers\n";

const GROUPS: [(Group, &str); 9] = [
    (Group::Routes, "Routes: small GET, kept alive, random keys"),
    (Group::Bodies, "Bodies"),
    (Group::Connections, "Connections"),
    (Group::Tls, "TLS and HTTP/2"),
    (Group::Latency, "Latency, open loop"),
    (Group::Threads, "Threads"),
    (Group::Log, "Access log"),
    (Group::Updates, "Updates meanwhile"),
    (Group::Single, "Single figures"),
];
/// Rows whose latencies are drawn, and the files' names.
const PICTURES: [(&str, &str); 2] = [("half", "peers-half-of-peak.svg"), ("rate", "peers-same-rate.svg")];

/// The report as text.
pub(crate) fn text(results: &Results, size: &Size, took: std::time::Duration) -> String {
    let mut out = String::new();
    // Writing into a string can't fail.
    let _ = write(&mut out, results, size, took);
    out
}

fn write(out: &mut String, results: &Results, size: &Size, took: std::time::Duration) -> std::fmt::Result {
    writeln!(out, "{}, in {} minutes.\n", machine::describe(), took.as_secs().div_ceil(60))?;
    let versions: Vec<String> = (0..PEERS.len()).filter_map(|peer| machine::version(peer, results)).collect();
    writeln!(out, "{}, {}.\n", versions.join(", "), machine::etcd_version())?;
    writeln!(
        out,
        "{} rounds of {} a row, every peer in turn in each, medians; in brackets the least and the most. Seeds 1 to {0}.\n",
        size.rounds,
        humantime::format_duration(size.duration)
    )?;
    writeln!(out, "Processes that are no part of it used {:.2} cores meanwhile.\n", results.others)?;
    if !size.is_judged {
        writeln!(out, "A quick run: these figures mean nothing.\n")?;
    }
    for (group, title) in GROUPS {
        let rows: Vec<(usize, &Row)> = results.rows.iter().enumerate().filter(|(_, row)| row.group == group).collect();
        if !rows.is_empty() {
            writeln!(out, "### {title}\n")?;
            table(out, results, &rows)?;
        }
        if group == Group::Single
            && let Some(direct) = Spread::of(results.direct_us.iter().copied())
        {
            writeln!(out, "One connection to an owner, without a proxy: p50 {}.\n", with_spread(direct, "µs"))?;
        }
    }
    if size.is_judged {
        write_targets(out, results)?;
    }
    write_starts(out, results)?;
    write_habits(out, results)
}

fn table(out: &mut String, results: &Results, rows: &[(usize, &Row)]) -> std::fmt::Result {
    if rows.iter().any(|(_, row)| row.unit().is_some()) {
        writeln!(out, "| | peer | figure | Waypost ÷ it | |\n|---|---|---|---|---|")?;
    } else {
        writeln!(
            out,
            "| | peer | requests/s | req/CPU-s | p50 µs | p99 µs | Waypost ÷ it, req/CPU-s | p99 | |\n|---|---|---|---|---|---|---|---|---|"
        )?;
    }
    for (number, row) in rows {
        for (peer, named) in PEERS.iter().enumerate() {
            let Some(cell) = results.cells.get(&(*number, peer)) else { continue };
            let ours = results.cells.get(&(*number, OURS)).filter(|_| peer != OURS);
            line(out, row, named.name(), cell, ours)?;
        }
    }
    writeln!(out)
}

fn line(out: &mut String, row: &Row, peer: &str, cell: &Cell, ours: Option<&Cell>) -> std::fmt::Result {
    let ratio = |of: fn(&Sample) -> f64| {
        let ratio = ours.and_then(|ours| Some(ours.spread(of)?.median / cell.spread(of)?.median));
        ratio.filter(|ratio| ratio.is_finite()).map_or_else(|| "–".to_owned(), two_digits)
    };
    let beside = beside(cell);
    let figures = if let Some(unit) = row.unit() {
        let one = cell.spread(|sample| sample.value);
        format!("{} | {}", one.map_or_else(|| "can't".to_owned(), |one| with_spread(one, unit)), ratio(|sample| sample.value))
    } else {
        let figure = |of: fn(&Sample) -> f64, spread| {
            cell.spread(of).map_or_else(|| "–".to_owned(), |one| if spread { with_spread(one, "") } else { thousands(one.median) })
        };
        let rate = if matches!(cell, Cell::Cannot(_)) { "can't".to_owned() } else { figure(|sample| sample.requests_per_second, false) };
        let cpu = figure(|sample| sample.per_cpu, true);
        let (p50, p99) = (figure(|sample| sample.p50_us, false), figure(|sample| sample.p99_us, true));
        format!("{rate} | {cpu} | {p50} | {p99} | {} | {}", ratio(|sample| sample.per_cpu), ratio(|sample| sample.p99_us))
    };
    writeln!(out, "| {} | {peer} | {figures} | {beside} |", row.name)
}

/// What is said beside figures: why there are none, or what has to be known of them.
fn beside(cell: &Cell) -> String {
    let mut said = Vec::new();
    if cell.failed() > 0 {
        said.push(format!("{} failed", thousands(cell.failed() as f64)));
    }
    said.extend(cell.note().map(|note| note.replace('|', "/").replace('\n', " ")));
    said.join("; ")
}

fn with_spread(spread: Spread, unit: &str) -> String {
    let show = |value: f64| if value.abs() < 100.0 && !unit.is_empty() { format!("{value:.2}") } else { thousands(value) };
    let unit = if unit.is_empty() { String::new() } else { format!(" {unit}") };
    if spread.least == spread.most {
        format!("{}{unit}", show(spread.median))
    } else {
        format!("{}{unit} ({}–{})", show(spread.median), show(spread.least), show(spread.most))
    }
}

/// Two places, or as many as it takes to show two digits.
fn two_digits(ratio: f64) -> String {
    let places = [2, 3, 4, 5, 6].into_iter().find(|places| ratio.abs() * 10_f64.powi(*places) >= 10.0).unwrap_or(2);
    format!("{ratio:.*}", usize::try_from(places).unwrap_or(2))
}

/// A whole number with its thousands apart.
pub(crate) fn thousands(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if value <= -0.5 { format!("-{text}") } else { text }
}

fn write_targets(out: &mut String, results: &Results) -> std::fmt::Result {
    writeln!(out, "### Targets\n\n| figure | measured | target | met | how |\n|---|---|---|---|---|")?;
    for target in targets::all(results) {
        let sign = if target.is_least { "≥" } else { "≤" };
        let measured = target.measured.map_or_else(|| "not measured".to_owned(), |measured| format!("{measured:.2}"));
        let met = match (target.is_met(), target.margin()) {
            (Some(true), Some(margin)) => format!("yes, by {margin:.0} %"),
            (Some(false), Some(margin)) => format!("NO, by {:.0} %", -margin),
            _ => "–".to_owned(),
        };
        writeln!(out, "| {} | {measured} | {sign} {} | {met} | {} |", target.figure, target.wanted, target.how)?;
    }
    writeln!(out)
}

fn write_starts(out: &mut String, results: &Results) -> std::fmt::Result {
    writeln!(
        out,
        "### Starts\n\nFrom the process's start to the first answers by the first and the last route; resident memory when it has nothing left to do. One start \
         each.\n"
    )?;
    writeln!(out, "| routes | peer | s | MB |\n|---|---|---|---|")?;
    for ((table, peer), (took, memory)) in &results.starts {
        writeln!(out, "| {} | {} | {took:.2} | {} |", thousands(table.tenants as f64), PEERS[*peer].name(), thousands(*memory))?;
    }
    writeln!(out)
}

fn write_habits(out: &mut String, results: &Results) -> std::fmt::Result {
    writeln!(out, "### What each does with a request\n")?;
    writeln!(
        out,
        "Seen by an owner that answers with what it was sent, before anything is measured. All keep both connections, and are asked to add \
         `X-Forwarded-For`, `X-Forwarded-Proto`, `X-Request-Id` and `Via` to the request, `X-Request-Id` and `Via` to the answer.\n"
    )?;
    writeln!(out, "| peer | not to the owner | not to the client | to the owner beside | configured by |\n|---|---|---|---|---|")?;
    let list = |names: Vec<&str>| {
        if names.is_empty() { "–".to_owned() } else { names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ") }
    };
    for (peer, habits) in &results.habits {
        let templates =
            PEERS[*peer].templates().iter().map(|name| format!("[{name}](peers/configs/{name})")).collect::<Vec<_>>().join(", ");
        writeln!(
            out,
            "| {} | {} | {} | {} | {templates} |",
            PEERS[*peer].name(),
            list(habits.not_to_owner.clone()),
            list(habits.not_to_client.clone()),
            list(habits.more_to_owner.iter().map(String::as_str).collect())
        )?;
    }
    Ok(())
}

/// Puts the text between the marks of a file, and draws the pictures; what stands around the marks is left as it is.
pub(crate) fn put(text: &str, results: &Results, file: &Path) -> Told<()> {
    let folder = file.parent().unwrap_or(Path::new("")).join("results");
    std::fs::create_dir_all(&folder).map_err(say)?;
    let mut shown = String::new();
    for (id, name) in PICTURES {
        let Some(row) = results.rows.iter().find(|row| row.id == id) else { continue };
        let reports: Vec<_> = (0..PEERS.len()).filter_map(|peer| Some((PEERS[peer].name(), results.cell(id, peer)?.report()?))).collect();
        std::fs::write(folder.join(name), svg(&reports, Scale::Log)).map_err(say)?;
        shown.push_str(&format!("\n![Latency {}](results/{name})\n\nLatency {0}, the round whose p99 is the middle one.\n", row.name));
    }
    let old = std::fs::read_to_string(file).unwrap_or_else(|_| format!("{NEW_FILE}\n{BEGIN}\n{END}\n"));
    std::fs::write(file, between(&old, &format!("{text}{shown}"))?).map_err(say)
}

fn between(old: &str, text: &str) -> Told<String> {
    let marks = old.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let (before, after) = marks.ok_or_else(|| format!("the report's file has not both marks: {BEGIN} and {END}"))?;
    Ok(format!("{before}{BEGIN}\n\n{text}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_person_wrote_stays() {
        let old = format!("# A\n\nmine\n\n{BEGIN}\nold\n{END}\n\nmine too\n");
        let new = between(&old, "new").unwrap();
        assert_eq!(new, format!("# A\n\nmine\n\n{BEGIN}\n\nnew\n{END}\n\nmine too\n"));
        assert_eq!(between(&new, "new"), Ok(new.clone()));
        assert!(between("# A\n", "new").is_err());
    }

    #[test]
    fn small_ratios_do_not_vanish() {
        for (ratio, text) in [(1.234, "1.23"), (0.056, "0.056"), (0.000_031_2, "0.000031"), (0.0, "0.00"), (-0.5, "-0.50")] {
            assert_eq!(two_digits(ratio), text);
        }
    }

    #[test]
    fn thousands_are_told_apart() {
        for (value, text) in [(0.4, "0"), (999.6, "1,000"), (-1_234_567.0, "-1,234,567"), (12.0, "12")] {
            assert_eq!(thousands(value), text);
        }
    }
}
