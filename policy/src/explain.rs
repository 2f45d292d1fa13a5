//! Why a request would go where it would go: every decision of matching, key, route, upstream and endpoints, and why not the others.
//!
//! It runs what real requests run (`consider`, `upstream_of`, `balance::fitness`) and only puts words to it. It takes no slot, moves no
//! turn, counts nothing and ends no hint; a property test holds it against the exchange itself.

use std::sync::Arc;

use waypost_conf::{Address, Name, escaped};

use crate::{
    Code, Endpoint, Head, Upstream, World,
    balance::{self, Fitness},
    endpoint::REFUSED_FOR,
    exchange::{Considered, LookedUp, Nowhere, consider, upstream_of},
    head::{Target, normal_host},
    matching::{Fit, HostFit, Standing, standing},
    table::{Entry, Route, Service, Source, State, Table},
};

/// What a request would meet now.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// The store's revision that the table reflects.
    pub revision: u64,
    /// What would be done first.
    pub decision: Decision,
    /// What decided it, for a person; only where the request would not be forwarded.
    pub why: Option<String>,
    /// The service that it belongs to.
    pub service: Option<Arc<Service>>,
    /// By which host pattern (`*`: any) and path prefix.
    pub matched: Option<(String, String)>,
    /// Its routing key.
    pub key: Option<Arc<[u8]>>,
    /// The route in force for the key, also one that may not be used.
    pub route: Option<ShownRoute>,
    /// The owner's upstream, if it has a record.
    pub upstream: Option<Arc<Upstream>>,
    /// Its endpoints, in order.
    pub endpoints: Vec<ShownEndpoint>,
    /// The other services, those that came closest first.
    pub not_chosen: Vec<NotChosen>,
    /// What is doubtful in the records of the service and the owner.
    pub warnings: Vec<String>,
}

/// What would be done with the request first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is sent to one of the usable endpoints.
    Forward,
    /// It waits for its key to be served again.
    Park,
    /// It is answered with this code.
    Answer(Code),
}

/// A route as it is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownRoute {
    /// The key of the record; `None` for a default owner.
    pub record: Option<Arc<[u8]>>,
    /// The owner; `None` for a quarantined record, of which nothing is known.
    pub owner: Option<Name>,
    /// The generation of its ownership.
    pub epoch: u64,
    /// What the record says about serving; `Serving` where a hint or a default owner speaks.
    pub state: State,
    /// Whom the owner may pass single requests to, where it is moving.
    pub target: Option<Name>,
    /// Where this is known from.
    pub source: Source,
    /// What a hint lies over: the record's owner and epoch.
    pub over: Option<(Option<Name>, u64)>,
    /// Why this and not the record: whose hint it is.
    pub why: Option<String>,
}

/// One endpoint of the owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownEndpoint {
    /// `host:port`, as written.
    pub address: Address,
    /// Whether the request may be sent to it.
    pub usable: bool,
    /// Why not, or what is special about it.
    pub why: Option<String>,
}

/// A service that the request does not belong to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotChosen {
    /// Its name.
    pub service: Name,
    /// What decided against it: host, path or age.
    pub why: String,
}

/// Explains a request. `head` is the request's, without any `Route-*` of the client.
pub fn explain<H: Head>(head: &H, world: &World<'_>) -> Explanation {
    let mut considered = Considered::default();
    let found = consider(head, world, &mut considered);
    let target = Target::parse(head.target());
    let authority = target.as_ref().and_then(|target| target.authority).or(head.authority());
    let host = authority.and_then(normal_host).unwrap_or_default();
    let chosen = considered.service;
    let mut explanation = Explanation {
        revision: world.table.revision(),
        decision: Decision::Forward,
        why: None,
        service: chosen.map(|(service, _)| Arc::clone(service)),
        matched: chosen.zip(target.as_ref()).map(|((_, fit), target)| (pattern(&fit, &host), prefix(&fit, target.path))),
        key: considered.key.as_ref().map(|key| Arc::clone(&key.key)),
        route: shown_route(&considered, found.as_ref().ok(), world.table),
        upstream: None,
        endpoints: Vec::new(),
        not_chosen: target.map(|target| not_chosen(world.table, authority, &host, target.path, chosen)).unwrap_or_default(),
        warnings: Vec::new(),
    };
    match found.and_then(|found| Ok(explanation.choose(&found, world)?)) {
        Ok(()) => {}
        Err(Nowhere::Frozen) => explanation.park(),
        Err(Nowhere::Answered(code)) => explanation.refuse(code, explanation.why_answered(code)),
    }
    explanation.warnings = warnings(&explanation, world.table);
    explanation
}

impl Explanation {
    /// Of a request that is answered before anything of the table is looked at.
    pub fn answered(code: Code, why: impl Into<String>, revision: u64) -> Self {
        Self {
            revision,
            decision: Decision::Answer(code),
            why: Some(why.into()),
            service: None,
            matched: None,
            key: None,
            route: None,
            upstream: None,
            endpoints: Vec::new(),
            not_chosen: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// Turns the decision into an answer, for something that is checked behind all this.
    pub fn refuse(&mut self, code: Code, why: impl Into<String>) {
        self.decision = Decision::Answer(code);
        self.why = Some(why.into());
    }

    /// Makes it a wait.
    fn park(&mut self) {
        self.decision = Decision::Park;
        let record = self.record_key();
        self.why = Some(format!("{record} is frozen: nobody may serve it now, and requests wait for it"));
    }

    /// The upstream and its endpoints.
    fn choose(&mut self, found: &LookedUp, world: &World<'_>) -> Result<(), Code> {
        let upstream = upstream_of(found, world.table)?;
        self.upstream = Some(Arc::clone(upstream));
        let fitness = |endpoint: &Endpoint| balance::fitness(endpoint, &[], world.now);
        let any_willing = upstream.endpoints.iter().any(|endpoint| fitness(endpoint) == Fitness::Willing);
        self.endpoints = upstream.endpoints.iter().map(|endpoint| shown_endpoint(endpoint, fitness(endpoint), any_willing)).collect();
        if self.endpoints.iter().any(|endpoint| endpoint.usable) { Ok(()) } else { Err(Code::NoEndpoint) }
    }

    /// The key of the record that covers the request's key, or would.
    fn record_key(&self) -> String {
        let name = self.service.as_deref().map(|service| &*service.name).unwrap_or_default();
        let covering = self.route.as_ref().and_then(|route| route.record.as_deref());
        format!("routes/{name}/{}", covering.or(self.key.as_deref()).map(escaped).unwrap_or_default())
    }

    fn why_answered(&self, code: Code) -> String {
        let service = self.service.as_deref();
        let name = service.map(|service| &*service.name).unwrap_or_default();
        let key_source = service.and_then(|service| service.key.as_ref()).map(ToString::to_string).unwrap_or_default();
        let record = self.record_key();
        let owner = self.route.as_ref().and_then(|route| route.owner.as_deref()).unwrap_or_default();
        match (code, service) {
            (Code::BadRequest, None) => "the target is neither a path nor a URL that may stand in a request line".to_owned(),
            (Code::BadRequest, Some(_)) => {
                format!(
                    "the routing key is in the request twice with different values, or badly escaped; it is looked for in: {key_source}"
                )
            }
            (Code::NoService, _) => "no service has an entry for this host and path".to_owned(),
            (Code::BadPath, _) => format!("the path has a `.` or `..` segment, and services/{name} does not say \"dot_segments\": true"),
            (Code::Quarantined, _) if self.key.is_some() => format!("{record} has a bad value and no last good one"),
            (Code::Quarantined, _) => format!("services/{name} has a bad value and no last good one"),
            (Code::NoKey, _) => format!("the request does not carry the routing key; it is looked for in: {key_source}"),
            (Code::HeaderTooLarge, _) => format!("the routing key is longer than {} bytes", crate::routing_key::MAX_KEY_BYTES),
            (Code::NoRoute, _) if self.key.is_some() => format!("there is no {record}, and services/{name} has no default_owner"),
            (Code::NoRoute, _) => format!("services/{name} has neither a key nor a default_owner"),
            (Code::NoUpstream, _) => format!("the owner \"{owner}\" has no record; put upstreams/{owner}"),
            (Code::NoEndpoint, _) if self.endpoints.is_empty() => format!("upstreams/{owner} has no endpoints"),
            (Code::NoEndpoint, _) => format!("none of the endpoints of upstreams/{owner} may be used"),
            (code, _) => code.detail().to_owned(),
        }
    }
}

fn pattern(fit: &Fit, host: &str) -> String {
    match fit.host {
        HostFit::Any => "*".to_owned(),
        HostFit::Wildcard { parent_bytes } => format!("*.{}", &host[host.len().saturating_sub(parent_bytes)..]),
        HostFit::Exact => host.to_owned(),
    }
}

/// A prefix of one byte is `/`, which also fits `*`.
fn prefix(fit: &Fit, path: &[u8]) -> String {
    let prefix = path.get(..fit.prefix_bytes).filter(|_| fit.prefix_bytes > 1);
    prefix.map_or_else(|| "/".to_owned(), |prefix| String::from_utf8_lossy(prefix).into_owned())
}

fn shown_route(considered: &Considered<'_>, found: Option<&LookedUp>, table: &Table) -> Option<ShownRoute> {
    let record = match &considered.known {
        Some(known) => match known.entry {
            Entry::Route(route, source) => Some((route, source)),
            Entry::Absent(_) => None,
        },
        None => None,
    };
    let hint = considered.known.as_ref().and_then(|known| known.hint.as_ref());
    let owner_of = |route: Route| table.upstream_name(route.owner).filter(|_| route.state != State::Quarantined).cloned();
    let shown = |owner, epoch, state, source| {
        let record = considered.key.as_ref().and_then(|key| table.record_of(key));
        let target = if let State::Moving(target) = state { table.upstream_name(target).cloned() } else { None };
        ShownRoute { record, owner, epoch, state, target, source, over: None, why: None }
    };
    match (hint, record, found) {
        (Some(hint), record, _) => Some(ShownRoute {
            over: record.map(|(route, _)| (owner_of(route), route.epoch)),
            why: Some(format!("the endpoint {} said so, ahead of the store's revision {}", hint.reporter, hint.revision)),
            ..shown(table.upstream_name(hint.owner).cloned(), hint.epoch, State::Serving, Source::Hint)
        }),
        (None, Some((route, source)), _) => Some(shown(owner_of(route), route.epoch, route.state, source)),
        (None, None, Some(found)) => Some(shown(table.upstream_name(found.owner).cloned(), found.epoch, State::Serving, found.source)),
        (None, None, None) => None,
    }
}

fn shown_endpoint(endpoint: &Endpoint, fitness: Fitness, any_willing: bool) -> ShownEndpoint {
    let usable = fitness == Fitness::Willing || (fitness == Fitness::Refusing && !any_willing);
    let seconds = REFUSED_FOR.as_secs();
    let why = match fitness {
        Fitness::Willing => None,
        Fitness::Refusing if usable => Some(format!("refused a connection less than {seconds} s ago, but nothing better is left")),
        Fitness::Refusing => Some(format!("refused a connection less than {seconds} s ago")),
        Fitness::NoAddress => Some("its name has not been resolved yet".to_owned()),
        Fitness::Tried => Some("tried already".to_owned()),
    };
    let orphaned = endpoint.orphaned.then(|| "orphaned: its record has gone, and it is kept as the upstream's last".to_owned());
    let why = [orphaned, why].into_iter().flatten().reduce(|first, second| format!("{first}; {second}"));
    ShownEndpoint { address: endpoint.address.clone(), usable, why }
}

/// Why each of the other services is not the one, those that came closest first.
fn not_chosen(table: &Table, authority: Option<&[u8]>, host: &str, path: &[u8], chosen: Option<(&Arc<Service>, Fit)>) -> Vec<NotChosen> {
    let others = table.services().iter().filter(|other| chosen.is_none_or(|(service, _)| service.id != other.id));
    let mut standings: Vec<_> = others.map(|other| (standing(&other.matches, authority, path), other)).collect();
    standings.sort_by(|(one, first), (other, second)| other.cmp(one).then_with(|| first.name.cmp(&second.name)));
    let why = |standing: Standing, service: &Service| match (standing, chosen) {
        (Standing::Fits(fit), Some((winner, best))) if fit.host < best.host => {
            let (looser, closer) = (pattern(&fit, host), pattern(&best, host));
            format!("host: {looser} gives way to {closer} of {}", winner.name)
        }
        (Standing::Fits(fit), Some((winner, best))) if fit < best => {
            format!("path: {} gives way to the longer {} of {}", prefix(&fit, path), prefix(&best, path), winner.name)
        }
        (Standing::Fits(_), winner) => {
            let winner = winner.map_or("another", |(winner, _)| &*winner.name);
            format!("age: claims the same as {winner}, whose record is older")
        }
        (Standing::OtherPath, _) => format!("path: wants {}", wanted_paths(service, authority)),
        (Standing::OtherHost, _) => format!("host: wants {}", wanted_hosts(service)),
    };
    standings.into_iter().map(|(standing, other)| NotChosen { service: other.name.clone(), why: why(standing, other) }).collect()
}

fn warnings(explanation: &Explanation, table: &Table) -> Vec<String> {
    let service = explanation.service.as_ref().map(|service| format!("services/{}", service.name));
    let owner = explanation.route.as_ref().and_then(|route| route.owner.as_ref());
    let about = [service, owner.map(|owner| format!("upstreams/{owner}")), owner.map(|owner| format!("endpoints/{owner}"))];
    let of_these = table.warnings().iter().filter(|warning| about.iter().flatten().any(|key| *key == warning.key));
    of_these.map(|warning| format!("{}: {}", warning.key, warning.message)).collect()
}

fn wanted_hosts(service: &Service) -> String {
    listed(service.matches.iter().flat_map(|entry| &entry.hosts).map(ToString::to_string))
}

/// The path prefixes of those entries that have the host.
fn wanted_paths(service: &Service, authority: Option<&[u8]>) -> String {
    let has_host = |entry: &&waypost_conf::Match| standing(std::slice::from_ref(entry), authority, b"") != Standing::OtherHost;
    listed(service.matches.iter().filter(has_host).map(|entry| entry.path_prefix.as_str().to_owned()))
}

/// A few of them; a service may name thousands.
fn listed(names: impl Iterator<Item = String>) -> String {
    const SHOWN: usize = 8;
    let mut all: Vec<String> = names.collect();
    all.dedup();
    let more = all.len().saturating_sub(SHOWN);
    all.truncate(SHOWN);
    let shown = all.join(" or ");
    if more == 0 { shown } else { format!("{shown} or one of {more} more") }
}

#[cfg(test)]
mod tests;
