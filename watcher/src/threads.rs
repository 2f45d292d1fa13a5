//! The watcher's own threads, so that a request never waits for a worker that lists or applies a million records.
//!
//! They stand back a little from the other threads of the process: where both want one core, requests come first, and updates still get
//! their share.

use rustix::process::{getpid, getpriority_process, setpriority_process};
use tokio::{
    runtime::{Builder, Runtime},
    task::JoinHandle,
};

/// As many parts of a list as are read at the same time; more would have nothing to do.
const WORKERS: usize = 2;
/// Some three times less of a contended core than a thread that serves requests.
const NICENESS: i32 = 5;

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

/// On Linux this is of the calling thread only. Who may not is as quick as before.
fn stand_back() {
    let usual = getpriority_process(Some(getpid())).unwrap_or(0);
    let _ = setpriority_process(None, usual + NICENESS);
}
