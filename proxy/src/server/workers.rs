//! The worker threads: each accepts from every listener and serves what it has accepted, to its end.
//!
//! A connection never changes its thread, so that what a request needs is in one core's caches and no thread waits for another. All of them wait at the same
//! sockets: whoever has nothing to do is there first. Nothing but connections runs here; the process's own work has a thread of its own.

use std::{io, net::TcpListener, sync::Arc, thread::JoinHandle};

use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::watch,
    task::JoinSet,
};

use super::{
    accept::{Accepting, Bound, InForce, accept},
    resting::{RestingSet, ToRest},
};
use crate::{metrics::Connections, transport::UNWATCHED, worker};

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
    pub(super) fn start(
        count: usize,
        listeners: Vec<Bound>,
        connections: &Arc<Connections>,
        accepting: impl Fn(ToRest) -> Accepting,
    ) -> io::Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let mut threads = Vec::new();
        for number in 0..count.max(1) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let sockets = listeners.iter().map(|bound| Ok((bound.socket()?, bound.terms()))).collect::<io::Result<Vec<_>>>()?;
            let sockets = sockets.into_iter().map(|(socket, terms)| (TcpListener::from(socket), terms)).collect();
            let (resting, to_rest) = RestingSet::open(connections)?;
            let (accepting, stopped) = (accepting(to_rest), stopped.clone());
            let thread = std::thread::Builder::new().name(format!("waypost-{number}"));
            threads.push(thread.spawn(move || {
                worker::begin(number);
                runtime.block_on(work(sockets, accepting, resting, stopped));
            })?);
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

/// Has the runtime wake up once a moment. It would wake itself by a call for each timer that is set for a time before its next waking: so none is.
async fn tick() {
    loop {
        tokio::time::sleep(UNWATCHED).await;
    }
}

async fn work(sockets: Vec<(TcpListener, InForce)>, accepting: Accepting, resting: RestingSet, mut stopped: watch::Receiver<bool>) {
    let (mut loops, accepting) = (JoinSet::new(), Arc::new(accepting));
    loops.spawn(resting.keep(Arc::clone(&accepting.shared), accepting.draining.clone()));
    for (socket, terms) in sockets {
        #[expect(deprecated, reason = "its successor is unsafe, for types that lie about their descriptor; a listener does not")]
        let watched = AsyncFd::with_interest(socket, Interest::READABLE);
        match watched {
            Ok(listener) => drop(loops.spawn(accept(listener, Arc::clone(&terms), Arc::clone(&accepting)))),
            Err(error) => tracing::error!(%error, "a worker thread can't listen"),
        }
    }
    drop(accepting);
    loops.spawn(tick());
    // An error means that the process ends.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}
