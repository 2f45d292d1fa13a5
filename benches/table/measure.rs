//! What is measured of a way, and how it is printed.

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{ALLOCATOR, keys::Sample, ways::Way};

/// Rounds of look-ups; the best counts, since other work on the machine only adds.
const LOOK_UPS: usize = 5;
/// Changes a publish, and how many such publishes. Of one change there are enough to merge an overlay once.
const PUBLISHES: [(usize, usize); 3] = [(1, 5_000), (100, 200), (10_000, 20)];

/// What was measured.
#[derive(Default)]
pub(crate) struct Row {
    uniform: Duration,
    zipf: Duration,
    /// The middle one and the slowest, by changes.
    publishes: Vec<Option<(Duration, Duration)>>,
    /// To free the table that a publish of so many changes replaced: the slowest.
    freed: Vec<Option<Duration>>,
    bytes: f64,
    freed_whole: Duration,
}

/// Measures one way and prints it.
pub(crate) fn run<W: Way>(name: &str, sample: &Sample) {
    let before = ALLOCATOR.allocated();
    let mut way = W::new();
    let mut epoch = 0;
    for key in &sample.keys {
        epoch += 1;
        way.put(key, epoch);
    }
    let mut table = way.publish();
    let mut row = Row::default();
    let mut rng = fastrand::Rng::with_seed(5);
    for (changes, rounds) in PUBLISHES {
        if changes > sample.keys.len() {
            row.publishes.push(None);
            row.freed.push(None);
            continue;
        }
        let (mut took, mut freed) = (Vec::with_capacity(rounds), Vec::with_capacity(rounds));
        for _ in 0..rounds {
            let keys: Vec<&Arc<[u8]>> = (0..changes).map(|_| &sample.keys[rng.usize(..sample.keys.len())]).collect();
            let since = Instant::now();
            for key in keys {
                epoch += 1;
                way.put(key, epoch);
            }
            let old = std::mem::replace(&mut table, way.publish());
            took.push(since.elapsed());
            let since = Instant::now();
            drop(old);
            freed.push(since.elapsed());
        }
        took.sort();
        row.publishes.push(Some((took[rounds / 2], took[rounds - 1])));
        freed.sort();
        row.freed.push(Some(freed[rounds - 1]));
    }
    // After all these changes, not as it was filled: what room is left over in what was copied counts.
    row.bytes = ALLOCATOR.allocated().saturating_sub(before) as f64 / sample.keys.len() as f64;
    row.uniform = look_up::<W>(&way, &table, &sample.uniform);
    row.zipf = look_up::<W>(&way, &table, &sample.zipf);
    drop(way);
    let since = Instant::now();
    drop(table);
    row.freed_whole = since.elapsed();
    row.print(name);
}

/// The time of one look-up; which key is next depends on the answer, so that two never run at once.
fn look_up<W: Way>(way: &W, table: &W::Table, keys: &[Arc<[u8]>]) -> Duration {
    let keys: Vec<W::Key> = keys.iter().map(|key| way.asked(key)).collect();
    let nothing = black_box(0);
    let rounds = (0..LOOK_UPS).map(|_| {
        let since = Instant::now();
        let mut next = 0;
        while let Some(key) = keys.get(next) {
            next += 1 + (W::epoch(table, key) & nothing) as usize;
        }
        since.elapsed() / keys.len() as u32
    });
    rounds.min().unwrap_or_default()
}

impl Row {
    pub(crate) fn print_head() {
        println!(
            "| | uniform ns | Zipf ns | publish 1 µs | 100 µs | 10,000 µs | slowest of these µs | free after them µs | bytes a route | free all ms |"
        );
        println!("|---|---|---|---|---|---|---|---|---|---|");
    }

    fn print(&self, name: &str) {
        let micros = |time: Duration| format!("{:.1}", time.as_secs_f64() * 1e6);
        let middle = self.publishes.iter().map(|took| took.map_or("–".to_owned(), |(middle, _)| micros(middle)));
        let slowest = self.publishes.iter().map(|took| took.map_or("–".to_owned(), |(_, slowest)| micros(slowest)));
        let freed = self.freed.iter().map(|freed| freed.map_or("–".to_owned(), micros));
        println!(
            "| {name} | {} | {} | {} | {} | {} | {:.0} | {:.1} |",
            self.uniform.as_nanos(),
            self.zipf.as_nanos(),
            middle.collect::<Vec<_>>().join(" | "),
            slowest.collect::<Vec<_>>().join(" / "),
            freed.collect::<Vec<_>>().join(" / "),
            self.bytes,
            self.freed_whole.as_secs_f64() * 1e3,
        );
    }
}
