//! Connecting to one member of an etcd cluster, with what it takes to be let in.
//!
//! One client an endpoint, so that a stuck member can be left; every connection has a time-out, keep-alive and a leader behind it.

mod reads;
mod refusal;

use std::{path::PathBuf, time::Duration};

use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};

use crate::files::why;
pub(crate) use reads::Reads;
pub(crate) use refusal::{OUT_OF_REACH, Wanted, is_denied, may_have_been_done, say_later};

/// How long a connection may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// A dead peer is noticed after these two together. etcd ends connections that ask more often than every 5 s, or at all while nothing is
/// asked on them.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(6);
const KEEP_ALIVE_LIMIT: Duration = Duration::from_secs(3);
/// So often the kernel shows networks that an idle connection is still wanted.
const TCP_KEEP_ALIVE: Duration = Duration::from_secs(30);
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

/// Who we are to etcd. What files hold is read anew for each connection, so that a password or certificate may be replaced.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// The user.
    pub user: Option<String>,
    /// A file with the user's password.
    pub password_file: Option<PathBuf>,
    /// Certificates that etcd's must be signed by (PEM).
    pub ca: Option<PathBuf>,
    /// The certificate shown to etcd (PEM).
    pub cert: Option<PathBuf>,
    /// Its private key (PEM).
    pub key: Option<PathBuf>,
}

impl Credentials {
    /// The user and the password that the file holds now, without its line's end; `None` without a user.
    ///
    /// # Errors
    /// A sentence, if the file can't be read.
    pub fn user_and_password(&self) -> Result<Option<(String, String)>, String> {
        let (Some(user), Some(file)) = (&self.user, &self.password_file) else { return Ok(None) };
        let read = std::fs::read_to_string(file);
        let password = read.map_err(|error| format!("the etcd password file {} can't be read: {}", file.display(), why(&error)))?;
        Ok(Some((user.clone(), password.trim_end_matches(['\r', '\n']).to_owned())))
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
        Ok(Err(error)) => Err(format!("etcd at {endpoint} {}", place.say(&error, endpoint))),
        Err(_) => Err(format!("etcd at {endpoint} {OUT_OF_REACH}: no answer within {:?}", CONNECT_LIMIT * 2)),
    }
}

fn options(credentials: &Credentials, tls: bool) -> Result<ConnectOptions, String> {
    let mut options = ConnectOptions::new()
        .with_connect_timeout(CONNECT_LIMIT)
        .with_keep_alive(KEEP_ALIVE_EVERY, KEEP_ALIVE_LIMIT)
        .with_keep_alive_while_idle(false)
        .with_tcp_keepalive(TCP_KEEP_ALIVE)
        .with_require_leader(true);
    if let Some((user, password)) = credentials.user_and_password()? {
        options = options.with_user(user, password);
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
