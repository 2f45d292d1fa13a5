//! The running proxy: listeners, the accept loop, background tasks, signals and the drain.
//!
//! pingora's own `Server` is not used: its graceful stop sleeps a whole grace period even when idle, and a listener that can't
//! be bound panics. Its documentation supports a custom accept loop, and this is ours. On SIGTERM readiness fails, the
//! listeners close, connections end with their present request, and the process ends as soon as none is left.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use ipnet::IpNet;
use pingora_core::protocols::{GetSocketDigest, SocketDigest, Stream, l4};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    signal::unix::{SignalKind, signal},
    sync::{Semaphore, watch},
    task::JoinSet,
};

use crate::{
    admin,
    proxy_protocol::read_header,
    resolver,
    state::{self, Shared},
    tls::{Handshake, keep_certificates, keep_upstreams},
    transport::{ConnectionInfo, General, Speaks, general_lane, head_limit, serve_connection, turn_away},
};

/// How long a drain waits for requests under way.
const DRAIN_LIMIT: Duration = Duration::from_secs(300);
/// Connections that may wait to be accepted.
const BACKLOG: u32 = 4096;
/// Of the connections that are too many, how many are told so at once; the others are closed without a word.
const TURNED_AWAY_AT_ONCE: usize = 64;

/// A bound listener and what holds for its connections.
pub(crate) struct Bound {
    listener: TcpListener,
    trusted: Arc<[IpNet]>,
    /// Where connections are to be secure.
    tls: Option<Handshake>,
    /// Where each begins with a header of the PROXY protocol.
    proxy_protocol: bool,
    /// What a connection without TLS may speak.
    speaks: Speaks,
}

impl Bound {
    /// Binds an address, `what` naming it in the error.
    ///
    /// # Errors
    /// If it is in use or may not be bound; the error says which address.
    pub(crate) fn bind(
        address: SocketAddr,
        trusted: &[IpNet],
        tls: Option<Handshake>,
        proxy_protocol: bool,
        h2c: bool,
    ) -> io::Result<Self> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let speaks = if h2c { Speaks::Either } else { Speaks::Http1 };
        Ok(Self { listener: socket.listen(BACKLOG)?, trusted: trusted.into(), tls, proxy_protocol, speaks })
    }

    /// What is known of a connection by where it comes from.
    fn connection_from(&self, client: SocketAddr) -> ConnectionInfo {
        let trusted = self.trusted.iter().any(|network| network.contains(&client.ip().to_canonical()));
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        ConnectionInfo { client, trusted, scheme, subject: None }
    }

    /// What comes before the first request: whom the connection is from, and a handshake. `None`: it came to nothing.
    async fn open(
        &self,
        mut stream: TcpStream,
        mut connection: ConnectionInfo,
        shared: &Shared,
    ) -> Option<(Stream, Speaks, ConnectionInfo)> {
        if self.proxy_protocol {
            match read_header(&mut stream, head_limit(shared)).await {
                Ok(None) => {}
                Ok(Some(client)) => connection = self.connection_from(client),
                Err(why) => {
                    tracing::debug!(from = %connection.client, why, "a connection was closed");
                    return None;
                }
            }
        }
        let stream = as_pingora(stream);
        let Some(tls) = &self.tls else { return Some((Box::new(stream), self.speaks, connection)) };
        match tls.shake(stream, head_limit(shared)).await {
            Ok(secured) => {
                connection.subject = secured.subject().map(Into::into);
                let speaks = if secured.is_http2() { Speaks::Http2 } else { Speaks::Http1 };
                Some((Box::new(secured), speaks, connection))
            }
            Err(why) => {
                shared.metrics.handshake_failed();
                tracing::debug!(client = %connection.client, why, "a TLS handshake failed");
                None
            }
        }
    }

    /// Where it listens; the port is the real one where 0 was asked for.
    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// Why the proxy ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// SIGTERM, and everything under way was finished or its time was up.
    Drained,
    /// SIGINT.
    Interrupted,
}

/// Runs until a signal ends it.
///
/// # Errors
/// If the signal handlers can't be installed.
pub(crate) async fn run(shared: Arc<Shared>, listeners: Vec<Bound>, admin: TcpListener, threads: usize) -> io::Result<Ended> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let (drain, draining) = watch::channel(false);
    let lane = Arc::new(general_lane(Arc::clone(&shared), threads));
    let mut background = JoinSet::new();
    background.spawn(admin::serve_admin(Arc::clone(&shared), admin));
    background.spawn(resolver::keep_resolved(Arc::clone(&shared)));
    background.spawn(state::keep_hints(Arc::clone(&shared)));
    background.spawn(state::keep_parking(Arc::clone(&shared)));
    background.spawn(state::keep_freezes(Arc::clone(&shared)));
    background.spawn(keep_certificates(Arc::clone(&shared)));
    background.spawn(keep_upstreams(Arc::clone(&shared)));
    let mut accepting = JoinSet::new();
    let (connection_ends, mut all_ended) = tokio::sync::mpsc::channel::<()>(1);
    let room = Room::new(shared.limits.connections);
    for bound in listeners {
        accepting.spawn(accept(bound, Arc::clone(&shared), Arc::clone(&lane), room.clone(), draining.clone(), connection_ends.clone()));
    }
    drop(connection_ends);
    loop {
        tokio::select! {
            _ = interrupt.recv() => return Ok(Ended::Interrupted),
            _ = terminate.recv() => break,
            _ = hangup.recv() => {
                shared.access_log.reopen();
                tracing::info!("SIGHUP: the access log is opened anew; nothing in the bootstrap file can be reread yet, restart to change it");
            }
        }
    }
    tracing::info!(in_flight = shared.metrics.in_flight(), "SIGTERM: no new connections; waiting for requests under way");
    shared.draining.store(true, Ordering::Relaxed);
    if let Some(guard) = &shared.guard {
        // Answers say already that their connections end with them.
        tokio::select! {
            () = guard.leave() => {}
            _ = interrupt.recv() => return Ok(Ended::Interrupted),
        }
    }
    let _ = drain.send(true);
    // Each connection holds a sender; the channel ends with the last of them.
    tokio::select! {
        _ = all_ended.recv() => {}
        () = tokio::time::sleep(DRAIN_LIMIT) => tracing::warn!(in_flight = shared.metrics.in_flight(), "the time to drain is up"),
        _ = interrupt.recv() => return Ok(Ended::Interrupted),
    }
    accepting.shutdown().await;
    background.shutdown().await;
    Ok(Ended::Drained)
}

/// How many connections may be open, over all listeners.
#[derive(Clone)]
struct Room {
    served: Arc<Semaphore>,
    turned_away: Arc<Semaphore>,
}

impl Room {
    fn new(connections: u32) -> Self {
        let served =
            Arc::new(Semaphore::new(usize::try_from(connections).map_or(Semaphore::MAX_PERMITS, |most| most.min(Semaphore::MAX_PERMITS))));
        Self { served, turned_away: Arc::new(Semaphore::new(TURNED_AWAY_AT_ONCE)) }
    }
}

async fn accept(
    bound: Bound,
    shared: Arc<Shared>,
    lane: Arc<General>,
    room: Room,
    mut draining: watch::Receiver<bool>,
    connection_ends: tokio::sync::mpsc::Sender<()>,
) {
    let bound = Arc::new(bound);
    loop {
        let accepted = tokio::select! {
            accepted = bound.listener.accept() => accepted,
            _ = draining.wait_for(|draining| *draining) => return,
        };
        let (stream, client) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, most likely: what is open goes on, and the pause lets some of it end.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let tls = bound.tls.clone();
        let connection = bound.connection_from(client);
        let (shared, lane, draining, ends) = (Arc::clone(&shared), Arc::clone(&lane), draining.clone(), connection_ends.clone());
        if let Ok(place) = Arc::clone(&room.served).try_acquire_owned() {
            let bound = Arc::clone(&bound);
            tokio::spawn(async move {
                if let Some((stream, speaks, connection)) = bound.open(stream, connection, &shared).await {
                    serve_connection(&shared, &lane, stream, speaks, connection, draining).await;
                }
                drop((place, ends));
            });
        } else if tls.is_some() || bound.proxy_protocol {
            // Nothing can be said without a handshake, and that costs more than a request; nor before a header has been read.
            drop(stream);
        } else if let Ok(place) = Arc::clone(&room.turned_away).try_acquire_owned() {
            tokio::spawn(async move {
                turn_away(&shared, Box::new(as_pingora(stream)), &connection).await;
                drop((place, ends));
            });
        }
    }
}

/// The stream as pingora wants it: without delay, and knowing its addresses.
fn as_pingora(stream: TcpStream) -> l4::stream::Stream {
    use std::os::fd::AsRawFd;
    let _ = stream.set_nodelay(true);
    let digest = SocketDigest::from_raw_fd(stream.as_raw_fd());
    let mut stream = l4::stream::Stream::from(stream);
    stream.set_socket_digest(digest);
    stream
}
