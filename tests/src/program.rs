//! Programs that nobody here wrote, run to their end within a limit: curl, wrk, Python scripts.

use std::{ffi::OsStr, path::Path, process::Stdio, time::Duration};

/// How long one program may run; it is killed then.
const LIMIT: Duration = Duration::from_secs(50);

/// What a program said.
#[derive(Clone, Debug)]
pub struct Ran {
    /// Its exit status; -1 if a signal ended it.
    pub status: i32,
    /// What it wrote to stdout.
    pub stdout: Vec<u8>,
    /// What it wrote to stderr.
    pub stderr: String,
}

impl Ran {
    /// stdout as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Panics with everything it said unless it ended with 0.
    pub fn succeeded(self) -> Self {
        assert!(self.status == 0, "exit status {}\n{}\n{}", self.status, self.text(), self.stderr);
        self
    }
}

/// Runs a program with these bytes on its stdin; panics if it can't be started or does not end within the limit.
pub async fn program(name: impl AsRef<Path>, args: &[impl AsRef<OsStr>], stdin: &[u8]) -> Ran {
    let name = name.as_ref();
    let mut command = tokio::process::Command::new(name);
    // Loopback is reached without any proxy but the one under test.
    command.args(args).env("NO_PROXY", "*").kill_on_drop(true).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}; `make setup` installs it", name.display()));
    let mut pipe = child.stdin.take().unwrap();
    let fed = async {
        // A program that wants less than it is given is not wrong.
        let _ = tokio::io::AsyncWriteExt::write_all(&mut pipe, stdin).await;
        drop(pipe);
    };
    let work = async { tokio::join!(fed, child.wait_with_output()).1 };
    let output = tokio::time::timeout(LIMIT, work).await.unwrap_or_else(|_| panic!("{} did not end within {LIMIT:?}", name.display()));
    let output = output.unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    Ran { status: output.status.code().unwrap_or(-1), stdout: output.stdout, stderr }
}
