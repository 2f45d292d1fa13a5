//! HTTP/2 from clients: one connection, many requests at once, each by the express lane or a session of the general one.
//!
//! The frames are the `h2` crate's; what is taken, how long it is waited for and what it may cost is decided here. The connection's own task
//! moves all frames, each request is a task of its own. While the process drains the client is told (GOAWAY) and what it has asked for is
//! answered. What always holds: what one request does costs no other of its connection; a connection without requests ends in time.

mod admission;
mod conduct;
mod plain;
mod session;

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use h2::{
    Reason, RecvStream,
    server::{Builder, Connection, SendResponse},
};
use http::{Method, Request, Response};
use pingora_core::{apps::HttpServerApp, protocols::http::ServerSession, server::ShutdownWatch};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    task::JoinSet,
    time::Instant,
};
use waypost_policy::{
    Code,
    framing::{MAX_HEAD_BYTES, Plain},
};

use super::{
    Accepted,
    alarm::Alarm,
    answer,
    connection::{ConnectionInfo, Handed, Lanes, draining, limits},
    deadline::{Deadline, Left},
    downstream::limited,
    express::Served,
    general, grpc,
    headers::new_request_id,
};
use crate::state::Shared;
use conduct::{Conduct, Frames};
use plain::PlainStream;
use session::{ClientStream, Http2Session, size_of_head};
pub(super) use session::{Unanswered, take_handed};

/// Requests of one connection at once.
const STREAMS: u32 = 128;
/// What a client may send ahead of what is read, for one request and for all of its connection. It lies in memory while a request waits for its key.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 2 << 20;
/// What of answers waits for the connection's own task, for one request.
const SEND_BUFFER: usize = 64 << 10;
/// So many requests may be under way, those included that were cancelled and whose end their owners hold up.
const UNDER_WAY: usize = 2 * STREAMS as usize;
/// Of many clients' requests so many may be cancelled before they have been looked at; of one's the `h2` crate takes 20.
const CANCELLED_AT_ONCE: usize = 1024;
/// How long a client may take to go once it was told and has nothing more to wait for.
const LEAVING_LIMIT: Duration = Duration::from_secs(5);

/// A client's connection, of which something may have been read already.
pub(super) struct Incoming {
    read: BytesMut,
    stream: Accepted,
    frames: Frames,
    conduct: Arc<Conduct>,
    /// Whether it is one client's. A proxy before this one passes on what many do, and none of them may cost the others their connection.
    is_watched: bool,
}

impl Incoming {
    pub(super) fn new(stream: Accepted, read: BytesMut) -> Self {
        Self { read, stream, frames: Frames::default(), conduct: Arc::default(), is_watched: true }
    }
}

/// What all requests of a connection share.
struct Serving {
    shared: Arc<Shared>,
    lanes: Arc<Lanes>,
    connection: ConnectionInfo,
    conduct: Arc<Conduct>,
    shutdown: ShutdownWatch,
}

/// What a connection has come to.
#[allow(clippy::large_enum_variant, reason = "it is taken apart where it is made")]
enum Event {
    /// A request.
    Asked(Request<RecvStream>, SendResponse<Bytes>),
    /// Its end, and why if that was not agreed on.
    Over(Option<h2::Error>),
    /// It has had no request for too long.
    Idle,
    /// The process drains.
    Draining,
}

/// Serves a connection to its end.
pub(super) async fn serve_http2(
    shared: &Arc<Shared>,
    lanes: &Arc<Lanes>,
    mut incoming: Incoming,
    connection: ConnectionInfo,
    shutdown: ShutdownWatch,
) {
    let is_watched = shared.guard.is_none() && !connection.trusted;
    incoming.is_watched = is_watched;
    let conduct = Arc::clone(&incoming.conduct);
    let (_, header) = limits(shared);
    let Some(Ok(mut h2)) = limited(header, builder(is_watched).handshake(incoming)).await else { return };
    let serving = Arc::new(Serving {
        shared: Arc::clone(shared),
        lanes: Arc::clone(lanes),
        connection: connection.clone(),
        conduct: Arc::clone(&conduct),
        shutdown: shutdown.clone(),
    });
    let mut streams = JoinSet::new();
    let mut requests_left = shared.limits().requests_per_connection;
    // Since when there is no request.
    let mut idle_since = Instant::now();
    let mut leaving_since: Option<Instant> = None;
    let mut alarm = Alarm::default();
    let mut watched = shutdown.clone();
    let mut drained = pin!(draining(&mut watched));
    loop {
        let is_leaving = leaving_since.is_some();
        let event = poll_fn(|context| {
            while let Poll::Ready(Some(_)) = streams.poll_join_next(context) {
                if streams.is_empty() {
                    idle_since = Instant::now();
                }
            }
            if let Poll::Ready(accepted) = h2.poll_accept(context) {
                return Poll::Ready(match accepted {
                    Some(Ok((request, respond))) => Event::Asked(request, respond),
                    Some(Err(error)) => Event::Over(Some(error)),
                    None => Event::Over(None),
                });
            }
            if streams.is_empty() {
                let patience = if is_leaving { LEAVING_LIMIT } else { limits(shared).0 };
                if !patience.is_zero() && alarm.poll(context, idle_since + patience).is_ready() {
                    return Poll::Ready(Event::Idle);
                }
            }
            if is_leaving { Poll::Pending } else { drained.as_mut().poll(context).map(|()| Event::Draining) }
        });
        match event.await {
            Event::Asked(request, mut respond) => {
                // One that was told to go long ago does not listen.
                let is_deaf = leaving_since.is_some_and(|since| since.elapsed() > LEAVING_LIMIT);
                if is_deaf || streams.len() >= UNDER_WAY {
                    respond.send_reset(Reason::REFUSED_STREAM);
                    continue;
                }
                if !conduct.asked() && is_watched {
                    tracing::warn!(client = %connection.client, "a connection was closed whose requests are cancelled as soon as they are made");
                    h2.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                    continue;
                }
                if let Some((stream, plain)) = admitted(&serving, request, respond) {
                    // In memory of its own: the runtime moves what it is given several times.
                    streams.spawn(Box::pin(serve_stream(Arc::clone(&serving), stream, plain)));
                } else {
                    idle_since = Instant::now();
                }
                if requests_left == 1 {
                    leave(&mut h2, &mut leaving_since);
                }
                requests_left = requests_left.saturating_sub(1);
            }
            Event::Over(why) => {
                if let Some(error) = why {
                    tracing::debug!(client = %connection.client, %error, "a connection of HTTP/2 broke");
                }
                break;
            }
            Event::Idle if is_leaving => break,
            Event::Idle | Event::Draining => {
                leave(&mut h2, &mut leaving_since);
                idle_since = Instant::now();
            }
        }
    }
    drop(h2);
    // They find their connection gone, and say so in the log.
    while streams.join_next().await.is_some() {}
}

fn builder(is_watched: bool) -> Builder {
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(STREAMS)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEAD_BYTES as u32)
        .max_send_buffer_size(SEND_BUFFER);
    if !is_watched {
        builder.max_pending_accept_reset_streams(CANCELLED_AT_ONCE);
    }
    builder
}

/// Tells the client that this connection takes no more requests.
fn leave(h2: &mut Connection<Incoming, Bytes>, leaving_since: &mut Option<Instant>) {
    leaving_since.get_or_insert_with(Instant::now);
    h2.graceful_shutdown();
}

/// Takes a request up, or answers it where no lane is to see it.
fn admitted(serving: &Serving, request: Request<RecvStream>, respond: SendResponse<Bytes>) -> Option<(Box<PlainStream>, Option<Plain>)> {
    let (parts, body) = request.into_parts();
    serving.conduct.useful(size_of_head(&parts.headers));
    let written = match admission::admit(&parts, body.is_end_stream()) {
        Ok(written) => written,
        Err(code) => {
            let (is_call, is_head) = (grpc::is_call(&parts.headers), parts.method == Method::HEAD);
            refuse(&serving.shared, respond, code, is_call, is_head, &serving.connection);
            return None;
        }
    };
    let express = serving.lanes.express.as_ref().filter(|_| !written.is_call);
    let mut stream = Box::new(PlainStream::new(parts, written, ClientStream::new(body, respond, Arc::clone(&serving.conduct))));
    let plain = express.and_then(|express| express.takes(&mut stream));
    Some((stream, plain))
}

/// Serves a request, on one lane after the other.
async fn serve_stream(serving: Arc<Serving>, stream: Box<PlainStream>, plain: Option<Plain>) {
    let (stream, decided) = match (&serving.lanes.express, plain) {
        (Some(express), Some(plain)) => match express.serve(stream, plain, &serving.connection, false).await {
            Served::Next(_) | Served::Last(_) | Served::Cut => return,
            Served::HandedOver(stream, decided) => (stream, Some(decided)),
        },
        _ => (stream, None),
    };
    if let Some(unanswered) = stream.into_unanswered() {
        Box::pin(serve_sessions(&serving, unanswered, decided)).await;
    }
}

/// Serves a request on the general lane, in as many sessions as it takes.
async fn serve_sessions(serving: &Serving, mut request: Unanswered, mut again: Option<Box<general::Request>>) {
    let deadline = Arc::<Deadline>::default();
    loop {
        let handed =
            Handed { connection: serving.connection.clone(), deadline: Arc::clone(&deadline), is_last: false, again: again.take() };
        let session = Http2Session::of(request, handed);
        tokio::select! {
            biased;
            _ = serving.lanes.general.process_new_http(ServerSession::new_custom(Box::new(session)), &serving.shutdown) => {}
            () = deadline.give_up() => {}
        }
        let Some((decided, Some(Left::Stream(left)))) = deadline.take_again() else { return };
        deadline.begin_again();
        (request, again) = (*left, Some(decided));
    }
}

/// Answers a request that no lane is to see.
fn refuse(shared: &Shared, mut respond: SendResponse<Bytes>, code: Code, is_call: bool, is_head: bool, connection: &ConnectionInfo) {
    let request_id = new_request_id();
    shared.note_refused_head(code, &request_id, connection);
    let body = if is_call { Vec::new() } else { answer::problem_json(code, &request_id) };
    let Ok(mut head) = answer::head(code, &request_id, None, body.len()) else { return };
    if is_call && grpc::into_status(&mut head, code).is_err() {
        return;
    }
    let is_all = is_head || body.is_empty();
    // A client that can't be answered has gone.
    if let Ok(mut writer) = respond.send_response(Response::from_parts(head.as_owned_parts(), ()), is_all)
        && !is_all
    {
        let _ = writer.send_data(body.into(), true);
    }
}

impl AsyncRead for Incoming {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = into.filled().len();
        let this_read = |this: &mut Self, into: &ReadBuf<'_>| {
            let read = &into.filled()[before..];
            let data = this.frames.data_in(read);
            this.conduct.read(read.len(), data, std::time::Instant::now()) || !this.is_watched
        };
        if this.read.is_empty() {
            ready!(Pin::new(&mut this.stream).poll_read(context, into))?;
        } else {
            let here = this.read.len().min(into.remaining());
            into.put_slice(&this.read[..here]);
            this.read.advance(here);
        }
        if this_read(this, into) {
            Poll::Ready(Ok(()))
        } else {
            Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the client sends too much that is of no use")))
        }
    }
}

impl AsyncWrite for Incoming {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
