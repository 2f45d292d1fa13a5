//! The built binary: found by `WAYPOST_BIN`, or beside the test's own executable.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Output},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{client::Client, free_address, process::Process, until};

/// A running proxy.
pub struct Waypost {
    folder: TempDir,
    gold: String,
    /// The command that it runs, and what that needs beside where it listens.
    command: Vec<String>,
    extra: Vec<String>,
    environment: Vec<(String, String)>,
    /// Whether a flag says where the access log is.
    has_log_flag: bool,
    /// Where clients connect to.
    pub listen: SocketAddr,
    /// Where its admin endpoints are.
    pub admin: SocketAddr,
    process: Option<Process>,
}

/// A process whose place another one takes.
pub struct Replaced {
    process: Process,
}

impl Replaced {
    /// SIGQUIT.
    pub fn quit(&self) {
        self.process.signal("QUIT");
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// What it has said on stdout and stderr.
    pub fn said(&self) -> String {
        self.process.log()
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.process.has_ended()
    }

    /// Waits for its end.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        self.process.wait(limit)
    }

    /// Kills it as a power cut would.
    pub fn kill(mut self) {
        self.process.kill();
    }
}

/// The binary with these arguments, without what the environment would add; a proxy is on the lane that `WAYPOST_TEST_LANE` says.
pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(binary());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("WAYPOST_")) {
        command.env_remove(name);
    }
    // Right behind the command: a test may end with a flag whose value it adds.
    let (name, rest) = args.split_at(args.len().min(1));
    command.args(name).args(lane(args)).args(rest);
    command
}

/// What puts a proxy that is started with these arguments on the lane of this run of the tests: `WAYPOST_TEST_LANE=general` keeps all of them off
/// the express lane. Nothing for other commands; a guard has the general lane alone.
fn lane<T: AsRef<str>>(args: &[T]) -> Option<&'static str> {
    const GENERAL: &str = "--no-express";
    let is_proxy = args.first().is_some_and(|first| first.as_ref() == "run") && args.iter().all(|arg| arg.as_ref() != GENERAL);
    match std::env::var("WAYPOST_TEST_LANE").as_deref() {
        Ok("general") if is_proxy => Some(GENERAL),
        Ok("general") | Err(_) => None,
        Ok(other) => panic!("WAYPOST_TEST_LANE is {other:?}; \"general\" would be right, or nothing"),
    }
}

fn binary() -> PathBuf {
    if let Some(named) = std::env::var_os("WAYPOST_BIN") {
        return named.into();
    }
    let own = std::env::current_exe().unwrap();
    // target/<profile>/deps/e2e-… stands beside target/<profile>/waypost.
    let beside = own.parent().and_then(Path::parent).map(|folder| folder.join("waypost")).unwrap();
    assert!(beside.exists(), "{} is not built; run `cargo build -p waypost` first, or name it in WAYPOST_BIN", beside.display());
    beside
}

impl Waypost {
    /// Starts a proxy on a gold copy (`http://…` or `file:…`), and waits until it is ready.
    pub async fn start(gold: &str, extra: &[&str]) -> Self {
        let mut waypost = Self::new(gold, extra);
        waypost.spawn();
        waypost.ready().await;
        waypost
    }

    /// A proxy that is not started yet.
    pub fn new(gold: &str, extra: &[&str]) -> Self {
        let mut waypost = Self::running(&["run", "--id", "edge-1"], gold, extra);
        let snapshot = waypost.snapshot().display().to_string();
        waypost.command.extend(["--snapshot".to_owned(), snapshot]);
        waypost
    }

    /// Whatever listens and has admin endpoints, not started yet.
    pub(crate) fn running(command: &[&str], gold: &str, extra: &[&str]) -> Self {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let (listen, admin) = (free_address(), free_address());
        let (command, extra) = (texts(command), texts(extra));
        Self {
            folder: tempfile::tempdir().unwrap(),
            gold: gold.to_owned(),
            command,
            extra,
            environment: Vec::new(),
            has_log_flag: true,
            listen,
            admin,
            process: None,
        }
    }

    /// From its next start on it has this in its environment.
    pub fn env(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// From its next start on the bootstrap file says where the access log is.
    pub fn leave_access_log_to_settings(&mut self) {
        self.has_log_flag = false;
    }

    /// The gold copy that it follows.
    pub fn gold(&self) -> &str {
        &self.gold
    }

    /// From its next start on it follows this gold copy, with the snapshot that it has.
    pub fn follow(&mut self, gold: &str) {
        gold.clone_into(&mut self.gold);
    }

    /// Starts the process without waiting.
    pub fn spawn(&mut self) {
        let mut command = command(&[]);
        command.args(&self.command).args(["--gold", &self.gold]);
        if self.has_log_flag {
            command.arg("--access-log").arg(self.folder.path().join("access.log"));
        }
        command.args(["--listen", &self.listen.to_string(), "--admin", &self.admin.to_string()]);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.args(&self.extra).args(lane(&[&self.command[..], &self.extra].concat())).current_dir(self.folder.path());
        self.process = Some(Process::start(&mut command, &self.folder.path().join("waypost.log")));
    }

    /// Starts a process that is to take the running one's sockets over, without waiting. The one before is given back: it has to be
    /// [told](Replaced::quit), and is killed when dropped.
    pub fn spawn_upgrade(&mut self) -> Replaced {
        let before = Replaced { process: self.process.take().unwrap() };
        self.extra.push("--upgrade".to_owned());
        self.spawn();
        self.extra.pop();
        before
    }

    /// Replaces the process by another one, and waits until that serves.
    pub async fn upgrade(&mut self) -> Replaced {
        let before = self.spawn_upgrade();
        before.quit();
        self.serves().await;
        before
    }

    /// The same, and waits for the end of the process before.
    pub async fn upgrade_gently(&mut self) -> ExitStatus {
        let mut before = self.upgrade().await;
        until("the process before has ended", async || if before.has_ended() { Ok(()) } else { Err("it has not".to_owned()) }).await;
        before.wait(Duration::ZERO)
    }

    /// Waits until the process started last is the one that answers.
    pub async fn serves(&mut self) {
        let (admin, pid) = (self.admin, self.pid());
        let process = self.process.as_mut().unwrap();
        until("the new process serves", async || {
            assert!(!process.has_ended(), "the new process ended:\n{}", process.log());
            let status = Client::fetch(admin, "/status").await?;
            let status: Value = serde_json::from_slice(&status.body).map_err(|error| error.to_string())?;
            if status["pid"] == pid { Ok(()) } else { Err(format!("process {} answers, not {pid}", status["pid"])) }
        })
        .await;
    }

    /// Undoes [`Self::spawn_upgrade`]: the process before is the one that counts again.
    pub fn goes_on(&mut self, before: Replaced) -> Replaced {
        Replaced { process: self.process.replace(before.process).unwrap() }
    }

    /// Waits until it is ready.
    pub async fn ready(&mut self) {
        let admin = self.admin;
        let process = self.process.as_mut().unwrap();
        until("the proxy is ready", async || {
            assert!(!process.has_ended(), "the proxy ended:\n{}", process.log());
            let answer = Client::fetch(admin, "/readyz").await?;
            if answer.status == 200 { Ok(()) } else { Err(answer.text()) }
        })
        .await;
    }

    /// Where its snapshot is.
    pub fn snapshot(&self) -> PathBuf {
        self.folder.path().join("edge-1.snapshot")
    }

    /// Its lines of the access log so far.
    pub fn access_log(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.folder.path().join("access.log")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// What it has said on stdout and stderr.
    pub fn said(&self) -> String {
        self.process.as_ref().map(Process::log).unwrap_or_default()
    }

    /// `/status`.
    pub async fn status(&self) -> Value {
        self.json("/status").await
    }

    /// What an admin path answers, as JSON.
    pub async fn json(&self, path: &str) -> Value {
        serde_json::from_slice(&Client::fetch(self.admin, path).await.unwrap().body).unwrap()
    }

    /// A metric's value, summed over its labels.
    pub async fn metric(&self, name: &str) -> f64 {
        let text = Client::fetch(self.admin, "/metrics").await.unwrap().text();
        let lines = text.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// Waits until its table reflects a revision, by the watch.
    pub async fn at(&self, revision: u64) {
        until(&format!("the proxy reaches revision {revision}"), async || {
            let gold = self.status().await["gold"][0].clone();
            let reached = gold["revision"].as_u64() >= Some(revision) && gold["source"] == "watch";
            if reached { Ok(()) } else { Err(gold.to_string()) }
        })
        .await;
    }

    /// Asserts that its table is what the store has, by `waypost check --against`. The flags name the store and who may read it.
    pub async fn equals(&self, gold: &[&str]) {
        let admin = self.admin.to_string();
        let (status, out, said) = Self::run(&[&["check", "--against", &admin][..], gold].concat()).await;
        assert_eq!(status, 0, "{out}{said}");
    }

    /// Waits until it is in contact with the store, or no longer; what `/status` says of it then.
    pub async fn until_connected(&self, connected: bool) -> Value {
        until(&format!("connected is {connected}"), async || {
            let gold = self.status().await["gold"][0].clone();
            if gold["connected"] == connected { Ok(gold) } else { Err(gold.to_string()) }
        })
        .await
    }

    /// A connection to it.
    pub async fn client(&self) -> Client {
        Client::connect(self.listen).await
    }

    /// One GET of a tenant's, over a connection of its own.
    pub async fn get(&self, tenant: &str, path: &str) -> crate::Answer {
        self.client().await.get(path, &[("x-tenant", tenant)]).await
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().unwrap().pid()
    }

    /// Where its access log is.
    pub fn access_log_path(&self) -> PathBuf {
        self.folder.path().join("access.log")
    }

    /// SIGHUP.
    pub fn hang_up(&self) {
        self.process.as_ref().unwrap().signal("HUP");
    }

    /// SIGQUIT.
    pub fn quit(&self) {
        self.process.as_ref().unwrap().signal("QUIT");
    }

    /// Whether its process has ended.
    pub fn has_ended(&mut self) -> bool {
        self.process.as_mut().unwrap().has_ended()
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        self.process.as_ref().unwrap().signal("TERM");
    }

    /// Stops it as a debugger would: it does nothing until it is [resumed](Self::resume).
    pub fn pause(&self) {
        self.process.as_ref().unwrap().signal("STOP");
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.process.as_ref().unwrap().signal("CONT");
    }

    /// Waits for its end.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        self.process.as_mut().unwrap().wait(limit)
    }

    /// Kills it as a power cut would.
    pub fn kill(&mut self) {
        self.process = None;
    }
}

/// Runs a command to its end, off the test's runtime.
pub(crate) async fn run(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

impl Waypost {
    /// Runs the binary with these arguments to its end: exit status, stdout, stderr.
    pub async fn run(args: &[&str]) -> (i32, String, String) {
        let output = run(command(args)).await;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
    }
}
