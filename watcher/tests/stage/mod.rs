//! What tests against a real etcd stand on: a member of their own on free ports, a watcher of it, and waiting for a condition with a
//! limit, never for time to pass.
#![allow(dead_code, reason = "each file of tests uses a part")]

use std::{
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use etcd_client::Client;
use tempfile::TempDir;
use waypost_policy::{
    Table,
    table::{Entry, RequestKey},
};
use waypost_watcher::{Credentials, EtcdPlace, GoldPlace, GoldStatus, Settings, View, Watcher};

pub(crate) const PREFIX: &str = "/waypost/v1";
pub(crate) const SERVICE: &str = r#"{"match":[{"hosts":["orders.example.com"]}],"key":{"header":"x-tenant"}}"#;
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// One member with its own data; killed when dropped.
pub(crate) struct Etcd {
    pub(crate) directory: TempDir,
    pub(crate) data: String,
    pub(crate) child: Child,
    pub(crate) client_port: u16,
    pub(crate) peer_port: u16,
}

impl Etcd {
    pub(crate) async fn start() -> Self {
        // Another process may take a free port before etcd does: then other ports.
        for _ in 0..5 {
            let held = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
            let [client_port, peer_port] = held.each_ref().map(|held| held.local_addr().unwrap().port());
            drop(held);
            let directory = tempfile::tempdir().unwrap();
            let child = spawn(&directory.path().join("data"), client_port, peer_port);
            let mut etcd = Self { directory, data: "data".to_owned(), child, client_port, peer_port };
            if etcd.is_up().await {
                return etcd;
            }
        }
        panic!("etcd did not start; it must be in PATH, or named by ETCD_BIN");
    }

    pub(crate) async fn is_up(&mut self) -> bool {
        let end = Instant::now() + LIMIT;
        while Instant::now() < end && matches!(self.child.try_wait(), Ok(None)) {
            if let Ok(client) = Client::connect([self.url()], None).await
                && client.kv_client().get("health", None).await.is_ok()
            {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        false
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.client_port)
    }

    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub(crate) async fn restart(&mut self) {
        self.kill();
        self.child = spawn(&self.directory.path().join(&self.data), self.client_port, self.peer_port);
        assert!(self.is_up().await, "etcd did not start again");
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect([self.url()], None).await.unwrap()
    }

    pub(crate) async fn put(&self, key: &str, value: &str) -> u64 {
        let done = self.client().await.kv_client().put(format!("{PREFIX}/{key}"), value, None).await.unwrap();
        u64::try_from(done.header().unwrap().revision()).unwrap()
    }

    pub(crate) async fn delete(&self, key: &str) -> u64 {
        let done = self.client().await.kv_client().delete(format!("{PREFIX}/{key}"), None).await.unwrap();
        u64::try_from(done.header().unwrap().revision()).unwrap()
    }

    pub(crate) async fn compact(&self, revision: u64) {
        self.client().await.kv_client().compact(i64::try_from(revision).unwrap(), None).await.unwrap();
    }

    /// A service with a route `t1` of owner `a`; the revision.
    pub(crate) async fn filled(&self) -> u64 {
        self.put("services/orders", SERVICE).await;
        self.put("upstreams/a", "{}").await;
        self.put("upstreams/b", "{}").await;
        self.put("routes/orders/t1", r#"{"owner":"a"}"#).await
    }

    /// Runs the tool of this name that came with the etcd that runs.
    fn tool(&self, name: &str, arguments: &[&str]) {
        let beside = std::env::var_os("ETCD_BIN").map(|etcd| Path::new(&etcd).with_file_name(name)).filter(|tool| tool.exists());
        let done = Command::new(beside.unwrap_or_else(|| name.into()))
            .env("ETCDCTL_API", "3")
            .args(arguments)
            .current_dir(self.directory.path())
            .output();
        let done = done.unwrap();
        assert!(done.status.success(), "{name} {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    }

    pub(crate) fn backup(&self) {
        self.tool("etcdctl", &["--endpoints", &self.url(), "snapshot", "save", "backup"]);
    }

    /// Stops, and puts the backup's data in place of the present ones, with unchanged flags: the cluster's id stays.
    pub(crate) fn restore(&mut self) {
        self.kill();
        let peer = format!("http://127.0.0.1:{}", self.peer_port);
        let cluster = format!("default={peer}");
        // From 3.5 on a tool of its own, which 3.4 does not have.
        let is_apart = std::env::var_os("ETCD_BIN").is_some_and(|etcd| Path::new(&etcd).with_file_name("etcdutl").exists());
        let arguments = [
            "snapshot",
            "restore",
            "backup",
            "--data-dir",
            "restored",
            "--initial-cluster",
            &cluster,
            "--initial-advertise-peer-urls",
            &peer,
        ];
        self.tool(if is_apart { "etcdutl" } else { "etcdctl" }, &arguments);
        self.data = "restored".to_owned();
    }
}

impl Etcd {
    /// Restores the backup and writes to it where the watcher can't see it, until it is back at its known address.
    pub(crate) async fn restore_hidden(&mut self, write: impl AsyncFnOnce(&Self)) {
        self.restore();
        let known_port = std::mem::replace(&mut self.client_port, free_port());
        self.restart().await;
        write(self).await;
        self.kill();
        self.client_port = known_port;
        self.restart().await;
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub(crate) fn spawn(data: &Path, client_port: u16, peer_port: u16) -> Child {
    let (client, peer) = (format!("http://127.0.0.1:{client_port}"), format!("http://127.0.0.1:{peer_port}"));
    Command::new(std::env::var("ETCD_BIN").unwrap_or_else(|_| "etcd".to_owned()))
        .arg("--data-dir")
        .arg(data)
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("default={peer}"), "--logger", "zap", "--log-level", "error"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

pub(crate) fn settings(url: &str, snapshot: Option<&Path>) -> Settings {
    let endpoints = vec![url.to_owned()];
    let place = EtcdPlace { endpoints, prefix: PREFIX.to_owned(), credentials: Credentials::default() };
    Settings { snapshot: snapshot.map(Path::to_owned), ..Settings::new(GoldPlace::Etcd(place), 1, Instant::now()) }
}

pub(crate) fn watch(etcd: &Etcd) -> Watcher {
    waypost_watcher::start(settings(&etcd.url(), None)).unwrap()
}

/// The snapshot lies beside etcd's data.
pub(crate) fn watch_with_snapshot(etcd: &Etcd) -> Watcher {
    waypost_watcher::start(settings(&etcd.url(), Some(&etcd.directory.path().join("edge.snapshot")))).unwrap()
}

/// Waits until something holds of the table and the status, and gives that table.
pub(crate) async fn until(view: &View, what: &str, mut holds: impl FnMut(&Table, &GoldStatus) -> bool) -> Arc<Table> {
    let end = Instant::now() + LIMIT;
    loop {
        let status = view.status();
        if let Some(table) = view.load_full().filter(|table| holds(table, &status)) {
            return table;
        }
        let seen = view.load_full().map(|table| (table.revision(), owner(&table, "t1"), table.source()));
        assert!(Instant::now() < end, "waited {LIMIT:?} until {what}; seen: {seen:?}, {status:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) async fn until_revision(view: &View, revision: u64) -> Arc<Table> {
    until(view, &format!("revision {revision} is in force"), |table, _| table.revision() >= revision).await
}

pub(crate) fn request_key(table: &Table, tenant: &str) -> Option<RequestKey> {
    Some(RequestKey { service: table.service_named("orders")?.id, key: tenant.as_bytes().into() })
}

pub(crate) fn owner(table: &Table, tenant: &str) -> Option<String> {
    match table.entry(&request_key(table, tenant)?) {
        Entry::Route(route, _) => table.upstream_name(route.owner).map(ToString::to_string),
        Entry::Absent(_) => None,
    }
}
