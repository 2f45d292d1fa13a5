//! The load generator: closed and open loop over HTTP/1.1, keys from a range, latency percentiles from an HDR histogram.
//!
//! It shares its machine with what it measures, so it is cheap: raw connections on current-thread runtimes, reused buffers, no HTTP
//! library. In the open loop requests are due on a schedule and a latency counts from when its request was *due*, if it waited for the last
//! answer: a server that stalls is charged for everything that waited behind the stall (coordinated omission). If it waited for nothing
//! but its timer, which has a resolution of a millisecond, it counts from when it was sent.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::panic))]

mod connection;
mod fixed;
mod plan;
pub mod processes;
mod report;

use std::{
    ops::Range,
    time::{Duration, Instant},
};

pub use connection::{Check, Seen};
pub use fixed::{OWNER_HEADER, serve_fixed, serve_owner};
pub use plan::{Keys, Pace, Plan, PlanFault, Target};
pub use report::{Report, cpu_seconds_of};

use report::Tally;

/// Runs a plan to its end.
///
/// # Errors
/// If no runtime or thread can be started, or the watched process is not there.
pub fn run(plan: &Plan) -> Result<Report, String> {
    run_checked(plan, None)
}

/// The same; each answer, also of the warm-up, is shown to `check`, and those that it says are wrong are counted.
///
/// # Errors
/// The same.
pub fn run_checked(plan: &Plan, check: Option<&Check<'_>>) -> Result<Report, String> {
    let begins = Instant::now() + Duration::from_millis(20);
    let measured_from = begins + plan.warm_up;
    let ends = measured_from + plan.duration;
    let threads = plan.threads.clamp(1, plan.connections.max(1));
    let (tallies, cpu_seconds) = std::thread::scope(|scope| {
        let workers: Vec<_> =
            (0..threads).map(|thread| scope.spawn(move || worker(plan, check, thread, threads, begins..ends, measured_from))).collect();
        let cpu = plan.watch_pid.map(|pid| watch_cpu(pid, measured_from, ends)).transpose()?;
        let mut tallies = Vec::with_capacity(threads);
        for worker in workers {
            tallies.push(worker.join().map_err(|_| "a worker thread panicked".to_owned())??);
        }
        Ok::<_, String>((tallies, cpu))
    })?;
    let mut total = Tally::default();
    tallies.iter().for_each(|tally| total.add(tally));
    Ok(Report::new(&total, plan.duration, cpu_seconds))
}

fn watch_cpu(pid: u32, from: Instant, to: Instant) -> Result<f64, String> {
    std::thread::sleep(from.saturating_duration_since(Instant::now()));
    let before = cpu_seconds_of(pid)?;
    std::thread::sleep(to.saturating_duration_since(Instant::now()));
    Ok(cpu_seconds_of(pid)? - before)
}

fn worker(
    plan: &Plan,
    check: Option<&Check<'_>>,
    thread: usize,
    threads: usize,
    runs: Range<Instant>,
    from: Instant,
) -> Result<Tally, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("the runtime could not be started: {error}"))?;
    runtime.block_on(async {
        let connections = (thread..plan.connections).step_by(threads).map(|number| {
            let schedule = plan.schedule(number, runs.start);
            connection::Connection::new(plan, check, number, schedule).run(runs.start, from, runs.end)
        });
        let mut tally = Tally::default();
        futures_util::future::join_all(connections).await.iter().for_each(|done| tally.add(done));
        Ok(tally)
    })
}
