//! What the demo runs: an etcd and a proxy as processes of their own, three cells, and a folder that goes with it.
//!
//! Everything listens on loopback, on ports that the kernel gave. Whatever ends the demo, a drop of this ends the processes by their
//! own pid and removes the folder.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use hyper::Method;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use waypost_watcher::{
    EtcdPlace,
    store::{Change, Store, Swapped},
};

use super::{
    cell::{Cell, Data},
    relay::Relay,
};
pub(super) use crate::until::until;
use crate::{
    http_client::{Fetched, fetch},
    local_etcd::{LocalEtcd, free_ports, kill, spawn, with_log},
};

/// How long anything may take to come up.
const START_LIMIT: Duration = Duration::from_secs(20);
/// How long anything may take to be seen.
pub(super) const SEEN_LIMIT: Duration = Duration::from_secs(15);

pub(super) type Told<T> = Result<T, String>;

/// Everything that runs.
pub(super) struct World {
    folder: TempDir,
    etcd: LocalEtcd,
    proxy: Option<Child>,
    pub(super) relay: Relay,
    pub(super) cells: Vec<Cell>,
    pub(super) listen: SocketAddr,
    pub(super) admin: SocketAddr,
}

impl World {
    /// Starts etcd and the cells; the proxy comes when there are records.
    pub(super) async fn start() -> Told<Self> {
        let folder =
            tempfile::Builder::new().prefix("waypost-demo-").tempdir().map_err(|error| format!("no folder could be made: {error}"))?;
        let ports = free_ports(2).map_err(|error| format!("no free port could be had: {error}"))?;
        let etcd = LocalEtcd::new(folder.path())?;
        let relay = Relay::start(etcd.address()).await.map_err(|error| format!("the relay could not listen: {error}"))?;
        let mut world = Self { folder, etcd, proxy: None, relay, cells: Vec::new(), listen: ports[0], admin: ports[1] };
        world.start_etcd().await?;
        let data = Data::default();
        for name in ["cell-0", "cell-1", "cell-2"] {
            let cell = Cell::start(name, world.gold(), Data::clone(&data)).await?;
            world.cells.push(cell);
        }
        Ok(world)
    }

    /// The demo's etcd, as the cells and commands reach it.
    pub(super) fn gold(&self) -> EtcdPlace {
        self.etcd.place()
    }

    /// The URL of the demo's etcd.
    pub(super) fn etcd_url(&self) -> String {
        self.etcd.url()
    }

    /// Starts etcd on its ports and its data, and waits until it answers.
    pub(super) async fn start_etcd(&mut self) -> Told<()> {
        self.etcd.start().await
    }

    /// Kills etcd as a power cut would.
    pub(super) async fn kill_etcd(&mut self) -> Told<()> {
        self.etcd.kill().await
    }

    /// Starts the proxy and waits until it is ready; how long that took.
    pub(super) async fn start_proxy(&mut self) -> Told<Duration> {
        let own = std::env::current_exe().map_err(|error| format!("the running program is not known: {error}"))?;
        let mut command = Command::new(own);
        command.args(["run", "--gold", &format!("http://{}", self.relay.address), "--id", "demo", "--access-log"]);
        command.arg(self.folder.path().join("access.log"));
        command.args(["--listen", &self.listen.to_string(), "--admin", &self.admin.to_string(), "--snapshot"]);
        command.arg(self.snapshot_path()).current_dir(self.folder.path());
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("WAYPOST_")) {
            command.env_remove(name);
        }
        let began = Instant::now();
        let log = self.folder.path().join("proxy.log");
        self.proxy = Some(spawn(&mut command, &log).map_err(|error| format!("the proxy could not be started: {error}"))?);
        let admin = self.admin.to_string();
        let ready = async || fetch(&admin, Method::GET, "/readyz", &[], b"").await.ok().filter(|answer| answer.status == 200);
        until("the proxy did not become ready", START_LIMIT, ready).await.map_err(|why| with_log(why, &log))?;
        Ok(began.elapsed())
    }

    /// Kills the proxy.
    pub(super) async fn kill_proxy(&mut self) -> Told<()> {
        kill(self.proxy.take()).await
    }

    /// Where the proxy keeps its snapshot.
    pub(super) fn snapshot_path(&self) -> PathBuf {
        self.folder.path().join("proxy.snapshot")
    }

    /// A request of a tenant's through the proxy.
    pub(super) async fn request(&self, method: Method, tenant: &str, path: &str, body: &[u8]) -> Told<Fetched> {
        let address = self.listen.to_string();
        fetch(&address, method, path, &[(super::cell::TENANT_HEADER, tenant)], body).await.map_err(|why| format!("{tenant}: {why}"))
    }

    /// `/status` of the proxy.
    pub(super) async fn status(&self) -> Told<Value> {
        let answer = fetch(&self.admin.to_string(), Method::GET, "/status", &[], b"").await?;
        serde_json::from_slice(&answer.body).map_err(|error| error.to_string())
    }

    /// A counter's value, summed over its labels.
    pub(super) async fn metric(&self, name: &str) -> Told<f64> {
        let text = fetch(&self.admin.to_string(), Method::GET, "/metrics", &[], b"").await?.text();
        let lines = text.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
        Ok(lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    /// Puts records, all in one transaction; the revision.
    pub(super) async fn put(&self, records: &[(String, Vec<u8>)]) -> Told<u64> {
        let store = Store::connect(&self.gold()).await?;
        let mut changes = Vec::new();
        for (key, value) in records {
            let found = store.get(key.as_bytes()).await?;
            let read_at = found.map_or(0, |found| found.mod_revision);
            changes.push(Change { key: key.as_bytes().to_vec(), value: Some(value.clone()), read_at });
        }
        match store.swap(&changes, &[]).await.map_err(|fault| fault.message)? {
            Swapped::Done(revision) => Ok(revision),
            Swapped::Moved(_) => Err("somebody else writes to the demo's etcd".to_owned()),
        }
    }

    /// Waits until every cell, and with `proxy` the proxy as well, has a tenant's owner in force.
    pub(super) async fn wait_for_owner(&self, tenant: &str, owner: &str) -> Told<()> {
        let all = async || self.cells.iter().all(|cell| cell.owner_of(tenant).as_deref() == Some(owner)).then_some(());
        until(&format!("the cells did not see {tenant} at {owner}"), SEEN_LIMIT, all).await
    }

    /// Ends everything, by its own pid.
    pub(super) async fn end(mut self) {
        let _ = self.kill_proxy().await;
        let _ = self.kill_etcd().await;
        for cell in self.cells.drain(..) {
            cell.stop().await;
        }
    }
}

/// Whether a snapshot has been written.
pub(super) fn is_written(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| meta.len() > 0)
}
