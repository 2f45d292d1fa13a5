//! Which service a request belongs to: host first, then path, each by hash, never by trying rules in turn.
//!
//! An exact host beats a wildcard, a longer wildcard a shorter one, a wildcard no host; then the longer path prefix wins, then the
//! older record (INTERFACE.md). A level at which no path fits falls through to the next. Built once a publish that
//! changes a service, immutable afterwards.

use std::collections::HashMap;

use waypost_conf::{HostPattern, Name, Service};

use crate::head::normal_host;

/// The index over all services' match entries. `usize` values are positions in the caller's list of services.
#[derive(Debug, Default)]
pub struct Matcher {
    exact: HashMap<Box<str>, Paths, ahash::RandomState>,
    wildcard: HashMap<Box<str>, Paths, ahash::RandomState>,
    any: Paths,
}

/// What matched: for `explain`, and for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matched {
    /// The position of the service.
    pub service: usize,
    /// How long the matching path prefix is, in bytes.
    pub prefix_bytes: usize,
}

/// Two services that claim the same host pattern and path prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clash {
    /// The service that gets the requests: the older record.
    pub winner: Name,
    /// The service that does not.
    pub loser: Name,
    /// The host pattern, `*` for any host.
    pub host: String,
    /// The path prefix.
    pub path_prefix: String,
}

/// The path prefixes under one host pattern.
#[derive(Debug, Default)]
struct Paths {
    by_prefix: HashMap<Box<[u8]>, usize, ahash::RandomState>,
    /// The lengths that occur, longest first: one hash look-up each.
    lengths: Vec<usize>,
}

impl Matcher {
    /// Builds the index. `services` must be ordered from the oldest record to the newest: of two that clash the first wins.
    pub fn build<'a>(services: impl IntoIterator<Item = (&'a Name, &'a Service)>) -> (Self, Vec<Clash>) {
        let mut matcher = Self::default();
        let mut clashes = Vec::new();
        let mut names: Vec<&Name> = Vec::new();
        for (position, (name, service)) in services.into_iter().enumerate() {
            names.push(name);
            for entry in &service.matches {
                let prefix = entry.path_prefix.as_str();
                let mut add = |host: String, paths: &mut Paths| {
                    let Some(winner) = paths.insert(prefix, position) else { return };
                    clashes.push(Clash { winner: names[winner].clone(), loser: name.clone(), host, path_prefix: prefix.to_owned() });
                };
                if entry.hosts.is_empty() {
                    add("*".to_owned(), &mut matcher.any);
                }
                for host in &entry.hosts {
                    match host {
                        HostPattern::Exact(host) => add(host.clone(), matcher.exact.entry(host.as_str().into()).or_default()),
                        HostPattern::Wildcard(parent) => {
                            add(format!("*.{parent}"), matcher.wildcard.entry(parent.as_str().into()).or_default());
                        }
                    }
                }
            }
        }
        (matcher, clashes)
    }

    /// The service for an authority (as sent, or `None`) and a path (as sent).
    pub fn find(&self, authority: Option<&[u8]>, path: &[u8]) -> Option<Matched> {
        let host = authority.and_then(normal_host);
        let by_host = host.as_deref().and_then(|host| self.find_by_host(host, path));
        by_host.or_else(|| self.any.find(path))
    }

    fn find_by_host(&self, host: &str, path: &[u8]) -> Option<Matched> {
        if let Some(found) = self.exact.get(host).and_then(|paths| paths.find(path)) {
            return Some(found);
        }
        if self.wildcard.is_empty() {
            return None;
        }
        let mut rest = host;
        while let Some((_, parent)) = rest.split_once('.') {
            if let Some(found) = self.wildcard.get(parent).and_then(|paths| paths.find(path)) {
                return Some(found);
            }
            rest = parent;
        }
        None
    }
}

impl Paths {
    /// Adds a prefix; `Some(position of the winner)` if another service has it already.
    fn insert(&mut self, prefix: &str, service: usize) -> Option<usize> {
        // "/" matches every path, also "*": it is the empty prefix.
        let prefix = if prefix == "/" { "" } else { prefix };
        if let Some(&winner) = self.by_prefix.get(prefix.as_bytes()) {
            return (winner != service).then_some(winner);
        }
        self.by_prefix.insert(prefix.as_bytes().into(), service);
        if let Err(at) = self.lengths.binary_search_by(|length| prefix.len().cmp(length)) {
            self.lengths.insert(at, prefix.len());
        }
        None
    }

    fn find(&self, path: &[u8]) -> Option<Matched> {
        let whole_segment = |length: usize| length == 0 || path.len() == length || path.get(length) == Some(&b'/');
        self.lengths.iter().filter(|&&length| length <= path.len() && whole_segment(length)).find_map(|&length| {
            let service = *self.by_prefix.get(&path[..length])?;
            Some(Matched { service, prefix_bytes: length.max(1) })
        })
    }
}
