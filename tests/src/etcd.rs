//! A real etcd with a folder of its own. `ETCD_BIN` names another than the one in the path.

mod backup;

use std::{net::SocketAddr, path::Path, process::Command, time::Duration};

use etcd_client::{
    Certificate, Client, CompactionOptions, Compare, CompareOp, ConnectOptions, DeleteOptions, Error, GetOptions, Identity, Permission,
    RoleRevokePermissionOptions, TlsOptions, Txn, TxnOp,
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::{
    certificates::{Certificates, Signed},
    free_address,
    process::Process,
    until, until_true,
};

/// What all keys start with.
pub const PREFIX: &str = "/waypost/v1";

/// gRPC's code for who is not known.
const UNAUTHENTICATED: i32 = 16;
/// How many tokens of the harness's own may be refused in a row.
const TOKENS: usize = 10;
/// How long a put may take that may fail.
const PUT_LIMIT: Duration = Duration::from_secs(3);

/// One member.
pub struct Etcd {
    folder: TempDir,
    client: SocketAddr,
    peer: SocketAddr,
    /// Flags beside those that say where it is.
    flags: Vec<String>,
    /// Its place in a cluster; `None`: it is alone.
    place: Option<Place>,
    /// How the harness's own client is let in.
    options: ConnectOptions,
    is_tls: bool,
    process: Option<Process>,
}

/// A member's place in a cluster.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Its name.
    pub(crate) name: String,
    /// Where the others reach it.
    pub(crate) advertised: String,
    /// All members, as `--initial-cluster` wants them.
    pub(crate) cluster: String,
}

impl Etcd {
    /// Starts a member and waits until it answers.
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// The same with more flags.
    pub async fn with(flags: &[&str]) -> Self {
        let mut etcd = Self::new(flags);
        etcd.restart().await;
        etcd
    }

    /// The same behind TLS; with `client_cert_auth` it lets in only who shows a certificate, and takes its common name for a user.
    pub async fn with_tls(certificates: &Certificates, client_cert_auth: bool, flags: &[&str]) -> Self {
        let mut etcd = Self::new(flags);
        etcd.behind_tls(certificates, &certificates.sign("localhost"));
        etcd.flags.extend(client_cert_auth.then(|| "--client-cert-auth".to_owned()));
        let own = certificates.sign("root");
        let read = |path: &Path| std::fs::read(path).unwrap();
        let tls = TlsOptions::new().ca_certificate(Certificate::from_pem(read(&certificates.ca)));
        etcd.options = ConnectOptions::new().with_tls(tls.identity(Identity::from_pem(read(&own.cert), read(&own.key))));
        etcd.restart().await;
        etcd
    }

    /// A member that shows a certificate which nobody should accept, so that it is not asked anything here.
    pub async fn with_certificate(certificates: &Certificates, shown: &Signed) -> Self {
        let mut etcd = Self::new(&[]);
        etcd.behind_tls(certificates, shown);
        etcd.spawn();
        until_true("etcd listens", async || TcpStream::connect(etcd.client).await.is_ok()).await;
        etcd
    }

    fn behind_tls(&mut self, certificates: &Certificates, shown: &Signed) {
        let paths = [("--cert-file", &shown.cert), ("--key-file", &shown.key), ("--trusted-ca-file", &certificates.ca)];
        self.flags.extend(paths.iter().flat_map(|(flag, path)| [(*flag).to_owned(), path.display().to_string()]));
        self.is_tls = true;
    }

    /// A member that is not started yet.
    pub(crate) fn new(flags: &[&str]) -> Self {
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let (client, peer) = (free_address(), free_address());
        let options = ConnectOptions::new();
        Self { folder: tempfile::tempdir().unwrap(), client, peer, flags, place: None, options, is_tls: false, process: None }
    }

    /// Gives it a place in a cluster, before it starts.
    pub(crate) fn join(&mut self, place: Place) {
        self.place = Some(place);
    }

    /// Starts it again, on its ports and its data.
    pub async fn restart(&mut self) {
        for _ in 0..3 {
            self.spawn();
            if self.is_up().await {
                return;
            }
            // Somebody took a port in between: before the first start any other will do.
            if self.place.is_none() && !self.folder.path().join("data").exists() {
                (self.client, self.peer) = (free_address(), free_address());
            }
        }
        panic!("etcd does not start");
    }

    /// Starts the process without waiting.
    pub fn spawn(&mut self) {
        let program = std::env::var_os("ETCD_BIN").unwrap_or_else(|| "etcd".into());
        let (client, peer) = (self.url(), format!("http://{}", self.peer));
        let alone = || Place { name: "test".to_owned(), advertised: peer.clone(), cluster: format!("test={peer}") };
        let Place { name, advertised, cluster } = self.place.clone().unwrap_or_else(alone);
        let mut command = Command::new(program);
        command.arg("--data-dir").arg(self.folder.path().join("data"));
        command.args(["--name", &name, "--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &advertised, "--initial-cluster", &cluster]);
        command.args(&self.flags);
        self.process = Some(Process::start(&mut command, &self.folder.path().join("etcd.log")));
    }

    /// Waits until it answers; false if the process has ended instead.
    pub(crate) async fn is_up(&mut self) -> bool {
        let (url, options) = (self.url(), self.options.clone());
        let Some(process) = &mut self.process else { return false };
        until("etcd answers", async || {
            if process.has_ended() {
                return Ok(false);
            }
            let mut client = Client::connect([&url], Some(options.clone())).await.map_err(|error| error.to_string())?;
            client.get("x", None).await.map(|_| true).map_err(|error| error.to_string())
        })
        .await
    }

    /// `http://127.0.0.1:port`, or `https://`.
    pub fn url(&self) -> String {
        format!("{}://{}", if self.is_tls { "https" } else { "http" }, self.client)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.client
    }

    /// Where the other members reach it, without any proxy between.
    pub(crate) fn peer_address(&self) -> SocketAddr {
        self.peer
    }

    /// Kills it as a power cut would.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Stops it in the middle of whatever it does (SIGSTOP): its connections stand, and nothing answers.
    pub fn pause(&self) {
        self.process.as_ref().unwrap().signal("STOP");
    }

    /// Lets it go on (SIGCONT).
    pub fn resume(&self) {
        self.process.as_ref().unwrap().signal("CONT");
    }

    /// Switches users on: `root`, by password or by the common name of its certificate. From now on the harness's client is root.
    pub async fn enable_auth(&mut self) {
        let mut auth = self.client().await.auth_client();
        auth.user_add("root", "root", None).await.unwrap();
        auth.user_grant_role("root", "root").await.unwrap();
        auth.auth_enable().await.unwrap();
        if !self.is_tls {
            self.options = self.options.clone().with_user("root", "root");
        }
    }

    /// Adds a user with a role of its own, both of this name.
    pub async fn add_user(&self, name: &str, password: &str) {
        self.ask(async |client| client.auth_client().user_add(name, password, None).await).await;
        self.ask(async |client| client.auth_client().role_add(name).await).await;
        self.ask(async |client| client.auth_client().user_grant_role(name, name).await).await;
    }

    /// Lets a role read, or read and write, what starts so; a full key.
    pub async fn grant(&self, role: &str, start: &str, may_write: bool) {
        let permission = if may_write { Permission::read_write(start) } else { Permission::read(start) }.with_prefix();
        self.ask(async |client| client.auth_client().role_grant_permission(role, permission.clone()).await).await;
    }

    /// Takes back what was granted on what starts so.
    pub async fn revoke(&self, role: &str, start: &str) {
        let all = RoleRevokePermissionOptions::new().with_prefix();
        self.ask(async |client| client.auth_client().role_revoke_permission(role, start, Some(all.clone())).await).await;
    }

    /// A client of it.
    pub async fn client(&self) -> Client {
        Client::connect([self.url()], Some(self.options.clone())).await.unwrap()
    }

    /// What is asked as the harness's own user. Where a machine stands still for as long as a token lives it is refused before anything was
    /// done; then another is had.
    pub async fn ask<T>(&self, ask: impl AsyncFn(&mut Client) -> Result<T, Error>) -> T {
        let mut tokens = 1..=TOKENS;
        loop {
            // On the heap: what etcd's client holds on the way would make every test's future large.
            let answer = Box::pin(async { ask(&mut self.client().await).await }).await;
            match (answer, tokens.next()) {
                (Err(Error::GRpcStatus(status)), Some(_)) if status.code() as i32 == UNAUTHENTICATED => {}
                (answer, _) => return answer.unwrap(),
            }
        }
    }

    /// Puts one record; the revision.
    pub async fn put(&self, key: &str, value: Value) -> u64 {
        self.put_raw(key, value.to_string().as_bytes()).await
    }

    /// The same by a member that may be unable to just now; an error says why.
    pub async fn try_put(&self, key: &str, value: Value) -> Result<u64, String> {
        let options = self.options.clone().with_timeout(PUT_LIMIT);
        let put = async { Client::connect([self.url()], Some(options)).await?.put(full(key), value.to_string(), None).await };
        put.await.map(|put| revision(put.header())).map_err(|error| error.to_string())
    }

    /// Deletes a key by a member that may be unable to just now.
    pub async fn try_delete(&self, key: &str) -> Result<u64, String> {
        let options = self.options.clone().with_timeout(PUT_LIMIT);
        let delete = async { Client::connect([self.url()], Some(options)).await?.delete(full(key), None).await };
        delete.await.map(|delete| revision(delete.header())).map_err(|error| error.to_string())
    }

    /// Compacts the whole history away if it can just now.
    pub async fn try_compact(&self) {
        let options = self.options.clone().with_timeout(PUT_LIMIT);
        let compact = async {
            let mut client = Client::connect([self.url()], Some(options)).await?;
            let now = client.get("x", None).await?.header().map_or(0, etcd_client::ResponseHeader::revision);
            client.compact(now, None).await
        };
        let _ = compact.await;
    }

    /// Puts any bytes; the revision.
    pub async fn put_raw(&self, key: &str, value: &[u8]) -> u64 {
        revision(self.ask(async |client| client.put(full(key), value, None).await).await.header())
    }

    /// Puts one record under a key that may be no text; the revision.
    pub async fn put_bytes(&self, key: &[u8], value: Value) -> u64 {
        let key = [PREFIX.as_bytes(), b"/", key].concat();
        revision(self.ask(async |client| client.put(&*key, value.to_string(), None).await).await.header())
    }

    /// A value of what processes report beside the records, if there is one.
    pub async fn get_beside(&self, key: &str) -> Option<Value> {
        let found = self.ask(async |client| client.get(format!("{PREFIX}-state/{key}"), None).await).await;
        found.kvs().first().map(|kv| serde_json::from_slice(kv.value()).unwrap())
    }

    /// Puts records in one transaction; the revision.
    pub async fn put_all(&self, records: &[(&str, Value)]) -> u64 {
        let puts: Vec<TxnOp> = records.iter().map(|(key, value)| TxnOp::put(full(key), value.to_string(), None)).collect();
        revision(self.ask(async |client| client.txn(Txn::new().and_then(&*puts)).await).await.header())
    }

    /// Deletes a key; the revision.
    pub async fn delete(&self, key: &str) -> u64 {
        revision(self.ask(async |client| client.delete(full(key), None).await).await.header())
    }

    /// Deletes all keys that start so; the revision.
    pub async fn delete_prefix(&self, start: &str) -> u64 {
        let all = DeleteOptions::new().with_prefix();
        revision(self.ask(async |client| client.delete(full(start), Some(all.clone())).await).await.header())
    }

    /// A value, if there is one.
    pub async fn get(&self, key: &str) -> Option<Value> {
        let found = self.ask(async |client| client.get(full(key), None).await).await;
        found.kvs().first().map(|kv| serde_json::from_slice(kv.value()).unwrap())
    }

    /// Compacts the whole history away.
    pub async fn compact(&self) {
        let now = self.ask(async |client| client.get("x", None).await).await.header().unwrap().revision();
        let physical = CompactionOptions::new().with_physical();
        self.ask(async |client| client.compact(now, Some(physical.clone())).await).await;
    }

    /// How many keys there are below the prefix.
    pub async fn count(&self) -> usize {
        let all = GetOptions::new().with_prefix().with_keys_only();
        self.ask(async |client| client.get(PREFIX, Some(all.clone())).await).await.kvs().len()
    }

    /// Puts a record only if its key is not there; whether it was put.
    pub async fn create(&self, key: &str, value: Value) -> bool {
        let absent = [Compare::version(full(key), CompareOp::Equal, 0)];
        let put = [TxnOp::put(full(key), value.to_string(), None)];
        self.ask(async |client| client.txn(Txn::new().when(&absent[..]).and_then(&put[..])).await).await.succeeded()
    }
}

fn full(key: &str) -> String {
    format!("{PREFIX}/{key}")
}

fn revision(header: Option<&etcd_client::ResponseHeader>) -> u64 {
    u64::try_from(header.unwrap().revision()).unwrap()
}
