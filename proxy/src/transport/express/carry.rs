//! The bytes of one attempt: the request to the owner and the answer to the client, both at once, and how long either is waited for.
//!
//! One task polls both ways in turn; no channel, no copy of a long body that has a length, and one buffer each way, so that whoever reads slowly is
//! waited for by the other. What always holds: a wait that the policy limits ends, and it is known whom it was for.

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use tokio::{io::AsyncReadExt, net::TcpStream, time::Instant};
use waypost_policy::{Body, Code, framing::AnswerBody};

use super::{
    client::{Client, Last, poll_write_both},
    upload::Upload,
};
use crate::transport::{UNWATCHED, deadline::Phase, downstream::MAX_PIPELINED_BYTES, general::AFTER_ANSWER};

/// What is read of an owner at once, of a head and of a long body.
const HEAD_BYTES: usize = 16 << 10;
const BODY_BYTES: usize = 128 << 10;
/// A body up to so long is copied behind its head, which costs less than telling the system of two places.
const COPIED_BYTES: usize = 4 << 10;

/// A connection to an owner with one request.
pub(super) struct Owner {
    pub(super) stream: TcpStream,
    /// It has served a request before.
    pub(super) is_reused: bool,
    /// What has been read of it and not been used.
    pub(super) buffer: BytesMut,
}

/// How long is waited.
pub(super) struct Limits {
    /// For whoever sends or reads next; no limit if zero.
    pub(super) idle: Duration,
    /// For the owner to answer; no limit if zero.
    pub(super) first_byte: Duration,
    /// For all of the request.
    pub(super) ends_at: Option<Instant>,
}

/// What has come about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// More of the answer's head has been read.
    Read,
    /// The answer has been written whole. The request may not have come whole.
    Written,
}

/// Why it can't go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// The owner's connection, before its answer has ended.
    Owner,
    /// The owner takes no more of the body.
    Taking,
    /// The client has gone.
    Client,
    /// The request's body is broken or too large.
    Body(Code),
    /// The answer's framing.
    Answer,
    /// A wait was too long.
    Late(Phase),
}

/// How far the request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Written,
    WaitsForOwner,
    WaitsForClient,
    /// The owner takes nothing any more; it may still answer.
    Lost,
}

/// Both ways of one attempt.
pub(super) struct Carrier<'a, C> {
    pub(super) client: &'a mut C,
    pub(super) owner: Owner,
    pub(super) upload: &'a mut Upload,
    pub(super) limits: &'a Limits,
    /// To be written to the client: heads, and chunks.
    pub(super) out: &'a mut Vec<u8>,
    out_written: usize,
    /// Behind that, so much of what has been read of the owner.
    direct: usize,
    /// What is left of the answer's body; `None` before its head.
    answer: Option<AnswerBody>,
    /// The client's connection ends with the answer.
    is_last: bool,
    /// Bytes of the answer's body.
    pub(super) bytes_out: u64,
    /// When the request, and the answer, last went on.
    request_at: Instant,
    answer_at: Instant,
    /// Since when the client has not read on.
    unread_since: Option<Instant>,
    is_lost: bool,
    /// Something of the last answer has been written.
    pub(super) has_begun: bool,
}

impl<'a, C: Client> Carrier<'a, C> {
    /// Begins at this time.
    pub(super) fn new(
        client: &'a mut C,
        owner: Owner,
        upload: &'a mut Upload,
        out: &'a mut Vec<u8>,
        limits: &'a Limits,
        now: Instant,
    ) -> Self {
        Self {
            client,
            owner,
            upload,
            limits,
            out,
            out_written: 0,
            direct: 0,
            answer: None,
            is_last: false,
            bytes_out: 0,
            request_at: now,
            answer_at: now,
            unread_since: None,
            is_lost: false,
            has_begun: false,
        }
    }

    /// From this time on what comes is the answer's body, behind which the client's connection goes on or ends.
    pub(super) fn answer(&mut self, body: AnswerBody, keeps: bool, now: Instant) {
        self.answer = Some(body);
        self.is_last = !keeps;
        self.answer_at = now;
    }

    /// Whether the answer has come whole.
    pub(super) fn is_whole(&self) -> bool {
        self.answer.is_some_and(AnswerBody::is_done)
    }

    /// Whether all of the answer that has come has been written.
    pub(super) fn is_written(&self) -> bool {
        !self.has_unwritten() && self.unread_since.is_none()
    }

    fn has_unwritten(&self) -> bool {
        !self.out.is_empty() || self.direct > 0 || self.client.has_more_to_say(self.is_whole())
    }

    /// Whether the request has been written whole.
    pub(super) fn is_sent(&self) -> bool {
        let (lead, body) = self.upload.unwritten(self.client.buffer());
        !self.is_lost && self.upload.has_come() && lead.is_empty() && body.is_empty()
    }

    /// Whether a part of a head has been written to the client, and the rest has not.
    pub(super) fn is_within_head(&self) -> bool {
        self.out_written > 0
    }

    /// Carries on until something comes of it.
    pub(super) async fn next(&mut self) -> Result<Event, Broken> {
        poll_fn(|context| self.poll(context)).await
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<Event, Broken>> {
        let way = self.poll_request(context)?;
        if let Poll::Ready(event) = self.poll_answer(context, way)? {
            return Poll::Ready(Ok(event));
        }
        // Behind the body only the loss of the connection matters, and what the client pipelines is kept.
        if way == Way::Written && self.client.is_watched() {
            while !self.client.is_closed() && self.upload.behind(self.client.buffer()) < MAX_PIPELINED_BYTES {
                match self.client.poll_fill(context, 0) {
                    Poll::Ready(Ok(_)) => {}
                    Poll::Ready(Err(_)) => return Poll::Ready(Err(Broken::Client)),
                    Poll::Pending => break,
                }
            }
        }
        self.poll_late(context, way)
    }

    /// Writes what has come of the request, and reads on where all of it has been written.
    fn poll_request(&mut self, context: &mut Context<'_>) -> Result<Way, Broken> {
        if self.is_lost {
            return Ok(Way::Lost);
        }
        loop {
            let (lead, body) = self.upload.unwritten(self.client.buffer());
            if !(lead.is_empty() && body.is_empty()) {
                match poll_write_both(Pin::new(&mut self.owner.stream), context, lead, body) {
                    Poll::Pending => return Ok(Way::WaitsForOwner),
                    Poll::Ready(Ok(written)) if written > 0 => {
                        self.upload.written(written);
                        if self.upload.body() != Body::None {
                            self.request_at = Instant::now();
                        }
                        continue;
                    }
                    Poll::Ready(_) => {
                        self.is_lost = true;
                        return Ok(Way::Lost);
                    }
                }
            }
            if self.upload.has_come() {
                return Ok(Way::Written);
            }
            if self.upload.advance(self.client.buffer_mut()).map_err(Broken::Body)? {
                continue;
            }
            if self.client.is_closed() {
                return Err(Broken::Client);
            }
            match self.client.poll_fill(context, self.upload.room()) {
                Poll::Pending => return Ok(Way::WaitsForClient),
                Poll::Ready(Ok(read)) if read > 0 => self.request_at = Instant::now(),
                Poll::Ready(Ok(_)) if self.upload.ends() => {}
                Poll::Ready(_) => return Err(Broken::Client),
            }
        }
    }

    /// Writes what has come of the answer, and reads on where all of it has been written.
    fn poll_answer(&mut self, context: &mut Context<'_>, way: Way) -> Result<Poll<Event>, Broken> {
        loop {
            if self.poll_out(context)?.is_pending() {
                return Ok(Poll::Pending);
            }
            if self.is_whole() {
                // What the owner has not taken by now it does not need.
                return Ok(if way == Way::WaitsForClient { Poll::Pending } else { Poll::Ready(Event::Written) });
            }
            if self.answer.is_some() && !self.owner.buffer.is_empty() && self.frame()? {
                continue;
            }
            let room = match self.answer {
                Some(AnswerBody::Length(left)) if left <= HEAD_BYTES as u64 => HEAD_BYTES,
                Some(_) => BODY_BYTES,
                None => HEAD_BYTES,
            };
            if self.owner.buffer.capacity() - self.owner.buffer.len() < room / 2 {
                self.owner.buffer.reserve(room);
            }
            let read = pin!(self.owner.stream.read_buf(&mut self.owner.buffer));
            match read.poll(context) {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(Ok(0)) if self.answer == Some(AnswerBody::UntilClose) => {
                    C::put_end(self.out);
                    self.answer = Some(AnswerBody::Length(0));
                }
                Poll::Ready(Ok(read)) if read > 0 => match self.answer {
                    None => return Ok(Poll::Ready(Event::Read)),
                    Some(_) => self.answer_at = Instant::now(),
                },
                Poll::Ready(_) => return Err(Broken::Owner),
            }
        }
    }

    /// Prepares what has been read of the answer's body for the client; false if it is not enough to tell anything.
    fn frame(&mut self) -> Result<bool, Broken> {
        let Some(answer) = &mut self.answer else { return Ok(false) };
        if matches!(answer, AnswerBody::Length(_)) {
            let part = answer.part(&self.owner.buffer).map_err(|_| Broken::Answer)?;
            self.bytes_out += part.data.len() as u64;
            if part.data.len() <= COPIED_BYTES && !self.out.is_empty() {
                self.out.extend_from_slice(&self.owner.buffer[part.data]);
                self.owner.buffer.advance(part.taken);
            } else {
                self.direct = part.taken;
            }
            return Ok(true);
        }
        // What ends with its connection goes on in chunks, so that the client's goes on, and sees it if it is cut short.
        let mut has_taken = false;
        while !answer.is_done() && self.out.len() < BODY_BYTES {
            let part = match answer.part(&self.owner.buffer) {
                Ok(part) if part.taken > 0 => part,
                Err(_) if !has_taken => return Err(Broken::Answer),
                // What was sound before goes first.
                _ => break,
            };
            has_taken = true;
            self.bytes_out += part.data.len() as u64;
            C::put_part(&self.owner.buffer[part.data], self.out);
            self.owner.buffer.advance(part.taken);
            if answer.is_done() {
                C::put_end(self.out);
            }
        }
        Ok(has_taken)
    }

    /// Writes all that is prepared for the client.
    fn poll_out(&mut self, context: &mut Context<'_>) -> Result<Poll<()>, Broken> {
        // A body that came with its head leaves with it.
        if self.answer.is_some_and(|body| !body.is_done()) && self.direct == 0 && !self.owner.buffer.is_empty() && self.has_unwritten() {
            self.frame()?;
        }
        if self.is_written() {
            return Ok(Poll::Ready(()));
        }
        match self.poll_out_written(context) {
            Poll::Ready(Ok(())) => {
                self.unread_since = None;
                Ok(Poll::Ready(()))
            }
            Poll::Ready(Err(_)) => Err(Broken::Client),
            Poll::Pending => {
                self.unread_since.get_or_insert_with(Instant::now);
                Ok(Poll::Pending)
            }
        }
    }

    fn poll_out_written(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.has_unwritten() {
            let (is_whole, direct) = (self.is_whole(), self.direct);
            let last = match is_whole {
                false => Last::Part,
                true if self.is_last && self.upload.has_come() => Last::OfConnection,
                true => Last::OfAnswer,
            };
            let out = &self.out[self.out_written..];
            let written = ready!(self.client.poll_write(context, out, &mut self.owner.buffer, direct, last))?;
            self.has_begun |= self.answer.is_some();
            self.unread_since = None;
            let of_out = written.min(out.len());
            self.out_written += of_out;
            self.direct -= written - of_out;
            if self.out_written == self.out.len() {
                self.out.clear();
                self.out_written = 0;
            }
        }
        self.client.poll_flush(context)
    }

    /// Ready when somebody has been waited for too long.
    fn poll_late(&mut self, context: &mut Context<'_>, way: Way) -> Poll<Result<Event, Broken>> {
        let Limits { idle, first_byte, .. } = *self.limits;
        let (limit, since, broken) = match (self.unread_since, way, self.answer) {
            (Some(since), _, _) => (idle, since, Broken::Late(Phase::Client)),
            (None, Way::WaitsForOwner, _) => (idle, self.request_at, Broken::Taking),
            (None, Way::WaitsForClient, Some(answer)) if answer.is_done() => (AFTER_ANSWER, self.request_at, Broken::Client),
            (None, Way::WaitsForClient, _) => (idle, self.request_at.max(self.answer_at), Broken::Late(Phase::Client)),
            (None, Way::Written | Way::Lost, None) => (first_byte, self.request_at, Broken::Late(Phase::FirstByte)),
            (None, Way::Written | Way::Lost, Some(_)) => (idle, self.answer_at, Broken::Late(Phase::Idle)),
        };
        let of_wait = (!limit.is_zero()).then(|| (since + limit, broken));
        let of_request = self.limits.ends_at.map(|at| (at, Broken::Late(Phase::Total)));
        let due = of_wait.into_iter().chain(of_request).min_by_key(|(due, _)| *due);
        if way == Way::Written && !self.client.is_watched() {
            // Most answers come before it matters whether their client is still there.
            let at = self.request_at + UNWATCHED;
            if due.is_none_or(|(due, _)| at < due) {
                ready!(self.client.alarm().poll(context, at));
                self.client.watch().map_err(|_| Broken::Client)?;
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        let Some((due, broken)) = due else { return Poll::Pending };
        ready!(self.client.alarm().poll(context, due));
        // Of a request that has been answered whole the rest is of no use.
        Poll::Ready(if self.is_whole() && self.unread_since.is_none() { Ok(Event::Written) } else { Err(broken) })
    }
}
