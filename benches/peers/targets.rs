//! The targets, and what was measured beside them.

use crate::{
    figures::Sample,
    peer::{HAPROXY, OURS, PEERS},
    running::Results,
};

/// A target.
pub(crate) struct Target {
    pub(crate) figure: String,
    /// `None`: a figure that it needs was not measured.
    pub(crate) measured: Option<f64>,
    pub(crate) wanted: f64,
    /// Whether more is better.
    pub(crate) is_least: bool,
    pub(crate) how: String,
}

/// The rows in which Waypost is to be as good as the best.
const AGAINST_THE_BEST: [&str; 6] = ["tls", "tls-new", "new", "get-1m", "post-1m", "h2"];

pub(crate) fn all(results: &Results) -> Vec<Target> {
    let per_cpu = |sample: &Sample| sample.per_cpu;
    let cpu = |id, peer| results.median(id, peer, per_cpu).filter(|value| *value > 0.0);
    let ratio = |one: Option<f64>, other: Option<f64>| Some(one? / other?);
    let values = |id| ratio(results.median(id, OURS, |sample| sample.value), results.median(id, HAPROXY, |sample| sample.value));
    let at_least =
        |figure: &str, measured, wanted, how: String| Target { figure: figure.to_owned(), measured, wanted, is_least: true, how };
    let at_most =
        |figure: &str, measured, wanted, how: String| Target { figure: figure.to_owned(), measured, wanted, is_least: false, how };

    let mut targets = vec![
        at_least(
            "1,000,000 routes ÷ HAProxy with one",
            ratio(cpu("routes-1m", OURS), cpu("routes-1", HAPROXY)),
            1.15,
            "req/CPU-s".to_owned(),
        ),
        at_least(
            "1,000,000 routes ÷ HAProxy with a map of as many",
            ratio(cpu("routes-1m", OURS), cpu("routes-1m", HAPROXY)),
            1.3,
            "req/CPU-s".to_owned(),
        ),
        at_least(
            "two threads ÷ one",
            ratio(cpu("threads-2", OURS), cpu("threads-1", OURS)).map(|share| 2.0 * share),
            1.8,
            "twice the ratio of req/CPU-s: the generator has its share of the same two cores, so that requests/s can't tell".to_owned(),
        ),
        at_most(
            "p99 at half of the peak ÷ HAProxy's",
            ratio(results.median("half", OURS, |sample| sample.p99_us), results.median("half", HAPROXY, |sample| sample.p99_us)),
            1.0,
            "each at half of its own peak".to_owned(),
        ),
    ];
    for id in AGAINST_THE_BEST {
        let best = (1..PEERS.len()).filter_map(|peer| Some((cpu(id, peer)?, peer))).max_by(|one, other| one.0.total_cmp(&other.0));
        let name = results.rows.iter().find(|row| row.id == id).map_or_else(|| id.to_owned(), |row| row.name.clone());
        let how = best.map_or_else(String::new, |(_, peer)| format!("req/CPU-s; the best is {}", PEERS[peer].name()));
        targets.push(at_least(&format!("{name} ÷ the best peer"), ratio(cpu(id, OURS), best.map(|(best, _)| best)), 1.0, how));
    }
    let cost = ratio(cpu("routes-1", OURS), cpu("log", OURS)).map(|more| (more - 1.0) * 100.0);
    targets.push(at_most("cost of the JSON access log, %", cost, 10.0, "CPU time a request, with ÷ without".to_owned()));
    targets.push(at_most("memory of an idle connection ÷ HAProxy's", values("idle"), 1.0, "growth of resident memory".to_owned()));
    targets.push(at_most(
        "latency added, unloaded ÷ HAProxy's",
        values("added"),
        1.0,
        "p50 of one connection less that without a proxy".to_owned(),
    ));
    targets
}

impl Target {
    pub(crate) fn is_met(&self) -> Option<bool> {
        self.measured.map(|measured| if self.is_least { measured >= self.wanted } else { measured <= self.wanted })
    }

    /// By how much, in hundredths of what is wanted; below 0: it is missed by so much.
    pub(crate) fn margin(&self) -> Option<f64> {
        let share = self.measured? / self.wanted - 1.0;
        Some(100.0 * if self.is_least { share } else { -share })
    }
}
