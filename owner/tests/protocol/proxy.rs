//! Proxies: processes that step the `Exchange` with `Hints`, `Parking` and `Checks` as they are shipped. Only what carries out is here, driven as
//! `proxy/src/transport/general.rs`, `proxy/src/state.rs` and `watcher/src/etcd/checks.rs` do; the waits are in `waits`.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use waypost_policy::{
    Body, Code, Exchange, Failure, Head, Hint, Hints, Input, Lease, Moment, Next, Reply, Sent, Table, World as Shared,
    checks::Checks,
    exchange::Trace,
    hints::{Due, Keeper},
    parking::{Parking, Place},
    wire::{STALE_HEADER, Stale, Stamp},
};

use crate::{
    client::{BodyKind, Wanted},
    history::Seen,
    owner::{Answer, Asked},
    plan::HOSTS,
    waits::Asker,
    watching::Watching,
    world::{Peer, Pid, World},
};

/// How long a body that can't be repeated stays with its client until its owner says that it may come.
const WITHHELD_AT_MOST: Duration = Duration::from_millis(100);

/// One proxy.
pub(crate) struct Proxy {
    pub(crate) watching: Watching,
    /// How much later than others it hears of changes.
    pub(crate) lag: Duration,
    pub(crate) hints: Hints,
    pub(crate) parking: Parking,
    pub(crate) checks: Checks<Asker>,
    pub(crate) keeper: Keeper,
    /// Hints that are to be checked, one after the other.
    pub(crate) due: VecDeque<Due>,
    pub(crate) requests: BTreeMap<u64, Request>,
    /// The table that the waiting requests' keeper has compared with last.
    pub(crate) known: Option<Arc<Table>>,
    pub(crate) is_pacing: bool,
    /// Who is worth looking at again.
    pub(crate) woken: Arc<Mutex<Vec<u64>>>,
    /// Owners to which there is a connection.
    pool: BTreeSet<String>,
    hints_shown: Vec<Option<Hint>>,
    refuted: u64,
}

/// One request at a proxy.
pub(crate) struct Request {
    pub(crate) exchange: Exchange,
    head: RequestHead,
    body: BodyKind,
    is_read: bool,
    is_spent: bool,
    pub(crate) place: Option<Place>,
    lease: Option<Lease>,
    attempt: u64,
    /// It has been sent, and nothing has come back.
    is_out: bool,
    connected_at: Option<Moment>,
    pub(crate) is_checking: bool,
    /// The number of the present nap.
    pub(crate) sleeping: Option<u64>,
    pub(crate) naps: u64,
    /// When it ends at the latest, by the proxy's clock.
    pub(crate) ends_at: Option<Moment>,
}

/// A request's head.
pub(crate) struct RequestHead {
    method: &'static str,
    host: &'static str,
    key: String,
}

impl Head for RequestHead {
    fn method(&self) -> &[u8] {
        self.method.as_bytes()
    }

    fn target(&self) -> &[u8] {
        b"/x"
    }

    fn authority(&self) -> Option<&[u8]> {
        Some(self.host.as_bytes())
    }

    fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        (name == "x-tenant").then_some(self.key.as_bytes()).into_iter()
    }
}

impl World {
    /// Starts a proxy.
    pub(crate) fn start_proxy(&mut self, lag: Duration) -> Pid {
        let pid = self.start_process();
        let now = self.local(pid);
        let (keys, room) = (self.plan.keys.len(), self.plan.room);
        let proxy = Proxy {
            watching: Watching::new(keys),
            lag,
            hints: Hints::default(),
            parking: Parking::with_room(room, 1 << 20),
            checks: Checks::new(now),
            keeper: Keeper::default(),
            due: VecDeque::new(),
            requests: BTreeMap::new(),
            known: None,
            is_pacing: false,
            woken: Arc::default(),
            pool: BTreeSet::new(),
            hints_shown: vec![None; keys],
            refuted: 0,
        };
        self.proxies.insert(pid, proxy);
        self.within(pid, Duration::ZERO, move |world| {
            world.feed(pid, waypost_watcher::machine::Input::Start);
            world.keep_hints_each_second(pid);
        });
        pid
    }

    pub(crate) fn proxy(&mut self, pid: Pid) -> &mut Proxy {
        self.proxies.get_mut(&pid).unwrap()
    }

    pub(crate) fn request(&mut self, pid: Pid, id: u64) -> Option<&mut Request> {
        self.proxy(pid).requests.get_mut(&id)
    }

    /// A table has come into force at a proxy.
    pub(crate) fn proxy_in_force(&mut self, pid: Pid, revision: u64) {
        for key in self.proxy(pid).checks.reached(revision) {
            self.end_check(pid, &key, true);
        }
        self.keep_parking_soon(pid);
        self.keep_hints_soon(pid);
    }

    /// A client's request has come.
    pub(crate) fn accept(&mut self, pid: Pid, id: u64, wanted: &Wanted) {
        let key = &self.plan.keys[wanted.key];
        let head = RequestHead { method: wanted.method, host: HOSTS[usize::from(key.service != "orders")], key: key.name.clone() };
        let request = Request {
            exchange: Exchange::default(),
            head,
            body: wanted.body,
            is_read: false,
            is_spent: false,
            place: None,
            lease: None,
            attempt: 0,
            is_out: false,
            connected_at: None,
            is_checking: false,
            sleeping: None,
            naps: 0,
            ends_at: None,
        };
        self.proxy(pid).requests.insert(id, request);
        self.seen(Seen::Accepted { pid, request: id });
        let next = self.step(pid, id, Input::Start);
        let total_ms = self.request(pid, id).unwrap().exchange.policy().timeouts.total_ms;
        if total_ms > 0 {
            let ends_at = self.local(pid) + Duration::from_millis(total_ms);
            self.request(pid, id).unwrap().ends_at = Some(ends_at);
            self.at_local(pid, ends_at, move |world| {
                if world.request(pid, id).is_some_and(|request| request.is_out) {
                    world.finish(pid, id, Code::UpstreamTimeout.status(), Some(Code::UpstreamTimeout));
                }
            });
        }
        self.carry(pid, id, next);
    }

    /// One step of the exchange in the world of this moment.
    pub(crate) fn step(&mut self, pid: Pid, id: u64, input: Input<'_, Answer>) -> Next {
        let (now, mut rng) = (self.local(pid), self.rng.fork());
        let proxy = self.proxy(pid);
        let Some(table) = proxy.watching.table.clone() else { return Next::Answer(Code::NotReady) };
        let Some(Request { exchange, head, .. }) = proxy.requests.get_mut(&id) else { return Next::Answer(Code::Internal) };
        let gold_age = now.since(proxy.watching.fresh_at);
        let next = exchange.step(
            head,
            input,
            &mut Shared { table: &table, hints: &proxy.hints, now, gold_age, is_other_history: false, rng: &mut rng },
        );
        if let Some(key) = exchange.take_learnt() {
            let are_more = proxy.parking.wake(&key, now).is_some();
            self.ring(pid);
            if are_more {
                self.keep_parking_soon(pid);
            }
        }
        self.note_hints(pid);
        next
    }

    pub(crate) fn trace(&mut self, pid: Pid, id: u64) -> Option<&Trace> {
        self.request(pid, id).map(|request| request.exchange.trace())
    }

    /// Carries out what is to be done next.
    pub(crate) fn carry(&mut self, pid: Pid, id: u64, mut next: Next) {
        loop {
            if !matches!(next, Next::Park(_) | Next::Sleep(_))
                && let Some(request) = self.request(pid, id)
                && request.place.take().is_some()
            {
                self.seen(Seen::Unparked { pid, request: id });
            }
            next = match next {
                Next::Forward(lease, stamp) => return self.dispatch(pid, id, lease, &stamp),
                Next::Relay => return,
                Next::Answer(code) => return self.finish(pid, id, code.status(), Some(code)),
                Next::Redirect(_) => return self.finish(pid, id, Code::Moved.status(), Some(Code::Moved)),
                Next::Check(key) => return self.check_for(pid, id, key),
                Next::Park(key) => self.park(pid, id, &key),
                Next::Sleep(until) => return self.sleep(pid, id, until),
            }
        }
    }

    fn dispatch(&mut self, pid: Pid, id: u64, lease: Lease, stamp: &Stamp) {
        let address = lease.endpoint().address.as_str().to_owned();
        let owner = lease.upstream().name.to_string();
        let table = self.table(pid).unwrap();
        let is_in_table = table.upstreams().any(|upstream| upstream.endpoints.iter().any(|it| it.address.as_str() == address));
        let is_withheld = lease.upstream().stale_aware;
        let is_reused = self.proxy(pid).pool.contains(&address) && self.rng.bool();
        let retries = self.trace(pid, id).map_or(0, |trace| trace.retries);
        let request = self.request(pid, id).unwrap();
        (request.attempt, request.is_out, request.lease) = (request.attempt + 1, true, Some(lease));
        let attempt = request.attempt;
        let policy = Arc::clone(request.exchange.policy());
        let (key, method) = (self.plan.key_named(stamp.key.as_deref().unwrap_or_default()), self.request(pid, id).unwrap().head.method);
        let (epoch, revision, hop, is_ask) = (stamp.epoch, stamp.revision, stamp.hop, stamp.ask.is_some());
        self.seen(Seen::Dispatched {
            pid,
            request: id,
            key,
            owner,
            address: address.clone(),
            is_in_table,
            revision,
            epoch,
            hop,
            retries,
            is_ask,
        });
        let Some(to) = self.listener(&address) else {
            let by = self.micros(50, 500);
            return self.within(pid, by, move |world| world.failed(pid, id, attempt, Failure::Connect, Sent::Nothing));
        };
        let (me, owner) = (Peer::Process(pid), Peer::Process(to));
        let connect_limit = Duration::from_millis(policy.timeouts.connect_ms);
        if !is_reused && self.parted_until(me, owner).is_some_and(|until| until.since(self.now) > connect_limit) {
            let at = self.local(pid) + connect_limit;
            return self.at_local(pid, at, move |world| world.failed(pid, id, attempt, Failure::ConnectTimeout, Sent::Nothing));
        }
        let (local, is_read_now) = (self.local(pid), self.chance(80));
        let request = self.request(pid, id).unwrap();
        request.connected_at = Some(local);
        request.is_read |= is_read_now;
        request.is_spent |= request.body == BodyKind::Large && !is_withheld;
        let first_byte_at = local + Duration::from_millis(policy.timeouts.first_byte_ms);
        self.at_local(pid, first_byte_at, move |world| world.failed(pid, id, attempt, Failure::FirstByteTimeout, Sent::Something));
        // A connection that has lain idle may have died.
        let dies_idle = is_reused && self.fault(15);
        if dies_idle || self.fault(10) {
            let by = if dies_idle { self.micros(10, 500) } else { self.micros(100, 30_000) };
            self.within(pid, by, move |world| world.failed(pid, id, attempt, Failure::Reset { reused: is_reused }, Sent::Something));
            if dies_idle || self.rng.bool() {
                return;
            }
        }
        let asked = Asked::new(id, Some((pid, attempt)), key, method, Some(&stamp.to_value()));
        self.send(me, owner, move |world| {
            if world.instances[&to].is_serving {
                world.arrive(to, asked);
            }
        });
    }

    /// The owner's process has died: who waits for it is told.
    pub(crate) fn connections_break(&mut self, address: &str) {
        let proxies: Vec<Pid> = self.proxies.keys().copied().filter(|pid| self.is_alive(*pid)).collect();
        for pid in proxies {
            let is_reused = self.proxy(pid).pool.remove(address);
            let is_there = |request: &Request| request.lease.as_ref().is_some_and(|lease| lease.endpoint().address.as_str() == address);
            let broken = self.proxy(pid).requests.iter().filter(|(_, request)| request.is_out && is_there(request));
            let broken: Vec<(u64, u64)> = broken.map(|(id, request)| (*id, request.attempt)).collect();
            for (id, attempt) in broken {
                let by = self.micros(50, 2000);
                let reused = is_reused && self.rng.bool();
                self.within(pid, by, move |world| world.failed(pid, id, attempt, Failure::Reset { reused }, Sent::Something));
            }
        }
    }

    fn failed(&mut self, pid: Pid, id: u64, attempt: u64, failure: Failure, sent: Sent) {
        let Some(body) = self.end_attempt(pid, id, attempt) else { return };
        self.request(pid, id).unwrap().lease = None;
        self.seen(Seen::Failed { request: id, failure });
        let next = self.step(pid, id, Input::Failed(failure, sent, body));
        self.carry(pid, id, next);
    }

    /// The owner has answered.
    pub(crate) fn answered(&mut self, pid: Pid, id: u64, attempt: u64, answer: &Answer) {
        let Some(body) = self.end_attempt(pid, id, attempt) else { return };
        let stale = answer.values(STALE_HEADER).next().and_then(|value| Stale::parse(value).ok());
        self.seen(Seen::Heard { request: id, state: stale.map(|stale| stale.state) });
        let next = self.step(pid, id, Input::Reply(answer, body));
        let request = self.request(pid, id).unwrap();
        if let Some(lease) = request.lease.take() {
            let address = lease.endpoint().address.as_str().to_owned();
            self.proxy(pid).pool.insert(address);
        }
        if matches!(next, Next::Relay) {
            return self.finish(pid, id, answer.status, None);
        }
        self.carry(pid, id, next);
    }

    /// What is left of the body when an attempt ends; `None` if it has ended before.
    fn end_attempt(&mut self, pid: Pid, id: u64, attempt: u64) -> Option<Body> {
        let local = self.local(pid);
        let request = self.request(pid, id).filter(|request| request.is_out && request.attempt == attempt)?;
        request.is_out = false;
        let went_on = request.connected_at.take().is_some_and(|at| local.since(at) >= WITHHELD_AT_MOST);
        request.is_spent |= request.body == BodyKind::Large && went_on;
        Some(match request.body {
            BodyKind::None => Body::None,
            BodyKind::Small if request.is_read => Body::Buffered,
            BodyKind::Large if request.is_spent => Body::Spent,
            BodyKind::Small | BodyKind::Large | BodyKind::Expects => Body::Withheld,
        })
    }

    /// The proxy answers the client; nothing of the request is left.
    pub(crate) fn finish(&mut self, pid: Pid, id: u64, status: u16, code: Option<Code>) {
        let Some(request) = self.proxy(pid).requests.remove(&id) else { return };
        let trace = request.exchange.trace();
        let (hops, retries) = (trace.hops, trace.retries);
        if request.place.is_some() {
            self.seen(Seen::Unparked { pid, request: id });
        }
        drop(request);
        self.seen(Seen::Finished { pid, request: id, status, code, hops, retries });
        self.send(Peer::Process(pid), Peer::Clients, move |world| world.client_answered(id, status, code));
    }

    /// The client has gone, and that was noticed.
    pub(crate) fn abandon(&mut self, pid: Pid, id: u64) {
        if let Some(request) = self.proxy(pid).requests.remove(&id) {
            if request.place.is_some() {
                self.seen(Seen::Unparked { pid, request: id });
            }
            self.seen(Seen::Abandoned { request: id });
        }
    }

    /// Hints that came and went since this was called last.
    pub(crate) fn note_hints(&mut self, pid: Pid) {
        let Some(table) = self.table(pid) else { return };
        let proxy = &self.proxies[&pid];
        if proxy.hints.is_empty() && proxy.hints_shown.iter().all(Option::is_none) {
            return;
        }
        let now_kept: Vec<Option<Hint>> = (0..self.plan.keys.len())
            .map(|key| self.request_key(&table, key).and_then(|request_key| proxy.hints.get(&request_key)))
            .collect();
        let refuted = proxy.hints.refuted();
        let proxy = self.proxy(pid);
        let refuted_now = refuted - std::mem::replace(&mut proxy.refuted, refuted);
        let before = std::mem::replace(&mut proxy.hints_shown, now_kept.clone());
        let (mut gone, mut taken) = (Vec::new(), Vec::new());
        for (key, (before, now)) in before.into_iter().zip(now_kept).enumerate() {
            if let Some(before) = before.as_ref().filter(|before| now.as_ref().is_none_or(|now| now.epoch != before.epoch)) {
                let owner = table.upstream_name(before.owner).map(ToString::to_string).unwrap_or_default();
                gone.push((key, owner, before.epoch, now.as_ref().is_some_and(|now| now.epoch > before.epoch)));
            }
            if let Some(now) = now.filter(|now| before.is_none_or(|before| before.epoch != now.epoch)) {
                let owner = table.upstream_name(now.owner).map(ToString::to_string).unwrap_or_default();
                let reporter = now.reporter.as_str().to_owned();
                taken.push(Seen::HintTaken { pid, key, owner, epoch: now.epoch, revision: now.revision, reporter });
            }
        }
        if !gone.is_empty() {
            self.seen(Seen::HintsGone { pid, gone, refuted: refuted_now });
        }
        for taken in taken {
            self.seen(taken);
        }
    }
}
