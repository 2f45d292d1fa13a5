//! The figures and the one table that they are printed in.

use std::time::Duration;

use crate::{Size, machine::Others};

/// One figure.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    /// What it is of.
    pub(crate) name: &'static str,
    /// What was measured, with its unit.
    pub(crate) measured: String,
    /// What is wanted; empty: nothing, it stands there to explain another.
    pub(crate) target: &'static str,
    /// Whether it is as wanted.
    pub(crate) is_met: bool,
    /// What else the machine did meanwhile.
    pub(crate) others: Others,
    /// What a reader should know of how it came about.
    pub(crate) note: String,
}

/// Prints all of them.
pub(crate) fn show(figures: &[Figure], size: Size, took: Duration) {
    println!();
    println!("| figure | measured | target | met | other work, cores |");
    println!("|---|---|---|---|---|");
    for Figure { name, measured, target, is_met, others, .. } in figures {
        let met = match (target.is_empty() || !size.is_judged, is_met) {
            (true, _) => "–",
            (false, true) => "yes",
            (false, false) => "NO",
        };
        let stolen = if others.stolen >= 0.01 { format!(" (+ {:.2} stolen)", others.stolen) } else { String::new() };
        println!("| {name} | {measured} | {target} | {met} | {:.2}{stolen} |", others.cores);
    }
    println!();
    for Figure { name, note, .. } in figures.iter().filter(|figure| !figure.note.is_empty()) {
        println!("- {name}: {note}");
    }
    println!();
    println!("{} routes, {} s in all", size.routes, took.as_secs());
    if !size.is_judged {
        println!("a quick run: these figures mean nothing");
    }
}

/// The value below which a share of them lies; they are sorted by this.
pub(crate) fn percentile<T: Copy + PartialOrd + Default>(values: &mut [T], share: f64) -> T {
    values.sort_by(|one, other| one.partial_cmp(other).unwrap_or(std::cmp::Ordering::Equal));
    let place = (values.len() as f64 * share).ceil() as usize;
    values.get(place.saturating_sub(1).min(values.len().saturating_sub(1))).copied().unwrap_or_default()
}

/// The middle one.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    percentile(values, 0.5)
}

/// Microseconds as milliseconds.
pub(crate) fn ms(micros: i64) -> String {
    format!("{:.2} ms", micros.max(0) as f64 / 1000.0)
}

/// Bytes as megabytes.
pub(crate) fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
