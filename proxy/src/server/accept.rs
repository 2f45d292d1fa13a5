//! Accepting connections: bound listeners, how many may be open at once, and what comes before a connection's first request.

use std::{
    io,
    net::{self, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use ipnet::IpNet;
use rustix::net::sockopt::set_tcp_nodelay;
use tokio::{
    io::{Interest, unix::AsyncFd},
    net::{TcpListener, TcpSocket},
    sync::{
        Semaphore,
        mpsc::{self, error::SendError},
        watch,
    },
};
use waypost_conf::Listener;

use super::resting::{Resting, ToRest};
use crate::{
    metrics::Connections,
    proxy_protocol::read_header,
    state::Shared,
    tls::{Certificates, Handshake},
    transport::{Accepted, ClientSocket, ConnectionInfo, Lanes, Speaks, Waiting, head_limit, serve_connection, turn_away},
};

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 4096;
/// Of the connections that are too many, how many are told so at once; the others are closed without a word.
const TURNED_AWAY_AT_ONCE: usize = 64;

/// A bound listener and what holds for its connections.
pub(crate) struct Bound {
    listener: TcpListener,
    terms: InForce,
}

/// The terms of a listener, which may change while it listens; connections keep those that they began with.
pub(crate) type InForce = Arc<ArcSwap<Terms>>;

/// What holds for a listener's connections. They keep it, and not the socket, which would stay open with them.
pub(crate) struct Terms {
    /// From these, what a client says of itself is kept.
    pub(crate) trusted: Arc<[IpNet]>,
    /// Where connections are to be secure.
    pub(crate) tls: Option<Handshake>,
    /// Where each begins with a header of the PROXY protocol.
    pub(crate) proxy_protocol: bool,
    /// Where HTTP/2 is taken with prior knowledge.
    pub(crate) h2c: bool,
}

impl Bound {
    /// Binds an address.
    ///
    /// # Errors
    /// If it is in use or may not be bound.
    pub(crate) fn bind(address: SocketAddr, terms: Terms) -> io::Result<Self> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Ok(Self::on(socket.listen(BACKLOG)?, terms))
    }

    /// Listens on a socket that is bound already.
    pub(crate) fn on(listener: TcpListener, terms: Terms) -> Self {
        // What is accepted has the same option; without it answers would wait for more.
        let _ = set_tcp_nodelay(&listener, true);
        Self { listener, terms: Arc::new(ArcSwap::from_pointee(terms)) }
    }

    /// What holds for its connections.
    pub(crate) fn terms(&self) -> InForce {
        Arc::clone(&self.terms)
    }

    /// Where it listens; the port is the real one where 0 was asked for.
    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// A copy of the socket.
    pub(super) fn socket(&self) -> io::Result<OwnedFd> {
        self.listener.as_fd().try_clone_to_owned()
    }
}

impl Terms {
    /// As the settings have them.
    ///
    /// # Errors
    /// A sentence, if what they name for TLS can't be used.
    pub(crate) fn of(listener: &Listener, certificates: &Arc<Certificates>) -> Result<Self, String> {
        let tls = listener.tls.then(|| Handshake::new(Arc::clone(certificates), listener)).transpose();
        let tls = tls.map_err(|why| format!("the listener on {}: {why}", listener.address))?;
        Ok(Self { trusted: listener.trusted.as_slice().into(), tls, proxy_protocol: listener.proxy_protocol, h2c: listener.h2c })
    }

    /// What is known of a connection by where it comes from.
    fn connection_from(&self, client: SocketAddr) -> ConnectionInfo {
        let trusted = self.trusted.iter().any(|network| network.contains(&client.ip().to_canonical()));
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        ConnectionInfo { client, address: client.ip().to_string().into(), trusted, scheme, subject: None }
    }

    /// Whether a connection begins with its first request.
    fn is_bare(&self) -> bool {
        self.tls.is_none() && !self.proxy_protocol
    }

    /// What a connection in the clear speaks.
    fn speaks(&self) -> Speaks {
        if self.h2c { Speaks::Either } else { Speaks::Http1 }
    }

    /// What comes before the first request: whom the connection is from, and a handshake. `None`: it came to nothing.
    async fn open(
        &self,
        mut stream: ClientSocket,
        mut connection: ConnectionInfo,
        shared: &Shared,
    ) -> Option<(Accepted, Speaks, ConnectionInfo)> {
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
        let Some(tls) = &self.tls else { return Some((Accepted::Plain(stream), self.speaks(), connection)) };
        match tls.shake(stream.into_watched().ok()?, head_limit(shared)).await {
            Ok(secured) => {
                connection.subject = secured.subject().map(Into::into);
                let speaks = if secured.is_http2() { Speaks::Http2 } else { Speaks::Http1 };
                Some((Accepted::Secure(secured.into_inner()), speaks, connection))
            }
            Err(why) => {
                shared.metrics.handshake_failed();
                tracing::debug!(client = %connection.client, why, "a TLS handshake failed");
                None
            }
        }
    }
}

/// How many connections may be open, over all listeners.
#[derive(Clone)]
pub(super) struct Room {
    connections: Arc<Connections>,
    turned_away: Arc<Semaphore>,
}

/// The seat of one connection; free again when it is dropped.
pub(super) struct Seat(Arc<Connections>);

impl Room {
    /// Whose connections are counted here.
    pub(super) fn new(connections: &Arc<Connections>) -> Self {
        Self { connections: Arc::clone(connections), turned_away: Arc::new(Semaphore::new(TURNED_AWAY_AT_ONCE)) }
    }

    /// A place, if fewer than `most` are taken.
    fn enter(&self, most: u32) -> Option<Seat> {
        self.connections.opens(most).then(|| Seat(Arc::clone(&self.connections)))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.ends();
    }
}

/// What the connections of a worker share.
pub(super) struct Accepting {
    pub(super) shared: Arc<Shared>,
    pub(super) lanes: Arc<Lanes>,
    pub(super) room: Room,
    pub(super) draining: watch::Receiver<bool>,
    /// True before `draining` is, where another process accepts from the same sockets.
    pub(super) handed_over: watch::Receiver<bool>,
    /// The other end sees when the last connection of the last worker has gone.
    #[expect(dead_code, reason = "it is there to be dropped")]
    pub(super) connection_ends: mpsc::Sender<()>,
    /// Where they go when they are quiet.
    pub(super) rest: ToRest,
}

/// Accepts until the process drains; then what waits in the socket's queue, unless another process takes that.
pub(super) async fn accept(listener: AsyncFd<net::TcpListener>, terms: InForce, accepting: Arc<Accepting>) {
    let mut draining = accepting.draining.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.async_io(Interest::READABLE, accept_one) => accepted,
            _ = draining.wait_for(|draining| *draining) => break,
        };
        match accepted {
            Ok((socket, client)) => accepting.take(&terms.load(), socket, client),
            Err(error) => {
                // Out of file descriptors, most likely: what is open goes on, and the pause lets some of it end.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    if *accepting.handed_over.borrow() {
        return;
    }
    // Asked of the socket itself: the runtime may not have heard yet of who came last.
    for _ in 0..BACKLOG {
        match accept_one(listener.get_ref()) {
            Ok((socket, client)) => accepting.take(&terms.load(), socket, client),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            // Of one that has gone already, most likely; the others still wait.
            Err(_) => {}
        }
    }
}

/// The next connection, and where it comes from.
#[cfg(target_os = "linux")]
fn accept_one(listener: &net::TcpListener) -> io::Result<(OwnedFd, SocketAddr)> {
    use rustix::net::{SocketFlags, acceptfrom_with};
    let (socket, client) = acceptfrom_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
    let client = client.and_then(|client| client.try_into().ok());
    Ok((socket, client.ok_or(io::ErrorKind::InvalidData)?))
}

/// The next connection, and where it comes from.
#[cfg(not(target_os = "linux"))]
fn accept_one(listener: &net::TcpListener) -> io::Result<(OwnedFd, SocketAddr)> {
    let (socket, client) = listener.accept()?;
    socket.set_nonblocking(true)?;
    Ok((socket.into(), client))
}

impl Accepting {
    /// Serves a connection on a task of its own, until it ends or rests.
    pub(super) fn serve(self: Arc<Self>, waiting: Waiting, connection: ConnectionInfo, place: Seat) {
        let draining = self.draining.clone();
        // Moved about as a pointer: the runtime copies what it is given several times.
        tokio::spawn(Box::pin(async move {
            let quiet = serve_connection(&self.shared, &self.lanes, waiting, &connection, &draining).await;
            self.end_or_rest(quiet, connection, place);
        }));
    }

    /// Has a connection rest that is quiet; nothing stays of one that has ended.
    fn end_or_rest(self: Arc<Self>, quiet: Option<Waiting>, connection: ConnectionInfo, place: Seat) {
        let Some(waiting) = quiet else { return };
        let rest = self.rest.clone();
        // Nobody can rest any more: it is waited for by itself.
        if let Err(SendError(resting)) = rest.send(Box::new(Resting { waiting, connection, place, accepting: self })) {
            resting.wake();
        }
    }

    /// Serves a connection that was accepted, or turns it away.
    fn take(self: &Arc<Self>, terms: &Arc<Terms>, socket: OwnedFd, client: SocketAddr) {
        let connection = terms.connection_from(client);
        let stream = ClientSocket::new(socket);
        if let Some(place) = self.room.enter(self.shared.limits().connections) {
            let accepting = Arc::clone(self);
            if terms.is_bare() {
                return accepting.serve(Waiting::accepted(Accepted::Plain(stream), terms.speaks(), &self.shared), connection, place);
            }
            let terms = Arc::clone(terms);
            tokio::spawn(async move {
                if let Some((stream, speaks, connection)) = Box::pin(terms.open(stream, connection, &accepting.shared)).await {
                    let waiting = Waiting::accepted(stream, speaks, &accepting.shared);
                    accepting.serve(waiting, connection, place);
                }
            });
        } else if !terms.is_bare() {
            // Nothing can be said without a handshake, and that costs more than a request; nor before a header has been read.
            drop(stream);
        } else if let Ok(place) = Arc::clone(&self.room.turned_away).try_acquire_owned() {
            let accepting = Arc::clone(self);
            tokio::spawn(async move {
                turn_away(&accepting.shared, Accepted::Plain(stream), &connection).await;
                drop((place, accepting));
            });
        }
    }
}
