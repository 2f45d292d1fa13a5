//! What all peers stand on: the folder, the owners, the certificate, the store, the programs, and the cores.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;
use waypost_bench::processes::{Told, pin, say, waypost_binary};

use crate::{
    ending,
    gold::Gold,
    instance::Instance,
    owners::Owners,
    peer::{OURS, PEERS, Peer, Place, find},
    ports::free_address,
    rows::Setup,
    table::Table,
};

pub(crate) struct Stage {
    folder: TempDir,
    pub(crate) owners: Owners,
    gold: Gold,
    /// Whether there are two cores to share out.
    has_cores: bool,
    is_judged: bool,
    /// Where each peer's program is, if it is.
    pub(crate) programs: Vec<Option<PathBuf>>,
    certificate: [String; 2],
}

impl Stage {
    /// Everything that is no proxy is on core 1 from here on. `wanted` tells which peers are looked for.
    pub(crate) fn open(tables: &BTreeSet<Table>, is_judged: bool, wanted: impl Fn(&dyn Peer) -> bool) -> Told<Self> {
        let folder = tempfile::Builder::new().prefix("peers-").tempdir().map_err(say)?;
        ending::watch(folder.path().to_owned())?;
        ending::raise_limit_of_files();
        let has_cores = std::thread::available_parallelism().is_ok_and(|cores| cores.get() > 1) && pin(std::process::id(), "1").is_ok();
        let owners = Owners::start()?;
        let certificate = make_certificate(folder.path())?;
        write_certificate(&certificate, folder.path())?;
        let gold = Gold::start(folder.path())?;
        let mut programs = Vec::new();
        for (number, peer) in PEERS.into_iter().enumerate() {
            programs.push(match number {
                _ if !wanted(peer) => None,
                OURS => Some(waypost_binary()?),
                _ => find(peer.program()),
            });
        }
        let stage = Self { folder, owners, gold, has_cores, is_judged, programs, certificate };
        if stage.programs[OURS].is_some() {
            for table in tables {
                eprintln!("writing {} routes into etcd", table.tenants);
                stage.gold.load(*table, &stage.owners, stage.folder.path())?;
            }
        }
        Ok(stage)
    }

    /// Starts an instance of a peer that has nothing left to do, on ports that were free a moment before.
    pub(crate) fn start(&self, peer: usize, setup: Setup) -> Told<Instance> {
        let program = self.programs[peer].as_deref().ok_or("it is not installed")?;
        let own = tempfile::Builder::new().prefix(PEERS[peer].program()).tempdir_in(self.folder.path()).map_err(say)?.keep();
        write_certificate(&self.certificate, &own)?;
        let plain = free_address()?;
        let h2c = if PEERS[peer].speaks_h2c_apart() { free_address()? } else { plain };
        let place = Place {
            folder: own,
            setup,
            owners: self.owners.clone(),
            plain,
            h2c,
            tls: free_address()?,
            admin: free_address()?,
            gold: self.gold.url(),
            prefix: Gold::prefix(setup.table),
        };
        let instance = Instance::start(PEERS[peer], program, place, self.has_cores)?;
        self.settle(&instance)?;
        Ok(instance)
    }

    /// Waits until an instance has nothing left to do, if figures mean anything.
    pub(crate) fn settle(&self, instance: &Instance) -> Told<()> {
        if self.is_judged { instance.settle() } else { Ok(()) }
    }

    /// The generator, the owners and the store: beside the proxy, on core 1, or free on both as it is.
    pub(crate) fn share_out(&self, setup: Setup) -> Told<()> {
        if self.has_cores { pin(std::process::id(), if setup.is_pinned { "1" } else { "0,1" }) } else { Ok(()) }
    }

    pub(crate) fn etcd_pid(&self) -> u32 {
        self.gold.pid()
    }
}

/// A certificate and its key (ECDSA, P-256) as PEM. By a program, so that the product is not built with what makes certificates.
fn make_certificate(folder: &Path) -> Told<[String; 2]> {
    let (certificate, key) = (folder.join("made.crt"), folder.join("made.key"));
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30"]);
    openssl.args(["-subj", "/CN=bench.example.com", "-addext", "subjectAltName=DNS:bench.example.com"]);
    openssl.arg("-keyout").arg(&key).arg("-out").arg(&certificate);
    let ran = openssl.output().map_err(|error| format!("openssl could not be started: {error}; `make setup` installs it"))?;
    if !ran.status.success() {
        return Err(format!("openssl made no certificate: {}", String::from_utf8_lossy(&ran.stderr).trim()));
    }
    Ok([std::fs::read_to_string(certificate).map_err(say)?, std::fs::read_to_string(key).map_err(say)?])
}

fn write_certificate([certificate, key]: &[String; 2], folder: &Path) -> Told<()> {
    for (name, text) in [("site.crt", certificate.clone()), ("site.key", key.clone()), ("site.pem", format!("{certificate}{key}"))] {
        std::fs::write(folder.join(name), text).map_err(say)?;
    }
    Ok(())
}
