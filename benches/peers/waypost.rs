//! Waypost: the built binary against a real etcd; a change is a put.

use std::{path::Path, process::Command, time::Instant};

use etcd_client::{Client, Txn, TxnOp};
use tokio::runtime::Runtime;
use waypost_bench::processes::{Told, say};

use crate::{
    gold,
    peer::{Peer, Place, Updates},
    rows::Row,
    table::{Move, TENANT, owner_name},
};

pub(crate) struct Waypost;

impl Peer for Waypost {
    fn name(&self) -> &'static str {
        "Waypost"
    }

    fn program(&self) -> &'static str {
        "waypost"
    }

    fn version_arguments(&self) -> &'static [&'static str] {
        &["--version"]
    }

    fn version_in(&self, said: &str) -> Option<String> {
        Some(said.split_whitespace().nth(1)?.to_owned())
    }

    fn prepare(&self, program: &Path, place: &Place) -> Told<Command> {
        let log = if place.setup.has_log { place.file("access.log").display().to_string() } else { "off".to_owned() };
        let values = [("gold", &*place.gold), ("prefix", &place.prefix), ("log", &log)];
        let file = place.configure("waypost.toml", include_str!("configs/waypost.toml"), &values)?;
        let mut command = Command::new(program);
        command.args(["run", "--id", "bench", "--threads", &place.setup.threads.to_string(), "--config"]).arg(file);
        Ok(command)
    }

    fn cannot(&self, _: &Row) -> Option<&'static str> {
        None
    }

    fn updates(&self, place: &Place, _: u32) -> Told<Box<dyn Updates>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(say)?;
        let client = runtime.block_on(Client::connect([&place.gold], None)).map_err(say)?;
        Ok(Box::new(Puts { runtime, client, prefix: place.prefix.clone() }))
    }

    fn templates(&self) -> &'static [&'static str] {
        &["waypost.toml"]
    }
}

/// One transaction of puts.
struct Puts {
    runtime: Runtime,
    client: Client,
    prefix: String,
}

impl Updates for Puts {
    fn move_to(&mut self, moves: &[Move]) -> Told<Instant> {
        let put = |(tenant, owner): &Move| {
            TxnOp::put(format!("{}/{}", self.prefix, gold::route(&format!("{TENANT}{tenant}"))), gold::owned_by(&owner_name(*owner)), None)
        };
        let puts: Vec<TxnOp> = moves.iter().map(put).collect();
        let handed_over = Instant::now();
        self.runtime.block_on(self.client.txn(Txn::new().and_then(puts))).map_err(say)?;
        Ok(handed_over)
    }
}
