//! Runs a plan: threads with a share of its lanes each, and one that looks on: at the seconds, at the watched processes, and whether anything is
//! answered at all.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    thread::ScopedJoinHandle,
    time::{Duration, Instant},
};

use rustix::{
    process::{Resource, Rlimit, getrlimit, setrlimit},
    time::{ClockId, clock_gettime},
};

use crate::{
    connection::{
        Connector,
        http1::Http1,
        http2::{Http2, Shared},
    },
    cpu::cpu_seconds_of_all,
    lane::{Check, Course, Lane, Way},
    plan::{Pace, Plan, Protocol},
    report::{Beside, Report, Second},
    request::Requests,
    tally::{Collector, Counter, Told},
};

/// Between the decision to begin and the first request: threads are started meanwhile.
const STARTS_IN: Duration = Duration::from_millis(20);
/// How long the first connection may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long a load goes on of which nothing has been answered and something has failed.
const NO_ANSWER_LIMIT: Duration = Duration::from_secs(1);
/// Files beside connections: pollers, threads' pipes, what the caller has.
const OTHER_FILES: u64 = 100;
/// How often who looks on does so.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What a caller wants to do meanwhile.
#[derive(Default)]
pub struct Hooks<'a> {
    /// Judges each answer, also of the warm-up; those that it calls wrong are counted.
    pub check: Option<Arc<Check>>,
    /// Told of each second of the measured time when it is over.
    pub progress: Option<&'a mut (dyn FnMut(&Second) + Send)>,
}

/// Runs a plan to its end.
///
/// # Errors
/// If the plan can't be run, nothing listens at its target, nothing is answered, or a watched process is not there.
pub fn run(plan: &Plan) -> Result<Report, String> {
    run_with(plan, Hooks::default())
}

/// The same, with more done meanwhile.
///
/// # Errors
/// The same.
pub fn run_with(plan: &Plan, hooks: Hooks<'_>) -> Result<Report, String> {
    let Hooks { check, mut progress } = hooks;
    plan.check().map_err(|fault| fault.to_string())?;
    let requests = Requests::new(plan).map_err(|fault| fault.to_string())?;
    let connector = Connector::new(plan).map_err(|fault| fault.to_string())?;
    if !plan.watch_pids.is_empty() {
        cpu_seconds_of_all(&plan.watch_pids)?;
    }
    open_files(plan.connections)?;
    runtime()?.block_on(first_connection(&connector))?;

    let threads = plan.threads.clamp(1, plan.connections);
    let told = Told { stale: plan.stale.is_some(), service: plan.pace != Pace::Closed };
    let (sender, seconds) = std::sync::mpsc::channel();
    let collector = Arc::new(Collector::new(threads, told, sender));
    let begins = Instant::now() + STARTS_IN;
    let from = begins + plan.warm_up;
    let course = Arc::new(Course { requests, connector, check, begins, from, to: from + plan.duration });
    let (stop, stopped) = tokio::sync::watch::channel(false);
    std::thread::scope(|scope| {
        let counters: Vec<_> = (0..threads).map(|_| Arc::new(Counter::new(told, from, Arc::clone(&collector)))).collect();
        let workers: Vec<_> = counters
            .iter()
            .enumerate()
            .map(|(thread, counter)| {
                let worker = Worker { plan, thread, threads, course: Arc::clone(&course), counter: Arc::clone(counter) };
                let stopped = stopped.clone();
                scope.spawn(move || worker.work(stopped))
            })
            .collect();
        let watch = (!plan.watch_pids.is_empty()).then(|| scope.spawn(|| watch_cpu(&plan.watch_pids, &course)));
        let mut series = Vec::new();
        let mut is_over = |second: Second| {
            if Duration::from_secs(second.second as u64) < plan.duration {
                series.push(second);
                progress.iter_mut().for_each(|told| told(&second));
            }
        };
        let failure = look_on(&collector, &course, &workers, &seconds, &mut is_over);
        let _ = stop.send(failure.is_some());
        let mut generator_cpu_seconds = 0.0;
        for worker in workers {
            generator_cpu_seconds += worker.join().map_err(|_| "a worker thread panicked".to_owned())??;
        }
        if let Some(failure) = failure {
            return Err(format!("no request was answered: {failure}"));
        }
        let cpu_seconds = watch.map(|watch| watch.join().map_err(|_| "the watching thread panicked".to_owned())?).transpose()?;
        seconds.try_iter().for_each(is_over);
        Ok(Report::new(plan, &collector.total(), Beside { cpu_seconds, generator_cpu_seconds, series }))
    })
}

/// Lets this process open as many files as so many connections need.
fn open_files(connections: usize) -> Result<(), String> {
    let (allowed, needed) = (getrlimit(Resource::Nofile), connections as u64 + OTHER_FILES);
    if allowed.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    let raised = allowed.maximum.is_none_or(|maximum| maximum >= needed)
        && setrlimit(Resource::Nofile, Rlimit { current: allowed.maximum, maximum: allowed.maximum }).is_ok();
    let most = allowed.maximum.unwrap_or(u64::MAX).saturating_sub(OTHER_FILES);
    if raised { Ok(()) } else { Err(format!("{connections} connections need as many open files; {most} would be right here (ulimit -Hn)")) }
}

/// A target that can't be connected to is said at once, not after the load's time.
async fn first_connection(connector: &Connector) -> Result<(), String> {
    let connected = tokio::time::timeout(CONNECT_LIMIT, connector.connect()).await;
    let connected = connected.map_err(|_| format!("no connection could be made within {} s", CONNECT_LIMIT.as_secs()))?;
    connector.take_made();
    connected.map(drop).map_err(|failure| failure.said)
}

/// Passes seconds on until the workers are done, or until it is clear that nothing will be answered; the failure in that case.
fn look_on<T>(
    collector: &Collector,
    course: &Course,
    workers: &[ScopedJoinHandle<'_, T>],
    seconds: &Receiver<Second>,
    is_over: &mut dyn FnMut(Second),
) -> Option<String> {
    while !workers.iter().all(ScopedJoinHandle::is_finished) {
        match seconds.recv_timeout(LOOK_EVERY) {
            Ok(second) => is_over(second),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(LOOK_EVERY),
        }
        if Instant::now() > course.begins + NO_ANSWER_LIMIT
            && let Some(failure) = collector.only_failure()
        {
            return Some(failure);
        }
    }
    collector.only_failure()
}

fn watch_cpu(pids: &[u32], course: &Course) -> Result<f64, String> {
    let until = |moment: Instant| std::thread::sleep(moment.saturating_duration_since(Instant::now()));
    until(course.from);
    let before = cpu_seconds_of_all(pids)?;
    until(course.to);
    Ok(cpu_seconds_of_all(pids)? - before)
}

fn runtime() -> Result<tokio::runtime::Runtime, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| format!("the runtime could not be started: {error}"))
}

/// One thread of a load.
struct Worker<'a> {
    plan: &'a Plan,
    thread: usize,
    threads: usize,
    course: Arc<Course>,
    counter: Arc<Counter>,
}

impl Worker<'_> {
    /// Works until the end, or until it is stopped; the CPU seconds that it took while it was measured.
    fn work(self, mut stopped: tokio::sync::watch::Receiver<bool>) -> Result<f64, String> {
        let runtime = runtime()?;
        runtime.block_on(async {
            let lanes: Vec<_> = self.lanes().into_iter().map(|lane| tokio::spawn(lane.run())).collect();
            let before = tokio::select! {
                before = self.keep_time() => before,
                _ = stopped.wait_for(|stopped| *stopped) => return Ok(0.0),
            };
            for lane in lanes {
                tokio::select! {
                    done = lane => done.map_err(|_| "a lane panicked".to_owned())?,
                    _ = stopped.wait_for(|stopped| *stopped) => return Ok(0.0),
                }
            }
            let cpu_seconds = thread_cpu_seconds() - before;
            self.pass();
            self.counter.finish();
            Ok(cpu_seconds)
        })
    }

    fn lanes(&self) -> Vec<Lane> {
        let (plan, streams) = (self.plan, self.plan.streams());
        let connections = (self.thread..plan.connections).step_by(self.threads);
        let lanes = connections.flat_map(|connection| {
            let shared = Shared::default();
            (0..streams).map(move |stream| {
                let way = match plan.protocol {
                    Protocol::Http1 => Way::Http1(Http1::new(plan.new_connections)),
                    Protocol::Http2 { .. } => Way::Http2(Http2::new(shared.clone(), plan.new_connections)),
                };
                // Neighbours in time are on different connections.
                Lane::new(plan, stream * plan.connections + connection, Arc::clone(&self.course), Arc::clone(&self.counter), way)
            })
        });
        lanes.collect()
    }

    /// Hands over second after second, also where nothing happens; what CPU the thread had used when it began to be measured.
    async fn keep_time(&self) -> f64 {
        let Course { from, to, .. } = *self.course;
        tokio::time::sleep_until(from.into()).await;
        self.course.connector.take_made();
        let before = thread_cpu_seconds();
        let mut ends = from + Duration::from_secs(1);
        while ends < to {
            tokio::time::sleep_until(ends.into()).await;
            self.pass();
            ends += Duration::from_secs(1);
        }
        before
    }

    fn pass(&self) {
        self.counter.pass(Instant::now(), self.course.connector.take_made());
    }
}

/// What CPU the calling thread has used.
fn thread_cpu_seconds() -> f64 {
    let used = clock_gettime(ClockId::ThreadCPUTime);
    used.tv_sec as f64 + used.tv_nsec as f64 / 1e9
}
