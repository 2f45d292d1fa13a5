//! One request's life: stamp → forward → classify → follow, check, redirect or answer.
//!
//! An [`Exchange`] is handed heads, failures and what a check found, and says what to do next; a transport only carries out. It
//! never waits, and dropping it gives its slot back. *May this be sent again?* (the [`Body`], what was [`Sent`]) and *is the
//! route stale?* (`classify`) stay two questions.
//!
//! What always holds: at most `max_hops + 1` owners are dispatched to; a hint is followed only if its epoch is strictly greater
//! than the one known; nothing is sent again once its body is spent; no address but an endpoint of the table is ever dialled.

mod classify;
mod consider;
mod lookup;
mod trace;

use std::{sync::Arc, time::Duration};

use waypost_conf::{Address, OnStale, Policy, RedirectTo};

use crate::{
    Code, Head, Hints, Lease, Moment, Reply, Table, Upstream, balance,
    head::Target,
    hints::Hint,
    table::{RequestKey, Source, UpstreamId},
    wire::{StaleState, Stamp},
};
use classify::{Verdict, classify};
pub(crate) use consider::{Considered, consider};
pub use lookup::{Found as LookedUp, look_up, settle};
pub use trace::{Dispatched, Dispatches, Outcome, StaleOutcome, Trace};

/// How long a backend may wait for its own watch to catch up with a stamp, in milliseconds.
pub const BACKEND_WAIT_MS: u64 = 50;
/// How many endpoints of one owner are tried for a request whose connections fail.
const MAX_CONNECT_TRIES: usize = 3;

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
    Answered,
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
}

/// One dispatch, as it was stamped.
#[derive(Clone, Debug)]
struct Dispatch {
    owner: UpstreamId,
    epoch: u64,
    endpoint: Address,
}

/// One request.
#[derive(Debug, Default)]
pub struct Exchange {
    key: Option<RequestKey>,
    policy: Arc<Policy>,
    last: Option<Dispatch>,
    /// Endpoints of the present owner that could not be connected to.
    tried: Vec<Address>,
    /// What is left of the body while a check runs.
    body: Option<Body>,
    trace: Trace,
}

impl Exchange {
    /// What happened so far, for the log.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// The policy in force for the request: that of its first dispatch.
    pub fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    /// The one transition. `head` is the request's, without any `Route-*` of the client.
    pub fn step<H: Head, R: Reply>(&mut self, head: &H, input: Input<'_, R>, world: &mut World<'_>) -> Next {
        self.trace.revision = world.table.revision();
        let next = match input {
            Input::Start => self.start(head, world),
            Input::Reply(reply, body) => self.reply(head, reply, body, world),
            Input::Failed(failure, sent, body) => self.failed(head, failure, sent, body, world),
            Input::Found(found) => self.found(head, found, world),
        };
        let next = next.unwrap_or_else(Next::Answer);
        self.note_outcome(&next);
        next
    }

    fn start<H: Head>(&mut self, head: &H, world: &mut World<'_>) -> Result<Next, Code> {
        self.trace.started = world.now;
        let mut considered = Considered::default();
        let found = consider(head, world, &mut considered);
        let Considered { service, key, known } = considered;
        if let Some((service, _)) = service {
            self.trace.service = Some(Arc::clone(service));
            self.policy = Arc::clone(&service.policy);
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

    fn reply<H: Head, R: Reply>(&mut self, head: &H, reply: &R, body: Body, world: &mut World<'_>) -> Result<Next, Code> {
        let (Some(last), Some(service)) = (self.last.clone(), self.trace.service.clone()) else { return Err(Code::Internal) };
        let stale = match classify(reply, &service.name, self.key.as_ref().map(|key| &*key.key)) {
            Verdict::Served => {
                self.trace.dispatches.end_last(world.now, Outcome::Answered(reply.status()));
                return Ok(Next::Relay);
            }
            Verdict::Stale(stale) => stale,
        };
        self.trace.dispatches.end_last(world.now, stale.as_outcome());
        self.trace.stale.push(stale.state);
        if stale.state != StaleState::Moved {
            // The other states belong to moves; a version that does not know them must not guess.
            return Err(Code::StaleUnhealed);
        }
        let Some(key) = self.key.clone() else { return Err(Code::StaleUnhealed) };
        // Looked up anew: the table may have caught up while the request was away.
        let known = look_up(&key, world).ok();
        let known_epoch = known.as_ref().map_or(0, |found| found.epoch).max(last.epoch);
        if let Some((owner, epoch)) = stale.may_be_followed(known_epoch, world.table) {
            let hint = Hint {
                owner,
                epoch,
                revision: stale.revision,
                reporter: last.endpoint.clone(),
                taken_at: world.now,
                over: known.as_ref().map_or(0, |found| found.create_revision),
            };
            if world.hints.take(&key, hint) {
                return self.follow(head, LookedUp { owner, epoch, source: Source::Hint, create_revision: 0 }, body, world);
            }
        }
        if let Some(newer) = known.filter(|found| found.epoch > last.epoch) {
            return self.follow(head, newer, body, world);
        }
        self.body = Some(body);
        Ok(Next::Check(key))
    }

    fn found<H: Head>(&mut self, head: &H, found: Found, world: &mut World<'_>) -> Result<Next, Code> {
        let (Some(body), Some(key), Some(last)) = (self.body.take(), self.key.clone(), self.last.clone()) else {
            return Err(Code::Internal);
        };
        if found != Found::Answered {
            return Err(Code::StaleUnhealed);
        }
        settle(&key, world);
        let now_known = self.look_up(world)?;
        if now_known.owner == last.owner && now_known.epoch == last.epoch {
            return Err(Code::StaleUnhealed);
        }
        self.follow(head, now_known, body, world)
    }

    /// Goes after an owner or an epoch other than the one that refused.
    fn follow<H: Head>(&mut self, head: &H, to: LookedUp, body: Body, world: &mut World<'_>) -> Result<Next, Code> {
        if self.policy.on_stale == OnStale::Redirect {
            return self.redirect(head, to.owner, world);
        }
        if self.trace.hops >= self.policy.max_hops {
            return Err(Code::StaleUnhealed);
        }
        if body == Body::Spent {
            return Err(Code::StaleUnhealed);
        }
        let advances = self.last.as_ref().is_none_or(|last| to.epoch > last.epoch);
        let free = advances && self.trace.hops == 0;
        if !free && !self.draw(world) {
            return Err(Code::StaleUnhealed);
        }
        self.trace.hops += 1;
        self.tried.clear();
        self.dispatch(to, world)
    }

    fn redirect<H: Head>(&self, head: &H, owner: UpstreamId, world: &World<'_>) -> Result<Next, Code> {
        let upstream = world.table.upstream(owner);
        let public_url = upstream.and_then(|upstream| upstream.public_url.as_ref());
        match (self.policy.redirect_to, public_url) {
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

    fn failed<H: Head>(&mut self, head: &H, failure: Failure, sent: Sent, body: Body, world: &mut World<'_>) -> Result<Next, Code> {
        let Some(last) = self.last.clone() else { return Err(Code::Internal) };
        let code = failure.code();
        self.trace.dispatches.end_last(world.now, Outcome::Failed(failure));
        if body == Body::Spent {
            return Err(code);
        }
        let again = match (failure, sent) {
            (Failure::Connect | Failure::ConnectTimeout, _) => {
                self.mark_refusing(&last, failure, world);
                self.tried.push(last.endpoint.clone());
                self.tried.len() < MAX_CONNECT_TRIES
            }
            (Failure::Reset { reused: true }, Sent::Nothing) => true,
            // It may have died idle in the pool, but nobody knows: only what may be executed twice is sent again.
            (Failure::Reset { reused: true }, Sent::Something) => is_idempotent(head.method()),
            _ => false,
        };
        if !again {
            return Err(code);
        }
        let to = self.look_up(world)?;
        if !self.has_another_endpoint(&to, world) || !self.draw(world) {
            return Err(code);
        }
        self.trace.retries += 1;
        self.dispatch(to, world)
    }

    fn mark_refusing(&self, last: &Dispatch, failure: Failure, world: &World<'_>) {
        let Some(upstream) = world.table.upstream(last.owner) else { return };
        let refused = upstream.endpoints.iter().find(|endpoint| endpoint.address == last.endpoint);
        if let Some(endpoint) = refused.filter(|_| matches!(failure, Failure::Connect | Failure::ConnectTimeout)) {
            endpoint.state.refuse(world.now);
        }
    }

    fn has_another_endpoint(&self, to: &LookedUp, world: &World<'_>) -> bool {
        let upstream = world.table.upstream(to.owner);
        upstream.is_some_and(|upstream| upstream.endpoints.iter().any(|endpoint| !self.tried.contains(&endpoint.address)))
    }

    fn draw(&mut self, world: &World<'_>) -> bool {
        let drawn = self.trace.service.as_ref().is_some_and(|service| service.budget.draw(&self.policy.retries, world.now));
        self.trace.budget_exhausted |= !drawn;
        drawn
    }

    fn look_up(&self, world: &mut World<'_>) -> Result<LookedUp, Code> {
        match (&self.key, &self.trace.service) {
            (Some(key), _) => look_up(key, world),
            (None, Some(service)) => lookup::default_owner(service),
            (None, None) => Err(Code::Internal),
        }
    }

    fn dispatch(&mut self, to: LookedUp, world: &mut World<'_>) -> Result<Next, Code> {
        let upstream = upstream_of(&to, world.table)?;
        self.trace.upstream = Some(Arc::clone(upstream));
        self.trace.epoch = Some(to.epoch);
        self.trace.endpoint = None;
        let lease = balance::choose(upstream, &self.tried, world.now, world.rng).ok_or(Code::NoEndpoint)?;
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
        self.last = Some(Dispatch { owner: to.owner, epoch: to.epoch, endpoint });
        let stamp = Stamp {
            service: self.trace.service.as_ref().map(|service| service.name.to_string()).unwrap_or_default(),
            key: self.trace.key.as_ref().map(|key| key.to_vec()),
            epoch: to.epoch,
            revision: world.table.revision(),
            table: world.table.id().as_str().to_owned(),
            hop: self.trace.hops,
            wait_ms: BACKEND_WAIT_MS,
            ask: None,
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
            Next::Relay | Next::Check(_) => {}
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

/// RFC 9110, section 9.2.2.
fn is_idempotent(method: &[u8]) -> bool {
    matches!(method, b"GET" | b"HEAD" | b"OPTIONS" | b"TRACE" | b"PUT" | b"DELETE")
}

#[cfg(test)]
mod tests;
