//! The gold copy: one etcd with a prefix for each table.

use std::{net::SocketAddr, path::Path, sync::Arc};

use etcd_client::{Client, Txn, TxnOp};
use tokio::task::JoinSet;
use waypost_bench::processes::{Running, Told, say, start_etcd};

use crate::{owners::Owners, ports::free_address, table::Table};

/// Puts a transaction; etcd allows 128.
const BATCH: usize = 100;
/// Transactions under way at once while a table is written.
const AT_ONCE: usize = 4;
const SERVICE: &str = "bench";

pub(crate) struct Gold {
    address: SocketAddr,
    running: Running,
}

impl Gold {
    pub(crate) fn start(folder: &Path) -> Told<Self> {
        let address = free_address()?;
        Ok(Self { address, running: start_etcd(folder, "etcd", address, &[])? })
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// What a table's keys stand below.
    pub(crate) fn prefix(table: Table) -> String {
        format!("/bench/{}", table.tenants)
    }

    /// Writes a table, with all that a proxy needs beside it; the certificate's files are named as they are in `site`.
    pub(crate) fn load(&self, table: Table, owners: &Owners, site: &Path) -> Told<()> {
        let prefix = Self::prefix(table);
        let put = |key: &str, value: &str| TxnOp::put(format!("{prefix}/{key}"), value, None);
        let mut puts = vec![put(&format!("services/{SERVICE}"), r#"{"match":[{}],"key":{"header":"x-tenant"}}"#)];
        for (name, address) in owners.all() {
            puts.push(put(&format!("upstreams/{name}"), &format!(r#"{{"endpoints":[{{"address":"{address}"}}]}}"#)));
        }
        let site = site.display();
        let certificate =
            format!(r#"{{"hosts":["bench.example.com"],"cert":"file:{site}/site.crt","key":"file:{site}/site.key","default":true}}"#);
        puts.push(put("certificates/site", &certificate));
        table.each(None, |key, owner| {
            puts.push(put(&route(key), &owned_by(owner)));
            Ok(())
        })?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(say)?;
        runtime.block_on(async {
            let client = Client::connect([self.url()], None).await.map_err(say)?;
            let puts = Arc::new(puts);
            let mut writers = JoinSet::new();
            for writer in 0..AT_ONCE {
                let (mut client, puts) = (client.clone(), Arc::clone(&puts));
                writers.spawn(async move {
                    for part in puts.chunks(BATCH).skip(writer).step_by(AT_ONCE) {
                        client.txn(Txn::new().and_then(part)).await.map_err(say)?;
                    }
                    Ok::<_, String>(())
                });
            }
            writers.join_all().await.into_iter().collect()
        })
    }
}

/// A route's key below the prefix.
pub(crate) fn route(key: &str) -> String {
    format!("routes/{SERVICE}/{key}")
}

/// A route's value.
pub(crate) fn owned_by(owner: &str) -> String {
    format!(r#"{{"owner":"{owner}"}}"#)
}
