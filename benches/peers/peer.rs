//! What a peer is: how it is configured, what it can't do, and how it is told of a moved route.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use waypost_bench::processes::{Told, say};

use crate::{
    envoy::Envoy,
    haproxy::HaProxy,
    nginx::Nginx,
    owners::Owners,
    rows::{Row, Setup},
    table::Move,
    traefik::Traefik,
    waypost::Waypost,
};

/// Where one instance is, and what it is to be.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Its own; the certificate is in it as `site.crt`, `site.key` and both in `site.pem`.
    pub(crate) folder: PathBuf,
    pub(crate) setup: Setup,
    pub(crate) owners: Owners,
    /// HTTP/1.1, and HTTP/2 with prior knowledge if `h2c` is the same.
    pub(crate) plain: SocketAddr,
    pub(crate) h2c: SocketAddr,
    pub(crate) tls: SocketAddr,
    pub(crate) admin: SocketAddr,
    /// The etcd in which the table is, and the prefix it is below.
    pub(crate) gold: String,
    pub(crate) prefix: String,
}

/// Tells an instance of moved routes.
pub(crate) trait Updates: Send {
    /// Hands moves over: since when the instance could know.
    fn move_to(&mut self, moves: &[Move]) -> Told<Instant>;
}

/// A proxy that is measured.
pub(crate) trait Peer: Sync {
    /// As its makers write it.
    fn name(&self) -> &'static str;
    /// The program's name.
    fn program(&self) -> &'static str;
    /// How the program is asked for its version.
    fn version_arguments(&self) -> &'static [&'static str];
    /// What follows the version in what it says, or stands before it.
    fn version_in(&self, said: &str) -> Option<String>;
    /// Writes the configuration into the place's folder.
    fn prepare(&self, program: &Path, place: &Place) -> Told<Command>;
    /// Why it can't do a row, if so.
    fn cannot(&self, row: &Row) -> Option<&'static str>;
    /// How a running instance is told of moves.
    fn updates(&self, place: &Place, pid: u32) -> Told<Box<dyn Updates>>;
    /// Whether HTTP/2 with prior knowledge needs a listener of its own.
    fn speaks_h2c_apart(&self) -> bool {
        false
    }
    /// The templates of its configuration, by file name.
    fn templates(&self) -> &'static [&'static str];
}

/// All, in the report's order.
pub(crate) const PEERS: [&dyn Peer; 5] = [&Waypost, &HaProxy, &Nginx, &Envoy, &Traefik];

/// The one that the others are compared with.
pub(crate) const OURS: usize = 0;
pub(crate) const HAPROXY: usize = 1;

/// Fills a template's `{{names}}` in.
pub(crate) fn fill(template: &str, values: &[(&str, &str)]) -> Told<String> {
    let mut text = template.to_owned();
    for (name, value) in values {
        text = text.replace(&format!("{{{{{name}}}}}"), value);
    }
    match text.find("{{") {
        Some(at) => Err(format!("a template's {} is not filled in", text[at..].lines().next().unwrap_or_default())),
        None => Ok(text),
    }
}

impl Place {
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The folder as text for a configuration; `tempfile` makes names that are plain.
    pub(crate) fn folder_text(&self) -> String {
        self.folder.display().to_string()
    }

    /// Writes a configuration from its template.
    pub(crate) fn configure(&self, name: &str, template: &str, values: &[(&str, &str)]) -> Told<PathBuf> {
        let (folder, threads) = (self.folder_text(), self.setup.threads.to_string());
        let [plain, h2c, tls, admin] = [self.plain, self.h2c, self.tls, self.admin].map(|address| address.to_string());
        let usual = [("folder", &*folder), ("threads", &threads), ("plain", &plain), ("h2c", &h2c), ("tls", &tls), ("admin", &admin)];
        let text = fill(template, &[values, &usual].concat())?;
        let file = self.file(name);
        std::fs::write(&file, text).map_err(say)?;
        Ok(file)
    }
}

/// The program of this name: in the folder that `make setup-peers` fills, else wherever programs are.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let own = std::env::current_exe().ok();
    let set_up = own.as_deref().and_then(|own| Some(own.parent()?.parent()?.join("peers/bin")));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = set_up.into_iter().chain(std::env::split_paths(&path)).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    folders.map(|folder| folder.join(program)).find(|file| file.is_file())
}
