//! One request's life: stamp → forward → classify → follow, ask, wait, check, redirect or answer.
//!
//! An [`Exchange`] is handed heads, failures and what a check found, and says what to do next; a transport only carries out. It
//! never waits, and dropping it gives its slot back. *May this be sent again?* (the [`Body`], what was [`Sent`]) and *is the
//! route stale?* (`classify`) stay two questions.
//!
//! What always holds: at most `max_hops + 1` owners are dispatched to, and one more that another names for this one request; every wait
//! ends at a time that was set when it began; a hint is followed only if its epoch is strictly greater
//! than the one known; nothing is sent again once its body is spent; no address but an endpoint of the table is ever dialled.

mod classify;
mod consider;
mod lookup;
mod passage;
mod refusal;
mod trace;
mod wait;

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use waypost_conf::{Address, Name, OnStale, Policy, RedirectTo};

use crate::{
    Code, Head, Hints, Lease, Moment, Reply, Table, Upstream, balance,
    head::Target,
    table::{RequestKey, Source, UpstreamId},
    wire::Stamp,
};
use classify::{Verdict, classify, correction};
pub(crate) use consider::{Considered, consider};
pub use lookup::{Found as LookedUp, Nowhere, look_up, settle};
pub use passage::{Identity, identify};
pub use trace::{Dispatched, Dispatches, Outcome, StaleOutcome, Trace, Waited, WaitsFor};
pub use wait::BEHIND_LIMIT;

/// How long a backend may wait for its own watch to catch up with a stamp, in milliseconds.
pub const BACKEND_WAIT_MS: u64 = 50;
/// How many endpoints of one owner are tried for a request whose connections fail, and for how many broken connections one is sent.
const MAX_CONNECT_TRIES: usize = 3;

/// Of a request that has no service.
static NO_POLICY: LazyLock<Arc<Policy>> = LazyLock::new(Arc::default);

/// What is shared, borrowed for one step.
#[derive(Debug)]
pub struct World<'a> {
    /// The table in force.
    pub table: &'a Table,
    /// The overlay; read before the table.
    pub hints: &'a Hints,
    /// The time.
    pub now: Moment,
    /// How long ago the gold copy was last known to have nothing newer.
    pub gold_age: Duration,
    /// The store has another history than the table: nobody's word about it is taken.
    pub is_other_history: bool,
    /// Randomness, for choosing endpoints.
    pub rng: &'a mut fastrand::Rng,
}

/// What has happened to the request.
#[derive(Debug)]
pub enum Input<'a, R> {
    /// Its head has been read.
    Start,
    /// The owner has answered; the head of the answer, and what is left of the request's body.
    Reply(&'a R, Body),
    /// The owner could not be asked, or did not answer.
    Failed(Failure, Sent, Body),
    /// A check has ended.
    Found(Found),
    /// The request has a place among those that wait.
    Parked,
    /// There is no place left.
    NoRoom,
    /// Its place was let go, or the time has come that it was to wait for.
    Woken,
}

/// May the request's body be sent again?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// There is none.
    None,
    /// All of it so far is in the replay buffer.
    Buffered,
    /// None of it has been read from the client yet.
    Withheld,
    /// Some of it has gone and is not kept.
    Spent,
}

/// What went wrong towards an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No connection: refused or unreachable.
    Connect,
    /// No connection in time.
    ConnectTimeout,
    /// No secure connection.
    Tls,
    /// The connection broke before an answer. `reused`: it had served a request before, so it may have died idle.
    Reset {
        /// Whether it came from the pool.
        reused: bool,
    },
    /// No answer in time.
    FirstByteTimeout,
    /// An answer that is not HTTP.
    BadResponse,
}

impl Failure {
    /// The code to answer with if nothing else can be done.
    pub fn code(self) -> Code {
        match self {
            Self::Connect => Code::ConnectFailed,
            Self::ConnectTimeout => Code::ConnectTimeout,
            Self::Tls => Code::UpstreamTls,
            Self::Reset { .. } => Code::UpstreamReset,
            Self::FirstByteTimeout => Code::UpstreamTimeout,
            Self::BadResponse => Code::BadResponse,
        }
    }
}

/// Whether the owner can have executed anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Not one byte has left.
    Nothing,
    /// Something may have arrived.
    Something,
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The store was read; what it says is in the table in force now.
    Answered {
        /// When the read began; whoever joined it may have asked later.
        began: Moment,
    },
    /// The store could not be read in time.
    Unavailable,
    /// Too many checks are under way.
    Capped,
}

/// What the transport is to do.
#[derive(Debug)]
pub enum Next {
    /// Send the request to the lease's endpoint with this stamp.
    Forward(Lease, Stamp),
    /// Pass the answer on to the client.
    Relay,
    /// Answer by yourself.
    Answer(Code),
    /// Answer 307 with this `Location`.
    Redirect(Vec<u8>),
    /// Have the store read for this key, then come back with [`Input::Found`].
    Check(RequestKey),
    /// Take a place among the requests that wait for this key, then come back with [`Input::Parked`] or [`Input::NoRoom`]; the place is kept
    /// until the request is sent or answered.
    Park(RequestKey),
    /// Wait until the place, if there is one, is let go, or until this time; then come back with [`Input::Woken`].
    Sleep(Moment),
}

/// One dispatch, as it was stamped.
#[derive(Clone, Debug)]
struct Dispatch {
    owner: UpstreamId,
    epoch: u64,
    endpoint: Address,
    /// By whose word.
    source: Source,
    /// Whether it was sent there because another owner said so for this one request.
    is_ask: bool,
}

/// Why a check is being made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// An owner has refused.
    Refused,
    /// An owner could not be asked, or did not answer; the code, and whether the request may be sent again.
    Failed(Code, bool),
}

/// One request.
#[derive(Debug, Default)]
pub struct Exchange {
    key: Option<RequestKey>,
    /// `None` before the service is known.
    policy: Option<Arc<Policy>>,
    last: Option<Dispatch>,
    /// Endpoints of the present owner that could not be connected to.
    tried: Vec<Address>,
    /// How often a connection broke, or an owner said that it processed nothing.
    broken: usize,
    /// What is left of the body while a check runs, or while the request waits.
    body: Option<Body>,
    /// Why the check that runs is made.
    checking: Option<Why>,
    waiting: wait::Waiting,
    /// Whether a target has been asked: once a request.
    has_asked: bool,
    /// The key, if a hint for it has just been taken.
    learnt: Option<RequestKey>,
    /// The backend behind a guard, if one has let the request through: it goes there and nowhere else.
    backend: Option<Arc<Upstream>>,
    trace: Trace,
}

impl Dispatch {
    /// Whether that is whom it was sent to, at the epoch that was stamped.
    fn is_at(&self, known: &LookedUp) -> bool {
        known.owner == self.owner && known.epoch == self.epoch
    }
}

impl Exchange {
    /// What happened so far, for the log.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// The policy in force for the request: that of its first dispatch.
    pub fn policy(&self) -> &Arc<Policy> {
        self.policy.as_ref().unwrap_or(&NO_POLICY)
    }

    /// The key, if the last step took a hint for it: who waits for it is to be woken.
    pub fn take_learnt(&mut self) -> Option<RequestKey> {
        self.learnt.take()
    }

    /// The one transition. `head` is the request's, without any `Route-*` of the client.
    pub fn step<H: Head, R: Reply>(&mut self, head: &H, input: Input<'_, R>, world: &mut World<'_>) -> Next {
        self.trace.revision = world.table.revision();
        let next = match input {
            Input::Start => self.start(head, world),
            Input::Reply(reply, body) => self.reply(head, reply, body, world),
            Input::Failed(failure, sent, body) => self.failed(head, failure, sent, body, world),
            Input::Found(found) => self.found(head, found, world),
            Input::Parked => self.parked(head, world),
            Input::NoRoom => Err(Code::ParkFull.into()),
            Input::Woken => self.woken(head, world),
        };
        let next = next.or_else(|nowhere| match nowhere {
            Nowhere::Frozen => self.park(world),
            Nowhere::Answered(code) => Err(code),
        });
        let next = next.unwrap_or_else(Next::Answer);
        self.note_outcome(&next);
        let waits_for = match &next {
            Next::Check(_) => Some(WaitsFor::Check),
            Next::Park(_) => Some(WaitsFor::Key),
            Next::Sleep(_) => Some(if self.waiting.is_parked { WaitsFor::Key } else { WaitsFor::Owner }),
            Next::Forward(..) | Next::Relay | Next::Redirect(_) | Next::Answer(_) => None,
        };
        self.trace.waits_for(waits_for, world.now);
        next
    }

    fn start<H: Head>(&mut self, head: &H, world: &mut World<'_>) -> Result<Next, Nowhere> {
        self.trace.started = world.now;
        let mut considered = Considered::default();
        let found = consider(head, world, &mut considered);
        let Considered { service, key, known } = considered;
        if let Some((service, _)) = service {
            self.trace.service = Some(Arc::clone(service));
            self.policy = Some(Arc::clone(&service.policy));
        }
        if let (Some(key), Some(known)) = (&key, known) {
            self.trace.key = Some(Arc::clone(&key.key));
            known.end_hint(key, world.hints, world.now);
        }
        self.key = key;
        let found = found?;
        // Only what can be sent at all pays for repeats.
        if let Some((service, _)) = service {
            service.budget.request(world.now);
        }
        self.dispatch(found, world)
    }

    fn reply<H: Head, R: Reply>(&mut self, head: &H, reply: &R, body: Body, world: &mut World<'_>) -> Result<Next, Nowhere> {
        if self.backend.is_some() {
            return Ok(self.relayed(reply.status(), world));
        }
        let (Some(last), Some(service)) = (self.last.clone(), self.trace.service.clone()) else { return Err(Code::Internal.into()) };
        match classify(reply, &service.name, self.key.as_ref().map(|key| &*key.key)) {
            Verdict::Served => {
                self.trace.dispatches.end_last(world.now, Outcome::Answered(reply.status()));
                if let Some(key) = self.key.clone()
                    && let Some(claim) = correction(reply, &key.key)
                {
                    self.believe(&claim, &last, &key, world);
                }
                Ok(Next::Relay)
            }
            Verdict::Stale(refusal) => self.refused(head, &refusal, &last, body, world),
        }
    }

    fn found<H: Head>(&mut self, head: &H, found: Found, world: &mut World<'_>) -> Result<Next, Nowhere> {
        let (Some(body), Some(why), Some(key), Some(last)) = (self.body.take(), self.checking.take(), self.key.clone(), self.last.clone())
        else {
            return Err(Code::Internal.into());
        };
        let (in_vain, may_repeat) = match why {
            Why::Refused => (Code::StaleUnhealed, true),
            Why::Failed(code, may_repeat) => (code, may_repeat),
        };
        let Found::Answered { began } = found else { return Err(in_vain.into()) };
        settle(&key, began, world);
        if !may_repeat {
            return Err(in_vain.into());
        }
        self.body = Some(body);
        let now_known = self.look_up(world)?;
        if last.is_at(&now_known) {
            return Err(in_vain.into());
        }
        self.follow(head, now_known, body, world)
    }

    /// Has the store read before anything else is done.
    fn check(&mut self, why: Why, body: Body) -> Result<Next, Nowhere> {
        let Some(key) = self.key.clone() else { return Err(Code::StaleUnhealed.into()) };
        self.body = Some(body);
        self.checking = Some(why);
        Ok(Next::Check(key))
    }

    /// Goes after an owner or an epoch other than the one that refused.
    fn follow<H: Head>(&mut self, head: &H, to: LookedUp, body: Body, world: &mut World<'_>) -> Result<Next, Nowhere> {
        if self.policy().on_stale == OnStale::Redirect {
            return Ok(self.redirect(head, to.owner, world)?);
        }
        if self.trace.hops >= self.policy().max_hops || body == Body::Spent {
            return Err(Code::StaleUnhealed.into());
        }
        let advances = self.last.as_ref().is_none_or(|last| to.epoch > last.epoch);
        let free = advances && self.trace.hops == 0;
        if !free && !self.draw(world) {
            return Err(Code::StaleUnhealed.into());
        }
        self.trace.hops += 1;
        self.tried.clear();
        self.waiting.end();
        self.dispatch(to, world)
    }

    fn redirect<H: Head>(&self, head: &H, owner: UpstreamId, world: &World<'_>) -> Result<Next, Code> {
        let upstream = world.table.upstream(owner);
        let public_url = upstream.and_then(|upstream| upstream.public_url.as_ref());
        match (self.policy().redirect_to, public_url) {
            (RedirectTo::Owner, Some(url)) => {
                let target = Target::parse(head.target()).ok_or(Code::BadRequest)?;
                let mut location = url.as_str().as_bytes().to_vec();
                if target.path_and_query.first() != Some(&b'/') {
                    location.push(b'/');
                }
                location.extend_from_slice(target.path_and_query);
                Ok(Next::Redirect(location))
            }
            _ => redirect_to_self(head),
        }
    }

    fn failed<H: Head>(&mut self, head: &H, failure: Failure, sent: Sent, body: Body, world: &mut World<'_>) -> Result<Next, Nowhere> {
        let Some(last) = self.last.clone() else { return Err(Code::Internal.into()) };
        let code = failure.code();
        self.trace.dispatches.end_last(world.now, Outcome::Failed(failure));
        let again = match (failure, sent) {
            (Failure::Connect | Failure::ConnectTimeout, _) | (Failure::Tls, Sent::Nothing) => {
                self.mark_refusing(&last, world);
                self.tried.push(last.endpoint.clone());
                self.tried.len() < MAX_CONNECT_TRIES
            }
            // It may have died idle in the pool, but nobody knows: only what may be executed twice is sent again.
            (Failure::Reset { reused: true }, sent) => {
                self.broken += 1;
                self.broken < MAX_CONNECT_TRIES && (sent == Sent::Nothing || is_idempotent(head.method()))
            }
            _ => false,
        };
        if again && body != Body::Spent {
            self.body = Some(body);
            let to = self.look_up(world)?;
            if !last.is_at(&to) {
                return self.follow(head, to, body, world);
            }
            if self.has_another_endpoint(&to, world) && self.draw(world) {
                self.trace.retries += 1;
                return self.dispatch(to, world);
            }
        }
        // Perhaps the owner has gone because it is no longer the owner.
        match failure {
            Failure::Connect | Failure::ConnectTimeout | Failure::Tls if self.key.is_some() => {
                self.check(Why::Failed(code, sent == Sent::Nothing && body != Body::Spent), body)
            }
            Failure::FirstByteTimeout if self.key.is_some() => self.check(Why::Failed(code, false), body),
            _ => Err(code.into()),
        }
    }

    fn mark_refusing(&self, last: &Dispatch, world: &World<'_>) {
        let Some(upstream) = world.table.upstream(last.owner) else { return };
        let refused = upstream.endpoints.iter().find(|endpoint| endpoint.address == last.endpoint);
        if let Some(endpoint) = refused {
            endpoint.state.refuse(world.now);
        }
    }

    fn has_another_endpoint(&self, to: &LookedUp, world: &World<'_>) -> bool {
        let upstream = self.upstream_of(to, world.table);
        upstream.is_ok_and(|upstream| upstream.endpoints.iter().any(|endpoint| !self.tried.contains(&endpoint.address)))
    }

    /// Who is meant by an owner: the backend behind the guard, where there is one.
    fn upstream_of<'a>(&'a self, to: &LookedUp, table: &'a Table) -> Result<&'a Arc<Upstream>, Code> {
        self.backend.as_ref().map_or_else(|| upstream_of(to, table), Ok)
    }

    fn draw(&mut self, world: &World<'_>) -> bool {
        let drawn = self.trace.service.as_ref().is_some_and(|service| service.budget.draw(&self.policy().retries, world.now));
        self.trace.budget_exhausted |= !drawn;
        drawn
    }

    fn look_up(&self, world: &mut World<'_>) -> Result<LookedUp, Nowhere> {
        if let Some(backend) = &self.backend {
            return Ok(self.at_backend(backend, world));
        }
        match (&self.key, &self.trace.service) {
            (Some(key), _) => look_up(key, world),
            (None, Some(service)) => Ok(lookup::default_owner(service)?),
            (None, None) => Err(Code::Internal.into()),
        }
    }

    fn dispatch(&mut self, to: LookedUp, world: &mut World<'_>) -> Result<Next, Nowhere> {
        self.send(to, None, world)
    }

    /// Sends the request; `ask`: because another owner said so for this one request.
    fn send(&mut self, to: LookedUp, ask: Option<&Name>, world: &mut World<'_>) -> Result<Next, Nowhere> {
        let upstream = Arc::clone(self.upstream_of(&to, world.table)?);
        self.trace.upstream = Some(Arc::clone(&upstream));
        self.trace.epoch = Some(to.epoch);
        self.trace.endpoint = None;
        let lease = balance::choose(&upstream, &self.tried, world.now, world.rng).ok_or(Code::NoEndpoint)?;
        let endpoint = lease.endpoint().address.clone();
        self.trace.endpoint = Some(endpoint.clone());
        self.trace.dispatches.push(Dispatched {
            owner: upstream.name.clone(),
            endpoint: endpoint.clone(),
            epoch: to.epoch,
            revision: world.table.revision(),
            source: to.source,
            at: world.now,
            ended: None,
        });
        self.last = Some(Dispatch { owner: to.owner, epoch: to.epoch, endpoint, source: to.source, is_ask: ask.is_some() });
        self.waiting.is_parked = false;
        let stamp = Stamp {
            service: self.trace.service.as_ref().map(|service| service.name.shared()).unwrap_or_default(),
            key: self.trace.key.clone(),
            epoch: to.epoch,
            revision: world.table.revision(),
            table: world.table.id().shared(),
            hop: self.trace.hops,
            wait_ms: BACKEND_WAIT_MS,
            ask: ask.map(Name::to_string),
        };
        Ok(Next::Forward(lease, stamp))
    }

    fn note_outcome(&mut self, next: &Next) {
        if self.trace.stale.is_empty() {
            return;
        }
        match next {
            Next::Forward(..) => self.trace.outcome = Some(StaleOutcome::Followed),
            Next::Redirect(_) => self.trace.outcome = Some(StaleOutcome::Redirected),
            Next::Answer(_) => self.trace.outcome = Some(StaleOutcome::Unhealed),
            Next::Relay | Next::Check(_) | Next::Park(_) | Next::Sleep(_) => {}
        }
    }
}

/// The upstream of an owner.
///
/// # Errors
/// `NoUpstream` if it has no record.
pub(crate) fn upstream_of<'t>(found: &LookedUp, table: &'t Table) -> Result<&'t Arc<Upstream>, Code> {
    table.upstream(found.owner).ok_or(Code::NoUpstream)
}

/// The request's own path and query as a relative reference: the client comes back to this proxy, which has healed.
fn redirect_to_self<H: Head>(head: &H) -> Result<Next, Code> {
    let target = Target::parse(head.target()).ok_or(Code::BadRequest)?;
    let own = target.path_and_query;
    // A path that starts with `//` would be read as another host (RFC 3986, section 4.2); `/.` before it is removed by the client.
    let before: &[u8] = match own.first() {
        Some(b'/') if own.get(1).is_some_and(|b| matches!(b, b'/' | b'\\')) => b"/.",
        Some(b'/') => b"",
        _ => b"/",
    };
    Ok(Next::Redirect([before, own].concat()))
}

/// Whether a request may be executed twice (RFC 9110, section 9.2.2).
pub fn is_idempotent(method: &[u8]) -> bool {
    matches!(method, b"GET" | b"HEAD" | b"OPTIONS" | b"TRACE" | b"PUT" | b"DELETE")
}

#[cfg(test)]
mod tests;
