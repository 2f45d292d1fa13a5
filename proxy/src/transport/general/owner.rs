//! How the general transport reaches an owner: by which protocol, within which time, over which connection.
//!
//! What always holds: only an address of the table is dialled; a connection that was made for an upgrade is used for nothing else; of a connection of
//! HTTP/2 no answer can take the room of the others, and requests that come at once share it.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::Version;
use pingora_core::{
    Error, ErrorType, RetryType,
    upstreams::peer::{HttpPeer, Peer},
};
use pingora_proxy::Session;
use tokio::sync::{Notify, OwnedMutexGuard};
use waypost_conf::Protocol;
use waypost_policy::{Failure, Lease};

use super::{GeneralLane, Request, millis};
use crate::{tls, transport::upgrade::UpgradeConnector};

/// How long a connection to an upstream may lie idle in the pool.
const IDLE: Duration = Duration::from_secs(55);
/// And how long one that was made for one request: an upgrade, or where those of the pool have died.
const OF_ITS_OWN_IDLE: Duration = Duration::from_secs(1);
/// So many connections of the pool are tried, which may all have died with their owner; the next one is new.
pub(in crate::transport) const POOLED_TRIES: usize = 2;
/// Requests on one connection of HTTP/2 at once; its owner may allow fewer.
const STREAMS: u32 = 128;
/// What of one answer may come ahead of its client. The connection has room for as much of each.
const STREAM_WINDOW: u32 = 128 << 10;
/// A connection of HTTP/2 is shared by many, and dead ones are found by nobody else.
const PING_EVERY: Duration = Duration::from_secs(10);

/// Beyond so many owners those that nobody connects to are forgotten.
const REMEMBERED: usize = 1024;

/// Who is looking for a connection of HTTP/2: one at a time for each owner, so that those who come while it is being made share it. pingora would
/// make one for each.
#[derive(Default)]
pub(super) struct Connections(Mutex<HashMap<u64, Arc<Turns>>>);

#[derive(Default)]
struct Turns {
    turn: Arc<tokio::sync::Mutex<()>>,
    /// Tells those who wait that there was no connection.
    failed: Notify,
    /// The owner has chosen HTTP/1.1, of which each request needs a connection of its own.
    is_unshared: AtomicBool,
}

/// The turn of one request, until it has found its connection.
pub(super) struct Connecting {
    turns: Arc<Turns>,
    _turn: OwnedMutexGuard<()>,
}

impl Connections {
    /// Waits for its turn; `None` where there is nothing to share, or nothing was made that could be: then all try at once, since an owner that
    /// can't be reached must not cost them their times one after the other.
    pub(super) async fn turn(&self, peer: &HttpPeer) -> Option<Connecting> {
        if peer.options.alpn.get_max_http_version() == 1 {
            return None;
        }
        let turns = self.of(peer.reuse_hash());
        if turns.is_unshared.load(Ordering::Relaxed) {
            return None;
        }
        tokio::select! {
            biased;
            turn = Arc::clone(&turns.turn).lock_owned() => Some(Connecting { turns, _turn: turn }),
            () = turns.failed.notified() => None,
        }
    }

    fn of(&self, peer: u64) -> Arc<Turns> {
        // A poisoned lock guards plain data that is valid after any panic.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() > REMEMBERED {
            known.retain(|_, turns| Arc::strong_count(turns) > 1);
        }
        Arc::clone(known.entry(peer).or_default())
    }
}

impl Connecting {
    /// There is one of this version.
    pub(super) fn found(self, version: Version) {
        self.turns.is_unshared.store(version != Version::HTTP_2, Ordering::Relaxed);
    }

    /// There is no connection.
    pub(super) fn fail(self) {
        self.turns.failed.notify_waiters();
    }
}

impl GeneralLane {
    /// The next attempt's peer.
    pub(super) async fn peer(&self, session: &mut Session, ctx: &mut Request, lease: &Lease) -> Box<HttpPeer> {
        let timeouts = &ctx.exchange.policy().timeouts;
        let mut peer = HttpPeer::new(lease.socket_addr(), false, String::new());
        let options = &mut peer.options;
        let connect = (timeouts.connect_ms > 0).then(|| millis(timeouts.connect_ms));
        options.connection_timeout = connect;
        options.total_connection_timeout = connect;
        options.idle_timeout = Some(IDLE);
        // First byte and idle are watched by the downstream's deadline: pingora has one time-out for both.
        options.read_timeout = None;
        // An owner that takes nothing is given up on as a whole.
        options.write_timeout = None;
        let (highest, lowest) = self.versions(session, lease);
        options.set_http_version(highest, lowest);
        options.max_h2_streams = STREAMS as usize;
        options.h2_stream_window_size = Some(STREAM_WINDOW);
        options.h2_connection_window_size = Some(STREAM_WINDOW * STREAMS);
        options.h2_ping_interval = Some(PING_EVERY);
        if session.as_downstream().is_upgrade_req() {
            options.set_http_version(1, 1);
            options.custom_l4 = Some(Arc::new(UpgradeConnector { deadline: Arc::clone(&ctx.deadline) }));
            options.idle_timeout = Some(OF_ITS_OWN_IDLE);
            // A group of its own: it is made for this request and not used again.
            peer.group_key = fastrand::u64(1..);
        }
        if ctx.broken >= POOLED_TRIES {
            peer.group_key = fastrand::u64(1..);
            peer.options.idle_timeout = Some(OF_ITS_OWN_IDLE);
        }
        ctx.reached = tls::secure(&self.shared, &mut peer, lease).await;
        Box::new(peer)
    }

    /// Why there is no connection.
    pub(super) fn why_unconnected(&self, ctx: &Request, error: &Error) -> Failure {
        let failure = match error.etype() {
            _ if ctx.reached.fails_by(error) => Failure::Tls,
            ErrorType::ConnectTimedout => Failure::ConnectTimeout,
            _ => Failure::Connect,
        };
        self.shared.upstreams.tell(&ctx.attempt, failure, error);
        failure
    }

    /// The highest and the lowest version to be spoken. A guard speaks to its backend as it was spoken to.
    fn versions(&self, session: &Session, lease: &Lease) -> (u8, u8) {
        let protocol = match (&self.shared.guard, session.req_header().version) {
            (Some(_), Version::HTTP_2) => Protocol::H2,
            (Some(_), _) => Protocol::Http1,
            (None, _) => lease.upstream().protocol,
        };
        match protocol {
            Protocol::Http1 => (1, 1),
            Protocol::H2 => (2, 2),
            Protocol::Auto => (2, 1),
        }
    }
}

/// Whether the handshake has agreed on HTTP/1.1 where HTTP/2 is asked for: calls of gRPC would lose their trailers, and their status with them.
pub(super) fn is_another_protocol(session: &Session, lease: &Lease, version: Version) -> bool {
    lease.upstream().protocol == Protocol::H2 && version != Version::HTTP_2 && !session.as_downstream().is_upgrade_req()
}

/// Whether an owner has said that nothing of the request was processed (RFC 9113, section 8.7): it may be sent again, whatever its method.
pub(super) fn is_unprocessed(error: &Error) -> bool {
    matches!(error.etype(), ErrorType::H2Error | ErrorType::H2Downgrade) && matches!(error.retry, RetryType::Decided(true))
}
