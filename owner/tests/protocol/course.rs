//! A course from beginning to end: what is put and moved, what breaks, and what must have come of it once nothing breaks any more.

use std::time::Duration;

use waypost_policy::Moment;

use crate::{
    client::{BodyKind, Wanted},
    history::Seen,
    mover::known,
    plan::Kind,
    world::{Peer, Pid, World},
};

/// When requests begin to come: everything has started by then.
const BEGINS: Duration = Duration::from_millis(400);
/// Between two moves of one key, at least, while nothing breaks.
const MOVES_APART: Duration = Duration::from_millis(1800);
/// After the trouble: when what is left frozen is given back, when everything is asked for once more, and when the course ends.
const GIVEN_BACK_AFTER: Duration = Duration::from_secs(8);
const ASKED_AFTER: Duration = Duration::from_secs(75);
const ENDS_AFTER: Duration = Duration::from_secs(95);

impl World {
    /// All that happens.
    pub(crate) fn run(&mut self) {
        let records = self.plan.records(&mut self.rng);
        for (record, value) in records {
            self.store.put(&record, Some(&value), None);
        }
        let upstreams: Vec<(&str, usize, bool)> = self.plan.upstreams.iter().map(|it| (it.name, it.instances, it.is_false)).collect();
        for (name, instances, is_false) in upstreams {
            for number in 0..instances {
                self.start_instance(name, number, is_false);
            }
        }
        for lag in self.plan.lags.clone() {
            self.start_proxy(lag);
        }
        self.later(BEGINS, World::requests_come);
        for key in 0..self.plan.keys.len() {
            // A record is moved under its first key.
            let is_first = (0..key).all(|before| self.plan.keys[before].record != self.plan.keys[key].record);
            let at = BEGINS + self.micros(0, 3_000_000);
            match self.plan.keys[key].kind {
                Kind::HandedOver if is_first => self.later(at, move |world| world.moves(key)),
                Kind::Put => self.later(at, move |world| world.puts(key)),
                Kind::Moving => self.later(at, move |world| world.moves_by_item(key)),
                _ => {}
            }
        }
        if self.plan.has_storm {
            self.later(self.plan.length / 2, World::storm);
        }
        self.later(BEGINS, World::trouble);
        let calm_at = Moment::default() + BEGINS + self.plan.length;
        self.run_until(calm_at);
        self.is_calm = true;
        self.clients.are_done = true;
        self.run_until(calm_at + GIVEN_BACK_AFTER);
        self.give_back_all();
        self.run_until(calm_at + ASKED_AFTER);
        self.ask_for_all();
        self.run_until(calm_at + ENDS_AFTER);
    }

    // What people do.

    fn moves(&mut self, key: usize) {
        if self.is_calm {
            return;
        }
        let names = self.plan.true_upstreams();
        let to = names[self.rng.usize(..names.len())];
        let owner = self.owner_of(key);
        if owner.as_deref() != Some(to) && (self.plan.is_faulty || !self.is_being_moved(key)) {
            self.move_key(key, to);
        } else if self.plan.is_faulty && self.chance(15) && !self.is_being_moved(key) {
            self.abort(key);
        }
        let pause = if self.plan.is_faulty { self.micros(100_000, 2_500_000) } else { MOVES_APART + self.micros(0, 1_500_000) };
        self.later(pause, move |world| world.moves(key));
    }

    fn owner_of(&self, key: usize) -> Option<String> {
        self.store.get(&self.plan.keys[key].record).map(|stored| known(&stored).route.owner.to_string())
    }

    /// Somebody writes the record as it pleases: another owner, frozen for a moment, deleted and made anew.
    fn puts(&mut self, key: usize) {
        let record = self.plan.keys[key].record.clone();
        let names = self.plan.true_upstreams();
        let owner = names[self.rng.usize(..names.len())];
        let before = self.store.get(&record).map(|stored| known(&stored));
        let has_epoch = before.as_ref().and_then(|before| before.route.epoch);
        let next = before.as_ref().map_or(String::new(), |_| has_epoch.map_or(String::new(), |epoch| format!(r#","epoch":{}"#, epoch + 1)));
        let state = before.as_ref().map(|before| before.route.state == waypost_conf::RouteState::Serving);
        if self.is_calm && state != Some(false) {
            return;
        }
        let value = match self.rng.u32(0..10) {
            0 if before.is_some() && (self.plan.is_faulty || self.plan.are_close()) => None,
            // What is frozen is thawed soon; its owner and epoch stay.
            1 | 2 if state == Some(true) => {
                let epoch = has_epoch.map_or(String::new(), |epoch| format!(r#","epoch":{epoch}"#));
                Some(format!(r#"{{"owner":"{}"{epoch},"state":"frozen"}}"#, before.as_ref().unwrap().route.owner))
            }
            _ => Some(format!(r#"{{"owner":"{owner}"{next}}}"#)),
        };
        let is_frozen = value.as_ref().is_some_and(|value| value.contains("frozen"));
        self.write(key, value);
        let pause = match is_frozen {
            true if !self.plan.is_faulty => self.micros(5000, 300_000),
            true => self.micros(5000, 1_500_000),
            false => Duration::from_millis(if self.plan.is_faulty { 50 } else { 1000 }) + self.micros(0, 2_000_000),
        };
        self.later(pause, move |world| world.puts(key));
    }

    /// An application moves a key item by item: `moving`, then the new owner.
    fn moves_by_item(&mut self, key: usize) {
        if self.is_calm {
            return;
        }
        let Some(before) = self.store.get(&self.plan.keys[key].record).map(|stored| known(&stored)) else { return };
        let owner = before.route.owner.to_string();
        let epoch = |more: u64| before.route.epoch.map_or(String::new(), |epoch| format!(r#","epoch":{}"#, epoch + more));
        let value = match &before.route.state {
            waypost_conf::RouteState::Moving { target } => format!(r#"{{"owner":"{target}"{}}}"#, epoch(1)),
            _ => {
                let names: Vec<&str> = self.plan.true_upstreams().into_iter().filter(|name| *name != owner).collect();
                let target = names[self.rng.usize(..names.len())];
                format!(r#"{{"owner":"{owner}"{},"state":"moving","target":"{target}"}}"#, epoch(0))
            }
        };
        self.write(key, Some(value));
        let pause = self.micros(700_000, 2_000_000);
        self.later(pause, move |world| world.moves_by_item(key));
    }

    fn write(&mut self, key: usize, value: Option<String>) {
        let record = self.plan.keys[key].record.clone();
        self.store.put(&record, value.as_deref(), None);
        self.seen(Seen::Put { key, value });
        self.written();
    }

    /// The owner of very many keys goes, and all of them are asked for.
    fn storm(&mut self) {
        let dying = self.living_instances(|upstream| upstream == "a");
        for pid in &dying {
            self.kill_instance(*pid, Duration::from_millis(1500));
        }
        let proxy = self.proxies.keys().copied().find(|pid| self.is_alive(*pid));
        let crowd: Vec<usize> = (0..self.plan.keys.len()).filter(|key| self.plan.keys[*key].kind == Kind::Crowd).collect();
        for key in crowd {
            for _ in 0..2 {
                self.ask_for(Wanted { key, method: "POST", body: BodyKind::None }, proxy);
            }
        }
    }

    // What breaks.

    fn trouble(&mut self) {
        if !self.plan.is_faulty || self.is_calm {
            return;
        }
        let instances = self.living_instances(|_| true);
        let proxies: Vec<Pid> = self.proxies.keys().copied().filter(|pid| self.is_alive(*pid)).collect();
        let movers: Vec<Pid> =
            self.movers.by_pid.iter().filter(|(pid, mover)| !mover.has_ended && self.is_alive(**pid)).map(|(pid, _)| *pid).collect();
        let all: Vec<Pid> = instances.iter().chain(&proxies).chain(&movers).copied().collect();
        let any = |rng: &mut fastrand::Rng, of: &[Pid]| rng.choice(of).copied();
        if self.plan.stops && self.chance(15) {
            // The store is away from one for longer than its lease lasts.
            let by = self.micros(5_000_000, 20_000_000);
            if let Some(pid) = any(&mut self.rng, &instances) {
                self.part(Peer::Store, Peer::Process(pid), by);
            }
        }
        let by = if self.chance(30) { self.micros(500_000, 4_000_000) } else { self.micros(1000, 500_000) };
        match self.rng.u32(0..100) {
            0..25 => {
                let stops = self.plan.stops;
                let is_unsafe = |pid: &Pid| stops && instances.contains(pid);
                if let Some(pid) = any(&mut self.rng, &all).filter(|pid| !is_unsafe(pid)) {
                    self.pause(pid, by);
                }
            }
            25..45 => {
                if let Some(pid) = any(&mut self.rng, &all) {
                    self.part(Peer::Store, Peer::Process(pid), by);
                }
            }
            45..60 => {
                if let (Some(one), Some(other)) = (any(&mut self.rng, &proxies), any(&mut self.rng, &instances)) {
                    self.part(Peer::Process(one), Peer::Process(other), by);
                }
            }
            60..75 => {
                if let Some(pid) = any(&mut self.rng, &all).filter(|pid| !movers.contains(pid)) {
                    self.cut_watch(pid);
                }
            }
            75..85 => {
                if let Some(pid) = any(&mut self.rng, &instances) {
                    let again = self.micros(50_000, 2_000_000);
                    self.kill_instance(pid, again);
                }
            }
            85..90 => {
                if let Some(pid) = any(&mut self.rng, &proxies) {
                    self.kill_proxy(pid);
                }
            }
            _ => {
                let back = self.rng.u64(0..6);
                self.store.compact(self.store.revision().saturating_sub(back));
            }
        }
        let pause = self.micros(20_000, 900_000);
        self.later(pause, World::trouble);
    }

    fn living_instances(&self, wanted: impl Fn(&str) -> bool) -> Vec<Pid> {
        let living = self.instances.iter().filter(|(pid, instance)| self.is_alive(**pid) && wanted(&instance.upstream));
        living.map(|(pid, _)| *pid).collect()
    }

    fn kill_instance(&mut self, pid: Pid, again: Duration) {
        self.kill(pid);
        let instance = &self.instances[&pid];
        let (upstream, address, is_false) = (instance.upstream.clone(), instance.address.clone(), instance.is_false());
        let number: usize = address.trim_end_matches(":80").rsplit('.').next().unwrap().parse().unwrap();
        self.connections_break(&address);
        self.later(again, move |world| {
            world.start_instance(&upstream, number, is_false);
        });
    }

    fn kill_proxy(&mut self, pid: Pid) {
        self.kill(pid);
        self.clients_break(pid);
        let lag = self.proxies[&pid].lag;
        let again = self.micros(10_000, 500_000);
        self.later(again, move |world| {
            world.start_proxy(lag);
        });
    }

    // The end.

    /// What a dead mover has left frozen is given back by a person, if not by its owner before.
    fn give_back_all(&mut self) {
        for key in 0..self.plan.keys.len() {
            match self.plan.keys[key].kind {
                Kind::HandedOver if !self.is_being_moved(key) => self.abort(key),
                Kind::Put => {
                    let owner = self.plan.true_upstreams()[0];
                    let record = self.plan.keys[key].record.clone();
                    let before = self.store.get(&record).map(|stored| known(&stored));
                    let epoch =
                        before.and_then(|before| before.route.epoch).map_or(String::new(), |epoch| format!(r#","epoch":{}"#, epoch + 1));
                    self.write(key, Some(format!(r#"{{"owner":"{owner}"{epoch}}}"#)));
                }
                _ => {}
            }
        }
    }

    /// Everybody asks for everything once more: all is well by now.
    fn ask_for_all(&mut self) {
        self.all_well_from = self.now;
        let proxies: Vec<Pid> = self.proxies.keys().copied().filter(|pid| self.is_alive(*pid)).collect();
        for proxy in proxies {
            for key in 0..self.plan.keys.len() {
                self.ask_for(Wanted { key, method: "POST", body: BodyKind::Small }, Some(proxy));
            }
        }
    }
}
