//! The general transport: an `Exchange` carried out by `pingora-proxy`.
//!
//! Hooks call `step`, which never waits, and keep its answer in the context; all waiting is done in `upstream_peer`, which is called for
//! each attempt. A stale answer is turned into an error with retry in `upstream_response_filter`, before anything has gone to
//! the client; pingora then replays the buffered body. Where the refusal is short and the request has been sent whole, it is read to its end
//! instead, written nowhere, and the request goes on in another session: so the connection to the owner that refused is kept, which
//! pingora would drop. It carries out and decides nothing.

mod guarding;
mod owner;
mod request;
mod session;
mod waits;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use pingora_core::{
    Error, ErrorSource, ErrorType, Result, protocols::Digest, server::configuration::ServerConf, upstreams::peer::HttpPeer,
};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, HttpProxy, ProxyHttp, ProxyWarnLogContext, Session};
use waypost_owner::Served;
use waypost_policy::{Code, Failure, Head, Input, Next, Sent};

use super::{
    answer,
    connection::Handed,
    deadline::Phase,
    grpc,
    headers::{self, ReplyHead, RequestHead},
    http2,
};
use crate::{access_log::Line, state::Shared, tls};
pub(super) use owner::POOLED_TRIES;
use owner::{Connections, is_unprocessed};
pub(super) use request::Request;
use session::{blame, body_of, can_be_followed, has_answered, is_call, is_http2, is_soon_read, is_too_large_to_replay};

/// The general lane as the front door calls it.
pub(crate) type General = HttpProxy<GeneralLane>;

/// The most attempts pingora makes for a request: the hops and retries of the policy end long before.
const MAX_ATTEMPTS: usize = 64;
/// Kept-alive connections to upstreams, for the whole process.
const UPSTREAM_POOL: usize = 4096;
/// pingora keeps so much of a body for a repeat.
pub(super) const REPLAY_BYTES: usize = 64 << 10;
/// A refusal's body is read to its end up to so many bytes, and for so long, if that spares the owner's connection.
pub(super) const DRAINED_BYTES: usize = 16 << 10;
pub(super) const DRAINED_WITHIN: Duration = Duration::from_millis(50);
/// How long the body of a request that can't be repeated stays with its client, until its owner says that it may come (STALE-ROUTES.md,
/// "Sending again").
const WITHHELD_AT_MOST: Duration = Duration::from_millis(100);
/// How long a client may be silent inside its body when its request has been answered already.
pub(super) const AFTER_ANSWER: Duration = Duration::from_secs(1);

/// Makes the general lane; `threads` is the number of worker threads of its runtime.
pub(crate) fn general_lane(shared: Arc<Shared>, threads: usize) -> General {
    let settings = ServerConf { threads, max_retries: MAX_ATTEMPTS, upstream_keepalive_pool_size: UPSTREAM_POOL, ..ServerConf::default() };
    let settings = ServerConf { ca_file: tls::ca_file(), ..settings };
    pingora_proxy::http_proxy(&Arc::new(settings), GeneralLane { shared, connections: Connections::default() })
}

/// What the hooks work with.
pub(crate) struct GeneralLane {
    shared: Arc<Shared>,
    connections: Connections,
}

impl GeneralLane {
    /// One step of the exchange in the world of this moment.
    fn step(&self, head: &RequestHeader, ctx: &mut Request, input: Input<'_, ReplyHead<'_>>) -> Next {
        self.shared.step(&mut ctx.exchange, &RequestHead(head), input)
    }

    /// Ends the attempt: gives its slot back and counts its time.
    fn end_attempt(ctx: &mut Request) {
        ctx.attempt = None;
        ctx.connecting = None;
        ctx.deadline.look_at_client();
        if let Some(dispatched) = ctx.dispatched.take() {
            ctx.upstream_time += dispatched.elapsed();
        }
    }

    /// After a failure: what the exchange wants, as an error that pingora retries or not.
    fn after_failure(&self, session: &mut Session, ctx: &mut Request, mut error: Box<Error>, failure: Failure, sent: Sent) -> Box<Error> {
        Self::end_attempt(ctx);
        let body = body_of(session);
        let next = self.step(session.req_header(), ctx, Input::Failed(failure, sent, body));
        error.set_retry(self.keep(ctx, next));
        error
    }

    /// Keeps the next action for the next attempt; false if there is none.
    fn keep(&self, ctx: &mut Request, next: Next) -> bool {
        if !matches!(next, Next::Park(_) | Next::Sleep(_)) {
            ctx.place = None;
        }
        match next {
            Next::Answer(code) => ctx.answer = Some((code, None)),
            Next::Redirect(location) => ctx.answer = Some((Code::Moved, Some(location))),
            next => {
                ctx.pending = Some(next);
                return true;
            }
        }
        false
    }

    /// Says in the answer that is about to be written that the connection ends with it, where it does.
    fn close_if_last(&self, session: &mut Session, ctx: &Request) {
        if ctx.is_last || self.shared.is_draining() {
            session.set_keepalive(None);
        }
    }

    async fn write_answer(&self, session: &mut Session, ctx: &mut Request, code: Code, location: Option<Vec<u8>>) -> Result<()> {
        ctx.answer = Some((code, location.clone()));
        self.close_if_last(session, ctx);
        let body = answer::problem_json(code, &ctx.request_id);
        let mut head = answer::head(code, &ctx.request_id, location.as_deref(), body.len())?;
        self.say_refusal(session, ctx, &mut head)?;
        let is_call = is_call(session);
        if is_call {
            grpc::into_status(&mut head, code)?;
        }
        let bodiless = is_call || session.req_header().method == http::Method::HEAD;
        session.write_response_header(Box::new(head), bodiless).await?;
        if !bodiless {
            session.write_response_body(Some(Bytes::from(body)), true).await?;
        } else if is_http2(session) {
            session.as_mut().finish_body().await?;
        }
        Ok(())
    }
}

#[async_trait]
impl ProxyHttp for GeneralLane {
    type CTX = Request;

    fn new_ctx(&self) -> Self::CTX {
        Request::new(self.shared.metrics.enter())
    }

    /// Called before the first filter with what the front door handed over.
    fn on_connection_reuse(&self, _session: &mut Session, ctx: &mut Self::CTX, handed: Box<dyn std::any::Any + Send + Sync>) {
        if let Ok(handed) = handed.downcast::<Handed>() {
            ctx.take_up(*handed);
        }
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Self::CTX) -> Result<bool> {
        if let Some(handed) = http2::take_handed(session.req_header()) {
            ctx.take_up(handed);
        }
        let Some(connection) = ctx.connection.clone() else {
            return Error::e_explain(ErrorType::InternalError, "a request came without its connection");
        };
        if ctx.request_id.is_empty() {
            ctx.request_id = headers::request_id(&RequestHead(session.req_header()), &connection);
        }
        let stamp = self.shared.guard.as_ref().and_then(|_| headers::stamp(session.req_header()));
        headers::strip_protocol_from_request(session.req_header_mut());
        headers::strip_unknown_wishes(session.req_header_mut());
        let is_http10 = session.req_header().version == http::Version::HTTP_10;
        session.as_mut().set_ignore_info_resp(is_http10);
        // It goes on where its last session has ended.
        if let Some((code, location)) = ctx.answer.take() {
            // What is left of the body is dropped.
            session.as_mut().set_close_on_response_before_downstream_finish(false);
            self.write_answer(session, ctx, code, location).await?;
            return Ok(true);
        }
        if ctx.pending.is_some() {
            return Ok(false);
        }
        let next = match &self.shared.guard {
            _ if ctx.decided.is_some() => ctx.decided.take().unwrap_or(Next::Answer(Code::Internal)),
            Some(guard) => self.judge(guard, session.req_header(), stamp, ctx).await,
            None if headers::has_looped(RequestHead(session.req_header()).values("cdn-loop"), &self.shared.cdn_id) => {
                Next::Answer(Code::Loop)
            }
            None => self.step(session.req_header(), ctx, Input::Start),
        };
        ctx.body_limit = ctx.exchange.policy().limits.body_bytes;
        let announced = headers::announced_body_bytes(session.req_header());
        let (code, location) = match next {
            Next::Forward(..) if ctx.body_limit > 0 && announced > ctx.body_limit => (Code::BodyTooLarge, None),
            Next::Answer(code) => (code, None),
            Next::Redirect(location) => (Code::Moved, Some(location)),
            next => {
                ctx.pending = Some(next);
                let timeouts = &ctx.exchange.policy().timeouts;
                // pingora's own write time-out counts a whole buffer and leaves heads out.
                ctx.deadline.set_for_all(millis(timeouts.idle_ms), total_limit(session, timeouts.total_ms, ctx.started));
                return Ok(false);
            }
        };
        if code == Code::BodyTooLarge {
            session.set_keepalive(None);
        }
        self.write_answer(session, ctx, code, location).await?;
        Ok(true)
    }

    async fn upstream_peer(&self, session: &mut Session, ctx: &mut Self::CTX) -> Result<Box<HttpPeer>> {
        loop {
            match ctx.pending.take() {
                Some(Next::Forward(lease, stamp)) => {
                    let peer = self.peer(session, ctx, &lease).await;
                    // Never while it has its turn already.
                    ctx.connecting = None;
                    ctx.connecting = self.connections.turn(&peer).await;
                    ctx.attempt = Some((lease, stamp));
                    ctx.dispatched = Some(Instant::now());
                    return Ok(peer);
                }
                Some(waits @ (Next::Check(_) | Next::Park(_) | Next::Sleep(_))) => {
                    let next = self.wait(session, ctx, waits).await?;
                    if !self.keep(ctx, next) {
                        return Err(answered());
                    }
                }
                // Nothing else is kept.
                Some(Next::Relay | Next::Answer(_) | Next::Redirect(_)) | None => return Err(answered()),
            }
        }
    }

    async fn connected_to_upstream(
        &self,
        _session: &mut Session,
        reused: bool,
        _peer: &HttpPeer,
        _socket: std::os::unix::io::RawFd,
        _digest: Option<&Digest>,
        ctx: &mut Self::CTX,
    ) -> Result<()> {
        if let Some(dispatched) = ctx.dispatched.filter(|_| !reused) {
            self.shared.metrics.connect_seconds(dispatched.elapsed());
        }
        Ok(())
    }

    async fn upstream_request_filter(&self, session: &mut Session, head: &mut RequestHeader, ctx: &mut Self::CTX) -> Result<()> {
        if let Some(connecting) = ctx.connecting.take() {
            connecting.found(head.version);
        }
        if !session.is_body_empty() {
            // What has been read of the body already is written before the client is looked at.
            ctx.deadline.hand_to_owner();
        }
        let (Some(connection), Some((lease, stamp))) = (&ctx.connection, &ctx.attempt) else {
            return Error::e_explain(ErrorType::InternalError, "an attempt came without its lease");
        };
        if self.shared.guard.is_none() && owner::is_another_protocol(session, lease, head.version) {
            ctx.answer = Some((Code::UpstreamTls, None));
            return Err(answered());
        }
        let endpoint = lease.endpoint().address.as_str();
        if self.shared.guard.is_some() {
            headers::prepare_guarded_request(head, &ctx.request_id, endpoint, ctx.guarded.stamp())?;
        } else {
            let via = headers::via(session.req_header().version);
            headers::prepare_request(head, connection, via, &self.shared.cdn_id, &ctx.request_id, endpoint, &stamp.to_value())?;
        }
        if head.version == http::Version::HTTP_2 {
            headers::prepare_for_http2(head, session.req_header());
            if headers::expects_continue(session.req_header()) {
                // Interim answers of such an owner can't be passed on.
                session.as_mut().write_continue_response().await?;
            }
        } else if lease.upstream().stale_aware && !headers::expects_continue(head) && is_too_large_to_replay(session) {
            // So that the owner can refuse it unread: once read it can't be sent anywhere else.
            head.insert_header(http::header::EXPECT, "100-continue")?;
            // The client has not asked for the word that comes.
            session.as_mut().set_ignore_info_resp(true);
            ctx.deadline.withhold_body(WITHHELD_AT_MOST);
        }
        // Who waits to be told to go on waits for the owner.
        if session.is_body_done() || headers::expects_continue(head) {
            ctx.deadline.set(Phase::FirstByte, first_byte_limit(ctx));
        } else {
            ctx.deadline.set(Phase::Client, millis(ctx.exchange.policy().timeouts.idle_ms));
        }
        Ok(())
    }

    async fn request_body_filter(&self, session: &mut Session, body: &mut Option<Bytes>, end: bool, ctx: &mut Self::CTX) -> Result<()> {
        ctx.body_bytes += body.as_ref().map_or(0, |bytes| bytes.len() as u64);
        if ctx.body_limit > 0 && ctx.body_bytes > ctx.body_limit {
            ctx.answer = Some((Code::BodyTooLarge, None));
            return Err(answered());
        }
        if has_answered(session) {
            wait_for_the_rest(session, ctx);
        } else if end {
            ctx.deadline.set(Phase::FirstByte, first_byte_limit(ctx));
        } else {
            ctx.deadline.set(Phase::Client, millis(ctx.exchange.policy().timeouts.idle_ms));
        }
        Ok(())
    }

    async fn upstream_response_filter(&self, session: &mut Session, head: &mut ResponseHeader, ctx: &mut Self::CTX) -> Result<()> {
        ctx.deadline.release_body();
        let may_switch = session.as_downstream().is_upgrade_req() && headers::switches_to_websocket(head);
        if let Some(why) = headers::uncarried(head.status.as_u16(), head.version, &headers::Announced::by(head), may_switch) {
            return Err(Error::explain(ErrorType::InvalidHTTPHeader, why).into_up());
        }
        let is_interim = head.status.is_informational() && head.status != http::StatusCode::SWITCHING_PROTOCOLS;
        // An answer before the end of the body ends the connection with it, but "go on" is no such answer.
        session.as_mut().set_close_on_response_before_downstream_finish(!is_interim);
        if is_interim {
            if head.status == http::StatusCode::CONTINUE && !session.is_body_done() {
                ctx.deadline.set(Phase::Client, millis(ctx.exchange.policy().timeouts.idle_ms));
            }
            return Ok(());
        }
        let body = body_of(session);
        let next = self.step(session.req_header(), ctx, Input::Reply(&ReplyHead(head), body));
        if matches!(next, Next::Relay) {
            self.close_if_last(session, ctx);
            ctx.is_whole = headers::has_no_body(head, &session.req_header().method);
            if head.status == http::StatusCode::SWITCHING_PROTOCOLS {
                ctx.deadline.upgrade();
                Self::end_when_recalled(ctx, Served::Stream);
            } else if is_call(session) && !grpc::is_ended(&head.headers) {
                Self::end_call_when_recalled(ctx);
            }
            wait_for_the_rest(session, ctx);
            return Ok(());
        }
        Self::end_attempt(ctx);
        ctx.deadline.clear();
        // A repeat replays the body from its start.
        ctx.body_bytes = 0;
        let is_kept = self.keep(ctx, next);
        // Over HTTP/2 only the stream is lost.
        if head.version != http::Version::HTTP_2 && is_soon_read(session, head) && ctx.deadline.discard_answer() {
            ctx.drained = 0;
            ctx.deadline.set(Phase::Idle, DRAINED_WITHIN);
            return Ok(());
        }
        let mut error = answered();
        error.set_retry(is_kept);
        Err(error)
    }

    fn upstream_response_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        ctx: &mut Self::CTX,
    ) -> Result<Option<Duration>> {
        if ctx.deadline.discards_answer() {
            ctx.drained += body.as_ref().map_or(0, Bytes::len);
            return if ctx.drained > DRAINED_BYTES { Err(answered()) } else { Ok(None) };
        }
        ctx.is_whole = end;
        if end && !ctx.deadline.is_raw() && session.is_body_done() {
            ctx.guarded.release();
        }
        wait_for_the_rest(session, ctx);
        Ok(None)
    }

    fn upstream_response_trailer_filter(&self, _session: &mut Session, trailers: &mut http::HeaderMap, ctx: &mut Self::CTX) -> Result<()> {
        headers::strip_protocol_from_trailers(trailers);
        ctx.is_whole = true;
        ctx.guarded.release();
        Ok(())
    }

    async fn response_filter(&self, session: &mut Session, head: &mut ResponseHeader, ctx: &mut Self::CTX) -> Result<()> {
        if ctx.deadline.discards_answer() {
            return Ok(());
        }
        if session.req_header().version == http::Version::HTTP_10 {
            let is_interim = head.status.is_informational();
            if !is_interim && !headers::frame_for_http10(head) {
                session.set_keepalive(None);
            }
        }
        match &self.shared.guard {
            Some(_) => headers::prepare_guarded_response(head, &ctx.request_id, ctx.guarded.update()),
            None => headers::prepare_response(head, &ctx.request_id),
        }
    }

    fn fail_to_connect(&self, session: &mut Session, _peer: &HttpPeer, ctx: &mut Self::CTX, error: Box<Error>) -> Box<Error> {
        if let Some(connecting) = ctx.connecting.take() {
            connecting.fail();
        }
        let failure = self.why_unconnected(ctx, &error);
        self.after_failure(session, ctx, error, failure, Sent::Nothing)
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        ctx: &mut Self::CTX,
        reused: bool,
    ) -> Box<Error> {
        if ctx.pending.is_some() || ctx.answer.is_some() {
            // In this session, unless it goes on in another.
            error.set_retry(ctx.pending.is_some() && !ctx.deadline.discards_answer());
            return error;
        }
        if is_unprocessed(&error) && !has_answered(session) && ctx.deadline.fired().is_none() {
            ctx.body_bytes = 0;
            return self.after_failure(session, ctx, error, Failure::Reset { reused: true }, Sent::Nothing);
        }
        error.set_retry(false);
        let (failure, code) = blame(session, ctx, &error, reused);
        failure.inspect(|failure| self.shared.upstreams.tell(&ctx.attempt, *failure, &error));
        if has_answered(session) {
            // Too late for another answer; the client sees it cut short, and the log why.
            Self::end_attempt(ctx);
            let cut_short = code.or(failure.map(Failure::code)).filter(|_| !ctx.is_whole);
            ctx.answer = cut_short.map(|code| (code, None));
            return error;
        }
        ctx.answer = code.map(|code| (code, None));
        ctx.body_bytes = 0;
        ctx.broken += usize::from(matches!(failure, Some(Failure::Reset { reused: true })));
        match failure {
            Some(failure) => self.after_failure(session, ctx, error, failure, Sent::Something),
            None => {
                Self::end_attempt(ctx);
                error
            }
        }
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut Self::CTX) -> FailToProxy {
        let gone = FailToProxy { error_code: 0, can_reuse_downstream: false };
        if has_answered(session) || ctx.deadline.discards_answer() {
            return gone;
        }
        let (code, location) = match ctx.answer.take() {
            Some(answer) => answer,
            None if *error.esource() == ErrorSource::Downstream => return gone,
            None => {
                tracing::error!(request_id = ctx.request_id, %error, "a request failed for a reason that has no answer of its own");
                (Code::Internal, None)
            }
        };
        if code != Code::BodyTooLarge && !is_http2(session) && can_be_followed(session, &ctx.deadline) && ctx.deadline.discard_answer() {
            // This session's connection is lost to pingora; another answers over it.
            ctx.answer = Some((code, location));
            return gone;
        }
        session.set_keepalive(None);
        if let Err(error) = self.write_answer(session, ctx, code, location).await {
            tracing::debug!(request_id = ctx.request_id, %error, "the client went away before it was answered");
        }
        FailToProxy { error_code: code.status(), can_reuse_downstream: false }
    }

    fn suppress_error_log(&self, _session: &Session, _ctx: &Self::CTX, _error: &Error) -> bool {
        // The access log has a line for each request, with its reason.
        true
    }

    fn suppress_proxy_warn_log(&self, _session: &Session, _ctx: &Self::CTX, _error: &Error, _context: ProxyWarnLogContext) -> bool {
        true
    }

    async fn logging(&self, session: &mut Session, _error: Option<&Error>, ctx: &mut Self::CTX) {
        if ctx.deadline.discards_answer() {
            let deadline = std::mem::take(&mut ctx.deadline);
            deadline.keep_request(Box::new(std::mem::replace(ctx, self.new_ctx())));
            return;
        }
        Self::end_attempt(ctx);
        let head = session.req_header();
        let status = session.response_written().filter(|_| has_answered(session)).map_or(0, |written| written.status.as_u16());
        let line = Line {
            request_id: &ctx.request_id,
            client: ctx.connection.as_ref().map(|connection| connection.client.ip()),
            method: head.method.as_str(),
            host: head.headers.get(http::header::HOST).map(|host| host.as_bytes()),
            target: head.raw_path(),
            status,
            reason: ctx.answer.as_ref().map(|(code, _)| *code),
            trace: ctx.exchange.trace(),
            bytes_in: ctx.body_bytes,
            bytes_out: session.body_bytes_sent() as u64,
            duration: ctx.started.elapsed(),
            upstream: ctx.upstream_time,
            protocol: headers::protocol(head.version),
            user_agent: head.headers.get(http::header::USER_AGENT).map(|agent| agent.as_bytes()),
        };
        self.shared.finished(&line);
    }
}

/// While an answer is on its way: whoever has not sent everything is waited for, the client first; after an answer not for long, since
/// what it still sends is of no use.
fn wait_for_the_rest(session: &mut Session, ctx: &Request) {
    let idle = millis(ctx.exchange.policy().timeouts.idle_ms);
    match (ctx.is_whole, session.is_body_done()) {
        (true, true) => ctx.deadline.clear(),
        (true, false) => ctx.deadline.set(Phase::Client, AFTER_ANSWER),
        // Between two that have switched protocols either may speak.
        (false, is_done) if is_done || ctx.deadline.is_raw() => ctx.deadline.set(Phase::Idle, idle),
        (false, _) => ctx.deadline.set(Phase::Client, idle),
    }
}

/// An error that only carries control flow: what is to be done stands in the context.
fn answered() -> Box<Error> {
    Error::explain(ErrorType::InternalError, "answered by the proxy")
}

fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn first_byte_limit(ctx: &Request) -> Duration {
    millis(ctx.exchange.policy().timeouts.first_byte_ms)
}

/// How long all of it may still take: as the policy has it, and no longer than the client of a call waits. What another lane has taken counts.
fn total_limit(session: &Session, total_ms: u64, started: Instant) -> Duration {
    let of_client = grpc::time_limit(&session.req_header().headers).filter(|_| is_call(session));
    let of_policy = (total_ms > 0).then(|| millis(total_ms));
    let total = of_client.into_iter().chain(of_policy).min();
    total.map_or(Duration::ZERO, |total| total.saturating_sub(started.elapsed()).max(Duration::from_millis(1)))
}
