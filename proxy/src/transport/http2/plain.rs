//! One stream of a client's HTTP/2 connection as the express lane has it: a request written down as HTTP/1.1 has it, and an answer in frames.
//!
//! What always holds: as much is read ahead of an owner, and kept of an answer ahead of its client, as a stream's windows allow and no more; an answer that is not
//! whole never ends as if it were.

use std::{
    cell::RefCell,
    io,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use h2::{Reason, SendStream};
use http::{Response, StatusCode, Version, request::Parts};
use tokio::time::Instant as Moment;
use waypost_policy::framing::{Framing, Plain};

use super::{
    super::{
        alarm::Alarm,
        answer,
        express::{Answer, Client, Last, Own},
    },
    admission::{self, Written},
    session::{ClientStream, PATIENCE, Unanswered, size_of_head},
};

/// So many alarms a thread keeps.
const SPARE_ALARMS: usize = 32;

thread_local! {
    /// Alarms between requests: one that is set already is set anew for less than another.
    static SPARE: RefCell<Vec<Alarm>> = const { RefCell::new(Vec::new()) };
}

/// The client of one request.
pub(super) struct PlainStream {
    /// As it came; for the general lane, if it goes there.
    parts: Parts,
    /// `None` only while it is dropped.
    stream: Option<ClientStream>,
    head_len: usize,
    framing: Framing,
    plain: Option<Plain>,
    /// The head as it is written, and what has come of the body behind it.
    buffer: BytesMut,
    /// The end of the body has been read.
    is_read: bool,
    /// The head of the answer, until it is sent with the first of its body.
    head: Option<Response<()>>,
    writer: Option<SendStream<Bytes>>,
    body_sent: usize,
    /// All of the answer has been written.
    is_ended: bool,
    alarm: Alarm,
    began: Instant,
}

impl PlainStream {
    pub(super) fn new(parts: Parts, written: Written, stream: ClientStream) -> Self {
        let Written { head, framing, plain, .. } = written;
        Self {
            parts,
            head_len: head.len(),
            framing,
            plain,
            is_read: stream.body.is_end_stream(),
            stream: Some(stream),
            buffer: head,
            head: None,
            writer: None,
            body_sent: 0,
            is_ended: false,
            alarm: SPARE.with_borrow_mut(Vec::pop).unwrap_or_default(),
            began: Instant::now(),
        }
    }

    /// The request as far as it has come, for the general lane.
    pub(super) fn into_unanswered(mut self: Box<Self>) -> Option<Unanswered> {
        let stream = self.stream.take()?;
        let body = self.buffer.split_off(self.head_len).freeze();
        let parts = std::mem::replace(&mut self.parts, http::Request::new(()).into_parts().0);
        Some(Unanswered { head: admission::into_head(parts).ok()?, stream, body, is_read: self.is_read })
    }

    /// The next part of the body; `None` behind its end.
    fn poll_part(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(Err(io::ErrorKind::NotConnected.into())) };
        match ready!(stream.body.poll_data(context)) {
            Some(Ok(part)) => {
                // Nothing is read before it can go on, so what has been read makes room for as much. If that fails, so does the next read.
                let _ = stream.body.flow_control().release_capacity(part.len());
                Poll::Ready(Ok(Some(part)))
            }
            Some(Err(error)) => Poll::Ready(Err(io::Error::other(error))),
            None => {
                self.is_read = true;
                Poll::Ready(Ok(None))
            }
        }
    }

    /// Ready when the client has gone.
    fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        let reset = match (&mut self.writer, &mut self.stream) {
            (Some(writer), _) => ready!(writer.poll_reset(context)),
            (None, Some(stream)) => ready!(stream.respond.poll_reset(context)),
            (None, None) => return Poll::Ready(io::ErrorKind::NotConnected.into()),
        };
        self.note_cancelled();
        let why = reset.map_or_else(|error| error.to_string(), |reason| reason.to_string());
        Poll::Ready(io::Error::new(io::ErrorKind::ConnectionReset, why))
    }

    /// The client has cancelled what has not been answered. Who has waited for a while may lose patience.
    fn note_cancelled(&self) {
        if let Some(stream) = self.stream.as_ref().filter(|_| self.writer.is_none() && self.began.elapsed() < PATIENCE) {
            stream.conduct.cancelled();
        }
    }

    fn send_head(&mut self, head: Response<()>, is_last: bool) -> io::Result<()> {
        let stream = self.stream.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let size = size_of_head(head.headers());
        self.writer = Some(stream.respond.send_response(head, is_last).map_err(io::Error::other)?);
        stream.conduct.useful(size);
        self.is_ended = is_last;
        Ok(())
    }

    /// How many bytes of so many the client has room for.
    fn poll_room(&mut self, context: &mut Context<'_>, wanted: usize) -> Poll<io::Result<usize>> {
        let writer = self.writer.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        writer.reserve_capacity(wanted);
        loop {
            let room = writer.capacity().min(wanted);
            if room > 0 {
                return Poll::Ready(Ok(room));
            }
            match ready!(writer.poll_capacity(context)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                None => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            }
        }
    }
}

impl Client for Box<PlainStream> {
    const VERSION: Version = Version::HTTP_2;
    const IS_IN_TURN: bool = false;

    fn head(&self) -> &[u8] {
        &self.buffer[..self.head_len]
    }

    fn take_plain(&mut self) -> Option<Plain> {
        self.plain.take()
    }

    fn framing(&self) -> Framing {
        self.framing
    }

    fn buffer(&self) -> &BytesMut {
        &self.buffer
    }

    fn buffer_mut(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Another way of telling whether it is there is looked at behind the body's end.
    fn is_closed(&self) -> bool {
        false
    }

    fn poll_fill(&mut self, context: &mut Context<'_>, room: usize) -> Poll<io::Result<usize>> {
        if self.is_read {
            return self.poll_gone(context).map(Err);
        }
        let mut filled = 0;
        while !self.is_read && filled <= room {
            match self.poll_part(context) {
                Poll::Ready(Ok(Some(part))) => {
                    filled += part.len();
                    self.buffer.extend_from_slice(&part);
                }
                Poll::Ready(Ok(None)) => {
                    // It is told by the next call.
                    self.is_read = filled == 0;
                    break;
                }
                Poll::Pending if filled == 0 => return Poll::Pending,
                Poll::Ready(Err(error)) if filled == 0 => {
                    self.note_cancelled();
                    return Poll::Ready(Err(error));
                }
                // It is told by the next call.
                Poll::Pending | Poll::Ready(Err(_)) => break,
            }
        }
        Poll::Ready(Ok(filled))
    }

    fn is_watched(&self) -> bool {
        true
    }

    fn watch(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn alarm(&mut self) -> &mut Alarm {
        &mut self.alarm
    }

    fn begin_attempt(&mut self) {
        self.head = None;
    }

    fn interim(&mut self, answer: &Answer<'_>, request_id: &str, _: &mut Vec<u8>) {
        // Nobody has asked to be told to go on: who does is the general lane's.
        let wanted = answer.as_response(request_id).filter(|interim| interim.status() != StatusCode::CONTINUE);
        if let (Some(interim), Some(stream)) = (wanted, &mut self.stream) {
            stream.inform(interim);
        }
    }

    fn begin_answer(&mut self, answer: &Answer<'_>, request_id: &str, _: bool, _: bool, _: &mut Vec<u8>) -> bool {
        self.head = answer.as_response(request_id);
        self.head.is_some()
    }

    fn put_part(data: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(data);
    }

    fn put_end(_: &mut Vec<u8>) {}

    fn has_more_to_say(&self, has_ended: bool) -> bool {
        self.head.is_some() || (has_ended && !self.is_ended)
    }

    fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        out: &[u8],
        from: &mut BytesMut,
        direct: usize,
        last: Last,
    ) -> Poll<io::Result<usize>> {
        let is_last = last != Last::Part;
        let wanted = out.len() + direct;
        if let Some(head) = self.head.take() {
            // What follows it may have to wait, and it has gone.
            self.send_head(head, is_last && wanted == 0)?;
            return Poll::Ready(Ok(0));
        }
        // A short answer waits for its client where the rest of the stream does, whether it has room or not.
        let is_short = is_last && self.body_sent == 0 && wanted <= COPIED_BYTES;
        let room = if is_short || wanted == 0 { wanted } else { ready!(self.poll_room(context, wanted))? };
        let data = if out.is_empty() { taken(from, room.min(direct)) } else { Bytes::copy_from_slice(&out[..room.min(out.len())]) };
        let (written, writer) = (data.len(), self.writer.as_mut().ok_or(io::ErrorKind::NotConnected)?);
        self.body_sent += written;
        self.is_ended = is_last && written == wanted;
        writer.send_data(data, self.is_ended).map_err(io::Error::other)?;
        if let Some(stream) = &self.stream {
            stream.conduct.useful(written);
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    async fn answer(&mut self, own: Own<'_>, _: Duration, _: Option<Moment>) -> bool {
        let Own { code, request_id, location, body, is_head, .. } = own;
        // Of an owner's answer nothing has gone, or the proxy would have none.
        self.head = None;
        let Ok(head) = answer::head(code, request_id, location, body.len()) else { return false };
        let is_all = is_head || body.is_empty();
        if self.send_head(Response::from_parts(head.as_owned_parts(), ()), is_all).is_err() {
            return false;
        }
        let Some(writer) = self.writer.as_mut().filter(|_| !is_all) else { return true };
        self.is_ended = writer.send_data(Bytes::copy_from_slice(body), true).is_ok();
        self.is_ended
    }

    fn end_request(&mut self, _: usize, _: bool) {}
}

impl Drop for PlainStream {
    fn drop(&mut self) {
        if let Some(writer) = self.writer.as_mut().filter(|_| !self.is_ended) {
            writer.send_reset(Reason::INTERNAL_ERROR);
        }
        let alarm = std::mem::take(&mut self.alarm);
        SPARE.with_borrow_mut(|spare| {
            if spare.len() < SPARE_ALARMS {
                spare.push(alarm);
            }
        });
    }
}

/// A body up to so long is copied, so that the buffer that it stands in is of use again.
const COPIED_BYTES: usize = 4 << 10;

/// Takes the first bytes.
fn taken(from: &mut BytesMut, bytes: usize) -> Bytes {
    if bytes <= COPIED_BYTES {
        let copy = Bytes::copy_from_slice(&from[..bytes]);
        bytes::Buf::advance(from, bytes);
        return copy;
    }
    from.split_to(bytes).freeze()
}
