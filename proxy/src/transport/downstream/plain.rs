//! The connection as a lane of ours has it: the request whose head was read last stands at the buffer's start, and nothing of it is handed over.

use std::{io, pin::Pin, time::Duration};

use bytes::{Buf, BytesMut};
use tokio::{io::AsyncWriteExt, time::Instant};
use waypost_policy::framing::{Framing, Plain};

use super::{Accepted, Body, Downstream, LINGER_LIMIT, limited, linger};

/// How long at least an answer that says that the time is over may take.
const LAST_WORD: Duration = Duration::from_secs(1);

impl Downstream {
    /// The head of the present request, before anything of it has been handed over.
    pub(in crate::transport) fn head(&self) -> &[u8] {
        &self.buffer[..self.request.head_len]
    }

    /// Its places, once, if it is plain.
    pub(in crate::transport) fn take_plain(&mut self) -> Option<Plain> {
        self.plain.take()
    }

    /// How the present request's body is framed.
    pub(in crate::transport) fn framing(&self) -> Framing {
        self.request.framing
    }

    /// The connection itself, which nothing is gathered for.
    pub(in crate::transport) fn accepted(&mut self) -> io::Result<Pin<&mut Accepted>> {
        self.socket.as_mut().map(|socket| Pin::new(socket.get_mut())).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Whether whoever polls it hears that the client has gone.
    pub(in crate::transport) fn is_watched(&self) -> bool {
        self.socket.as_ref().is_none_or(|socket| socket.get_ref().is_watched())
    }

    /// Has it watched from now on.
    ///
    /// # Errors
    /// If the system watches no more; it is of no use then.
    pub(in crate::transport) fn watch(&mut self) -> io::Result<()> {
        self.socket.as_mut().map_or(Ok(()), |socket| socket.get_mut().watch())
    }

    /// Writes an answer of the proxy's own to the present request; false if the client did not take it in time.
    pub(in crate::transport) async fn write_own(&mut self, answer: &[u8], reading: Duration, ends_at: Option<Instant>) -> bool {
        self.answered = true;
        let writing = limited(reading, async {
            self.write_all(answer).await?;
            self.flush().await
        });
        match ends_at {
            Some(at) => tokio::time::timeout_at(at.max(Instant::now() + LAST_WORD), writing).await.unwrap_or(None),
            None => writing.await,
        }
        .is_some_and(|written| written.is_ok())
    }

    /// The present request is over, on whose behalf nothing was handed over: it ends there in the buffer, as far as it has come.
    pub(in crate::transport) fn end_request(&mut self, end: usize, has_come: bool) {
        self.buffer.advance(end.min(self.buffer.len()));
        if self.buffer.is_empty() {
            // A connection that waits for its next request holds nothing of the last.
            self.buffer = BytesMut::new();
        }
        self.head_left = 0;
        self.body = Body::Length(u64::from(!has_come));
    }

    /// Ends the connection.
    pub(in crate::transport) async fn end(mut self) {
        let Some(mut socket) = self.socket.take() else { return };
        if self.answered && !self.is_read() {
            return linger(socket).await;
        }
        match socket.get_mut() {
            Accepted::Plain(plain) => {
                if plain.end() && self.answered {
                    linger(socket).await;
                }
            }
            Accepted::Secure(_) => {
                // Says that nothing was cut off. A client that can't be told has gone.
                let _ = tokio::time::timeout(LINGER_LIMIT, socket.shutdown()).await;
            }
        }
    }
}
