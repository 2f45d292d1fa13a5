//! Python with the tests' own virtual environment: scripts that serve, and scripts that ask.
//!
//! `make setup` makes the environment from `real/python/requirements.txt`, in `target/python`. Scripts lie in `real/python`.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use crate::{Ran, free_address, process::Process, program, until};

/// How often a server is started on another port if its port turns out to be taken.
const STARTS: usize = 3;

/// A server written in Python; killed when dropped.
pub struct Python {
    /// Where it listens.
    pub address: SocketAddr,
    _process: Process,
    _folder: TempDir,
}

impl Python {
    /// Starts a script of `real/python` that serves: it gets host and port as its arguments.
    pub async fn serve(script: &str) -> Self {
        let script = scripts().join(script);
        Self::start(|address| vec![script.display().to_string(), address.ip().to_string(), address.port().to_string()]).await
    }

    /// Starts a script of `real/python` that listens at an address of the test's own, with these arguments.
    pub async fn serve_at(address: SocketAddr, script: &str, args: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(interpreter());
        command.arg(scripts().join(script)).args(args).env("PYTHONUNBUFFERED", "1").env("NO_PROXY", "*").current_dir(folder.path());
        let mut process = Process::start(&mut command, &folder.path().join("python.log"));
        assert!(listens("a Python server listens", &mut process, address).await, "{script} ended before it listened");
        Self { address, _process: process, _folder: folder }
    }

    /// Interpreter and script, for who starts it by itself.
    pub fn command(script: &str) -> [String; 2] {
        [interpreter(), scripts().join(script)].map(|path| path.display().to_string())
    }

    /// Starts an S3 server.
    pub async fn s3() -> Self {
        Self::start(|address| ["-m", "moto.server", "-H", "127.0.0.1", "-p", &address.port().to_string()].map(str::to_owned).into()).await
    }

    async fn start(args: impl Fn(SocketAddr) -> Vec<String>) -> Self {
        for _ in 0..STARTS {
            let (address, folder) = (free_address(), tempfile::tempdir().unwrap());
            let mut command = Command::new(interpreter());
            command.args(args(address)).env("PYTHONUNBUFFERED", "1").current_dir(folder.path());
            let mut process = Process::start(&mut command, &folder.path().join("python.log"));
            if listens("a Python server listens", &mut process, address).await {
                return Self { address, _process: process, _folder: folder };
            }
        }
        panic!("a Python server ended {STARTS} times before it listened");
    }

    /// Runs a script of `real/python` to its end with these arguments.
    pub async fn run(script: &str, args: &[&str]) -> Ran {
        let script = scripts().join(script).display().to_string();
        program(interpreter(), &[&[&*script], args].concat(), b"").await
    }
}

/// Waits until the process listens; false if it has ended instead.
pub(crate) async fn listens(what: &str, process: &mut Process, address: SocketAddr) -> bool {
    until(what, async || {
        if process.has_ended() {
            return Ok(false);
        }
        let connected = tokio::net::TcpStream::connect(address).await;
        connected.map(|_| true).map_err(|error| format!("{error}\n{}", process.log()))
    })
    .await
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("real/python")
}

fn interpreter() -> PathBuf {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("target/python/bin/python");
    assert!(python.exists(), "{} is not there; run `make setup` first", python.display());
    python
}
