//! A real etcd with a folder of its own. `ETCD_BIN` names another than the one in the path.

use std::{net::SocketAddr, process::Command};

use etcd_client::{Client, CompactionOptions, Compare, CompareOp, DeleteOptions, GetOptions, Txn, TxnOp};
use serde_json::Value;
use tempfile::TempDir;

use crate::{free_address, process::Process, until};

/// What all keys start with.
pub(crate) const PREFIX: &str = "/waypost/v1";

/// One member.
pub struct Etcd {
    folder: TempDir,
    client: SocketAddr,
    peer: SocketAddr,
    process: Option<Process>,
}

impl Etcd {
    /// Starts a member and waits until it answers.
    pub async fn start() -> Self {
        let mut etcd = Self { folder: tempfile::tempdir().unwrap(), client: free_address(), peer: free_address(), process: None };
        etcd.restart().await;
        etcd
    }

    /// Starts it again, on its ports and its data.
    pub async fn restart(&mut self) {
        for _ in 0..3 {
            self.spawn();
            if self.is_up().await {
                return;
            }
            // Somebody took a port in between: before the first start any other will do.
            if !self.folder.path().join("data").exists() {
                (self.client, self.peer) = (free_address(), free_address());
            }
        }
        panic!("etcd does not start");
    }

    fn spawn(&mut self) {
        let program = std::env::var_os("ETCD_BIN").unwrap_or_else(|| "etcd".into());
        let (client, peer) = (self.url(), format!("http://{}", self.peer));
        let mut command = Command::new(program);
        command.arg("--data-dir").arg(self.folder.path().join("data"));
        command.args(["--name", "test", "--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer, "--initial-cluster", &format!("test={peer}")]);
        self.process = Some(Process::start(&mut command, &self.folder.path().join("etcd.log")));
    }

    async fn is_up(&mut self) -> bool {
        let url = self.url();
        let Some(process) = &mut self.process else { return false };
        until("etcd answers", async || {
            if process.has_ended() {
                return Ok(false);
            }
            let mut client = Client::connect([&url], None).await.map_err(|error| error.to_string())?;
            client.get("x", None).await.map(|_| true).map_err(|error| error.to_string())
        })
        .await
    }

    /// `http://127.0.0.1:port`
    pub fn url(&self) -> String {
        format!("http://{}", self.client)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.client
    }

    /// Kills it as a power cut would.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// A client of it.
    pub async fn client(&self) -> Client {
        Client::connect([self.url()], None).await.unwrap()
    }

    /// Puts one record; the revision.
    pub async fn put(&self, key: &str, value: Value) -> u64 {
        self.put_raw(key, value.to_string().as_bytes()).await
    }

    /// Puts any bytes; the revision.
    pub async fn put_raw(&self, key: &str, value: &[u8]) -> u64 {
        revision(self.client().await.put(full(key), value, None).await.unwrap().header())
    }

    /// Puts records in one transaction; the revision.
    pub async fn put_all(&self, records: &[(&str, Value)]) -> u64 {
        let puts: Vec<TxnOp> = records.iter().map(|(key, value)| TxnOp::put(full(key), value.to_string(), None)).collect();
        revision(self.client().await.txn(Txn::new().and_then(puts)).await.unwrap().header())
    }

    /// Deletes a key; the revision.
    pub async fn delete(&self, key: &str) -> u64 {
        revision(self.client().await.delete(full(key), None).await.unwrap().header())
    }

    /// Deletes all keys that start so; the revision.
    pub async fn delete_prefix(&self, start: &str) -> u64 {
        let all = DeleteOptions::new().with_prefix();
        revision(self.client().await.delete(full(start), Some(all)).await.unwrap().header())
    }

    /// A value, if there is one.
    pub async fn get(&self, key: &str) -> Option<Value> {
        let found = self.client().await.get(full(key), None).await.unwrap();
        found.kvs().first().map(|kv| serde_json::from_slice(kv.value()).unwrap())
    }

    /// Compacts the whole history away.
    pub async fn compact(&self) {
        let mut client = self.client().await;
        let now = client.get("x", None).await.unwrap().header().unwrap().revision();
        client.compact(now, Some(CompactionOptions::new().with_physical())).await.unwrap();
    }

    /// How many keys there are below the prefix.
    pub async fn count(&self) -> usize {
        let all = GetOptions::new().with_prefix().with_keys_only();
        self.client().await.get(PREFIX, Some(all)).await.unwrap().kvs().len()
    }

    /// Puts a record only if its key is not there; whether it was put.
    pub async fn create(&self, key: &str, value: Value) -> bool {
        let absent = [Compare::version(full(key), CompareOp::Equal, 0)];
        let put = [TxnOp::put(full(key), value.to_string(), None)];
        self.client().await.txn(Txn::new().when(absent).and_then(put)).await.unwrap().succeeded()
    }
}

fn full(key: &str) -> String {
    format!("{PREFIX}/{key}")
}

fn revision(header: Option<&etcd_client::ResponseHeader>) -> u64 {
    u64::try_from(header.unwrap().revision()).unwrap()
}
