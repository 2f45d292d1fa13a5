//! One stream of a client's HTTP/2 connection, as the general transport's session.
//!
//! pingora's own has no deadlines, and its request can't be handed over once more. So its sessions over HTTP/2 are this one: it waits by the
//! [`Deadline`] that the hooks set, keeps what a repeat needs, and can leave the stream to another session of the same request. What
//! always holds: an answer that is not whole never ends as if it were: a call of gRPC ends with a status, anything else with a reset.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use h2::{Reason, RecvStream, SendStream, server::SendResponse};
use http::{HeaderMap, HeaderName, Response, StatusCode, header};
use pingora_core::{
    Error, ErrorType, Result,
    protocols::{
        Digest,
        http::{
            HttpTask,
            custom::{CustomMessageWrite, server::Session},
        },
        l4::socket::SocketAddr,
    },
};
use pingora_http::{RequestHeader, ResponseHeader};

use super::{
    super::{
        answer::REASON,
        connection::Handed,
        deadline::{Deadline, Left, Phase},
        general::REPLAY_BYTES,
        grpc,
        headers::has_no_body,
        timing::Timing,
    },
    conduct::Conduct,
};

/// Fields of an answer that are of a connection, and that HTTP/2 does not have (RFC 9113, section 8.2.2).
const OF_CONNECTION: [HeaderName; 5] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// So many interim answers a request's client is given.
const MOST_INTERIM: usize = 32;
/// A request that is cancelled later than that was meant.
pub(super) const PATIENCE: Duration = Duration::from_millis(50);

/// What a lane gets beside the request; taken once, by its first hook.
pub(in crate::transport) type HandedOver = Arc<Mutex<Option<Handed>>>;

/// A request and its stream.
pub(super) struct Http2Session {
    head: RequestHeader,
    /// `None` only while it is dropped.
    stream: Option<ClientStream>,
    conduct: Arc<Conduct>,
    /// The end of the body has been read.
    is_read: bool,
    /// What an earlier session has read of the body, and this one has not handed over yet.
    again: Bytes,
    /// What has been read of the body, while that is little enough for a repeat.
    kept: BytesMut,
    is_kept: bool,
    body_read: usize,
    body_sent: usize,
    writer: Option<SendStream<Bytes>>,
    /// The head of the answer, also one that is written nowhere.
    written: Option<Box<ResponseHeader>>,
    /// All of the answer has been written.
    is_ended: bool,
    timing: Timing,
    began: Instant,
}

/// The client's side.
pub(super) struct ClientStream {
    pub(super) body: RecvStream,
    pub(super) respond: SendResponse<Bytes>,
    pub(super) conduct: Arc<Conduct>,
    /// How many interim answers it was given.
    informed: usize,
}

impl ClientStream {
    pub(super) fn new(body: RecvStream, respond: SendResponse<Bytes>, conduct: Arc<Conduct>) -> Self {
        Self { body, respond, conduct, informed: 0 }
    }

    /// Gives it an interim answer. Nothing depends on one, and they are kept for a client that does not read: so there are no more than some.
    pub(super) fn inform(&mut self, interim: Response<()>) {
        if self.informed < MOST_INTERIM {
            self.informed += 1;
            let _ = self.respond.send_informational(interim);
        }
    }
}

/// What a session that is to be followed by another for the same request has left of it.
pub(in crate::transport) struct Unanswered {
    pub(super) head: RequestHeader,
    pub(super) stream: ClientStream,
    /// What has been read of the body.
    pub(super) body: Bytes,
    /// The end of the body has been read.
    pub(super) is_read: bool,
}

impl Http2Session {
    /// The request as it came, or as its last session has left it.
    pub(super) fn of(left: Unanswered, handed: Handed) -> Self {
        let Unanswered { head, stream, body, is_read } = left;
        let deadline = Arc::clone(&handed.deadline);
        let mut parts = head.as_owned_parts();
        parts.extensions.insert::<HandedOver>(Arc::new(Mutex::new(Some(handed))));
        Self {
            head: parts.into(),
            conduct: Arc::clone(&stream.conduct),
            stream: Some(stream),
            is_read,
            again: body,
            kept: BytesMut::new(),
            is_kept: true,
            body_read: 0,
            body_sent: 0,
            writer: None,
            written: None,
            is_ended: false,
            timing: Timing::new(deadline),
            began: Instant::now(),
        }
    }

    fn deadline(&self) -> &Deadline {
        self.timing.deadline()
    }

    fn is_all_read(&self) -> bool {
        self.again.is_empty() && (self.is_read || self.stream.as_ref().is_none_or(|stream| stream.body.is_end_stream()))
    }

    /// Ready when the request may not be served any more.
    fn poll_ended(&self, context: &mut Context<'_>) -> Poll<io::Error> {
        ready!(self.deadline().ending().poll(context));
        self.deadline().fire(Phase::Lost);
        Poll::Ready(io::Error::new(io::ErrorKind::ConnectionAborted, "it may not be served here any more"))
    }

    /// The next part of the body; or, behind its end, the client's going away.
    fn poll_client(&mut self, context: &mut Context<'_>, only_gone: bool) -> Poll<io::Result<Option<Bytes>>> {
        self.deadline().look_at_client();
        if let Poll::Ready(over) = self.poll_ended(context) {
            return Poll::Ready(Err(over));
        }
        let read = if only_gone || self.is_all_read() { self.poll_gone(context).map(Err) } else { self.poll_body(context) };
        if read.is_pending()
            && let Poll::Ready(late) = self.timing.poll_late(context)
        {
            return Poll::Ready(Err(late));
        }
        read
    }

    fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        let reset = match (&mut self.writer, &mut self.stream) {
            (Some(writer), _) => ready!(writer.poll_reset(context)),
            (None, Some(stream)) => ready!(stream.respond.poll_reset(context)),
            (None, None) => return Poll::Ready(io::ErrorKind::NotConnected.into()),
        };
        if self.writer.is_none() {
            self.note_cancelled();
        }
        let why = reset.map_or_else(|error| error.to_string(), |reason| reason.to_string());
        Poll::Ready(io::Error::new(io::ErrorKind::ConnectionReset, why))
    }

    fn poll_body(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        ready!(self.timing.poll_released(context));
        if !self.again.is_empty() {
            let part = std::mem::take(&mut self.again);
            self.note_part(&part);
            return Poll::Ready(Ok(Some(part)));
        }
        let Some(stream) = &mut self.stream else { return Poll::Ready(Err(io::ErrorKind::NotConnected.into())) };
        let part = loop {
            match ready!(stream.body.poll_data(context)) {
                // To an owner of HTTP/1.1 an empty part would be written as a last chunk, with the real one behind it.
                Some(Ok(part)) if part.is_empty() => {}
                Some(Ok(part)) => break part,
                Some(Err(error)) => {
                    self.note_cancelled();
                    return Poll::Ready(Err(io::Error::other(error)));
                }
                None => {
                    self.is_read = true;
                    return Poll::Ready(Ok(None));
                }
            }
        };
        // Nothing is read before it can go on, so what has been read makes room for as much. If that fails, so does the next read.
        let _ = stream.body.flow_control().release_capacity(part.len());
        self.note_part(&part);
        Poll::Ready(Ok(Some(part)))
    }

    /// The client has cancelled what has not been answered. Who has waited for a while may lose patience.
    fn note_cancelled(&self) {
        if self.began.elapsed() < PATIENCE {
            self.conduct.cancelled();
        }
    }

    fn note_part(&mut self, part: &Bytes) {
        self.deadline().hand_to_owner();
        self.body_read += part.len();
        if self.is_kept && self.kept.len() + part.len() <= REPLAY_BYTES {
            self.kept.extend_from_slice(part);
        } else {
            self.is_kept = false;
            self.kept = BytesMut::new();
            self.deadline().forget_request();
        }
    }

    /// Writes as much of the data as the client has room for.
    fn poll_write(&mut self, context: &mut Context<'_>, data: &mut Bytes, end: bool) -> Poll<io::Result<()>> {
        let Some(writer) = &mut self.writer else { return Poll::Ready(Err(io::ErrorKind::NotConnected.into())) };
        if data.is_empty() {
            return Poll::Ready(writer.send_data(Bytes::new(), end).map_err(io::Error::other));
        }
        writer.reserve_capacity(data.len());
        let room = match writer.poll_capacity(context) {
            Poll::Ready(Some(Ok(room))) => Poll::Ready(Ok(room)),
            Poll::Ready(Some(Err(error))) => Poll::Ready(Err(io::Error::other(error))),
            Poll::Ready(None) => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            Poll::Pending => Poll::Pending,
        };
        // A stream whose client does not read on ends like any other.
        if room.is_pending()
            && let Poll::Ready(over) = self.poll_ended(context)
        {
            return Poll::Ready(Err(over));
        }
        let room = ready!(self.timing.written(context, room))?;
        self.deadline().look_at_client();
        let part = data.split_to(room.min(data.len()));
        let (bytes, is_last) = (part.len(), end && data.is_empty());
        let Some(writer) = &mut self.writer else { return Poll::Ready(Ok(())) };
        let sent = writer.send_data(part, is_last).map_err(io::Error::other);
        self.body_sent += bytes;
        self.conduct.useful(bytes);
        Poll::Ready(sent)
    }

    fn send_head(&mut self, mut head: Box<ResponseHeader>, end: bool) -> Result<()> {
        if self.deadline().discards_answer() {
            self.written = Some(head);
            return Ok(());
        }
        if head.status.is_informational() {
            self.send_interim(&head);
            return Ok(());
        }
        if self.written.is_some() {
            return Ok(());
        }
        for name in OF_CONNECTION {
            head.remove_header(&name);
        }
        // For the proxy's own answers pingora has no word of their end; to a call they are a head.
        let end = end || (head.headers.contains_key(REASON) && grpc::is_ended(&head.headers)) || has_no_body(&head, &self.head.method);
        let response = Response::from_parts(head.as_owned_parts(), ());
        let Some(stream) = &mut self.stream else { return Ok(()) };
        self.writer = Some(stream.respond.send_response(response, end).map_err(|error| lost(io::Error::other(error)))?);
        self.conduct.useful(size_of_head(&head.headers));
        self.written = Some(head);
        self.is_ended = end;
        Ok(())
    }

    /// An interim answer, if the client can do something with it.
    fn send_interim(&mut self, head: &ResponseHeader) {
        let is_wanted = head.status != StatusCode::CONTINUE || self.head.headers.contains_key(header::EXPECT);
        if let Some(stream) = self.stream.as_mut().filter(|_| is_wanted && self.written.is_none()) {
            stream.inform(Response::from_parts(head.as_owned_parts(), ()));
        }
    }

    async fn send_body(&mut self, mut data: Bytes, end: bool) -> Result<()> {
        if self.deadline().discards_answer() || self.is_ended || (data.is_empty() && !end) {
            return Ok(());
        }
        loop {
            std::future::poll_fn(|context| self.poll_write(context, &mut data, end)).await.map_err(lost)?;
            if data.is_empty() {
                self.is_ended = end;
                return Ok(());
            }
        }
    }

    fn send_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        if let Some(writer) = self.writer.as_mut().filter(|_| !self.is_ended) {
            self.is_ended = true;
            writer.send_trailers(trailers).map_err(|error| lost(io::Error::other(error)))?;
        }
        Ok(())
    }

    /// Ends an answer that is not whole.
    fn cut_short(&mut self) {
        let is_late = self.deadline().fired() == Some(Phase::Total);
        let is_call = self.written.as_ref().is_some_and(|head| grpc::is_call(&head.headers));
        if let Some(writer) = self.writer.as_mut().filter(|_| !self.is_ended) {
            // Whatever becomes of it, the stream ends.
            if !is_call || writer.send_trailers(grpc::cut_short(is_late)).is_err() {
                writer.send_reset(Reason::INTERNAL_ERROR);
            }
            self.is_ended = true;
        }
    }
}

impl Drop for Http2Session {
    fn drop(&mut self) {
        if !self.deadline().discards_answer() {
            return self.cut_short();
        }
        if self.deadline().is_given_up() {
            // Nothing, where no answer has begun.
            self.cut_short();
        }
        let Some(stream) = self.stream.take() else { return };
        // An answer is discarded only while all of the body is kept, or where nobody asks for it any more.
        let body = if self.again.is_empty() { std::mem::take(&mut self.kept).freeze() } else { std::mem::take(&mut self.again) };
        let head = std::mem::replace(&mut self.head, nothing());
        self.deadline().leave(Left::Stream(Box::new(Unanswered { head, stream, body, is_read: self.is_read })));
    }
}

/// In place of a head that has been left to another session.
fn nothing() -> RequestHeader {
    http::Request::new(()).into_parts().0.into()
}

/// Takes from a request what was handed over beside it.
pub(in crate::transport) fn take_handed(head: &RequestHeader) -> Option<Handed> {
    let handed = head.extensions.get::<HandedOver>()?;
    // A poisoned lock guards plain data that is valid after any panic.
    handed.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// What a head counts for: its names and values, and what RFC 9113, section 6.5.2, adds for each.
pub(super) fn size_of_head(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum()
}

fn lost(error: io::Error) -> Box<Error> {
    Error::because(ErrorType::WriteError, "to the client's stream", error).into_down()
}

#[async_trait]
impl Session for Http2Session {
    fn req_header(&self) -> &RequestHeader {
        &self.head
    }

    fn req_header_mut(&mut self) -> &mut RequestHeader {
        &mut self.head
    }

    async fn read_body_bytes(&mut self) -> Result<Option<Bytes>> {
        self.read_body_or_idle(false).await
    }

    /// What is left of a body is not waited for: the stream ends without it, and the connection goes on.
    async fn drain_request_body(&mut self) -> Result<()> {
        Ok(())
    }

    async fn write_response_header(&mut self, head: Box<ResponseHeader>, end: bool) -> Result<()> {
        self.send_head(head, end)
    }

    async fn write_response_header_ref(&mut self, head: &ResponseHeader, end: bool) -> Result<()> {
        self.send_head(Box::new(head.clone()), end)
    }

    async fn write_body(&mut self, data: Bytes, end: bool) -> Result<()> {
        self.send_body(data, end).await
    }

    async fn write_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        if self.deadline().discards_answer() { Ok(()) } else { self.send_trailers(trailers) }
    }

    async fn response_duplex_vec(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        let mut is_end = false;
        for task in tasks {
            match task {
                HttpTask::Header(head, end) => {
                    self.send_head(head, end)?;
                    is_end |= end;
                }
                HttpTask::Body(data, end) => {
                    self.send_body(data.unwrap_or_default(), end).await?;
                    is_end |= end;
                }
                HttpTask::Trailer(trailers) => {
                    if let Some(trailers) = trailers {
                        self.write_trailers(*trailers).await?;
                    }
                    is_end = true;
                }
                HttpTask::Done => is_end = true,
                HttpTask::UpgradedBody(..) => return Error::e_explain(ErrorType::InternalError, "nothing was to be upgraded"),
                HttpTask::Failed(error) => return Err(error),
            }
        }
        if is_end {
            self.finish().await?;
        }
        Ok(is_end)
    }

    // The hooks' deadline has its own time-outs.
    fn set_read_timeout(&mut self, _: Option<Duration>) {}

    fn get_read_timeout(&self) -> Option<Duration> {
        None
    }

    fn set_write_timeout(&mut self, _: Option<Duration>) {}

    fn get_write_timeout(&self) -> Option<Duration> {
        None
    }

    fn set_total_drain_timeout(&mut self, _: Option<Duration>) {}

    fn get_total_drain_timeout(&self) -> Option<Duration> {
        None
    }

    fn request_summary(&self) -> String {
        format!("{} {}", self.head.method, self.head.uri)
    }

    fn response_written(&self) -> Option<&ResponseHeader> {
        self.written.as_deref()
    }

    async fn shutdown(&mut self, _: u32, _: &str) {
        self.cut_short();
    }

    fn is_body_done(&mut self) -> bool {
        self.is_all_read()
    }

    async fn finish(&mut self) -> Result<()> {
        if self.writer.is_none() { Ok(()) } else { self.send_body(Bytes::new(), true).await }
    }

    fn is_body_empty(&mut self) -> bool {
        self.body_read == 0 && self.is_all_read()
    }

    async fn read_body_or_idle(&mut self, no_body_expected: bool) -> Result<Option<Bytes>> {
        let read = std::future::poll_fn(|context| self.poll_client(context, no_body_expected)).await;
        read.map_err(|error| Error::because(ErrorType::ReadError, "from the client's stream", error).into_down())
    }

    fn body_bytes_sent(&self) -> usize {
        self.body_sent
    }

    fn body_bytes_read(&self) -> usize {
        self.body_read
    }

    fn digest(&self) -> Option<&Digest> {
        None
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        None
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        None
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        None
    }

    fn pseudo_raw_h1_request_header(&self) -> Bytes {
        Bytes::new()
    }

    // Kept from the start.
    fn enable_retry_buffering(&mut self) {}

    fn retry_buffer_truncated(&self) -> bool {
        !self.is_kept
    }

    fn get_retry_buffer(&self) -> Option<Bytes> {
        (self.is_kept && !self.kept.is_empty()).then(|| Bytes::copy_from_slice(&self.kept))
    }

    async fn finish_custom(&mut self) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_reader(&mut self) -> Option<Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>> {
        None
    }

    fn restore_custom_message_reader(&mut self, _: Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        None
    }

    fn restore_custom_message_writer(&mut self, _: Box<dyn CustomMessageWrite>) -> Result<()> {
        Ok(())
    }
}
