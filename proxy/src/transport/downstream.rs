//! The client's connection as the general transport sees it: one request at a time, and never a byte more.
//!
//! pingora reads as much as it gets and has no deadline of its own for a head or between the parts of an answer. So its stream is
//! this one: the head is read here under a deadline and checked ([`super::framing`]); then exactly the head and the framed body are
//! handed over, and what a client pipelines stays here for the next round. The [`Deadline`] that the hooks set for the
//! present phase ends the wait by an error of the read that pingora always has pending.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use async_trait::async_trait;
use bytes::{Buf, BytesMut};
use pingora_core::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream, TimingDigest, UniqueID, UniqueIDType,
    raw_connect::ProxyDigest, tls::SslDigest,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufWriter, ReadBuf},
    time::{Instant, Sleep},
};
use waypost_policy::Code;

use super::framing::{Chunks, Framing, MAX_HEAD_BYTES, check_head, end_of_head};

/// How much of what a client pipelines is kept while its first request is served.
const MAX_PIPELINED_BYTES: usize = 64 * 1024;
const READ_BYTES: usize = 4 * 1024;
/// One segment, as pingora's own listeners have it.
const WRITE_BYTES: usize = 1460;

/// What the request waits for; decides what is answered when the wait is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// For the client to send on.
    Client,
    /// For the owner to answer.
    FirstByte,
    /// For the owner to send on.
    Idle,
}

/// What hooks and connection share during one request.
#[derive(Debug, Default)]
pub(crate) struct Deadline {
    wait: Mutex<Wait>,
    fired: Mutex<Option<Phase>>,
    /// The framing of the body was broken, or had trailers.
    broken: AtomicBool,
    /// After a 101 the stream has no framing any more.
    raw: AtomicBool,
}

/// The present wait. Its time runs from the first poll after it was set, so that a slow reader of the answer, whom nobody polls,
/// does not count as a silent owner.
#[derive(Clone, Copy, Debug, Default)]
struct Wait {
    limit: Option<(Duration, Phase)>,
    generation: u64,
}

impl Deadline {
    /// From now on the phase may take so long; no limit if zero.
    pub(crate) fn set(&self, phase: Phase, limit: Duration) {
        self.replace((!limit.is_zero()).then_some((limit, phase)));
    }

    /// Nothing is waited for.
    pub(crate) fn clear(&self) {
        self.replace(None);
    }

    /// The phase whose deadline has passed, if one has.
    pub(crate) fn fired(&self) -> Option<Phase> {
        *lock(&self.fired)
    }

    /// Whether the body's framing was refused.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// The connection has been upgraded: everything is handed over as it comes.
    pub(crate) fn upgrade(&self) {
        self.raw.store(true, Ordering::Relaxed);
    }

    fn replace(&self, limit: Option<(Duration, Phase)>) {
        let mut wait = lock(&self.wait);
        *wait = Wait { limit, generation: wait.generation + 1 };
    }
}

/// A poisoned lock guards plain data that is valid after any panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Clone, Copy, Debug)]
enum Body {
    Length(u64),
    Chunked(Chunks),
}

impl Body {
    fn is_done(self) -> bool {
        matches!(self, Self::Length(0) | Self::Chunked(Chunks::Done))
    }
}

/// The connection.
#[derive(Debug)]
pub(crate) struct Downstream {
    /// Writes are gathered, so that a head and a small body leave in one call; pingora flushes behind each answer.
    inner: BufWriter<Stream>,
    /// Read from the socket and not handed over.
    buffer: BytesMut,
    /// How much of the buffer is the head.
    head_left: usize,
    body: Body,
    deadline: Arc<Deadline>,
    timer: Pin<Box<Sleep>>,
    /// The wait that the timer was set for.
    armed_generation: u64,
    closed: bool,
}

/// Why no further request came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NoHead {
    /// The client has closed, or the connection broke, or it was idle for too long.
    Gone,
    /// To be answered, and the connection closed.
    Answer(Code),
}

impl Downstream {
    /// Wraps an accepted connection.
    pub(crate) fn new(inner: Stream) -> Self {
        Self {
            inner: BufWriter::with_capacity(WRITE_BYTES, inner),
            buffer: BytesMut::new(),
            head_left: 0,
            body: Body::Length(0),
            deadline: Arc::default(),
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            armed_generation: 0,
            closed: false,
        }
    }

    /// What the hooks share with this connection for the request whose head was read last.
    pub(crate) fn deadline(&self) -> Arc<Deadline> {
        Arc::clone(&self.deadline)
    }

    /// Reads and checks the next head. `idle` limits the wait for its first byte, `header` the time from there to its end.
    pub(crate) async fn read_head(&mut self, idle: Duration, header: Duration) -> Result<(), NoHead> {
        if self.buffer.is_empty() {
            if self.closed {
                return Err(NoHead::Gone);
            }
            match limited(idle, self.fill()).await {
                Some(Ok(true)) => {}
                _ => return Err(NoHead::Gone),
            }
        }
        match limited(header, self.rest_of_head()).await {
            Some(read) => read,
            None => Err(NoHead::Answer(Code::ClientTimeout)),
        }
    }

    /// Writes an answer of the proxy's own outside any request, and closes.
    pub(crate) async fn answer_and_close(&mut self, answer: &[u8]) {
        let _ = self.inner.write_all(answer).await;
        let _ = self.inner.flush().await;
        // Closing with unread bytes would reset the connection and could take the answer with it (RFC 9112, section 9.6).
        let mut dropped = 0usize;
        while dropped < MAX_HEAD_BYTES {
            self.buffer.clear();
            let read = tokio::time::timeout(Duration::from_millis(50), self.fill()).await;
            match read {
                Ok(Ok(true)) => dropped += self.buffer.len(),
                _ => break,
            }
        }
        let _ = self.inner.flush().await;
        Shutdown::shutdown(&mut **self.inner.get_mut()).await;
    }

    async fn rest_of_head(&mut self) -> Result<(), NoHead> {
        let mut searched = 0;
        loop {
            // A client may send an empty line before a request (RFC 9112, section 2.2).
            while self.buffer.starts_with(b"\r\n") {
                self.buffer.advance(2);
                searched = 0;
            }
            if let Some(len) = end_of_head(&self.buffer, searched) {
                let checked = check_head(&self.buffer[..len]).map_err(NoHead::Answer)?;
                self.head_left = checked.len;
                self.body = match checked.framing {
                    Framing::Length(length) => Body::Length(length),
                    Framing::Chunked => Body::Chunked(Chunks::START),
                };
                self.deadline = Arc::default();
                self.armed_generation = 0;
                return Ok(());
            }
            if self.buffer.len() > MAX_HEAD_BYTES {
                return Err(NoHead::Answer(Code::HeaderTooLarge));
            }
            // What can't become a head is refused at once: a TLS handshake, or lines that end in a bare LF.
            if self.buffer.first().is_some_and(|first| !first.is_ascii_alphabetic() && *first != b'\r')
                || self.buffer.windows(2).any(|two| two == b"\n\n")
            {
                return Err(NoHead::Answer(Code::BadRequest));
            }
            searched = self.buffer.len();
            match self.fill().await {
                Ok(true) => {}
                _ if self.buffer.is_empty() => return Err(NoHead::Gone),
                Ok(false) => return Err(NoHead::Answer(Code::BadRequest)),
                Err(_) => return Err(NoHead::Gone),
            }
        }
    }

    /// Reads once from the socket; false at its end.
    async fn fill(&mut self) -> io::Result<bool> {
        self.buffer.reserve(READ_BYTES);
        let read = self.inner.read_buf(&mut self.buffer).await?;
        self.closed |= read == 0;
        Ok(read > 0)
    }

    /// Reads once from the socket without waiting; `Ready(0)` at its end.
    fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut space = [0; READ_BYTES];
        let mut into = ReadBuf::new(&mut space);
        std::task::ready!(Pin::new(&mut self.inner).poll_read(context, &mut into))?;
        self.buffer.extend_from_slice(into.filled());
        self.closed |= into.filled().is_empty();
        Poll::Ready(Ok(into.filled().len()))
    }

    /// Hands over up to `limit` buffered bytes.
    fn hand_over(&mut self, into: &mut ReadBuf<'_>, limit: usize) -> usize {
        let here = self.buffer.len().min(limit).min(into.remaining());
        into.put_slice(&self.buffer[..here]);
        self.buffer.advance(here);
        here
    }

    fn poll_deadline(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        let wait = *lock(&self.deadline.wait);
        let Some((limit, phase)) = wait.limit else { return Poll::Pending };
        if self.armed_generation != wait.generation {
            self.armed_generation = wait.generation;
            self.timer.as_mut().reset(Instant::now() + limit);
        }
        std::task::ready!(self.timer.as_mut().poll(context));
        *lock(&self.deadline.fired) = Some(phase);
        Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, "the deadline of the present phase has passed"))
    }

    fn poll_body(&mut self, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.buffer.is_empty() && !self.closed {
            std::task::ready!(self.poll_fill(context))?;
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
                self.deadline.broken.store(true, Ordering::Relaxed);
                io::Error::new(io::ErrorKind::InvalidData, "the body's chunked framing is broken or has trailers")
            })?,
        };
        self.hand_over(into, limit);
        Poll::Ready(Ok(()))
    }

    /// Behind the body only the client's going away is of interest; what it pipelines is kept.
    fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.closed && self.buffer.len() < MAX_PIPELINED_BYTES {
            std::task::ready!(self.poll_fill(context))?;
        }
        if self.closed && self.buffer.is_empty() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}

async fn limited<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    if limit.is_zero() { Some(work.await) } else { tokio::time::timeout(limit, work).await.ok() }
}

impl AsyncRead for Downstream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.head_left > 0 {
            this.head_left -= this.hand_over(into, this.head_left);
            return Poll::Ready(Ok(()));
        }
        let read = if this.deadline.raw.load(Ordering::Relaxed) {
            if this.buffer.is_empty() {
                Pin::new(&mut this.inner).poll_read(context, into)
            } else {
                this.hand_over(into, usize::MAX);
                Poll::Ready(Ok(()))
            }
        } else if this.body.is_done() {
            this.poll_gone(context)
        } else {
            this.poll_body(context, into)
        };
        if read.is_pending()
            && let Poll::Ready(late) = this.poll_deadline(context)
        {
            return Poll::Ready(Err(late));
        }
        read
    }
}

impl AsyncWrite for Downstream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(context)
    }

    fn poll_write_vectored(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[async_trait]
impl Shutdown for Downstream {
    async fn shutdown(&mut self) {
        let _ = self.inner.flush().await;
        Shutdown::shutdown(&mut **self.inner.get_mut()).await;
    }
}

impl UniqueID for Downstream {
    fn id(&self) -> UniqueIDType {
        self.inner.get_ref().id()
    }
}

impl Ssl for Downstream {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.inner.get_ref().get_ssl_digest()
    }
}

impl GetTimingDigest for Downstream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.inner.get_ref().get_timing_digest()
    }
}

impl GetProxyDigest for Downstream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.inner.get_ref().get_proxy_digest()
    }
}

impl GetSocketDigest for Downstream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.inner.get_ref().get_socket_digest()
    }
}

impl Peek for Downstream {}
