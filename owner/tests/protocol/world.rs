//! What happens when, in virtual time: one seed, one course of events. Processes that are paused hear nothing until they go on, dead ones
//! nothing any more; their clocks run at rates of their own. Between all of them is a network that delays, loses and parts.

use std::{
    cell::RefCell,
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    rc::Rc,
    time::Duration,
};

use fastrand::Rng;
use waypost_policy::Moment;

use crate::{
    client::Clients,
    history::{History, Seen},
    mover::Movers,
    owner::Instance,
    plan::Plan,
    proxy::Proxy,
    store::Store,
};

/// A process's number; one that is started anew gets another.
pub(crate) type Pid = usize;

/// Who speaks with whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Peer {
    Store,
    Clients,
    Process(Pid),
}

/// What a process is, to the network.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Process {
    pub(crate) is_alive: bool,
    paused_until: Moment,
    /// Its clock: where it began, and how many of its nanoseconds pass in a thousand.
    origin: Moment,
    rate: u64,
}

type Act = Box<dyn FnOnce(&mut World)>;

pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) now: Moment,
    pub(crate) plan: Plan,
    pub(crate) store: Store,
    pub(crate) processes: Vec<Process>,
    pub(crate) proxies: BTreeMap<Pid, Proxy>,
    pub(crate) instances: BTreeMap<Pid, Instance>,
    pub(crate) movers: Movers,
    pub(crate) clients: Clients,
    pub(crate) history: History,
    /// From here on nothing breaks any more.
    pub(crate) is_calm: bool,
    /// From here on nothing may be wrong any more.
    pub(crate) all_well_from: Moment,
    due: BinaryHeap<Reverse<(Moment, u64)>>,
    acts: BTreeMap<u64, (Option<Pid>, Act)>,
    numbers: u64,
    /// Until when two can't reach one another.
    parted: BTreeMap<(Peer, Peer), Moment>,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        Self {
            plan: Plan::draw(&mut rng),
            rng,
            now: Moment::default(),
            store: Store::new(),
            processes: Vec::new(),
            proxies: BTreeMap::new(),
            instances: BTreeMap::new(),
            movers: Movers::default(),
            clients: Clients::default(),
            history: History::default(),
            is_calm: false,
            all_well_from: Moment::from_nanos(u64::MAX),
            due: BinaryHeap::new(),
            acts: BTreeMap::new(),
            numbers: 0,
            parted: BTreeMap::new(),
        }
    }

    /// Lets things happen until this moment.
    pub(crate) fn run_until(&mut self, end: Moment) {
        while let Some(Reverse((at, number))) = self.due.peek().copied()
            && at <= end
        {
            self.due.pop();
            self.now = self.now.max(at);
            let Some((to, act)) = self.acts.remove(&number) else { continue };
            match to.map(|pid| self.processes[pid]) {
                Some(process) if !process.is_alive => {}
                Some(process) if process.paused_until > self.now => {
                    // Under its number: what came first is heard first.
                    self.due.push(Reverse((process.paused_until, number)));
                    self.acts.insert(number, (to, act));
                }
                _ => act(self),
            }
        }
        self.now = self.now.max(end);
    }

    // Time.

    /// Does something later, whatever becomes of any process.
    pub(crate) fn later(&mut self, by: Duration, act: impl FnOnce(&mut Self) + 'static) {
        self.put(self.now + by, None, Box::new(act));
    }

    /// A process does something later, if it lives.
    pub(crate) fn within(&mut self, pid: Pid, by: Duration, act: impl FnOnce(&mut Self) + 'static) {
        self.put(self.now + by, Some(pid), Box::new(act));
    }

    /// A process's timer, by its own clock.
    pub(crate) fn at_local(&mut self, pid: Pid, at: Moment, act: impl FnOnce(&mut Self) + 'static) {
        let left = at.since(self.local(pid));
        let by = left.mul_f64(1000.0 / self.processes[pid].rate as f64);
        // A timer never fires early, whatever is rounded.
        self.within(pid, by + Duration::from_nanos(u64::from(!left.is_zero()) * 10), act);
    }

    /// What a process's clock shows.
    pub(crate) fn local(&self, pid: Pid) -> Moment {
        let Process { origin, rate, .. } = self.processes[pid];
        let passed = self.now.as_nanos() / 1000 * rate + self.now.as_nanos() % 1000 * rate / 1000;
        origin + Duration::from_nanos(passed)
    }

    fn put(&mut self, at: Moment, to: Option<Pid>, act: Act) {
        self.numbers += 1;
        self.due.push(Reverse((at, self.numbers)));
        self.acts.insert(self.numbers, (to, act));
    }

    // Chance.

    pub(crate) fn micros(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_micros(self.rng.u64(from..=to))
    }

    /// Whether something that only faulty courses have happens, in so many of a thousand cases.
    pub(crate) fn fault(&mut self, per_mille: u32) -> bool {
        self.plan.is_faulty && !self.is_calm && self.rng.u32(0..1000) < per_mille
    }

    /// One of two that is.
    pub(crate) fn chance(&mut self, percent: u32) -> bool {
        self.rng.u32(0..100) < percent
    }

    // Processes.

    pub(crate) fn start_process(&mut self) -> Pid {
        let is_skewed = self.plan.is_faulty && self.rng.bool();
        let rate = if is_skewed { self.rng.u64(900..=1100) } else { 1000 };
        let origin = Moment::from_nanos(self.rng.u64(0..1_000_000_000_000));
        self.processes.push(Process { is_alive: true, paused_until: Moment::default(), origin, rate });
        self.processes.len() - 1
    }

    pub(crate) fn is_alive(&self, pid: Pid) -> bool {
        self.processes[pid].is_alive
    }

    pub(crate) fn kill(&mut self, pid: Pid) {
        self.processes[pid].is_alive = false;
        self.seen(Seen::Killed { pid });
    }

    pub(crate) fn pause(&mut self, pid: Pid, by: Duration) {
        let until = self.now + by;
        self.processes[pid].paused_until = self.processes[pid].paused_until.max(until);
        self.seen(Seen::Paused { pid, by });
    }

    // The network.

    /// Nothing gets through between two for a while.
    pub(crate) fn part(&mut self, one: Peer, other: Peer, by: Duration) {
        let until = self.now + by;
        self.parted.insert((one.min(other), one.max(other)), until);
        self.seen(Seen::Parted { one, other, by });
    }

    pub(crate) fn parted_until(&self, one: Peer, other: Peer) -> Option<Moment> {
        self.parted.get(&(one.min(other), one.max(other))).copied().filter(|until| *until > self.now)
    }

    /// A message: when it arrives, if it does. What meets a partition is sent again until it gets through, or lost.
    pub(crate) fn send(&mut self, from: Peer, to: Peer, act: impl FnOnce(&mut Self) + 'static) {
        let waits = self.parted_until(from, to).map_or(Duration::ZERO, |until| until.since(self.now));
        if (!waits.is_zero() && self.rng.bool()) || self.fault(3) {
            return;
        }
        let slow = if self.fault(10) { self.micros(0, 300_000) } else { Duration::ZERO };
        let by = waits + slow + self.micros(50, 1200);
        match to {
            Peer::Process(pid) => self.within(pid, by, act),
            _ => self.later(by, act),
        }
    }

    /// A process asks the store something, and waits no longer than `limit` for the answer.
    pub(crate) fn call<R: 'static>(
        &mut self,
        pid: Pid,
        limit: Duration,
        ask: impl FnOnce(&mut Self) -> R + 'static,
        then: impl FnOnce(&mut Self, Option<R>) + 'static,
    ) {
        type Then<R> = Box<dyn FnOnce(&mut World, Option<R>)>;
        let then: Rc<RefCell<Option<Then<R>>>> = Rc::new(RefCell::new(Some(Box::new(then))));
        let (answered, too_late) = (Rc::clone(&then), then);
        let ends = self.local(pid) + limit;
        self.at_local(pid, ends, move |world| {
            let then = too_late.borrow_mut().take();
            if let Some(then) = then {
                then(world, None);
            }
        });
        self.send(Peer::Process(pid), Peer::Store, move |world| {
            let answer = ask(world);
            world.send(Peer::Store, Peer::Process(pid), move |world| {
                let then = answered.borrow_mut().take();
                if let Some(then) = then {
                    then(world, Some(answer));
                }
            });
        });
    }

    // What is seen.

    pub(crate) fn seen(&mut self, seen: Seen) {
        self.history.push(self.now, seen);
    }
}
