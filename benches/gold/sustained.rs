//! Updates for half a minute, and what requests notice of them.
//!
//! Requests are sent at one open-loop rate throughout: alone, beside writes that the proxy does not follow, beside its updates, and
//! alone again. The second tells what the machine makes of a busy store; the third, over the first and last, what is asked for.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use waypost_bench::{
    Report,
    processes::{Told, thread_stands_back},
};

use crate::{
    figures::Figure,
    machine::Others,
    stage::{Proxy, Stage, say_done},
    store::{self, BATCH, ELSEWHERE, PREFIX, Written},
};

/// How often it is looked at how far the proxy has come.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What the updates showed.
struct Updates {
    written: Written,
    /// From the first put to the last acknowledgement.
    wrote_for: Duration,
    /// From the last acknowledgement to all in force.
    caught_up_after: Duration,
    /// The most revisions that were acknowledged and not in force.
    most_behind: u64,
}

/// Both figures.
pub(crate) fn updates(stage: &Stage, proxy: &Proxy) -> Told<Vec<Figure>> {
    let size = stage.size;
    stage.etcd_stands_back()?;
    let before = stage.moment(Some(proxy))?;
    let (quiet, ()) = beside_requests(stage, proxy, size.quiet, |_| Ok(()))?;
    let (elsewhere, _) = beside_requests(stage, proxy, size.quiet, |duration| write(stage, proxy, ELSEWHERE, duration))?;
    let (busy, updates) = beside_requests(stage, proxy, size.sustained, |duration| write(stage, proxy, PREFIX, duration))?;
    let (again, ()) = beside_requests(stage, proxy, size.quiet, |_| Ok(()))?;
    let others = stage.others_since(&before, Some(proxy))?;
    let Updates { written, wrote_for, caught_up_after, most_behind } = updates;
    for (number, owner) in &written.owners {
        if let Some(place) = stage.owners().get_mut(*number as usize) {
            *place = *owner;
        }
    }
    let rate = written.owners.len() as f64 / (wrote_for + caught_up_after).as_secs_f64();
    let equal = stage.check_against(proxy)?;
    say_done(&format!("{rate:.0} routes/s; {equal}"));
    let sustained = Figure {
        name: "updates sustained for 30 s, none lost",
        measured: format!("{rate:.0} routes/s"),
        target: "≥ 20,000/s, digest equal",
        is_met: rate >= 20_000.0,
        others,
        note: format!(
            "{} routes in transactions of {BATCH}, written at {:.0}/s; at most {} routes behind, all in force {:.0} ms after the last \
             acknowledgement; check --against: {equal}",
            written.owners.len(),
            size.writes,
            most_behind * BATCH as u64,
            caught_up_after.as_secs_f64() * 1000.0
        ),
    };
    Ok(vec![sustained, requests(stage, &quiet, &elsewhere, &busy, &again, others)])
}

fn requests(stage: &Stage, quiet: &Report, elsewhere: &Report, busy: &Report, again: &Report, others: Others) -> Figure {
    let p99 = (quiet.latency.p99_us + again.latency.p99_us) as f64 / 2.0;
    let ratio = busy.latency.p99_us as f64 / p99;
    let cpu = |report: &Report| report.cpu_seconds.unwrap_or(0.0) / report.seconds;
    say_done(&format!("requests' p99: {ratio:.2} of the quiet one"));
    Figure {
        name: "requests' p99 during that ÷ quiet",
        measured: format!("{ratio:.2} ({} µs ÷ {p99:.0} µs)", busy.latency.p99_us),
        target: "≤ 1.1",
        is_met: ratio <= 1.1,
        others,
        note: format!(
            "{:.0} requests/s; p50, p99, p99.9 in µs: quiet {}, {}, {}; the store written to beside the prefix {}, {}, {}; updates {}, {}, {}; \
             quiet again {}, {}, {}; the proxy's core was used {:.0} %, {:.0} %, {:.0} %, {:.0} %",
            stage.size.requests,
            quiet.latency.p50_us,
            quiet.latency.p99_us,
            quiet.latency.p999_us,
            elsewhere.latency.p50_us,
            elsewhere.latency.p99_us,
            elsewhere.latency.p999_us,
            busy.latency.p50_us,
            busy.latency.p99_us,
            busy.latency.p999_us,
            again.latency.p50_us,
            again.latency.p99_us,
            again.latency.p999_us,
            cpu(quiet) * 100.0,
            cpu(elsewhere) * 100.0,
            cpu(busy) * 100.0,
            cpu(again) * 100.0,
        ),
    }
}

/// Does something, which is told how long it may take, beside requests.
fn beside_requests<T>(stage: &Stage, proxy: &Proxy, duration: Duration, other: impl FnOnce(Duration) -> Told<T>) -> Told<(Report, T)> {
    let plan = stage.plan(proxy, stage.size.requests, duration);
    std::thread::scope(|scope| {
        let load = scope.spawn(|| waypost_bench::run(&plan));
        let other = other(plan.warm_up + duration);
        let report = load.join().unwrap_or_else(|_| Err("the load panicked".to_owned()))?;
        if report.failed() > 0 {
            return Err(format!("{} requests failed: {report}", report.failed()));
        }
        Ok((report, other?))
    })
}

/// Writes at a steady pace from a thread that stands back, and follows how far the proxy has come.
fn write(stage: &Stage, proxy: &Proxy, prefix: &'static str, duration: Duration) -> Told<Updates> {
    let (size, gold) = (stage.size, stage.gold());
    let acknowledged = Arc::<AtomicU64>::default();
    let since = Instant::now();
    let mut most_behind = 0;
    let written = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            thread_stands_back()?;
            store::block_on(store::write(&gold, prefix, size.routes, size.writes, duration, &acknowledged))
        });
        while prefix == PREFIX && !writer.is_finished() {
            std::thread::sleep(LOOK_EVERY);
            // Asked first: what is acknowledged meanwhile does not count as behind.
            let wanted = acknowledged.load(Ordering::Relaxed);
            most_behind = most_behind.max(wanted.saturating_sub(proxy.revision()?));
        }
        writer.join().unwrap_or_else(|_| Err("the writer panicked".to_owned()))
    })?;
    let wrote_for = since.elapsed();
    let since = Instant::now();
    if prefix == PREFIX {
        proxy.reaches(written.revision)?;
    }
    Ok(Updates { written, wrote_for, caught_up_after: since.elapsed(), most_behind })
}
