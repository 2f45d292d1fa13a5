//! One instance of a peer: started, looked at, stopped while others are measured, ended with its handle.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use waypost_bench::{
    cpu_seconds_of,
    processes::{Running, Told},
};

use crate::{
    client::Client,
    peer::{Peer, Place},
    table::{OWNERS, TENANT},
    tree,
};

/// How long a peer may take until it answers by its whole table.
const START_LIMIT: Duration = Duration::from_secs(150);
/// How long it is waited until a peer has nothing left to do, and how often it is looked at.
const SETTLE_LIMIT: Duration = Duration::from_secs(30);
const SETTLE_STEP: Duration = Duration::from_millis(200);
/// How long it may take to end when it is asked to.
const END_LIMIT: Duration = Duration::from_secs(3);
/// What a process that has nothing to do may use of a core.
const IDLE_SHARE: f64 = 0.06;
/// How many routes of a table are looked at before anything is measured.
const LOOKED_AT: u64 = 37;
/// Of the fields that all are to add, those that a request has, and those that an answer has.
const TO_OWNER: [&str; 4] = ["x-forwarded-for", "x-forwarded-proto", "x-request-id", "via"];
const TO_CLIENT: [&str; 2] = ["via", "x-request-id"];

pub(crate) struct Instance {
    pub(crate) place: Place,
    running: Running,
    /// From its start until it answered by its table.
    pub(crate) took: Duration,
}

/// What an instance does with a request, seen from both sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Habits {
    /// Of the fields that are asked for, those that do not reach the owner, or the client.
    pub(crate) not_to_owner: Vec<&'static str>,
    pub(crate) not_to_client: Vec<&'static str>,
    /// What reaches the owner beside the client's own and those.
    pub(crate) more_to_owner: Vec<String>,
}

impl Instance {
    /// Returns when it answers by the first and the last route of its table.
    pub(crate) fn start(peer: &dyn Peer, program: &Path, place: Place, has_cores: bool) -> Told<Self> {
        let command = peer.prepare(program, &place)?;
        // One that is stopped would stay if this program were killed.
        let mut started = Command::new("setpriv");
        started.args(["--pdeathsig", "KILL"]);
        if has_cores {
            started.args(["taskset", "-c", if place.setup.is_pinned { "0" } else { "0,1" }]);
        }
        started.arg(command.get_program()).args(command.get_args());
        started.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let since = Instant::now();
        let mut running = Running::start(&mut started, &place.folder, peer.program())?;
        let last = place.setup.table.tenants - 1;
        let mut client = Client::new(place.plain);
        loop {
            let answers = |client: &mut Client, tenant: u64| {
                client.get(&format!("{TENANT}{tenant}")).is_ok_and(|answer| answer.status == 200 && answer.owner().is_some())
            };
            if answers(&mut client, 0) && answers(&mut client, last) {
                break;
            }
            if running.has_ended() {
                return Err(format!("it ended by itself: {}", last_words(&place, peer)));
            }
            if since.elapsed() > START_LIMIT {
                return Err(format!("it did not answer by its table within {} s", START_LIMIT.as_secs()));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(Self { place, running, took: since.elapsed() })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// Waits until it has nothing to do: what is left of a start or of changes is not to be charged to requests.
    pub(crate) fn settle(&self) -> Told<()> {
        let ends = Instant::now() + SETTLE_LIMIT;
        let mut before = cpu_seconds_of(self.pid())?;
        loop {
            std::thread::sleep(SETTLE_STEP);
            let now = cpu_seconds_of(self.pid())?;
            if now - before <= IDLE_SHARE * SETTLE_STEP.as_secs_f64() || Instant::now() > ends {
                return Ok(());
            }
            before = now;
        }
    }

    pub(crate) fn stop(&self) {
        tree::signal(self.pid(), Signal::STOP);
    }

    pub(crate) fn wake(&self) {
        tree::signal(self.pid(), Signal::CONT);
    }

    /// Whether it is still there.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.running.has_ended()
    }

    /// Asks for some tenants, of which none has been moved yet: whether their own owners answer.
    pub(crate) fn check_routes(&self) -> Told<()> {
        let tenants = self.place.setup.table.tenants;
        let mut client = Client::new(self.place.plain);
        for tenant in (0..tenants).step_by(usize::try_from(tenants / LOOKED_AT).unwrap_or(1).max(1)) {
            let owner = client.get(&format!("{TENANT}{tenant}"))?.owner();
            if owner != Some(tenant % OWNERS) {
                return Err(format!("{TENANT}{tenant} was answered by {owner:?} instead of {}", tenant % OWNERS));
            }
        }
        Ok(())
    }

    /// Asks twice over one connection: what reached the owner, and what came back.
    pub(crate) fn habits(&self) -> Told<Habits> {
        let mut client = Client::new(self.place.plain);
        client.get("echo-0")?;
        if !client.is_open() {
            return Err("it does not keep a client's connection".to_owned());
        }
        let answer = client.get("echo-0")?;
        let head = answer.body.to_ascii_lowercase();
        let reached: Vec<&str> = head.lines().skip(1).filter_map(|line| Some(line.split_once(':')?.0)).collect();
        if !reached.contains(&"x-tenant") {
            return Err(format!("the owner that tells what it was sent was not reached: {} {}", answer.status, answer.body));
        }
        let usual = ["host", "x-tenant", "connection"];
        Ok(Habits {
            not_to_owner: TO_OWNER.into_iter().filter(|name| !reached.contains(name)).collect(),
            not_to_client: TO_CLIENT.into_iter().filter(|name| answer.field(name).is_none()).collect(),
            more_to_owner: reached
                .iter()
                .filter(|name| !TO_OWNER.contains(name) && !usual.contains(name))
                .map(|&name| name.to_owned())
                .collect(),
        })
    }
}

impl Drop for Instance {
    /// Asked first, so that what a process writes at its end is written: counts of a build that is made to count. A stopped child outlives its
    /// parent; all of them are to end.
    fn drop(&mut self) {
        tree::signal(self.pid(), Signal::INT);
        self.wake();
        let ends = Instant::now() + END_LIMIT;
        while !self.running.has_ended() && Instant::now() < ends {
            std::thread::sleep(Duration::from_millis(5));
        }
        tree::signal(self.pid(), Signal::KILL);
    }
}

/// The last line that it said.
fn last_words(place: &Place, peer: &dyn Peer) -> String {
    let log = std::fs::read_to_string(place.file(&format!("{}.log", peer.program()))).unwrap_or_default();
    let last = log.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    // Where things are on this machine is nobody's business.
    let words = last.split(' ').map(|word| if word.starts_with('/') { word.rsplit('/').next().unwrap_or_default() } else { word });
    words.collect::<Vec<_>>().join(" ").replace(&place.folder_text(), "")
}
