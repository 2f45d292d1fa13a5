//! Connecting to one member of an etcd cluster, with what it takes to be let in.
//!
//! One client an endpoint, so that a stuck member can be left; every connection has a time-out, keep-alive and a leader behind it.

use std::{path::PathBuf, time::Duration};

use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};

/// How long a connection may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// A dead peer is noticed after these two together.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(5);
const KEEP_ALIVE_LIMIT: Duration = Duration::from_secs(3);
/// Answers may be this large: a watch that catches up gets a thousand revisions in one.
pub(crate) const MAX_MESSAGE_BYTES: usize = 1 << 30;

/// Where an etcd cluster is, and what all keys start with.
#[derive(Clone, Debug)]
pub struct EtcdPlace {
    /// URLs of its members.
    pub endpoints: Vec<String>,
    /// Without a trailing slash.
    pub prefix: String,
    /// Who we are.
    pub credentials: Credentials,
}

/// Who we are to etcd.
#[derive(Clone, Default)]
pub struct Credentials {
    /// The user.
    pub user: Option<String>,
    /// The user's password.
    pub password: Option<String>,
    /// Certificates that etcd's must be signed by (PEM).
    pub ca: Option<PathBuf>,
    /// The certificate shown to etcd (PEM).
    pub cert: Option<PathBuf>,
    /// Its private key (PEM).
    pub key: Option<PathBuf>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The password stays out of every log.
        out.debug_struct("Credentials").field("user", &self.user).field("ca", &self.ca).field("cert", &self.cert).finish_non_exhaustive()
    }
}

/// Connects to one member.
///
/// # Errors
/// A sentence that names the endpoint and what was wrong.
pub(crate) async fn connect(place: &EtcdPlace, endpoint: &str) -> Result<Client, String> {
    let options = options(&place.credentials, endpoint.starts_with("https://"))?;
    let connected = tokio::time::timeout(CONNECT_LIMIT * 2, Client::connect([endpoint], Some(options))).await;
    match connected {
        Ok(Ok(client)) => Ok(client),
        Ok(Err(error)) => Err(format!("etcd at {endpoint} {}", say(&error, Wanted::Read))),
        Err(_) => Err(format!("etcd at {endpoint} did not answer within {CONNECT_LIMIT:?}")),
    }
}

fn options(credentials: &Credentials, tls: bool) -> Result<ConnectOptions, String> {
    let mut options = ConnectOptions::new()
        .with_connect_timeout(CONNECT_LIMIT)
        .with_keep_alive(KEEP_ALIVE_EVERY, KEEP_ALIVE_LIMIT)
        .with_keep_alive_while_idle(true)
        .with_require_leader(true)
        .with_auto_token_refresh(true);
    if let (Some(user), password) = (&credentials.user, &credentials.password) {
        options = options.with_user(user, password.clone().unwrap_or_default());
    }
    if tls {
        let read = |path: &PathBuf| std::fs::read(path).map_err(|error| format!("{}: can't be read: {error}", path.display()));
        let mut with = TlsOptions::new();
        if let Some(ca) = &credentials.ca {
            with = with.ca_certificate(Certificate::from_pem(read(ca)?));
        }
        if let (Some(cert), Some(key)) = (&credentials.cert, &credentials.key) {
            with = with.identity(Identity::from_pem(read(cert)?, read(key)?));
        }
        options = options.with_tls(with);
    }
    Ok(options)
}

/// What was asked of etcd: what a refusal would have to be answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Reading or watching.
    Read,
    /// Writing.
    Write,
}

/// What an etcd error says, in few words.
pub(crate) fn say(error: &etcd_client::Error, wanted: Wanted) -> String {
    eprintln!("DEBUG {error:?}");
    let etcd_client::Error::GRpcStatus(status) = error else {
        return match error {
            etcd_client::Error::TransportError(_) | etcd_client::Error::IoError(_) => "can't be reached".to_owned(),
            other => other.to_string(),
        };
    };
    let message = status.message().trim_start_matches("etcdserver: ");
    let right = if wanted == Wanted::Read { "READ" } else { "READWRITE" };
    match status.code() as i32 {
        // Unavailable, and what tonic calls a broken connection.
        14 | 2 if message.contains("transport error") || message.contains("tcp connect") => "can't be reached".to_owned(),
        7 => format!("refuses: {message}; grant this user {right} on the prefix"),
        16 => format!("refuses: {message}; check --gold-user and its password"),
        _ if message.is_empty() => format!("answers {}", status.code()),
        _ => message.to_owned(),
    }
}

/// Whether what was asked may have been done although there was an error: the answer was lost, not the request refused.
pub(crate) fn may_have_been_done(error: &etcd_client::Error) -> bool {
    match error {
        // Cancelled, unknown, deadline exceeded, aborted, internal, unavailable, data loss.
        etcd_client::Error::GRpcStatus(status) => matches!(status.code() as i32, 1 | 2 | 4 | 10 | 13 | 14 | 15),
        etcd_client::Error::TransportError(_) | etcd_client::Error::IoError(_) => true,
        _ => false,
    }
}
