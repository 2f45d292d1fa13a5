//! One request on the general lane: what the hooks keep of it between them.
//!
//! What always holds: its slot, its place and its turn are given back when it goes, however that is.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use waypost_policy::{Code, Exchange, Lease, Next, parking::Place, wire::Stamp};

use super::{guarding::Guarded, owner::Connecting};
use crate::{
    metrics::InFlight,
    tls,
    transport::{
        connection::{ConnectionInfo, Handed},
        deadline::Deadline,
    },
};

/// One request on this lane.
pub(crate) struct Request {
    pub(super) started: Instant,
    pub(super) exchange: Exchange,
    pub(super) connection: Option<ConnectionInfo>,
    pub(super) deadline: Arc<Deadline>,
    /// The client's connection ends with this request.
    pub(super) is_last: bool,
    pub(super) request_id: String,
    /// What another lane has decided before it handed the request over.
    pub(super) decided: Option<Next>,
    /// What the next attempt is to carry out.
    pub(super) pending: Option<Next>,
    /// The request's place while it waits for its key; kept until it is sent or answered.
    pub(super) place: Option<Place>,
    /// The slot and stamp of the present attempt.
    pub(super) attempt: Option<(Lease, Stamp)>,
    pub(super) dispatched: Option<Instant>,
    /// How far its connection has come, where it is a secure one.
    pub(super) reached: tls::Reached,
    /// Time spent waiting for owners, over all attempts.
    pub(super) upstream_time: Duration,
    /// What the proxy answers by itself, in the end.
    pub(super) answer: Option<(Code, Option<Vec<u8>>)>,
    /// In a guard: what it has decided.
    pub(super) guarded: Guarded,
    /// How many connections have broken that had served before.
    pub(super) broken: usize,
    /// While it finds a connection that others may share.
    pub(super) connecting: Option<Connecting>,
    /// All of the answer has come.
    pub(super) is_whole: bool,
    pub(super) body_limit: u64,
    pub(super) body_bytes: u64,
    /// What has come of a refusal's body.
    pub(super) drained: usize,
    pub(super) in_flight: Option<InFlight>,
}

impl Request {
    pub(super) fn new(in_flight: InFlight) -> Self {
        Self {
            started: Instant::now(),
            exchange: Exchange::default(),
            connection: None,
            deadline: Arc::default(),
            is_last: false,
            request_id: String::new(),
            decided: None,
            pending: None,
            place: None,
            attempt: None,
            dispatched: None,
            reached: tls::Reached::default(),
            upstream_time: Duration::ZERO,
            answer: None,
            guarded: Guarded::default(),
            broken: 0,
            connecting: None,
            is_whole: false,
            body_limit: 0,
            body_bytes: 0,
            drained: 0,
            in_flight: Some(in_flight),
        }
    }

    /// One that another lane has begun, and that goes on with `next`.
    pub(in crate::transport) fn decided(
        in_flight: InFlight,
        started: Instant,
        exchange: Exchange,
        request_id: String,
        next: Next,
        upstream_time: Duration,
    ) -> Self {
        let mut request = Self::new(in_flight);
        (request.started, request.exchange, request.request_id) = (started, exchange, request_id);
        (request.decided, request.upstream_time) = (Some(next), upstream_time);
        request
    }

    /// Takes what the front door has handed over.
    pub(super) fn take_up(&mut self, handed: Handed) {
        if let Some(again) = handed.again {
            *self = *again;
        }
        self.connection = Some(handed.connection);
        self.deadline = handed.deadline;
        self.is_last = handed.is_last;
    }
}

impl Drop for Request {
    /// One that was given up on is answered in another session, and logged with all that became of it.
    fn drop(&mut self) {
        let Some(in_flight) = self.in_flight.take().filter(|_| self.deadline.is_given_up()) else { return };
        let upstream_time = self.upstream_time + self.dispatched.map_or(Duration::ZERO, |dispatched| dispatched.elapsed());
        let deadline = std::mem::take(&mut self.deadline);
        let mut again = Box::new(Self::new(in_flight));
        again.started = self.started;
        again.exchange = std::mem::take(&mut self.exchange);
        again.request_id = std::mem::take(&mut self.request_id);
        again.upstream_time = upstream_time;
        again.answer = Some((Code::UpstreamTimeout, None));
        again.body_bytes = self.body_bytes;
        deadline.keep_request(again);
    }
}
