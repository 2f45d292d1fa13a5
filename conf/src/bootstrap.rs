//! The bootstrap file: what a process must know before it has a table. TOML; every value but the gold copy's place has a default.
//!
//! Unknown keys are errors, with the line.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use ipnet::IpNet;
use serde::Deserialize;

use crate::{
    document::{Diagnostic, Severity},
    inactive,
    suggest::closest,
};

/// What the file says, with defaults filled in.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    /// The gold copy, where the file names one.
    pub gold: Option<Gold>,
    /// Where clients connect to; at least one.
    pub listeners: Vec<Listener>,
    /// The admin endpoints.
    pub admin: Admin,
    /// The snapshot on disk.
    pub snapshot: Snapshot,
    /// Logs.
    pub log: Log,
    /// What the process as a whole may hold.
    pub limits: ProcessLimits,
    /// What this version does not act on yet, in sentences.
    pub inactive: Vec<String>,
}

/// The gold copy.
#[derive(Clone, Debug)]
pub struct Gold {
    /// Where it is.
    pub source: GoldSource,
    /// What all its keys start with.
    pub prefix: String,
    /// Whether a store without routes is believed.
    pub allow_empty: bool,
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
#[derive(Clone, Debug)]
pub struct Listener {
    /// The address.
    pub address: SocketAddr,
    /// From these, what a client says of itself is kept.
    pub trusted: Vec<IpNet>,
    /// TLS, with certificates from the table.
    pub tls: bool,
    /// Certificates that clients' must be signed by.
    pub client_ca: Option<String>,
    /// `optional` or `required`.
    pub client_cert: Option<String>,
    /// Whether connections start with the PROXY protocol.
    pub proxy_protocol: bool,
    /// HTTP/2 with prior knowledge; `None`: as the version does by default.
    pub h2c: Option<bool>,
}

/// The admin endpoints.
#[derive(Clone, Debug)]
pub struct Admin {
    /// The address; loopback by default.
    pub address: SocketAddr,
}

/// The snapshot on disk.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Its path; `None`: in the state directory.
    pub path: Option<PathBuf>,
}

/// Logs.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// Where the access log goes.
    pub access: AccessTarget,
    /// How lines are written.
    pub format: LogFormat,
}

/// Where the access log goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProcessLimits {
    /// Clients' connections open at once; one more is answered 503 `overloaded` and closed. 0, the default: half of the files that the
    /// process may open, since a busy connection needs another one to its owner.
    pub connections: usize,
    /// Requests on one client connection, after which it is closed; 0, the default: no limit.
    pub requests_per_connection: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    gold: Option<GoldWire>,
    #[serde(default)]
    listener: Vec<ListenerWire>,
    admin: Option<AdminWire>,
    snapshot: Option<SnapshotWire>,
    log: Option<LogWire>,
    #[serde(default)]
    limits: ProcessLimits,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GoldWire {
    endpoints: Option<Vec<String>>,
    file: Option<PathBuf>,
    prefix: Option<String>,
    #[serde(default)]
    allow_empty: bool,
    user: Option<String>,
    password_file: Option<PathBuf>,
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListenerWire {
    address: SocketAddr,
    #[serde(default)]
    trusted: Vec<IpNet>,
    #[serde(default)]
    tls: bool,
    client_ca: Option<String>,
    client_cert: Option<String>,
    #[serde(default)]
    proxy_protocol: bool,
    h2c: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AdminWire {
    address: SocketAddr,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SnapshotWire {
    path: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LogWire {
    access: Option<String>,
    #[serde(default)]
    format: LogFormat,
}

/// All settings there are, for suggestions.
const SETTINGS: [&str; 27] = [
    "gold",
    "listener",
    "admin",
    "snapshot",
    "log",
    "endpoints",
    "file",
    "prefix",
    "allow_empty",
    "user",
    "password_file",
    "ca",
    "cert",
    "key",
    "address",
    "trusted",
    "tls",
    "client_ca",
    "client_cert",
    "proxy_protocol",
    "h2c",
    "path",
    "access",
    "format",
    "limits",
    "connections",
    "requests_per_connection",
];

/// Reads a bootstrap file.
///
/// # Errors
/// What is wrong with it, with the line.
pub fn parse_bootstrap(file: &str, text: &str) -> Result<Bootstrap, Vec<Diagnostic>> {
    let fault = |line: Option<usize>, message: String| {
        vec![Diagnostic { file: file.to_owned(), line, key: None, message, severity: Severity::Error }]
    };
    let line_at = |at: usize| 1 + text.as_bytes().iter().take(at).filter(|b| **b == b'\n').count();
    let wire: Wire = toml::from_str(text).map_err(|error| {
        let line = error.span().map(|span| line_at(span.start));
        fault(line, with_suggestion(error.message()))
    })?;
    let gold = wire.gold.map(|gold| gold_of(gold).map_err(|message| fault(None, message))).transpose()?;
    let mut listeners: Vec<Listener> = wire.listener.into_iter().map(listener_of).collect();
    if listeners.is_empty() {
        listeners.push(default_listener());
    }
    for listener in &listeners {
        if !matches!(listener.client_cert.as_deref(), None | Some("optional" | "required")) {
            return Err(fault(None, "listener.client_cert: \"optional\" or \"required\" would be right".to_owned()));
        }
    }
    let log = wire.log.map_or_else(Log::default, |log| Log {
        access: match log.access.as_deref() {
            None | Some("stdout") => AccessTarget::Stdout,
            Some("off") => AccessTarget::Off,
            Some(path) => AccessTarget::File(path.into()),
        },
        format: log.format,
    });
    let mut bootstrap = Bootstrap {
        gold,
        listeners,
        admin: Admin { address: wire.admin.map_or(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9901), |admin| admin.address) },
        snapshot: Snapshot { path: wire.snapshot.and_then(|snapshot| snapshot.path) },
        log,
        limits: wire.limits,
        inactive: Vec::new(),
    };
    bootstrap.inactive = inactive::of_bootstrap(&bootstrap);
    Ok(bootstrap)
}

fn gold_of(wire: GoldWire) -> Result<Gold, String> {
    let source = match (wire.endpoints, wire.file) {
        (Some(endpoints), None) if !endpoints.is_empty() => GoldSource::Etcd { endpoints },
        (None, Some(path)) => GoldSource::File(path),
        (Some(_), None) => return Err("gold.endpoints is empty; [\"http://127.0.0.1:2379\"] would be right".to_owned()),
        (Some(_), Some(_)) => return Err("gold has both endpoints and file; one of them would be right".to_owned()),
        (None, None) => {
            return Err("gold has neither endpoints nor file; endpoints = [\"http://127.0.0.1:2379\"] would be right".to_owned());
        }
    };
    let prefix = wire.prefix.unwrap_or_else(|| "/waypost/v1".to_owned());
    if prefix.is_empty() || prefix.ends_with('/') {
        return Err(format!("gold.prefix \"{prefix}\" is empty or ends with /; \"/waypost/v1\" would be right"));
    }
    Ok(Gold {
        source,
        prefix,
        allow_empty: wire.allow_empty,
        user: wire.user,
        password_file: wire.password_file,
        ca: wire.ca,
        cert: wire.cert,
        key: wire.key,
    })
}

fn listener_of(wire: ListenerWire) -> Listener {
    let ListenerWire { address, trusted, tls, client_ca, client_cert, proxy_protocol, h2c } = wire;
    Listener { address, trusted, tls, client_ca, client_cert, proxy_protocol, h2c }
}

fn default_listener() -> Listener {
    Listener {
        address: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 8080),
        trusted: Vec::new(),
        tls: false,
        client_ca: None,
        client_cert: None,
        proxy_protocol: false,
        h2c: None,
    }
}

/// TOML's message, on one line, with what may have been meant.
fn with_suggestion(message: &str) -> String {
    let message = message.trim().replace('\n', "; ");
    let Some(unknown) = message.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next()) else { return message };
    let meant = closest(unknown, SETTINGS).map(|meant| format!("; did you mean \"{meant}\"?")).unwrap_or_default();
    format!("setting \"{unknown}\" is unknown{meant}")
}
