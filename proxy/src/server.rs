//! The running process: the accept loops, background tasks, signals, the drain, and the handing over of its sockets.
//!
//! pingora's own `Server` is not used: its graceful stop sleeps a whole grace period even when idle, and a listener that can't
//! be bound panics. Its documentation supports a custom accept loop, and this is ours: one on each worker thread (`workers`), which serves what it accepts.
//!
//! What always holds: whoever has been accepted may bring a request, also while the process drains: it is answered as the connection's last.
//! A listening socket is closed only when nothing waits in its queue, or when another process accepts from it.

mod accept;
mod resting;
mod signals;
mod workers;

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use accept::{Accepting, Room};
pub(crate) use accept::{Bound, InForce, Terms};
pub(crate) use signals::outlast;
use signals::{Signal, Signals};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinSet,
};

use workers::Workers;

use crate::{
    admin,
    reload::Reload,
    resolver,
    state::{self, Shared},
    tls::{keep_certificates, keep_upstreams},
    transport::{Express, Lanes, general_lane, keep_swept},
    upgrade::{self, Known, Meeting, Taken},
};

/// Why the process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// SIGTERM, or its sockets were handed over, and everything under way was finished or its time was up.
    Drained,
    /// SIGINT.
    Interrupted,
}

/// What the process does beside serving.
pub(crate) struct Process {
    /// Where the sockets are handed over; `None`: this process does not.
    pub(crate) meeting: Option<Meeting>,
    /// The process that this one takes over from, where there is one.
    pub(crate) taken: Option<Taken>,
    /// Called when another process has taken over.
    pub(crate) handed_over: Box<dyn FnOnce() + Send>,
    /// What SIGHUP does.
    pub(crate) reload: Reload,
    /// Whether plain requests go by the express lane.
    pub(crate) has_express: bool,
}

/// What goes on without any request. Ends when dropped.
pub(crate) struct Background(JoinSet<()>);

impl Background {
    /// Starts it.
    pub(crate) fn start(shared: &Arc<Shared>) -> Self {
        let mut tasks = JoinSet::new();
        tasks.spawn(resolver::keep_resolved(Arc::clone(shared)));
        tasks.spawn(state::keep_hints(Arc::clone(shared)));
        tasks.spawn(state::keep_parking(Arc::clone(shared)));
        tasks.spawn(state::keep_freezes(Arc::clone(shared)));
        tasks.spawn(keep_certificates(Arc::clone(shared)));
        tasks.spawn(keep_upstreams(Arc::clone(shared)));
        Self(tasks)
    }
}

/// Serves until a signal ends it.
///
/// # Errors
/// If the signal handlers can't be installed, a socket can't be copied or a thread can't be started.
pub(crate) async fn run(
    shared: Arc<Shared>,
    mut background: Background,
    listeners: Vec<Bound>,
    admin: TcpListener,
    threads: usize,
    process: Process,
) -> io::Result<Ended> {
    let mut signals = Signals::listen()?;
    let sockets = listeners.iter().map(Bound::socket).chain([admin.as_fd().try_clone_to_owned()]).collect::<io::Result<Vec<_>>>()?;
    let (drain, draining) = watch::channel(false);
    let (hand_over, handed_over) = watch::channel(false);
    let (connection_ends, mut all_ended) = mpsc::channel::<()>(1);
    let connections = Arc::clone(shared.metrics.connections());
    let room = Room::new(&connections);
    let general = Arc::new(general_lane(Arc::clone(&shared), threads));
    let express = process.has_express.then(|| Express::new(Arc::clone(&shared), threads));
    if let Some(express) = &express {
        background.0.spawn(keep_swept(Arc::clone(express.pool())));
    }
    let lanes = Arc::new(Lanes { general, express });
    background.0.spawn(admin::serve_admin(Arc::clone(&shared), admin, handed_over.clone()));
    let common = Arc::clone(&shared);
    let accepting = move |rest| Accepting {
        shared: Arc::clone(&common),
        lanes: Arc::clone(&lanes),
        room: room.clone(),
        draining: draining.clone(),
        handed_over: handed_over.clone(),
        connection_ends: connection_ends.clone(),
        rest,
    };
    let workers = Workers::start(threads, listeners, &connections, accepting)?;
    if let Some(taken) = process.taken {
        taken.serving().await;
    }
    match until_asked(&shared, &mut signals, sockets, process.meeting.as_ref(), &process.reload).await {
        Asked::Interrupt => return Ok(Ended::Interrupted),
        Asked::HandedOver => {
            let _ = hand_over.send(true);
            shared.draining.store(true, Ordering::Relaxed);
            (process.handed_over)();
        }
        Asked::Terminate => {
            shared.draining.store(true, Ordering::Relaxed);
            // Answers say already that their connections end with them.
            tokio::select! {
                () = take_leave(&shared) => {}
                () = signals.interrupted(|| process.reload.hang_up(&shared)) => return Ok(Ended::Interrupted),
            }
        }
    }
    let _ = drain.send(true);
    let limit = Duration::from_millis(shared.drain().limit_ms.into());
    // Each connection holds a sender; the channel ends with the last of them.
    tokio::select! {
        _ = all_ended.recv() => {}
        () = tokio::time::sleep(limit) => {
            tracing::warn!(connections = connections.open(), in_flight = shared.metrics.in_flight(), "what is still under way after {limit:?} is cut");
        }
        () = signals.interrupted(|| process.reload.hang_up(&shared)) => return Ok(Ended::Interrupted),
    }
    workers.stop().await;
    background.0.shutdown().await;
    Ok(Ended::Drained)
}

/// Why serving is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Terminate,
    Interrupt,
    HandedOver,
}

type Giving = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// Waits for a signal that ends the process. `sockets` are copies of its listening sockets, closed when this returns.
async fn until_asked(shared: &Shared, signals: &mut Signals, sockets: Vec<OwnedFd>, meeting: Option<&Meeting>, reload: &Reload) -> Asked {
    let mut giving: Option<Giving> = None;
    loop {
        let signal = tokio::select! {
            signal = signals.next() => signal,
            given = progress(&mut giving) => match given {
                Ok(()) => {
                    tracing::info!(in_flight = shared.metrics.in_flight(), "another process serves on these sockets; waiting for requests under way");
                    return Asked::HandedOver;
                }
                Err(why) => {
                    tracing::error!("the sockets were not handed over, and this process goes on: {why}");
                    giving = None;
                    continue;
                }
            },
        };
        match signal {
            Signal::Interrupt => return Asked::Interrupt,
            Signal::Terminate => {
                tracing::info!(in_flight = shared.metrics.in_flight(), "SIGTERM: waiting for requests under way");
                return Asked::Terminate;
            }
            Signal::HangUp => reload.hang_up(shared),
            Signal::Quit if giving.is_some() => tracing::warn!("SIGQUIT: the sockets are being handed over already"),
            Signal::Quit => giving = hand_over(shared, &sockets, meeting),
        }
    }
}

/// Begins to hand the sockets over.
fn hand_over(shared: &Shared, sockets: &[OwnedFd], meeting: Option<&Meeting>) -> Option<Giving> {
    let Some(meeting) = meeting else {
        tracing::warn!("SIGQUIT: a guard hands nothing over, since two of one id would speak for each other; SIGTERM stops it");
        return None;
    };
    let copies: io::Result<Vec<OwnedFd>> = sockets.iter().map(OwnedFd::try_clone).collect();
    match copies {
        Ok(copies) => {
            tracing::info!(at = %meeting.path().display(), "SIGQUIT: handing the sockets to a new process");
            Some(Box::pin(upgrade::give(meeting.clone(), shared.id.clone(), Known::of(shared), copies, shared.upgrade_limit())))
        }
        Err(error) => {
            tracing::error!("SIGQUIT: the sockets can't be copied, and this process goes on: {error}");
            None
        }
    }
}

/// The end of a handover; never ends while there is none.
async fn progress(giving: &mut Option<Giving>) -> Result<(), String> {
    match giving {
        Some(giving) => giving.await,
        None => std::future::pending().await,
    }
}

/// Has whoever sends requests look elsewhere, while they are still accepted.
async fn take_leave(shared: &Shared) {
    tokio::time::sleep(Duration::from_millis(shared.drain().ready_delay_ms.into())).await;
    if let Some(guard) = &shared.guard {
        guard.leave().await;
    }
}
