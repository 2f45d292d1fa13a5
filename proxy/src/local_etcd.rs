//! An etcd of a command's own, on loopback: for the demo, and for `conform`.
//!
//! `ETCD_BIN` names another than the one in the path. Its data and its log lie in the folder that it is given; whatever ends the
//! command, a drop of this ends the process by its own pid.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::process::{Child, Command};
use waypost_watcher::{Credentials, EtcdPlace, store::Store};

use crate::until::until;

/// How long it may take to come up.
const START_LIMIT: Duration = Duration::from_secs(20);
const LOG: &str = "etcd.log";
/// So many lines of its log are shown when it does not come up.
const LOG_LINES: usize = 8;

/// The process, and where it is.
pub(crate) struct LocalEtcd {
    folder: PathBuf,
    client: SocketAddr,
    peer: SocketAddr,
    process: Option<Child>,
}

impl LocalEtcd {
    /// One that is not started yet, on ports that were free a moment ago.
    ///
    /// # Errors
    /// A sentence, if no ports can be had.
    pub(crate) fn new(folder: &Path) -> Result<Self, String> {
        let ports = free_ports(2).map_err(|error| format!("no free port could be had: {error}"))?;
        Ok(Self { folder: folder.to_owned(), client: ports[0], peer: ports[1], process: None })
    }

    /// Where clients reach it.
    pub(crate) fn address(&self) -> SocketAddr {
        self.client
    }

    /// The same as a URL.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.client)
    }

    /// The gold copy in it.
    pub(crate) fn place(&self) -> EtcdPlace {
        EtcdPlace { endpoints: vec![self.url()], prefix: waypost_conf::DEFAULT_PREFIX.to_owned(), credentials: Credentials::default() }
    }

    /// Starts it on its ports and its data, and waits until it answers.
    ///
    /// # Errors
    /// A sentence, if it can't be started or does not come up.
    pub(crate) async fn start(&mut self) -> Result<(), String> {
        let program = std::env::var_os("ETCD_BIN").unwrap_or_else(|| "etcd".into());
        let (client, peer) = (self.url(), format!("http://{}", self.peer));
        let mut command = Command::new(&program);
        command.arg("--data-dir").arg(self.folder.join("etcd"));
        command.args(["--name", "local", "--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer, "--initial-cluster", &format!("local={peer}")]);
        let process = spawn(&mut command, &self.folder.join(LOG)).map_err(|error| {
            format!("etcd could not be started: {error}; install it (Debian: apt-get install etcd-server) or name it in ETCD_BIN")
        })?;
        self.process = Some(process);
        let place = self.place();
        until("etcd did not come up", START_LIMIT, async || Store::connect(&place).await.ok())
            .await
            .map_err(|why| with_log(why, &self.folder.join(LOG)))?;
        Ok(())
    }

    /// Kills it as a power cut would.
    pub(crate) async fn kill(&mut self) -> Result<(), String> {
        kill(self.process.take()).await
    }
}

/// Starts a process whose output goes to a file. Its group is its own: Ctrl-C is for the command, which then ends its processes in order.
pub(crate) fn spawn(command: &mut Command, log: &Path) -> std::io::Result<Child> {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(log)?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true).process_group(0).spawn()
}

/// Ends a process by its own pid.
pub(crate) async fn kill(child: Option<Child>) -> Result<(), String> {
    match child {
        Some(mut child) => child.kill().await.map_err(|error| format!("a process could not be ended: {error}")),
        None => Ok(()),
    }
}

/// Why something did not come up, with the end of its log.
pub(crate) fn with_log(why: String, log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let tail: Vec<&str> = text.lines().rev().take(LOG_LINES).collect();
    let tail: Vec<&str> = tail.into_iter().rev().collect();
    format!("{why}; the end of its log:\n{}", tail.join("\n"))
}

/// Ports that were free a moment ago, all different.
pub(crate) fn free_ports(count: usize) -> std::io::Result<Vec<SocketAddr>> {
    let held = (0..count).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect::<Result<Vec<_>, _>>()?;
    held.iter().map(TcpListener::local_addr).collect()
}
