//! Reading heads: each within its time, checked before anybody sees it.

use std::{
    future::poll_fn,
    io,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use tokio::time::Instant;
use waypost_policy::{
    Code,
    framing::{MAX_HEAD_BYTES, end_of_head},
};

use super::{Body, Coming, Downstream, HTTP2_PREFACE, Handed, NoHead, limited};
use crate::transport::framing::check_plain_head;

/// How long a connection is waited for as if it were to bring its next request at once.
pub(in crate::transport) const QUIET: Duration = Duration::from_secs(2);

impl Downstream {
    /// Whether the client speaks HTTP/2 by prior knowledge: it begins with a preface that is no request of HTTP/1 (RFC 9113, section 3.4).
    /// Waits no longer than it must to tell; what was read stays. May be dropped and called again. Where that `may_rest`, no byte for a while is told.
    pub(in crate::transport) async fn begins_http2(&mut self, idle: Duration, header: Duration, may_rest: bool) -> Result<bool, NoHead> {
        if self.buffer.is_empty() {
            let (limit, late) = self.first_byte_limit(idle, may_rest);
            match limited(limit, self.fill()).await {
                Some(Ok(true)) => {}
                Some(_) => return Err(NoHead::Gone),
                None => return Err(late),
            }
        }
        let rest = async {
            while self.buffer.len() < HTTP2_PREFACE.len() && HTTP2_PREFACE.starts_with(&self.buffer) {
                if !matches!(self.fill().await, Ok(true)) {
                    break;
                }
            }
        };
        limited(header, rest).await.ok_or(NoHead::Answer(Code::ClientTimeout))?;
        Ok(self.buffer.starts_with(HTTP2_PREFACE))
    }

    /// Reads and checks the next head; may be dropped and called again. `idle` limits the wait for its first byte, `header` the time from there to
    /// its end. Where that `may_rest`, no byte for a while is told.
    pub(crate) async fn read_head(&mut self, idle: Duration, header: Duration, may_rest: bool) -> Result<(), NoHead> {
        self.request.bytes = None;
        self.end_session();
        let first = self.first_byte_limit(idle, may_rest);
        let read = poll_fn(|context| self.poll_head(context, first, header)).await;
        self.coming = Coming::default();
        read
    }

    /// How long a first byte is waited for, and what it means if none comes.
    fn first_byte_limit(&self, idle: Duration, may_rest: bool) -> (Duration, NoHead) {
        let rests = may_rest && self.is_written() && (idle.is_zero() || idle > QUIET);
        if rests { (QUIET, NoHead::Quiet) } else { (idle, NoHead::Gone) }
    }

    fn poll_head(&mut self, context: &mut Context<'_>, first: (Duration, NoHead), header: Duration) -> Poll<Result<(), NoHead>> {
        loop {
            if self.has_begun() && self.find_head()? {
                return Poll::Ready(Ok(()));
            }
            let has_begun = self.has_begun();
            if self.closed {
                return Poll::Ready(Err(if has_begun { NoHead::Answer(Code::BadRequest) } else { NoHead::Gone }));
            }
            match self.poll_fill(context, 0) {
                Poll::Ready(Ok(_)) if has_begun || !self.has_begun() => {}
                // Its first byte.
                Poll::Ready(Ok(_)) => self.coming.since = None,
                Poll::Ready(Err(_)) => return Poll::Ready(Err(NoHead::Gone)),
                Poll::Pending => {
                    let (limit, late) = if has_begun { (header, NoHead::Answer(Code::ClientTimeout)) } else { first };
                    let since = *self.coming.since.get_or_insert_with(Instant::now);
                    if !limit.is_zero() {
                        ready!(self.alarm.poll(context, since + limit));
                        return Poll::Ready(Err(late));
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    /// Looks for a whole head in what has come.
    fn find_head(&mut self) -> Result<bool, NoHead> {
        // A client may send an empty line before a request (RFC 9112, section 2.2).
        while self.buffer.starts_with(b"\r\n") {
            self.buffer.advance(2);
            self.coming.searched = 0;
        }
        if let Some(len) = end_of_head(&self.buffer, self.coming.searched) {
            let (checked, plain) = check_plain_head(&self.buffer[..len]).map_err(NoHead::Answer)?;
            self.head_left = checked.len;
            self.closes = checked.closes;
            self.body = Body::framed_by(checked.framing);
            self.request = Handed { head_len: checked.len, framing: checked.framing, bytes: Some(BytesMut::new()) };
            self.plain = plain;
            self.answered = false;
            return Ok(true);
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
        self.coming.searched = self.buffer.len();
        Ok(false)
    }

    /// Reads once from the socket; false at its end.
    async fn fill(&mut self) -> io::Result<bool> {
        poll_fn(|context| self.poll_fill(context, 0)).await.map(|read| read > 0)
    }
}
