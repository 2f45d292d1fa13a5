//! HTTP/2: the lanes of one connection share it, each with one stream at a time.
//!
//! A stream that is reset fails alone; if the connection ends, the first lane that needs it again makes a new one for all. That a server ends a
//! connection in good order (`GOAWAY` without an error) is no failure.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Connector, Exchanged, Failure, Stream};
use crate::{
    answer::Answer,
    fixed::OWNER_HEADER,
    report::FailureKind,
    request::{Asked, Requests},
};

/// As much as may be on its way unread: no answer waits for a window.
const STREAM_WINDOW: u32 = 16 << 20;
const CONNECTION_WINDOW: u32 = 1 << 30;
/// How often one request begins anew because its connection was ended in good order before it.
const MOST_FAREWELLS: usize = 3;

/// A connection that lanes share.
#[derive(Clone, Default)]
pub(crate) struct Shared(Arc<tokio::sync::Mutex<(u64, Option<Open>)>>);

/// The connection as it is now.
#[derive(Clone)]
struct Open {
    send: SendRequest<Bytes>,
    counts: Arc<Counts>,
    /// Which one of those that were made.
    number: u64,
}

/// Bytes since they were taken last.
#[derive(Debug, Default)]
struct Counts {
    read: AtomicU64,
    written: AtomicU64,
}

/// One lane.
pub(crate) struct Http2 {
    shared: Shared,
    open: Option<Open>,
    is_alone: bool,
}

impl Http2 {
    /// `is_alone`: each request has a connection of its own.
    pub(crate) fn new(shared: Shared, is_alone: bool) -> Self {
        Self { shared, open: None, is_alone }
    }

    /// Sends a request on a stream, and reads its answer.
    pub(crate) async fn exchange(&mut self, connector: &Connector, requests: &Requests, asked: Asked) -> Result<Exchanged, Failure> {
        let mut farewells = 0;
        loop {
            let open = match self.open.take() {
                Some(open) => open,
                None => self.shared.open(connector).await?,
            };
            let number = open.number;
            let error = match exchange(open, requests, asked).await {
                Ok((open, exchanged)) => {
                    if self.is_alone {
                        self.shared.forget(number).await;
                    } else {
                        self.open = Some(open);
                    }
                    return Ok(exchanged);
                }
                Err(error) => error,
            };
            if error.is_reset() && error.is_remote() {
                return Err(Failure::new(FailureKind::Reset, format!("a stream was reset: {error}")));
            }
            self.shared.forget(number).await;
            // Whoever ends a connection in good order has not begun this request.
            let is_farewell = error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR);
            if is_farewell && farewells < MOST_FAREWELLS {
                farewells += 1;
                continue;
            }
            let kind = if error.is_io() || error.is_go_away() { FailureKind::Broken } else { FailureKind::Protocol };
            return Err(Failure::new(kind, format!("a connection broke: {error}")));
        }
    }
}

async fn exchange(mut open: Open, requests: &Requests, asked: Asked) -> Result<(Open, Exchanged), h2::Error> {
    open.send = open.send.ready().await?;
    let Some((request, body)) = requests.request(asked) else { return Err(h2::Reason::INTERNAL_ERROR.into()) };
    let (answer, mut stream) = open.send.send_request(request, body.is_empty())?;
    if !body.is_empty() {
        // Bytes are shared; the connection sends them as the server's windows let it.
        stream.send_data(body, true)?;
    }
    let (head, mut body) = answer.await?.into_parts();
    while let Some(data) = body.data().await {
        body.flow_control().release_capacity(data?.len())?;
    }
    let owner = head.headers.get(OWNER_HEADER).and_then(|owner| owner.to_str().ok()?.parse().ok());
    let answer = Answer { status: head.status.as_u16(), owner, keep: true };
    let bytes_in = open.counts.read.swap(0, Ordering::Relaxed);
    let bytes_out = open.counts.written.swap(0, Ordering::Relaxed);
    Ok((open, Exchanged { answer, bytes_in, bytes_out }))
}

impl Shared {
    async fn open(&self, connector: &Connector) -> Result<Open, Failure> {
        let mut slot = self.0.lock().await;
        let (made, open) = &mut *slot;
        if let Some(open) = open {
            return Ok(open.clone());
        }
        let counts = Arc::<Counts>::default();
        let stream = Counted { stream: connector.connect().await?, counts: Arc::clone(&counts) };
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(STREAM_WINDOW).initial_connection_window_size(CONNECTION_WINDOW).enable_push(false);
        let (send, connection) = builder.handshake(stream).await.map_err(Failure::broken)?;
        // It ends with the last handle, or when it breaks, which whoever uses it then learns.
        tokio::spawn(async move { drop(connection.await) });
        *made += 1;
        Ok(open.insert(Open { send, counts, number: *made }).clone())
    }

    /// Gives the connection up, if it is still that one.
    async fn forget(&self, number: u64) {
        self.0.lock().await.1.take_if(|open| open.number == number);
    }
}

/// A connection whose bytes are counted.
struct Counted {
    stream: Stream,
    counts: Arc<Counts>,
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = to.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, to))?;
        self.counts.read.fetch_add((to.filled().len() - before) as u64, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, from))?;
        self.counts.written.fetch_add(written as u64, Ordering::Relaxed);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, from: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(context, from))?;
        self.counts.written.fetch_add(written as u64, Ordering::Relaxed);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
