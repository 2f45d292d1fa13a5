//! The bootstrap file: what a process must know before it has a table. TOML; every value but the gold copy's place has a default.
//!
//! Unknown settings are errors, each with its line. To add a setting: a field here with its default, a line in `fields/bootstrap.rs`
//! and one in `examples/waypost.toml`; until something acts on it, a line in `inactive.rs`. Tests say which of these is missing.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroU32,
    path::PathBuf,
};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer};

use crate::{
    Address,
    document::{Diagnostic, Place, Severity},
    fields::BOOTSTRAP,
    inactive, node,
    record::{Fault, read, with_unknown_fields},
};

/// What all keys in etcd start with, unless something else is said.
pub const DEFAULT_PREFIX: &str = "/waypost/v1";
/// How often the table is compared with the store unless it is configured, in milliseconds: about once an hour.
pub const DEFAULT_DIGEST_CHECK_MS: u32 = 3_600_000;
/// How many records are taken at most unless it is configured. Ten million routes take some 1.3 GB.
const DEFAULT_RECORDS: NonZeroU32 = NonZeroU32::new(10_000_000).expect("ten million is not zero");
/// How long a handover of the sockets may take unless it is configured: enough to list a large store.
const DEFAULT_UPGRADE_LIMIT_MS: NonZeroU32 = NonZeroU32::new(60_000).expect("a minute is not zero");

/// What the file says, with defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Bootstrap {
    /// The gold copy, where the file names one.
    pub gold: Option<Gold>,
    /// Where clients connect to; at least one.
    #[serde(rename = "listener")]
    pub listeners: Vec<Listener>,
    /// The admin endpoints.
    pub admin: Admin,
    /// The snapshot on disk.
    pub snapshot: Snapshot,
    /// Logs.
    pub log: Log,
    /// What the process as a whole may hold.
    pub limits: ProcessLimits,
    /// How the process ends what is under way.
    pub drain: Drain,
    /// How the process hands its sockets to another one.
    pub upgrade: Upgrade,
    /// What this version does not act on yet.
    #[serde(skip)]
    pub inactive: Vec<Diagnostic>,
}

/// The gold copy.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "GoldWire")]
pub struct Gold {
    /// Where it is.
    pub source: GoldSource,
    /// What all its keys start with.
    pub prefix: String,
    /// Whether a store without routes is believed.
    pub allow_empty: bool,
    /// How often, about, the table is compared with all that the store holds, in milliseconds; 0: never.
    pub digest_check_ms: u32,
    /// Whether the process reports what it has applied.
    pub fleet_report: bool,
    /// The etcd user.
    pub user: Option<String>,
    /// Where the user's password is.
    pub password_file: Option<PathBuf>,
    /// Certificates that etcd's must be signed by.
    pub ca: Option<PathBuf>,
    /// The certificate shown to etcd.
    pub cert: Option<PathBuf>,
    /// Its private key.
    pub key: Option<PathBuf>,
}

/// Where a gold copy is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GoldSource {
    /// An etcd cluster.
    Etcd {
        /// URLs of its members.
        endpoints: Vec<String>,
    },
    /// A record file, or a directory of them.
    File(PathBuf),
}

/// Where clients connect to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Listener {
    /// The address.
    #[serde(deserialize_with = "address")]
    pub address: SocketAddr,
    /// From these, what a client says of itself is kept.
    #[serde(default, deserialize_with = "networks")]
    pub trusted: Vec<IpNet>,
    /// TLS, with certificates from the table.
    #[serde(default)]
    pub tls: bool,
    /// Certificates that clients' must be signed by.
    pub client_ca: Option<String>,
    /// Whether clients must show a certificate; `None`: they are not asked for one.
    pub client_cert: Option<ClientCert>,
    /// Whether connections start with the PROXY protocol.
    #[serde(default)]
    pub proxy_protocol: bool,
    /// Whether HTTP/2 is taken with prior knowledge where there is no TLS; it is by default.
    #[serde(default = "yes")]
    pub h2c: bool,
}

fn yes() -> bool {
    true
}

/// Whether clients must show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientCert {
    /// They may.
    Optional,
    /// They must.
    Required,
}

/// The admin endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Admin {
    /// The address; loopback by default.
    #[serde(deserialize_with = "address")]
    pub address: SocketAddr,
    /// A file with the token that has to be shown; `None`: nobody has to.
    pub token_file: Option<PathBuf>,
    /// Whether other machines may ask without one.
    pub insecure: bool,
}

/// The snapshot on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Snapshot {
    /// Its path; `None`: in the state directory.
    pub path: Option<PathBuf>,
}

/// Logs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Log {
    /// Where the access log goes.
    pub access: AccessTarget,
    /// How lines are written.
    pub format: LogFormat,
}

/// Where the access log goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub enum AccessTarget {
    /// To standard output.
    #[default]
    Stdout,
    /// Nowhere.
    Off,
    /// To a file.
    File(PathBuf),
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// One JSON object a line.
    #[default]
    Json,
    /// For people.
    Text,
}

/// What the process as a whole may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ProcessLimits {
    /// Clients' connections open at once; one more is answered 503 `overloaded` and closed. 0, the default: half of the files that the
    /// process may open, since a busy connection needs another one to its owner.
    pub connections: u32,
    /// Requests on one client connection, after which it is closed; 0, the default: no limit.
    pub requests_per_connection: u32,
    /// Records of the gold copy, at least one. A store that has more changes nothing: the last good table stays.
    pub records: NonZeroU32,
}

impl Default for ProcessLimits {
    fn default() -> Self {
        Self { connections: 0, requests_per_connection: 0, records: DEFAULT_RECORDS }
    }
}

/// How the process ends what is under way, after SIGTERM and after it has handed its sockets over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Drain {
    /// For so long after SIGTERM readiness fails while connections are still accepted, so that balancers look elsewhere first; milliseconds.
    pub ready_delay_ms: u32,
    /// For so long an idle connection may still bring a request, which is answered as its last, before it is closed; milliseconds.
    pub idle_ms: u32,
    /// What is still under way after so long is cut; milliseconds.
    pub limit_ms: u32,
}

impl Default for Drain {
    fn default() -> Self {
        Self { ready_delay_ms: 0, idle_ms: 1000, limit_ms: 300_000 }
    }
}

/// How the process hands its sockets to another one.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Upgrade {
    /// Where the two meet; `None`: beside the snapshot, or in the state directory.
    pub socket: Option<PathBuf>,
    /// How long the new process waits for the sockets, and how long the old one for the new to be ready; milliseconds.
    pub limit_ms: NonZeroU32,
}

impl Default for Upgrade {
    fn default() -> Self {
        Self { socket: None, limit_ms: DEFAULT_UPGRADE_LIMIT_MS }
    }
}

/// `[gold]` as it is written.
#[derive(Deserialize)]
struct GoldWire {
    endpoints: Option<Vec<String>>,
    file: Option<PathBuf>,
    prefix: Option<String>,
    #[serde(default)]
    allow_empty: bool,
    digest_check_ms: Option<u32>,
    #[serde(default = "yes")]
    fleet_report: bool,
    user: Option<String>,
    password_file: Option<PathBuf>,
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
}

impl TryFrom<GoldWire> for Gold {
    type Error = String;

    fn try_from(wire: GoldWire) -> Result<Self, String> {
        let source = match (wire.endpoints, wire.file) {
            (Some(endpoints), None) if !endpoints.is_empty() => GoldSource::Etcd { endpoints },
            (None, Some(path)) => GoldSource::File(path),
            (Some(_), None) => return Err("gold.endpoints is empty; [\"http://127.0.0.1:2379\"] would be right".to_owned()),
            (Some(_), Some(_)) => return Err("gold has both endpoints and file; one of them would be right".to_owned()),
            (None, None) => {
                return Err("gold has neither endpoints nor file; endpoints = [\"http://127.0.0.1:2379\"] would be right".to_owned());
            }
        };
        if let GoldSource::Etcd { endpoints } = &source {
            endpoints.iter().try_for_each(|endpoint| check_endpoint(endpoint)).map_err(|fault| format!("gold.endpoints: {fault}"))?;
        }
        let prefix = wire.prefix.unwrap_or_else(|| DEFAULT_PREFIX.to_owned());
        check_prefix(&prefix).map_err(|fault| format!("gold.prefix {fault}"))?;
        let GoldWire { allow_empty, digest_check_ms, fleet_report, user, password_file, ca, cert, key, .. } = wire;
        let digest_check_ms = digest_check_ms.unwrap_or(DEFAULT_DIGEST_CHECK_MS);
        Ok(Self { source, prefix, allow_empty, digest_check_ms, fleet_report, user, password_file, ca, cert, key })
    }
}

/// Whether a text can be the URL of an etcd member.
///
/// # Errors
/// What is wrong with it and what would be right.
pub fn check_endpoint(url: &str) -> Result<(), String> {
    // What stands before an @ may be a password, and is shown nowhere.
    let shown = url.rsplit_once('@').map_or_else(|| url.to_owned(), |(_, place)| format!("…@{place}"));
    let wrong = |why: &str| Err(format!("\"{shown}\" is no URL of an etcd: {why}; http://host:2379 or https://host:2379 would be right"));
    if url.contains('@') {
        return wrong("a user does not belong here but in `user` and `password_file` (--gold-user, --gold-password-file)");
    }
    let Some(rest) = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://")) else {
        return wrong("it begins neither with http:// nor with https://");
    };
    let place = rest.strip_suffix('/').unwrap_or(rest);
    if place.contains(['/', '?', '#']) {
        return wrong("there is something behind the port");
    }
    match Address::check(place) {
        Ok(()) => Ok(()),
        Err(why) => wrong(why),
    }
}

/// Whether a text can be what all keys start with.
///
/// # Errors
/// What is wrong with it and what would be right.
pub fn check_prefix(prefix: &str) -> Result<(), String> {
    if prefix.is_empty() || prefix.ends_with('/') {
        return Err(format!("\"{prefix}\" is empty or ends with /; \"{DEFAULT_PREFIX}\" would be right"));
    }
    Ok(())
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self {
            gold: None,
            listeners: vec![Listener::at(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 8080))],
            admin: Admin::default(),
            snapshot: Snapshot::default(),
            log: Log::default(),
            limits: ProcessLimits::default(),
            drain: Drain::default(),
            upgrade: Upgrade::default(),
            inactive: Vec::new(),
        }
    }
}

impl Bootstrap {
    /// What another version of the file says otherwise that a running process can't take up: settings, or whole sections.
    pub fn fixed_differences(&self, other: &Self) -> Vec<&'static str> {
        let differs = [
            ("gold", self.gold != other.gold),
            ("listener.address", !self.listens_as(other)),
            ("admin.address", self.admin.address != other.admin.address),
            ("admin.insecure", self.admin.insecure != other.admin.insecure),
            ("snapshot.path", self.snapshot != other.snapshot),
            ("limits.records", self.limits.records != other.limits.records),
            ("upgrade.socket", self.upgrade.socket != other.upgrade.socket),
        ];
        differs.into_iter().filter_map(|(name, differs)| differs.then_some(name)).collect()
    }

    /// What another version of the file says otherwise that a running process takes up.
    pub fn tunable_differences(&self, other: &Self) -> Vec<&'static str> {
        let (limits, drain) = (&self.limits, &self.drain);
        let differs = [
            ("log.access", self.log.access != other.log.access),
            ("log.format", self.log.format != other.log.format),
            ("limits.connections", limits.connections != other.limits.connections),
            ("limits.requests_per_connection", limits.requests_per_connection != other.limits.requests_per_connection),
            ("drain.ready_delay_ms", drain.ready_delay_ms != other.drain.ready_delay_ms),
            ("drain.idle_ms", drain.idle_ms != other.drain.idle_ms),
            ("drain.limit_ms", drain.limit_ms != other.drain.limit_ms),
            ("upgrade.limit_ms", self.upgrade.limit_ms != other.upgrade.limit_ms),
            ("admin.token_file", self.admin.token_file != other.admin.token_file),
            ("listener", self.listens_as(other) && self.listeners != other.listeners),
        ];
        differs.into_iter().filter_map(|(name, differs)| differs.then_some(name)).collect()
    }

    /// This one with what a running process takes up of another version.
    pub fn tuned_by(mut self, other: &Self) -> Self {
        let records = self.limits.records;
        self.log = other.log.clone();
        self.limits = ProcessLimits { records, ..other.limits };
        self.drain = other.drain;
        self.upgrade.limit_ms = other.upgrade.limit_ms;
        self.admin.token_file.clone_from(&other.admin.token_file);
        if self.listens_as(other) {
            self.listeners.clone_from(&other.listeners);
        }
        self
    }

    /// Whether both have the same addresses for clients, in the same order.
    pub fn listens_as(&self, other: &Self) -> bool {
        self.listeners.iter().map(|listener| listener.address).eq(other.listeners.iter().map(|listener| listener.address))
    }
}

impl Listener {
    /// A plain listener that trusts nobody.
    fn at(address: SocketAddr) -> Self {
        Self { address, trusted: Vec::new(), tls: false, client_ca: None, client_cert: None, proxy_protocol: false, h2c: true }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self { address: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9901), token_file: None, insecure: false }
    }
}

impl From<String> for AccessTarget {
    fn from(written: String) -> Self {
        match &*written {
            "stdout" => Self::Stdout,
            "off" => Self::Off,
            _ => Self::File(written.into()),
        }
    }
}

/// Reads a bootstrap file.
///
/// # Errors
/// All that is wrong with it, each with its line.
pub fn parse_bootstrap(file: &str, text: &str) -> Result<Bootstrap, Vec<Diagnostic>> {
    let diagnostic = |line, severity, message: String| Diagnostic::new(Some(&Place { file: file.into(), line }), None, message, severity);
    let root = node::parse_toml(text).map_err(|wrong| vec![diagnostic(wrong.line, Severity::Error, wrong.message)])?;
    let say = |fault: &Fault| {
        let line = fault.field.as_deref().and_then(|field| root.line_of(field)).unwrap_or(root.line);
        diagnostic(line, Severity::Error, fault.of("setting"))
    };
    let written = root.to_json();
    let parsed = read::<Bootstrap>(&serde_json::to_vec(&written).unwrap_or_default(), &mut Vec::new());
    let mut bootstrap = with_unknown_fields(&BOOTSTRAP, &written, parsed).map_err(|faults| {
        let mut faults: Vec<Diagnostic> = faults.iter().map(say).collect();
        faults.sort_by_key(|fault| fault.line);
        faults
    })?;
    if bootstrap.listeners.is_empty() {
        bootstrap.listeners = Bootstrap::default().listeners;
    }
    let warning = |path: String| {
        let line = root.line_of(&path).unwrap_or(root.line);
        diagnostic(line, Severity::Warning, format!("setting \"{path}\" has no effect here"))
    };
    bootstrap.inactive = inactive::of_bootstrap(&bootstrap).into_iter().map(warning).collect();
    Ok(bootstrap)
}

fn address<'de, D: Deserializer<'de>>(from: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(from)?;
    text.parse().map_err(|_| serde::de::Error::custom(not_an_address(&text)))
}

/// What is wrong with a text that should be where something listens.
pub fn not_an_address(text: &str) -> String {
    let why = match text.rsplit_once(':') {
        None => "the port is missing",
        Some((_, port)) if port.parse::<u16>().is_err() => "the port must be a number from 0 to 65535",
        Some(("", _)) => "the address is missing",
        Some((host, _)) if host.contains(':') && !host.starts_with('[') => "an IPv6 address must stand in [ ]",
        Some(_) => "what stands before the port must be a numeric address, not a name",
    };
    format!("\"{text}\" is no address to listen on: {why}; \"127.0.0.1:8080\" or \"[::]:8080\" would be right")
}

fn networks<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<IpNet>, D::Error> {
    let network = |text: &String| {
        text.parse().map_err(|_| serde::de::Error::custom(format!("\"{text}\" is no network; \"10.0.0.0/8\" would be right")))
    };
    Vec::<String>::deserialize(from)?.iter().map(network).collect()
}
