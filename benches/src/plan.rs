//! What is sent, where to, how fast and for how long.

use std::{
    net::SocketAddr,
    ops::Range,
    time::{Duration, Instant},
};

/// A load.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where to.
    pub target: Target,
    /// The method.
    pub method: String,
    /// Header fields; `{key}` in a value is replaced by the request's key.
    pub headers: Vec<(String, String)>,
    /// The routing keys.
    pub keys: Keys,
    /// How fast.
    pub pace: Pace,
    /// Connections kept open.
    pub connections: usize,
    /// How long is measured.
    pub duration: Duration,
    /// How long is run before measuring.
    pub warm_up: Duration,
    /// Worker threads.
    pub threads: usize,
    /// The seed that keys are drawn by.
    pub seed: u64,
    /// Bytes of request body.
    pub body_bytes: usize,
    /// A process whose CPU time is counted.
    pub watch_pid: Option<u32>,
}

/// `http://host:port/path`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Where to connect to.
    pub address: SocketAddr,
    /// The `Host` header.
    pub host: String,
    /// Path and query; `{key}` in it is replaced by the request's key.
    pub path: String,
}

/// Keys of one prefix and a range of numbers, each equally likely.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    /// What stands before the number.
    pub prefix: String,
    /// The numbers.
    pub range: Range<u64>,
}

/// How fast requests are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// Each connection sends its next request when the last is answered.
    Closed,
    /// So many requests a second are due, whatever has been answered.
    Open {
        /// Requests a second, over all connections.
        requests_per_second: f64,
    },
}

/// Why a plan can't be made.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
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
}

impl Target {
    /// Reads a URL and resolves its host.
    ///
    /// # Errors
    /// If it is no `http://` URL, or its host has no address.
    pub fn parse(url: &str) -> Result<Self, PlanFault> {
        let wrong = || PlanFault::Url(url.to_owned());
        let rest = url.strip_prefix("http://").ok_or_else(wrong)?;
        let (host, path) = rest.find('/').map_or((rest, "/"), |at| (&rest[..at], &rest[at..]));
        if host.is_empty() || path.contains([' ', '\r', '\n']) {
            return Err(wrong());
        }
        let with_port =
            if host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) { host.to_owned() } else { format!("{host}:80") };
        let mut found = std::net::ToSocketAddrs::to_socket_addrs(&with_port).map_err(|_| PlanFault::Host(host.to_owned()))?;
        let address = found.next().ok_or_else(|| PlanFault::Host(host.to_owned()))?;
        Ok(Self { address, host: host.to_owned(), path: path.to_owned() })
    }
}

impl Keys {
    /// Reads `tenant-0..1000`.
    ///
    /// # Errors
    /// If it is no range, or an empty one.
    pub fn parse(text: &str) -> Result<Self, PlanFault> {
        let wrong = || PlanFault::Keys(text.to_owned());
        let (start, end) = text.rsplit_once("..").ok_or_else(wrong)?;
        let digits = start.len() - start.trim_end_matches(|c: char| c.is_ascii_digit()).len();
        let (prefix, first) = start.split_at(start.len() - digits);
        let range = first.parse::<u64>().map_err(|_| wrong())?..end.parse::<u64>().map_err(|_| wrong())?;
        if range.is_empty() { Err(wrong()) } else { Ok(Self { prefix: prefix.to_owned(), range }) }
    }
}

/// When one connection's requests are due.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    pub(crate) first: Instant,
    pub(crate) every: Duration,
}

impl Plan {
    /// The due times of one connection; `None` in a closed loop. Connections are spread evenly over the interval.
    pub(crate) fn schedule(&self, number: usize, begins: Instant) -> Option<Schedule> {
        let Pace::Open { requests_per_second } = self.pace else { return None };
        let every = self.connections as f64 / requests_per_second.max(0.001);
        let offset = every * number as f64 / self.connections as f64;
        Some(Schedule { first: begins + Duration::from_secs_f64(offset), every: Duration::from_secs_f64(every) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_targets_are_read() {
        assert_eq!(Keys::parse("tenant-5..10"), Ok(Keys { prefix: "tenant-".to_owned(), range: 5..10 }));
        for bad in ["", "tenant-", "tenant-5..5", "a..b", "5"] {
            assert!(Keys::parse(bad).is_err(), "{bad}");
        }
        let target = Target::parse("http://127.0.0.1:81/a?b").unwrap();
        assert_eq!((target.address.port(), &*target.host, &*target.path), (81, "127.0.0.1:81", "/a?b"));
        assert!(Target::parse("https://127.0.0.1/").is_err());
    }
}
