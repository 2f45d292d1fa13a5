//! The express lane: plain requests, which are nearly all, on the bare connection.
//!
//! HTTP/1.1 with a path, a body with a length or in chunks or none, or a request of HTTP/2 that can be written so, to an owner that speaks HTTP/1.1 in the clear. The same `Exchange` decides as on the general
//! lane, and the same rules say what crosses the proxy; what is saved is a header map, channels between two tasks, and copies. What is not plain is
//! handed to the general lane: by its head before anything is decided, by its owner or by a wait for its key after that, always
//! before its answer has begun and with all that has been read of it. What always holds: a request is on one lane at a time, and
//! is answered once.

mod answer;
mod carry;
mod client;
mod lines;
mod pool;
mod request;
mod spare;
mod upload;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Buf, BytesMut};
use tokio::net::TcpStream;
use waypost_conf::Protocol;
use waypost_policy::{
    Body, Code, Exchange, Failure, Head, Input, Lease, Next, Sent,
    exchange::is_idempotent,
    framing::{AnswerBody, Framing, Known, Plain, PlainHead},
    wire::Stamp,
};

use super::{
    ConnectionInfo, answer as own,
    connection::DRAIN_LIMIT,
    deadline::Phase,
    general::{DRAINED_BYTES, DRAINED_WITHIN, POOLED_TRIES, REPLAY_BYTES, Request},
    headers,
};
use crate::{access_log::Line, metrics::InFlight, state::Shared};
pub(super) use answer::Answer;
use carry::{Broken, Carrier, Limits, Owner};
use client::fill_more;
pub(super) use client::{Client, Last, Own};
pub(crate) use pool::{Pool, keep_swept};
use request::Said;
use spare::Buffers;
use upload::Upload;

/// The lane.
pub(crate) struct Express {
    shared: Arc<Shared>,
    pool: Arc<Pool>,
}

/// What has become of a request.
pub(super) enum Served<C> {
    /// It was answered, and the connection goes on.
    Next(C),
    /// Its connection ends.
    Last(C),
    /// Its connection is gone, or has to be seen to end too early.
    Cut,
    /// It is for the general lane, as far as it has come.
    HandedOver(C, Box<Request>),
}

impl Express {
    /// For so many worker threads.
    pub(crate) fn new(shared: Arc<Shared>, threads: usize) -> Self {
        Self { shared, pool: Arc::new(Pool::new(threads)) }
    }

    /// The connections that it keeps.
    pub(crate) fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Whether the request whose head was read last is plain.
    pub(super) fn takes<C: Client>(&self, client: &mut C) -> Option<Plain> {
        if self.shared.guard.is_some() { None } else { client.take_plain() }
    }

    /// Serves it.
    pub(super) async fn serve<C: Client>(&self, client: C, plain: Plain, connection: &ConnectionInfo, is_last: bool) -> Served<C> {
        let started = Instant::now();
        let framing = client.framing();
        let head = plain.of(client.head());
        let Buffers { to_owner, to_client, from_owner } = spare::take();
        // In a place of its own, so that neither it nor what runs it is more than an allocator gives at once.
        let mut job = Box::new(Job {
            shared: &self.shared,
            pool: &self.pool,
            connection,
            request_id: headers::request_id(&head, connection),
            upload: Upload::new(framing, !C::IS_IN_TURN, client.head().len(), to_owner),
            to_client,
            from_owner,
            client,
            plain,
            framing,
            is_last,
            started,
            ended: started,
            limits: Limits { idle: Duration::ZERO, first_byte: Duration::ZERO, ends_at: None },
            exchange: Exchange::default(),
            in_flight: self.shared.metrics.enter(),
            upstream_time: Duration::ZERO,
            broken: 0,
            is_late: false,
            status: 0,
            reason: None,
            bytes_out: 0,
        });
        let ended = job.run().await;
        (*job).end(ended)
    }
}

/// One request.
struct Job<'a, C> {
    shared: &'a Arc<Shared>,
    pool: &'a Pool,
    connection: &'a ConnectionInfo,
    client: C,
    plain: Plain,
    framing: Framing,
    is_last: bool,
    started: Instant,
    /// When the last attempt ended.
    ended: Instant,
    limits: Limits,
    exchange: Exchange,
    request_id: String,
    in_flight: InFlight,
    upload: Upload,
    /// For one attempt after the other.
    to_client: Vec<u8>,
    from_owner: BytesMut,
    /// Time spent waiting for owners, over all attempts.
    upstream_time: Duration,
    /// How many connections have broken that had served before.
    broken: usize,
    /// An owner has not answered in time.
    is_late: bool,
    /// What was answered; 0: nothing.
    status: u16,
    reason: Option<Code>,
    bytes_out: u64,
}

/// How it ends.
enum Ending {
    /// It is answered; whether the connection goes on.
    Answered(bool),
    /// The client has gone, or its answer was cut short.
    Cut,
    /// The general lane goes on with this.
    HandedOver(Next),
}

/// What has become of an attempt.
enum Attempt {
    /// What is to be done next.
    Next(Next),
    /// Nothing more: the answer was written whole, and whether the connection goes on.
    Answered(bool),
    /// The client has gone, or sees its answer cut short, by this code's fault if it was anybody's.
    Cut(Option<Code>),
    /// An answer of the proxy's own, after which the connection ends.
    Fails(Code),
}

impl<C: Client> Job<'_, C> {
    async fn run(&mut self) -> Ending {
        let head = self.plain.of(self.client.head());
        let mut next = if headers::has_looped(head.values_of(Known::CdnLoop), &self.shared.cdn_id) {
            Next::Answer(Code::Loop)
        } else {
            self.shared.step_at(self.started, &mut self.exchange, &head, Input::<Answer<'_>>::Start)
        };
        let policy = Arc::clone(self.exchange.policy());
        let (timeouts, body_limit) = (&policy.timeouts, policy.limits.body_bytes);
        let total = Duration::from_millis(timeouts.total_ms);
        self.limits = Limits {
            idle: Duration::from_millis(timeouts.idle_ms),
            first_byte: Duration::from_millis(timeouts.first_byte_ms),
            ends_at: (!total.is_zero()).then(|| (self.started + total).into()),
        };
        self.upload.limit(body_limit);
        if body_limit > 0 && matches!(self.framing, Framing::Length(length) if length > body_limit) && matches!(next, Next::Forward(..)) {
            return Box::pin(self.answer(Code::BodyTooLarge, None, false)).await;
        }
        loop {
            next = match next {
                Next::Forward(lease, stamp) if self.carries(&lease) => match self.attempt(lease, stamp).await {
                    Attempt::Next(next) => next,
                    Attempt::Answered(keeps) => return Ending::Answered(keeps),
                    Attempt::Fails(code) => return Box::pin(self.answer(code, None, false)).await,
                    Attempt::Cut(reason) => {
                        self.reason = reason;
                        return Ending::Cut;
                    }
                },
                Next::Check(key) => {
                    let service = self.exchange.trace().service.as_ref().map(|service| service.name.clone());
                    let Some(service) = service else { return Box::pin(self.answer(Code::Internal, None, false)).await };
                    let found = Box::pin(self.shared.check(&service, &key)).await;
                    self.step(Input::Found(found))
                }
                Next::Answer(code) => return Box::pin(self.answer(code, None, true)).await,
                Next::Redirect(location) => return Box::pin(self.answer(Code::Moved, Some(location), true)).await,
                next @ (Next::Forward(..) | Next::Park(_) | Next::Sleep(_)) if self.upload.body() != Body::Spent => {
                    return Ending::HandedOver(next);
                }
                // Nothing that is spent is sent or waits, says the exchange, and nothing is relayed without an answer.
                Next::Forward(..) | Next::Park(_) | Next::Sleep(_) | Next::Relay => {
                    tracing::error!(request_id = self.request_id, "the express lane was told what it can't do");
                    return Box::pin(self.answer(Code::Internal, None, false)).await;
                }
            }
        }
    }

    fn head(&self) -> PlainHead<'_> {
        self.plain.of(self.client.head())
    }

    fn step(&mut self, input: Input<'_, Answer<'_>>) -> Next {
        let head = self.plain.of(self.client.head());
        self.shared.step(&mut self.exchange, &head, input)
    }

    /// Whether this lane reaches the owner, and can do what the owner needs: to one that may refuse a body unread, a long one goes with care.
    fn carries(&self, lease: &Lease) -> bool {
        let upstream = lease.upstream();
        let is_short = matches!(self.framing, Framing::Length(length) if length <= REPLAY_BYTES as u64);
        upstream.tls.is_none() && upstream.protocol == Protocol::Http1 && (is_short || !upstream.stale_aware)
    }

    /// Sends the request to an owner, and passes on what comes of it.
    async fn attempt(&mut self, lease: Lease, stamp: Stamp) -> Attempt {
        // The first follows at once.
        let dispatched = if self.exchange.trace().dispatches.len() > 1 { Instant::now() } else { self.started };
        let attempt = self.attempted(&lease, &stamp, dispatched).await;
        if self.ended <= dispatched {
            self.ended = Instant::now();
        }
        self.upstream_time += self.ended - dispatched;
        drop(lease);
        match attempt {
            Ok(attempt) => attempt,
            Err((failure, sent)) => {
                self.broken += usize::from(failure == Failure::Reset { reused: true });
                let body = self.upload.body();
                self.is_late |= failure == Failure::FirstByteTimeout;
                Attempt::Next(self.step(Input::Failed(failure, sent, body)))
            }
        }
    }

    async fn attempted(&mut self, lease: &Lease, stamp: &Stamp, dispatched: Instant) -> Result<Attempt, (Failure, Sent)> {
        let address = lease.socket_addr();
        let stamp = stamp.to_value();
        let via = headers::via(C::VERSION);
        let said = Said { connection: self.connection, via, cdn_id: &self.shared.cdn_id, request_id: &self.request_id, stamp: &stamp };
        let (plain, framing, client) = (&self.plain, self.framing, &self.client);
        let write = |out: &mut Vec<u8>| request::write_head(&plain.of(client.head()), framing, &said, out);
        if let Err(code) = self.upload.begin(self.client.buffer(), write) {
            return Ok(Attempt::Fails(code));
        }
        let owner = match self.kept(address, dispatched) {
            Some(owner) => owner,
            None => match Box::pin(self.connect(address, dispatched)).await {
                Ok(owner) => owner,
                Err(Some(failure)) => return Err((failure, Sent::Nothing)),
                Err(None) => return Ok(Attempt::Fails(Code::UpstreamTimeout)),
            },
        };
        let is_reused = owner.is_reused;
        self.client.begin_attempt();
        self.to_client.clear();
        let to_client = &mut self.to_client;
        let connected = if is_reused { dispatched } else { Instant::now() };
        let mut carrier = Carrier::new(&mut self.client, owner, &mut self.upload, to_client, &self.limits, connected.into());
        let (keeps, keeps_owner) = loop {
            if let Err(broken) = carrier.next().await {
                let failed = fails(broken, is_reused, carrier.upload.has_come());
                // Behind half an interim head nothing can be said.
                return if carrier.is_within_head() { Ok(Attempt::Cut(code_of(failed))) } else { failed };
            }
            match judge(&mut carrier, self.shared, &self.plain, &mut self.exchange, &self.request_id, self.is_last) {
                Judged::Incomplete => {}
                Judged::Refused => return Err((Failure::BadResponse, Sent::Something)),
                Judged::Relays { status, keeps, keeps_owner } => {
                    self.status = status;
                    break (keeps, keeps_owner);
                }
                Judged::Passes(next, body) => {
                    if let Some(body) = body.filter(|_| carrier.is_sent()) {
                        Box::pin(drain_refusal(carrier.owner, body, self.pool, address)).await;
                    }
                    return Ok(Attempt::Next(next));
                }
            }
        };
        let carried = carrier.next().await;
        self.ended = Instant::now();
        self.bytes_out = carrier.bytes_out;
        let (is_answered, is_sent) = (carrier.is_whole() && carrier.is_written(), carrier.is_sent());
        let Carrier { owner, upload, has_begun, .. } = carrier;
        match carried {
            Ok(_) => {
                let Owner { stream, buffer, .. } = owner;
                if keeps_owner && is_sent && buffer.is_empty() {
                    self.pool.keep(address, stream, self.ended);
                }
                self.from_owner = buffer;
                Ok(Attempt::Answered(keeps && upload.has_come()))
            }
            // What is wrong with the rest of the request comes too late for another answer.
            Err(broken) if is_answered && broken != Broken::Client => {
                self.reason = code_of(fails(broken, is_reused, upload.has_come()));
                Ok(Attempt::Answered(false))
            }
            Err(broken) if !has_begun => {
                self.status = 0;
                fails(broken, is_reused, upload.has_come())
            }
            Err(broken) => Ok(Attempt::Cut(code_of(fails(broken, is_reused, upload.has_come())))),
        }
    }

    /// A kept connection to an owner, unless those have died or the request's time is over.
    fn kept(&mut self, address: SocketAddr, now: Instant) -> Option<Owner> {
        if self.broken >= POOLED_TRIES || self.left(now).is_some_and(|left| left.is_zero()) {
            return None;
        }
        let is_sure = !is_idempotent(self.head().method());
        let stream = self.pool.take(address, now, is_sure)?;
        Some(Owner { stream, is_reused: true, buffer: self.spare_buffer() })
    }

    /// What is left of the request's time.
    fn left(&self, now: Instant) -> Option<Duration> {
        self.limits.ends_at.map(|at| at.saturating_duration_since(now.into()))
    }

    fn spare_buffer(&mut self) -> BytesMut {
        let mut buffer = std::mem::take(&mut self.from_owner);
        buffer.clear();
        buffer
    }

    /// A new connection to an owner. `None`: the request's time is over.
    async fn connect(&mut self, address: SocketAddr, now: Instant) -> Result<Owner, Option<Failure>> {
        let left = self.left(now);
        if left.is_some_and(|left| left.is_zero()) {
            return Err(None);
        }
        let limit = Duration::from_millis(self.exchange.policy().timeouts.connect_ms);
        let limit = (!limit.is_zero()).then_some(limit);
        let connecting = TcpStream::connect(address);
        let connected = match limit.into_iter().chain(left).min() {
            None => connecting.await,
            Some(least) => match tokio::time::timeout(least, connecting).await {
                Ok(connected) => connected,
                Err(_) => return Err((limit == Some(least)).then_some(Failure::ConnectTimeout)),
            },
        };
        let stream = connected.map_err(|error| match error.kind() {
            std::io::ErrorKind::TimedOut => Failure::ConnectTimeout,
            _ => Failure::Connect,
        })?;
        let _ = stream.set_nodelay(true);
        self.shared.metrics.connect_seconds(now.elapsed());
        Ok(Owner { stream, is_reused: false, buffer: self.spare_buffer() })
    }

    /// Answers by the proxy itself. The connection goes on if `may_keep`, and what is left of the body is short and on its way.
    async fn answer(&mut self, code: Code, location: Option<Vec<u8>>, may_keep: bool) -> Ending {
        let has_come = self.upload.has_come() || self.framing == Framing::Length(0);
        let is_short = matches!(self.framing, Framing::Length(length) if length <= REPLAY_BYTES as u64);
        let keeps = C::IS_IN_TURN && may_keep && !self.is_late && !self.is_last && !self.shared.is_draining() && (has_come || is_short);
        let body = own::problem_json(code, &self.request_id);
        let is_head = self.head().method() == b"HEAD";
        self.reason = Some(code);
        let location = location.as_deref();
        let own = Own { code, request_id: &self.request_id, location, body: &body, keeps, is_head };
        if self.client.answer(own, self.limits.idle, self.limits.ends_at).await {
            self.status = code.status();
            self.bytes_out = if is_head { 0 } else { body.len() as u64 };
        }
        self.ended = Instant::now();
        Ending::Answered(self.status > 0 && keeps && self.drain().await)
    }

    /// Reads the rest of the body, for a while; whether it has come.
    async fn drain(&mut self) -> bool {
        let draining = async {
            loop {
                // What was found is dropped, so that nothing is kept of it.
                let (lead, body) = self.upload.unwritten(self.client.buffer());
                self.upload.written(lead.len() + body.len());
                match self.upload.advance(self.client.buffer_mut()) {
                    Ok(true) => {}
                    Ok(false) if self.upload.has_come() => return true,
                    Ok(false) if fill_more(&mut self.client, self.upload.room()).await => {}
                    _ => return false,
                }
            }
        };
        tokio::time::timeout(DRAIN_LIMIT, draining).await.unwrap_or(false)
    }

    /// Tells of it, and gives its connection back if it goes on.
    fn end(mut self, ending: Ending) -> Served<C> {
        let keeps = match ending {
            Ending::HandedOver(next) => {
                let Self { client, in_flight, started, exchange, request_id, upstream_time, .. } = self;
                let request = Request::decided(in_flight, started, exchange, request_id, next, upstream_time);
                return Served::HandedOver(client, Box::new(request));
            }
            Ending::Cut => {
                self.log();
                return Served::Cut;
            }
            Ending::Answered(keeps) => keeps,
        };
        self.log();
        self.client.end_request(self.upload.end(), self.upload.has_come());
        let Self { client, upload, to_client, from_owner, .. } = self;
        spare::put(Buffers { to_owner: upload.into_buffer(), to_client, from_owner });
        if keeps { Served::Next(client) } else { Served::Last(client) }
    }

    fn log(&self) {
        let head = self.head();
        let line = Line {
            request_id: &self.request_id,
            client: Some(self.connection.client.ip()),
            method: std::str::from_utf8(head.method()).unwrap_or_default(),
            host: head.authority(),
            target: head.target(),
            status: self.status,
            reason: self.reason,
            trace: self.exchange.trace(),
            bytes_in: self.upload.bytes,
            bytes_out: self.bytes_out,
            duration: self.ended - self.started,
            upstream: self.upstream_time,
            protocol: headers::protocol(C::VERSION),
            user_agent: head.value("user-agent"),
        };
        self.shared.finished(&line);
    }
}

/// What the log says of an answer that was cut short for such a reason.
fn code_of(failed: Result<Attempt, (Failure, Sent)>) -> Option<Code> {
    match failed {
        Ok(Attempt::Fails(code)) => Some(code),
        Err((failure, _)) => Some(failure.code()),
        Ok(_) => None,
    }
}

/// What an owner's answer comes to, as far as it has been read.
enum Judged {
    /// Its head has not come whole.
    Incomplete,
    /// It can't be passed on.
    Refused,
    /// It goes to the client; its head is written.
    Relays { status: u16, keeps: bool, keeps_owner: bool },
    /// Something else is to be done, and its body is of no use; `None`: nor is its connection.
    Passes(Next, Option<AnswerBody>),
}

/// Reads heads of answers, interim ones and the last, and asks the exchange.
fn judge<C: Client>(
    carrier: &mut Carrier<'_, C>,
    shared: &Shared,
    plain: &Plain,
    exchange: &mut Exchange,
    request_id: &str,
    is_last: bool,
) -> Judged {
    loop {
        let mut places = answer::places();
        let read = match Answer::read(&carrier.owner.buffer, &mut places) {
            Ok(Some(read)) => read,
            Ok(None) if carrier.owner.buffer.len() <= answer::MOST_HEAD_BYTES => return Judged::Incomplete,
            _ => return Judged::Refused,
        };
        if read.len > answer::MOST_HEAD_BYTES {
            return Judged::Refused;
        }
        let len = read.len;
        if read.is_interim() {
            carrier.client.interim(&read, request_id, carrier.out);
            carrier.owner.buffer.advance(len);
            continue;
        }
        let head = plain.of(carrier.client.head());
        let body = read.body(head.method() == b"HEAD");
        let now = Instant::now();
        let next = shared.step_at(now, exchange, &head, Input::Reply(&read, carrier.upload.body()));
        let keeps_owner = body != AnswerBody::UntilClose && read.keeps_connection();
        if !matches!(next, Next::Relay) {
            carrier.owner.buffer.advance(len);
            return Judged::Passes(next, keeps_owner.then_some(body));
        }
        let keeps = !is_last && !shared.is_draining() && carrier.upload.has_come();
        let status = read.status;
        if !carrier.client.begin_answer(&read, request_id, keeps, body == AnswerBody::UntilClose, carrier.out) {
            return Judged::Refused;
        }
        carrier.owner.buffer.advance(len);
        carrier.answer(body, keeps, now.into());
        return Judged::Relays { status, keeps, keeps_owner };
    }
}

/// What follows where an attempt has broken off before its answer: the owner's failure, or what is answered where it is not the owner's.
fn fails(broken: Broken, is_reused: bool, has_come: bool) -> Result<Attempt, (Failure, Sent)> {
    match broken {
        Broken::Owner => Err((Failure::Reset { reused: is_reused }, Sent::Something)),
        Broken::Answer => Err((Failure::BadResponse, Sent::Something)),
        Broken::Late(Phase::FirstByte | Phase::Idle) => Err((Failure::FirstByteTimeout, Sent::Something)),
        Broken::Late(Phase::Total) if has_come => Ok(Attempt::Fails(Code::UpstreamTimeout)),
        Broken::Late(_) => Ok(Attempt::Fails(Code::ClientTimeout)),
        Broken::Taking => Ok(Attempt::Fails(Code::UpstreamTimeout)),
        Broken::Body(code) => Ok(Attempt::Fails(code)),
        Broken::Client => Ok(Attempt::Cut(None)),
    }
}

/// Reads a refusal to its end, if that is short and comes at once, so that its connection is of use again.
async fn drain_refusal(mut owner: Owner, mut body: AnswerBody, pool: &Pool, address: SocketAddr) {
    use tokio::io::AsyncReadExt;
    let draining = async {
        let mut drained = 0;
        while !body.is_done() {
            match body.part(&owner.buffer) {
                Ok(part) if part.taken > 0 => {
                    drained += part.data.len();
                    owner.buffer.advance(part.taken);
                }
                Ok(_) if drained <= DRAINED_BYTES => {
                    if !owner.stream.read_buf(&mut owner.buffer).await.is_ok_and(|read| read > 0) {
                        return false;
                    }
                }
                _ => return false,
            }
        }
        drained <= DRAINED_BYTES && owner.buffer.is_empty()
    };
    if tokio::time::timeout(DRAINED_WITHIN, draining).await.unwrap_or(false) {
        pool.keep(address, owner.stream, Instant::now());
    }
}
