//! The client's connection as the general transport sees it: one request at a time, and never a byte more.
//!
//! pingora reads as much as it gets and has no deadline of its own for a head or between the parts of an answer. So its stream is
//! this one: the head is read here under a deadline and checked ([`waypost_policy::framing`]); then exactly the head and the framed body are
//! handed over, and what a client pipelines stays here for the next round. The [`Deadline`] that the hooks set for the
//! present phase ends the wait by an error of the read that pingora always has pending. A client that closes its half behind a whole
//! request is answered all the same (RFC 9112, section 9.6); one that closes it inside a request has gone. Heads are read in `head`; what a
//! lane of ours does with the connection is in `plain`.

mod head;
mod plain;

use std::{
    io,
    mem::MaybeUninit,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use async_trait::async_trait;
use bytes::BytesMut;
use pingora_core::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID, UniqueIDType,
    raw_connect::ProxyDigest,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufWriter, ReadBuf},
    time::Instant,
};
use waypost_policy::{
    Code,
    framing::{Chunks, Framing, MAX_HEAD_BYTES, Plain},
};

pub(super) use head::QUIET;

use super::{
    accepted::Accepted,
    alarm::Alarm,
    deadline::{self, Deadline, Phase},
    ending::{CLOSE_FRAME, Frames},
    general::REPLAY_BYTES,
    timing::Timing,
};

/// How much of what a client pipelines is kept while its first request is served.
pub(super) const MAX_PIPELINED_BYTES: usize = 64 * 1024;
const READ_BYTES: usize = 4 * 1024;
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// One segment, as pingora's own listeners have it.
const WRITE_BYTES: usize = 1460;
/// How much of a request is kept in case it is handed over once more: its head, and twice the body that pingora would repeat, for the framing.
const KEPT_BYTES: usize = MAX_HEAD_BYTES + 2 * REPLAY_BYTES;
/// How long a client that still sends is read from after its connection's last answer, and how long it may be silent meanwhile.
const LINGER_LIMIT: Duration = Duration::from_secs(5);
const LINGER_IDLE: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 16 * 1024;

#[derive(Clone, Copy, Debug)]
enum Body {
    Length(u64),
    Chunked(Chunks),
}

impl Body {
    fn framed_by(framing: Framing) -> Self {
        match framing {
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Chunked(Chunks::START),
        }
    }

    fn is_done(self) -> bool {
        matches!(self, Self::Length(0) | Self::Chunked(Chunks::Done))
    }
}

/// What was handed over of a request.
#[derive(Debug)]
struct Handed {
    head_len: usize,
    framing: Framing,
    /// `None`: more than is kept.
    bytes: Option<BytesMut>,
}

/// What a session that is to be followed by another for the same request has left of its connection.
#[derive(Debug)]
pub(super) struct Left {
    socket: Option<Socket>,
    buffer: BytesMut,
    request: Handed,
    closes: bool,
    closed: bool,
    /// An answer has begun.
    pub(super) answered: bool,
}

/// The connection as it was accepted.
pub(super) type Socket = BufWriter<Accepted>;

/// The connection.
#[derive(Debug)]
pub(crate) struct Downstream {
    /// In a session writes are gathered, so that a head and a small body leave in one call; pingora flushes behind each answer. `None` only
    /// while it is dropped.
    socket: Option<Socket>,
    gathers: bool,
    /// Read from the socket and not handed over.
    pub(super) buffer: BytesMut,
    /// How much of the buffer is the head.
    head_left: usize,
    body: Body,
    /// The present request as it came.
    request: Handed,
    /// Its head's places, if it is plain and nobody has taken them.
    plain: Option<Plain>,
    timing: Timing,
    /// For whoever waits for the client outside pingora's sessions.
    pub(super) alarm: Alarm,
    /// The client wants the connection closed behind the present answer.
    closes: bool,
    /// The client will send no more.
    pub(super) closed: bool,
    /// Something of an answer has been written for the present request.
    pub(super) answered: bool,
    /// The answer was given outside any request: nobody knows what the client still sends.
    is_outside: bool,
    /// How far the owner has come in the frames that it writes after an upgrade.
    frames: Frames,
    /// The client has been told that the stream is over, where that could be said.
    is_over: bool,
    /// How far the next head is.
    coming: Coming,
}

/// A head on its way.
#[derive(Debug, Default)]
struct Coming {
    /// Since when its first byte, or the rest of it, has been waited for.
    since: Option<Instant>,
    /// So much of the buffer holds no end of it.
    searched: usize,
}

/// Why no further request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoHead {
    /// The client has closed, or the connection broke, or it was idle for too long.
    Gone,
    /// To be answered, and the connection closed.
    Answer(Code),
    /// Nothing has come for a while.
    Quiet,
}

impl Downstream {
    /// Wraps an accepted connection.
    pub(crate) fn new(accepted: Accepted) -> Self {
        Self::of(Some(BufWriter::with_capacity(0, accepted)), Timing::default())
    }

    fn of(socket: Option<Socket>, timing: Timing) -> Self {
        Self {
            socket,
            gathers: false,
            buffer: BytesMut::new(),
            head_left: 0,
            body: Body::Length(0),
            request: Handed { head_len: 0, framing: Framing::Length(0), bytes: None },
            plain: None,
            timing,
            alarm: Alarm::default(),
            closes: false,
            closed: false,
            answered: false,
            is_outside: false,
            frames: Frames::default(),
            is_over: false,
            coming: Coming::default(),
        }
    }

    /// A session of the general lane begins with the request whose head was read last.
    pub(super) fn begin_session(&mut self) -> Arc<Deadline> {
        self.timing.begin();
        self.gather(WRITE_BYTES);
        self.deadline()
    }

    /// Nothing of the last session holds for the next request; a connection that waits for that needs nothing of it either.
    fn end_session(&mut self) {
        self.timing.begin();
        if !self.has_begun() {
            self.gather(0);
        }
    }

    /// Has so much gathered before it is written, from where all has been written.
    fn gather(&mut self, bytes: usize) {
        if self.gathers != (bytes > 0)
            && let Some(socket) = self.socket.take_if(|socket| socket.buffer().is_empty())
        {
            self.socket = Some(BufWriter::with_capacity(bytes, socket.into_inner()));
            self.gathers = bytes > 0;
        }
    }

    /// What the hooks share with this connection for the request whose head was read last.
    pub(crate) fn deadline(&self) -> Arc<Deadline> {
        Arc::clone(self.timing.deadline())
    }

    /// Whether the client said that the request whose head was read last is its last one.
    pub(crate) fn is_last(&self) -> bool {
        self.closes
    }

    /// The bare connection, and what has been read of it. Nothing has been written.
    pub(super) fn into_bare(mut self) -> Option<(Accepted, BytesMut)> {
        let socket = self.socket.take()?;
        Some((socket.into_inner(), std::mem::take(&mut self.buffer)))
    }

    /// The connection, of which nothing but itself is needed until the next request comes; nothing of that has come.
    ///
    /// # Errors
    /// If it is of no use any more.
    pub(super) fn into_rest(mut self) -> io::Result<Accepted> {
        self.socket.take().ok_or(io::ErrorKind::NotConnected)?.into_inner().at_rest()
    }

    /// Whether nothing that was gathered waits to be written.
    fn is_written(&self) -> bool {
        self.socket.as_ref().is_none_or(|socket| socket.buffer().is_empty())
    }

    /// The connection whose session has ended and left it.
    pub(super) fn taken_up(left: Left, deadline: Arc<Deadline>) -> Self {
        let Left { socket, buffer, request, closes, closed, answered } = left;
        let mut downstream = Self::of(socket, Timing::new(deadline));
        downstream.gathers = true;
        (downstream.buffer, downstream.request) = (buffer, request);
        (downstream.closes, downstream.closed, downstream.answered) = (closes, closed, answered);
        downstream
    }

    /// Back to the start of the present request: it is handed over once more. False if it is not there any more.
    pub(super) fn rewind(&mut self) -> bool {
        let Some(mut again) = self.request.bytes.replace(BytesMut::new()) else { return false };
        again.unsplit(std::mem::take(&mut self.buffer));
        self.buffer = again;
        self.head_left = self.request.head_len;
        self.body = Body::framed_by(self.request.framing);
        self.timing.deadline().begin_again();
        self.socket.is_some()
    }

    /// Whether an answer to the present request has begun.
    pub(super) fn has_answered(&self) -> bool {
        self.answered
    }

    /// Whether something of the next head has come.
    pub(crate) fn has_begun(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Whether nothing of what the client sends is left unread, as far as that is known.
    fn is_read(&self) -> bool {
        self.closed || (!self.is_outside && self.body.is_done() && self.buffer.is_empty())
    }

    /// Writes an answer of the proxy's own outside any request; the connection is then to be dropped.
    pub(crate) async fn answer(&mut self, answer: &[u8]) {
        self.is_outside = true;
        // A client that can't be written to has gone.
        let _ = self.write_all(answer).await;
        let _ = self.flush().await;
    }

    /// Reads once from the socket without waiting, up to about `room` bytes where that is more than usual; `Ready(0)` at its end.
    pub(super) fn poll_fill(&mut self, context: &mut Context<'_>, room: usize) -> Poll<io::Result<usize>> {
        if room > READ_BYTES {
            self.buffer.reserve(room);
            let Some(socket) = &mut self.socket else { return Poll::Ready(Ok(0)) };
            let read = std::task::ready!(pin!(socket.read_buf(&mut self.buffer)).poll(context))?;
            self.closed |= read == 0;
            return Poll::Ready(Ok(read));
        }
        let mut space = [const { MaybeUninit::uninit() }; READ_BYTES];
        let mut into = ReadBuf::uninit(&mut space);
        std::task::ready!(self.poll_socket()?.poll_read(context, &mut into))?;
        self.buffer.extend_from_slice(into.filled());
        self.closed |= into.filled().is_empty();
        Poll::Ready(Ok(into.filled().len()))
    }

    fn poll_socket(&mut self) -> io::Result<Pin<&mut Socket>> {
        self.socket.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Hands over up to `limit` buffered bytes.
    fn hand_over(&mut self, into: &mut ReadBuf<'_>, limit: usize) -> usize {
        let here = self.buffer.len().min(limit).min(into.remaining());
        into.put_slice(&self.buffer[..here]);
        let handed = self.buffer.split_to(here);
        match &mut self.request.bytes {
            Some(kept) if kept.len() + here <= KEPT_BYTES => kept.unsplit(handed),
            too_much => {
                *too_much = None;
                self.timing.deadline().forget_request();
            }
        }
        here
    }

    /// Ready when the request, or the stream that it has become, may not be served any more; a stream's client is told so where that can be said.
    fn poll_ended(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        std::task::ready!(self.timing.deadline().ending().poll(context));
        if !self.is_over {
            self.is_over = true;
            self.timing.deadline().fire(Phase::Lost);
            if self.timing.deadline().is_raw() && self.frames.is_between() {
                // A client that does not read can't be told.
                let _ = self.poll_socket().map(|socket| socket.poll_write(context, &CLOSE_FRAME));
            }
        }
        Poll::Ready(io::Error::new(io::ErrorKind::ConnectionAborted, "it may not be served here any more"))
    }

    fn poll_body(&mut self, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.timing.poll_released(context));
        if self.buffer.is_empty() && !self.closed {
            std::task::ready!(self.poll_fill(context, 0))?;
        }
        if self.buffer.is_empty() {
            // The client has gone in the middle of its body.
            return Poll::Ready(Ok(()));
        }
        let here = self.buffer.len().min(into.remaining());
        let limit = match &mut self.body {
            Body::Length(left) => {
                let taken = here.min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= taken as u64;
                taken
            }
            Body::Chunked(chunks) => chunks.take(&self.buffer[..here]).map_err(|_| {
                self.timing.deadline().set_broken();
                io::Error::new(io::ErrorKind::InvalidData, "the body's chunked framing is broken or has trailers")
            })?,
        };
        self.hand_over(into, limit);
        self.timing.deadline().hand_to_owner();
        Poll::Ready(Ok(()))
    }

    /// Behind the body nothing is read but what the client pipelines, which is kept, and the loss of the connection. An end of what it
    /// sends is not its going away: it has a whole request to be answered. Whether it still listens shows when it is written to.
    fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.closed && self.buffer.len() < MAX_PIPELINED_BYTES {
            std::task::ready!(self.poll_fill(context, 0))?;
        }
        Poll::Pending
    }
}

pub(super) async fn limited<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    if limit.is_zero() { Some(work.await) } else { tokio::time::timeout(limit, work).await.ok() }
}

impl AsyncRead for Downstream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.timing.deadline().look_at_client();
        if this.head_left > 0 {
            this.head_left -= this.hand_over(into, this.head_left);
            return Poll::Ready(Ok(()));
        }
        if let Poll::Ready(over) = this.poll_ended(context) {
            return Poll::Ready(Err(over));
        }
        let read = if this.timing.deadline().is_raw() {
            let read = if this.buffer.is_empty() {
                this.poll_socket()?.poll_read(context, into)
            } else {
                this.hand_over(into, usize::MAX);
                Poll::Ready(Ok(()))
            };
            if read.is_ready() {
                this.timing.deadline().hand_to_owner();
            }
            read
        } else if this.body.is_done() {
            this.poll_gone(context)
        } else {
            this.poll_body(context, into)
        };
        if read.is_pending() {
            // Whoever waits for the client has nothing more to write for now: what was gathered is due. A failure shows at the next write.
            let _ = this.poll_socket()?.poll_flush(context);
            if let Poll::Ready(late) = this.timing.poll_late(context) {
                return Poll::Ready(Err(late));
            }
        }
        read
    }
}

impl AsyncWrite for Downstream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.timing.deadline().discards_answer() {
            return Poll::Ready(Ok(bytes.len()));
        }
        this.answered = true;
        // Who only waits for an answer may still be told why there is none.
        if this.timing.deadline().is_raw()
            && let Poll::Ready(over) = this.poll_ended(context)
        {
            return Poll::Ready(Err(over));
        }
        let write = this.poll_socket()?.poll_write(context, bytes);
        if write.is_ready() {
            this.timing.deadline().look_at_client();
        }
        if let Poll::Ready(Ok(written)) = write
            && this.timing.deadline().is_raw()
        {
            this.frames.pass(&bytes[..written]);
        }
        this.timing.written(context, write)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flush = this.poll_socket()?.poll_flush(context);
        // What was gathered may wait here for a client that does not read.
        if flush.is_pending()
            && this.timing.deadline().is_raw()
            && let Poll::Ready(over) = this.poll_ended(context)
        {
            return Poll::Ready(Err(over));
        }
        this.timing.written(context, flush)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.timing.deadline().discards_answer() { Poll::Ready(Ok(())) } else { this.poll_socket()?.poll_shutdown(context) }
    }

    fn poll_write_vectored(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.timing.deadline().is_raw() {
            // One part at a time, so that frames can be followed.
            let first = bytes.iter().find(|part| !part.is_empty()).map_or(&[][..], |part| part);
            return self.poll_write(context, first);
        }
        let this = self.get_mut();
        if this.timing.deadline().discards_answer() {
            return Poll::Ready(Ok(bytes.iter().map(|part| part.len()).sum()));
        }
        this.answered = true;
        let write = this.poll_socket()?.poll_write_vectored(context, bytes);
        this.timing.written(context, write)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }
}

impl Drop for Downstream {
    /// What the client still sends must be read before its connection is closed, or the close is a reset that can take the answer
    /// with it (RFC 9112, section 9.6), and so must be written what was gathered. That takes time, so the socket is left to whoever
    /// serves the connection. So is all of it when the request is to be handed over once more.
    fn drop(&mut self) {
        // Without a session nobody is there to whom anything could be left.
        let Some(session) = self.timing.shared().map(Arc::clone) else { return };
        if session.discards_answer() {
            let nothing = Handed { head_len: 0, framing: Framing::Length(0), bytes: None };
            session.leave(deadline::Left::Connection(Box::new(Left {
                socket: self.socket.take(),
                buffer: std::mem::take(&mut self.buffer),
                request: std::mem::replace(&mut self.request, nothing),
                closes: self.closes,
                closed: self.closed,
                answered: self.answered,
            })));
            return;
        }
        let is_unread = !self.is_read();
        if self.answered && (is_unread || !self.is_written()) {
            session.leave_unread(self.socket.take());
        }
    }
}

/// Closes a connection whose client may still be sending: says that no more comes, then reads until the client has read that.
pub(crate) async fn linger(mut socket: Socket) {
    let mut dropped = vec![0; LINGER_BYTES];
    let closing = async {
        socket.flush().await?;
        socket.shutdown().await?;
        while tokio::time::timeout(LINGER_IDLE, socket.read(&mut dropped)).await.is_ok_and(|read| read.is_ok_and(|read| read > 0)) {}
        Ok::<(), io::Error>(())
    };
    // Late or broken: there is nobody left to be told.
    let _ = tokio::time::timeout(LINGER_LIMIT, closing).await;
}

#[async_trait]
impl Shutdown for Downstream {
    async fn shutdown(&mut self) {
        if let Some(socket) = self.socket.as_mut().filter(|_| !self.timing.deadline().discards_answer()) {
            // Flushes what was gathered. A client that can't be told has gone.
            let _ = socket.shutdown().await;
        }
    }
}

impl UniqueID for Downstream {
    fn id(&self) -> UniqueIDType {
        self.socket.as_ref().map_or(-1, |socket| socket.get_ref().fd())
    }
}

impl Ssl for Downstream {}

impl GetTimingDigest for Downstream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Downstream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for Downstream {
    /// Who the client is the front door knows, and says ([`ConnectionInfo`](super::ConnectionInfo)).
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        None
    }
}

impl Peek for Downstream {}
