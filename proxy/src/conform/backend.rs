//! The backend under test: where it is, what it is asked, and the process, where the command starts it by itself.

use std::{net::SocketAddr, os::fd::AsFd, process::Stdio, time::Duration};

use tokio::process::{Child, Command};
use waypost_bench::Target;
use waypost_policy::wire::Stamp;

use super::{
    cases::{Cast, Sends},
    exchange::Request,
};
use crate::{cli::ConformArgs, failure::Failed};

/// The body that is announced where none is sent.
const WITHHELD_BYTES: usize = 100_000;
/// How long the process may take to end by itself.
const END_LIMIT: Duration = Duration::from_secs(2);

/// Where it is, and what it is asked.
#[derive(Clone, Debug)]
pub(super) struct Backend {
    pub(super) to: SocketAddr,
    host: String,
    key_header: String,
    /// Method and path.
    write: (String, String),
    read: (String, String),
    headers: Vec<(String, String)>,
}

impl Backend {
    /// From the arguments.
    pub(super) fn of(args: &ConformArgs) -> Result<Self, Failed> {
        let target = Target::parse(&args.to).map_err(|fault| Failed::unusable(format!("--to: {fault}")))?;
        if target.tls {
            return Err(Failed::unusable(format!("--to: {} is asked without TLS; http://host:port would be right", args.to)));
        }
        if target.path != "/" {
            return Err(Failed::unusable(format!("--to: {} has a path; paths are named in --request and --read", args.to)));
        }
        let header = |given: &String| {
            let parts = given.split_once(':').filter(|(name, _)| !name.is_empty()).filter(|_| !given.contains(['\r', '\n']));
            let parts = parts.map(|(name, value)| (name.to_owned(), value.trim().to_owned()));
            parts.ok_or_else(|| Failed::unusable(format!("-H {given:?} is no header; 'Authorization: Bearer x' would be right")))
        };
        let (write, read) = (asked("--request", &args.request)?, asked("--read", &args.read)?);
        if waypost_policy::owner::is_safe(&write.0) {
            return Err(Failed::unusable(format!("--request: {} is a safe method; PUT or POST would be right", write.0)));
        }
        if !waypost_policy::owner::is_safe(&read.0) {
            return Err(Failed::unusable(format!("--read: {} is no safe method; GET would be right", read.0)));
        }
        Ok(Self {
            to: target.address,
            host: target.host,
            key_header: args.key_header.clone(),
            write,
            read,
            headers: args.header.iter().map(header).collect::<Result<_, _>>()?,
        })
    }

    /// How its requests read: the safe one, and the other.
    pub(super) fn asked(&self) -> [String; 2] {
        [&self.read, &self.write].map(|(method, path)| format!("{method} {path}"))
    }

    /// A request as a proxy sends it; without a stamp, as a client does that was redirected.
    pub(super) fn request(&self, sends: Sends, key: &[u8], stamp: Option<&Stamp>, text: &str) -> Request {
        let (method, path) = if sends == Sends::Read { &self.read } else { &self.write };
        let mut head = format!("{method} {path} HTTP/1.1\r\n").into_bytes();
        let mut field = |name: &str, value: &[u8]| head.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
        if !self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            field("Host", self.host.as_bytes());
        }
        for (name, value) in &self.headers {
            field(name, value.as_bytes());
        }
        field(&self.key_header, key);
        match sends {
            Sends::Read => {}
            Sends::Write => field("Content-Length", text.len().to_string().as_bytes()),
            Sends::WriteHead | Sends::WriteExpecting => field("Content-Length", WITHHELD_BYTES.to_string().as_bytes()),
        }
        if sends == Sends::WriteExpecting {
            field("Expect", b"100-continue");
        }
        if let Some(stamp) = stamp {
            field("Via", b"1.1 waypost");
            field("X-Forwarded-For", b"127.0.0.1");
            field("X-Forwarded-Proto", b"http");
            field("X-Forwarded-Host", self.host.as_bytes());
            field("X-Request-Id", format!("conform-{:08x}", fastrand::u32(..)).as_bytes());
            field("CDN-Loop", b"waypost-conform");
            field("Route-Stamp", stamp.to_value().as_bytes());
        }
        head.extend(b"\r\n");
        let body = if sends == Sends::Write { text.as_bytes().to_vec() } else { Vec::new() };
        Request { head, body }
    }
}

fn asked(flag: &str, given: &str) -> Result<(String, String), Failed> {
    let parts = given.split_once(' ').map(|(method, path)| (method.to_owned(), path.trim().to_owned()));
    let is_sound = |(method, path): &(String, String)| {
        let is_path = path.starts_with('/') && path.bytes().all(|b| b.is_ascii_graphic());
        is_path && !method.is_empty() && method.bytes().all(|b| b.is_ascii_alphabetic())
    };
    let parts = parts.filter(is_sound);
    parts.ok_or_else(|| Failed::unusable(format!("{flag}: \"{given}\" is no method and path; 'PUT /note' would be right")))
}

/// The backend's process and all that it has started.
pub(super) struct Process {
    child: Child,
}

impl Process {
    /// Starts the command, with what it has to know filled in. What it says goes to stderr.
    pub(super) fn start(command: &[String], facts: &[(&str, &str)]) -> Result<Self, Failed> {
        let filled = command.iter().map(|part| facts.iter().fold(part.clone(), |part, (name, value)| part.replace(name, value)));
        let filled: Vec<String> = filled.collect();
        let Some((program, arguments)) = filled.split_first() else { return Err(Failed::unusable("there is no command")) };
        let fail = |error: std::io::Error| Failed::not_done(format!("{program} could not be started: {error}"));
        let said = std::io::stderr().as_fd().try_clone_to_owned().map_err(fail)?;
        let mut command = Command::new(program);
        // A group of its own, so that it can be ended with all that it has started.
        command.args(arguments).stdin(Stdio::null()).stdout(said).kill_on_drop(true).process_group(0);
        Ok(Self { child: command.spawn().map_err(fail)? })
    }

    /// How it has ended, if it has.
    pub(super) fn has_ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Ends it.
    pub(super) async fn end(mut self) {
        use rustix::process::{Pid, Signal, kill_process_group};
        let group = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let Some(group) = group else { return };
        for signal in [Signal::TERM, Signal::KILL] {
            // It may have ended meanwhile.
            let _ = kill_process_group(group, signal);
            if tokio::time::timeout(END_LIMIT, self.child.wait()).await.is_ok() {
                return;
            }
        }
    }
}

/// What a command may have filled in.
pub(super) fn placeholders<'a>(args: &'a ConformArgs, gold: &'a str, prefix: &'a str, cast: &'a Cast) -> [(&'a str, &'a str); 5] {
    let to = args.to.trim_start_matches("http://").trim_end_matches('/');
    [("{gold}", gold), ("{prefix}", prefix), ("{upstream}", &cast.me), ("{service}", &cast.service), ("{to}", to)]
}
