//! What is sent, where to, how fast and for how long.

use std::{
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use serde::{Serialize, Serializer};

use crate::keys::{Draw, Keys, Spread, Stale};

/// The most connections of a plan, and the most streams of a connection.
const MOST_CONNECTIONS: usize = 65_536;
const MOST_STREAMS: usize = 10_000;
/// The most requests at once, over all connections.
const MOST_LANES: usize = 1 << 20;
/// Bodies are held in memory.
const MOST_BODY_BYTES: usize = 1 << 30;
const MOST_THREADS: usize = 1024;
/// Beyond that it is a typing error, and clocks have an end.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// A load. [`Plan::to`] has the usual values of what a caller does not care about.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// Where to.
    pub target: Target,
    /// What is spoken there.
    pub protocol: Protocol,
    /// Whose certificate is taken, where the target is `https`.
    pub trust: Trust,
    /// The method.
    pub method: String,
    /// Header fields; `{key}` in a value is replaced by the request's key.
    pub headers: Vec<(String, String)>,
    /// The body of each request.
    pub body: Body,
    /// The routing keys.
    pub keys: Keys,
    /// How often each of them.
    pub spread: Spread,
    /// Requests for keys that are stale.
    pub stale: Option<Stale>,
    /// How fast.
    pub pace: Pace,
    /// Connections kept open.
    pub connections: usize,
    /// Whether each request has a connection of its own instead; so many at once.
    pub new_connections: bool,
    /// How long is measured.
    #[serde(rename = "duration_ms", serialize_with = "as_ms")]
    pub duration: Duration,
    /// How long is run before measuring.
    #[serde(rename = "warm_up_ms", serialize_with = "as_ms")]
    pub warm_up: Duration,
    /// Worker threads.
    pub threads: usize,
    /// The seed that keys are drawn by.
    pub seed: u64,
    /// Processes whose CPU time is counted together, each with its children.
    pub watch_pids: Vec<u32>,
}

/// `http://host:port/path`, or the same with `https`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Target {
    /// Where to connect to.
    pub address: SocketAddr,
    /// Whether over TLS.
    pub tls: bool,
    /// The `Host` header: the host, and the port if it is not the usual one.
    pub host: String,
    /// Path and query; `{key}` in it is replaced by the request's key.
    pub path: String,
}

/// What is spoken on a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// HTTP/1.1: one request after the other.
    #[default]
    Http1,
    /// HTTP/2: by ALPN over TLS, else with prior knowledge.
    Http2 {
        /// Requests at once on each connection.
        streams: usize,
    },
}

/// Whose certificate is taken.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Trust {
    /// One signed by an authority of this system.
    #[default]
    System,
    /// One signed by an authority in this file (PEM).
    Ca(PathBuf),
    /// Anybody's.
    Anyone,
}

/// The body of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Body {
    /// Its length; 0 is none.
    pub bytes: usize,
    /// Whether its length is not said before: chunked over HTTP/1.1, without `content-length` over HTTP/2.
    pub chunked: bool,
}

/// How fast requests are sent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Pace {
    /// Each connection, or stream, sends its next request when the last is answered.
    Closed,
    /// So many requests a second are due, whatever has been answered.
    Open {
        /// Requests a second, over all connections.
        requests_per_second: f64,
    },
}

/// Why a plan can't be made.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum PlanFault {
    /// The URL is none that can be loaded.
    #[error("\"{0}\" can't be loaded: http://host:port/path would be right")]
    Url(String),
    /// The host has no address.
    #[error("\"{0}\" can't be resolved")]
    Host(String),
    /// The keys are no range.
    #[error("\"{0}\" is no range of keys; tenant-0..1000 would be right")]
    Keys(String),
    /// Nothing can be drawn by this exponent.
    #[error("{0} is no exponent of Zipf's law; 0.99 would be right")]
    Zipf(f64),
    /// No share.
    #[error("{0} is no share of stale keys; a number from 0 to 1 would be right")]
    Share(f64),
    /// The pace.
    #[error("{0} requests a second can't be sent; a number above 0 would be right")]
    Rate(f64),
    /// The connections.
    #[error("{0} connections can't be held; 1 to 65536 would be right")]
    Connections(usize),
    /// The streams.
    #[error("{0} streams can't be held on a connection; 1 to 10000 would be right")]
    Streams(usize),
    /// Streams of a connection that has one request only.
    #[error("{0} streams on connections that each have one request; 1 would be right")]
    StreamsOfNew(usize),
    /// What can't stand in a request.
    #[error("\"{0}\" can't stand in a request: {1}")]
    Request(String, &'static str),
    /// No certificate can be judged.
    #[error("the certificates of {0} can't be used: {1}")]
    Authorities(String, String),
    /// Requests at once.
    #[error("{0} requests at once are too many; 1048576 would be right")]
    Lanes(usize),
    /// Threads.
    #[error("{0} threads can't be had; 1 to 1024 would be right")]
    Threads(usize),
    /// A body that does not fit into memory.
    #[error("a body of {0} bytes can't be sent; 1073741824 would be right")]
    Body(usize),
    /// Nothing is measured, or for ever.
    #[error("{0:?} can't be measured, or warmed up; 10s would be right")]
    Duration(Duration),
}

impl Target {
    /// Reads a URL and resolves its host.
    ///
    /// # Errors
    /// If it is no `http://` or `https://` URL, or its host has no address.
    pub fn parse(url: &str) -> Result<Self, PlanFault> {
        let wrong = || PlanFault::Url(url.to_owned());
        let (rest, tls) = match (url.strip_prefix("http://"), url.strip_prefix("https://")) {
            (Some(rest), _) => (rest, false),
            (_, Some(rest)) => (rest, true),
            _ => return Err(wrong()),
        };
        let (host, path) = rest.find(['/', '?']).map_or((rest, ""), |at| rest.split_at(at));
        if host.is_empty() || host.contains(['@', ' ', '\r', '\n']) || path.contains([' ', '\r', '\n', '#']) {
            return Err(wrong());
        }
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        // The colons of an IPv6 address stand in brackets.
        let port = host.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')).map(|(_, port)| port);
        let with_port = match port {
            Some(port) if port.parse::<u16>().is_ok() => host.to_owned(),
            Some(_) => return Err(wrong()),
            None => format!("{host}:{}", if tls { 443 } else { 80 }),
        };
        let mut found = std::net::ToSocketAddrs::to_socket_addrs(&with_port).map_err(|_| PlanFault::Host(host.to_owned()))?;
        let address = found.next().ok_or_else(|| PlanFault::Host(host.to_owned()))?;
        Ok(Self { address, tls, host: host.to_owned(), path })
    }

    /// The host without its port: what a certificate has to name.
    pub(crate) fn name(&self) -> &str {
        let host = self.host.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')).map_or(&*self.host, |(host, _)| host);
        host.trim_start_matches('[').trim_end_matches(']')
    }
}

/// When the requests of one lane are due.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    pub(crate) first: Instant,
    pub(crate) every: Duration,
}

impl Plan {
    /// A plan with the usual values: HTTP/1.1, GET, one key `tenant-0`, a closed loop of 32 connections on one thread, ten seconds after one.
    pub fn to(target: Target) -> Self {
        Self {
            target,
            protocol: Protocol::default(),
            trust: Trust::default(),
            method: "GET".to_owned(),
            headers: Vec::new(),
            body: Body::default(),
            keys: Keys { prefix: "tenant-".to_owned(), range: 0..1 },
            spread: Spread::default(),
            stale: None,
            pace: Pace::Closed,
            connections: 32,
            new_connections: false,
            duration: Duration::from_secs(10),
            warm_up: Duration::from_secs(1),
            threads: 1,
            seed: 1,
            watch_pids: Vec::new(),
        }
    }

    /// Whether it can be run; processes are looked at when it is.
    ///
    /// # Errors
    /// What is wrong, and what would be right.
    pub fn check(&self) -> Result<(), PlanFault> {
        Draw::new(self.keys.range.clone(), self.spread)?;
        if let Some(stale) = &self.stale {
            Draw::new(stale.keys.range.clone(), self.spread)?;
            if !(0.0..=1.0).contains(&stale.share) {
                return Err(PlanFault::Share(stale.share));
            }
        }
        if let Pace::Open { requests_per_second: rate } = self.pace
            && !(rate.is_finite() && rate > 0.0)
        {
            return Err(PlanFault::Rate(rate));
        }
        if !(1..=MOST_CONNECTIONS).contains(&self.connections) {
            return Err(PlanFault::Connections(self.connections));
        }
        if !(1..=MOST_STREAMS).contains(&self.streams()) {
            return Err(PlanFault::Streams(self.streams()));
        }
        if self.new_connections && self.streams() > 1 {
            return Err(PlanFault::StreamsOfNew(self.streams()));
        }
        if self.lanes() > MOST_LANES {
            return Err(PlanFault::Lanes(self.lanes()));
        }
        if !(1..=MOST_THREADS).contains(&self.threads) {
            return Err(PlanFault::Threads(self.threads));
        }
        if self.body.bytes > MOST_BODY_BYTES {
            return Err(PlanFault::Body(self.body.bytes));
        }
        if self.duration.is_zero() || self.duration > LONGEST {
            return Err(PlanFault::Duration(self.duration));
        }
        if self.warm_up > LONGEST {
            return Err(PlanFault::Duration(self.warm_up));
        }
        crate::connection::Connector::new(self)?;
        crate::request::Requests::new(self).map(|_| ())
    }

    /// Requests at once on each connection.
    pub(crate) fn streams(&self) -> usize {
        match self.protocol {
            Protocol::Http1 => 1,
            Protocol::Http2 { streams } => streams,
        }
    }

    /// How many requests may be under way at once: each lane sends one after the other.
    pub(crate) fn lanes(&self) -> usize {
        self.connections * self.streams()
    }

    /// The due times of one lane; `None` in a closed loop. Lanes are spread evenly over the interval.
    pub(crate) fn schedule(&self, lane: usize, begins: Instant) -> Option<Schedule> {
        let Pace::Open { requests_per_second } = self.pace else { return None };
        let every = self.lanes() as f64 / requests_per_second.max(0.001);
        let offset = every * lane as f64 / self.lanes() as f64;
        Some(Schedule { first: begins + Duration::from_secs_f64(offset), every: Duration::from_secs_f64(every) })
    }
}

fn as_ms<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u128(duration.as_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read() {
        let target = Target::parse("http://127.0.0.1:81/a?b").unwrap();
        assert_eq!((target.address.port(), target.tls, &*target.host, &*target.path), (81, false, "127.0.0.1:81", "/a?b"));
        let target = Target::parse("https://[::1]").unwrap();
        assert_eq!((target.address.port(), target.tls, &*target.path, target.name()), (443, true, "/", "::1"));
        assert_eq!(Target::parse("http://127.0.0.1?x").unwrap().path, "/?x");
        assert_eq!(Target::parse("https://[::1]:9").unwrap().name(), "::1");
        for bad in ["ftp://127.0.0.1/", "127.0.0.1", "http://", "http://127.0.0.1:x/", "http://a@127.0.0.1/", "http://127.0.0.1/#a"] {
            assert!(matches!(Target::parse(bad), Err(PlanFault::Url(_))), "{bad}");
        }
    }

    #[test]
    fn what_can_t_be_run_is_said_before() {
        let plan = || Plan::to(Target::parse("http://127.0.0.1:81/").unwrap());
        assert_eq!(plan().check(), Ok(()));
        let keys = || Keys { prefix: "t".to_owned(), range: 0..1 };
        let http2 = Protocol::Http2 { streams: 4 };
        for (wrong, fault) in [
            (Plan { connections: 0, ..plan() }, PlanFault::Connections(0)),
            (Plan { protocol: Protocol::Http2 { streams: 0 }, ..plan() }, PlanFault::Streams(0)),
            (Plan { protocol: http2, new_connections: true, ..plan() }, PlanFault::StreamsOfNew(4)),
            (Plan { stale: Some(Stale { share: 1.5, keys: keys() }), ..plan() }, PlanFault::Share(1.5)),
            (Plan { pace: Pace::Open { requests_per_second: 0.0 }, ..plan() }, PlanFault::Rate(0.0)),
            (Plan { duration: Duration::ZERO, ..plan() }, PlanFault::Duration(Duration::ZERO)),
            (Plan { warm_up: Duration::MAX, ..plan() }, PlanFault::Duration(Duration::MAX)),
            (Plan { threads: 0, ..plan() }, PlanFault::Threads(0)),
            (Plan { body: Body { bytes: usize::MAX, chunked: false }, ..plan() }, PlanFault::Body(usize::MAX)),
            (Plan { connections: 65_536, protocol: Protocol::Http2 { streams: 100 }, ..plan() }, PlanFault::Lanes(6_553_600)),
        ] {
            assert_eq!(wrong.check(), Err(fault));
        }
        for (name, value) in [("a b", "c"), ("", "c"), ("a", "b\r\nc"), ("content-length", "5"), ("Transfer-Encoding", "chunked")] {
            let wrong = Plan { headers: vec![(name.to_owned(), value.to_owned())], ..plan() };
            assert!(matches!(wrong.check(), Err(PlanFault::Request(..))), "{name}: {value}");
        }
    }

    #[test]
    fn requests_of_all_lanes_are_due_evenly() {
        let pace = Pace::Open { requests_per_second: 100.0 };
        let plan = Plan { connections: 4, pace, ..Plan::to(Target::parse("http://127.0.0.1:81/").unwrap()) };
        let begins = Instant::now();
        let due: Vec<_> = (0..4).map(|lane| plan.schedule(lane, begins).unwrap()).collect();
        assert!(due.iter().all(|schedule| schedule.every == Duration::from_millis(40)));
        assert_eq!(due.iter().map(|schedule| (schedule.first - begins).as_millis()).collect::<Vec<_>>(), [0, 10, 20, 30]);
    }
}
