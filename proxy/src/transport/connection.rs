//! The front door: one client connection, request by request.
//!
//! Reads and checks a head under its deadline, hands the request to a lane, takes the connection back and goes on with what the client has
//! pipelined. Malformed heads end here with an answer and a closed connection. While the process drains, a connection
//! ends as soon as its present request has been answered; idle ones end a moment later, if they bring no other.
//!
//! A connection that has been quiet for a while is given back: whoever has it needs hardly more than the socket ([`Waiting`]), and
//! has it served on when something comes.

use std::{
    net::SocketAddr,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use bytes::BytesMut;
use pingora_core::{apps::HttpServerApp, protocols::http::ServerSession, server::ShutdownWatch};
use waypost_policy::Code;

use super::{
    Accepted, General, answer,
    deadline::{Deadline, Left},
    downstream::{Downstream, NoHead, QUIET, limited, linger},
    express::{Express, Served},
    general::Request,
    headers::new_request_id,
    http2::{Incoming, serve_http2},
};
use crate::state::Shared;

/// Until a table is in force there is no policy: a client may take this long for a head.
const HEADER_LIMIT_WITHOUT_TABLE: Duration = Duration::from_secs(10);
/// A guard waits at least so long for a proxy's next request: proxies end idle connections themselves, and a little earlier.
const GUARDED_IDLE: Duration = Duration::from_secs(75);
/// How long the rest of a request's body is read after its answer, so that the connection can be used again.
pub(super) const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// What is known of a connection.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionInfo {
    /// Where the client is.
    pub(crate) client: SocketAddr,
    /// Its address as owners are told it.
    pub(crate) address: Arc<str>,
    /// Whether the listener trusts what the client says of itself and of those before it.
    pub(crate) trusted: bool,
    /// `http` or `https`.
    pub(crate) scheme: &'static str,
    /// The subject of the certificate that the client has shown, if it was accepted.
    pub(crate) subject: Option<Arc<str>>,
}

/// What a connection speaks, as far as that is known before its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaks {
    /// HTTP/1.1, and nothing else here.
    Http1,
    /// HTTP/2, agreed on in the handshake.
    Http2,
    /// Either; its first bytes tell.
    Either,
}

/// What a lane gets beside the request: handed through pingora's per-connection context.
pub(crate) struct Handed {
    pub(crate) connection: ConnectionInfo,
    pub(crate) deadline: Arc<Deadline>,
    /// The connection ends with this request.
    pub(crate) is_last: bool,
    /// The request as its last session has left it, if it goes on in another.
    pub(crate) again: Option<Box<Request>>,
}

/// What carries requests.
pub(crate) struct Lanes {
    /// All of them.
    pub(crate) general: Arc<General>,
    /// Plain ones, if it is to be used.
    pub(crate) express: Option<Express>,
}

/// A connection that waits for its first request or its next one: nothing of a request, of an answer or of a session is left to it.
pub(crate) struct Waiting {
    pub(crate) stream: Accepted,
    speaks: Speaks,
    /// How many more requests it may bring; 0: any number.
    requests_left: u32,
    /// When it will have been idle for too long. `None`: never.
    pub(crate) ends_at: Option<Instant>,
}

impl Waiting {
    /// One that has brought nothing yet.
    pub(crate) fn accepted(stream: Accepted, speaks: Speaks, shared: &Shared) -> Self {
        Self { stream, speaks, requests_left: shared.limits().requests_per_connection, ends_at: None }
    }

    /// One that has been quiet; `None` if it is of no use any more.
    fn quiet(downstream: Downstream, speaks: Speaks, requests_left: u32, idle: Duration) -> Option<Self> {
        let ends_at = (!idle.is_zero()).then(|| Instant::now() + idle.saturating_sub(QUIET));
        Some(Self { stream: downstream.into_rest().ok()?, speaks, requests_left, ends_at })
    }
}

/// Serves a connection until it ends or is quiet.
pub(crate) async fn serve_connection(
    shared: &Arc<Shared>,
    lanes: &Arc<Lanes>,
    waiting: Waiting,
    connection: &ConnectionInfo,
    shutdown: &ShutdownWatch,
) -> Option<Waiting> {
    let Waiting { stream, speaks, requests_left, .. } = waiting;
    // What few connections come to has memory of its own, so that it takes no room of those that wait for their next request.
    let downstream = match speaks {
        Speaks::Http1 => Box::new(Downstream::new(stream)),
        Speaks::Http2 => {
            let incoming = Incoming::new(stream, BytesMut::new());
            Box::pin(serve_http2(shared, lanes, incoming, connection.clone(), shutdown.clone())).await;
            return None;
        }
        Speaks::Either => match Box::pin(tell_apart(shared, lanes, stream, requests_left, connection, shutdown)).await {
            Told::Http1(downstream) => downstream,
            Told::Over(quiet) => return quiet,
        },
    };
    serve_http1(shared, lanes, downstream, requests_left, connection, shutdown).await
}

/// What the first bytes of a connection tell.
enum Told {
    /// It speaks HTTP/1.1.
    Http1(Box<Downstream>),
    /// It was served to its end, or is quiet.
    Over(Option<Waiting>),
}

/// Hears what a connection speaks, and serves it to its end if that is HTTP/2.
async fn tell_apart(
    shared: &Arc<Shared>,
    lanes: &Arc<Lanes>,
    stream: Accepted,
    requests_left: u32,
    connection: &ConnectionInfo,
    shutdown: &ShutdownWatch,
) -> Told {
    let (mut downstream, mut watched) = (Box::new(Downstream::new(stream)), shutdown.clone());
    let (idle, header) = limits(shared);
    let begins = tokio::select! {
        begins = downstream.begins_http2(idle, header, may_rest(shared)) => begins,
        () = drained(shared, &mut watched) => {
            if !downstream.has_begun() {
                return Told::Over(None);
            }
            downstream.begins_http2(idle, header, false).await
        }
    };
    match begins {
        Ok(false) => return Told::Http1(downstream),
        Ok(true) => {
            let Some((stream, read)) = downstream.into_bare() else { return Told::Over(None) };
            Box::pin(serve_http2(shared, lanes, Incoming::new(stream, read), connection.clone(), shutdown.clone())).await;
        }
        Err(NoHead::Gone) => {}
        Err(NoHead::Quiet) => return Told::Over(Waiting::quiet(*downstream, Speaks::Either, requests_left, idle)),
        Err(NoHead::Answer(code)) => Box::pin(turn_down(shared, downstream, code, connection)).await,
    }
    Told::Over(None)
}

/// Serves a connection request by request.
async fn serve_http1(
    shared: &Arc<Shared>,
    lanes: &Arc<Lanes>,
    mut downstream: Box<Downstream>,
    mut requests_left: u32,
    connection: &ConnectionInfo,
    shutdown: &ShutdownWatch,
) -> Option<Waiting> {
    let (mut watched, mut is_drained) = (shutdown.clone(), false);
    let mut drained = pin!(drained(shared, &mut watched));
    loop {
        let (idle, header) = limits(shared);
        let read = tokio::select! {
            biased;
            read = downstream.read_head(idle, header, may_rest(shared)) => read,
            () = &mut drained, if !is_drained => {
                is_drained = true;
                if !downstream.has_begun() {
                    return None;
                }
                downstream.read_head(idle, header, false).await
            }
        };
        match read {
            Ok(()) => {}
            Err(NoHead::Gone) => return None,
            Err(NoHead::Quiet) => return Waiting::quiet(*downstream, Speaks::Http1, requests_left, idle),
            Err(NoHead::Answer(code)) => {
                Box::pin(turn_down(shared, downstream, code, connection)).await;
                return None;
            }
        }
        let is_last = requests_left == 1 || downstream.is_last();
        requests_left = requests_left.saturating_sub(1);
        let mut again = None;
        if let Some(express) = &lanes.express
            && let Some(plain) = express.takes(&mut downstream)
        {
            // In memory of its own, as all that a connection does not do while it waits for its next request: so it takes no room for it.
            match Box::pin(express.serve(downstream, plain, connection, is_last)).await {
                Served::Next(taken_back) => {
                    downstream = taken_back;
                    continue;
                }
                Served::Last(taken_back) => {
                    Box::pin(taken_back.end()).await;
                    return None;
                }
                Served::Cut => return None,
                Served::HandedOver(taken_back, request) => (downstream, again) = (taken_back, Some(request)),
            }
        }
        let deadline = downstream.begin_session();
        let handed = Handed { connection: connection.clone(), deadline: Arc::clone(&deadline), is_last, again };
        let served = Box::pin(serve_request(shared, &lanes.general, downstream, handed, shutdown));
        let Some(taken_back) = served.await else {
            Box::pin(close(&deadline)).await;
            return None;
        };
        downstream = taken_back;
    }
}

/// Serves the request whose head was read, in as many sessions as it takes; its connection, if that goes on.
async fn serve_request(
    shared: &Shared,
    lane: &Arc<General>,
    mut downstream: Box<Downstream>,
    handed: Handed,
    shutdown: &ShutdownWatch,
) -> Option<Box<Downstream>> {
    let Handed { connection, deadline, is_last, mut again } = handed;
    loop {
        let handed = Handed { connection: connection.clone(), deadline: Arc::clone(&deadline), is_last, again: again.take() };
        let mut session = ServerSession::new_http1(downstream);
        session.set_connection_user_context(Some(Box::new(handed)));
        session.set_total_drain_timeout(Some(DRAIN_LIMIT));
        let ended = tokio::select! {
            biased;
            ended = lane.process_new_http(session, shutdown) => ended,
            () = deadline.give_up() => None,
        };
        let taken_back = ended.and_then(|reused| reused.consume().0.into_any().downcast::<Downstream>().ok());
        let Some((request, left)) = deadline.take_again() else { return taken_back };
        let taken_up = || match left {
            Some(Left::Connection(left)) => Some(Box::new(Downstream::taken_up(*left, Arc::clone(&deadline)))),
            Some(Left::Stream(_)) | None => None,
        };
        let was_given_up = deadline.is_given_up();
        downstream = taken_back.or_else(taken_up)?;
        if was_given_up && downstream.has_answered() {
            tracing::warn!(client = %connection.client, "an owner took no more of what its client sent; the connection was cut");
            return None;
        }
        if !downstream.rewind() {
            if was_given_up {
                deadline.begin_again();
                refuse(shared, downstream, Code::UpstreamTimeout, &connection).await;
            }
            return None;
        }
        again = Some(request);
    }
}

/// Closes what a request has left of its connection.
async fn close(deadline: &Deadline) {
    if let Some(socket) = deadline.take_unread() {
        linger(socket).await;
    }
}

/// Answers a connection that is one too many, without waiting for its request.
pub(crate) async fn turn_away(shared: &Shared, stream: Accepted, connection: &ConnectionInfo) {
    turn_down(shared, Box::new(Downstream::new(stream)), Code::Overloaded, connection).await;
}

/// Answers outside any request, and closes.
async fn turn_down(shared: &Shared, downstream: Box<Downstream>, code: Code, connection: &ConnectionInfo) {
    let deadline = downstream.deadline();
    refuse(shared, downstream, code, connection).await;
    close(&deadline).await;
}

/// Idle and header time-outs: before the service is known, those of the default policy.
pub(super) fn limits(shared: &Shared) -> (Duration, Duration) {
    let table = shared.view.load();
    let (idle, header) = table.as_ref().map_or((Duration::from_secs(60), HEADER_LIMIT_WITHOUT_TABLE), |table| {
        let given = &table.default_policy().timeouts;
        (Duration::from_millis(given.idle_ms), Duration::from_millis(given.header_ms))
    });
    let is_raised = shared.guard.is_some() && !idle.is_zero();
    (if is_raised { idle.max(GUARDED_IDLE) } else { idle }, header)
}

/// Whether a connection that is quiet may rest. Asked for each request, so it is a load, and not the lock of the signal that ends connections, which all
/// workers share.
fn may_rest(shared: &Shared) -> bool {
    !shared.draining.load(Ordering::Relaxed)
}

/// How long a client may take from its first byte to the end of its first head; a handshake counts as one.
pub(crate) fn head_limit(shared: &Shared) -> Duration {
    limits(shared).1
}

async fn refuse(shared: &Shared, mut downstream: Box<Downstream>, code: Code, connection: &ConnectionInfo) {
    let request_id = new_request_id();
    shared.note_refused_head(code, &request_id, connection);
    let answer = answer::raw(code, &request_id);
    // A client that does not read has no other limit here.
    let _ = limited(limits(shared).0, downstream.answer(&answer)).await;
}

/// Ends when the process begins to drain.
pub(super) async fn draining(shutdown: &mut ShutdownWatch) {
    // An error means that the sender has gone, which is the process's end as well.
    let _ = shutdown.wait_for(|draining| *draining).await;
}

/// Ends when the process drains and an idle connection has had its time to bring one more request: closed at once, it could meet one that
/// is on its way.
pub(crate) async fn drained(shared: &Shared, shutdown: &mut ShutdownWatch) {
    draining(shutdown).await;
    tokio::time::sleep(Duration::from_millis(shared.drain().idle_ms.into())).await;
}
