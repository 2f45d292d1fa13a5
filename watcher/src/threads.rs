//! The watcher's own threads, so that a request never waits for a worker that lists or applies a million records.
//!
//! They stand back a little from the other threads of the process: where both want one core, requests come first, and updates still get
//! their share.

use std::thread;

use rustix::process::{getpid, getpriority_process, setpriority_process};
use tokio::{
    runtime::{Builder, Runtime},
    sync::oneshot,
    task::JoinHandle,
};

/// As many parts of a list as are read, or prepared, at the same time; more would have nothing to do.
const WORKERS: usize = 2;
/// Some three times less of a contended core than a thread that serves requests.
const NICENESS: i32 = 5;
/// As little as there is: for what nobody waits for.
const MOST_NICENESS: i32 = 19;

/// The threads; they end when this is dropped, wherever that is.
#[derive(Debug)]
pub(crate) struct Threads(Option<Runtime>);

impl Threads {
    /// Starts them.
    ///
    /// # Errors
    /// A sentence, if the system has no threads left.
    pub(crate) fn start() -> Result<Self, String> {
        let runtime =
            Builder::new_multi_thread().worker_threads(WORKERS).thread_name("gold").on_thread_start(stand_back).enable_all().build();
        Ok(Self(Some(runtime.map_err(|error| format!("the watcher's threads could not be started: {error}"))?)))
    }

    /// Runs a task on them.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        match &self.0 {
            Some(runtime) => runtime.spawn(task),
            None => tokio::spawn(task),
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        // A runtime that is simply dropped waits for its threads, which a task of another runtime may not.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Does something on a thread of its own that stands back from all others, and gives what came of it; nothing, if there is no thread to be had.
pub(crate) fn aside<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static) -> oneshot::Receiver<T> {
    let (done, ends) = oneshot::channel();
    let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
        let _ = setpriority_process(None, MOST_NICENESS);
        // Nobody waits for it any more: the process ends.
        let _ = done.send(work());
    });
    if let Err(error) = thread {
        tracing::warn!(%error, "no thread for {name}");
    }
    ends
}

/// On Linux this is of the calling thread only. Who may not is as quick as before.
pub(crate) fn stand_back() {
    let usual = getpriority_process(Some(getpid())).unwrap_or(0);
    let _ = setpriority_process(None, usual + NICENESS);
}
