//! The worker threads: each accepts from every listener and serves what it has accepted, to its end.
//!
//! A connection never changes its thread, so that what a request needs is in one core's caches and no thread waits for another. All of them wait at the same
//! sockets: whoever has nothing to do is there first. Nothing but connections runs here; the process's own work has a thread of its own.

use std::{io, sync::Arc, thread::JoinHandle};

use tokio::{net::TcpListener, sync::watch, task::JoinSet};

use super::accept::{Accepting, Bound, InForce, accept};

/// The threads.
pub(super) struct Workers {
    threads: Vec<JoinHandle<()>>,
    stop: watch::Sender<bool>,
}

impl Workers {
    /// Starts them.
    ///
    /// # Errors
    /// If a socket can't be copied, or a thread not be started.
    pub(super) fn start(count: usize, listeners: Vec<Bound>, accepting: Accepting) -> io::Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let mut threads = Vec::new();
        for number in 0..count.max(1) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let sockets = listeners.iter().map(|bound| Ok((bound.socket()?, bound.terms()))).collect::<io::Result<Vec<_>>>()?;
            let sockets = sockets.into_iter().map(|(socket, terms)| (std::net::TcpListener::from(socket), terms)).collect();
            let (accepting, stopped) = (accepting.clone(), stopped.clone());
            let thread = std::thread::Builder::new().name(format!("waypost-{number}"));
            threads.push(thread.spawn(move || runtime.block_on(work(sockets, accepting, stopped)))?);
        }
        Ok(Self { threads, stop })
    }

    /// Ends them, and with them what is still under way.
    pub(super) async fn stop(self) {
        let _ = self.stop.send(true);
        let threads = self.threads;
        // One that has panicked has ended.
        let _ = tokio::task::spawn_blocking(|| threads.into_iter().for_each(|thread| drop(thread.join()))).await;
    }
}

async fn work(sockets: Vec<(std::net::TcpListener, InForce)>, accepting: Accepting, mut stopped: watch::Receiver<bool>) {
    let mut loops = JoinSet::new();
    for (socket, terms) in sockets {
        match TcpListener::from_std(socket) {
            Ok(listener) => drop(loops.spawn(accept(listener, Arc::clone(&terms), accepting.clone()))),
            Err(error) => tracing::error!(%error, "a worker thread can't listen"),
        }
    }
    drop(accepting);
    // An error means that the process ends.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}
