//! Owners: processes that judge by `policy::owner` and announce by `policy::handover::Ledger`, as they are shipped, driven as `owner/src/lib.rs`
//! drives them. And false ones, which say whatever they like and execute nothing.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use waypost_policy::{
    Moment, Reply,
    handover::{Announcement, Freezes, Key, Ledger},
    owner::{self, Judgement, is_safe},
    table::{Entry, State},
    tenure::Tenure,
    wire::{STALE_HEADER, Stale, StaleState, Stamp, UPDATE_HEADER, Update},
};
use waypost_watcher::machine::Input;

use crate::{
    history::Seen,
    leased::Leased,
    plan::Kind,
    store::STATE,
    watching::Watching,
    world::{Peer, Pid, World},
};

/// How long an announcement outlives its process, or its contact with the store.
const ANNOUNCED_FOR: Duration = Duration::from_secs(10);

/// One process of an upstream.
pub(crate) struct Instance {
    pub(crate) upstream: String,
    pub(crate) address: String,
    pub(crate) watching: Watching,
    pub(crate) leased: Leased,
    ledger: Ledger,
    pub(crate) freezes: Freezes,
    /// It is announced, so that its first view may be read.
    is_announced: bool,
    /// What it announces by that view is in the store.
    pub(crate) is_serving: bool,
    /// Heads that wait for the view to change.
    waiting: Vec<Asked>,
    /// Requests that are executed, by number: for which keys.
    pub(crate) running: BTreeMap<u64, usize>,
    /// Its lease, where its end counts as its word.
    pub(crate) tenure: Option<Tenure>,
    pub(crate) is_watching_its_end: bool,
    executions: u64,
    is_false: bool,
}

/// A request's head, as an owner sees it.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) request: u64,
    /// Who sent it; `None`: the client itself.
    pub(crate) proxy: Option<(Pid, u64)>,
    pub(crate) key: usize,
    pub(crate) method: &'static str,
    pub(crate) stamp: Option<Stamp>,
    until: Moment,
}

/// An answer's head.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
}

impl Reply for Answer {
    fn status(&self) -> u16 {
        self.status
    }

    fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.headers.iter().filter(move |(of, _)| *of == name).map(|(_, value)| value.as_bytes())
    }
}

impl Instance {
    pub(crate) fn is_false(&self) -> bool {
        self.is_false
    }
}

impl Asked {
    pub(crate) fn new(request: u64, proxy: Option<(Pid, u64)>, key: usize, method: &'static str, stamp: Option<&str>) -> Self {
        let stamp = stamp.and_then(|stamp| Stamp::parse(stamp.as_bytes()).ok());
        Self { request, proxy, key, method, stamp, until: Moment::default() }
    }
}

impl World {
    /// Starts a process of an upstream. It announces itself, then lists the store, and serves once it has announced what it knows by that: a mover
    /// either meets it, or has frozen its key before.
    pub(crate) fn start_instance(&mut self, upstream: &str, number: usize, is_false: bool) -> Pid {
        let pid = self.start_process();
        let leased = Leased::new(format!("{STATE}owners/{upstream}/i{number}"), ANNOUNCED_FOR);
        let instance = Instance {
            upstream: upstream.to_owned(),
            address: self.plan.address(upstream, number),
            watching: Watching::new(self.plan.keys.len()),
            leased,
            ledger: Ledger::default(),
            freezes: Freezes::default(),
            is_announced: false,
            is_serving: false,
            waiting: Vec::new(),
            running: BTreeMap::new(),
            tenure: (self.plan.stops && !is_false).then(Tenure::default),
            is_watching_its_end: false,
            executions: 0,
            is_false,
        };
        self.instances.insert(pid, instance);
        let silent = serde_json::to_string(&Announcement::default()).unwrap();
        self.within(pid, Duration::ZERO, move |world| world.set_leased(pid, silent));
        pid
    }

    /// The process that listens at an address, if one does.
    pub(crate) fn listener(&self, address: &str) -> Option<Pid> {
        let mut living = self.instances.iter().filter(|(pid, _)| self.is_alive(**pid));
        living.find(|(_, instance)| instance.address == address && instance.is_serving).map(|(pid, _)| *pid)
    }

    /// A table has come into force at an owner.
    pub(crate) fn owner_in_force(&mut self, pid: Pid) {
        self.announce_soon(pid);
        self.look_after_freezes(pid);
        let instance = self.instances.get_mut(&pid).unwrap();
        for asked in std::mem::take(&mut instance.waiting) {
            let by = self.micros(1, 50);
            self.within(pid, by, move |world| world.admit(pid, asked));
        }
    }

    /// The table is looked at first: see `Ledger`.
    fn announce(&mut self, pid: Pid) {
        let instance = self.instances.get_mut(&pid).unwrap();
        let Some(table) = &instance.watching.table else { return };
        let announced = instance.ledger.announce(table, &instance.upstream);
        let (applied, busy) = (announced.applied, announced.busy.len());
        let value = serde_json::to_string(&announced).unwrap();
        self.seen(Seen::Announces { pid, applied, busy });
        self.set_leased(pid, value);
    }

    /// It is announced anew a moment after there is something to say.
    fn announce_soon(&mut self, pid: Pid) {
        let by = self.micros(1, 100);
        self.within(pid, by, move |world| world.announce(pid));
    }

    /// What is announced is in the store.
    pub(crate) fn announced(&mut self, pid: Pid) {
        let instance = self.instances.get_mut(&pid).unwrap();
        instance.is_serving = instance.watching.table.is_some();
        if let Some(tenure) = instance.tenure.as_mut().filter(|_| instance.is_serving)
            && tenure.unconfirmed() == Some(1)
        {
            tenure.confirm(1);
        }
        if !std::mem::replace(&mut instance.is_announced, true) {
            self.feed(pid, Input::Start);
        }
    }

    /// A request's head has come.
    pub(crate) fn arrive(&mut self, pid: Pid, mut asked: Asked) {
        self.seen(Seen::Head { pid, request: asked.request, key: asked.key, stamp: asked.stamp.clone() });
        let wait_ms = asked.stamp.as_ref().map_or(0, |stamp| stamp.wait_ms);
        asked.until = self.local(pid) + Duration::from_millis(wait_ms);
        if self.instances[&pid].is_false && self.lie(pid, &asked) {
            return;
        }
        self.admit(pid, asked);
    }

    /// `Owner::admit`: the request is in the ledger before the table is looked at, which other threads may change in between.
    fn admit(&mut self, pid: Pid, asked: Asked) {
        let key = self.ledger_key(asked.key);
        self.instances.get_mut(&pid).unwrap().ledger.enter(&key);
        let between = if self.chance(10) { self.micros(1, 300) } else { Duration::ZERO };
        self.within(pid, between, move |world| world.judge(pid, asked));
    }

    fn judge(&mut self, pid: Pid, asked: Asked) {
        let local = self.local(pid);
        if !self.admits(pid) {
            self.leave(pid, asked.key);
            let key = &self.plan.keys[asked.key];
            let stale = Stale { state: StaleState::Handoff, ..Stale::without_view(key.service, key.name.as_bytes()) };
            return self.refuse(pid, &asked, &stale);
        }
        let instance = self.instances.get_mut(&pid).unwrap();
        let table = Arc::clone(instance.watching.table.as_ref().unwrap());
        let key = &self.plan.keys[asked.key];
        let may_wait = local < asked.until;
        let question = owner::Asked {
            service: key.service,
            key: key.name.as_bytes(),
            stamp: asked.stamp.as_ref(),
            is_safe: is_safe(asked.method),
            may_wait,
        };
        match owner::judge(&table, &instance.upstream, &question) {
            Judgement::Serve(serving) => {
                if let Some(stale) = self.gone_already(pid, &asked) {
                    self.leave(pid, asked.key);
                    return self.refuse(pid, &asked, &stale);
                }
                self.serve(pid, &asked, serving.epoch, serving.update);
            }
            Judgement::Refuse(stale) => {
                self.leave(pid, asked.key);
                self.refuse(pid, &asked, &stale);
            }
            Judgement::Wait => {
                self.leave(pid, asked.key);
                let (request, until) = (asked.request, asked.until);
                self.instances.get_mut(&pid).unwrap().waiting.push(asked);
                self.at_local(pid, until, move |world| {
                    let waiting = &mut world.instances.get_mut(&pid).unwrap().waiting;
                    let Some(at) = waiting.iter().position(|asked| asked.request == request) else { return };
                    let asked = waiting.remove(at);
                    world.admit(pid, asked);
                });
            }
        }
    }

    /// The application's part of a key that moves item by item: some have gone to the target already.
    fn gone_already(&mut self, pid: Pid, asked: &Asked) -> Option<Stale> {
        let stamp = asked.stamp.as_ref().filter(|stamp| stamp.ask.is_none())?;
        if self.plan.keys[asked.key].kind != Kind::Moving || self.rng.bool() {
            return None;
        }
        let table = self.table(pid)?;
        let Entry::Route(route, _) = table.entry(&self.request_key(&table, asked.key)?) else { return None };
        let State::Moving(target) = route.state else { return None };
        Some(Stale {
            state: StaleState::Ask,
            service: None,
            key: stamp.key.as_deref().map(<[u8]>::to_vec),
            owner: table.upstream_name(target).map(ToString::to_string),
            epoch: Some(stamp.epoch),
            revision: Some(table.revision()),
            table: Some(table.id().as_str().to_owned()),
        })
    }

    fn serve(&mut self, pid: Pid, asked: &Asked, epoch: u64, update: Option<Update>) {
        let instance = self.instances.get_mut(&pid).unwrap();
        instance.executions += 1;
        let execution = instance.executions;
        instance.running.insert(execution, asked.key);
        let upstream = instance.upstream.clone();
        self.seen(Seen::Began { pid, upstream, execution, request: asked.request, key: asked.key, epoch });
        self.watch_for_its_end(pid);
        let takes = match self.rng.u32(0..1000) {
            // As long as a lease that is not renewed leaves them.
            0..30 if self.plan.stops && !self.is_calm => self.micros(500_000, 6_000_000),
            0..30 => self.micros(50_000, 400_000),
            30..36 => self.micros(500_000, 1_500_000),
            _ => self.micros(100, 20_000),
        };
        let headers = update.iter().map(|update| (UPDATE_HEADER, update.to_value())).collect();
        let answer = Answer { status: 200, headers };
        // Some begin to answer before all is done.
        let is_streamed = self.chance(10);
        if is_streamed {
            self.reply(pid, asked, answer.clone());
        }
        let asked = asked.clone();
        self.within(pid, takes, move |world| {
            if world.instances.get_mut(&pid).unwrap().running.remove(&execution).is_none() {
                return;
            }
            world.seen(Seen::Ended { pid, execution });
            world.leave(pid, asked.key);
            if !is_streamed {
                world.reply(pid, &asked, answer);
            }
        });
    }

    fn refuse(&mut self, pid: Pid, asked: &Asked, stale: &Stale) {
        self.seen(Seen::Refused { pid, request: asked.request, state: stale.state, claim: stale.owner.clone().zip(stale.epoch) });
        let headers = vec![(STALE_HEADER, stale.to_value())];
        self.reply(pid, asked, Answer { status: 421, headers });
    }

    fn reply(&mut self, pid: Pid, asked: &Asked, answer: Answer) {
        let request = asked.request;
        match asked.proxy {
            Some((proxy, attempt)) => {
                self.send(Peer::Process(pid), Peer::Process(proxy), move |world| world.answered(proxy, request, attempt, &answer));
            }
            None => self.send(Peer::Process(pid), Peer::Clients, move |world| world.client_answered(request, answer.status, None)),
        }
    }

    pub(crate) fn leave(&mut self, pid: Pid, key: usize) {
        let key = self.ledger_key(key);
        if self.instances.get_mut(&pid).unwrap().ledger.leave(&key) {
            self.announce_soon(pid);
        }
    }

    fn ledger_key(&self, key: usize) -> Key {
        let key = &self.plan.keys[key];
        (key.service.into(), key.name.as_bytes().into())
    }

    /// A false owner answers, mostly with something that is not so.
    fn lie(&mut self, pid: Pid, asked: &Asked) -> bool {
        let Some(stamp) = asked.stamp.clone() else { return false };
        let names = ["f", "g", "a", "b", "nobody", "10.0.9.9:1", "c"];
        let owner = names[self.rng.usize(..names.len())].to_owned();
        let more = [1, 1, 1, 2, 1000, 1_000_000][self.rng.usize(..6)];
        let table = self.table(pid).map(|table| table.id().as_str().to_owned());
        let mut stale = Stale {
            state: StaleState::Moved,
            service: self.rng.bool().then(|| stamp.service.to_string()),
            key: stamp.key.as_deref().map(<[u8]>::to_vec),
            owner: Some(owner),
            epoch: Some(stamp.epoch + more),
            revision: Some([stamp.revision, stamp.revision + 1, stamp.revision + 1000, 1][self.rng.usize(..4)]),
            table,
        };
        match self.rng.u32(0..14) {
            0 => stale.key = Some(b"h0".to_vec()),
            1 => stale.service = Some("billing".to_owned()),
            2 => stale.epoch = Some(stamp.epoch.saturating_sub(1)),
            3 => stale.table = Some("c0ffee-7".to_owned()),
            4 => stale.state = [StaleState::Behind, StaleState::Handoff, StaleState::Ask][self.rng.usize(..3)],
            5 => (stale.owner, stale.epoch) = (None, None),
            6 => {
                let Stale { key, owner, epoch, revision, table, .. } = stale;
                let update = Update { key, owner, epoch, revision, table };
                self.reply(pid, asked, Answer { status: 200, headers: vec![(UPDATE_HEADER, update.to_value())] });
                return true;
            }
            7 => {
                self.reply(pid, asked, Answer { status: 200, headers: Vec::new() });
                return true;
            }
            _ => {}
        }
        self.seen(Seen::Lied { pid, request: asked.request, claim: stale.owner.clone().zip(stale.epoch) });
        self.refuse(pid, asked, &stale);
        true
    }
}
