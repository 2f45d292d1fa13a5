//! What is measured: each row of the report, as data.
//!
//! A row names the kind of instance it needs ([`Setup`]); rows that need the same share it.

use std::time::Duration;

use waypost_bench::{Body, Protocol};

use crate::{
    options::Size,
    report::thousands,
    table::{TENANT, Table},
};

/// A part of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    Routes,
    Bodies,
    Connections,
    Tls,
    Latency,
    Threads,
    Log,
    Updates,
    Single,
}

/// How an instance of a peer is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Setup {
    pub(crate) table: Table,
    pub(crate) threads: usize,
    /// On core 0 alone, all else on core 1; otherwise all are free on both.
    pub(crate) is_pinned: bool,
    pub(crate) has_log: bool,
}

/// What is done in a row.
#[derive(Clone, Debug)]
pub(crate) enum What {
    /// Closed loop.
    Load(Load),
    /// Open loop at half of the rate that the peer reached in [`PEAK`].
    HalfOfPeak,
    /// Open loop at this rate.
    Rate(f64),
    /// Closed loop while so many routes a second are moved.
    Updates(u64),
    /// p50 of one connection, less that without a proxy.
    Added,
    /// What each of so many connections holds that have had one request.
    Idle(usize),
    /// From an update's handing over to the first answer of the new owner: the median of so many.
    Effect(usize),
}

/// A closed loop.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) connections: usize,
    pub(crate) protocol: Protocol,
    pub(crate) is_tls: bool,
    pub(crate) is_new: bool,
    pub(crate) method: &'static str,
    pub(crate) body: Body,
    /// What the number of the key stands behind, and how many keys; none: all tenants.
    pub(crate) keys: Option<&'static str>,
    pub(crate) warm_up: Duration,
}

/// A row.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) id: &'static str,
    pub(crate) group: Group,
    pub(crate) name: String,
    pub(crate) setup: Setup,
    /// Whether each measurement has an instance of its own, which has done nothing before and keeps nothing after: a stopped peer would keep
    /// thousands of connections to the owners.
    pub(crate) is_fresh: bool,
    pub(crate) what: What,
}

/// The row that the others are compared with.
pub(crate) const PEAK: &str = "routes-1";

impl Row {
    /// Whether it is measured once a run and not each round: an update costs some peers half a minute.
    pub(crate) fn is_once(&self) -> bool {
        matches!(self.what, What::Effect(_))
    }

    /// What the figure of a row counts that is one figure.
    pub(crate) fn unit(&self) -> Option<&'static str> {
        match self.what {
            What::Added => Some("µs"),
            What::Idle(_) => Some("KB"),
            What::Effect(_) => Some("ms"),
            _ => None,
        }
    }
}

/// All of them, in the report's order.
pub(crate) fn all(size: &Size) -> Vec<Row> {
    let [one, few, many, most] = size.tenants.map(|tenants| Table { tenants });
    let setup = |table| Setup { table, threads: 1, is_pinned: true, has_log: false };
    let plain = || Load::usual(size);
    let first = setup(one);
    let row = |id, group, name: &str, setup, what| Row { id, group, name: name.to_owned(), setup, is_fresh: false, what };
    let mut rows = Vec::new();

    for (id, table) in ["routes-1", "routes-10k", "routes-100k", "routes-1m"].into_iter().zip([one, few, many, most]) {
        rows.push(row(id, Group::Routes, &routes(table), setup(table), What::Load(plain())));
    }
    for (id, name, load) in [
        ("get-10k", "GET, 10 KB answered", Load { keys: Some("kb10-"), ..plain() }),
        ("get-1m", "GET, 1 MB answered", Load { keys: Some("mb1-"), ..plain() }),
        ("post-1k", "POST, 1 KB sent", Load { method: "POST", body: Body { bytes: 1024, chunked: false }, ..plain() }),
        ("post-1m", "POST, 1 MB sent", Load { method: "POST", body: Body { bytes: 1024 * 1024, chunked: false }, ..plain() }),
    ] {
        rows.push(row(id, Group::Bodies, name, first, What::Load(load)));
    }
    // Thousands of connections are not there at once.
    let slowly = size.warm_up * 4;
    for (id, load) in [
        ("connections-256", Load { connections: size.connections[1], ..plain() }),
        ("connections-5000", Load { connections: size.connections[2], warm_up: slowly, ..plain() }),
    ] {
        let name = format!("{} connections, kept", thousands(load.connections as f64));
        let is_fresh = load.connections == size.connections[2];
        rows.push(Row { is_fresh, ..row(id, Group::Connections, &name, first, What::Load(load)) });
    }
    let name = format!("a new connection each request, {} at once", size.connections[0]);
    rows.push(row("new", Group::Connections, &name, first, What::Load(Load { is_new: true, ..plain() })));
    let http2 = |is_tls| Load { connections: 8, protocol: Protocol::Http2 { streams: 4 }, is_tls, ..plain() };
    for (id, name, load) in [
        ("tls", "HTTP/1.1 over TLS, kept", Load { is_tls: true, ..plain() }),
        ("tls-new", "HTTP/1.1 over TLS, a full handshake each request", Load { is_tls: true, is_new: true, ..plain() }),
        ("h2", "HTTP/2 over TLS, 8 connections of 4 streams", http2(true)),
        ("h2c", "HTTP/2 without TLS, 8 connections of 4 streams", http2(false)),
    ] {
        rows.push(row(id, Group::Tls, name, first, What::Load(load)));
    }
    rows.push(row("half", Group::Latency, "at half of the peer's own peak", first, What::HalfOfPeak));
    rows.push(row("rate", Group::Latency, &format!("at {} requests/s", thousands(size.rate)), first, What::Rate(size.rate)));
    for (id, threads, name) in [("threads-1", 1, "1 thread"), ("threads-2", 2, "2 threads")] {
        rows.push(row(id, Group::Threads, name, Setup { threads, is_pinned: false, ..first }, What::Load(plain())));
    }
    rows.push(row("log", Group::Log, "with a JSON access log", Setup { has_log: true, ..first }, What::Load(plain())));
    for (id, table) in [("updates-100k", many), ("updates-1m", most)] {
        let name = format!("{}, {} moved a second", routes(table), thousands(size.updates as f64));
        rows.push(row(id, Group::Updates, &name, setup(table), What::Updates(size.updates)));
    }
    rows.push(row("added", Group::Single, "latency added, p50, unloaded", first, What::Added));
    rows.push(Row { is_fresh: true, ..row("idle", Group::Single, "memory of an idle connection", first, What::Idle(size.idle)) });
    for (id, table) in ["effect-1", "effect-10k", "effect-100k", "effect-1m"].into_iter().zip([one, few, many, most]) {
        let name = format!("an update takes effect, p50, {}", routes(table));
        rows.push(row(id, Group::Single, &name, setup(table), What::Effect(size.effects)));
    }
    rows
}

fn routes(table: Table) -> String {
    match table.tenants {
        1 => "1 route".to_owned(),
        tenants => format!("{} routes", thousands(tenants as f64)),
    }
}

impl Load {
    /// The load of the row that others are compared with.
    pub(crate) fn usual(size: &Size) -> Self {
        Self {
            connections: size.connections[0],
            protocol: Protocol::Http1,
            is_tls: false,
            is_new: false,
            method: "GET",
            body: Body::default(),
            keys: None,
            warm_up: size.warm_up,
        }
    }

    /// The prefix and number of its keys.
    pub(crate) fn keys(&self, table: Table) -> (&'static str, u64) {
        self.keys.map_or((TENANT, table.tenants), |prefix| (prefix, 1))
    }
}
