//! What happened to a fleet, in a few lines: requests and failures by kind, moves, and how long keys were frozen.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde_json::Value;
use waypost_tests::Waypost;

use crate::writes::Written;

/// The report.
#[derive(Default)]
pub(super) struct Report {
    requests: usize,
    took: Vec<Duration>,
    failed: BTreeMap<String, usize>,
    runs: usize,
    moves: usize,
    taken_over: usize,
    again: usize,
    frozen_ms: Vec<f64>,
    /// What movers complained of, by the last words.
    said: BTreeMap<String, usize>,
    proxies: Vec<String>,
}

impl Report {
    /// What one run of a mover printed.
    pub(super) fn run(&mut self, out: &str, said: &str) {
        self.runs += 1;
        for line in out.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).filter(|line| line["key"].is_string()) {
            self.moves += 1;
            let spans = [&line["frozen_ms"], &line["let_go_ms"], &line["committed_ms"]].map(|span| span.as_f64().unwrap_or(0.0));
            if line["taken_over"] == true {
                self.taken_over += 1;
            } else {
                self.frozen_ms.push(spans.iter().sum());
            }
            self.again += usize::from(line["tries"].as_u64() > Some(1));
        }
        for line in said.lines() {
            let kind = line.split_once(": ").map_or(line, |(_, rest)| rest).split_once(' ').map_or(line, |(_, rest)| rest);
            *self.said.entry(kind.to_owned()).or_default() += 1;
        }
    }

    /// With what another one has of movers.
    pub(super) fn add(&mut self, other: Self) {
        self.runs += other.runs;
        self.moves += other.moves;
        self.taken_over += other.taken_over;
        self.again += other.again;
        self.frozen_ms.extend(other.frozen_ms);
        other.said.into_iter().for_each(|(kind, count)| *self.said.entry(kind).or_default() += count);
    }

    /// What the clients were answered.
    pub(super) fn answered(&mut self, answers: &[Written]) {
        self.requests = answers.len();
        self.took = answers.iter().map(|write| write.to - write.from).collect();
        self.took.sort_unstable();
        for write in answers.iter().filter(|write| !matches!(write.status, 200 | 201)) {
            *self.failed.entry(format!("{} {}", write.status, write.reason)).or_default() += 1;
        }
    }

    /// What the proxies counted.
    pub(super) async fn proxies(&mut self, proxies: &[Waypost]) {
        for proxy in proxies {
            let mut counts = Vec::new();
            for name in ["stale_total", "stale_outcome_total", "hops_sum", "retries_total"] {
                counts.push(format!("{name} {}", proxy.metric(&format!("waypost_{name}")).await));
            }
            self.proxies.push(counts.join(", "));
        }
    }
}

fn of<T: Copy>(sorted: &[T], percent: usize) -> Option<T> {
    sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))).copied()
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let failed: usize = self.failed.values().sum();
        writeln!(out, "requests     {}, {failed} failed {:?}", self.requests, self.failed)?;
        writeln!(out, "answered in  {:?} median, {:?} 99 %, {:?} at most", of(&self.took, 50), of(&self.took, 99), of(&self.took, 100))?;
        let Self { moves, runs, taken_over, again, .. } = self;
        writeln!(out, "moves        {moves} in {runs} runs, {taken_over} taken over, {again} tried again")?;
        let mut frozen = self.frozen_ms.clone();
        frozen.sort_by(f64::total_cmp);
        writeln!(out, "frozen for   {:?} ms median, {:?} 99 %, {:?} at most", of(&frozen, 50), of(&frozen, 99), of(&frozen, 100))?;
        for (kind, count) in &self.said {
            writeln!(out, "movers said  {count} x {kind}")?;
        }
        self.proxies.iter().try_for_each(|counts| writeln!(out, "proxy        {counts}"))
    }
}
