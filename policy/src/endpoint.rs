//! Upstreams and their endpoints as a request meets them: the immutable description, and beside it the state that lives on.
//!
//! The state (requests in flight, a recent refusal, the resolved address) hangs on an `Arc` that each publish carries over, so
//! that a change of the table never resets it. A [`Lease`] is one request's slot at an endpoint; dropping it gives the slot back,
//! since cancellation is the commonest end.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use waypost_conf::{Address, Balance, Name, Protocol, PublicUrl, UpstreamTls};

use crate::{Moment, table::UpstreamId};

/// How long an endpoint that has refused a connection, or with which none could be made secure, is passed over while the upstream has others.
pub const REFUSED_FOR: Duration = Duration::from_secs(1);

/// An owner: a group of interchangeable endpoints, as the table in force has it.
#[derive(Debug)]
pub struct Upstream {
    /// Its number in the table.
    pub id: UpstreamId,
    /// Its name in etcd.
    pub name: Name,
    /// How an endpoint is chosen.
    pub balance: Balance,
    /// What its backends speak.
    pub protocol: Protocol,
    /// Whether its backends speak the stale-route protocol before they read a body.
    pub stale_aware: bool,
    /// Where a redirected client reaches it by itself.
    pub public_url: Option<PublicUrl>,
    /// How connections to it are made secure, if they are.
    pub tls: Option<Arc<UpstreamTls>>,
    /// Its endpoints, one an address, in the order of the record and then of the endpoint records.
    pub endpoints: Vec<Endpoint>,
    /// The round-robin position; carried over by publishes.
    pub(crate) turn: Arc<AtomicUsize>,
}

impl Upstream {
    /// An upstream that is in no table: what is behind a guard, under its upstream's name.
    pub fn alone(name: Name, address: Address) -> Self {
        let state = Arc::new(EndpointState::new(&address));
        Self {
            // No name of a table has it: there would have to be four billion.
            id: UpstreamId::new(u32::MAX),
            name,
            balance: Balance::default(),
            protocol: Protocol::default(),
            stale_aware: false,
            public_url: None,
            tls: None,
            endpoints: vec![Endpoint { address, weight: 1, orphaned: false, state }],
            turn: Arc::default(),
        }
    }
}

/// One endpoint of an upstream.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// `host:port`, as written.
    pub address: Address,
    /// Its share of the traffic against the others; at least 1.
    pub weight: u32,
    /// True for the last leased endpoint, kept in use although its record has gone (INTERFACE.md).
    pub orphaned: bool,
    /// What outlives a publish.
    pub state: Arc<EndpointState>,
}

/// What is known of an endpoint beside its record. Lives as long as any table or request that names it.
#[derive(Debug, Default)]
pub struct EndpointState {
    in_flight: AtomicU32,
    /// The moment until which it is passed over, in nanoseconds; 0: not refused.
    refused_until: AtomicU64,
    resolved: ArcSwapOption<SocketAddr>,
}

impl EndpointState {
    /// The state of a new endpoint; one given as an address needs no resolving.
    pub(crate) fn new(address: &Address) -> Self {
        let resolved = address.as_str().parse().ok().map(Arc::new);
        Self { resolved: ArcSwapOption::from(resolved), ..Self::default() }
    }

    /// Requests that hold a lease now.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Where to connect to; `None` while a name has never been resolved.
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        self.resolved.load().as_deref().copied()
    }

    /// Takes a resolver's answer; the last good one stays where a later look-up fails.
    pub fn resolved(&self, to: SocketAddr) {
        self.resolved.store(Some(Arc::new(to)));
    }

    /// Notes that it has just refused a connection.
    pub fn refuse(&self, now: Moment) {
        self.refused_until.store((now + REFUSED_FOR).as_nanos(), Ordering::Relaxed);
    }

    /// Whether it refused a connection within the last second.
    pub fn is_refusing(&self, now: Moment) -> bool {
        self.refused_until.load(Ordering::Relaxed) > now.as_nanos()
    }
}

/// One request's slot at one endpoint. Holds the few values that a long transfer needs, never the table.
#[derive(Debug)]
pub struct Lease {
    upstream: Arc<Upstream>,
    index: usize,
    to: SocketAddr,
}

impl Lease {
    /// Takes a slot at the endpoint `index`; `None` where it has no address yet.
    pub(crate) fn take(upstream: &Arc<Upstream>, index: usize) -> Option<Self> {
        let endpoint = upstream.endpoints.get(index)?;
        let to = endpoint.state.socket_addr()?;
        endpoint.state.in_flight.fetch_add(1, Ordering::Relaxed);
        Some(Self { upstream: Arc::clone(upstream), index, to })
    }

    /// The upstream that owns the endpoint.
    pub fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }

    /// The endpoint.
    pub fn endpoint(&self) -> &Endpoint {
        &self.upstream.endpoints[self.index]
    }

    /// Where to connect to.
    pub fn socket_addr(&self) -> SocketAddr {
        self.to
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.endpoint().state.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
