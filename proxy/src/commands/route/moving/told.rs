//! What a run says: a line a move, or a count that goes up where a person watches many; in the end how long keys were frozen.

use std::{
    io::{IsTerminal, Write},
    time::{Duration, Instant},
};

use serde_json::json;
use waypost_conf::{Name, RecordKey};
use waypost_policy::handover::Moved;

use crate::{
    commands::print,
    failure::{Failed, Outcome},
};

/// How often the count is written.
const COUNT_EVERY: Duration = Duration::from_millis(100);

/// What was said so far, and what is to be said in the end.
pub(super) struct Told {
    is_json: bool,
    /// A count instead of a line a move.
    is_counted: bool,
    /// When the count was written last; `None`: none stands there.
    counted: Option<Instant>,
    all: usize,
    moved: usize,
    failed: usize,
    failed_in_a_row: usize,
    /// How long keys were frozen, of those that this run froze.
    frozen: Vec<Duration>,
}

impl Told {
    /// Of so many moves.
    pub(super) fn new(is_json: bool, all: usize) -> Self {
        let is_watched = std::io::stdout().is_terminal() && std::io::stderr().is_terminal();
        let is_counted = is_watched && !is_json && all > 1;
        Self { is_json, is_counted, counted: None, all, moved: 0, failed: 0, failed_in_a_row: 0, frozen: Vec::new() }
    }

    /// A key has another owner.
    pub(super) fn moved(&mut self, key: &RecordKey, to: &Name, moved: &Moved) {
        self.moved += 1;
        self.failed_in_a_row = 0;
        let Moved { from, revision, tries, taken_over, took } = moved;
        let total: Duration = took.iter().sum();
        if !taken_over {
            self.frozen.push(total);
        }
        let [froze, let_go, committed] = took.map(millis);
        if self.is_json {
            print::json(&json!({
                "key": key.to_string(), "from": from, "to": to, "revision": revision, "tries": tries, "taken_over": taken_over,
                "frozen_ms": froze, "let_go_ms": let_go, "committed_ms": committed,
            }));
        } else if self.is_counted {
            self.count(false);
        } else {
            let found = if *taken_over { "found frozen" } else { "frozen" };
            let again = if *tries > 1 { format!(", {tries} tries") } else { String::new() };
            print::line(format_args!(
                "{key}: {from} → {to} at revision {revision} in {:.1} ms ({found} {froze:.1}, let go {let_go:.1}, committed {committed:.1}{again})",
                millis(total)
            ));
        }
    }

    /// A key has the owner that it was to get, by somebody else's doing.
    pub(super) fn moved_by_another(&mut self, key: &RecordKey, to: &Name, revision: u64) {
        self.moved += 1;
        self.failed_in_a_row = 0;
        if self.is_json {
            print::json(&json!({ "key": key.to_string(), "to": to, "revision": revision, "by_another": true }));
        } else if self.is_counted {
            self.count(false);
        } else {
            print::line(format_args!("{key}: belongs to {to} by now, at revision {revision}"));
        }
    }

    /// A key was not moved.
    pub(super) fn failed(&mut self, why: &str) {
        self.failed += 1;
        self.failed_in_a_row += 1;
        self.clear();
        eprintln!("waypost: {why}");
        self.count(true);
    }

    /// How many moves have failed since one was made.
    pub(super) fn failed_in_a_row(&self) -> usize {
        self.failed_in_a_row
    }

    /// All have ended that were begun.
    pub(super) fn end(mut self, not_begun: usize, took: Duration) -> Outcome {
        self.clear();
        self.frozen.sort_unstable();
        if self.all > 1 {
            self.sum_up(not_begun, took);
        }
        let left = self.failed + not_begun;
        if left == 0 {
            return Ok(());
        }
        let ended = match (not_begun, self.failed_in_a_row) {
            (0, _) => String::new(),
            (_, 0) => ", since the run was interrupted".to_owned(),
            (_, failed) => format!(", since {failed} failed one after the other"),
        };
        let all = print::count(self.all, "route");
        Err(Failed::not_done(format!("{left} of {all} were not moved{ended}; another run goes on with them")))
    }

    fn sum_up(&self, not_begun: usize, took: Duration) {
        let frozen = |percent| quantile(&self.frozen, percent).map(millis);
        if self.is_json {
            print::json(&json!({ "summary": {
                "moved": self.moved, "failed": self.failed, "not_begun": not_begun, "took_ms": millis(took),
                "frozen_ms": { "p50": frozen(50), "p90": frozen(90), "p99": frozen(99), "most": frozen(100) },
            } }));
        } else if let [Some(median), Some(late), Some(most)] = [50, 99, 100].map(frozen) {
            eprintln!(
                "waypost: {} moved in {:.1} s; a key was frozen for {median:.1} ms (median), {late:.1} ms (99 of 100), {most:.1} ms at most",
                print::count(self.moved, "route"),
                took.as_secs_f64()
            );
        }
    }

    /// Writes the count over itself, if it is time.
    fn count(&mut self, now: bool) {
        if self.is_counted && (now || self.counted.is_none_or(|at| at.elapsed() >= COUNT_EVERY)) {
            self.counted = Some(Instant::now());
            eprint!("\r{} of {} moved, {} failed ", self.moved, self.all, self.failed);
            let _ = std::io::stderr().flush();
        }
    }

    fn clear(&mut self) {
        if self.counted.take().is_some() {
            eprint!("\r\x1b[K");
        }
    }
}

fn millis(span: Duration) -> f64 {
    // Microseconds are enough.
    (span.as_secs_f64() * 1e6).round() / 1e3
}

/// Of sorted spans: the least that so many of a hundred do not exceed.
fn quantile(sorted: &[Duration], percent: usize) -> Option<Duration> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_one_of_the_spans() {
        let spans: Vec<Duration> = (1..=200).map(Duration::from_millis).collect();
        for (percent, wanted) in [(0, 1), (50, 100), (99, 198), (100, 200)] {
            assert_eq!(quantile(&spans, percent), Some(Duration::from_millis(wanted)));
        }
        assert_eq!(quantile(&[], 50), None);
        assert_eq!(quantile(&spans[..1], 99), Some(Duration::from_millis(1)));
    }
}
