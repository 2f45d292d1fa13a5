//! The client's side of a request on this lane, by whichever protocol the client speaks.
//!
//! What differs between the two is here and nowhere else: where the bytes of a request come from, and how an answer is said. What always holds: the request's
//! head stands at the buffer's start as HTTP/1.1 has it, what has come of its body behind it; an answer's head is said once, and its end when its body has ended.

use std::{
    future::{Future, poll_fn},
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use http::Version;
use tokio::{io::AsyncWrite, time::Instant};
use waypost_policy::{
    Code,
    framing::{Framing, Plain},
};

use super::{
    answer::Answer,
    upload::{LAST_CHUNK, write_chunk},
};
use crate::transport::{alarm::Alarm, answer as own, downstream::Downstream};

/// An answer of the proxy's own.
pub(in crate::transport) struct Own<'a> {
    pub(in crate::transport) code: Code,
    pub(in crate::transport) request_id: &'a str,
    pub(in crate::transport) location: Option<&'a [u8]>,
    pub(in crate::transport) body: &'a [u8],
    /// The connection goes on behind it.
    pub(in crate::transport) keeps: bool,
    pub(in crate::transport) is_head: bool,
}

/// What follows what is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::transport) enum Last {
    /// More of the answer.
    Part,
    /// Nothing more of the answer.
    OfAnswer,
    /// Nothing more at all: the connection ends.
    OfConnection,
}

/// The client, for one request.
pub(in crate::transport) trait Client: Send {
    /// By which version its requests come.
    const VERSION: Version;
    /// Requests follow one another, so that the rest of a body has to be read before the next.
    const IS_IN_TURN: bool;

    /// The request's head.
    fn head(&self) -> &[u8];

    /// Its places, once, if it is plain.
    fn take_plain(&mut self) -> Option<Plain>;

    /// How its body goes on to an owner. Where requests are not in turn a body in chunks comes without their framing, and ends with what it comes by.
    fn framing(&self) -> Framing;

    /// The head, and what has come behind it and is not used up.
    fn buffer(&self) -> &BytesMut;

    fn buffer_mut(&mut self) -> &mut BytesMut;

    /// Nothing more comes, and nobody can tell whether the client is there.
    fn is_closed(&self) -> bool;

    /// Reads what there is, up to about `room` bytes; `Ready(0)` at the end. Behind the body only an error is told.
    fn poll_fill(&mut self, context: &mut Context<'_>, room: usize) -> Poll<io::Result<usize>>;

    /// Whether whoever polls it hears that the client has gone.
    fn is_watched(&self) -> bool;

    /// Has it watched from now on.
    ///
    /// # Errors
    /// If the system watches no more; it is of no use then.
    fn watch(&mut self) -> io::Result<()>;

    /// For the waits of one request after the other.
    fn alarm(&mut self) -> &mut Alarm;

    /// Another owner is asked: of what an owner before it had begun to say nothing is left.
    fn begin_attempt(&mut self) {}

    /// An interim answer is to be said; what goes by the same way as bodies is written to `out`.
    fn interim(&mut self, answer: &Answer<'_>, request_id: &str, out: &mut Vec<u8>);

    /// The answer's head is to be said, before anything of its body; false if it can't be. `is_endless`: nothing in it says where its body ends.
    fn begin_answer(&mut self, answer: &Answer<'_>, request_id: &str, keeps: bool, is_endless: bool, out: &mut Vec<u8>) -> bool;

    /// Writes a part of a body whose length was not said.
    fn put_part(data: &[u8], out: &mut Vec<u8>);

    /// Writes the end of such a body.
    fn put_end(out: &mut Vec<u8>);

    /// Whether something is still to be said beside bytes: the head, or that the body has ended if it has.
    fn has_more_to_say(&self, has_ended: bool) -> bool;

    /// Says what is to be said and writes `out` and then the first `direct` bytes of `from`, or as much of them as is taken; takes from `from` what was written of it.
    fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        out: &[u8],
        from: &mut BytesMut,
        direct: usize,
        last: Last,
    ) -> Poll<io::Result<usize>>;

    /// Whether what was written is on its way.
    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Answers in the proxy's own name; false if the client did not take it in time.
    fn answer(&mut self, own: Own<'_>, reading: Duration, ends_at: Option<Instant>) -> impl Future<Output = bool> + Send;

    /// The request is over: it ends there in the buffer, as far as it has come.
    fn end_request(&mut self, end: usize, has_come: bool);
}

/// Reads once, up to about so much; false if nothing more comes.
pub(super) async fn fill_more<C: Client>(client: &mut C, room: usize) -> bool {
    !client.is_closed() && poll_fn(|context| client.poll_fill(context, room)).await.is_ok_and(|read| read > 0)
}

impl Client for Box<Downstream> {
    const VERSION: Version = Version::HTTP_11;
    const IS_IN_TURN: bool = true;

    fn head(&self) -> &[u8] {
        Downstream::head(self)
    }

    fn take_plain(&mut self) -> Option<Plain> {
        Downstream::take_plain(self)
    }

    fn framing(&self) -> Framing {
        Downstream::framing(self)
    }

    fn buffer(&self) -> &BytesMut {
        &self.buffer
    }

    fn buffer_mut(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    fn is_closed(&self) -> bool {
        self.closed
    }

    fn poll_fill(&mut self, context: &mut Context<'_>, room: usize) -> Poll<io::Result<usize>> {
        Downstream::poll_fill(self, context, room)
    }

    fn is_watched(&self) -> bool {
        Downstream::is_watched(self)
    }

    fn watch(&mut self) -> io::Result<()> {
        Downstream::watch(self)
    }

    fn alarm(&mut self) -> &mut Alarm {
        &mut self.alarm
    }

    fn interim(&mut self, answer: &Answer<'_>, request_id: &str, out: &mut Vec<u8>) {
        answer.write_head(request_id, true, false, out);
    }

    fn begin_answer(&mut self, answer: &Answer<'_>, request_id: &str, keeps: bool, is_endless: bool, out: &mut Vec<u8>) -> bool {
        answer.write_head(request_id, keeps, is_endless, out);
        true
    }

    fn put_part(data: &[u8], out: &mut Vec<u8>) {
        write_chunk(data, out);
    }

    fn put_end(out: &mut Vec<u8>) {
        out.extend_from_slice(LAST_CHUNK);
    }

    fn has_more_to_say(&self, _: bool) -> bool {
        false
    }

    fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        out: &[u8],
        from: &mut BytesMut,
        direct: usize,
        last: Last,
    ) -> Poll<io::Result<usize>> {
        let (mut client, body) = (self.accepted()?, &from[..direct]);
        let written = match (last, out, body) {
            (Last::Part | Last::OfAnswer, ..) => poll_write_both(client, context, out, body),
            (Last::OfConnection, only, []) | (Last::OfConnection, [], only) => client.poll_write_last(context, &[IoSlice::new(only)]),
            (Last::OfConnection, ..) => client.poll_write_last(context, &[IoSlice::new(out), IoSlice::new(body)]),
        };
        let written = ready!(written)?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.answered = true;
        from.advance(written.saturating_sub(out.len()));
        Poll::Ready(Ok(written))
    }

    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.accepted()?.poll_flush(context)
    }

    async fn answer(&mut self, own: Own<'_>, reading: Duration, ends_at: Option<Instant>) -> bool {
        let Own { code, request_id, location, body, keeps, is_head } = own;
        // What can't be written is nothing that anybody has asked for.
        let Ok(answer) = own::written(code, request_id, location, body, keeps, is_head) else { return false };
        self.write_own(&answer, reading, ends_at).await
    }

    fn end_request(&mut self, end: usize, has_come: bool) {
        Downstream::end_request(self, end, has_come);
    }
}

/// Writes one behind the other, or as much of them as is taken.
pub(super) fn poll_write_both<S: AsyncWrite>(
    stream: Pin<&mut S>,
    context: &mut Context<'_>,
    first: &[u8],
    then: &[u8],
) -> Poll<io::Result<usize>> {
    match (first, then) {
        (first, []) => stream.poll_write(context, first),
        ([], then) => stream.poll_write(context, then),
        (first, then) => stream.poll_write_vectored(context, &[IoSlice::new(first), IoSlice::new(then)]),
    }
}
