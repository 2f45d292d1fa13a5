//! Connecting to one member of an etcd cluster, with what it takes to be let in.
//!
//! One client an endpoint, so that a stuck member can be left; every connection has a time-out, keep-alive and a leader behind it.

use std::{path::PathBuf, time::Duration};

use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};

use crate::files::why;

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
        Ok(Err(error)) => Err(format!("etcd at {endpoint} {}", say(&error, endpoint))),
        Err(_) => Err(format!("etcd at {endpoint} {OUT_OF_REACH}: no answer within {:?}", CONNECT_LIMIT * 2)),
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
        let read =
            |path: &PathBuf| std::fs::read(path).map_err(|error| format!("{} for etcd can't be read: {}", path.display(), why(&error)));
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

/// How a sentence about a member goes on that no connection could be made to.
pub(crate) const OUT_OF_REACH: &str = "can't be reached";

/// What an error of the first contact says, in few words that follow the name of a member: what is wrong and what would be right.
pub(crate) fn say(error: &etcd_client::Error, endpoint: &str) -> String {
    match error {
        etcd_client::Error::GRpcStatus(status) if std::error::Error::source(status).is_none() => {
            say_status(status.message(), &status.code(), Wanted::Read)
        }
        etcd_client::Error::GRpcStatus(_) | etcd_client::Error::TransportError(_) | etcd_client::Error::IoError(_) => {
            say_broken(&format!("{error:?}"), endpoint.starts_with("https://"))
        }
        other => other.to_string(),
    }
}

/// The same over a connection that has worked before.
pub(crate) fn say_later(error: &etcd_client::Error, wanted: Wanted) -> String {
    match error {
        etcd_client::Error::GRpcStatus(status) if std::error::Error::source(status).is_none() => {
            say_status(status.message(), &status.code(), wanted)
        }
        etcd_client::Error::GRpcStatus(_) | etcd_client::Error::TransportError(_) | etcd_client::Error::IoError(_) => {
            "has ended the connection, or can't be reached any more".to_owned()
        }
        other => other.to_string(),
    }
}

/// What etcd itself answers.
fn say_status(message: &str, code: &impl std::fmt::Display, wanted: Wanted) -> String {
    let message = message.trim_start_matches("etcdserver: ");
    let (doing, right) = if wanted == Wanted::Read { ("read", "READ") } else { ("write", "READWRITE") };
    match message {
        "permission denied" => format!("does not let this user {doing}; grant one of its roles {right} on all keys below the prefix"),
        "user name is empty" => "wants a user; name one with --gold-user and --gold-password-file".to_owned(),
        "authentication failed, invalid user ID or password" => {
            "does not know this user or its password; check --gold-user and --gold-password-file".to_owned()
        }
        "authentication is not enabled" => "has no users; leave --gold-user out".to_owned(),
        "request is too large" => "takes no request of this size; raise its --max-request-bytes".to_owned(),
        "too many operations in txn request" => "takes no transaction of this many operations; raise its --max-txn-ops to 128".to_owned(),
        "mvcc: database space exceeded" => {
            "has used up its space and takes no writes; compact and defragment it, then disarm its alarm".to_owned()
        }
        "no leader" | "leader changed" | "request timed out" => format!("has no leader now ({message}); is a majority of its members up?"),
        "" => format!("answers: {code}"),
        other => format!("says: {other}"),
    }
}

/// Why there is no connection, from what all the layers below say of it.
fn say_broken(layers: &str, is_tls: bool) -> String {
    let says = |words: &[&str]| words.iter().any(|word| layers.contains(word));
    if says(&["UnknownIssuer", "BadSignature"]) {
        return "shows a certificate that those of --gold-ca have not signed; name the file of those that have".to_owned();
    }
    if says(&["NotValidForName"]) {
        return "shows a certificate for another host; name the member as its certificate does".to_owned();
    }
    if let Some((_, fault)) = layers.split_once("InvalidCertificate(") {
        return format!("shows a certificate that can't be accepted: {}", fault.split(')').next().unwrap_or_default());
    }
    if says(&["ConnectionRefused"]) {
        return format!("{OUT_OF_REACH}: the connection was refused (is etcd running there?)");
    }
    if says(&["dns error", "lookup address"]) {
        return format!("{OUT_OF_REACH}: there is no host of this name");
    }
    // Whether an end shows as a reset, a broken pipe or an early end is a matter of timing; whether it came while connecting, which
    // includes the handshake, or afterwards is not.
    let was_ended = says(&["UnexpectedEof", "ConnectionReset", "BrokenPipe", "ConnectionAborted", "NotConnected"]);
    let while_connecting = says(&["ConnectError"]);
    if is_tls && while_connecting && (was_ended || says(&["InvalidContentType", "corrupt message", "InvalidMessage"])) {
        return "does not speak TLS; http:// would be right".to_owned();
    }
    if is_tls && (says(&["AlertReceived", "hyper::Error"]) || was_ended) {
        return "ends the connection; if it wants a certificate of ours, name one that its CA has signed: --gold-cert and --gold-key"
            .to_owned();
    }
    if says(&["hyper::Error"]) || was_ended {
        return "ends the connection without an answer; if it wants TLS, https:// would be right, else it may not be etcd".to_owned();
    }
    format!("{OUT_OF_REACH}: no connection came about")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_does_not_come_about_says_what_would_be_right() {
        for (layers, is_tls, wanted) in [
            ("ConnectError(Os { kind: ConnectionRefused })", false, "is etcd running there?)"),
            ("ConnectError(\"dns error\")", false, "no host of this name"),
            ("ConnectError(Custom { kind: UnexpectedEof, error: \"tls handshake eof\" })", true, "http:// would be right"),
            ("ConnectError(Os { code: 104, kind: ConnectionReset })", true, "http:// would be right"),
            ("hyper::Error(Io, Custom { kind: BrokenPipe })", false, "https:// would be right"),
            ("hyper::Error(Http2, Error { kind: GoAway(b\"\", FRAME_SIZE_ERROR) })", false, "may not be etcd"),
            ("hyper::Error(Canceled, \"connection closed\")", true, "--gold-cert and --gold-key"),
            ("hyper::Error(Io, Os { code: 104, kind: ConnectionReset })", true, "--gold-cert and --gold-key"),
            ("InvalidCertificate(UnknownIssuer)", true, "--gold-ca"),
            ("InvalidCertificate(Expired)", true, "can't be accepted: Expired"),
            ("anything else", true, "can't be reached"),
        ] {
            assert!(say_broken(layers, is_tls).contains(wanted), "{layers}: {}", say_broken(layers, is_tls));
        }
    }
}
