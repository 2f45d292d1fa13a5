//! Clients: what they ask for, and when they go away.

use std::{collections::BTreeMap, time::Duration};

use waypost_policy::Code;

use crate::{
    history::Seen,
    world::{Peer, Pid, World},
};

/// How often a client goes where it is redirected to.
const MAX_REDIRECTS: u32 = 8;

/// A request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyKind {
    None,
    /// It fits in what a proxy keeps.
    Small,
    Large,
    /// It stays with the client until it is told to send it.
    Expects,
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) key: usize,
    pub(crate) method: &'static str,
    pub(crate) body: BodyKind,
}

/// All of them.
#[derive(Default)]
pub(crate) struct Clients {
    requests: u64,
    waiting: BTreeMap<u64, Waiting>,
    /// Nothing is asked for any more.
    pub(crate) are_done: bool,
}

struct Waiting {
    wanted: Wanted,
    proxy: Pid,
    redirects: u32,
}

impl World {
    /// Requests come, until there have been enough.
    pub(crate) fn requests_come(&mut self) {
        if self.clients.are_done {
            return;
        }
        let wanted = self.some_request();
        self.ask_for(wanted, None);
        // At times many come at once.
        if self.chance(2) {
            for _ in 0..self.rng.usize(5..40) {
                let again = Wanted { key: wanted.key, ..self.some_request() };
                self.ask_for(again, None);
            }
        }
        let gap = self.plan.gap.mul_f64(-(1.0 - self.rng.f64()).ln());
        self.later(gap, World::requests_come);
    }

    fn some_request(&mut self) -> Wanted {
        let calm_keys = self.plan.keys.iter().position(|key| key.kind == crate::plan::Kind::Crowd);
        let key = self.rng.usize(..calm_keys.unwrap_or(self.plan.keys.len()));
        let method = ["GET", "GET", "GET", "POST", "POST", "POST", "PUT", "DELETE"][self.rng.usize(..8)];
        let has_large = self.plan.is_faulty || self.plan.are_aware();
        let body = match (method, self.rng.u32(0..10)) {
            ("GET" | "DELETE", _) | (_, 0) => BodyKind::None,
            (_, 1) if has_large => BodyKind::Large,
            (_, 2) => BodyKind::Expects,
            _ => BodyKind::Small,
        };
        Wanted { key, method, body }
    }

    /// Sends a request; to this proxy, or to any.
    pub(crate) fn ask_for(&mut self, wanted: Wanted, proxy: Option<Pid>) {
        let living: Vec<Pid> = self.proxies.keys().copied().filter(|pid| self.is_alive(*pid)).collect();
        let Some(proxy) = proxy.or_else(|| self.rng.choice(&living).copied()) else { return };
        self.clients.requests += 1;
        let request = self.clients.requests;
        self.clients.waiting.insert(request, Waiting { wanted, proxy, redirects: 0 });
        self.seen(Seen::Sent { request, proxy, key: wanted.key, method: wanted.method });
        self.send(Peer::Clients, Peer::Process(proxy), move |world| world.accept(proxy, request, &wanted));
        let patience = if self.chance(3) { self.micros(100, 60_000) } else { Duration::from_secs(12) };
        self.later(patience, move |world| world.client_goes(request));
    }

    /// It has not been answered in time, or does not want to be any more.
    fn client_goes(&mut self, request: u64) {
        let Some(Waiting { proxy, .. }) = self.clients.waiting.remove(&request) else { return };
        self.seen(Seen::Gone { request });
        // One that goes in silence is noticed only when it is answered.
        if self.chance(70) && self.is_alive(proxy) {
            self.send(Peer::Clients, Peer::Process(proxy), move |world| world.abandon(proxy, request));
        }
    }

    pub(crate) fn client_answered(&mut self, request: u64, status: u16, code: Option<Code>) {
        let Some(waiting) = self.clients.waiting.get_mut(&request) else { return };
        if code == Some(Code::Moved) && waiting.redirects < MAX_REDIRECTS {
            waiting.redirects += 1;
            let (proxy, wanted) = (waiting.proxy, waiting.wanted);
            self.seen(Seen::Redirected { request });
            return self.send(Peer::Clients, Peer::Process(proxy), move |world| world.accept(proxy, request, &wanted));
        }
        self.clients.waiting.remove(&request);
        self.seen(Seen::Answered { request, status, code });
    }

    /// The proxy has died: its clients see that.
    pub(crate) fn clients_break(&mut self, pid: Pid) {
        let gone: Vec<u64> = self.clients.waiting.iter().filter(|(_, waiting)| waiting.proxy == pid).map(|(id, _)| *id).collect();
        for request in gone {
            self.clients.waiting.remove(&request);
            self.seen(Seen::Gone { request });
        }
    }
}
