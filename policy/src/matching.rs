//! Which service a request belongs to: host first, then path, each by hash, never by trying rules in turn.
//!
//! An exact host beats a wildcard, a longer wildcard a shorter one, a wildcard no host; then the longer path prefix wins, then the
//! older record (INTERFACE.md). A level at which no path fits falls through to the next. Built once a publish that
//! changes a service, immutable afterwards.

use std::collections::HashMap;

use waypost_conf::{HostPattern, Match, Name, Service};

use crate::head::normal_host;

/// The index over all services' match entries. `usize` values are positions in the caller's list of services.
#[derive(Debug, Default)]
pub struct Matcher {
    exact: HashMap<Box<str>, Paths, ahash::RandomState>,
    wildcard: HashMap<Box<str>, Paths, ahash::RandomState>,
    any: Paths,
}

/// What matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matched {
    /// The position of the service.
    pub service: usize,
    /// By which of its entries.
    pub fit: Fit,
}

/// How closely an entry fits a request; the greater wins, and of equals the older record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fit {
    /// By which kind of host pattern.
    pub host: HostFit,
    /// How long the matching path prefix is, in bytes; at least 1.
    pub prefix_bytes: usize,
}

/// How closely a host pattern fits, from the loosest on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HostFit {
    /// The entry names no host.
    Any,
    /// A wildcard.
    Wildcard {
        /// How much of the host's end is the pattern's: `x.y` of `*.x.y`.
        parent_bytes: usize,
    },
    /// The host itself.
    Exact,
}

/// How a service stands to a request, looked at alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// None of its entries has the host.
    OtherHost,
    /// Some have the host, but none of those the path.
    OtherPath,
    /// It fits, at best like this.
    Fits(Fit),
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
        by_host.or_else(|| self.any.find(HostFit::Any, path))
    }

    fn find_by_host(&self, host: &str, path: &[u8]) -> Option<Matched> {
        if let Some(found) = self.exact.get(host).and_then(|paths| paths.find(HostFit::Exact, path)) {
            return Some(found);
        }
        if self.wildcard.is_empty() {
            return None;
        }
        let mut rest = host;
        while let Some((_, parent)) = rest.split_once('.') {
            let fit = HostFit::Wildcard { parent_bytes: parent.len() };
            if let Some(found) = self.wildcard.get(parent).and_then(|paths| paths.find(fit, path)) {
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

    fn find(&self, host: HostFit, path: &[u8]) -> Option<Matched> {
        self.lengths.iter().filter(|&&length| length <= path.len() && is_whole_segment(path, length)).find_map(|&length| {
            let service = *self.by_prefix.get(&path[..length])?;
            Some(Matched { service, fit: Fit { host, prefix_bytes: length.max(1) } })
        })
    }
}

fn is_whole_segment(path: &[u8], length: usize) -> bool {
    length == 0 || path.len() == length || path.get(length) == Some(&b'/')
}

/// How a service with these entries stands to a request. The index above finds the winner without looking at the others; this
/// says of each of the others why it is not.
pub fn standing(entries: &[Match], authority: Option<&[u8]>, path: &[u8]) -> Standing {
    let host = authority.and_then(normal_host);
    let of_entry = |entry: &Match| {
        let Some(host) = host_fit(entry, host.as_deref()) else { return Standing::OtherHost };
        let prefix = entry.path_prefix.as_str();
        let fits = prefix == "/" || (path.starts_with(prefix.as_bytes()) && is_whole_segment(path, prefix.len()));
        if fits { Standing::Fits(Fit { host, prefix_bytes: prefix.len() }) } else { Standing::OtherPath }
    };
    entries.iter().map(of_entry).max().unwrap_or(Standing::OtherHost)
}

fn host_fit(entry: &Match, host: Option<&str>) -> Option<HostFit> {
    if entry.hosts.is_empty() {
        return Some(HostFit::Any);
    }
    let host = host?;
    let of_pattern = |pattern: &HostPattern| match pattern {
        HostPattern::Exact(exact) => (exact == host).then_some(HostFit::Exact),
        HostPattern::Wildcard(parent) => {
            host.strip_suffix(parent.as_str())?.ends_with('.').then_some(HostFit::Wildcard { parent_bytes: parent.len() })
        }
    };
    entry.hosts.iter().filter_map(of_pattern).max()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use waypost_conf::{Record, RecordKey, decode};

    use super::*;

    fn services(entries: &[(&str, &str)]) -> Vec<(Name, Service)> {
        let decoded = entries.iter().map(|(name, matches)| {
            let name = Name::try_from(*name).unwrap();
            let value = format!(r#"{{"match":{matches},"default_owner":"a"}}"#);
            let Record::Service(service) = decode(&RecordKey::Service(name.clone()), value.as_bytes()).unwrap().record else { panic!() };
            (name, service)
        });
        decoded.collect()
    }

    fn find<'a>(entries: &[(&'a str, &str)], host: &str, path: &str) -> Option<&'a str> {
        let services = services(entries);
        let (matcher, _) = Matcher::build(services.iter().map(|(name, service)| (name, service)));
        matcher.find(Some(host.as_bytes()), path.as_bytes()).map(|matched| entries[matched.service].0)
    }

    #[test]
    fn hosts_come_before_paths_and_fall_through_where_no_path_fits() {
        let entries = [
            ("any", r"[{}]"),
            ("wild", r#"[{"hosts":["*.example.com"]}]"#),
            ("longer-wild", r#"[{"hosts":["*.eu.example.com"],"path_prefix":"/a"}]"#),
            ("exact", r#"[{"hosts":["x.eu.example.com"],"path_prefix":"/a/b"}]"#),
            ("exact-short", r#"[{"hosts":["x.eu.example.com"],"path_prefix":"/a"}]"#),
        ];
        for (host, path, wanted) in [
            ("x.eu.example.com", "/a/b/c", "exact"),
            ("X.EU.Example.com.:80", "/a/b", "exact"),
            ("x.eu.example.com", "/a/bc", "exact-short"),
            ("y.eu.example.com", "/a", "longer-wild"),
            ("a.b.eu.example.com", "/a/", "longer-wild"),
            ("y.eu.example.com", "/ab", "wild"),
            ("x.eu.example.com", "/c", "wild"),
            ("example.com", "/", "any"),
            ("other", "*", "any"),
        ] {
            assert_eq!(find(&entries, host, path), Some(wanted), "{host} {path}");
        }
        assert_eq!(find(&entries[1..], "other", "/"), None);
    }

    #[test]
    fn of_two_that_claim_the_same_the_older_wins_and_the_clash_is_named() {
        let services = services(&[("old", r#"[{"path_prefix":"/a/"}]"#), ("new", r#"[{"path_prefix":"/a"},{"path_prefix":"/b"}]"#)]);
        let (matcher, clashes) = Matcher::build(services.iter().map(|(name, service)| (name, service)));
        assert_eq!(matcher.find(None, b"/a").map(|matched| matched.service), Some(0));
        assert_eq!(matcher.find(None, b"/b").map(|matched| matched.service), Some(1));
        assert_eq!(clashes.len(), 1);
        assert_eq!((&*clashes[0].winner, &*clashes[0].loser, &*clashes[0].path_prefix), ("old", "new", "/a"));
    }

    /// The rule of INTERFACE.md, written as a search over all entries, to hold the index against.
    fn by_the_book(services: &[(Name, Service)], host: &str, path: &str) -> Option<usize> {
        let rank = |pattern: &HostPattern| match pattern {
            HostPattern::Exact(exact) => (exact == host).then_some(usize::MAX),
            HostPattern::Wildcard(parent) => host.strip_suffix(parent.as_str())?.strip_suffix('.').map(|_| 1 + parent.len()),
        };
        let fits = |prefix: &str| prefix == "/" || path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        let candidates = services.iter().enumerate().flat_map(|(position, (_, service))| {
            service.matches.iter().filter(|entry| fits(entry.path_prefix.as_str())).flat_map(move |entry| {
                let ranks: Vec<usize> = if entry.hosts.is_empty() { vec![0] } else { entry.hosts.iter().filter_map(rank).collect() };
                let prefix = entry.path_prefix.as_str();
                let length = if prefix == "/" { 0 } else { prefix.len() };
                ranks.into_iter().map(move |rank| (rank, length, std::cmp::Reverse(position)))
            })
        });
        candidates.max().map(|(_, _, std::cmp::Reverse(position))| position)
    }

    proptest! {
        #[test]
        fn the_index_agrees_with_a_search_over_all_entries(
            entries in proptest::collection::vec((0usize..6, 0usize..5), 1..8),
            host in 0usize..5, path in 0usize..7,
        ) {
            let hosts = ["", r#""hosts":["a.b.c"],"#, r#""hosts":["*.b.c"],"#, r#""hosts":["*.c"],"#, r#""hosts":["b.c"],"#, r#""hosts":["x","*.c"],"#];
            let prefixes = ["/", "/a", "/a/b", "/ab", "/a/b/c"];
            let records: Vec<String> =
                entries.iter().map(|(host, prefix)| format!(r#"[{{{}"path_prefix":"{}"}}]"#, hosts[*host], prefixes[*prefix])).collect();
            let names: Vec<String> = (0..records.len()).map(|number| format!("s{number}")).collect();
            let named: Vec<(&str, &str)> = names.iter().map(String::as_str).zip(records.iter().map(String::as_str)).collect();
            let services = services(&named);
            let (matcher, _) = Matcher::build(services.iter().map(|(name, service)| (name, service)));
            let host = ["a.b.c", "b.c", "z.a.b.c", "c", "x"][host];
            let path = ["/", "/a", "/a/", "/ab", "/a/b", "/a/b/c/d", "/b"][path];
            let found = matcher.find(Some(host.as_bytes()), path.as_bytes()).map(|matched| matched.service);
            prop_assert_eq!(found, by_the_book(&services, host, path), "{} {}", host, path);
            // What is said of each service by itself names the same winner.
            let matched = matcher.find(Some(host.as_bytes()), path.as_bytes());
            let standings = services.iter().map(|(_, service)| standing(&service.matches, Some(host.as_bytes()), path.as_bytes()));
            let best = standings.enumerate().filter_map(|(at, standing)| if let Standing::Fits(fit) = standing { Some((fit, at)) } else { None });
            let best = best.max_by_key(|(fit, at)| (*fit, std::cmp::Reverse(*at)));
            prop_assert_eq!(matched.map(|matched| (matched.fit, matched.service)), best, "{} {}", host, path);
        }
    }
}
